//! The recorder's counters: what closing reports, progress displays and metrics are made of.
//!
//! The only place where threads share atomics. All are `Relaxed`: they are figures to look at, and
//! nothing is decided by them, except where a field says otherwise. Words, which change rarely,
//! have a lock.

mod gap_log;
mod histogram;
mod phase;
mod views;

pub use self::gap_log::{GAPS_BYTES_MAX, GapLog, GapNote};
pub use self::histogram::{BOUNDS_NS, BUCKETS, Histogram, HistogramFigures};
pub use self::phase::{Cause, Causes, Phase, PhaseCell};
pub use self::views::{FeedView, Views};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Mono, UnixNs, mono_now};
use crate::tape::event::GapReason;

/// Between two signs of life a thread works for milliseconds; so long is for a machine that has
/// no time for it.
const WORK_MAX: Duration = Duration::from_secs(30);

/// A count that one thread adds to and others look at.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Something that one thread has to tell others.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Raises it; whether it was down.
    pub fn raise(&self) -> bool {
        !self.0.swap(true, Relaxed)
    }

    /// Lowers it.
    pub fn lower(&self) {
        self.0.store(false, Relaxed);
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A hole that the syncer tells the writer of: from which stamp on it is.
#[derive(Debug, Default)]
pub struct Unsynced(AtomicU64);

impl Unsynced {
    /// No hole; lower than any stamp.
    const NONE: u64 = 0;
    /// One from an unknown stamp on; lower than any that is known.
    const UNKNOWN: u64 = 1;

    /// Adds a hole, to the one before if there is one; whether there was none.
    pub fn note(&self, from: Option<UnixNs>) -> bool {
        let from = from.unwrap_or(Self::UNKNOWN).max(Self::UNKNOWN);
        let earlier = |noted| Some(if noted == Self::NONE { from } else { from.min(noted) });
        self.0.fetch_update(Relaxed, Relaxed, earlier) == Ok(Self::NONE)
    }

    /// Forgets it, for it is told of: from which stamp on it is. `None`: there is none.
    pub fn take(&self) -> Option<Option<UnixNs>> {
        match self.0.swap(Self::NONE, Relaxed) {
            Self::NONE => None,
            Self::UNKNOWN => Some(None),
            from => Some(Some(from)),
        }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.load(Relaxed) != Self::NONE
    }
}

/// What one thread said last, for others to show. Not for what changes often: it is a lock.
#[derive(Debug, Default)]
pub struct Words(Mutex<String>);

impl Words {
    /// Replaces them.
    pub fn set(&self, words: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.clone_into(&mut said);
    }

    /// The words; empty where nothing was said yet.
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A thread's signs of life. It says by when it will be heard of again, and when it is inside a
/// call to the disk, which may take longer than anybody knows.
#[derive(Debug)]
pub struct Pulse {
    /// How long it works at most between two signs of life, in nanoseconds.
    work_max_ns: u64,
    /// Monotonic time by which it will be heard of again; 0 before its first sign.
    due: Counter,
    /// Monotonic time at which the call to the disk began that it is in; 0 while it is in none.
    call_since: Counter,
}

impl Pulse {
    /// Of a thread that works no longer than `work_max` between two signs of life.
    pub fn new(work_max: Duration) -> Pulse {
        let work_max_ns = u64::try_from(work_max.as_nanos()).unwrap_or(u64::MAX);
        Pulse { work_max_ns, due: Counter::default(), call_since: Counter::default() }
    }

    /// It works.
    pub fn works(&self) {
        self.waits_until(Some(mono_now()));
    }

    /// It waits, until then at the latest; `None` is for ever.
    pub fn waits_until(&self, at: Option<Mono>) {
        self.due.set(at.map_or(u64::MAX, |at| at.0.saturating_add(self.work_max_ns)));
    }

    /// A call to the disk begins.
    pub fn call_begins(&self) {
        self.call_since.set(mono_now().0);
    }

    /// It is over.
    pub fn call_ends(&self) {
        // In this order: who sees that it is in no call any more sees the sign of life too.
        self.works();
        self.call_since.set(0);
    }

    /// When the call to the disk began that it is in.
    pub fn call_since(&self) -> Option<Mono> {
        Some(Mono(self.call_since.get())).filter(|since| since.0 > 0)
    }

    /// By when it should have been heard of; `None` before its first sign of life.
    pub fn due(&self) -> Option<Mono> {
        Some(Mono(self.due.get())).filter(|due| due.0 > 0)
    }
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse::new(WORK_MAX)
    }
}

/// What is lost, and how often, by cause.
#[derive(Debug, Default)]
pub struct Gaps {
    holes: [Counter; GapReason::ALL.len()],
    messages: [Counter; GapReason::ALL.len()],
    bytes: [Counter; GapReason::ALL.len()],
}

/// The figures of one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapFigures {
    /// The cause.
    pub reason: GapReason,
    /// Holes written to the tape.
    pub holes: u64,
    /// Messages known to be lost in them.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Gaps {
    /// Counts a hole; `messages` and `bytes` where known, else 0.
    pub fn count(&self, reason: GapReason, messages: u64, bytes: u64) {
        let at = reason as usize;
        self.holes[at].add(1);
        self.messages[at].add(messages);
        self.bytes[at].add(bytes);
    }

    /// The causes that occurred.
    pub fn figures(&self) -> Vec<GapFigures> {
        GapReason::ALL
            .into_iter()
            .map(|reason| {
                let at = reason as usize;
                GapFigures {
                    reason,
                    holes: self.holes[at].get(),
                    messages: self.messages[at].get(),
                    bytes: self.bytes[at].get(),
                }
            })
            .filter(|figures| figures.holes > 0)
            .collect()
    }

    /// Whether we lost messages ourselves.
    pub fn is_our_loss(&self) -> bool {
        self.figures().iter().any(|figures| figures.reason.is_our_loss())
    }
}

/// Counters of one feed.
#[derive(Debug, Default)]
pub struct FeedStats {
    /// The feed's number in this run, from 1: its place in the list of all. 0 before it has one,
    /// and for the recorder's own tape.
    pub number: Counter,
    /// Its address, secrets hidden.
    pub url: Words,
    /// Up for a feed that is polled.
    pub is_poll: Flag,
    /// Up while it is wanted: not after a reload that dropped it.
    pub wanted: Flag,
    /// What it is doing.
    pub phase: PhaseCell,
    /// Why its connections ended.
    pub causes: Causes,
    /// Wall time at which the hole began that is open now; 0 while there is none.
    pub hole_since: Counter,
    /// The number of that hole's reason, in [`GapReason::ALL`].
    pub hole_reason: Counter,
    /// Its thread's signs of life.
    pub pulse: Pulse,
    /// Messages put on the tape.
    pub messages: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// Bytes read from the socket, below TLS.
    pub wire_bytes: Counter,
    /// Number of the last connection that was tried: a feed that ends and goes on counts on.
    pub last_conn: Counter,
    /// Connections that got through the upgrade.
    pub connections: Counter,
    /// Attempts that did not; of a feed that is polled, polls that failed.
    pub connect_failures: Counter,
    /// Monotonic time, in nanoseconds, at which the last of them got through; 0 is never.
    pub connected_at: Counter,
    /// Monotonic time, in nanoseconds, at which the last data was read (talk about subscriptions
    /// and heartbeats is none), or the last poll was answered; 0 is never.
    pub data_at: Counter,
    /// Why the last connection ended or could not be made, or the last poll failed; or what the
    /// venue refused.
    pub trouble: Words,
    /// Whether a connection is live now (1) or not (0).
    pub live: Counter,
    /// Subscriptions that the venue refused.
    pub refusals: Counter,
    /// Times that a symbol or topic fell silent on a live connection.
    pub silent_keys: Counter,
    /// Holes by cause.
    pub gaps: Gaps,
    /// Plain bytes written to segments.
    pub tape_bytes: Counter,
    /// Segments opened.
    pub segments: Counter,
    /// Plain bytes of the segments that were sealed.
    pub sealed_raw_bytes: Counter,
    /// Bytes of their sealed files.
    pub sealed_bytes: Counter,
    /// Calls that wait until what was written of its segments is on the disk.
    pub sync_times: Histogram,
    /// A failed sync that is not told of on the tape. The syncer notes it, and the writer decides
    /// by it: the next segment begins with a gap.
    pub unsynced: Unsynced,
}

impl FeedStats {
    /// Whether it tried to connect, or to poll, and knows how that went.
    pub fn has_tried(&self) -> bool {
        self.connections.get() + self.connect_failures.get() > 0
    }

    /// Something of the feed could not be synced, so that a power cut may take it: a hole, which
    /// is counted once until the writer has put it on the tape. Up to `from` all is synced, where
    /// that is known.
    pub fn sync_failed(&self, from: Option<UnixNs>) {
        if self.unsynced.note(from) {
            self.gaps.count(GapReason::Disk, 0, 0);
        }
    }
}

/// Counters of the whole recorder.
#[derive(Debug, Default)]
pub struct RecorderStats {
    /// The writer's signs of life. The main thread sees by them whether the disk stalls.
    pub writer: Arc<Pulse>,
    /// Those of the syncer.
    pub syncer: Arc<Pulse>,
    /// Seals that failed.
    pub seal_failures: Counter,
    /// Segments deleted by `--keep` and `--keep-bytes`, of any feed.
    pub pruned_segments: Counter,
    /// Their bytes on disk.
    pub pruned_bytes: Counter,
    /// Feeds that are wanted now.
    pub feeds: Counter,
    /// 1 while the writer can't write and tries again.
    pub disk_stalled: Counter,
    /// Monotonic time, in nanoseconds, at which the main thread last looked around.
    pub main_at: Counter,
    /// 1 while an operator has paused the recorder.
    pub paused: Counter,
    /// Bytes that may still be written to the disk, as the writer last saw; 0 before that.
    pub disk_free_bytes: Counter,
    /// Size of the disk, in bytes, for who may write to it; 0 where it is not known.
    pub disk_total_bytes: Counter,
    /// Holes of the last day.
    pub gap_log: GapLog,
    /// From the stamp of the first line of what is written at once until it is written.
    pub receive_lag: Histogram,
    /// Calls that hand what is buffered to the kernel.
    pub flush_times: Histogram,
    /// Sealing of a segment, from the first byte read to the last one deleted.
    pub seal_times: Histogram,
}

/// What writer and syncer share about one open segment.
#[derive(Debug, Default)]
pub struct SegmentProgress {
    written: AtomicU64,
    failed: AtomicBool,
}

impl SegmentProgress {
    /// The writer has handed so many bytes of the file to the kernel. Release: who reads the
    /// length may sync what stands below it.
    pub fn set_written(&self, bytes: u64) {
        self.written.store(bytes, std::sync::atomic::Ordering::Release);
    }

    /// Bytes of the file that are with the kernel.
    pub fn written(&self) -> u64 {
        self.written.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The syncer could not sync the segment: the writer must close it for good.
    pub fn set_failed(&self) {
        self.failed.store(true, Relaxed);
    }

    /// Whether syncing failed.
    pub fn failed(&self) -> bool {
        self.failed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_by_cause() {
        let gaps = Gaps::default();
        gaps.count(GapReason::Reconnect, 0, 0);
        gaps.count(GapReason::Reconnect, 0, 0);
        assert!(!gaps.is_our_loss());
        gaps.count(GapReason::Stall, 3, 100);
        assert!(gaps.is_our_loss());
        let figures: Vec<_> =
            gaps.figures().iter().map(|f| (f.reason, f.holes, f.messages, f.bytes)).collect();
        assert_eq!(figures, [(GapReason::Reconnect, 2, 0, 0), (GapReason::Stall, 1, 3, 100)]);
    }
}
