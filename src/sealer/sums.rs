//! `_SHA256SUMS`: the checksums of a day's sealed segments.
//!
//! Owns the file's format, which is that of `sha256sum`: a line `<64 hex digits>  <file name>`
//! each, sorted by name, no name twice. A segment is sealed once it is listed here. The file is
//! never changed in place: a new one replaces it, so that a crash leaves the old or the new one.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::create_anew;
use crate::storage::{Appender, Cursor, Storage, StorageFile};

/// Name of the file, in the folder of the day.
pub const FILE: &str = "_SHA256SUMS";
/// The new file until it replaces the old one.
pub(super) const TMP: &str = "_SHA256SUMS.tmp";
/// Longer lines are not ours: 64 digits, two spaces, 255 bytes of name and a line end are 322.
const LINE_BYTES_MAX: u64 = 512;
/// Buffer for reading and for writing.
const BUFFER_BYTES: usize = 8 << 10;

/// Takes a line (without its LF) apart: hex digits and file name; `None` where it is neither.
pub fn parse(line: &[u8]) -> Option<(&str, &str)> {
    let (digits, name) = std::str::from_utf8(line).ok()?.split_at_checked(64)?;
    // `sha256sum -b` marks a name with an asterisk.
    let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *"))?;
    let valid = digits.bytes().all(|b| b.is_ascii_hexdigit()) && !name.is_empty();
    valid.then_some((digits, name))
}

/// Lists `name` with its `sha256`, in place of what was listed for it. Lines that can't be
/// understood stay as they are. The new file is synced; the folder is not.
///
/// # Errors
/// Those of the disk; the old file is still there then.
pub(super) fn list(
    storage: &dyn Storage,
    folder: &Path,
    name: &str,
    sha256: &str,
) -> io::Result<()> {
    debug_assert_eq!(sha256.len(), 64);
    replace(storage, folder, |out| {
        let mut listed = false;
        // The old lines are sorted: the new one stands among them.
        copy_lines(storage, folder, out, &mut |other, out| {
            if !listed && other >= name {
                writeln!(out, "{sha256}  {name}")?;
                listed = true;
            }
            Ok(other != name)
        })?;
        if !listed {
            writeln!(out, "{sha256}  {name}")?;
        }
        Ok(())
    })
}

/// Takes the names that `goes` tells off the list; a list that is empty then is removed. Lines that
/// can't be understood stay. True: something was changed, and the folder is to be synced.
///
/// # Errors
/// Those of the disk; the old file is still there then.
pub(super) fn unlist(
    storage: &dyn Storage,
    folder: &Path,
    goes: &dyn Fn(&str) -> bool,
) -> io::Result<bool> {
    let mut any_goes = false;
    let mut rest = Rest { bytes: 0 };
    copy_lines(storage, folder, &mut rest, &mut |name, _| {
        any_goes |= goes(name);
        Ok(!goes(name))
    })?;
    if !any_goes {
        return Ok(false);
    }
    if rest.bytes == 0 {
        storage.remove(&folder.join(FILE))?;
    } else {
        replace(storage, folder, |out| {
            copy_lines(storage, folder, out, &mut |name, _| Ok(!goes(name)))
        })?;
    }
    Ok(true)
}

/// Counts what would be written.
struct Rest {
    bytes: u64,
}

impl Write for Rest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts a new file, which `fill` writes, in place of the old one. It is synced; the folder is not.
fn replace(
    storage: &dyn Storage,
    folder: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let tmp = folder.join(TMP);
    let done = create_anew(storage, &tmp).and_then(|new| {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, Appender(new.clone()));
        fill(&mut out)?;
        out.flush()?;
        new.sync()?;
        storage.replace(&tmp, &folder.join(FILE))
    });
    if done.is_err() {
        // The first error is the one to tell; the next attempt removes what is left.
        let _ = storage.remove(&tmp);
    }
    done
}

/// Copies the old file's lines, in order; of those that list a name `keep` tells whether they stay,
/// and may write others before them.
fn copy_lines(
    storage: &dyn Storage,
    folder: &Path,
    out: &mut dyn Write,
    keep: &mut dyn FnMut(&str, &mut dyn Write) -> io::Result<bool>,
) -> io::Result<()> {
    let Some(old) = open(storage, folder)? else { return Ok(()) };
    let mut old = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(old));
    let mut within_line = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        if old.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        // What stands beside a part of a long line is no line of ours.
        let known = if within_line { None } else { parse(line.trim_ascii_end()) };
        if let Some((_, name)) = known
            && !keep(name, out)?
        {
            continue;
        }
        out.write_all(&line)?;
        within_line = !line.ends_with(b"\n");
    }
    if within_line {
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn open(storage: &dyn Storage, folder: &Path) -> io::Result<Option<Arc<dyn StorageFile>>> {
    match storage.open(&folder.join(FILE)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryDisk;

    fn sum(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn line(digit: char, name: &str) -> String {
        format!("{}  {name}\n", sum(digit))
    }

    #[test]
    fn lines_are_taken_apart() {
        let a = sum('a');
        assert_eq!(parse(format!("{a}  x y").as_bytes()), Some((a.as_str(), "x y")));
        assert_eq!(parse(format!("{a} *x").as_bytes()), Some((a.as_str(), "x")));
        for wrong in ["", "x", &a, &format!("{a}  "), &format!("{a} x"), &format!("g{a} x")] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(parse("\u{e9}".repeat(40).as_bytes()), None);
    }

    #[test]
    fn names_are_listed_once_and_sorted() {
        let check = |old: &str, expected: String| {
            let disk = MemoryDisk::new();
            disk.put("d/x", b"");
            if !old.is_empty() {
                disk.put("d/_SHA256SUMS", old.as_bytes());
            }
            list(&disk, Path::new("d"), "m", &sum('5')).unwrap();
            let text = String::from_utf8(disk.contents("d/_SHA256SUMS").unwrap()).unwrap();
            assert_eq!(text, expected, "after {old:?}");
            assert_eq!(disk.contents("d/_SHA256SUMS.tmp"), None);
            disk.sync_dir(Path::new("d")).unwrap();
            let durable = disk.crash().contents("d/_SHA256SUMS").unwrap();
            assert_eq!(durable, text.as_bytes(), "synced");
        };
        let (a, m, z) = (line('a', "a"), line('5', "m"), line('f', "z"));
        let old_m = line('0', "m");
        check("", m.clone());
        check(&a, format!("{a}{m}"));
        check(&z, format!("{m}{z}"));
        check(&format!("{a}{z}"), format!("{a}{m}{z}"));
        check(&format!("{a}{old_m}{z}"), format!("{a}{m}{z}"));
        check(&format!("{a}{m}{z}"), format!("{a}{m}{z}"));
        check(&format!("{old_m}{old_m}"), m.clone());
        check(&format!("{z}{old_m}"), format!("{m}{z}"));
        check(a.trim_end(), format!("{a}{m}"));
        check("# by hand\n", format!("# by hand\n{m}"));
        check("cut", format!("cut\n{m}"));
        let long = format!("{}{old_m}", "#".repeat(LINE_BYTES_MAX as usize));
        check(&long, format!("{long}{m}"));
    }

    #[test]
    fn names_are_taken_off() {
        let check = |old: &str, expected: Option<String>| {
            let disk = MemoryDisk::new();
            disk.put("d/_SHA256SUMS", old.as_bytes());
            let before = disk.operations();
            let changed = unlist(&disk, Path::new("d"), &|name| name < "m").unwrap();
            let text = disk.contents("d/_SHA256SUMS").map(|text| String::from_utf8(text).unwrap());
            assert_eq!(text, expected, "after {old:?}");
            assert_eq!(changed, text.as_deref() != Some(old), "after {old:?}");
            assert_eq!(disk.contents("d/_SHA256SUMS.tmp"), None);
            if !changed {
                assert_eq!(disk.operations() - before, 3, "opened, read to the end: {old:?}");
            }
        };
        let (a, b, m, z) = (line('a', "a"), line('b', "b"), line('5', "m"), line('f', "z"));
        check(&format!("{m}{z}"), Some(format!("{m}{z}")));
        check(&format!("{a}{b}{m}{z}"), Some(format!("{m}{z}")));
        check(&format!("{a}{b}"), None);
        check(&format!("# by hand\n{a}"), Some("# by hand\n".to_string()));
        check(&format!("{m}{}", a.trim_end()), Some(m.clone()));
        assert!(!unlist(&MemoryDisk::new(), Path::new("d"), &|_| true).unwrap());
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        for n in 0.. {
            let disk = MemoryDisk::new();
            disk.put("d/_SHA256SUMS", line('a', "a").as_bytes());
            disk.put("d/_SHA256SUMS.tmp", b"left over");
            disk.fail_from(n, io::ErrorKind::StorageFull);
            let done = list(&disk, Path::new("d"), "m", &sum('5'));
            disk.clear_faults();
            if done.is_ok() {
                assert!(n > 5, "all operations were tried");
                break;
            }
            let text = disk.contents("d/_SHA256SUMS").unwrap();
            assert_eq!(text, line('a', "a").as_bytes(), "operation {n}");
            list(&disk, Path::new("d"), "m", &sum('5')).unwrap();
            let both = line('a', "a") + &line('5', "m");
            assert_eq!(disk.contents("d/_SHA256SUMS").unwrap(), both.as_bytes(), "operation {n}");
        }
    }
}
