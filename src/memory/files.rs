//! Reading the kernel's small text files: bounded, and forgiving.
//!
//! Owns the bound on what is read of one file, and the forms in which the kernel writes numbers.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most that is read of one file, in bytes: room for the mounts of a host with thousands of
/// containers, and for the mappings of a process that has reached the kernel's limit of them.
const FILE_BYTES_MAX: u64 = 64 << 20;
const KIB: u64 = 1 << 10;

/// The text of a file of /proc or of a cgroup; what is no UTF-8 is replaced.
///
/// # Errors
/// It can't be read, or is larger than 64 MiB.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// A file that holds one number; none where it says `max` or anything else.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    read_text(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a text of lines `key number`.
pub(super) fn number_of(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The number after `key:` in a text of lines `key: number`.
pub(super) fn count_of(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
}

/// The size in bytes after `key:` in a text of lines `key: number kB`.
pub(super) fn size_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| size(line.strip_prefix(key)?.strip_prefix(':')?))
}

/// Bytes of what the kernel writes as ` 12 kB`.
pub(super) fn size(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_forms() {
        let text = "cache 12\ncache_old 13\nRss:   4 kB\nRssX: 9 kB\nThreads:\t7\nbroken\nlast";
        assert_eq!(number_of(text, "cache"), Some(12));
        assert_eq!(number_of(text, "ca"), None);
        assert_eq!(number_of(text, "last"), None);
        assert_eq!(size_of(text, "Rss"), Some(4096));
        assert_eq!(size_of(text, "Threads"), None);
        assert_eq!(count_of(text, "Threads"), Some(7));
        for wrong in ["", "kB", "12", "-1 kB", "18446744073709551615 kB", "1.5 kB", "12 MB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn files_are_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"12\xff\n").unwrap();
        assert_eq!(read_text(&path).unwrap(), "12\u{fffd}\n");
        assert_eq!(read_number(&path), None);
        std::fs::write(&path, b"17\n").unwrap();
        assert_eq!(read_number(&path), Some(17));
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_number(&dir.path().join("none")), None);
    }
}
