//! Trouble that comes again and again: told a few times, then counted.
//!
//! Owns when it is told. A venue that is down for a day, or one that takes connections only to
//! drop them, must not fill the log; neither may its end, or another cause, pass unseen. Pure: time
//! comes in with each call.
//!
//! ```text
//! first times   told one by one, so many as the owner likes
//! later         after 1, 4, 16 minutes, then each hour: one line, with the count of the others
//! in between    another cause than the last one, and a turn for the better: each told at once, but
//!               no more than three of them until the next such line
//! ```

use std::fmt;
use std::time::Duration;

use crate::clock::Mono;
use crate::units::format_span;

/// The first wait between two lines of the same spell.
const EVERY_MIN: Duration = Duration::from_mins(1);
/// The longest.
const EVERY_MAX: Duration = Duration::from_hours(1);
/// Each wait is so many times the one before.
const EVERY_FACTOR: u32 = 4;
/// Between two such lines, so many others are told at once.
const NEWS_MAX: u32 = 3;

/// One spell of trouble, if there is one.
#[derive(Debug)]
pub struct Folding {
    /// So many are told one by one.
    singly: u64,
    /// How often it came in this spell.
    count: u64,
    /// Of those, the ones that were not told yet.
    untold: u64,
    told_at: Mono,
    every: Duration,
    news_left: u32,
    last: String,
    better: Option<Better>,
}

/// A turn for the better that may last or not.
#[derive(Debug, Clone, Copy)]
struct Better {
    since: Mono,
    is_told: bool,
}

/// What was not told since the last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untold {
    /// How often it came meanwhile.
    pub count: u64,
    /// In how long.
    pub within: Duration,
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = format_span(Duration::from_secs(self.within.as_secs().max(1)));
        match self.count {
            0 => Ok(()),
            1 => write!(f, " (and once more in the last {within})"),
            count => write!(f, " (and {count} more times in the last {within})"),
        }
    }
}

impl Folding {
    /// No trouble yet; of each spell so many are told one by one.
    pub fn new(singly: u64) -> Folding {
        Folding {
            singly,
            count: 0,
            untold: 0,
            told_at: Mono(0),
            every: EVERY_MIN,
            news_left: NEWS_MAX,
            last: String::new(),
            better: None,
        }
    }

    /// It came (again), for this cause; what to add to the line, where there is to be one.
    pub fn worse(&mut self, now: Mono, cause: &str) -> Option<Untold> {
        self.count += 1;
        self.better = None;
        let is_due = now.since(self.told_at) >= self.every;
        if self.count > self.singly {
            if is_due {
                self.every = (self.every * EVERY_FACTOR).min(EVERY_MAX);
                self.news_left = NEWS_MAX;
            } else if cause != self.last && self.news_left > 0 {
                self.news_left -= 1;
            } else {
                self.untold += 1;
                return None;
            }
        }
        cause.clone_into(&mut self.last);
        let within = now.since(self.told_at);
        self.told_at = now;
        Some(Untold { count: std::mem::take(&mut self.untold), within })
    }

    /// It looks better; whether that is to be told. Nothing is over before [`Folding::over`].
    pub fn better(&mut self, now: Mono) -> bool {
        if self.better.is_some() {
            return false;
        }
        let is_told = self.count <= self.singly || self.news_left > 0;
        if is_told && self.count > self.singly {
            self.news_left -= 1;
        }
        self.better = Some(Better { since: now, is_told });
        is_told
    }

    /// It stayed well: the spell is over. How often it came in all, where nothing has told yet that
    /// it is better.
    pub fn over(&mut self) -> Option<u64> {
        let untold = self.better.is_some_and(|better| !better.is_told).then_some(self.count);
        *self = Folding::new(self.singly);
        untold
    }

    /// As [`Folding::over`], where it has been better for so long.
    pub fn over_after(&mut self, now: Mono, span: Duration) -> Option<u64> {
        let since = self.better?.since;
        if now.since(since) < span { None } else { self.over() }
    }

    /// Whether there is no trouble.
    pub fn is_clear(&self) -> bool {
        self.count == 0
    }

    /// How often it came in this spell.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether lines are left out by now.
    pub fn is_folding(&self) -> bool {
        self.count > self.singly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono(s * 1_000_000_000)
    }

    #[test]
    fn a_day_of_the_same_is_told_some_thirty_times() {
        let mut folding = Folding::new(3);
        let mut told = Vec::new();
        let mut counted = 0;
        for n in 0..1440 {
            if let Some(untold) = folding.worse(at(n * 60), "refused") {
                counted += untold.count + 1;
                told.push((n, untold.to_string()));
            }
        }
        let shown: Vec<(u64, &str)> =
            told.iter().take(7).map(|(n, text)| (*n, text.as_str())).collect();
        assert_eq!(
            shown,
            [
                (0, ""),
                (1, ""),
                (2, ""),
                (3, ""),
                (7, " (and 3 more times in the last 4m)"),
                (23, " (and 15 more times in the last 16m)"),
                (83, " (and 59 more times in the last 1h)"),
            ]
        );
        assert_eq!(told.len(), 6 + 23);
        assert_eq!(counted, 1440 - (1439 - told.last().unwrap().0), "all but the latest");
        assert_eq!(folding.count(), 1440);
    }

    #[test]
    fn another_cause_is_told_at_once_but_not_for_ever() {
        let mut folding = Folding::new(1);
        let told: Vec<u64> = (0..600)
            .filter(|n| folding.worse(at(*n), if n % 2 == 0 { "a" } else { "b" }).is_some())
            .collect();
        assert_eq!(told, [0, 1, 2, 3, 63, 64, 65, 66, 306, 307, 308, 309]);
    }

    #[test]
    fn its_end_is_told_once() {
        let mut folding = Folding::new(2);
        assert!(folding.is_clear() && folding.better(at(0)), "no trouble before");
        assert_eq!(folding.over(), None);
        for n in 1..10 {
            folding.worse(at(n), "refused");
        }
        assert!(folding.is_folding());
        assert!(folding.better(at(10)), "after nine attempts it connects");
        assert!(!folding.better(at(11)), "told");
        assert_eq!(folding.over_after(at(12), Duration::from_secs(3)), None);
        assert!(folding.is_folding(), "not yet");
        assert_eq!(folding.over_after(at(13), Duration::from_secs(3)), None, "told already");
        assert!(folding.is_clear());
    }

    #[test]
    fn what_goes_up_and_down_is_folded_too_and_its_end_is_told() {
        let mut folding = Folding::new(2);
        let mut told = Vec::new();
        for n in 0..50 {
            if folding.better(at(n)) {
                told.push((n, "up"));
            }
            if folding.worse(at(n), "dropped").is_some() {
                told.push((n, "down"));
            }
        }
        let ups: Vec<u64> =
            told.iter().filter(|(_, what)| *what == "up").map(|(n, _)| *n).collect();
        let downs: Vec<u64> =
            told.iter().filter(|(_, what)| *what == "down").map(|(n, _)| *n).collect();
        assert_eq!((ups, downs), (vec![0, 1, 2, 3, 4, 5], vec![0, 1]));
        assert!(!folding.better(at(50)));
        assert_eq!(folding.over(), Some(50), "nobody knows yet that it is up");
        assert_eq!(folding.over(), None);
    }
}
