//! What a start finds of earlier runs: where each feed's tape goes on, and segments left open by
//! a crash, which get their `recovered` and `end`.
//!
//! Owns reading what is on disk and finishing open segments. Overwrites nothing and deletes
//! nothing: what can't be understood is renamed `.damaged` and kept. Sealing is left to the sealer.

mod tail;

use std::io;
use std::path::{Path, PathBuf};

use crate::clock::{self, UnixNs};
use crate::storage::{Storage, StorageFile};
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Line, Stamp, TS_DIGITS};
use crate::tape::name::{FeedName, Form, SegmentName};

/// Pieces in which open segments are read.
const READ_BYTES: usize = 256 << 10;
/// Longest header: it is an event line.
const HEADER_BYTES_MAX: usize = crate::tape::EVENT_LINE_BYTES_MAX;

/// Where a feed's tape goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Number of the next segment.
    pub next_number: u64,
    /// Index of its header.
    pub next_index: u64,
    /// Stamp of the last line on the tape, where it is known.
    pub last_ts: Option<UnixNs>,
    /// Whether there was a tape.
    pub had_tape: bool,
}

/// Looks at what there is of `feed` and finishes what was left open.
///
/// # Errors
/// The disk can't be read or written: a sentence that names the path.
pub fn prepare(storage: &dyn Storage, feed: &FeedName) -> Result<Start, String> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error: io::Error| format!("'{}': {error}", path.display())
    };
    let folder = PathBuf::from(feed.folder());
    let next = read_next(storage, &folder.join(".next")).map_err(at(&folder.join(".next")))?;
    let mut segments = find_segments(storage, &folder, feed).map_err(at(&folder))?;
    segments.sort();
    for (name, form) in &mut segments {
        if *form == Form::Open {
            let path = name.path(Form::Open);
            *form = finish_open(storage, name).map_err(at(&path))?;
        }
    }
    let mut start = Start {
        next_number: next.map_or(0, |next| next.segment),
        next_index: next.map_or(0, |next| next.index),
        last_ts: None,
        had_tape: next.is_some() || !segments.is_empty(),
    };
    let Some((newest, form)) = segments.last() else {
        return Ok(start);
    };
    start.next_number = start.next_number.max(newest.number + 1);
    let path = newest.path(*form);
    match tail::of_segment(storage, &path, *form) {
        Ok(Some(tail)) => {
            start.next_index = start.next_index.max(tail.next_index);
            start.last_ts = Some(tail.last_ts);
        }
        Ok(None) => log::warn!("'{}' can't be understood; going on without it", path.display()),
        Err(error) => log::warn!("'{}': {error}; going on without it", path.display()),
    }
    Ok(start)
}

#[derive(Debug, Clone, Copy, serde::Deserialize)]
struct Next {
    segment: u64,
    index: u64,
}

fn read_next(storage: &dyn Storage, path: &Path) -> io::Result<Option<Next>> {
    let file = match storage.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut buf = [0; 128];
    let bytes = tail::read_up_to(&*file, 0, &mut buf)?;
    let next = serde_json::from_slice(&buf[..bytes]).ok();
    if next.is_none() {
        log::warn!("'{}' can't be understood; counting from the segments", path.display());
    }
    Ok(next)
}

/// The feed's segments, each in the best form there is.
fn find_segments(
    storage: &dyn Storage,
    folder: &Path,
    feed: &FeedName,
) -> io::Result<Vec<(SegmentName, Form)>> {
    let mut found: Vec<(SegmentName, Form)> = Vec::new();
    let dates = match storage.list(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for date in dates.iter().filter(|entry| entry.is_dir && entry.name.starts_with("date=")) {
        for entry in storage.list(&folder.join(&date.name))? {
            let Some((name, form)) = SegmentName::parse(&entry.name) else {
                continue;
            };
            if name.feed != *feed || name.date_folder() != date.name {
                continue;
            }
            match found.iter_mut().find(|(other, _)| *other == name) {
                Some((_, best)) => *best = (*best).max(form),
                None => found.push((name, form)),
            }
        }
    }
    // By number: names of one feed may carry stamps that went back.
    found.sort_by_key(|(name, _)| name.number);
    Ok(found)
}

/// What an open segment holds.
#[derive(Debug, Default)]
struct Scan {
    /// Whole lines from the start, and where they end.
    lines: u64,
    valid_bytes: u64,
    /// Of the bytes since the last mark's line.
    crc: u32,
    last_ts: UnixNs,
    ended: bool,
    has_header: bool,
}

/// Cuts an open segment to its whole lines, ends it, and gives it its final name.
fn finish_open(storage: &dyn Storage, name: &SegmentName) -> io::Result<Form> {
    let path = name.path(Form::Open);
    let file = storage.open(&path)?;
    let bytes = file.bytes()?;
    let mut scan = scan(&*file)?;
    if !scan.has_header {
        let damaged = PathBuf::from(format!("{}.damaged", path.display()));
        log::error!("'{}' can't be understood; kept as '{}'", path.display(), damaged.display());
        storage.rename(&path, &damaged)?;
        return Ok(Form::Open);
    }
    let bytes_cut = bytes - scan.valid_bytes;
    if bytes_cut > 0 {
        file.truncate(scan.valid_bytes)?;
    }
    if !scan.ended {
        let at = clock::wall_now();
        append(&*file, &mut scan, &Event::Recovered { bytes_cut, bytes_unverified: 0, at })?;
        let crc32c = Crc32c(scan.crc);
        let counts = Counts { lines: scan.lines, bytes: scan.valid_bytes, crc32c };
        append(&*file, &mut scan, &Event::End(counts))?;
    }
    file.sync()?;
    let finished = name.path(Form::Plain);
    storage.rename(&path, &finished)?;
    storage.sync_dir(&name.folder())?;
    log::warn!(
        "recovered '{}': {} lines, {bytes_cut} bytes of an incomplete line cut",
        finished.display(),
        scan.lines
    );
    Ok(Form::Plain)
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

/// Reads to the first line that is none, in little memory: of each line the stamp, the kind and
/// the LF are looked at.
fn scan(file: &dyn StorageFile) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut buf = vec![0; READ_BYTES];
    // The head of the line that a piece ended in, and the checksum of the line so far.
    let mut head: Vec<u8> = Vec::with_capacity(HEADER_BYTES_MAX);
    let (mut line_bytes, mut line_crc) = (0u64, 0u32);
    let mut offset = 0;
    loop {
        let bytes = tail::read_up_to(file, offset, &mut buf)?;
        if bytes == 0 {
            return Ok(scan);
        }
        offset += bytes as u64;
        for part in buf[..bytes].split_inclusive(|byte| *byte == b'\n') {
            let (body, whole) = match part.strip_suffix(b"\n") {
                Some(body) => (body, true),
                None => (part, false),
            };
            let room = HEADER_BYTES_MAX - head.len().min(HEADER_BYTES_MAX);
            head.extend(body.iter().take(room));
            line_crc = if line_bytes == 0 {
                crc32c::crc32c(part)
            } else {
                crc32c::crc32c_append(line_crc, part)
            };
            line_bytes += part.len() as u64;
            if !whole {
                continue;
            }
            if !take_line(&mut scan, &head, line_bytes, line_crc) {
                return Ok(scan);
            }
            head.clear();
            line_bytes = 0;
        }
    }
}

/// Counts one line; `false` where it is none.
fn take_line(scan: &mut Scan, head: &[u8], line_bytes: u64, line_crc: u32) -> bool {
    let Ok(line) = Line::parse(head) else {
        return false;
    };
    let event = &head[TS_DIGITS..];
    if scan.lines == 0 {
        scan.has_header = event.starts_with(b"!{\"event\":\"segment\",");
        if !scan.has_header {
            return false;
        }
    }
    if line.ts < scan.last_ts || scan.ended {
        return false;
    }
    if event.starts_with(b"!{\"event\":\"mark\",") {
        // From here on the next mark counts.
        scan.crc = line_crc;
    } else {
        let bytes = usize::try_from(line_bytes).unwrap_or(usize::MAX);
        scan.crc = crc32c::crc32c_combine(scan.crc, line_crc, bytes);
    }
    scan.ended = event.starts_with(b"!{\"event\":\"end\",");
    scan.lines += 1;
    scan.valid_bytes += line_bytes;
    scan.last_ts = line.ts;
    true
}
