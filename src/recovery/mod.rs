//! What a start finds of earlier runs: where each feed's tape goes on, and segments left open by
//! a crash, which get their `recovered` and `end`.
//!
//! Owns reading what is on disk and finishing open segments. Overwrites nothing and deletes
//! nothing: what can't be understood is renamed `.damaged` and kept. Sealing is left to the sealer.

mod scan;
mod tail;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use self::scan::{Scan, Trust, scan};
use crate::clock::{self, UnixNs};
use crate::storage::{Appender, Storage, StorageFile};
use crate::tape::EVENT_LINE_BYTES_MAX;
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Stamp, TS_DIGITS};
use crate::tape::name::{FeedName, Form, SegmentName};

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
    let boot_id = clock::boot_id();
    // From the newest on: where the one after it begins, a segment must end.
    for n in (0..segments.len()).rev().filter(|n| segments[*n].1 == Form::Open).collect::<Vec<_>>()
    {
        let next_first = segments.get(n + 1).and_then(|(next, form)| {
            tail::first_index(storage, &next.path(*form), *form).ok().flatten()
        });
        let name = segments[n].0.clone();
        let path = name.path(Form::Open);
        match finish_open(storage, &name, &boot_id, next_first).map_err(at(&path))? {
            Some(form) => segments[n].1 = form,
            // Its number is free again: a segment that never held a line is none that is missing.
            None => drop(segments.remove(n)),
        }
    }
    let mut start = Start {
        next_number: next.map_or(0, |next| next.segment),
        next_index: next.map_or(0, |next| next.index),
        last_ts: None,
        had_tape: next.is_some() || !segments.is_empty(),
    };
    if let Some((last, _)) = segments.last() {
        start.next_number = start.next_number.max(last.number + 1);
    }
    let Some((newest, form)) = segments.iter().rev().find(|(_, form)| *form != Form::Open) else {
        return Ok(start);
    };
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

/// How the newest segment of a feed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewestEnd {
    /// Stamp of its last line.
    pub(crate) last_ts: UnixNs,
    /// Whether `.next` says what comes after it, so that numbers go on where it is gone.
    pub(crate) is_in_next: bool,
}

/// Looks at the end of a feed's newest segment, which is finished; `None` where it can't be
/// understood.
///
/// # Errors
/// The disk can't be read.
pub(crate) fn newest_end(
    storage: &dyn Storage,
    name: &SegmentName,
    form: Form,
) -> io::Result<Option<NewestEnd>> {
    let Some(tail) = tail::of_segment(storage, &name.path(form), form)? else { return Ok(None) };
    let next = read_next(storage, &Path::new(&name.feed.folder()).join(".next"))?;
    let is_in_next =
        next.is_some_and(|next| next.segment > name.number && next.index >= tail.next_index);
    Ok(Some(NewestEnd { last_ts: tail.last_ts, is_in_next }))
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

/// Cuts an open segment to its whole lines, ends it, and gives it its final name; `None` where it
/// was empty and is gone.
fn finish_open(
    storage: &dyn Storage,
    name: &SegmentName,
    boot_id: &str,
    next_first: Option<u64>,
) -> io::Result<Option<Form>> {
    let path = name.path(Form::Open);
    let file = storage.open(&path)?;
    let bytes = file.bytes()?;
    let trust = match boot_of(&*file)? {
        Some(boot) if boot == boot_id && !boot_id.is_empty() => Trust::Written,
        _ => Trust::Marked,
    };
    let Some(mut scan) = scan(&*file, trust)? else {
        return set_aside(storage, &path, bytes);
    };
    let bytes_cut = bytes - scan.valid_bytes;
    let bytes_unverified = scan.unverified_bytes;
    if bytes_cut > 0 {
        if trust == Trust::Marked {
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
    file.sync()?;
    let finished = name.path(Form::Plain);
    storage.rename(&path, &finished)?;
    // Those above too: the recorder may have been killed before it synced them.
    for folder in name.folder().ancestors() {
        storage.sync_dir(folder)?;
    }
    log::warn!(
        "recovered '{}' after {}: {} lines; {bytes_cut} bytes of no whole line cut, \
         {bytes_unverified} bytes not covered by a checksum kept",
        finished.display(),
        match trust {
            Trust::Written => "a crash of the recorder",
            Trust::Marked => "a crash of the machine",
        },
        scan.lines
    );
    Ok(Some(Form::Plain))
}

/// An open segment that does not even have its header: nothing of it is a line of the tape.
fn set_aside(storage: &dyn Storage, path: &Path, bytes: u64) -> io::Result<Option<Form>> {
    if bytes == 0 {
        log::warn!("removed '{}': a crash left it empty", path.display());
        storage.remove(path)?;
        return Ok(None);
    }
    let damaged = PathBuf::from(format!("{}.damaged", path.display()));
    log::error!("'{}' can't be understood; kept as '{}'", path.display(), damaged.display());
    storage.rename(path, &damaged)?;
    Ok(Some(Form::Open))
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
    let tail = match storage.create(&path) {
        // Recovery was itself cut off before: its copy may not be whole.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(&path)?;
            storage.create(&path)?
        }
        other => other?,
    };
    let mut out = Appender(tail.clone());
    let mut at = from;
    let mut buf = vec![0; 64 << 10];
    loop {
        let bytes = tail::read_up_to(file, at, &mut buf)?;
        if bytes == 0 {
            break;
        }
        io::Write::write_all(&mut out, &buf[..bytes])?;
        at += bytes as u64;
    }
    tail.sync()
}

/// The boot id in the segment's header; `None` where there is none.
fn boot_of(file: &dyn StorageFile) -> io::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Header {
        boot_id: String,
    }
    let mut head = vec![0; EVENT_LINE_BYTES_MAX];
    let bytes = tail::read_up_to(file, 0, &mut head)?;
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
