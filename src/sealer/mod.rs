//! The sealer: the thread that makes finished segments final.
//!
//! Owns the thread's handle, its queue and its events. What the thread does is in `worker`, what
//! is done to one segment in `seal`; bytes pass through `copy` and `compress`; [`sums`] is the
//! list of checksums; `search` looks for segments; [`retention`] is what goes when. One segment at
//! a time, at the lowest priority; the writer never waits for it: where the queue is full a mark is
//! set, and the sealer, once idle, looks for plain files itself. It looks at its start too, for
//! what an earlier run left, and some time after a failure. A plain segment goes only after its
//! sealed copy was compared; no line goes but by the rules of [`retention`].

mod compress;
mod copy;
pub mod retention;
mod seal;
mod search;
pub mod sums;
mod worker;

use std::any::Any;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

pub use self::compress::Compression;
pub use self::seal::SealError;

use self::compress::Codec;
use self::retention::{Keep, PruneReason};
use self::search::{Found, walk};
use self::worker::{Inbox, Worker};
use crate::stats::Pulse;
use crate::storage::{Storage, create_anew};
use crate::tape::name::{Form, SegmentName};

/// Segments that may wait in the queue; more are found by looking.
pub const QUEUE_SEGMENTS_MAX: usize = 256;
/// After a failure the sealer tries again so much later.
pub const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Beyond its deadline the thread may take so long: for a read or a write that is under way.
const END_GRACE: Duration = Duration::from_millis(500);
/// While it is waited for, it is looked at this often.
const END_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two calls to the disk it compresses 128 KiB, in what the others leave of the CPU: so
/// long is for a machine that leaves it next to nothing.
const WORK_MAX: Duration = Duration::from_mins(5);
/// The thread's stack: unoptimised builds of the compressors put their tables there first.
pub(crate) const STACK_BYTES: usize = 1 << 20;

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
    /// A segment is gone, by the rules of [`Keep`].
    Pruned {
        /// Which.
        name: SegmentName,
        /// Its file.
        path: PathBuf,
        /// The file's length.
        bytes: u64,
        /// Why.
        reason: PruneReason,
    },
    /// Something of pruning failed; the next pass tries again.
    PruneFailed {
        /// With which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Nothing more may go, and there are more bytes than [`Keep::bytes`] allows. Told once, until
    /// it fits again.
    OverKeep {
        /// Bytes on disk.
        bytes: u64,
        /// Those allowed.
        keep_bytes: u64,
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
    /// None: nothing is compressed or pruned, or the thread was joined.
    thread: Option<JoinHandle<usize>>,
    pulse: Arc<Pulse>,
}

/// Starts the sealer; with [`Compression::None`] and all to be kept there is no thread and nothing
/// to do. Open segments of an earlier run have been recovered before: it begins with the plain ones
/// it finds.
///
/// # Errors
/// The thread can't be started.
pub fn spawn(
    storage: Arc<dyn Storage>,
    compression: Compression,
    keep: Keep,
    on_event: OnEvent,
) -> io::Result<Sealer> {
    let (queue, inbox) = channels();
    let (finish, requested) = bounded(1);
    let codec = compression.codec();
    let pulse = Arc::new(Pulse::new(WORK_MAX));
    let thread = if codec.is_none() && keep.is_all() {
        pulse.waits_until(None);
        None
    } else {
        let pulse = pulse.clone();
        let work = move || {
            worker::lower_priority();
            crate::storage::call::show_in(pulse.clone());
            Worker::new(storage, codec, keep, on_event, inbox, requested, pulse).run()
        };
        let builder = std::thread::Builder::new().name("sealer".to_string());
        Some(builder.stack_size(STACK_BYTES).spawn(work)?)
    };
    Ok(Sealer { queue, finish, thread, pulse })
}

impl Sealer {
    /// Where finished segments go.
    pub fn sender(&self) -> SealQueue {
        self.queue.clone()
    }

    /// Its signs of life: at least one for each piece that it reads or writes.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// False once the thread has ended before it was asked to: a failure of the recorder.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_none_or(|thread| !thread.is_finished())
    }

    /// Seals what is in the queue until `deadline` (which is looked at every 128 KiB), ends the
    /// thread, and says how many segments stay plain.
    ///
    /// # Errors
    /// The thread panicked, or the disk holds it up beyond that and a moment of grace.
    pub fn finish(mut self, deadline: Instant) -> io::Result<usize> {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Instant) -> io::Result<usize> {
        let Some(thread) = self.thread.take() else { return Ok(0) };
        // Where nobody receives, the thread has ended already.
        let _ = self.finish.send(deadline);
        let limit = deadline.max(Instant::now()) + END_GRACE;
        while !thread.is_finished() {
            if Instant::now() >= limit {
                // Inside a call to a disk that takes nothing; the process ends without it.
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"));
            }
            std::thread::sleep(END_LOOK_EVERY);
        }
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

/// Seals one finished plain segment. Only where no sealer runs on the same recording.
///
/// # Errors
/// See [`SealError`]; the plain one is still there then.
pub fn seal_one_now(
    storage: &dyn Storage,
    name: &SegmentName,
    compression: Compression,
) -> Result<(), SealError> {
    compression
        .codec()
        .map_or(Ok(()), |codec| seal::seal(storage, name, codec, &|| false).map(drop))
}

/// Reads a sealed segment, and lists the checksum that it has now.
///
/// # Errors
/// See [`SealError`]; nothing is listed then.
pub fn list_one_now(
    storage: &dyn Storage,
    name: &SegmentName,
    form: Form,
) -> Result<(), SealError> {
    seal::list_anew(storage, name, form)
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
            Found::Segment(name, Form::Plain) => {
                all &= seal_one(storage, &name, codec, stop, on_event);
            }
            Found::Segment(_, Form::Open | Form::Gzip | Form::Zstd) | Found::Bare(..) => {}
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

/// A queue and the sealer's end of it.
fn channels() -> (SealQueue, Inbox) {
    let (names_sender, names) = bounded(QUEUE_SEGMENTS_MAX);
    let (overflow_sender, overflow) = bounded(1);
    let queue = SealQueue { names: names_sender, overflow: overflow_sender };
    (queue, Inbox { names, overflow })
}

#[cfg(test)]
mod tests {
    use super::compress::tests::lines;
    use super::*;
    use crate::storage::memory::{Fault, MemoryDisk};
    use crate::tape::name::FeedName;
    use crossbeam_channel::Receiver;
    use std::path::Path;

    pub(super) const ZSTD: Compression = Compression::Zstd { level: 3 };
    pub(super) const PATIENCE: Duration = Duration::from_secs(30);

    fn name(feed: &str, number: u64) -> SegmentName {
        let ts = 1_736_682_893_953_758_185 + number * 3_600_000_000_000;
        SegmentName::new(&FeedName::new(feed).unwrap(), number, ts)
    }

    pub(super) fn put(disk: &MemoryDisk, feed: &str, number: u64) -> SegmentName {
        let name = name(feed, number);
        disk.put(name.path(Form::Plain), &lines(1000, 100));
        name
    }

    pub(super) fn forms(disk: &MemoryDisk) -> (usize, usize) {
        let count = |ending: &str| {
            disk.files().iter().filter(|path| path.to_str().unwrap().ends_with(ending)).count()
        };
        (count(".tape"), count(".tape.zst"))
    }

    fn spawn_on(disk: &MemoryDisk, compression: Compression) -> (Sealer, Receiver<SealEvent>) {
        let (sender, events) = crossbeam_channel::unbounded();
        let on_event = Box::new(move |event| sender.send(event).unwrap());
        (spawn(Arc::new(disk.clone()), compression, Keep::default(), on_event).unwrap(), events)
    }

    pub(super) fn next_sealed(events: &Receiver<SealEvent>) -> SegmentName {
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
        // SAFETY: plain numbers; 0 is the calling thread.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let (sender, seen) = bounded(2);
        let on_event = Box::new(move |_| {
            let thread = std::thread::current();
            sender.send((thread.name().map(str::to_string), nice())).unwrap();
        });
        let sealer = spawn(Arc::new(disk), ZSTD, Keep::default(), on_event).unwrap();
        let seen = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seen, (Some("sealer".to_string()), worker::NICE));
        drop(sealer);
        assert_eq!(nice(), before, "only the sealer");
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

    #[test]
    fn what_is_not_kept_goes() {
        for compression in [Compression::None, ZSTD] {
            let disk = MemoryDisk::new();
            (0..3).for_each(|number| drop(put(&disk, "a", number)));
            let (sender, events) = crossbeam_channel::unbounded();
            let on_event = Box::new(move |event| sender.send(event).unwrap());
            let keep = Keep { bytes: Some(1), age: None };
            let sealer = spawn(Arc::new(disk.clone()), compression, keep, on_event).unwrap();
            let next_pruned = || loop {
                match events.recv_timeout(PATIENCE).unwrap() {
                    SealEvent::Sealed { .. } => {}
                    SealEvent::Pruned { name, .. } => break name.number,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((next_pruned(), next_pruned()), (0, 1));
            // The newest can't go: it is no tape that could be counted on from.
            let over = events.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(over, SealEvent::OverKeep { keep_bytes: 1, .. }), "{over:?}");
            sealer.sender().push(put(&disk, "a", 3));
            assert!(sealer.is_alive());
            assert_eq!(sealer.finish(Instant::now() + PATIENCE).unwrap(), 0);
            assert_eq!(next_pruned(), 2);
            let last = events.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(last, SealEvent::Left { segments: 0 }), "told once: {last:?}");
            let (plain, sealed) = forms(&disk);
            assert_eq!(plain + sealed, 1, "{:?}", disk.files());
        }
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
        let sealer =
            spawn(Arc::new(disk), ZSTD, Keep::default(), Box::new(|_| panic!("no more"))).unwrap();
        let error = sealer.finish(Instant::now() + PATIENCE).expect_err("it panicked");
        assert_eq!(error.to_string(), "the sealer panicked: no more");
    }
}
