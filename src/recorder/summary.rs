//! The line that a running recorder logs every `--report-every`: what came in since the last one,
//! and what the recorder costs.
//!
//! Owns what the line says. It is for who reads the log at night: no figure that needs another
//! tool to be understood, see `feedtape mem` for those.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::{Asker, Depth, Pool};
use crate::memory::Figures;
use crate::report::FeedView;
use crate::units::{format_size, format_span};

/// Logs the line when it is time.
pub(super) struct Summary {
    every: Duration,
    pool: Arc<Pool>,
    since: Instant,
    before: Totals,
}

/// What all feeds counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    messages: u64,
    bytes: u64,
    gaps: u64,
    dropped: u64,
}

impl Summary {
    /// A line every `every` from now on; zero is never.
    pub(super) fn new(every: Duration, pool: Arc<Pool>, now: Instant) -> Summary {
        Summary { every, pool, since: now, before: Totals::default() }
    }

    /// The line, where it is time for it. `wanted`: feeds that should be live.
    pub(super) fn look(
        &mut self,
        now: Instant,
        views: &[FeedView],
        wanted: usize,
    ) -> Option<String> {
        let passed = now.saturating_duration_since(self.since);
        if self.every.is_zero() || passed < self.every {
            return None;
        }
        let totals = Totals::of(views);
        let live = views.iter().map(|view| view.stats.live.get()).sum();
        let text = line(
            passed,
            totals.since(&self.before),
            (live, wanted),
            self.pool.take_depth(Asker::Summary),
            self.pool.plan().bytes(),
            &Figures::own(),
        );
        (self.since, self.before) = (now, totals);
        Some(text)
    }
}

impl Totals {
    fn of(views: &[FeedView]) -> Totals {
        let mut totals = Totals::default();
        for FeedView { stats, .. } in views {
            totals.messages += stats.messages.get();
            totals.bytes += stats.bytes.get();
            for gap in stats.gaps.figures() {
                totals.gaps += gap.holes;
                totals.dropped += gap.messages;
            }
        }
        totals
    }

    fn since(self, before: &Totals) -> Totals {
        Totals {
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
            gaps: self.gaps.saturating_sub(before.gaps),
            dropped: self.dropped.saturating_sub(before.dropped),
        }
    }
}

fn line(
    passed: Duration,
    came: Totals,
    (live, wanted): (u64, usize),
    (depth, depth_max): (Depth, Depth),
    queue_bytes: usize,
    own: &Figures,
) -> String {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_string(), format_size);
    let count = |n: Option<u64>| n.map_or_else(|| "?".to_string(), |n| n.to_string());
    let mut text = format!(
        "last {}: {} messages, {}; {live} of {wanted} feeds live, {} gaps, {} dropped; queue {} of \
         {}, at most {}; memory: anonymous {}",
        format_span(Duration::from_secs(passed.as_secs())),
        came.messages,
        format_size(came.bytes),
        came.gaps,
        came.dropped,
        format_size(depth.bytes as u64),
        format_size(queue_bytes as u64),
        format_size(depth_max.bytes as u64),
        size(own.rss_anon_bytes),
    );
    let mut add = |part: String| write!(text, ", {part}").expect("a string takes everything");
    if let (Some(in_use), Some(held)) = (own.heap_in_use_bytes, own.heap_held_bytes) {
        add(format!("heap {} in use of {} held", format_size(in_use), format_size(held)));
    }
    if let Some(usage) = own.cgroup_usage_bytes {
        let limit = match own.cgroup_limit_bytes {
            Some(limit) => format!("of {}", format_size(limit)),
            None => "without a limit".to_string(),
        };
        add(format!("cgroup {} {limit}", format_size(usage)));
    }
    add(format!("{} descriptors, {} threads", count(own.fds), count(own.threads)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::PoolPlan;
    use crate::tape::event::GapReason;
    use crate::tape::name::FeedName;
    use expect_test::expect;

    #[test]
    fn the_line_as_it_is_read() {
        let depth = |bytes| Depth { blocks: 1, bytes };
        let came = Totals { messages: 36_000, bytes: 5 << 20, gaps: 1, dropped: 0 };
        let own = Figures {
            rss_anon_bytes: Some(4 << 20),
            heap_in_use_bytes: Some(2 << 20),
            heap_held_bytes: Some(3 << 20),
            cgroup_usage_bytes: Some(31 << 20),
            cgroup_limit_bytes: Some(64 << 20),
            fds: Some(14),
            threads: Some(11),
            ..Figures::default()
        };
        let said = |own: &Figures| {
            let passed = Duration::from_millis(3_600_900);
            line(passed, came, (2, 3), (depth(64 << 10), depth(1 << 20)), 4 << 20, own)
        };
        expect!["last 1h: 36000 messages, 5MiB; 2 of 3 feeds live, 1 gaps, 0 dropped; queue 64KiB of 4MiB, at most 1MiB; memory: anonymous 4MiB, heap 2MiB in use of 3MiB held, cgroup 31MiB of 64MiB, 14 descriptors, 11 threads"]
            .assert_eq(&said(&own));
        let free = said(&Figures { cgroup_limit_bytes: None, ..own });
        assert!(free.contains("cgroup 31MiB without a limit,"), "{free}");
        let unknown = said(&Figures::default());
        assert!(unknown.ends_with("memory: anonymous ?, ? descriptors, ? threads"), "{unknown}");
    }

    #[test]
    fn it_comes_when_it_is_time_and_tells_what_came_since() {
        let pool = Arc::new(Pool::new(PoolPlan::new(1 << 20, 1), 1));
        let view = FeedView { name: FeedName::new("f").unwrap(), stats: Arc::default() };
        let views = [view];
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut summary = Summary::new(Duration::from_secs(60), pool.clone(), start);
        views[0].stats.messages.add(5);
        views[0].stats.live.set(1);
        assert_eq!(summary.look(at(59), &views, 1), None);
        let block = pool.try_take(0, 10).unwrap();
        pool.give_back(block);
        let first = summary.look(at(60), &views, 1).unwrap();
        assert!(first.starts_with("last 1m: 5 messages, 0B; 1 of 1 feeds live"), "{first}");
        assert!(first.contains("queue 0B of 1MiB, at most 64KiB;"), "{first}");
        assert_eq!(summary.look(at(119), &views, 1), None);
        views[0].stats.messages.add(2);
        views[0].stats.gaps.count(GapReason::Stall, 3, 9);
        let second = summary.look(at(130), &views, 1).unwrap();
        assert!(second.starts_with("last 1m10s: 2 messages"), "{second}");
        assert!(second.contains("1 gaps, 3 dropped; queue 0B of 1MiB, at most 0B;"), "{second}");
        let mut off = Summary::new(Duration::ZERO, pool, start);
        assert_eq!(off.look(at(1_000_000), &views, 1), None);
    }
}
