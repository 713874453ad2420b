//! How much of some files stands in the page cache.
//!
//! Owns the question to the kernel: `cachestat` (since 6.5), else `mincore` on a mapping that is
//! never read. Neither brings a page into the cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::descriptors::page_bytes;

/// The same number on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;
/// `mincore` is asked about so many bytes at a time.
const MAPPED_BYTES_MAX: u64 = 256 << 20;
/// Folders below the given one that are looked into: feed, date.
const DEPTH_MAX: usize = 2;

/// What stands in the page cache of some files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cached {
    /// Files that were looked at.
    pub files: u64,
    /// Their bytes in the cache.
    pub bytes: u64,
    /// Of them, not on the disk yet; none where the kernel can't tell.
    pub dirty: Option<u64>,
    /// Files that could not be asked about.
    pub failed: u64,
    /// The limit of files or of time was met before all were looked at.
    pub is_partial: bool,
}

/// Sums up the files of a folder and of the folders two levels below it; links are not followed.
/// Looks at no more than `files_max` files, the newest names first, and not beyond `until`.
pub fn of_folder(folder: &Path, files_max: usize, until: Instant) -> Cached {
    let mut cached = Cached { dirty: Some(0), ..Cached::default() };
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let (inner, files) = entries(&folder);
        for path in files.iter().rev() {
            if cached.files as usize >= files_max || Instant::now() >= until {
                cached.is_partial = true;
                return cached;
            }
            cached.add(path);
        }
        if depth < DEPTH_MAX {
            folders.extend(inner.into_iter().map(|path| (path, depth + 1)));
        }
    }
    cached
}

/// The folders in a folder, and the files, each sorted by name.
fn entries(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(entry.path()),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    folders.sort();
    files.sort();
    (folders, files)
}

impl Cached {
    fn add(&mut self, path: &Path) {
        self.files += 1;
        match ask(path) {
            Ok((bytes, dirty)) => {
                self.bytes += bytes;
                self.dirty = self.dirty.zip(dirty).map(|(sum, dirty)| sum + dirty);
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// Bytes of a file in the cache, and of them dirty ones where the kernel can tell.
fn ask(path: &Path) -> io::Result<(u64, Option<u64>)> {
    // A FIFO that took the file's place is not waited for.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match cachestat(&file) {
        Ok((pages, dirty)) => Ok((pages * page_bytes(), Some(dirty * page_bytes()))),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            mincore(&file).map(|bytes| (bytes, None))
        }
        Err(error) => Err(error),
    }
}

/// Pages of a file in the cache, and dirty ones.
fn cachestat(file: &File) -> io::Result<(u64, u64)> {
    // `struct cachestat_range`: from the start, to the end.
    let range = [0u64; 2];
    // `struct cachestat`: cached, dirty, in writeback, evicted, evicted lately.
    let mut pages = [0u64; 5];
    // SAFETY: both arrays have the size and the alignment of the structures that the call reads
    // and writes.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0)
    };
    if result == 0 { Ok((pages[0], pages[1])) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of a file in the cache.
fn mincore(file: &File) -> io::Result<u64> {
    let (length, page) = (file.metadata()?.len(), page_bytes());
    let (mut at, mut pages) = (0, 0u64);
    while at < length {
        let bytes = (length - at).min(MAPPED_BYTES_MAX) as usize;
        let mut flags = vec![0u8; bytes.div_ceil(page as usize)];
        // SAFETY: a new mapping of an open file, of which nothing is read; `flags` has a byte for
        // each of its pages; it is unmapped before it goes.
        let result = unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                at.cast_signed(),
            );
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let result = libc::mincore(start, bytes, flags.as_mut_ptr());
            let error = io::Error::last_os_error();
            libc::munmap(start, bytes);
            if result == 0 { Ok(()) } else { Err(error) }
        };
        result?;
        pages += flags.iter().filter(|flags| **flags & 1 == 1).count() as u64;
        at += bytes as u64;
    }
    Ok(pages * page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_was_just_written_is_cached() {
        let dir = tempfile::tempdir().unwrap();
        let day = dir.path().join("feed=f/date=2026-01-01");
        std::fs::create_dir_all(day.join("deeper")).unwrap();
        std::fs::write(day.join("a.tape"), vec![1; 1 << 20]).unwrap();
        std::fs::write(day.join("b.tape.open"), vec![1; 100]).unwrap();
        std::fs::write(day.join("deeper/c"), vec![1; 1 << 20]).unwrap();
        std::fs::write(dir.path().join("feedtape.lock"), "").unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", day.join("link")).unwrap();
        let cached = of_folder(dir.path(), 100, soon());
        assert_eq!((cached.files, cached.failed, cached.is_partial), (3, 0, false));
        assert_eq!(cached.bytes, (1 << 20) + page_bytes());
        let part = of_folder(dir.path(), 2, soon());
        assert_eq!((part.files, part.is_partial), (2, true));
        assert!(of_folder(dir.path(), 100, Instant::now()).is_partial);
        assert_eq!(of_folder(&dir.path().join("none"), 1, soon()).files, 0);
        // The older way says the same.
        let file = File::open(day.join("a.tape")).unwrap();
        assert_eq!(mincore(&file).unwrap(), 1 << 20);
    }
}
