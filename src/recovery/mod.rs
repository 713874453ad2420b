//! What a start finds of earlier runs: where each feed's tape goes on, and segments left open by
//! a crash, which get their `recovered` and `end`. And, by hand only, what is damaged in finished
//! segments ([`repair`]).
//!
//! Owns reading what is on disk and finishing open segments. Overwrites nothing and deletes
//! nothing: what can't be understood is renamed `.damaged` and kept. Sealing is left to the sealer.

mod finish;
mod pieces;
pub mod repair;
mod scan;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

pub(crate) use self::finish::{append_all, put_copy};
use self::finish::{finish_one, rename_aside, set_aside};
use self::repair::Repaired;
pub(crate) use self::scan::is_whole;
pub(crate) use self::tail::read_up_to;
use self::tail::{Covered, Tail};
use crate::clock::{self, UnixNs};
use crate::storage::{Entry, EntryKind, Storage};
use crate::tape::COUNT_MAX;
use crate::tape::name::{FeedName, Form, SegmentName};

/// So many segments without a message are gone back through, from the newest one.
const SEGMENTS_LOOKED_AT_MAX: usize = 64;
/// Feeds looked at at once; each needs about a MiB of buffers.
pub const THREADS_MAX: usize = 4;

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

/// What became of an open segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// It has its `end` and its final name.
    Ended {
        /// Lines that it holds now.
        lines: u64,
        /// Bytes after the last line that was kept.
        bytes_cut: u64,
        /// Of these, how many line feeds.
        lines_cut: u64,
        /// Bytes kept that no checksum covers.
        bytes_unverified: u64,
    },
    /// Its header was gone: a new segment with all that could be saved, and gaps for the rest,
    /// stands in its place.
    Replaced {
        /// The new one.
        by: Repaired,
        /// The old one is kept under this name, relative to the recording.
        aside: PathBuf,
    },
    /// Nothing in it was a line, and nothing tells its place on the tape: it is kept under this
    /// name, relative to the recording.
    SetAside(PathBuf),
    /// It was empty and is gone.
    Removed,
}

/// Looks at what there is of `feed` and finishes what was left open.
///
/// # Errors
/// The disk can't be read or written: a sentence that names the path.
pub fn prepare(storage: &dyn Storage, feed: &FeedName) -> Result<Start, String> {
    let folder = PathBuf::from(feed.folder());
    let next = read_next(storage, &folder.join(".next")).map_err(at(&folder.join(".next")))?;
    let mut segments = find_to_finish(storage, &folder, feed)?;
    finish_found(storage, &mut segments, &|_| true, &mut |_, done| done.map(|_| ()))?;
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
            start.last_ts = Some(covered_until(storage, &segments, tail));
        }
        Ok(None) => log::warn!("'{}' can't be understood; going on without it", path.display()),
        Err(error) => log::warn!("'{}': {error}; going on without it", path.display()),
    }
    Ok(start)
}

/// The stamp from which the hole between this run and the one before counts. Mostly that of the
/// last line; where the last runs got no message, because they were killed before they were
/// connected, that of the last line before them. Where it isn't found, a moment that is rather too
/// early.
fn covered_until(storage: &dyn Storage, segments: &[(SegmentName, Form)], newest: Tail) -> UnixNs {
    let finished = segments.iter().rev().filter(|(_, form)| *form != Form::Open);
    // The newest one was read already: of a gzip'd one that is all of it.
    let mut earlier = finished.skip(1).take(SEGMENTS_LOOKED_AT_MAX - 1);
    let (mut tail, mut after) = (newest, None);
    loop {
        match tail.covered(after) {
            Covered::Until(ts) => return ts,
            Covered::Before(known) => after = known,
            Covered::Unknown => return tail.first_ts,
        }
        let before =
            earlier.next().map(|(name, form)| tail::of_segment(storage, &name.path(*form), *form));
        // What can't be read was told of before, or will be by verify.
        let Some(Ok(Some(before))) = before else { return tail.first_ts };
        tail = before;
    }
}

/// As [`prepare`], for many feeds, some at a time: most of the time each waits for the disk.
/// What comes back is in the order of `feeds`.
pub fn prepare_all(storage: &dyn Storage, feeds: &[&FeedName]) -> Vec<Result<Start, String>> {
    let share = feeds.len().div_ceil(THREADS_MAX).max(1);
    thread::scope(|scope| {
        let some = |feeds: &[&FeedName]| {
            feeds.iter().map(|feed| prepare(storage, feed)).collect::<Vec<_>>()
        };
        let threads: Vec<_> =
            feeds.chunks(share).map(|feeds| scope.spawn(move || some(feeds))).collect();
        // A panic in one is a panic of the start.
        threads.into_iter().flat_map(|thread| thread.join().expect("no thread failed")).collect()
    })
}

/// Finishes what was left open of feeds that are not recorded any more. What can't be finished is
/// logged, and tried again at the next start: it must not keep the others from being recorded.
pub fn finish_others(storage: &dyn Storage, recorded: &[&FeedName]) {
    let folders = match storage.list(Path::new("")) {
        Ok(folders) => folders,
        Err(error) => return log::error!("can't list the recording for open segments: {error}"),
    };
    for folder in folders.iter().filter(|entry| entry.kind == EntryKind::Folder) {
        let name = folder.name.strip_prefix("feed=").and_then(|name| FeedName::new(name).ok());
        let Some(feed) = name.filter(|name| !recorded.contains(&name)) else { continue };
        let mut tell = |name: &SegmentName, done: Result<Finished, String>| {
            if let Err(error) = done {
                let number = name.number;
                let feed = name.feed.as_str();
                log::error!(feed; "{}: can't finish the open segment {number}: {error}", name.feed);
            }
            Ok(())
        };
        if let Err(error) = finish_open(storage, &feed, &|_| true, &mut tell) {
            log::error!(feed = feed.as_str(); "{feed}: can't look for open segments: {error}");
        }
    }
}

/// Told of each open segment that was looked at; an error ends the work.
pub type OnFinished<'a> =
    &'a mut dyn FnMut(&SegmentName, Result<Finished, String>) -> Result<(), String>;

/// Finishes those open segments of `feed` that are `wanted`.
///
/// # Errors
/// The folders can't be listed; those of `tell`.
pub fn finish_open(
    storage: &dyn Storage,
    feed: &FeedName,
    wanted: &dyn Fn(&SegmentName) -> bool,
    tell: OnFinished<'_>,
) -> Result<(), String> {
    let folder = PathBuf::from(feed.folder());
    if !has_open(storage, &folder).map_err(at(&folder))? {
        return Ok(());
    }
    let mut segments = find_to_finish(storage, &folder, feed)?;
    finish_found(storage, &mut segments, wanted, tell)
}

/// Whether anything is open, without remembering the names of years.
fn has_open(storage: &dyn Storage, folder: &Path) -> io::Result<bool> {
    for date in storage.list(folder)?.iter().filter(|entry| is_day(entry)) {
        let files = storage.list(&folder.join(&date.name))?;
        if files.iter().any(|file| file.name.ends_with(Form::Open.ending())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finishes the open ones among `segments`, which come by number.
fn finish_found(
    storage: &dyn Storage,
    segments: &mut Vec<(SegmentName, Form)>,
    wanted: &dyn Fn(&SegmentName) -> bool,
    tell: OnFinished<'_>,
) -> Result<(), String> {
    let boot_id = clock::boot_id();
    let mut headless = Vec::new();
    // From the newest on: where the one after it begins, a segment must end.
    for n in (0..segments.len()).rev() {
        if segments[n].1 != Form::Open || !wanted(&segments[n].0) {
            continue;
        }
        let next_first = segments.get(n + 1).and_then(|(next, form)| {
            tail::first_index(storage, &next.path(*form), *form).ok().flatten()
        });
        let name = segments[n].0.clone();
        let is_newest = n + 1 == segments.len();
        let done = finish_one(storage, &name, &boot_id, next_first, is_newest);
        let Some(done) = done.transpose() else {
            headless.push(name);
            continue;
        };
        match done {
            Ok(Finished::Ended { .. }) => segments[n].1 = Form::Plain,
            // Its number is free again: a segment that never held a line is none that is missing.
            Ok(Finished::Removed) => drop(segments.remove(n)),
            Ok(Finished::Replaced { .. } | Finished::SetAside(_)) | Err(_) => {}
        }
        tell(&name, done.map_err(at(&name.path(Form::Open))))?;
    }
    // From the oldest on: where the one before it ends, a segment begins.
    for name in headless.iter().rev() {
        // A file with a name that the recorder never gave has no place.
        let of_number = segments.iter().filter(|(other, _)| other.number == name.number);
        let done = if of_number.count() == 1 {
            replace(storage, segments, name)
        } else {
            set_aside(storage, &name.path(Form::Open))
        };
        if let (Ok(Finished::Replaced { .. }), Some((_, form))) =
            (&done, segments.iter_mut().find(|(other, _)| other == name))
        {
            *form = Form::Plain;
        }
        tell(name, done.map_err(at(&name.path(Form::Open))))?;
    }
    Ok(())
}

/// Puts what can be saved of a segment without a header in its place, with gaps for the rest, so
/// that the hole in the indices is told of where it is.
fn replace(
    storage: &dyn Storage,
    segments: &[(SegmentName, Form)],
    name: &SegmentName,
) -> io::Result<Finished> {
    /// Of one of which nothing is saved: header, gap, `recovered`, `end`.
    const LINES_MIN: u64 = 4;
    let path = name.path(Form::Open);
    let mut around = repair::look_around(storage, segments, name);
    if segments.last().is_some_and(|(last, _)| last == name) {
        // What `.next` says while a segment is open is where that one begins.
        around.next_index = None;
    }
    let file = storage.open(&path)?;
    let rebuilt = match repair::rebuild(&*file, Form::Open, &around, storage) {
        Ok(rebuilt) => Some(rebuilt),
        Err(repair::RepairError::FirstIndex) => None,
        Err(repair::RepairError::Disk(error)) => return Err(error),
    };
    let Some((tmp, by)) = rebuilt else { return set_aside(storage, &path) };
    if segments.len() == 1 && by.lines <= LINES_MIN {
        storage.remove(&tmp)?;
        return set_aside(storage, &path);
    }
    storage.rename(&tmp, &name.path(Form::Plain))?;
    let aside = rename_aside(storage, &path)?;
    storage.sync_dir(&name.folder())?;
    log::error!(
        feed = name.feed.as_str();
        "'{}' has lost its beginning: a segment with the {} lines that could be saved, and a gap, \
         stands in its place; it is kept as '{}'",
        path.display(),
        by.lines.saturating_sub(LINES_MIN),
        aside.display()
    );
    Ok(Finished::Replaced { by, aside })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> String {
    let path = path.to_path_buf();
    move |error| format!("'{}': {error}", path.display())
}

fn is_day(entry: &Entry) -> bool {
    entry.kind == EntryKind::Folder && entry.name.starts_with("date=")
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
        // A link or FIFO: the next one takes its place.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            log::warn!("'{}': {error}; counting from the segments", path.display());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut buf = [0; 128];
    let bytes = read_up_to(&*file, 0, &mut buf)?;
    let next = serde_json::from_slice(&buf[..bytes]).ok();
    let next = next.filter(|next: &Next| next.segment <= COUNT_MAX && next.index <= COUNT_MAX);
    if next.is_none() {
        log::warn!("'{}' can't be understood; counting from the segments", path.display());
    }
    Ok(next)
}

/// What there is of a feed.
#[derive(Default)]
struct Found {
    /// Its segments by number, each in the best form there is.
    segments: Vec<(SegmentName, Form)>,
    /// Those that stand there open, too.
    doubled: Vec<SegmentName>,
}

/// The feed's segments, each in one form: a start may have been cut off when it had put a new
/// segment in the place of an open one without a beginning, which is set aside now.
fn find_to_finish(
    storage: &dyn Storage,
    folder: &Path,
    feed: &FeedName,
) -> Result<Vec<(SegmentName, Form)>, String> {
    let found = find_segments(storage, folder, feed).map_err(at(folder))?;
    for name in &found.doubled {
        let path = name.path(Form::Open);
        rename_aside(storage, &path).map_err(at(&path))?;
    }
    Ok(found.segments)
}

/// The feed's segments.
fn find_segments(storage: &dyn Storage, folder: &Path, feed: &FeedName) -> io::Result<Found> {
    let mut doubled = Vec::new();
    let mut found: BTreeMap<SegmentName, Form> = BTreeMap::new();
    let dates = match storage.list(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(error),
    };
    for date in dates.iter().filter(|entry| entry.name.starts_with("date=")) {
        let date_folder = folder.join(&date.name);
        if date.kind != EntryKind::Folder {
            log::warn!("'{}' is no folder (a link is none): passed over", date_folder.display());
            continue;
        }
        for entry in storage.list(&date_folder)? {
            let Some((name, form)) = SegmentName::parse(&entry.name) else {
                continue;
            };
            if name.feed != *feed || name.date_folder() != date.name {
                continue;
            }
            if entry.kind != EntryKind::File {
                let path = date_folder.join(&entry.name);
                log::warn!("'{}' is no file (a link is none): passed over", path.display());
                continue;
            }
            let best = found.entry(name.clone()).or_insert(form);
            if *best != form && (form == Form::Open || *best == Form::Open) {
                doubled.push(name);
            }
            *best = form.max(*best);
        }
    }
    // By number: names of one feed may carry stamps that went back.
    let mut segments: Vec<(SegmentName, Form)> = found.into_iter().collect();
    segments.sort_by_key(|(name, _)| name.number);
    Ok(Found { segments, doubled })
}
