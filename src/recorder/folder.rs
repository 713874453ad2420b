//! The recording's folder: made, locked, and watched.
//!
//! Owns the lock that keeps a second recorder out, and notices that the folder was moved or
//! deleted. Writes nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};

/// In the recording's folder; who holds the lock on it may write there.
const LOCK_NAME: &str = "feedtape.lock";
/// It is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// `stat` needs little.
const STACK_BYTES: usize = 64 << 10;

/// Holds the lock until it is dropped.
pub(super) struct FolderLock {
    file: Arc<File>,
    path: PathBuf,
}

impl FolderLock {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// It can't be used, or another recorder uses it.
    pub(super) fn take(out: &Path) -> anyhow::Result<FolderLock> {
        let file = Arc::new(lock_folder(out)?);
        Ok(FolderLock { file, path: out.join(LOCK_NAME) })
    }

    /// Calls `on_gone` once the folder is not the one that was locked. On a thread of its own: a
    /// disk that hangs may hold it up for as long as it likes. It ends when the lock is dropped.
    ///
    /// # Errors
    /// No thread to be had.
    pub(super) fn watch(&self, on_gone: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        let (file, path) = (Arc::downgrade(&self.file), self.path.clone());
        let look = move || {
            while let Some(file) = file.upgrade() {
                if is_gone(&file, &path) {
                    on_gone();
                    break;
                }
                drop(file);
                thread::sleep(LOOK_EVERY);
            }
        };
        let thread = thread::Builder::new().name("folder".to_string()).stack_size(STACK_BYTES);
        thread.spawn(look).context("can't start the thread that watches the folder")?;
        Ok(())
    }

    /// What is written to a folder that was moved or deleted is found by nobody: an error.
    pub(super) fn gone(&self) -> anyhow::Error {
        anyhow!(
            "'{}' is not the file that was locked at the start: the folder was moved or deleted \
             while it was recorded to; put it back, or start again",
            self.path.display()
        )
    }
}

fn is_gone(lock: &File, path: &Path) -> bool {
    let Ok(ours) = lock.metadata() else {
        return false;
    };
    match std::fs::metadata(path) {
        Ok(there) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn lock_folder(out: &Path) -> anyhow::Result<File> {
    try_lock(out)?.with_context(|| {
        format!(
            "'{}' is in use by another recorder, which holds '{}'; give this one its own --out",
            out.display(),
            out.join(LOCK_NAME).display()
        )
    })
}

/// Takes the lock of a recording's folder, which is made where it is not there; `None` where
/// somebody else holds it.
///
/// # Errors
/// The folder or its lock can't be made or opened.
pub fn try_lock(out: &Path) -> anyhow::Result<Option<File>> {
    let shown = out.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(out)
        .with_context(|| format!("can't make the folder '{shown}'"))?;
    let path = out.join(LOCK_NAME);
    let lock = std::fs::OpenOptions::new()
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
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock '{}'", path.display()))
        }
    }
}
