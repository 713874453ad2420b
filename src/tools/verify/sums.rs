//! What `_SHA256SUMS` of a day's folder says, against the files.
//!
//! Owns reading the sums and hashing. The recorder rewrites them while it seals and prunes, so
//! what seems wrong is looked at again in the sums as they are then. A listed file that is missing
//! is no finding where it was pruned.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Report;
use crate::storage::{StorageFile, open_regular};
use crate::tape::name::{Form, SegmentName};
use crate::tape::reader::{SegmentFile, Tape};

/// The sums file's name.
const SUMS_FILE: &str = "_SHA256SUMS";
/// A line of it is at most so long: 64 digits, two spaces, a name of 255 bytes and LF, and some.
const LINE_BYTES_MAX: u64 = 512;
/// Bytes beyond this are not read: some 50000 lines, a segment every other second of a day. So much
/// twice, as names in memory, is what a hostile file can cost.
const SUMS_BYTES_MAX: u64 = 8 << 20;
/// So many lines that are none are told of; past them, more of the same tells nothing.
const WRONG_MAX: usize = 100;
/// No file system has longer names.
const NAME_BYTES_MAX: usize = 255;
/// Bytes hashed at once.
const HASH_BYTES: usize = 64 << 10;
/// So much of a file stays in the page cache until its lines are read, right after; the rest of a
/// large one is read from the disk again rather than fill a container's memory.
const CACHED_BYTES: u64 = 16 << 20;
/// Beyond that the page cache is dropped each time so many bytes were read.
const DROP_BYTES: u64 = 1 << 20;

/// The sums of the folder that is looked at, kept from one segment to the next.
#[derive(Default)]
pub(super) struct Sums {
    folder: Option<Listed>,
}

/// A SHA-256.
type Sum = [u8; 32];
/// Device, inode, length, and time of the last change in seconds and nanoseconds.
type Version = (u64, u64, u64, i64, i64);

/// One folder's sums file as it was read.
struct Listed {
    folder: PathBuf,
    /// Which file was read: the recorder never changes it, it puts another one in its place.
    version: Option<Version>,
    /// Sum and number of the line, by name; `None` where there is no sums file.
    sums: Option<BTreeMap<Box<str>, (Sum, usize)>>,
    /// Lines that are none, and why.
    wrong: Vec<(usize, String)>,
}

impl Sums {
    /// A sealed segment must be listed, with the sum that it has.
    pub(super) fn check(&mut self, file: &SegmentFile, report: &mut Report<'_>) -> io::Result<()> {
        let is_sealed = match file.form() {
            Form::Open | Form::Plain => false,
            Form::Gzip | Form::Zstd => true,
        };
        let Some(name) = file.name().filter(|_| is_sealed) else { return Ok(()) };
        let (path, folder) = (file.path(), file.folder());
        let file_name = name.file(file.form());
        if self.folder.as_ref().is_none_or(|listed| listed.folder != folder) {
            // Never two of them in memory.
            self.folder = None;
            self.folder = Some(Listed::read(folder)?);
        }
        let mut listed = self.folder.as_ref().and_then(|listed| listed.sum(&file_name));
        if listed.is_none() {
            // It may have been sealed since the sums were read.
            let before = self.folder.take().filter(Listed::is_current);
            let now = self.folder.insert(match before {
                Some(listed) => listed,
                None => Listed::read(folder)?,
            });
            listed = now.sum(&file_name);
            let is_day =
                std::fs::canonicalize(folder).is_ok_and(|path| super::is_day_folder(&path));
            let is_expected = now.sums.is_some() || is_day;
            // Sealing lists a file after its rename and before the plain one goes.
            let plain = folder.join(name.file(Form::Plain));
            // Pruning takes it off the list after the file is gone.
            let stays = path.try_exists().unwrap_or(true);
            if listed.is_none() && is_expected && !plain.exists() && stays {
                return report.finding(&path, &format!("sealed, but not listed in {SUMS_FILE}"));
            }
        }
        let Some(listed) = listed else { return Ok(()) };
        compare(&path, &listed, report)
    }
}

/// Checks what is listed beside the segments of `tape`, the first of which has the number `first`:
/// each line of the sums and each file.
pub(super) fn check_rest(
    folder: &Path,
    tape: &Tape,
    first: Option<u64>,
    report: &mut Report<'_>,
) -> io::Result<()> {
    let listed = Listed::read(folder)?;
    let Some(sums) = listed.sums else { return Ok(()) };
    let path = folder.join(SUMS_FILE);
    for (line, why) in &listed.wrong {
        report.finding(&path, &format!("line {line}: {why}"))?;
    }
    let mut missing = Vec::new();
    let own = tape.segments.iter().filter(|segment| segment.folder() == folder);
    let checked: HashSet<PathBuf> = own.map(SegmentFile::path).collect();
    for (name, (sum, line)) in sums {
        let file = folder.join(&*name);
        if checked.contains(&file) {
            continue;
        }
        // A link counts as the thing that it is.
        if file.symlink_metadata().is_ok() {
            compare(&file, &sum, report)?;
            if let Ok(file) = open(&file) {
                file.drop_cache(0, 0);
            }
        } else if !is_pruned(&name, tape, first) {
            missing.push((name, line));
        }
    }
    let now = if missing.is_empty() { None } else { Some(Listed::read(folder)?) };
    for (name, line) in missing {
        if now.as_ref().and_then(|now| now.sum(&name)).is_some() {
            report.finding(&path, &format!("line {line}: lists {name}, which is missing"))?;
        }
    }
    report.end_file(&path).map(|_| ())
}

/// Whether it is a segment before the first one of the tape: pruning removes files before it takes
/// them off the list, and a crash may have come in between.
fn is_pruned(name: &str, tape: &Tape, first: Option<u64>) -> bool {
    let Some((name, _)) = SegmentName::parse(name) else { return false };
    tape.is_whole
        && name.feed.as_str() == tape.feed
        && first.is_some_and(|first| name.number < first)
}

impl Listed {
    fn read(folder: &Path) -> io::Result<Listed> {
        let (version, sums) = (None, None);
        let mut listed = Listed { folder: folder.to_path_buf(), version, sums, wrong: Vec::new() };
        let mut reader = match open(&folder.join(SUMS_FILE)) {
            Ok(file) => {
                listed.version = file.metadata().ok().map(|meta| version_of(&meta));
                BufReader::new(file.take(SUMS_BYTES_MAX))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(listed),
            Err(e) => {
                listed.wrong.push((0, format!("can't be opened: {e}")));
                listed.sums = Some(BTreeMap::new());
                return Ok(listed);
            }
        };
        let mut sums = BTreeMap::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let result = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let wrong = match result {
                Ok(0) => break,
                Ok(_) => parse(&line).and_then(|(sum, name)| {
                    let before = sums.insert(Box::from(name), (sum, number));
                    before.map_or(Ok(()), |_| Err(format!("lists {name} twice")))
                }),
                Err(e) => Err(format!("can't be read: {e}")),
            };
            if let Err(why) = wrong {
                listed.wrong.push((number, why));
                if listed.wrong.len() > WRONG_MAX {
                    break;
                }
            }
        }
        if reader.get_ref().limit() == 0 {
            let why = format!("longer than {SUMS_BYTES_MAX} bytes, the rest is not read");
            listed.wrong.push((sums.len(), why));
        }
        listed.sums = Some(sums);
        Ok(listed)
    }

    fn sum(&self, name: &str) -> Option<Sum> {
        self.sums.as_ref()?.get(name).map(|(sum, _)| *sum)
    }

    /// Whether the same file is still there.
    fn is_current(&self) -> bool {
        let now = self.folder.join(SUMS_FILE).symlink_metadata();
        self.version.is_some() && now.ok().map(|meta| version_of(&meta)) == self.version
    }
}

fn version_of(meta: &Metadata) -> Version {
    (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// One line as `sha256sum` writes it: 64 digits, a space, a space or `*`, the name.
fn parse(line: &[u8]) -> Result<(Sum, &str), String> {
    let wrong = || format!("\"{}\" is no sum and name", line.trim_ascii_end().escape_ascii());
    let text = std::str::from_utf8(line).ok().and_then(|text| text.strip_suffix('\n'));
    let (digits, name) = text.and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    let name = name.strip_prefix([' ', '*']).ok_or_else(wrong)?;
    let is_name = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains('/');
    match parse_sum(digits).filter(|_| is_name) {
        Some(sum) => Ok((sum, name)),
        None => Err(wrong()),
    }
}

/// 64 hex digits in lower case.
fn parse_sum(digits: &str) -> Option<Sum> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let mut sum = [0; 32];
    if pairs.len() != sum.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in sum.iter_mut().zip(pairs) {
        let digit = |digit: &u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(sum)
}

fn hex(sum: &Sum) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compare(path: &Path, listed: &Sum, report: &mut Report<'_>) -> io::Result<()> {
    match hash(path) {
        Ok(found) if found == *listed => Ok(()),
        Ok(found) => {
            let (found, listed) = (hex(&found), hex(listed));
            report.finding(path, &format!("sha256 is {found}, {SUMS_FILE} says {listed}"))
        }
        // Pruned or re-sealed since.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => report.finding(path, &format!("can't be read to compare its sha256: {e}")),
    }
}

fn open(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true))
}

fn hash(path: &Path) -> io::Result<Sum> {
    let mut file = open(path)?;
    let mut hasher = Sha256::new();
    let mut buf = vec![0; HASH_BYTES];
    let (mut offset, mut dropped) = (0, CACHED_BYTES);
    loop {
        match file.read(&mut buf) {
            Ok(0) => break,
            Ok(bytes) => {
                hasher.update(&buf[..bytes]);
                offset += bytes as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if offset >= dropped + DROP_BYTES {
            file.drop_cache(CACHED_BYTES, offset - CACHED_BYTES);
            dropped = offset;
        }
    }
    Ok(hasher.finalize().into())
}
