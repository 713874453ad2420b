//! Whether the threads that must go on do go on.
//!
//! Owns when one of them counts as hanging, by its signs of life: it was not heard of by the time
//! that it named itself, while it was in no call to the disk; or it is in one for longer than any
//! disk is waited for. Pure but for the log.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, mono_now};
use crate::stats::Pulse;
use crate::units::format_span;

/// A thread counts as hanging so much later than it should have been heard of: the machine may
/// have been stopped meanwhile, and the main thread be the first to run again.
const GRACE: Duration = Duration::from_secs(5);

/// What is to be told of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It hangs.
    Hangs {
        /// Without a sign of life since it should have been heard of, or in the call.
        lasted: Duration,
        /// Whether it is in a call to the disk.
        in_call: bool,
    },
    /// It goes on.
    GoesOn {
        /// How long it hung.
        lasted: Duration,
    },
}

/// Watches one thread.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    /// Since when it hangs, as it was seen.
    since: Option<Mono>,
}

impl HangWatch {
    /// Whether it hangs, as it was last seen.
    pub(super) fn hangs(&self) -> bool {
        self.since.is_some()
    }

    /// Looks at its signs of life: by when it should have been heard of, and since when it is in a
    /// call to the disk, which may last for `call_max`.
    pub(super) fn look(
        &mut self,
        now: Mono,
        due: Option<Mono>,
        call_since: Option<Mono>,
        call_max: Duration,
    ) -> Option<News> {
        let (expected, late_after) = match call_since {
            Some(since) => (Some(since), call_max),
            None => (due, GRACE),
        };
        let late = expected.map(|at| now.since(at)).filter(|late| *late > late_after);
        match (late, self.since) {
            (Some(lasted), None) => {
                self.since = expected;
                Some(News::Hangs { lasted, in_call: call_since.is_some() })
            }
            (None, Some(since)) => {
                self.since = None;
                Some(News::GoesOn { lasted: now.since(since) })
            }
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

/// A thread without which nothing is recorded.
#[derive(Debug)]
pub(super) struct Watched {
    name: &'static str,
    pulse: Arc<Pulse>,
    watch: HangWatch,
}

impl Watched {
    pub(super) fn new(name: &'static str, pulse: Arc<Pulse>) -> Watched {
        Watched { name, pulse, watch: HangWatch::default() }
    }

    /// Its name, where it hangs.
    pub(super) fn hanging(&self) -> Option<&'static str> {
        self.watch.hangs().then_some(self.name)
    }

    /// Looks whether it goes on; tells what is new.
    pub(super) fn look(&mut self, call_max: Duration) {
        let (due, call_since) = (self.pulse.due(), self.pulse.call_since());
        let name = self.name;
        match self.watch.look(mono_now(), due, call_since, call_max) {
            None => {}
            Some(News::Hangs { lasted, in_call: true }) => {
                log::error!("the {name} is inside one call to the disk for {}", seconds(lasted));
            }
            Some(News::Hangs { lasted, in_call: false }) => log::error!(
                "the {name} hangs: it should have been heard of {} ago, and it does not wait for \
                 the disk",
                seconds(lasted)
            ),
            Some(News::GoesOn { lasted }) => {
                log::warn!("the {name} goes on, after {}", seconds(lasted));
            }
        }
    }
}

/// For the log.
pub(super) fn seconds(span: Duration) -> String {
    format_span(Duration::from_secs(span.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL_MAX: Duration = Duration::from_secs(600);

    fn at(s: u64) -> Mono {
        Mono(s * 1_000_000_000)
    }

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn late_is_who_is_not_heard_of_in_time() {
        let mut watch = HangWatch::default();
        let mut seen = Vec::new();
        // When it was looked, by when it should have been heard of, since when it is in a call.
        for (now, due, call_since) in [
            (1, None, None),
            (10, Some(9), None),
            (15, Some(10), None),
            (16, Some(10), None),
            (60, Some(10), None),
            (61, Some(90), None),
            // In a call it may be for long.
            (200, Some(90), Some(150)),
            (750, Some(90), Some(150)),
            (751, Some(90), Some(150)),
            (900, Some(90), Some(150)),
            (901, Some(930), None),
            (2000, Some(u64::MAX / 1_000_000_000), None),
        ] {
            let news = watch.look(at(now), due.map(at), call_since.map(at), CALL_MAX);
            seen.extend(news.map(|news| (now, news)));
        }
        assert_eq!(
            seen,
            [
                (16, News::Hangs { lasted: s(6), in_call: false }),
                (61, News::GoesOn { lasted: s(51) }),
                (751, News::Hangs { lasted: s(601), in_call: true }),
                (901, News::GoesOn { lasted: s(751) }),
            ]
        );
        assert!(!watch.hangs());
    }

    #[test]
    fn a_pulse_says_when_it_is_late() {
        let pulse = Arc::new(Pulse::new(Duration::ZERO));
        let mut thread = Watched::new("writer", pulse.clone());
        let look = |thread: &mut Watched| {
            thread.look(CALL_MAX);
            thread.hanging()
        };
        assert_eq!(look(&mut thread), None, "it has not begun");
        pulse.waits_until(Some(Mono(1)));
        assert_eq!(look(&mut thread), Some("writer"));
        pulse.call_begins();
        assert_eq!(look(&mut thread), None, "the disk may take its time");
        pulse.call_ends();
        assert_eq!((look(&mut thread), pulse.call_since()), (None, None), "it was just heard of");
        pulse.waits_until(Some(Mono(1)));
        assert_eq!(look(&mut thread), Some("writer"));
        pulse.works();
        assert_eq!(look(&mut thread), None);
        pulse.waits_until(None);
        assert_eq!(look(&mut thread), None, "it waits for as long as it takes");
    }
}
