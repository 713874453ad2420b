//! The holes of the last day, of all feeds, as far as they fit.
//!
//! Owns the bound: the oldest go first, and it is known since when nothing is missing. The tapes
//! have all of them; this is for who looks while it happens.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::UnixNs;
use crate::tape::event::GapReason;

/// Holes that are kept: 16 a day of 256 feeds each.
pub const GAPS_MAX: usize = 4096;
/// What they take at most, in bytes.
pub const GAPS_BYTES_MAX: usize = GAPS_MAX * size_of::<GapNote>();
/// Older ones go.
const KEPT_NS: u64 = 24 * 3600 * 1_000_000_000;

/// One hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapNote {
    /// Number of the feed, from 1; see [`super::FeedStats::number`].
    pub feed: u64,
    /// Why there is one.
    pub reason: GapReason,
    /// Stamp of the last line before it, where there is one.
    pub from_ts: Option<UnixNs>,
    /// From then on all is recorded again.
    pub to_ts: UnixNs,
    /// Messages known to be lost in it.
    pub messages: Option<u64>,
}

/// The holes, in the order in which they ended.
#[derive(Debug, Default)]
pub struct GapLog(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    gaps: VecDeque<GapNote>,
    /// End of the newest one that was let go.
    forgotten_to: UnixNs,
}

impl GapLog {
    /// One more. Taken once a hole, never a message. Holes of the recorder's own tape, whose number
    /// is 0, are none of a feed and are not kept.
    pub fn note(&self, gap: GapNote) {
        if gap.feed == 0 {
            return;
        }
        let mut kept = self.lock();
        let day_ago = gap.to_ts.saturating_sub(KEPT_NS);
        while let Some(oldest) = kept.gaps.front()
            && (kept.gaps.len() >= GAPS_MAX || oldest.to_ts < day_ago)
        {
            kept.forgotten_to = kept.forgotten_to.max(oldest.to_ts);
            kept.gaps.pop_front();
        }
        kept.gaps.push_back(gap);
    }

    /// Those that ended after `since`, and the time since which none is missing; 0 is ever.
    pub fn since(&self, since: UnixNs) -> (UnixNs, Vec<GapNote>) {
        let kept = self.lock();
        let gaps = kept.gaps.iter().filter(|gap| gap.to_ts > since);
        (kept.forgotten_to, gaps.copied().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked left a whole list.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(to_ts: UnixNs) -> GapNote {
        GapNote { feed: 1, reason: GapReason::Stall, from_ts: None, to_ts, messages: None }
    }

    #[test]
    fn the_oldest_go_first_and_it_is_known() {
        let log = GapLog::default();
        for n in 1..=GAPS_MAX as u64 {
            log.note(gap(n));
        }
        let (known, gaps) = log.since(0);
        assert_eq!((known, gaps.len(), gaps[0].to_ts), (0, GAPS_MAX, 1));
        log.note(gap(5000));
        let (known, gaps) = log.since(0);
        assert_eq!((known, gaps.len(), gaps[0].to_ts), (1, GAPS_MAX, 2));
        assert_eq!(log.since(4096).1, [gap(5000)]);
        log.note(gap(KEPT_NS + 4096));
        assert_eq!(log.since(0), (4095, vec![gap(4096), gap(5000), gap(KEPT_NS + 4096)]));
    }
}
