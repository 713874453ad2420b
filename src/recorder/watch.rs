//! What the main thread makes of the other threads' signs of life: a disk that stalls, and a wall
//! clock that was stepped.
//!
//! Owns the decisions when something is news, once for the whole recorder and not once for each
//! feed. Pure: no clock, no log.

use std::fmt;
use std::time::Duration;

use crate::clock::Mono;

/// One call to the disk that lasts so long is a stall.
const STALL_AFTER: Duration = Duration::from_secs(1);
/// For so long after a stall was told, only longer ones are told.
const QUIET_FOR: Duration = Duration::from_secs(60);
/// What a stall must last to be told all the same.
const STALL_AFTER_IN_QUIET: Duration = Duration::from_secs(10);
/// Steps of the wall clock are told one by one, but no more often than this.
const STEP_TOLD_EVERY: Duration = Duration::from_secs(60);

/// The recorder counts as started after this time, however its feeds fare.
const START_MAX: Duration = Duration::from_secs(10);

/// Whether the recorder has started: the writer runs, and every feed has tried once.
pub(super) fn has_started(
    since: Mono,
    now: Mono,
    writer_runs: bool,
    tried: usize,
    wanted: usize,
) -> bool {
    writer_runs && (tried >= wanted || now.since(since) >= START_MAX)
}

/// Something about the disk that the operator is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskNews {
    /// The writer waits for the disk since so long.
    Stalls {
        /// How long until now.
        lasted: Duration,
        /// Stalls before that were too short to be told.
        untold: u64,
    },
    /// It is over.
    Recovered {
        /// How long it was.
        lasted: Duration,
    },
}

/// Watches how long the writer has been inside one call.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    stall: Option<Stall>,
    told_at: Option<Mono>,
    untold: u64,
}

#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Mono,
    is_told: bool,
}

impl DiskWatch {
    /// How long the disk has stalled, where it does.
    pub(super) fn stalled_for(&self, now: Mono) -> Option<Duration> {
        self.stall.map(|stall| now.since(stall.since))
    }

    /// `busy_since`: the moment at which the writer began the call that it is in; none between
    /// calls.
    pub(super) fn look(&mut self, now: Mono, busy_since: Option<Mono>) -> Option<DiskNews> {
        if let Some(stall) = self.stall
            && busy_since != Some(stall.since)
        {
            self.stall = None;
            if stall.is_told {
                self.told_at = Some(now);
                return Some(DiskNews::Recovered { lasted: now.since(stall.since) });
            }
            self.untold += 1;
        }
        let since = busy_since.filter(|since| now.since(*since) >= STALL_AFTER)?;
        let stall = self.stall.get_or_insert(Stall { since, is_told: false });
        let lasted = now.since(since);
        let is_quiet = self.told_at.is_some_and(|at| now.since(at) < QUIET_FOR);
        if stall.is_told || (is_quiet && lasted < STALL_AFTER_IN_QUIET) {
            return None;
        }
        stall.is_told = true;
        Some(DiskNews::Stalls { lasted, untold: std::mem::take(&mut self.untold) })
    }
}

/// Adds up steps of the wall clock, so that one that is moved all the time fills no log.
#[derive(Debug, Default)]
pub(super) struct StepLog {
    told_at: Option<Mono>,
    untold: Steps,
}

/// Steps of the wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_ns: i64,
    /// The largest of them, in either direction.
    pub largest_ns: i64,
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: i64| ns as f64 / 1e9;
        let (sum, largest) = (seconds(self.sum_ns), seconds(self.largest_ns));
        match self.count {
            1 => write!(f, "by {sum:+.3} s"),
            n => write!(f, "{n} times, by {sum:+.3} s in all, the largest {largest:+.3} s"),
        }
    }
}

impl StepLog {
    /// A step, or none, was seen now; the steps to be told now.
    pub(super) fn look(&mut self, now: Mono, step_ns: Option<i64>) -> Option<Steps> {
        if let Some(step_ns) = step_ns {
            let untold = &mut self.untold;
            untold.count += 1;
            untold.sum_ns = untold.sum_ns.saturating_add(step_ns);
            if step_ns.unsigned_abs() > untold.largest_ns.unsigned_abs() {
                untold.largest_ns = step_ns;
            }
        }
        if self.told_at.is_some_and(|at| now.since(at) < STEP_TOLD_EVERY) {
            return None;
        }
        let untold = self.take_untold()?;
        self.told_at = Some(now);
        Some(untold)
    }

    /// Those that were not told yet, if any: the recorder ends.
    pub(super) fn take_untold(&mut self) -> Option<Steps> {
        let untold = std::mem::take(&mut self.untold);
        (untold.count > 0).then_some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn a_stall_is_told_once_and_its_end_too() {
        let mut watch = DiskWatch::default();
        let mut seen = Vec::new();
        // When it was looked, and since when the writer was busy.
        for (now, busy_since) in [
            (1_000, None),
            (2_000, Some(1_999)),
            (3_000, Some(2_100)),
            (4_000, Some(3_000)),
            (5_000, Some(3_000)),
            (33_000, Some(3_000)),
            (34_000, Some(33_999)),
            (35_000, None),
            // Short ones soon after it are not told; one that lasts is.
            (36_500, Some(35_000)),
            (37_000, None),
            (39_000, Some(37_500)),
            (40_000, Some(39_999)),
            (48_000, Some(40_000)),
            (50_000, Some(40_000)),
            (51_000, None),
            (120_000, Some(118_000)),
        ] {
            if let Some(news) = watch.look(at(now), busy_since.map(at)) {
                seen.push((now, news));
            }
        }
        let ms = Duration::from_millis;
        let stalls = |lasted, untold| DiskNews::Stalls { lasted: ms(lasted), untold };
        let recovered = |lasted| DiskNews::Recovered { lasted: ms(lasted) };
        assert_eq!(
            seen,
            [
                (4_000, stalls(1_000, 0)),
                (34_000, recovered(31_000)),
                (50_000, stalls(10_000, 2)),
                (51_000, recovered(11_000)),
                (120_000, stalls(2_000, 0)),
            ]
        );
        assert_eq!(watch.stalled_for(at(121_000)), Some(ms(3_000)));
    }

    #[test]
    fn started_is_who_writes_and_has_tried() {
        for (ms, writer_runs, tried, wanted, started) in [
            (0, true, 3, 3, true),
            (0, false, 3, 3, false),
            (9_999, true, 2, 3, false),
            (10_000, true, 2, 3, true),
            (10_000, false, 2, 3, false),
            (0, true, 0, 0, true),
        ] {
            let now = at(5_000 + ms);
            let is = has_started(at(5_000), now, writer_runs, tried, wanted);
            assert_eq!(is, started, "{ms} ms, {writer_runs}, {tried} of {wanted}");
        }
    }

    #[test]
    fn steps_are_told_once_a_minute_at_most() {
        let mut log = StepLog::default();
        let told: Vec<_> = [(1, None), (2, Some(5)), (3, Some(7)), (4, Some(-2)), (62, None)]
            .into_iter()
            .filter_map(|(s, step)| log.look(at(s * 1000), step).map(|told| (s, told)))
            .collect();
        let steps = |count, sum_ns, largest_ns| Steps { count, sum_ns, largest_ns };
        assert_eq!(told, [(2, steps(1, 5, 5)), (62, steps(2, 5, 7))]);
        assert_eq!(log.look(at(200_000), None), None);
        assert_eq!(log.look(at(200_001), Some(-3_000_000_000)).unwrap().to_string(), "by -3.000 s");
        // What came since then was never told where the recorder ended.
        for step in [-86_400_000_000_000, 86_395_000_000_000] {
            assert_eq!(log.look(at(200_002), Some(step)), None);
        }
        let said = "2 times, by -5.000 s in all, the largest -86400.000 s";
        assert_eq!(log.take_untold().unwrap().to_string(), said);
        assert_eq!(log.take_untold(), None);
    }
}
