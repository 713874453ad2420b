//! What is to be said about a full queue.
//!
//! Owns when it is news. A short stall is none: a burst does it. A long one, or one that drops
//! messages, is logged at its begin and its end, and not again for a while.

use std::time::Duration;

use crate::clock::Mono;

/// A stalled feed that is told to stop waits so long for its last messages to be taken.
pub(super) const STOP_STALL_MAX: Duration = Duration::from_secs(1);
/// Stalls are logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The stall of one feed, if there is one.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// When it began.
    pub(super) since: Option<Mono>,
    logged_at: Option<Mono>,
    /// Whether the log says that the queue is full.
    is_logged: bool,
    /// Messages dropped since the log last told.
    dropped: u64,
    /// Once it was told to stop in a stall: from then on it waits no longer. One moment for all the
    /// messages that still come, each of which would wait as long otherwise.
    stop_by: Option<Mono>,
}

impl Stall {
    /// Until when a message may wait for room: a time since the stall began, or since it was first
    /// told to stop.
    pub(super) fn wait_until(&mut self, now: Mono, limit: Duration, is_stop: bool) -> Mono {
        let until = self.since.get_or_insert(now).after(limit);
        if is_stop {
            self.stop_by.get_or_insert(now.after(STOP_STALL_MAX));
        }
        self.stop_by.map_or(until, |by| by.min(until))
    }

    /// Whether this is the time to say it.
    pub(super) fn is_news(&mut self, now: Mono) -> bool {
        let is_news = !self.is_logged && self.logged_at.is_none_or(|at| now.since(at) >= LOG_EVERY);
        if is_news {
            (self.is_logged, self.logged_at) = (true, Some(now));
        }
        is_news
    }

    /// A message is dropped; whether that is to be said.
    pub(super) fn drops_news(&mut self, now: Mono) -> bool {
        // The first one of a stall is news even where the log says already that it waits.
        if self.dropped == 0 && self.is_logged {
            (self.is_logged, self.logged_at) = (false, None);
        }
        self.dropped += 1;
        self.is_news(now)
    }

    /// It is over; how many messages were dropped, where that is to be said.
    pub(super) fn end(&mut self) -> Option<u64> {
        self.since = None;
        std::mem::take(&mut self.is_logged).then(|| std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_in_a_stall_has_one_deadline_for_all_messages() {
        let at = |ms: u64| Mono(ms * 1_000_000);
        let mut stall = Stall::default();
        let mut check = |now: u64, is_stop: bool, expected: u64| {
            let until = stall.wait_until(at(now), Duration::from_secs(10), is_stop);
            assert_eq!(until, at(expected), "at {now}");
        };
        check(1_000, false, 11_000);
        check(2_000, false, 11_000);
        check(3_000, true, 4_000);
        // The next message: each waited for a second of its own, 64 of them before the stop was
        // looked at.
        check(4_000, true, 4_000);
        check(4_500, false, 4_000);
    }
}
