//! The syncer: makes durable what the writer handed to the kernel, so that the writer never waits
//! for a disk.
//!
//! Owns fdatasync of open segments at the `--fsync` interval, the fsync of folders, the `.next`
//! files, the page cache of what is synced, and the last steps of a finished segment: sync, its
//! final name, on to the sealer.
//!
//! A sync that failed is a hole: a power cut may take what it was to make durable. It is counted
//! at once, a `disk` gap, and the feed's next segment begins with it. Where no segment follows,
//! because the run ends, the closing report and the exit code tell of it, and the next run begins
//! with its `restart` gap as always.
//!
//! What could not be synced the kernel takes for written all the same, and may forget: a second
//! sync of the file says nothing. So the segment is finished at once, and copied, until a copy is
//! on the disk and takes its place: a disk that heals gets all of it. Folders and names are tried
//! again as they are.

mod open;
mod saving;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use self::open::Open;
use self::saving::{FAILURES_LOGGED_SINGLY, SAVE_AFTER_MIN};
use crate::block::{FeedId, Pool};
use crate::clock::{Mono, mono_now};
use crate::folding::Folding;
use crate::stats::{FeedStats, Pulse};
use crate::storage::{self, PageCache, Storage, StorageFile};
use crate::tape::name::{FeedName, Form, SegmentName};
use crate::writer::segment::SegmentFile;

/// Deep enough for paths and formatting; nothing recurses here.
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// Finished segments that may wait for their names; more of them wait for the next start.
const UNNAMED_MAX: usize = 256;
/// Where nothing is due by time, names that the disk refused are tried again this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A segment that has grown by so much is looked at before it is time: what is not written yet
/// can't leave the page cache.
pub const GROWN_BYTES: u64 = 8 << 20;
/// Finished segments whose last pages are still being written while nothing is synced; of more of
/// them these pages stay in the cache.
const LEAVING_MAX: usize = 256;

/// When bytes are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Every so often, where there is something new.
    Every(Duration),
    /// When a segment is finished.
    Segment,
    /// Never; the kernel writes when it likes.
    Never,
}

/// What the writer tells the syncer.
pub enum SyncItem {
    /// A segment was created; its header is with the kernel.
    Opened {
        /// Whose.
        feed: FeedId,
        /// The segment.
        segment: SegmentFile,
        /// Index of its header.
        first_index: u64,
        /// The feed's counters.
        stats: Arc<FeedStats>,
    },
    /// A segment has its `end`; `next_index` is the first one after it.
    Finished {
        /// Whose.
        feed: FeedId,
        /// First index after it.
        next_index: u64,
    },
    /// A segment has grown by [`GROWN_BYTES`] since it was said the last time. Nothing is lost
    /// where it is not said.
    Grown {
        /// Whose.
        feed: FeedId,
    },
    /// A segment could not be written any more and stays open for recovery.
    Abandoned {
        /// Whose.
        feed: FeedId,
    },
}

/// Starts the syncer, for up to so many feeds; `pulse` gets its signs of life. It ends when the
/// writer drops its sender, after the last segment; then it drops `on_finished`, and with it the
/// way to the sealer.
///
/// # Errors
/// No thread to be had.
pub fn spawn(
    storage: Arc<dyn Storage>,
    policy: FsyncPolicy,
    page_cache: PageCache,
    pool: Arc<Pool>,
    feeds_max: usize,
    pulse: Arc<Pulse>,
    on_finished: Box<dyn FnMut(SegmentName) + Send>,
) -> io::Result<(Sender<SyncItem>, JoinHandle<()>)> {
    // Every feed may open and finish a segment twice over before the writer has to wait.
    let (sender, items) = bounded(4 * feeds_max + 64);
    let syncer = Syncer::new(storage, policy, page_cache, pool, on_finished);
    let thread = thread::Builder::new()
        .name("syncer".to_string())
        .stack_size(STACK_BYTES)
        .spawn(move || syncer.run(&items, &pulse))?;
    Ok((sender, thread))
}

/// A segment on its way to its final name.
struct Finished {
    feed: FeedId,
    name: SegmentName,
    /// The disk refused it, which was said.
    refused: bool,
}

/// A folder in which names changed.
struct Folder {
    path: PathBuf,
    /// Whose names.
    feeds: Vec<FeedId>,
    failed: bool,
}

/// What `.next` of a feed is to say: the number and index that its next segment gets.
struct Next {
    feed: FeedName,
    number: u64,
    index: u64,
    /// Whether it is still to be written: once the segment before is durable. Were `.next` durable
    /// first, a crash of the machine could leave it without that segment, whose number would be
    /// missing for ever.
    is_due: bool,
}

/// The thread's state.
pub(crate) struct Syncer {
    storage: Arc<dyn Storage>,
    policy: FsyncPolicy,
    page_cache: PageCache,
    /// Lends memory for what the disk refuses.
    pool: Arc<Pool>,
    open: HashMap<FeedId, Open>,
    /// Finished ones that the disk has not taken yet.
    unsynced: VecDeque<(FeedId, Open)>,
    /// When they are tried again, and how long to wait then.
    save_at: Option<Mono>,
    save_after: Duration,
    /// Syncs that failed, and segments that were left open for it, for the log.
    failures: Folding,
    left: Folding,
    /// Finished ones that were not synced, to leave the page cache the next time.
    leaving: Vec<(FeedId, Arc<dyn StorageFile>)>,
    next: HashMap<FeedId, Next>,
    dirty_folders: Vec<Folder>,
    /// Finished segments that don't have their final names yet.
    unnamed: Vec<Finished>,
    /// Of the feeds whose segments were opened.
    stats: HashMap<FeedId, Arc<FeedStats>>,
    on_finished: Box<dyn FnMut(SegmentName) + Send>,
}

impl Syncer {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        policy: FsyncPolicy,
        page_cache: PageCache,
        pool: Arc<Pool>,
        on_finished: Box<dyn FnMut(SegmentName) + Send>,
    ) -> Syncer {
        Syncer {
            storage,
            policy,
            page_cache,
            pool,
            open: HashMap::new(),
            unsynced: VecDeque::new(),
            save_at: None,
            save_after: SAVE_AFTER_MIN,
            failures: Folding::new(FAILURES_LOGGED_SINGLY),
            left: Folding::new(FAILURES_LOGGED_SINGLY),
            leaving: Vec::new(),
            next: HashMap::new(),
            dirty_folders: Vec::new(),
            unnamed: Vec::new(),
            stats: HashMap::new(),
            on_finished,
        }
    }

    fn run(mut self, items: &Receiver<SyncItem>, pulse: &Arc<Pulse>) {
        storage::call::show_in(pulse.clone());
        let every = match self.policy {
            FsyncPolicy::Every(every) => every,
            FsyncPolicy::Segment | FsyncPolicy::Never => LOOK_EVERY,
        };
        let mut due: Mono = mono_now().after(every);
        loop {
            let wake = self.save_at.map_or(due, |at| at.min(due));
            pulse.waits_until(Some(wake.max(mono_now())));
            let item = items.recv_timeout(wake.since(mono_now()));
            pulse.works();
            match item {
                Ok(item) => self.handle(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = mono_now();
            if self.save_at.is_some_and(|at| now >= at) {
                self.save_unsynced();
            }
            if now >= due {
                self.name_finished();
                match self.policy {
                    FsyncPolicy::Every(_) => self.sync_all(),
                    FsyncPolicy::Segment | FsyncPolicy::Never => {
                        self.write_behind_all();
                        self.sync_folders();
                    }
                }
                due = now.after(every);
            }
        }
        self.end();
        pulse.waits_until(None);
    }

    /// The last sync, and the numbers with which the next run goes on.
    pub(crate) fn end(&mut self) {
        self.name_finished();
        self.save_unsynced();
        self.sync_all();
        for (feed, next) in std::mem::take(&mut self.next) {
            self.write_next(feed, &next);
        }
        self.sync_folders();
        self.write_behind_all();
        for (_, open) in std::mem::take(&mut self.unsynced) {
            self.leave_unsynced(&open, "the disk did not take all");
        }
        for finished in &self.unnamed {
            let path = finished.name.path(Form::Open);
            log::error!("'{}' is whole but keeps its name until the next start", path.display());
        }
    }

    pub(crate) fn handle(&mut self, item: SyncItem) {
        match item {
            SyncItem::Opened { feed, segment, first_index, stats } => {
                self.stats.insert(feed, stats);
                let SegmentName { feed: name, number, .. } = segment.name.clone();
                let next =
                    Next { feed: name, number: number + 1, index: first_index, is_due: true };
                if self.policy == FsyncPolicy::Never {
                    self.write_next(feed, &next);
                }
                self.next.insert(feed, next);
                for folder in segment.parents() {
                    self.folder_is_dirty(feed, folder);
                }
                self.folder_is_dirty(feed, segment.folder());
                self.open.insert(feed, Open::new(segment));
            }
            SyncItem::Finished { feed, next_index } => {
                if let Some(next) = self.next.get_mut(&feed) {
                    next.index = next_index;
                    next.is_due = true;
                }
                if let Some(open) = self.open.remove(&feed) {
                    self.finish(feed, open);
                }
                if self.policy == FsyncPolicy::Segment {
                    self.write_due();
                }
            }
            SyncItem::Grown { feed } => {
                if let Some(mut open) = self.open.remove(&feed) {
                    self.grown(feed, &mut open);
                    self.open.insert(feed, open);
                }
            }
            SyncItem::Abandoned { feed } => {
                if let Some(open) = self.open.remove(&feed)
                    && open.segment.progress.failed()
                {
                    self.leave_unsynced(&open, "the disk took neither all of it nor its end");
                }
                if let Some(next) = self.next.get_mut(&feed) {
                    // Nobody knows what of it is durable.
                    next.is_due = false;
                }
            }
        }
    }

    /// Syncs the file before it gets its final name: what has that name is whole.
    fn finish(&mut self, feed: FeedId, mut open: Open) {
        if self.policy == FsyncPolicy::Never {
            self.write_behind(feed, &mut open);
        } else if !open.segment.progress.failed() {
            // Also where nothing is new by its progress: one that was closed after a failed write
            // was cut and got its end past it.
            self.sync_now(feed, &mut open);
        }
        if open.segment.progress.failed() {
            if let Some(next) = self.next.get_mut(&feed) {
                next.is_due = false;
            }
            return self.keep_unsynced(feed, open);
        }
        if self.policy == FsyncPolicy::Never
            && self.page_cache == PageCache::Drop
            && self.leaving.len() < LEAVING_MAX
        {
            self.leaving.push((feed, open.segment.file.clone()));
        }
        self.name(feed, open.segment.name);
    }

    fn name(&mut self, feed: FeedId, name: SegmentName) {
        self.unnamed.push(Finished { feed, name, refused: false });
        self.name_finished();
    }

    /// Gives finished segments their final names, and hands them on. A name that the disk refuses
    /// is tried again.
    fn name_finished(&mut self) {
        let mut named = Vec::new();
        for finished in std::mem::take(&mut self.unnamed) {
            let name = &finished.name;
            match self.storage.rename(&name.path(Form::Open), &name.path(Form::Plain)) {
                Ok(()) => {
                    self.folder_is_dirty(finished.feed, name.folder());
                    named.push(finished.name);
                }
                Err(error) => self.keep_unnamed(finished, &error),
            }
        }
        if named.is_empty() {
            return;
        }
        self.sync_folders();
        named.into_iter().for_each(|name| (self.on_finished)(name));
    }

    fn keep_unnamed(&mut self, finished: Finished, error: &io::Error) {
        if !finished.refused {
            let path = finished.name.path(Form::Open);
            let why = storage::explain(&*self.storage, error);
            let feed = finished.name.feed.as_str();
            log::error!(feed; "can't give '{}' its final name: {why}; tried again", path.display());
        }
        if self.unnamed.len() < UNNAMED_MAX {
            self.unnamed.push(Finished { refused: true, ..finished });
        }
    }

    /// A segment has grown by much since the last time: so much of it is dirty at most.
    fn grown(&mut self, feed: FeedId, open: &mut Open) {
        match (self.page_cache, self.policy) {
            (PageCache::Keep, _) => {}
            (PageCache::Drop, FsyncPolicy::Every(_)) => {
                // It may have been synced since it was said.
                if open.unsynced() >= GROWN_BYTES {
                    self.sync(feed, open);
                }
            }
            (PageCache::Drop, FsyncPolicy::Segment | FsyncPolicy::Never) => {
                self.write_behind(feed, open);
            }
        }
    }

    /// Has the kernel write and forget what is not synced while it is open, and forget what was
    /// finished before.
    pub(crate) fn write_behind_all(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        for (feed, open) in &mut open {
            self.write_behind(*feed, open);
        }
        self.open = open;
        for (feed, file) in self.leaving.drain(..) {
            match file.finish_writing(0, 0) {
                Ok(()) => file.drop_cache(0, 0),
                // Finished, named, and perhaps sealed by now: all there is to do is to tell.
                Err(error) => {
                    let why = storage::explain(&*self.storage, &error);
                    log::error!("the end of a finished segment could not be written: {why}");
                    self.stats[&feed].sync_failed(None);
                }
            }
        }
    }

    fn write_behind(&mut self, feed: FeedId, open: &mut Open) {
        if self.page_cache == PageCache::Drop
            && !open.segment.progress.failed()
            && let Err(error) = open.write_behind()
        {
            self.failed(feed, open, &error);
        }
    }

    /// Syncs every open segment that has something new, and the folders.
    pub(crate) fn sync_all(&mut self) {
        if self.policy == FsyncPolicy::Never {
            return;
        }
        let mut open = std::mem::take(&mut self.open);
        for (feed, segment) in &mut open {
            self.sync(*feed, segment);
        }
        self.open = open;
        self.sync_folders();
        self.write_due();
    }

    /// Writes `.next` of the feeds whose segment before is durable by now.
    fn write_due(&mut self) {
        if self.dirty_folders.iter().any(|folder| folder.failed) {
            return;
        }
        let mut next = std::mem::take(&mut self.next);
        for (feed, next) in next.iter_mut().filter(|(_, next)| next.is_due) {
            // Where it is open it was synced, or it failed.
            let is_durable = self.open.get(feed).is_none_or(|open| open.synced > 0);
            if is_durable {
                self.write_next(*feed, next);
                next.is_due = false;
            }
        }
        self.next = next;
    }

    fn sync(&mut self, feed: FeedId, open: &mut Open) {
        if open.unsynced() > 0 && !open.segment.progress.failed() {
            self.sync_now(feed, open);
        }
    }

    fn sync_now(&mut self, feed: FeedId, open: &mut Open) {
        let begun = mono_now();
        let synced = open.sync();
        self.stats[&feed].sync_times.observe(mono_now().since(begun));
        if let Err(error) = synced {
            self.failed(feed, open, &error);
        }
    }

    fn folder_is_dirty(&mut self, feed: FeedId, path: PathBuf) {
        match self.dirty_folders.iter_mut().find(|folder| folder.path == path) {
            Some(folder) if folder.feeds.contains(&feed) => {}
            Some(folder) => folder.feeds.push(feed),
            None => self.dirty_folders.push(Folder { path, feeds: vec![feed], failed: false }),
        }
    }

    /// Makes names durable. A folder whose sync failed is synced again the next time: unlike bytes,
    /// its names are still there to be written. Told once, until all goes well again.
    fn sync_folders(&mut self) {
        for folder in std::mem::take(&mut self.dirty_folders) {
            if self.policy != FsyncPolicy::Never {
                self.sync_folder(folder);
            }
        }
    }

    /// Syncs a folder; one that fails is a hole of all feeds with new names in it, counted once,
    /// and stays dirty.
    fn sync_folder(&mut self, folder: Folder) {
        let path = Path::new(".").join(&folder.path);
        match self.storage.sync_dir(&folder.path) {
            Ok(()) if folder.failed => log::info!("the folder '{}' is synced", path.display()),
            Ok(()) => {}
            // Pruned, or moved away with all that was in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Some file systems know nothing of syncing folders.
            Err(error) if is_unsupported(&error) => {
                log::debug!("can't sync the folder '{}': {error}", path.display());
            }
            Err(error) => {
                if !folder.failed {
                    log::error!(
                        "can't sync the folder '{}': {error}; tried again; until then a power cut \
                         may take files that are new in it",
                        path.display()
                    );
                    folder.feeds.iter().for_each(|feed| self.stats[feed].sync_failed(None));
                }
                self.dirty_folders.push(Folder { failed: true, ..folder });
            }
        }
    }

    /// `OUT/feed=F/.next`: numbers and indices go on even where all segments were moved away.
    fn write_next(&mut self, feed: FeedId, next: &Next) {
        let folder = next.feed.folder();
        let folder = Path::new(&folder);
        let result = self.replace_next(folder, next.number, next.index);
        if let Err(error) = result {
            let feed = next.feed.as_str();
            log::warn!(feed; "can't write '{}/.next': {error}", folder.display());
        } else {
            self.folder_is_dirty(feed, folder.to_path_buf());
        }
    }

    fn replace_next(&self, folder: &Path, number: u64, index: u64) -> io::Result<()> {
        let temporary = folder.join(".next.tmp");
        let file = match self.storage.create(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a crash in between.
                self.storage.remove(&temporary)?;
                self.storage.create(&temporary)?
            }
            other => other?,
        };
        let line = format!("{{\"segment\":{number},\"index\":{index}}}\n");
        io::Write::write_all(&mut crate::storage::Appender(file.clone()), line.as_bytes())?;
        if self.policy != FsyncPolicy::Never {
            file.sync()?;
        }
        self.storage.replace(&temporary, &folder.join(".next"))
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests;
