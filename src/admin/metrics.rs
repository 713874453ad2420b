//! The figures for Prometheus, in OpenMetrics and in the classic text format.
//!
//! Owns the names: they stay, dashboards and alerts hang on them. Units stand in the names, and are
//! base units; what only grows ends in `_total`. The two formats differ in little: OpenMetrics
//! names the family of a counter without `_total`, tells units, and ends with `# EOF`.

use std::fmt::{Display, Write};

use super::overview::{Overview, Plan};
use crate::block::{Depth, PoolPlan};
use crate::clock::{Mono, UnixNs};
use crate::memory::Figures;
use crate::stats::{
    BOUNDS_NS, BUCKETS, Counter, FeedStats, FeedView, GapFigures, HistogramFigures, Phase,
};

/// Content type of OpenMetrics.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the classic format.
pub(super) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kinds of families that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// Figures that are read once for a scrape.
pub(super) struct Now<'n> {
    pub(super) mono: Mono,
    pub(super) wall_ns: UnixNs,
    pub(super) figures: &'n Figures,
    /// What is out of the pool, and the most since the last scrape.
    pub(super) depth: (Depth, Depth),
    pub(super) pool: PoolPlan,
}

/// All figures.
pub(super) fn render(overview: &Overview, now: &Now<'_>, openmetrics: bool) -> String {
    let mut text = Text { out: String::new(), openmetrics, name: "" };
    recorder(&mut text, overview, now);
    feeds(&mut text, &overview.feeds(), now);
    disk(&mut text, overview, now);
    memory(&mut text, now.figures);
    if let Some(planned) = &overview.plan {
        plan(&mut text, planned);
    }
    text.end()
}

fn recorder(text: &mut Text, overview: &Overview, now: &Now<'_>) {
    let stats = &overview.stats;
    text.family("feedtape_build", Kind::Info, "", "The program.");
    text.sample("_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let ready = overview.reasons(now.mono, now.wall_ns).is_empty();
    let (depth, most) = now.depth;
    let sizes = |n: usize| n as u64;
    let gauges = [
        ("feedtape_feeds", "", "Feeds that are wanted.", sizes(overview.feeds().len())),
        ("feedtape_paused", "", "1 while an operator paused all feeds.", stats.paused.get()),
        ("feedtape_ready", "", "1 while all is recorded: /readyz.", u64::from(ready)),
        ("feedtape_queue_bytes", "bytes", "Buffers on their way to the disk.", sizes(depth.bytes)),
        ("feedtape_queue_max_bytes", "bytes", "The most since the last scrape.", sizes(most.bytes)),
        ("feedtape_queue_limit_bytes", "bytes", "All of the pool.", sizes(now.pool.bytes())),
        ("feedtape_pool_blocks_used", "", "Buffers of the pool in use.", sizes(depth.blocks)),
        ("feedtape_pool_blocks", "", "Buffers that it may have.", sizes(now.pool.blocks)),
    ];
    for (name, unit, help, value) in gauges {
        text.one(name, Kind::Gauge, unit, help, value);
    }
    let started = seconds(overview.started_ns);
    let help = "When the recorder started, Unix time.";
    text.one("process_start_time_seconds", Kind::Gauge, "seconds", help, started);
    for (name, unit, help, counter) in [
        ("feedtape_seal_failures", "", "Seals that failed.", &stats.seal_failures),
        ("feedtape_pruned_segments", "", "Segments that --keep deleted.", &stats.pruned_segments),
        ("feedtape_pruned_bytes", "bytes", "Their bytes on the disk.", &stats.pruned_bytes),
    ] {
        text.one(name, Kind::Counter, unit, help, counter.get());
    }
    times(text, overview);
}

fn times(text: &mut Text, overview: &Overview) {
    let mut syncs = HistogramFigures { buckets: [0; BUCKETS], sum_ns: 0 };
    for view in overview.views.all() {
        let figures = view.stats.sync_times.figures();
        syncs.sum_ns += figures.sum_ns;
        syncs.buckets.iter_mut().zip(figures.buckets).for_each(|(sum, count)| *sum += count);
    }
    let stats = &overview.stats;
    let lag = "From the stamp of a line until it is written, once for what is written together.";
    for (name, help, figures) in [
        ("feedtape_receive_lag_seconds", lag, stats.receive_lag.figures()),
        ("feedtape_flush_seconds", "Handing lines to the kernel.", stats.flush_times.figures()),
        ("feedtape_fsync_seconds", "Waiting until a segment is on the disk.", syncs),
        ("feedtape_seal_seconds", "Sealing a segment.", stats.seal_times.figures()),
    ] {
        text.histogram(name, help, &figures);
    }
}

fn feeds(text: &mut Text, feeds: &[FeedView], now: &Now<'_>) {
    counters(text, feeds);
    text.family("feedtape_reconnects", Kind::Counter, "", "Connections that ended, by cause.");
    for feed in feeds {
        for (cause, count) in feed.stats.causes.figures() {
            let labels = [("feed", feed.name.as_str()), ("reason", cause.word())];
            text.sample("_total", &labels, count);
        }
    }
    gaps(text, feeds);
    let phases = [
        ("feedtape_feed_live", "1 while data is to be expected.", Phase::Live),
        ("feedtape_feed_stale", "1 while no data came for --stale-after.", Phase::Stale),
        ("feedtape_feed_paused", "1 while an operator has paused it.", Phase::Paused),
    ];
    for (name, help, phase) in phases {
        text.family(name, Kind::Gauge, "", help);
        for feed in feeds {
            let is_so = u8::from(feed.stats.phase.get() == phase);
            text.sample("", &[("feed", feed.name.as_str())], is_so);
        }
    }
    let help = "When data last came, Unix time; not there before the first.";
    text.family("feedtape_last_data_timestamp_seconds", Kind::Gauge, "seconds", help);
    for feed in feeds {
        if let Some(at) = last_data_ns(feed, now.mono, now.wall_ns) {
            text.sample("", &[("feed", feed.name.as_str())], seconds(at));
        }
    }
}

/// What each feed counts by itself.
fn counters(text: &mut Text, feeds: &[FeedView]) {
    type Get = fn(&FeedStats) -> &Counter;
    let counters: [(&str, &str, &str, Get); 10] = [
        ("feedtape_messages", "", "Messages put on the tape.", |feed| &feed.messages),
        ("feedtape_message_bytes", "bytes", "Their payload.", |feed| &feed.bytes),
        ("feedtape_wire_bytes", "bytes", "Bytes read, below TLS.", |feed| &feed.wire_bytes),
        ("feedtape_connects", "", "Connections that were made.", |feed| &feed.connections),
        ("feedtape_connect_failures", "", "Attempts and polls that failed.", |feed| {
            &feed.connect_failures
        }),
        ("feedtape_refusals", "", "Subscriptions that the venue refused.", |feed| &feed.refusals),
        ("feedtape_silent_keys", "", "Times that a symbol fell silent.", |feed| &feed.silent_keys),
        ("feedtape_segments", "", "Segments opened.", |feed| &feed.segments),
        ("feedtape_tape_bytes", "bytes", "Plain bytes of segments.", |feed| &feed.tape_bytes),
        ("feedtape_sealed_bytes", "bytes", "Bytes of sealed segments.", |feed| &feed.sealed_bytes),
    ];
    for (name, unit, help, get) in counters {
        text.family(name, Kind::Counter, unit, help);
        for feed in feeds {
            text.sample("_total", &[("feed", feed.name.as_str())], get(&feed.stats).get());
        }
    }
}

fn gaps(text: &mut Text, feeds: &[FeedView]) {
    type Get = fn(&GapFigures) -> u64;
    let gaps: [(&str, &str, &str, Get); 3] = [
        ("feedtape_gaps", "", "Holes written to the tape, by reason.", |gap| gap.holes),
        ("feedtape_gap_messages", "", "Messages known to be lost in them.", |gap| gap.messages),
        ("feedtape_gap_bytes", "bytes", "Their payload.", |gap| gap.bytes),
    ];
    for (name, unit, help, get) in gaps {
        text.family(name, Kind::Counter, unit, help);
        for feed in feeds {
            for gap in feed.stats.gaps.figures() {
                let reason = gap.reason.to_string();
                let labels = [("feed", feed.name.as_str()), ("reason", reason.as_str())];
                text.sample("_total", &labels, get(&gap));
            }
        }
    }
}

/// When data last came, in wall time.
pub(super) fn last_data_ns(feed: &FeedView, mono: Mono, wall_ns: UnixNs) -> Option<UnixNs> {
    let at = feed.stats.data_at.get();
    (at > 0).then(|| wall_ns.saturating_sub(mono.since(Mono(at)).as_nanos() as u64))
}

fn disk(text: &mut Text, overview: &Overview, now: &Now<'_>) {
    let disk = overview.disk(now.mono);
    let until_full = "Time until it is full, at the mean rate since the start.";
    for (name, unit, help, value) in [
        ("feedtape_disk_free_bytes", "bytes", "What may still be written.", disk.free_bytes),
        ("feedtape_disk_size_bytes", "bytes", "Size of the disk.", disk.total_bytes),
        ("feedtape_disk_min_free_bytes", "bytes", "--min-free.", Some(disk.min_free_bytes)),
        ("feedtape_disk_full_seconds", "seconds", until_full, disk.full_in_s),
        ("feedtape_disk_stalled", "", "1 while it takes nothing.", Some(u64::from(disk.stalled))),
    ] {
        text.some(name, unit, help, value);
    }
}

fn memory(text: &mut Text, figures: &Figures) {
    for (name, unit, help, value) in [
        ("process_resident_memory_bytes", "bytes", "Resident memory.", figures.rss_bytes),
        ("process_virtual_memory_bytes", "bytes", "Address space.", figures.vsz_bytes),
        ("feedtape_memory_anon_bytes", "bytes", "Heap and stacks.", figures.rss_anon_bytes),
        ("feedtape_memory_peak_bytes", "bytes", "The most resident.", figures.rss_peak_bytes),
        ("feedtape_heap_in_use_bytes", "bytes", "Allocated.", figures.heap_in_use_bytes),
        ("feedtape_heap_held_bytes", "bytes", "Held by the allocator.", figures.heap_held_bytes),
        ("feedtape_cgroup_usage_bytes", "bytes", "Of the limit.", figures.cgroup_usage_bytes),
        ("feedtape_cgroup_limit_bytes", "bytes", "The limit.", figures.cgroup_limit_bytes),
        ("process_open_fds", "", "Open descriptors.", figures.fds),
        ("process_threads", "", "Threads.", figures.threads),
    ] {
        text.some(name, unit, help, value);
    }
}

fn plan(text: &mut Text, plan: &Plan) {
    let help = "Resident memory that was planned, by row of feedtape plan.";
    text.family("feedtape_memory_plan_bytes", Kind::Gauge, "bytes", help);
    let rows = [("idle", plan.idle_bytes), ("full", plan.full_bytes), ("large", plan.large_bytes)];
    for (row, bytes) in rows {
        text.sample("", &[("row", row)], bytes);
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// What is written, and the family that is written now.
struct Text {
    out: String,
    openmetrics: bool,
    name: &'static str,
}

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{line}").expect("a string takes everything");
    }

    /// The head of a family; its samples must follow at once.
    fn family(&mut self, name: &'static str, kind: Kind, unit: &str, help: &str) {
        debug_assert!(name.ends_with(unit), "{name}: the unit ends the name");
        let (suffix, word) = match (kind, self.openmetrics) {
            (Kind::Counter, true) => ("", "counter"),
            (Kind::Counter, false) => ("_total", "counter"),
            (Kind::Gauge, _) => ("", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
            (Kind::Info, true) => ("", "info"),
            (Kind::Info, false) => ("_info", "gauge"),
        };
        self.line(format_args!("# HELP {name}{suffix} {help}"));
        self.line(format_args!("# TYPE {name}{suffix} {word}"));
        if self.openmetrics && !unit.is_empty() {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.name = name;
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels {
            let value = escaped(value);
            write!(self.out, "{separator}{name}=\"{value}\"").expect("a string takes everything");
            separator = ',';
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    /// A family of one sample.
    fn one(&mut self, name: &'static str, kind: Kind, unit: &str, help: &str, value: impl Display) {
        self.family(name, kind, unit, help);
        self.sample(if kind == Kind::Counter { "_total" } else { "" }, &[], value);
    }

    /// A gauge that is there only where it is known.
    fn some(&mut self, name: &'static str, unit: &str, help: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.one(name, Kind::Gauge, unit, help, value);
        }
    }

    fn histogram(&mut self, name: &'static str, help: &str, figures: &HistogramFigures) {
        self.family(name, Kind::Histogram, "seconds", help);
        let mut count = 0;
        for (at, bucket) in figures.buckets.iter().enumerate() {
            count += bucket;
            let bound = match BOUNDS_NS.get(at) {
                // With a point always, as OpenMetrics wants it.
                Some(bound) => format!("{:?}", seconds(*bound)),
                None => "+Inf".to_string(),
            };
            self.sample("_bucket", &[("le", &bound)], count);
        }
        self.sample("_sum", &[], seconds(figures.sum_ns));
        self.sample("_count", &[], count);
    }

    fn end(mut self) -> String {
        if self.openmetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// A label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::overview;
    use crate::stats::Cause;
    use crate::tape::event::GapReason;
    use expect_test::expect;
    use std::collections::HashSet;
    use std::time::Duration;

    fn render_both() -> [String; 2] {
        let mut overview = overview(&["btc", "eth"]);
        overview.plan = Some(Plan { idle_bytes: 10, full_bytes: 20, large_bytes: 30 });
        let stats = overview.feeds()[0].stats.clone();
        stats.messages.add(7);
        stats.causes.count(Cause::Lost);
        stats.gaps.count(GapReason::Stall, 3, 90);
        stats.phase.set(Phase::Live);
        stats.data_at.set(4_000_000_000);
        overview.stats.receive_lag.observe(Duration::from_millis(1));
        overview.stats.receive_lag.observe(Duration::from_millis(3));
        let figures = Figures { rss_bytes: Some(5), ..Figures::default() };
        let now = Now {
            mono: Mono(5_000_000_000),
            wall_ns: 1_700_000_001_500_000_000,
            figures: &figures,
            depth: (Depth { blocks: 1, bytes: 65536 }, Depth { blocks: 2, bytes: 131_072 }),
            pool: overview.pool.plan(),
        };
        [true, false].map(|openmetrics| render(&overview, &now, openmetrics))
    }

    #[test]
    fn both_formats() {
        let [open, classic] = render_both();
        let pick = |text: &str| -> String {
            let wanted =
                ["build", "messages", "reconnects", "receive_lag", "last_data", "_plan_", "EOF"];
            let lines = text.lines().filter(|line| wanted.iter().any(|word| line.contains(word)));
            let without = |line: &&str| !line.contains("_bucket") || line.contains("0.00");
            lines.filter(without).map(|line| format!("{line}\n")).collect()
        };
        expect![[r##"
            # HELP feedtape_build The program.
            # TYPE feedtape_build info
            feedtape_build_info{version="0.1.0"} 1
            # HELP feedtape_receive_lag_seconds From the stamp of a line until it is written, once for what is written together.
            # TYPE feedtape_receive_lag_seconds histogram
            # UNIT feedtape_receive_lag_seconds seconds
            feedtape_receive_lag_seconds_bucket{le="0.0001"} 0
            feedtape_receive_lag_seconds_bucket{le="0.00025"} 0
            feedtape_receive_lag_seconds_bucket{le="0.0005"} 0
            feedtape_receive_lag_seconds_bucket{le="0.001"} 1
            feedtape_receive_lag_seconds_bucket{le="0.0025"} 1
            feedtape_receive_lag_seconds_bucket{le="0.005"} 2
            feedtape_receive_lag_seconds_sum 0.004
            feedtape_receive_lag_seconds_count 2
            # HELP feedtape_messages Messages put on the tape.
            # TYPE feedtape_messages counter
            feedtape_messages_total{feed="btc"} 7
            feedtape_messages_total{feed="eth"} 0
            # HELP feedtape_reconnects Connections that ended, by cause.
            # TYPE feedtape_reconnects counter
            feedtape_reconnects_total{feed="btc",reason="lost"} 1
            # HELP feedtape_gap_messages Messages known to be lost in them.
            # TYPE feedtape_gap_messages counter
            feedtape_gap_messages_total{feed="btc",reason="stall"} 3
            # HELP feedtape_last_data_timestamp_seconds When data last came, Unix time; not there before the first.
            # TYPE feedtape_last_data_timestamp_seconds gauge
            # UNIT feedtape_last_data_timestamp_seconds seconds
            feedtape_last_data_timestamp_seconds{feed="btc"} 1700000000.5
            # HELP feedtape_memory_plan_bytes Resident memory that was planned, by row of feedtape plan.
            # TYPE feedtape_memory_plan_bytes gauge
            # UNIT feedtape_memory_plan_bytes bytes
            feedtape_memory_plan_bytes{row="idle"} 10
            feedtape_memory_plan_bytes{row="full"} 20
            feedtape_memory_plan_bytes{row="large"} 30
            # EOF
        "##]].assert_eq(&pick(&open));
        expect![[r##"
            # HELP feedtape_build_info The program.
            # TYPE feedtape_build_info gauge
            feedtape_build_info{version="0.1.0"} 1
            # HELP feedtape_receive_lag_seconds From the stamp of a line until it is written, once for what is written together.
            # TYPE feedtape_receive_lag_seconds histogram
            feedtape_receive_lag_seconds_bucket{le="0.0001"} 0
            feedtape_receive_lag_seconds_bucket{le="0.00025"} 0
            feedtape_receive_lag_seconds_bucket{le="0.0005"} 0
            feedtape_receive_lag_seconds_bucket{le="0.001"} 1
            feedtape_receive_lag_seconds_bucket{le="0.0025"} 1
            feedtape_receive_lag_seconds_bucket{le="0.005"} 2
            feedtape_receive_lag_seconds_sum 0.004
            feedtape_receive_lag_seconds_count 2
            # HELP feedtape_messages_total Messages put on the tape.
            # TYPE feedtape_messages_total counter
            feedtape_messages_total{feed="btc"} 7
            feedtape_messages_total{feed="eth"} 0
            # HELP feedtape_reconnects_total Connections that ended, by cause.
            # TYPE feedtape_reconnects_total counter
            feedtape_reconnects_total{feed="btc",reason="lost"} 1
            # HELP feedtape_gap_messages_total Messages known to be lost in them.
            # TYPE feedtape_gap_messages_total counter
            feedtape_gap_messages_total{feed="btc",reason="stall"} 3
            # HELP feedtape_last_data_timestamp_seconds When data last came, Unix time; not there before the first.
            # TYPE feedtape_last_data_timestamp_seconds gauge
            feedtape_last_data_timestamp_seconds{feed="btc"} 1700000000.5
            # HELP feedtape_memory_plan_bytes Resident memory that was planned, by row of feedtape plan.
            # TYPE feedtape_memory_plan_bytes gauge
            feedtape_memory_plan_bytes{row="idle"} 10
            feedtape_memory_plan_bytes{row="full"} 20
            feedtape_memory_plan_bytes{row="large"} 30
        "##]].assert_eq(&pick(&classic));
    }

    /// Each family stands together, is told of once, and no series comes twice; a name tells its
    /// kind and unit.
    #[test]
    fn rules_of_the_formats() {
        for (text, openmetrics) in render_both().into_iter().zip([true, false]) {
            let (mut families, mut series) = (HashSet::new(), HashSet::new());
            let (mut family, mut kind) = (String::new(), String::new());
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["#", "TYPE", name, word] => {
                        assert!(families.insert(name.to_string()), "{name} comes twice");
                        assert_eq!(name, family, "TYPE follows HELP");
                        kind = word.to_string();
                    }
                    ["#", "HELP", name, ..] => family = name.to_string(),
                    ["#", "UNIT", name, unit] => {
                        assert!(openmetrics && name == family && name.ends_with(unit), "{line}");
                    }
                    ["#", "EOF"] => assert!(openmetrics),
                    _ => {
                        let name = line.split(['{', ' ']).next().unwrap();
                        let suffix = name.strip_prefix(&family).unwrap();
                        let suffixes: &[&str] = match (kind.as_str(), openmetrics) {
                            ("counter", true) => &["_total"],
                            ("info", _) => &["_info"],
                            ("histogram", _) => &["_bucket", "_sum", "_count"],
                            _ => &[""],
                        };
                        assert!(suffixes.contains(&suffix), "{line}");
                        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                        let (id, value) = line.rsplit_once(' ').unwrap();
                        assert!(series.insert(id.to_string()), "{id} comes twice");
                        value.parse::<f64>().unwrap();
                    }
                }
            }
            assert!(families.len() > 30);
            assert_eq!(text.ends_with("# EOF\n"), openmetrics);
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
