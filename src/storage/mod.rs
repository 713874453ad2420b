//! The file operations that a recording needs, behind one small trait.
//!
//! Owns the real disk ([`Disk`]); the in-memory disk of the tests is the other implementation. All
//! paths are relative to the recording's folder. Decides nothing: which operation follows which
//! is for the writer, the syncer, the sealer and recovery.
//!
//! What stands in a recording may have been put there by anybody. Only regular files are opened,
//! and links are not followed ([`open_regular`]): a link leads out of the recording, a FIFO makes
//! whoever opens it wait for ever, and a device has no end.

pub mod call;
#[cfg(test)]
pub mod memory;

use std::fs::{DirBuilder, File, FileType, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, OFlag, PosixFadviseAdvice, RenameFlags, posix_fadvise, renameat2};

use crate::units::format_size;

/// Folders are made with this mode.
const DIR_MODE: u32 = 0o750;
/// Files are made with this mode.
const FILE_MODE: u32 = 0o640;

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the folder. Names that are not UTF-8 are none of ours and left out.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A link, FIFO, socket or device: nothing that a recorder makes.
    Other,
}

impl From<FileType> for EntryKind {
    fn from(kind: FileType) -> EntryKind {
        if kind.is_dir() {
            EntryKind::Folder
        } else if kind.is_file() {
            EntryKind::File
        } else {
            EntryKind::Other
        }
    }
}

/// What becomes of the page cache of what was written, or read to be written elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageCache {
    /// It is dropped: in a container it counts as memory of the recorder.
    #[default]
    Drop,
    /// It stays, until the kernel wants the memory.
    Keep,
}

/// Opens a file that is a regular one, and no link to one.
///
/// # Errors
/// Those of opening; [`io::ErrorKind::InvalidInput`], in words, where it is something else.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Opening alone can do something to a device: so a look first, and another one at what was
    // opened.
    check_regular(std::fs::symlink_metadata(path)?.file_type())?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.custom_flags(flags.bits()).open(path)?;
    check_regular(file.metadata()?.file_type())?;
    Ok(file)
}

fn check_regular(kind: FileType) -> io::Result<()> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_symlink() {
        "a link, and links within a recording are not followed"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no file but {what}")))
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
    /// Files that may still be made (inodes); `None` where only bytes limit them.
    fn free_files(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// An error of the disk for an operator: what it means here, and what to do about it.
pub fn explain(storage: &dyn Storage, error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::StorageFull, _) => explain_full(storage, error),
        (io::ErrorKind::QuotaExceeded, _) => {
            format!("the disk quota is used up ({error}); remove something, or have it raised")
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => format!(
            "the file system is read-only ({error}); after an error the kernel makes it so: see \
             `dmesg`, check it with fsck, mount it again"
        ),
        (_, Some(libc::EIO)) => {
            format!("the disk fails ({error}); see `dmesg`, `smartctl`, its cables")
        }
        _ => error.to_string(),
    }
}

fn explain_full(storage: &dyn Storage, error: &io::Error) -> String {
    // What can't be told is left out: the error itself is what matters.
    let bytes = storage.free_bytes().map(format_size).unwrap_or_else(|_| "?".to_string());
    match storage.free_files() {
        Ok(Some(0)) => format!(
            "the disk has room for no more files: 0 inodes free, {bytes} free ({error}); remove \
             files, or make the file system with more inodes"
        ),
        Ok(_) | Err(_) => {
            format!("the disk is full: {bytes} free ({error}); remove something, or enlarge it")
        }
    }
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
    /// Makes the file's bytes durable (fdatasync). After an error the kernel takes what it could
    /// not write for written: a second sync says nothing, and these bytes are on no disk. Until
    /// they are forgotten they can be read, and written to another file.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Asks the kernel to forget cached pages of a range that is written (0 bytes: to the end).
    /// Advice only: never fails, does nothing to dirty pages, nor to pages that lie in the range in
    /// part. Several pages in a row may be kept as one: who drops a file part by part does well to
    /// begin at its start each time, which costs nothing where nothing is left. Does nothing with
    /// [`PageCache::Keep`].
    fn drop_cache(&self, offset: u64, bytes: u64);
    /// As [`StorageFile::drop_cache`] of the whole file, whatever becomes of the page cache: what
    /// is read next is what the disk holds.
    fn read_anew(&self) {
        self.drop_cache(0, 0);
    }
    /// Asks the kernel to begin writing a range, and waits for nothing. Advice only: an error of
    /// the disk is for the next [`StorageFile::sync`] to tell. Not needed where nothing is cached.
    fn start_writing(&self, _offset: u64, _bytes: u64) {}
    /// Waits until what [`StorageFile::start_writing`] began is written (0 bytes: to the end). An
    /// error is told once, here or by the next [`StorageFile::sync`].
    fn finish_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the page cache of a growing file small without waiting for the disk: with each step the
/// kernel begins to write what is new, and forgets what it was asked to write before. What it has
/// not written by then is forgotten with a later step.
#[derive(Debug, Default)]
pub struct WriteBehind {
    /// The kernel was asked to write up to here.
    begun: u64,
}

impl WriteBehind {
    /// The kernel was asked to write up to here.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Bytes of `written` that the kernel was not asked to write yet.
    pub fn behind(&self, written: u64) -> u64 {
        written.saturating_sub(self.begun)
    }

    /// The file has grown to `written` bytes.
    pub fn step(&mut self, file: &dyn StorageFile, written: u64) {
        if self.begun > 0 {
            file.drop_cache(0, self.begun);
        }
        if written > self.begun {
            file.start_writing(self.begun, written - self.begun);
            self.begun = written;
        }
    }
}

/// Makes a file, in place of one that a crash left.
///
/// # Errors
/// Those of the disk.
pub fn create_anew(storage: &dyn Storage, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
    match storage.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(path)?;
            storage.create(path)
        }
        other => other,
    }
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

    /// Starts at the byte `offset`.
    pub fn starting_at(file: Arc<dyn StorageFile>, offset: u64) -> Cursor {
        Cursor { file, offset }
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
    access: Access,
    page_cache: PageCache,
}

/// What files are opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Full,
    Reading,
}

impl Disk {
    /// Paths will be relative to `root`.
    pub fn new(root: &Path) -> Disk {
        Disk { root: root.to_path_buf(), access: Access::Full, page_cache: PageCache::Drop }
    }

    /// Files are opened to be read only, so that nothing needs to be writable.
    pub fn reading(root: &Path) -> Disk {
        Disk { access: Access::Reading, ..Disk::new(root) }
    }

    /// With another rule for the page cache of its files; it is dropped without.
    pub fn with_page_cache(self, page_cache: PageCache) -> Disk {
        Disk { page_cache, ..self }
    }

    fn file(&self, file: File) -> Arc<dyn StorageFile> {
        match self.page_cache {
            PageCache::Drop => Arc::new(file),
            PageCache::Keep => Arc::new(CachedFile(file)),
        }
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Fails where `folder`, or one above it in the recording, is a link.
    fn check_folders(&self, folder: &Path) -> io::Result<()> {
        for folder in folder.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
            let full = self.full(folder);
            let is_link = std::fs::symlink_metadata(&full).is_ok_and(|meta| meta.is_symlink());
            if is_link {
                let what = format!(
                    "the folder '{}' is a link, and links within a recording are not followed: \
                     move what it leads to here, or mount it here",
                    folder.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        }
        Ok(())
    }
}

impl Storage for Disk {
    fn create_dirs(&self, folder: &Path) -> io::Result<()> {
        let _call = call::begin();
        self.check_folders(folder)?;
        // Not the recording's own folder: where that is gone it was moved or deleted under us.
        let mut path = self.root.clone();
        for name in folder {
            path.push(name);
            match DirBuilder::new().mode(DIR_MODE).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let _call = call::begin();
        self.check_folders(path.parent().unwrap_or(path))?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(self.full(path))?;
        Ok(self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let _call = call::begin();
        self.check_folders(path.parent().unwrap_or(path))?;
        let append = self.access == Access::Full;
        let file = open_regular(&self.full(path), OpenOptions::new().read(true).append(append))?;
        Ok(self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _call = call::begin();
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
        let _call = call::begin();
        std::fs::rename(self.full(from), self.full(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let _call = call::begin();
        std::fs::remove_file(self.full(path))
    }

    fn remove_dir(&self, folder: &Path) -> io::Result<()> {
        let _call = call::begin();
        std::fs::remove_dir(self.full(folder))
    }

    fn bytes_of(&self, path: &Path) -> io::Result<u64> {
        let _call = call::begin();
        Ok(std::fs::metadata(self.full(path))?.len())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let _call = call::begin();
        File::open(self.full(folder))?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let _call = call::begin();
        self.check_folders(folder)?;
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.full(folder))? {
            let entry = entry?;
            let kind = match entry.file_type() {
                Ok(kind) => EntryKind::from(kind),
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, kind });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let _call = call::begin();
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn free_files(&self) -> io::Result<Option<u64>> {
        let _call = call::begin();
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        // Btrfs makes inodes as needed, and says that there are 0 of 0.
        Ok((stat.files() > 0).then_some(stat.files_available()))
    }
}

impl StorageFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let _call = call::begin();
        io::Write::write(&mut &*self, bytes)
    }

    fn append_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let _call = call::begin();
        io::Write::write_vectored(&mut &*self, pieces)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _call = call::begin();
        FileExt::read_at(self, buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let _call = call::begin();
        self.sync_data()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let _call = call::begin();
        self.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        let _call = call::begin();
        Ok(self.metadata()?.len())
    }

    fn drop_cache(&self, offset: u64, bytes: u64) {
        let _call = call::begin();
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // Advice: where the file system knows nothing of it, the cache just stays.
        let _ = posix_fadvise(self.as_fd(), offset as i64, bytes as i64, advice);
    }

    fn start_writing(&self, offset: u64, bytes: u64) {
        // Without waiting: then the kernel keeps an error for the next sync of the file.
        let flags = libc::SYNC_FILE_RANGE_WRITE;
        // SAFETY: the descriptor is open as long as `self` is, and no memory is passed.
        // Advice: the sync tells what could not be written.
        unsafe { libc::sync_file_range(self.as_raw_fd(), offset as i64, bytes as i64, flags) };
    }

    fn finish_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let _call = call::begin();
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
        // SAFETY: as in `start_writing`.
        let done =
            unsafe { libc::sync_file_range(self.as_raw_fd(), offset as i64, bytes as i64, flags) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).or_else(|error| match error.raw_os_error() {
                // A file system that knows nothing of it.
                Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE) => Ok(()),
                _ => Err(error),
            }),
        }
    }
}

/// A file whose page cache stays.
struct CachedFile(File);

impl StorageFile for CachedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)
    }

    fn append_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.append_vectored(pieces)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        StorageFile::read_at(&self.0, offset, buf)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        StorageFile::bytes(&self.0)
    }

    fn drop_cache(&self, _offset: u64, _bytes: u64) {}

    fn read_anew(&self) {
        self.0.read_anew();
    }
}

#[cfg(test)]
mod tests {
    use super::memory::MemoryDisk;
    use super::*;
    use std::os::unix::fs::symlink;

    /// A disk with so many bytes and inodes free.
    struct Free(u64, Option<u64>, MemoryDisk);

    impl Storage for Free {
        fn create_dirs(&self, folder: &Path) -> io::Result<()> {
            self.2.create_dirs(folder)
        }
        fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
            self.2.create(path)
        }
        fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
            self.2.open(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.2.rename(from, to)
        }
        fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.2.replace(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.2.remove(path)
        }
        fn sync_dir(&self, folder: &Path) -> io::Result<()> {
            self.2.sync_dir(folder)
        }
        fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
            self.2.list(folder)
        }
        fn remove_dir(&self, folder: &Path) -> io::Result<()> {
            self.2.remove_dir(folder)
        }
        fn bytes_of(&self, path: &Path) -> io::Result<u64> {
            self.2.bytes_of(path)
        }
        fn free_bytes(&self) -> io::Result<u64> {
            Ok(self.0)
        }
        fn free_files(&self) -> io::Result<Option<u64>> {
            Ok(self.1)
        }
    }

    #[test]
    fn errors_of_the_disk_say_what_to_do() {
        let check = |errno, bytes, files, expected: &str| {
            let disk = Free(bytes, files, MemoryDisk::new());
            let said = explain(&disk, &io::Error::from_raw_os_error(errno));
            assert!(said.contains(expected), "{errno}: {said}");
        };
        check(libc::ENOSPC, 0, Some(9), "the disk is full: 0B free (No space left on device");
        check(libc::ENOSPC, 5 << 20, Some(0), "no more files: 0 inodes free, 5MiB free (No space");
        check(libc::ENOSPC, 0, None, "the disk is full");
        check(libc::EDQUOT, 9, Some(9), "quota is used up");
        check(libc::EROFS, 9, Some(9), "read-only (Read-only file system (os error 30)); after");
        check(libc::EIO, 9, Some(9), "the disk fails (Input/output error (os error 5)); see");
        check(libc::EACCES, 9, Some(9), "Permission denied");
    }

    fn kind_of<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
        result.err().map(|error| error.kind())
    }

    /// Opening a FIFO waited for ever; a link led out of the recording.
    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        std::fs::write(outside.path().join("file"), b"outside").unwrap();
        std::fs::write(dir.path().join("file"), b"inside").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink(outside.path().join("file"), dir.path().join("link")).unwrap();
        symlink("/dev/zero", dir.path().join("endless")).unwrap();
        symlink(outside.path(), dir.path().join("away")).unwrap();

        let path = |name: &'static str| Path::new(name);
        assert_eq!(disk.open(path("file")).unwrap().bytes().unwrap(), 6);
        assert_eq!(kind_of(disk.open(path("nothing"))), Some(io::ErrorKind::NotFound));
        for name in ["folder", "fifo", "link", "endless", "away/file", "away"] {
            assert_eq!(kind_of(disk.open(path(name))), Some(io::ErrorKind::InvalidInput), "{name}");
        }
        for result in [
            kind_of(disk.create(path("away/new"))),
            kind_of(disk.create_dirs(path("away/new"))),
            kind_of(disk.list(path("away"))),
        ] {
            assert_eq!(result, Some(io::ErrorKind::InvalidInput));
        }
        let kinds: Vec<EntryKind> =
            disk.list(path("")).unwrap().into_iter().map(|entry| entry.kind).collect();
        use EntryKind::{File, Folder, Other};
        // By name: away, endless, fifo, file, folder, link.
        assert_eq!(kinds, [Other, Other, Other, File, Folder, Other]);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
