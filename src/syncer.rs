//! The syncer: makes durable what the writer handed to the kernel, so that the writer never waits
//! for a disk.
//!
//! Owns fdatasync of open segments at the `--fsync` interval, the fsync of folders, the `.next`
//! files, the page cache of what is synced, and the last steps of a finished segment: sync, its
//! final name, on to the sealer.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::block::FeedId;
use crate::clock::{Mono, mono_now};
use crate::storage::Storage;
use crate::tape::name::{FeedName, Form, SegmentName};
use crate::writer::segment::SegmentFile;

/// Deep enough for paths and formatting; nothing recurses here.
const STACK_BYTES: usize = 128 << 10;

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
    },
    /// A segment has its `end`; `next_index` is the first one after it.
    Finished {
        /// Whose.
        feed: FeedId,
        /// First index after it.
        next_index: u64,
    },
    /// A segment could not be written any more and stays open for recovery.
    Abandoned {
        /// Whose.
        feed: FeedId,
    },
}

/// Starts the syncer. It ends when the writer drops its sender, after the last segment; then it
/// drops `on_finished`, and with it the way to the sealer.
///
/// # Errors
/// No thread to be had.
pub fn spawn(
    storage: Arc<dyn Storage>,
    policy: FsyncPolicy,
    feeds: usize,
    on_finished: Box<dyn FnMut(SegmentName) + Send>,
) -> io::Result<(Sender<SyncItem>, JoinHandle<()>)> {
    // Every feed may open and finish a segment twice over before the writer has to wait.
    let (sender, items) = bounded(4 * feeds + 64);
    let syncer = Syncer::new(storage, policy, on_finished);
    let thread = thread::Builder::new()
        .name("syncer".to_string())
        .stack_size(STACK_BYTES)
        .spawn(move || syncer.run(&items))?;
    Ok((sender, thread))
}

struct Open {
    segment: SegmentFile,
    synced: u64,
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
    open: HashMap<FeedId, Open>,
    next: HashMap<FeedId, Next>,
    dirty_folders: Vec<PathBuf>,
    /// Whether the last sync of some folder failed.
    folders_fail: bool,
    on_finished: Box<dyn FnMut(SegmentName) + Send>,
}

impl Syncer {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        policy: FsyncPolicy,
        on_finished: Box<dyn FnMut(SegmentName) + Send>,
    ) -> Syncer {
        Syncer {
            storage,
            policy,
            open: HashMap::new(),
            next: HashMap::new(),
            dirty_folders: Vec::new(),
            folders_fail: false,
            on_finished,
        }
    }

    fn run(mut self, items: &Receiver<SyncItem>) {
        let every = match self.policy {
            FsyncPolicy::Every(every) => every,
            // Nothing is due by time; this only bounds the wait.
            FsyncPolicy::Segment | FsyncPolicy::Never => Duration::from_secs(60),
        };
        let mut due: Mono = mono_now().after(every);
        loop {
            match items.recv_timeout(due.since(mono_now())) {
                Ok(item) => self.handle(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = mono_now();
            if now >= due {
                if matches!(self.policy, FsyncPolicy::Every(_)) {
                    self.sync_all();
                }
                due = now.after(every);
            }
        }
        self.end();
    }

    /// The last sync, and the numbers with which the next run goes on.
    pub(crate) fn end(&mut self) {
        self.sync_all();
        for next in std::mem::take(&mut self.next).into_values() {
            self.write_next(&next);
        }
        self.sync_folders();
    }

    pub(crate) fn handle(&mut self, item: SyncItem) {
        match item {
            SyncItem::Opened { feed, segment, first_index } => {
                let SegmentName { feed: name, number, .. } = segment.name.clone();
                let next =
                    Next { feed: name, number: number + 1, index: first_index, is_due: true };
                if self.policy == FsyncPolicy::Never {
                    self.write_next(&next);
                }
                self.next.insert(feed, next);
                for folder in segment.parents() {
                    self.folder_is_dirty(folder);
                }
                self.folder_is_dirty(segment.folder());
                self.open.insert(feed, Open { segment, synced: 0 });
            }
            SyncItem::Finished { feed, next_index } => {
                if let Some(next) = self.next.get_mut(&feed) {
                    next.index = next_index;
                    next.is_due = true;
                }
                if let Some(open) = self.open.remove(&feed) {
                    self.finish(open);
                }
                if self.policy == FsyncPolicy::Segment {
                    self.write_due();
                }
            }
            SyncItem::Abandoned { feed } => {
                self.open.remove(&feed);
                if let Some(next) = self.next.get_mut(&feed) {
                    // Nobody knows what of it is durable.
                    next.is_due = false;
                }
            }
        }
    }

    /// Syncs the file before it gets its final name: what has that name is whole. Where it can't be
    /// synced it stays open, and the next start looks what there is of it.
    fn finish(&mut self, mut open: Open) {
        if self.policy != FsyncPolicy::Never && !open.segment.progress.failed() {
            // Also where nothing is new by its progress: one that was closed after a failed write
            // was cut and got its end past it.
            self.sync_now(&mut open);
        }
        let name = open.segment.name.clone();
        if open.segment.progress.failed() {
            if let Some(next) = self.next.values_mut().find(|next| next.feed == name.feed) {
                next.is_due = false;
            }
            return;
        }
        let (from, to) = (name.path(Form::Open), name.path(Form::Plain));
        if let Err(error) = self.storage.rename(&from, &to) {
            log::error!(
                "can't rename '{}' to '{}': {error}; the next start will do it",
                from.display(),
                to.display()
            );
            return;
        }
        self.folder_is_dirty(name.folder());
        if self.policy != FsyncPolicy::Never {
            self.sync_folders();
        }
        drop(open);
        (self.on_finished)(name);
    }

    /// Syncs every open segment that has something new, and the folders.
    pub(crate) fn sync_all(&mut self) {
        if self.policy == FsyncPolicy::Never {
            return;
        }
        let mut open = std::mem::take(&mut self.open);
        for segment in open.values_mut() {
            self.sync(segment);
        }
        self.open = open;
        self.sync_folders();
        self.write_due();
    }

    /// Writes `.next` of the feeds whose segment before is durable by now.
    fn write_due(&mut self) {
        if self.folders_fail {
            return;
        }
        let mut next = std::mem::take(&mut self.next);
        for (feed, next) in next.iter_mut().filter(|(_, next)| next.is_due) {
            // Where it is open it was synced, or it failed.
            let is_durable = self.open.get(feed).is_none_or(|open| open.synced > 0);
            if is_durable {
                self.write_next(next);
                next.is_due = false;
            }
        }
        self.next = next;
    }

    fn sync(&self, open: &mut Open) {
        let written = open.segment.progress.written();
        if written != open.synced && !open.segment.progress.failed() {
            self.sync_now(open);
        }
    }

    fn sync_now(&self, open: &mut Open) {
        let written = open.segment.progress.written();
        match open.segment.file.sync() {
            Ok(()) => {
                open.segment.file.drop_cache(open.synced, written - open.synced);
                open.synced = written;
            }
            Err(error) => {
                // What was not synced may be gone from the cache too: it is not tried again.
                let path = open.segment.name.path(Form::Open);
                log::error!("can't sync '{}': {error}; it is closed for good", path.display());
                open.segment.progress.set_failed();
            }
        }
    }

    fn folder_is_dirty(&mut self, folder: PathBuf) {
        if !self.dirty_folders.contains(&folder) {
            self.dirty_folders.push(folder);
        }
    }

    /// Makes names durable. A folder whose sync failed is synced again the next time: unlike bytes,
    /// its names are still there to be written. Told once, until all goes well again.
    fn sync_folders(&mut self) {
        let folders = std::mem::take(&mut self.dirty_folders);
        if self.policy == FsyncPolicy::Never {
            return;
        }
        for folder in folders {
            match self.storage.sync_dir(&folder) {
                Ok(()) => {}
                // Pruned, or moved away with all that was in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    if !self.folders_fail {
                        log::error!(
                            "can't sync the folder '{}': {error}; tried again with the next sync",
                            folder.display()
                        );
                    }
                    self.folders_fail = true;
                    self.dirty_folders.push(folder);
                }
            }
        }
        self.folders_fail = !self.dirty_folders.is_empty();
    }

    /// `OUT/feed=F/.next`: numbers and indices go on even where all segments were moved away.
    fn write_next(&mut self, next: &Next) {
        let folder = next.feed.folder();
        let folder = Path::new(&folder);
        let result = self.replace_next(folder, next.number, next.index);
        if let Err(error) = result {
            log::warn!("can't write '{}/.next': {error}", folder.display());
        } else {
            self.folder_is_dirty(folder.to_path_buf());
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
