//! The search of a recording for segments.
//!
//! Owns which names count: those of a segment, in the folders that its name tells; links, FIFOs and
//! the like never do. Holds one folder's names at a time, changes nothing.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::seal::TMP_ENDING;
use crate::storage::{EntryKind, Storage};
use crate::tape::name::{FeedName, Form, SegmentName};

/// What was found in a recording.
pub(super) enum Found {
    /// A segment's file; a segment may have several, one after the other.
    Segment(SegmentName, Form),
    /// A day's folder without any segment's file.
    Bare(FeedName, PathBuf),
    /// A sealed file that was not finished.
    LeftOver(PathBuf),
    /// A folder could not be listed.
    Unlisted(PathBuf, io::Error),
}

/// Looks through `feed=*/date=*`, one folder at a time, so that memory is bounded by the largest
/// folder; `visit` may end it.
pub(super) fn walk(storage: &dyn Storage, visit: &mut dyn FnMut(Found) -> ControlFlow<()>) {
    // Ended by `visit`: nothing is left to do.
    let _ = walk_feeds(storage, visit);
}

fn walk_feeds(
    storage: &dyn Storage,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for feed_folder in list(storage, Path::new(""), EntryKind::Folder, visit)?.into_iter().flatten()
    {
        let feed = feed_folder.strip_prefix("feed=").map(FeedName::new);
        let Some(Ok(feed)) = feed else { continue };
        for date in
            list(storage, Path::new(&feed_folder), EntryKind::Folder, visit)?.into_iter().flatten()
        {
            if date.starts_with("date=") {
                let folder = Path::new(&feed_folder).join(date);
                walk_day(storage, &folder, &feed, visit)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn walk_day(
    storage: &dyn Storage,
    folder: &Path,
    feed: &FeedName,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some(files) = list(storage, folder, EntryKind::File, visit)? else {
        return ControlFlow::Continue(());
    };
    let mut is_bare = true;
    for file in files {
        if let Some(found) = recognise(folder, &file, feed) {
            is_bare = false;
            visit(found)?;
        }
    }
    if is_bare {
        visit(Found::Bare(feed.clone(), folder.to_path_buf()))
    } else {
        ControlFlow::Continue(())
    }
}

fn recognise(folder: &Path, file: &str, feed: &FeedName) -> Option<Found> {
    let (whole, left_over) = match file.strip_suffix(TMP_ENDING) {
        Some(whole) => (whole, true),
        None => (file, false),
    };
    let (name, form) = SegmentName::parse(whole)?;
    if name.feed != *feed || name.folder() != folder {
        return None;
    }
    match (form, left_over) {
        (form, false) => Some(Found::Segment(name, form)),
        (Form::Zstd | Form::Gzip, true) => Some(Found::LeftOver(folder.join(file))),
        (Form::Open | Form::Plain, true) => None,
    }
}

/// Names in a folder that stand for `kind`; `None` where it can't be listed or is not there (any
/// more).
fn list(
    storage: &dyn Storage,
    folder: &Path,
    kind: EntryKind,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<(), Option<Vec<String>>> {
    match storage.list(folder) {
        Ok(entries) => {
            let names = entries.into_iter().filter(|entry| entry.kind == kind);
            ControlFlow::Continue(Some(names.map(|entry| entry.name).collect()))
        }
        Err(error) => {
            let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
            if !gone.contains(&error.kind()) {
                visit(Found::Unlisted(folder.to_path_buf(), error))?;
            }
            ControlFlow::Continue(None)
        }
    }
}
