//! Making a damaged finished segment whole again: a new file with every line that checks.
//!
//! Owns what of the damaged one counts as a line, what stands in the place of the rest, and the
//! order in which the new file takes the old one's place. Finds no damage by itself: `verify`
//! does. How bytes are read from what is damaged is in `pieces`.
//!
//! Lines of a zstd frame or gzip member whose checksum is right are kept. All others are kept up
//! to the first that is no line; what follows it only from the next mark on whose checksum is
//! right. In a plain segment only those are lost that are no lines: where a mark says that some
//! before it were changed, the others are kept, and a `recovered` event in the mark's place says
//! how many bytes no checksum covers.
//!
//! In the place of a hole stands one `gap` event; how many messages were lost can't be told, for
//! nobody knows which of the lost lines were events. How many *lines* were lost is known wherever
//! a later mark, the `end` or the next segment says how many stood before it: [`Lost`], and the
//! gap says it too. The lines
//! after a hole count on from it, so their indices are lower than they were. Where the segment has
//! fewer lines than it had, it says `recovered` before its `end`, as after a crash, and the next
//! segment's `first_index` may be higher than its last index. It never has more than it had.
//!
//! A header that is lost is made anew from the file's name and from the segments beside it; what
//! else it said is null then.

mod rebuild;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::rebuild::{Known, Rebuild};
use super::{find_segments, pieces, read_next, rename_aside, tail};
use crate::clock::UnixNs;
use crate::storage::{EntryKind, Storage, StorageFile, create_anew};
use crate::tape::name::{FeedName, Form, SegmentName};

/// Ending of the new file until it takes the old one's place.
const TMP_ENDING: &str = ".tmp";
/// Ending of the old one then.
const DAMAGED_ENDING: &str = ".damaged";

/// What is known of a segment from outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// Its name.
    pub name: SegmentName,
    /// Index of its first line, by the segment before it.
    pub first_index: Option<u64>,
    /// The first index that it may have, where the segment before it lost lines.
    pub first_index_least: Option<u64>,
    /// Stamp of the last line before it, of the segments that are there.
    pub last_ts: Option<UnixNs>,
    /// Index of the line after its last one, by the segment after it.
    pub next_index: Option<u64>,
    /// Stamp of the first line after it, of the segments that are there; by the whole second of
    /// its segment's name where its own can't be read.
    pub next_ts: Option<UnixNs>,
}

/// Lines of the damaged segment that are in the new one no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Index of the first of them.
    pub first: u64,
    /// How many; `None` where nothing tells.
    pub lines: Option<u64>,
    /// In so many places, between which others were kept.
    pub places: u64,
    /// Index after the last line of which it is known whether it was lost.
    pub until: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { first, lines, places, until } = *self;
        match lines {
            None => write!(f, "lost lines from index {first} on, how many is not known"),
            Some(1) => write!(f, "lost 1 line, index {first}"),
            Some(lines) if places <= 1 => {
                write!(f, "lost {lines} lines, index {first} to {}", first + (lines - 1))
            }
            Some(lines) => {
                let last = until.saturating_sub(1);
                write!(f, "lost {lines} lines in {places} places, between index {first} and {last}")
            }
        }
    }
}

/// What the new file is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What is not in it, at most [`LOST_MAX`] entries.
    pub lost: Vec<Lost>,
    /// Lines lost, as far as is known.
    pub lines_lost: u64,
    /// More are lost than [`Repaired::lines_lost`], nobody knows how many.
    pub is_more_lost: bool,
    /// Bytes that are kept though a checksum is wrong or missing.
    pub bytes_unverified: u64,
    /// The header was made anew.
    pub is_header_new: bool,
    /// The header is of another segment than the name.
    pub is_misnamed: bool,
    /// Its plain bytes are not those of the old one.
    pub is_changed: bool,
    /// Its lines.
    pub lines: u64,
}

impl Repaired {
    /// Whether lines are gone.
    pub fn has_lost(&self) -> bool {
        self.lines_lost > 0 || self.is_more_lost
    }
}

/// Entries of [`Repaired::lost`]; further ones are only counted.
pub const LOST_MAX: usize = 100;

/// Why there is no new file.
#[derive(Debug)]
pub enum RepairError {
    /// The disk failed.
    Disk(io::Error),
    /// The header is lost, and nothing tells the index of the first line.
    FirstIndex,
}

impl fmt::Display for RepairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepairError::Disk(error) => error.fmt(f),
            RepairError::FirstIndex => f.write_str(
                "its header is lost, and no whole segment before or after it tells its first \
                 index: put one beside it",
            ),
        }
    }
}

impl From<io::Error> for RepairError {
    fn from(error: io::Error) -> RepairError {
        RepairError::Disk(error)
    }
}

/// Looks at the segments beside `name` in the recording; what can't be read is not known.
///
/// # Errors
/// The feed's folders can't be listed.
pub fn find_around(storage: &dyn Storage, name: &SegmentName) -> io::Result<Around> {
    let folder = PathBuf::from(name.feed.folder());
    let found = find_segments(storage, &folder, &name.feed)?;
    Ok(look_around(storage, &found.segments, name))
}

/// As [`find_around`], where the feed's segments are known.
pub(super) fn look_around(
    storage: &dyn Storage,
    segments: &[(SegmentName, Form)],
    name: &SegmentName,
) -> Around {
    let mut around = alone(name);
    let folder = PathBuf::from(name.feed.folder());
    let before = segments.iter().rfind(|(other, _)| other.number < name.number);
    if let Some((before, form)) = before
        && let Ok(Some(tail)) = tail::of_segment(storage, &before.path(*form), *form)
    {
        around.last_ts = Some(tail.last_ts);
        let is_beside = before.number.checked_add(1) == Some(name.number);
        let index = is_beside.then_some(tail.next_index);
        if tail.is_least {
            around.first_index_least = index;
        } else {
            around.first_index = index.or(around.first_index);
        }
    }
    let next_number = name.number.checked_add(1);
    if let Some((after, form)) = segments.iter().find(|(other, _)| other.number > name.number) {
        let header = tail::header(storage, &after.path(*form), *form).ok().flatten();
        around.next_ts = header.map(|header| header.ts).or(after.first_second());
        let header = header.filter(|_| Some(after.number) == next_number);
        around.next_index = header.map(|header| header.first_index);
    } else {
        let next = read_next(storage, &folder.join(".next")).ok().flatten();
        let next = next.filter(|next| Some(next.segment) == next_number);
        around.next_index = next.map(|next| next.index);
    }
    around
}

/// A segment of which no neighbour is known.
pub fn alone(name: &SegmentName) -> Around {
    // The first segment of all begins with the first index of all.
    let first_index = (name.number == 0).then_some(0);
    Around {
        name: name.clone(),
        first_index,
        first_index_least: None,
        last_ts: None,
        next_index: None,
        next_ts: None,
    }
}

/// Writes every line of `damaged` that checks to a new file beside the place of the segment, and
/// syncs it; returns its path too.
///
/// # Errors
/// See [`RepairError`]; no new file is left then.
pub fn rebuild(
    damaged: &dyn StorageFile,
    form: Form,
    around: &Around,
    storage: &dyn Storage,
) -> Result<(PathBuf, Repaired), RepairError> {
    let tmp = tmp_path(&around.name);
    let file = create_anew(storage, &tmp)?;
    let done = write(damaged, form, around, &file);
    if done.is_err() {
        // The first error is the one to tell; the next attempt removes what is left.
        let _ = storage.remove(&tmp);
    }
    Ok((tmp, done?))
}

fn write(
    damaged: &dyn StorageFile,
    form: Form,
    around: &Around,
    file: &Arc<dyn StorageFile>,
) -> Result<Repaired, RepairError> {
    let mut known = Known::new(around);
    let repaired = loop {
        file.truncate(0)?;
        let mut rebuild = Rebuild::new(around, file.clone(), known);
        pieces::read(damaged, form, &mut |part| rebuild.take(part))?;
        let repaired = rebuild.finish()?;
        match rebuild.learn()? {
            Some(more) => known = more,
            None => break repaired,
        }
    };
    file.sync()?;
    Ok(repaired)
}

/// Gives the new file at `tmp` the plain name of the segment, and keeps the old one, which has
/// `form`, as `.damaged`; returns under which path. At each moment one of them has a name of the
/// segment, or [`finish_interrupted`] gives it back.
///
/// # Errors
/// Those of the disk.
pub fn take_place(
    storage: &dyn Storage,
    name: &SegmentName,
    form: Form,
    tmp: &Path,
) -> io::Result<PathBuf> {
    let plain = name.path(Form::Plain);
    let aside = match form {
        Form::Open | Form::Plain => {
            let aside = rename_aside(storage, &name.path(form))?;
            storage.rename(tmp, &plain)?;
            aside
        }
        // A plain one beside a damaged seal is what the sealer puts right at any start.
        Form::Gzip | Form::Zstd => {
            storage.rename(tmp, &plain)?;
            rename_aside(storage, &name.path(form))?
        }
    };
    storage.sync_dir(&name.folder())?;
    Ok(aside)
}

/// Gives new files their names whose old ones were set aside when [`take_place`] was interrupted.
///
/// # Errors
/// Those of the disk.
pub fn finish_interrupted(storage: &dyn Storage, feed: &FeedName) -> io::Result<()> {
    let folder = PathBuf::from(feed.folder());
    for date in storage.list(&folder)?.iter().filter(|entry| super::is_day(entry)) {
        let files = storage.list(&folder.join(&date.name))?;
        let is_there = |wanted: &str| files.iter().any(|file| file.name == wanted);
        for file in files.iter().filter(|file| file.kind == EntryKind::File) {
            let Some(whole) = file.name.strip_suffix(TMP_ENDING) else { continue };
            let Some((name, Form::Plain)) = SegmentName::parse(whole) else { continue };
            let has_form = Form::ALL.iter().any(|form| is_there(&name.file(*form)));
            // It was set aside only after the new one was synced.
            let was_set_aside = is_there(&format!("{whole}{DAMAGED_ENDING}"));
            if was_set_aside && !has_form && name.folder() == folder.join(&date.name) {
                let tmp = tmp_path(&name);
                storage.rename(&tmp, &name.path(Form::Plain))?;
                storage.sync_dir(&name.folder())?;
            }
        }
    }
    Ok(())
}

/// The new file of a segment, beside the old one, until it takes its place.
fn tmp_path(name: &SegmentName) -> PathBuf {
    with_ending(&name.path(Form::Plain), TMP_ENDING)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}
