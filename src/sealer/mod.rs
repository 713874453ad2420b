//! The sealer: the thread that makes finished segments final.
//!
//! Owns the thread, its queue, and the search of a recording for plain segments. What is done to
//! one segment is in [`seal`], bytes pass through [`copy`] and [`compress`], [`sums`] is the list
//! of checksums. One segment at a time, at the lowest priority; the writer never waits for it:
//! where the queue is full a mark is set, and the sealer, once idle, looks for plain files itself.
//! It looks at its start too, for what an earlier run left, and some time after a failure.
//! Nothing here removes a line: a plain segment goes only after its sealed copy was compared.

mod compress;
mod copy;
mod seal;
pub mod sums;

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, at, bounded, never, select_biased};

pub use self::compress::Compression;
pub use self::seal::SealError;

use self::compress::Codec;
use crate::storage::{Storage, StorageFile};
use crate::tape::name::{FeedName, Form, SegmentName};

/// Segments that may wait in the queue; more are found by looking.
pub const QUEUE_SEGMENTS_MAX: usize = 256;
/// After a failure the sealer tries again so much later.
pub const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The thread's stack. Buffers and contexts are on the heap.
const STACK_BYTES: usize = 256 << 10;
/// The lowest priority there is (setpriority(2)).
const NICE: libc::c_int = 19;

/// What the sealer tells, on its own thread.
#[derive(Debug)]
pub enum SealEvent {
    /// A segment is final.
    Sealed {
        /// Which.
        name: SegmentName,
        /// Its plain length.
        raw_bytes: u64,
        /// Its length on disk now.
        sealed_bytes: u64,
        /// How long it took.
        elapsed: Duration,
    },
    /// A segment could not be sealed. The plain one is kept, and tried again after
    /// [`RETRY_AFTER`].
    Failed {
        /// Which.
        name: SegmentName,
        /// Why.
        error: SealError,
    },
    /// A folder could not be listed while looking for plain segments; tried again as well.
    Unlisted {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The last event: the sealer ended, and so many segments stay plain until the next start.
    Left {
        /// How many.
        segments: usize,
    },
}

/// Who is told.
type OnEvent = Box<dyn FnMut(SealEvent) + Send>;

/// Takes finished segments to be sealed. Clones feed the same sealer.
#[derive(Clone)]
pub struct SealQueue {
    names: Sender<SegmentName>,
    /// Holds one mark: the queue was full, look for plain segments.
    overflow: Sender<()>,
}

impl SealQueue {
    /// Hands over a segment whose file has its final plain name. Never waits. After the sealer's
    /// end the segment is left to the next start.
    pub fn push(&self, name: SegmentName) {
        if let Err(crossbeam_channel::TrySendError::Full(_)) = self.names.try_send(name) {
            // Full: the mark is already set.
            let _ = self.overflow.try_send(());
        }
    }
}

/// The running sealer. Dropping it ends it at once, before the next piece.
pub struct Sealer {
    queue: SealQueue,
    /// Takes the deadline, once.
    finish: Sender<Instant>,
    /// None: nothing is compressed, or the thread was joined.
    thread: Option<JoinHandle<usize>>,
}

/// Starts the sealer; with [`Compression::None`] there is no thread and nothing to do. Open
/// segments of an earlier run have been recovered before: it begins with the plain ones it finds.
///
/// # Errors
/// The thread can't be started.
pub fn spawn(
    storage: Arc<dyn Storage>,
    compression: Compression,
    on_event: OnEvent,
) -> io::Result<Sealer> {
    let (queue, inbox) = channels();
    let (finish, requested) = bounded(1);
    let thread = match compression.codec() {
        None => None,
        Some(codec) => {
            let work = move || {
                lower_priority();
                Worker::new(storage, codec, on_event, inbox, requested).run()
            };
            let builder = std::thread::Builder::new().name("sealer".to_string());
            Some(builder.stack_size(STACK_BYTES).spawn(work)?)
        }
    };
    Ok(Sealer { queue, finish, thread })
}

impl Sealer {
    /// Where finished segments go.
    pub fn sender(&self) -> SealQueue {
        self.queue.clone()
    }

    /// False once the thread has ended before it was asked to: a failure of the recorder.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_none_or(|thread| !thread.is_finished())
    }

    /// Seals what is in the queue until `deadline` (which is looked at every 128 KiB), ends the
    /// thread, and says how many segments stay plain.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn finish(mut self, deadline: Instant) -> io::Result<usize> {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Instant) -> io::Result<usize> {
        let Some(thread) = self.thread.take() else { return Ok(0) };
        // Where nobody receives, the thread has ended already.
        let _ = self.finish.send(deadline);
        thread.join().map_err(|panic| {
            io::Error::other(format!("the sealer panicked: {}", panic_text(panic.as_ref())))
        })
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        // Nobody is left to be told; a panic has been printed by its thread.
        let _ = self.end(Instant::now());
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Seals every finished plain segment of a recording, and removes temporary files that a crash
/// left. Only where no sealer runs on the same recording. True: all are sealed.
pub fn seal_all_plain(
    storage: &dyn Storage,
    compression: Compression,
    stop: &dyn Fn() -> bool,
    on_event: &mut dyn FnMut(SealEvent),
) -> bool {
    compression.codec().is_none_or(|codec| seal_all(storage, codec, stop, on_event))
}

fn seal_all(
    storage: &dyn Storage,
    codec: Codec,
    stop: &dyn Fn() -> bool,
    on_event: &mut dyn FnMut(SealEvent),
) -> bool {
    let mut all = true;
    walk(storage, &mut |found| {
        if stop() {
            all = false;
            return ControlFlow::Break(());
        }
        match found {
            Found::Plain(name) => all &= seal_one(storage, &name, codec, stop, on_event),
            Found::LeftOver(path) => {
                // It takes space and nothing more: the next start looks again.
                let _ = storage.remove(&path);
            }
            Found::Unlisted(folder, error) => {
                all = false;
                on_event(SealEvent::Unlisted { folder, error });
            }
        }
        ControlFlow::Continue(())
    });
    all
}

/// Seals one segment and tells; true where no plain file is left.
fn seal_one(
    storage: &dyn Storage,
    name: &SegmentName,
    codec: Codec,
    stop: &dyn Fn() -> bool,
    on_event: &mut dyn FnMut(SealEvent),
) -> bool {
    let started = Instant::now();
    match seal::seal(storage, name, codec, stop) {
        Ok(sealed) => {
            if let Some(sealed) = sealed {
                on_event(SealEvent::Sealed {
                    name: name.clone(),
                    raw_bytes: sealed.raw_bytes,
                    sealed_bytes: sealed.sealed_bytes,
                    elapsed: started.elapsed(),
                });
            }
            true
        }
        Err(SealError::Interrupted) => false,
        Err(error) => {
            on_event(SealEvent::Failed { name: name.clone(), error });
            false
        }
    }
}

/// The sealer's ends of the channels.
struct Inbox {
    names: Receiver<SegmentName>,
    overflow: Receiver<()>,
}

fn channels() -> (SealQueue, Inbox) {
    let (names_sender, names) = bounded(QUEUE_SEGMENTS_MAX);
    let (overflow_sender, overflow) = bounded(1);
    let queue = SealQueue { names: names_sender, overflow: overflow_sender };
    (queue, Inbox { names, overflow })
}

/// The moment to end, once it is known.
struct Deadline {
    requested: Receiver<Instant>,
    at: Cell<Option<Instant>>,
}

impl Deadline {
    /// Whether the end was asked for.
    fn is_set(&self) -> bool {
        if self.at.get().is_none() {
            match self.requested.try_recv() {
                Ok(at) => self.at.set(Some(at)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.at.set(Some(Instant::now())),
            }
        }
        self.at.get().is_some()
    }

    fn has_passed(&self) -> bool {
        self.is_set() && self.at.get().is_some_and(|at| Instant::now() >= at)
    }
}

/// The thread's state.
struct Worker {
    storage: Arc<dyn Storage>,
    codec: Codec,
    on_event: OnEvent,
    inbox: Inbox,
    deadline: Deadline,
    /// When to look for plain segments.
    look_at: Option<Instant>,
}

/// What the thread waits for.
enum Event {
    Segment(SegmentName),
    Look,
    Finish,
}

impl Worker {
    fn new(
        storage: Arc<dyn Storage>,
        codec: Codec,
        on_event: OnEvent,
        inbox: Inbox,
        requested: Receiver<Instant>,
    ) -> Worker {
        let deadline = Deadline { requested, at: Cell::new(None) };
        Worker { storage, codec, on_event, inbox, deadline, look_at: Some(Instant::now()) }
    }

    /// Returns how many segments stay plain.
    fn run(mut self) -> usize {
        loop {
            match self.wait() {
                Event::Segment(name) => self.seal(&name),
                Event::Look => self.look(),
                Event::Finish => break,
            }
        }
        self.drain();
        let segments = self.count_plain();
        (self.on_event)(SealEvent::Left { segments });
        segments
    }

    /// The one place where the thread waits. Without a failure there is no deadline: whoever ends
    /// the sealer sends one, or drops the sender.
    fn wait(&self) -> Event {
        if self.deadline.is_set() {
            return Event::Finish;
        }
        let look = self.look_at.map_or_else(never, at);
        select_biased! {
            recv(self.deadline.requested) -> at => {
                self.deadline.at.set(Some(at.unwrap_or_else(|_| Instant::now())));
                Event::Finish
            }
            recv(self.inbox.names) -> name => name.map_or(Event::Finish, Event::Segment),
            recv(self.inbox.overflow) -> _ => Event::Look,
            recv(look) -> _ => Event::Look,
        }
    }

    /// Seals what was asked for before the end, as far as the deadline lets it.
    fn drain(&mut self) {
        while !self.deadline.has_passed() {
            if let Ok(name) = self.inbox.names.try_recv() {
                self.seal(&name);
            } else if self.inbox.overflow.try_recv().is_ok()
                || self.look_at.is_some_and(|at| at <= Instant::now())
            {
                self.look();
            } else {
                break;
            }
        }
    }

    fn seal(&mut self, name: &SegmentName) {
        let stop = || self.deadline.has_passed();
        if !seal_one(&*self.storage, name, self.codec, &stop, &mut self.on_event) {
            self.look_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
        }
    }

    fn look(&mut self) {
        let stop = || self.deadline.has_passed();
        let all = seal_all(&*self.storage, self.codec, &stop, &mut self.on_event);
        self.look_at = if all { None } else { Some(Instant::now() + RETRY_AFTER) };
    }

    fn count_plain(&mut self) -> usize {
        let mut segments = 0;
        walk(&*self.storage, &mut |found| {
            match found {
                Found::Plain(_) => segments += 1,
                Found::LeftOver(_) => {}
                Found::Unlisted(folder, error) => {
                    (self.on_event)(SealEvent::Unlisted { folder, error });
                }
            }
            ControlFlow::Continue(())
        });
        segments
    }
}

/// What was found in a recording.
enum Found {
    /// A finished plain segment.
    Plain(SegmentName),
    /// A sealed file that was not finished.
    LeftOver(PathBuf),
    /// A folder could not be listed.
    Unlisted(PathBuf, io::Error),
}

/// Looks through `feed=*/date=*`, one folder at a time, so that memory is bounded by the largest
/// folder; `visit` may end it.
fn walk(storage: &dyn Storage, visit: &mut dyn FnMut(Found) -> ControlFlow<()>) {
    // Ended by `visit`: nothing is left to do.
    let _ = walk_feeds(storage, visit);
}

fn walk_feeds(
    storage: &dyn Storage,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for feed_folder in list(storage, Path::new(""), visit)? {
        let feed = feed_folder.strip_prefix("feed=").map(FeedName::new);
        let Some(Ok(feed)) = feed else { continue };
        for date in list(storage, Path::new(&feed_folder), visit)? {
            if date.starts_with("date=") {
                let folder = Path::new(&feed_folder).join(date);
                for file in list(storage, &folder, visit)? {
                    if let Some(found) = recognise(&folder, &file, &feed) {
                        visit(found)?;
                    }
                }
            }
        }
    }
    ControlFlow::Continue(())
}

fn recognise(folder: &Path, file: &str, feed: &FeedName) -> Option<Found> {
    let (whole, left_over) = match file.strip_suffix(seal::TMP_ENDING) {
        Some(whole) => (whole, true),
        None => (file, false),
    };
    let (name, form) = SegmentName::parse(whole)?;
    if name.feed != *feed || name.folder() != folder {
        return None;
    }
    match (form, left_over) {
        (Form::Plain, false) => Some(Found::Plain(name)),
        (Form::Zstd | Form::Gzip, true) => Some(Found::LeftOver(folder.join(file))),
        (Form::Open | Form::Zstd | Form::Gzip, false) | (Form::Open | Form::Plain, true) => None,
    }
}

/// Names in a folder; none where it is not there (any more).
fn list(
    storage: &dyn Storage,
    folder: &Path,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<(), Vec<String>> {
    match storage.list(folder) {
        Ok(entries) => ControlFlow::Continue(entries.into_iter().map(|e| e.name).collect()),
        Err(error) => {
            let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
            if !gone.contains(&error.kind()) {
                visit(Found::Unlisted(folder.to_path_buf(), error))?;
            }
            ControlFlow::Continue(Vec::new())
        }
    }
}

/// Makes a file, in place of one that a crash left.
fn create_anew(storage: &dyn Storage, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
    match storage.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(path)?;
            storage.create(path)
        }
        other => other,
    }
}

/// Gives the calling thread what the others leave of CPU and disk. Where that is not allowed it
/// works at the priority it has.
fn lower_priority() {
    // ioprio_set(2): who is a thread, 0 the calling one; class idle.
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    let tid = nix::unistd::gettid().as_raw().unsigned_abs();
    // SAFETY: plain numbers; on Linux a thread's id means that thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, NICE) } != 0 {
        log::debug!("sealer: can't lower the CPU priority: {}", io::Error::last_os_error());
    }
    // SAFETY: plain numbers.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) } != 0 {
        log::debug!("sealer: can't lower the disk priority: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::compress::tests::lines;
    use super::*;
    use crate::storage::memory::{Fault, MemoryDisk};

    const ZSTD: Compression = Compression::Zstd { level: 3 };
    const PATIENCE: Duration = Duration::from_secs(30);

    fn name(feed: &str, number: u64) -> SegmentName {
        let ts = 1_736_682_893_953_758_185 + number * 3_600_000_000_000;
        SegmentName::new(&FeedName::new(feed).unwrap(), number, ts)
    }

    fn put(disk: &MemoryDisk, feed: &str, number: u64) -> SegmentName {
        let name = name(feed, number);
        disk.put(name.path(Form::Plain), &lines(1000, 100));
        name
    }

    fn forms(disk: &MemoryDisk) -> (usize, usize) {
        let count = |ending: &str| {
            disk.files().iter().filter(|path| path.to_str().unwrap().ends_with(ending)).count()
        };
        (count(".tape"), count(".tape.zst"))
    }

    fn spawn_on(disk: &MemoryDisk, compression: Compression) -> (Sealer, Receiver<SealEvent>) {
        let (sender, events) = crossbeam_channel::unbounded();
        let on_event = Box::new(move |event| sender.send(event).unwrap());
        (spawn(Arc::new(disk.clone()), compression, on_event).unwrap(), events)
    }

    fn next_sealed(events: &Receiver<SealEvent>) -> SegmentName {
        match events.recv_timeout(PATIENCE).unwrap() {
            SealEvent::Sealed { name, .. } => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn seals_what_is_there_and_what_comes() {
        let disk = MemoryDisk::new();
        let first = put(&disk, "a", 0);
        let (sealer, events) = spawn_on(&disk, ZSTD);
        assert_eq!(next_sealed(&events), first);
        let queue = sealer.sender();
        for number in 1..4 {
            let pushed = put(&disk, "b", number);
            queue.push(pushed.clone());
            assert_eq!(next_sealed(&events), pushed);
        }
        assert!(sealer.is_alive());
        assert_eq!(sealer.finish(Instant::now() + PATIENCE).unwrap(), 0);
        let last = events.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(last, SealEvent::Left { segments: 0 }), "{last:?}");
        assert_eq!(forms(&disk), (0, 4));
        // The sealer has ended; the queue outlives it.
        queue.push(put(&disk, "b", 9));
        assert_eq!(forms(&disk), (1, 4));
    }

    #[test]
    fn the_thread_yields_to_all_others() {
        let disk = MemoryDisk::new();
        put(&disk, "a", 0);
        let (sender, seen) = bounded(2);
        let on_event = Box::new(move |_| {
            let thread = std::thread::current();
            // SAFETY: plain numbers; 0 is the calling thread.
            let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            sender.send((thread.name().map(str::to_string), nice)).unwrap();
        });
        let sealer = spawn(Arc::new(disk), ZSTD, on_event).unwrap();
        let seen = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seen, (Some("sealer".to_string()), NICE));
        drop(sealer);
        // SAFETY: as above.
        assert!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } < NICE, "only the sealer");
    }

    #[test]
    fn without_compression_nothing_is_touched() {
        let disk = MemoryDisk::new();
        let (sealer, events) = spawn_on(&disk, Compression::None);
        sealer.sender().push(put(&disk, "a", 0));
        assert!(sealer.is_alive());
        assert_eq!(sealer.finish(Instant::now() + PATIENCE).unwrap(), 0);
        assert!(events.try_recv().is_err());
        assert_eq!((forms(&disk), disk.operations()), ((1, 0), 0));
    }

    /// A worker on this thread, which is asked to end by `deadline` before it begins.
    fn run_until(disk: &MemoryDisk, inbox: Inbox, deadline: Instant) -> usize {
        let (finish, requested) = bounded(1);
        finish.send(deadline).unwrap();
        let codec = ZSTD.codec().unwrap();
        let mut worker =
            Worker::new(Arc::new(disk.clone()), codec, Box::new(|_| {}), inbox, requested);
        worker.look_at = None;
        worker.run()
    }

    #[test]
    fn a_full_queue_loses_no_segment() {
        let disk = MemoryDisk::new();
        let (queue, inbox) = channels();
        for number in 0..QUEUE_SEGMENTS_MAX as u64 + 10 {
            queue.push(put(&disk, "a", number));
        }
        assert_eq!((inbox.names.len(), inbox.overflow.len()), (QUEUE_SEGMENTS_MAX, 1));
        assert_eq!(run_until(&disk, inbox, Instant::now() + PATIENCE), 0);
        assert_eq!(forms(&disk), (0, QUEUE_SEGMENTS_MAX + 10));
    }

    #[test]
    fn what_does_not_fit_before_the_deadline_is_left() {
        let disk = MemoryDisk::new();
        let (queue, inbox) = channels();
        for number in 0..3 {
            queue.push(put(&disk, "a", number));
        }
        assert_eq!(run_until(&disk, inbox, Instant::now()), 3);
        assert_eq!(forms(&disk), (3, 0));
    }

    #[test]
    fn a_failure_stops_nothing_and_is_tried_again() {
        let disk = MemoryDisk::new();
        let (queue, inbox) = channels();
        let names: Vec<_> = (0..3).map(|number| put(&disk, "a", number)).collect();
        names.iter().for_each(|name| queue.push(name.clone()));
        disk.fault_at(3, Fault::Fail(io::ErrorKind::StorageFull));
        let (_finish, requested) = bounded(1);
        let (sender, events) = crossbeam_channel::unbounded();
        let on_event = Box::new(move |event| sender.send(event).unwrap());
        let codec = ZSTD.codec().unwrap();
        let mut worker = Worker::new(Arc::new(disk.clone()), codec, on_event, inbox, requested);
        worker.look_at = None;
        for _ in 0..3 {
            let Event::Segment(name) = worker.wait() else { panic!("the queue holds three") };
            worker.seal(&name);
        }
        let first = events.recv_timeout(PATIENCE).unwrap();
        let SealEvent::Failed { name, error } = first else { panic!("{first:?}") };
        assert_eq!(name, names[0]);
        assert!(error.to_string().starts_with("can't create '"), "{error}");
        assert_eq!(
            (next_sealed(&events), next_sealed(&events)),
            (names[1].clone(), names[2].clone())
        );
        let wait = worker.look_at.unwrap().saturating_duration_since(Instant::now());
        assert!(wait > RETRY_AFTER - PATIENCE && wait <= RETRY_AFTER, "{wait:?}");
        worker.look_at = Some(Instant::now());
        assert!(matches!(worker.wait(), Event::Look));
        worker.look();
        assert_eq!(next_sealed(&events), names[0]);
        assert_eq!(worker.look_at, None);
    }

    #[test]
    fn looking_finds_plain_segments_only() {
        let disk = MemoryDisk::new();
        let (a, b) = (put(&disk, "a", 0), put(&disk, "_feedtape", 3));
        let open = name("a", 1).path(Form::Open);
        let elsewhere = PathBuf::from("feed=a/date=2001-01-01").join(a.file(Form::Plain));
        let other_feed = b.folder().join(a.file(Form::Plain));
        let left_over = a.folder().join(a.file(Form::Gzip) + ".tmp");
        for path in [&open, &elsewhere, &other_feed, &left_over] {
            disk.put(path, b"");
        }
        disk.put("feedtape.lock", b"");
        disk.put("feed=a/.next", b"");
        disk.put("feed=NO/date=2025-01-12/x", b"");
        let mut sealed = Vec::new();
        let all = seal_all_plain(&disk, ZSTD, &|| false, &mut |event| match event {
            SealEvent::Sealed { name, .. } => sealed.push(name),
            other => panic!("{other:?}"),
        });
        assert!(all);
        assert_eq!(sealed, [b, a]);
        let there = |path: &PathBuf| disk.contents(path).is_some();
        assert!(there(&open) && there(&elsewhere) && there(&other_feed));
        assert!(!there(&left_over));
    }

    #[test]
    fn a_folder_that_cannot_be_listed_does_not_hide_the_others() {
        let disk = MemoryDisk::new();
        put(&disk, "a", 0);
        let b = put(&disk, "b", 0);
        // 0 lists the recording, 1 the folder of feed a.
        disk.fault_at(1, Fault::Fail(io::ErrorKind::PermissionDenied));
        let mut events = Vec::new();
        let all = seal_all_plain(&disk, ZSTD, &|| false, &mut |event| events.push(event));
        assert!(!all);
        let [SealEvent::Unlisted { folder, .. }, SealEvent::Sealed { name, .. }] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((folder.as_path(), name), (Path::new("feed=a"), &b));
    }

    #[test]
    fn a_panic_is_told_and_not_lost() {
        let disk = MemoryDisk::new();
        put(&disk, "a", 0);
        let sealer = spawn(Arc::new(disk), ZSTD, Box::new(|_| panic!("no more"))).unwrap();
        let error = sealer.finish(Instant::now() + PATIENCE).expect_err("it panicked");
        assert_eq!(error.to_string(), "the sealer panicked: no more");
    }
}
