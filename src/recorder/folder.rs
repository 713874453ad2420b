//! The recording's folder: made, locked, and watched.
//!
//! Owns the lock that keeps a second recorder out, and notices that the folder was moved or
//! deleted. Writes nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::lock;
use anyhow::{Context, anyhow};

/// It is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// `stat` needs little.
pub(crate) const STACK_BYTES: usize = 64 << 10;

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
        let file = Arc::new(lock::lock_or_make(out)?);
        Ok(FolderLock { file, path: out.join(lock::NAME) })
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
