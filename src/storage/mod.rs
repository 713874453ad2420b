//! The file operations that a recording needs, behind one small trait.
//!
//! Owns the real disk ([`Disk`]); the in-memory disk of the tests is the other implementation. All
//! paths are relative to the recording's folder. Decides nothing: which operation follows which
//! is for the writer, the syncer, the sealer and recovery.

#[cfg(test)]
pub mod memory;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, PosixFadviseAdvice, RenameFlags, posix_fadvise, renameat2};

/// Folders are made with this mode.
const DIR_MODE: u32 = 0o750;
/// Files are made with this mode.
const FILE_MODE: u32 = 0o640;

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the folder. Names that are not UTF-8 are none of ours and left out.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A folder full of tapes, on a disk that may fail.
pub trait Storage: Send + Sync {
    /// Makes the folder and those above it; those that are there are fine.
    fn create_dirs(&self, folder: &Path) -> io::Result<()>;
    /// Makes a new file, for appending and reading. Fails where the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file that is there, for reading, appending, cutting and syncing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Renames; fails with `AlreadyExists` where `to` is taken (RENAME_NOREPLACE).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames over what may be there.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder; fails with `DirectoryNotEmpty` where anything is in it.
    fn remove_dir(&self, folder: &Path) -> io::Result<()>;
    /// Length of a file in bytes, which is not opened for that.
    fn bytes_of(&self, path: &Path) -> io::Result<u64>;
    /// Makes names in the folder durable: creations, renames, removals.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;
    /// What the folder holds, sorted by name.
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>>;
    /// Bytes that an unprivileged process may still write.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Shared between threads: one appends, another syncs.
pub trait StorageFile: Send + Sync {
    /// Writes at the end; like write(2) it may take less than all of `bytes`.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// As [`StorageFile::append`], of several pieces at once: one system call, and larger pieces
    /// for the file system. This one takes the first piece; who can do better, does.
    fn append_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let first = pieces.iter().find(|piece| !piece.is_empty());
        self.append(first.map_or(&[], |piece| piece))
    }
    /// Reads at `offset`; 0 is the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Makes the file's bytes durable (fdatasync). After an error, what was not durable before is
    /// lost for all one can know: don't try again.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Asks the kernel to forget cached pages of a range that is synced (0 bytes: to the end).
    /// Advice only: never fails, does nothing to dirty pages.
    fn drop_cache(&self, offset: u64, bytes: u64);
}

/// Appends to a [`StorageFile`], for `BufWriter` and other users of `Write`.
pub struct Appender(pub Arc<dyn StorageFile>);

impl io::Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a [`StorageFile`] from the start to the end.
pub struct Cursor {
    file: Arc<dyn StorageFile>,
    offset: u64,
}

impl Cursor {
    /// Starts at the first byte.
    pub fn new(file: Arc<dyn StorageFile>) -> Cursor {
        Cursor { file, offset: 0 }
    }
}

impl io::Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(self.offset, buf)?;
        self.offset += bytes as u64;
        Ok(bytes)
    }
}

/// The real disk.
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Paths will be relative to `root`.
    pub fn new(root: &Path) -> Disk {
        Disk { root: root.to_path_buf() }
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

impl Storage for Disk {
    fn create_dirs(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(self.full(folder))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(self.full(path))?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).append(true).open(self.full(path))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.full(from), self.full(to));
        match renameat2(AT_FDCWD, &from, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE) {
            // File systems without the flag (some network ones): the lock keeps other recorders
            // out, so a look beforehand serves.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
                if to.try_exists()? {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                std::fs::rename(from, to)
            }
            other => other.map_err(io::Error::from),
        }
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(self.full(from), self.full(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.full(path))
    }

    fn remove_dir(&self, folder: &Path) -> io::Result<()> {
        std::fs::remove_dir(self.full(folder))
    }

    fn bytes_of(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(self.full(path))?.len())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        File::open(self.full(folder))?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.full(folder))? {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

impl StorageFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, bytes)
    }

    fn append_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        io::Write::write_vectored(&mut &*self, pieces)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn drop_cache(&self, offset: u64, bytes: u64) {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // Advice: where the file system knows nothing of it, the cache just stays.
        let _ = posix_fadvise(self.as_fd(), offset as i64, bytes as i64, advice);
    }
}
