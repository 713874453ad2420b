//! The lock on a recording's folder: who holds it may write there.
//!
//! Owns the file's name and what is said to who comes second. It is held for as long as the file
//! is open (flock), so that a crash leaves no lock behind.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// In the recording's folder.
pub const NAME: &str = "feedtape.lock";

/// A recorder that was just killed holds its lock until its process is gone: it is waited for.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// So often it is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Locks the folder of a recording, which is made where it is not there. Waits up to 2 s for a
/// process that holds the lock.
///
/// # Errors
/// Another process holds the lock, or the folder can't be used.
pub fn lock_or_make(out: &Path) -> anyhow::Result<File> {
    let until = Instant::now() + WAIT_MAX;
    lock_patiently(out, &mut || {
        thread::sleep(LOOK_EVERY);
        Instant::now() < until
    })
}

/// The same; `wait` waits before each further attempt, or says that it was the last.
fn lock_patiently(out: &Path, wait: &mut dyn FnMut() -> bool) -> anyhow::Result<File> {
    let shown = out.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(out)
        .with_context(|| format!("can't make the folder '{shown}'"))?;
    loop {
        if let Some(lock) = lock(out)? {
            return Ok(lock);
        }
        if !wait() {
            bail!(
                "'{shown}' is in use by another recorder, which holds '{}'; give this one its own \
                 --out",
                out.join(NAME).display()
            )
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A restart right after `kill -9` failed while the killed process was still on its way out.
    #[test]
    fn a_process_that_is_going_is_waited_for_and_one_that_stays_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut going = lock(folder.path()).unwrap();
        assert!(going.is_some());
        let mut stays = 3;
        let mut wait = || {
            stays -= 1;
            stays > 0
        };
        let error = lock_patiently(folder.path(), &mut wait).unwrap_err().to_string();
        assert!(error.contains("is in use by another recorder"), "{error}");
        assert_eq!(stays, 0);
        lock_patiently(folder.path(), &mut || going.take().is_some()).unwrap();
    }
}
