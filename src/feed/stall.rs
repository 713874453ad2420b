//! What is to be said about a full queue.
//!
//! Owns when it is news. A short stall is none: a burst does it. A long one, or one that drops
//! messages, is logged at its begin and its end, and not again for a while.

use std::time::Duration;

use crate::clock::Mono;

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
}

impl Stall {
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
