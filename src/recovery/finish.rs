//! Finishing one open segment: it is cut to its whole lines, and gets its `recovered`, its `end`
//! and its final name.
//!
//! Owns the steps, in the order in which a crash between any two leaves what the next start can go
//! on from. How far a segment is whole is in `scan`.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Finished;
use super::scan::{Scan, Trust, is_whole, scan};
use super::tail::{self, read_up_to};
use crate::clock;
use crate::storage::{Appender, Storage, StorageFile, create_anew};
use crate::tape::EVENT_LINE_BYTES_MAX;
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Stamp, TS_DIGITS};
use crate::tape::name::{Form, SegmentName};

/// So many damaged files of one name are kept beside each other.
const ASIDE_MAX: u32 = 100;
/// Bytes read at once.
const PART_BYTES: usize = 64 << 10;

/// Cuts an open segment to its whole lines, ends it, and gives it its final name. `None`: it does
/// not even have its header.
pub(super) fn finish_one(
    storage: &dyn Storage,
    name: &SegmentName,
    boot_id: &str,
    next_first: Option<u64>,
    is_newest: bool,
) -> io::Result<Option<Finished>> {
    let path = name.path(Form::Open);
    take_copy(storage, name)?;
    let file = storage.open(&path)?;
    let bytes = file.bytes()?;
    let is_same_boot = boot_of(&*file)?.is_some_and(|boot| boot == boot_id && !boot.is_empty());
    // Why has one that was ended not got its final name?
    let may_be_refused = is_same_boot
        && tail::of_segment(storage, &path, Form::Open).is_ok_and(|tail| tail.is_some());
    let trust = if !is_same_boot {
        Trust::Marked
    } else if may_be_refused && !is_whole(&*file)? {
        Trust::Refused
    } else {
        Trust::Written
    };
    let Some(mut scan) = scan(&*file, trust)? else {
        // Where others follow it held lines: a file system may keep a name and no bytes.
        if bytes > 0 || !is_newest {
            return Ok(None);
        }
        log::warn!("removed '{}': a crash left it empty", path.display());
        storage.remove(&path)?;
        return Ok(Some(Finished::Removed));
    };
    let bytes_cut = bytes - scan.valid_bytes;
    let bytes_unverified = scan.unverified_bytes;
    let mut lines_cut = 0;
    if bytes_cut > 0 {
        lines_cut = count_lines(&*file, scan.valid_bytes)?;
        // A crash of the recorder leaves the beginning of a line and nothing after it.
        if trust != Trust::Written || lines_cut > 0 {
            keep_tail(storage, &*file, name, scan.valid_bytes)?;
        }
        file.truncate(scan.valid_bytes)?;
    }
    if !scan.ended {
        let at = clock::wall_now();
        // Where only the `end` was lost, there is one index for it and none for more.
        let only_the_end = match (tail::first_index(storage, &path, Form::Open)?, next_first) {
            (Some(first), Some(next)) => first + scan.lines + 1 == next,
            _ => false,
        };
        if !only_the_end {
            append(&*file, &mut scan, &Event::Recovered { bytes_cut, bytes_unverified, at })?;
        }
        let crc32c = Crc32c(scan.crc);
        let counts = Counts { lines: scan.lines, bytes: scan.valid_bytes, crc32c };
        append(&*file, &mut scan, &Event::End(counts))?;
    }
    if may_be_refused {
        // The kernel takes for written what it could not write: a sync would say nothing.
        put_copy(storage, name, &mut |copy| append_all(&*file, 0..u64::MAX, copy))?;
    } else {
        file.sync()?;
    }
    let finished = name.path(Form::Plain);
    storage.rename(&path, &finished)?;
    // Those above too: the recorder may have been killed before it synced them.
    for folder in name.folder().ancestors() {
        storage.sync_dir(folder)?;
    }
    log::warn!(
        feed = name.feed.as_str();
        "recovered '{}' after {}: {} lines; {bytes_cut} bytes of no whole line cut, \
         {bytes_unverified} bytes not covered by a checksum kept",
        finished.display(),
        match trust {
            Trust::Written => "a crash of the recorder",
            Trust::Refused => "an error of the disk, or a crash of the recorder",
            Trust::Marked => "a crash of the machine",
        },
        scan.lines
    );
    Ok(Some(Finished::Ended { lines: scan.lines, bytes_cut, lines_cut, bytes_unverified }))
}

/// Where a segment that the disk may have refused is copied to.
fn copy_path(name: &SegmentName) -> PathBuf {
    PathBuf::from(format!("{}.tmp", name.path(Form::Open).display()))
}

/// Puts a copy that a crash cut off in the place of the open segment, if it is whole: it was made
/// because the disk had refused the segment.
fn take_copy(storage: &dyn Storage, name: &SegmentName) -> io::Result<()> {
    let path = copy_path(name);
    match storage.open(&path) {
        Ok(copy) if is_whole(&*copy)? => storage.replace(&path, &name.path(Form::Open)),
        Ok(_) => storage.remove(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a copy, which `fill` writes, in the place of an open segment that the disk may have
/// refused, and makes it durable; returns it.
///
/// # Errors
/// Those of `fill` and of the disk; then all is as it was.
pub(crate) fn put_copy(
    storage: &dyn Storage,
    name: &SegmentName,
    fill: &mut dyn FnMut(&Arc<dyn StorageFile>) -> io::Result<()>,
) -> io::Result<Arc<dyn StorageFile>> {
    let tmp = copy_path(name);
    let copy = create_anew(storage, &tmp)?;
    let done = fill(&copy)
        .and_then(|()| copy.sync())
        .and_then(|()| storage.replace(&tmp, &name.path(Form::Open)));
    if let Err(error) = done {
        // The first error is the one to tell; the next attempt makes it anew.
        let _ = storage.remove(&tmp);
        return Err(error);
    }
    Ok(copy)
}

/// Appends a range of a file, as far as it goes, to another.
pub(crate) fn append_all(
    file: &dyn StorageFile,
    range: Range<u64>,
    to: &Arc<dyn StorageFile>,
) -> io::Result<()> {
    let mut out = Appender(to.clone());
    for_each_part(file, range, &mut |part| io::Write::write_all(&mut out, part))
}

/// An open segment of which nothing is a line of the tape.
pub(super) fn set_aside(storage: &dyn Storage, path: &Path) -> io::Result<Finished> {
    let damaged = rename_aside(storage, path)?;
    log::error!("'{}' can't be understood; kept as '{}'", path.display(), damaged.display());
    Ok(Finished::SetAside(damaged))
}

/// Renames a file to the first name of its own with `.damaged`, `.damaged-2` and so on behind it
/// that is free.
pub(super) fn rename_aside(storage: &dyn Storage, path: &Path) -> io::Result<PathBuf> {
    for n in 1..=ASIDE_MAX {
        let number = if n == 1 { String::new() } else { format!("-{n}") };
        let aside = PathBuf::from(format!("{}.damaged{number}", path.display()));
        match storage.rename(path, &aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{ASIDE_MAX} damaged ones are kept beside it: move some away")))
}

/// Line feeds from `from` on.
fn count_lines(file: &dyn StorageFile, from: u64) -> io::Result<u64> {
    let mut lines = 0;
    for_each_part(file, from..u64::MAX, &mut |part| {
        lines += memchr::memchr_iter(b'\n', part).count() as u64;
        Ok(())
    })?;
    Ok(lines)
}

/// The bytes of a range, as far as the file goes, in parts.
fn for_each_part(
    file: &dyn StorageFile,
    range: Range<u64>,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = range.start;
    let mut buf = vec![0; PART_BYTES];
    while at < range.end {
        let want = usize::try_from(range.end - at).map_or(PART_BYTES, |rest| rest.min(PART_BYTES));
        let bytes = read_up_to(file, at, &mut buf[..want])?;
        if bytes == 0 {
            break;
        }
        take(&buf[..bytes])?;
        at += bytes as u64;
    }
    Ok(())
}

/// Keeps the bytes after the last line aside: after a crash of the machine they may be anything,
/// lines further on too.
fn keep_tail(
    storage: &dyn Storage,
    file: &dyn StorageFile,
    name: &SegmentName,
    from: u64,
) -> io::Result<()> {
    let path = PathBuf::from(format!("{}.tail", name.path(Form::Plain).display()));
    // Recovery may itself have been cut off before: then its copy may not be whole.
    let tail = create_anew(storage, &path)?;
    append_all(file, from..u64::MAX, &tail)?;
    tail.sync()
}

/// The boot id in the segment's header; `None` where there is none.
fn boot_of(file: &dyn StorageFile) -> io::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Header {
        boot_id: String,
    }
    let mut head = vec![0; EVENT_LINE_BYTES_MAX];
    let bytes = read_up_to(file, 0, &mut head)?;
    let line = head[..bytes].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let header = line.get(TS_DIGITS + 1..).and_then(|json| serde_json::from_slice(json).ok());
    Ok(header.map(|header: Header| header.boot_id))
}

fn append(file: &dyn StorageFile, scan: &mut Scan, event: &Event<'_>) -> io::Result<()> {
    let line = event.to_line(&Stamp::new(scan.last_ts));
    let mut done = 0;
    while done < line.len() {
        match file.append(&line[done..])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => done += bytes,
        }
    }
    scan.crc = crc32c::crc32c_append(scan.crc, &line);
    scan.lines += 1;
    scan.valid_bytes += line.len() as u64;
    Ok(())
}
