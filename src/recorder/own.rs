//! The recorder's own tape: it records itself, as the feed `_feedtape`.
//!
//! Owns what a line of that tape says, and the thread that writes one every `--self-every`. From
//! there on it is a tape like others: it takes its blocks from the pool, and is written, sealed,
//! verified and pruned as they are. But it belongs to nobody: it is not counted as a feed, and what
//! is lost of it is on it, in no report and no exit code. Where the queue is full a line is dropped
//! and counted; nobody ever waits for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::block::{Asker, Parcel, Pool, Tape};
use crate::clock::{self, Mono, UnixNs, mono_now};
use crate::feed::lines::{Lines, Rotation};
use crate::memory::Figures;
use crate::report::Views;
use crate::stats::RecorderStats;
use crate::tape::event::GapReason;
use crate::tape::line::Encoding;

/// What the header of its segments says in the place of an address.
pub(super) const URL: &str = "feedtape:own";
/// Reading /proc and formatting a kilobyte of JSON; nothing recurses.
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// At the end the last line waits so long for room.
const END_WAIT: Duration = Duration::from_millis(100);
/// And the main thread so long for the thread.
const THREAD_END_MAX: Duration = Duration::from_secs(1);

/// A line of the tape. Sizes are in bytes; counters count from the start of the run. The names in
/// JSON stay: they stand on tapes. What an older recorder did not write is 0 or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnLine {
    /// Version of the program.
    pub feedtape: String,
    /// Its process: with the start it tells runs apart.
    pub pid: u32,
    /// Wall time of the start.
    pub started: UnixNs,
    /// Monotonic time since then.
    pub uptime_ms: u64,
    /// Memory, threads, descriptors.
    pub memory: Figures,
    /// Memory on its way to the disk.
    pub queue: QueueLine,
    /// Feeds that are wanted.
    pub feeds: u64,
    /// Those that are connected.
    pub feeds_live: u64,
    /// Messages of all feeds that went to their tapes.
    pub messages: u64,
    /// Their payload.
    pub bytes: u64,
    /// What was read from sockets for it.
    pub wire_bytes: u64,
    /// What was written to tapes, before sealing.
    pub tape_bytes: u64,
    /// Holes in all feeds, of any cause.
    pub gaps: u64,
    /// Messages that are known to be missing in them.
    pub lost_messages: u64,
    /// Their payload.
    pub lost_bytes: u64,
    /// Whether the disk takes nothing.
    pub disk_stalled: bool,
    /// Lines like this one that found no room.
    pub own_dropped: u64,
}

/// What is out of the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueLine {
    /// Blocks that are out now.
    pub blocks: usize,
    /// The most of them since the line before.
    pub blocks_max: usize,
    /// Their sizes.
    pub bytes: usize,
    /// The most of that since the line before.
    pub bytes_max: usize,
}

/// The tape as the start found it.
pub(super) struct OwnStart {
    pub(super) every: Duration,
    /// Stamp of the last line there is.
    pub(super) last_ts: Option<UnixNs>,
    pub(super) tape: Tape,
}

impl OwnStart {
    /// Starts to write it, as the first of the writer's tapes. Without threads to be had it is done
    /// without.
    pub(super) fn start(
        self,
        sources: Sources,
        parcels: Sender<Parcel>,
        rotation: Rotation,
    ) -> Option<OwnTape> {
        let (pool, stats) = (sources.pool.clone(), self.tape.stats);
        let recorder = sources.stats.clone();
        let lines = Lines::new(0, pool, parcels, stats, recorder, rotation, self.last_ts);
        let started = OwnTape::start(sources, lines, self.every);
        started
            .inspect_err(|error| log::error!("the recorder does not record itself: {error}"))
            .ok()
    }
}

/// Where the figures come from.
pub(super) struct Sources {
    pub(super) views: Views,
    pub(super) stats: Arc<RecorderStats>,
    pub(super) pool: Arc<Pool>,
}

impl Sources {
    fn line(&self, run: &Run, own_dropped: u64) -> OwnLine {
        let (now, max) = self.pool.take_depth(Asker::OwnTape);
        let mut line = OwnLine {
            feedtape: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            started: run.started,
            uptime_ms: u64::try_from(mono_now().since(run.began).as_millis()).unwrap_or(u64::MAX),
            memory: Figures::own(),
            queue: QueueLine {
                blocks: now.blocks,
                blocks_max: max.blocks,
                bytes: now.bytes,
                bytes_max: max.bytes,
            },
            feeds: self.stats.feeds.get(),
            disk_stalled: self.stats.disk_stalled.get() == 1,
            own_dropped,
            ..OwnLine::default()
        };
        for view in self.views.all() {
            let stats = &view.stats;
            line.feeds_live += stats.live.get();
            line.messages += stats.messages.get();
            line.bytes += stats.bytes.get();
            line.wire_bytes += stats.wire_bytes.get();
            line.tape_bytes += stats.tape_bytes.get();
            for gap in stats.gaps.figures() {
                line.gaps += gap.holes;
                line.lost_messages += gap.messages;
                line.lost_bytes += gap.bytes;
            }
        }
        line
    }
}

/// When it began, by both clocks.
struct Run {
    started: UnixNs,
    began: Mono,
}

/// What one may tell the thread.
enum Order {
    /// Begin a new segment.
    Rotate,
}

/// The thread that writes the tape. Without its handle it ends.
pub(super) struct OwnTape {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

impl OwnTape {
    /// Starts the thread, which writes a line at once and then every `every`.
    ///
    /// # Errors
    /// No thread to be had.
    pub(super) fn start(sources: Sources, lines: Lines, every: Duration) -> io::Result<OwnTape> {
        let (orders, received) = bounded(1);
        let run = Run { started: clock::wall_now(), began: mono_now() };
        let mut recording = Recording { sources, run, lines, dropped: 0 };
        let work = move || {
            let mut next = recording.run.began;
            loop {
                match received.recv_timeout(next.since(mono_now())) {
                    Ok(Order::Rotate) => recording.lines.rotate(),
                    Err(RecvTimeoutError::Timeout) => {
                        recording.record();
                        // After a suspension those that were missed are not made up for.
                        next = next.after(every).max(mono_now());
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            recording.record();
            recording.lines.end(END_WAIT);
        };
        let thread = thread::Builder::new()
            .name("own tape".to_string())
            .stack_size(STACK_BYTES)
            .spawn(work)?;
        Ok(OwnTape { orders, thread })
    }

    /// Begins a new segment.
    pub(super) fn rotate(&self) {
        // One order is waiting already: it is the same.
        let _ = self.orders.try_send(Order::Rotate);
    }

    /// Whether the thread failed.
    pub(super) fn is_dead(&self) -> bool {
        self.thread.is_finished()
    }

    /// Writes the last line and ends. Whether it did in time.
    pub(super) fn end(self) -> bool {
        drop(self.orders);
        let by = Instant::now() + THREAD_END_MAX;
        while !self.thread.is_finished() {
            if Instant::now() >= by {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().is_ok()
    }
}

struct Recording {
    sources: Sources,
    run: Run,
    lines: Lines,
    dropped: u64,
}

impl Recording {
    fn record(&mut self) {
        let line = || self.sources.line(&self.run, self.dropped);
        match catch_unwind(AssertUnwindSafe(line)) {
            Ok(line) => self.put(&line),
            // The panic hook has logged where and why.
            Err(_) => self.lines.hole_begins(GapReason::Panic),
        }
    }

    fn put(&mut self, line: &OwnLine) {
        let text = serde_json::to_vec(line).expect("numbers and words are always JSON");
        self.lines.tick(mono_now(), true);
        if self.lines.message(clock::wall_now(), &Encoding::of_text(&text)).is_err() {
            self.lines.drop_message(text.len() as u64);
            self.dropped += 1;
        }
        // Where the writer lags lines gather in the block that the tape has by right.
        self.lines.hand_over_if_wanted();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{PoolPlan, channel};
    use crate::report::FeedView;
    use crate::tape::name::FeedName;

    #[test]
    fn names_on_tapes_stay() {
        let json = serde_json::to_value(OwnLine::default()).unwrap();
        let names = |json: &serde_json::Value| -> String {
            json.as_object().unwrap().keys().map(|name| format!("{name} ")).collect()
        };
        assert_eq!(
            names(&json),
            "bytes disk_stalled feeds feeds_live feedtape gaps lost_bytes lost_messages memory \
             messages own_dropped pid queue started tape_bytes uptime_ms wire_bytes "
        );
        assert_eq!(names(&json["queue"]), "blocks blocks_max bytes bytes_max ");
        let old: OwnLine = serde_json::from_str("{\"pid\":5,\"of_later\":{}}").unwrap();
        assert_eq!(old, OwnLine { pid: 5, ..OwnLine::default() });
    }

    /// With a writer that takes nothing: lines gather in the tape's own block, which is less than
    /// what others may have, then they are dropped; once there is room a gap says how many.
    #[test]
    fn nobody_waits_for_it_and_what_is_dropped_is_counted() {
        let plan = PoolPlan { block_bytes: 4096, blocks: 4, blocks_per_feed: 2 };
        let pool = Arc::new(Pool::new(plan, 2));
        let (sender, sent) = channel(plan, 2, 2);
        let rotation = Rotation { every: Duration::from_secs(3600), bytes: 1 << 20 };
        let views = Views::default();
        let name = FeedName::new("f").unwrap();
        views.push(FeedView { name, stats: Arc::default() });
        views.all()[0].stats.messages.add(7);
        let lines =
            Lines::new(0, pool.clone(), sender, Arc::default(), Arc::default(), rotation, None);
        let sources = Sources { views, stats: Arc::default(), pool: pool.clone() };
        let run = Run { started: 5, began: mono_now() };
        let mut recording = Recording { sources, run, lines, dropped: 0 };
        let others: Vec<_> = std::iter::from_fn(|| pool.try_take(1, 10)).collect();
        assert_eq!(others.len(), plan.blocks_per_feed);
        while recording.dropped < 3 {
            recording.record();
        }
        others.into_iter().for_each(|block| pool.give_back(block));
        let mut text = String::new();
        for _ in 0..2 {
            recording.lines.hand_over();
            while let Ok(parcel) = sent.try_recv() {
                let Parcel::Lines(block) = parcel else { panic!("{parcel:?}") };
                text += std::str::from_utf8(block.bytes()).unwrap();
                pool.give_back(block);
            }
            recording.record();
        }
        let written: Vec<&str> = text.lines().map(|line| &line[19..]).collect();
        let gap = written.iter().position(|line| line.starts_with("!{\"event\":\"gap\"")).unwrap();
        assert!(written[gap].contains("\"reason\":\"stall\",\"messages\":3"), "{}", written[gap]);
        let last: OwnLine = serde_json::from_str(written[gap + 1]).unwrap();
        assert_eq!((last.own_dropped, last.messages, last.started), (3, 7, 5));
        assert_eq!(last.pid, std::process::id());
        let first: OwnLine = serde_json::from_str(written[0]).unwrap();
        assert_eq!((first.own_dropped, first.queue.blocks, first.queue.blocks_max), (0, 2, 2));
    }

    #[test]
    fn lines_come_at_once_and_at_the_end() {
        let plan = PoolPlan::new(1 << 20, 1);
        let pool = Arc::new(Pool::new(plan, 1));
        let (sender, sent) = channel(plan, 1, 1);
        let rotation = Rotation { every: Duration::from_secs(3600), bytes: 1 << 20 };
        let lines =
            Lines::new(0, pool.clone(), sender, Arc::default(), Arc::default(), rotation, None);
        let sources = Sources { views: Views::default(), stats: Arc::default(), pool };
        let tape = OwnTape::start(sources, lines, Duration::from_secs(3600)).unwrap();
        let first = sent.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(&first, Parcel::Lines(block) if block.messages == 1), "{first:?}");
        tape.rotate();
        let rotated = sent.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(rotated, Parcel::CloseSegment(0)), "{rotated:?}");
        assert!(!tape.is_dead());
        assert!(tape.end());
        let rest: Vec<Parcel> = sent.try_iter().collect();
        let [Parcel::Lines(last), Parcel::CloseSegment(0)] = &rest[..] else { panic!("{rest:?}") };
        assert_eq!(last.messages, 1);
    }
}
