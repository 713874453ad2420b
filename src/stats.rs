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
use std::sync::{Mutex, PoisonError};

use crate::tape::event::GapReason;

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

/// Something that one thread has to tell another, once.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Raises it; whether it was down.
    pub fn raise(&self) -> bool {
        !self.0.swap(true, Relaxed)
    }

    /// Lowers it; whether it was up.
    pub fn lower(&self) -> bool {
        self.0.swap(false, Relaxed)
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.0.load(Relaxed)
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
    /// Up while a failed sync is not told of on the tape. The syncer raises it, and the writer
    /// decides by it: the next segment begins with a gap.
    pub unsynced: Flag,
}

impl FeedStats {
    /// Something of the feed could not be synced, so that a power cut may take it: a hole, which
    /// is counted once until the writer has put it on the tape.
    pub fn sync_failed(&self) {
        if self.unsynced.raise() {
            self.gaps.count(GapReason::Disk, 0, 0);
        }
    }
}

/// Counters of the whole recorder.
#[derive(Debug, Default)]
pub struct RecorderStats {
    /// Monotonic time, in nanoseconds, at which the writer began the call to the disk that it is
    /// in; 0 while it is in none. The main thread sees by it whether the disk stalls.
    pub writer_busy_since: Counter,
    /// Seals that failed.
    pub seal_failures: Counter,
    /// Segments deleted by `--keep` and `--keep-bytes`, of any feed.
    pub pruned_segments: Counter,
    /// Their bytes on disk.
    pub pruned_bytes: Counter,
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
