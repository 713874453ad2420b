//! What `_SHA256SUMS` of a day's folder says, against the files.
//!
//! Owns reading the sums and hashing. The recorder rewrites them while it seals and prunes, so
//! what seems wrong is looked at again in the sums as they are then. A listed file that is missing
//! is no finding where it was pruned.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Report;
use crate::storage::StorageFile;
use crate::tape::name::{Form, SegmentName};
use crate::tape::reader::{SegmentFile, Tape};

/// The sums file's name.
const SUMS_FILE: &str = "_SHA256SUMS";
/// A line of it is at most so long: 64 digits, two spaces, a name of 255 bytes and LF, and some.
const LINE_BYTES_MAX: u64 = 512;
/// Lines beyond this are not read: more than a segment each second of a day.
const LINES_MAX: usize = 100_000;
/// Bytes hashed at once.
const HASH_BYTES: usize = 64 << 10;

/// The sums of the folder that is looked at, kept from one segment to the next.
#[derive(Default)]
pub(super) struct Sums {
    folder: Option<Listed>,
}

/// One folder's sums file as it was read.
struct Listed {
    folder: PathBuf,
    /// Digits and number of the line, by name; `None` where there is no sums file.
    sums: Option<BTreeMap<String, (String, usize)>>,
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
            self.folder = Some(Listed::read(folder)?);
        }
        let mut listed = self.folder.as_ref().and_then(|listed| listed.sum(&file_name));
        if listed.is_none() {
            // It may have been sealed since the sums were read.
            let now = self.folder.insert(Listed::read(folder)?);
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
    let Some(sums) = &listed.sums else { return Ok(()) };
    let path = folder.join(SUMS_FILE);
    for (line, why) in &listed.wrong {
        report.finding(&path, &format!("line {line}: {why}"))?;
    }
    let own = tape.segments.iter().filter(|segment| segment.folder() == folder);
    let checked: HashSet<PathBuf> = own.map(SegmentFile::path).collect();
    for (name, (digits, line)) in sums {
        let file = folder.join(name);
        if checked.contains(&file) {
            continue;
        }
        if file.try_exists().unwrap_or(true) {
            compare(&file, digits, report)?;
            if let Ok(file) = File::open(&file) {
                file.drop_cache(0, 0);
            }
        } else if !is_pruned(name, tape, first) && Listed::read(folder)?.sum(name).is_some() {
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
        let mut listed = Listed { folder: folder.to_path_buf(), sums: None, wrong: Vec::new() };
        let mut reader = match File::open(folder.join(SUMS_FILE)) {
            Ok(file) => BufReader::new(file),
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
                Ok(_) if number > LINES_MAX => Err(format!("more than {LINES_MAX} lines")),
                Ok(_) => parse(&line),
                Err(e) => Err(format!("can't be read: {e}")),
            };
            match wrong {
                Ok((digits, name)) => {
                    if sums.insert(name.clone(), (digits, number)).is_some() {
                        listed.wrong.push((number, format!("lists {name} twice")));
                    }
                }
                Err(why) => {
                    listed.wrong.push((number, why));
                    // Past the first hundred, more of the same tells nothing.
                    if number > LINES_MAX || listed.wrong.len() > 100 {
                        break;
                    }
                }
            }
        }
        listed.sums = Some(sums);
        Ok(listed)
    }

    fn sum(&self, name: &str) -> Option<String> {
        self.sums.as_ref()?.get(name).map(|(digits, _)| digits.clone())
    }
}

/// One line as `sha256sum` writes it: 64 digits, a space, a space or `*`, the name.
fn parse(line: &[u8]) -> Result<(String, String), String> {
    let wrong = || format!("\"{}\" is no sum and name", line.trim_ascii_end().escape_ascii());
    let text = std::str::from_utf8(line).ok().and_then(|text| text.strip_suffix('\n'));
    let (digits, name) = text.and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let name = name.strip_prefix([' ', '*']).ok_or_else(wrong)?;
    if digits.len() != 64 || !digits.bytes().all(hex) || name.is_empty() || name.contains('/') {
        return Err(wrong());
    }
    Ok((digits.to_string(), name.to_string()))
}

fn compare(path: &Path, listed: &str, report: &mut Report<'_>) -> io::Result<()> {
    match hash(path) {
        Ok(found) if found == listed => Ok(()),
        Ok(found) => report.finding(path, &format!("sha256 is {found}, {SUMS_FILE} says {listed}")),
        // Pruned or re-sealed since.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => report.finding(path, &format!("can't be read to compare its sha256: {e}")),
    }
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buf = vec![0; HASH_BYTES];
    loop {
        match file.read(&mut buf) {
            Ok(0) => break,
            Ok(bytes) => hasher.update(&buf[..bytes]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
