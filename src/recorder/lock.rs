//! The lock on a recording's folder: who holds it may write there.
//!
//! Owns the file's name and what is said to who comes second. It is held for as long as the file
//! is open (flock), so that a crash leaves no lock behind.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};

/// In the recording's folder.
pub const NAME: &str = "feedtape.lock";

/// Locks the folder of a recording, which is made where it is not there.
///
/// # Errors
/// Another process holds the lock, or the folder can't be used.
pub fn lock_or_make(out: &Path) -> anyhow::Result<File> {
    let shown = out.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(out)
        .with_context(|| format!("can't make the folder '{shown}'"))?;
    let Some(lock) = lock(out)? else {
        bail!(
            "'{shown}' is in use by another recorder, which holds '{}'; give this one its own \
             --out",
            out.join(NAME).display()
        )
    };
    Ok(lock)
}

/// Locks the folder of a recording that is there; `None` where another process holds the lock.
///
/// # Errors
/// The folder can't be used.
pub fn lock(out: &Path) -> anyhow::Result<Option<File>> {
    let path = out.join(NAME);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o640)
        // A FIFO or a link in its place is an error, and nothing to wait for or to follow.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .with_context(|| format!("can't open '{}'", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock '{}'", path.display()))
        }
    }
}
