//! What the admin endpoint may look at. Nothing of it can be changed from here.
//!
//! Owns what the figures come to: whether the threads live, whether all feeds are recorded, when
//! the disk is full.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::samples::Sample;
use crate::block::Pool;
use crate::clock::{Mono, UnixNs};
use crate::stats::{FeedView, Phase, Pulse, RecorderStats, Views};
use crate::units::format_span;

/// The main thread looks around every second; reading options again may take a while.
const MAIN_SILENT_MAX: Duration = Duration::from_secs(30);
/// The disk stalls where one call to it lasts so long.
const CALL_MAX: Duration = Duration::from_secs(1);
/// What is written a day is not told before so long.
const RATE_AFTER: Duration = Duration::from_secs(60);

/// A sentence on a figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sentence {
    /// The head under which it stands, with others.
    pub section: String,
    /// The figure's name in JSON.
    pub key: &'static str,
    /// The figure's name.
    pub label: &'static str,
    /// What its value counts.
    pub unit: Unit,
    /// Its value; none where it can't be told.
    pub value: Option<u64>,
    /// What it is, and whether to worry; or why its value can't be told.
    pub text: String,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, such as threads.
    Count,
}

/// The process's memory in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explained {
    /// One for each figure, those of a section together.
    pub sentences: Vec<Sentence>,
    /// What they come to: how far it is from being killed.
    pub verdict: Option<String>,
}

/// Reads what earlier runs noted of their memory: from the recording in this folder, within these
/// times, in their order.
pub type ReadEarlier = fn(&Path, Range<UnixNs>, &mut dyn FnMut(Sample));

/// What was planned, in bytes of resident memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Nothing flows.
    pub idle_bytes: u64,
    /// The pool is full.
    pub full_bytes: u64,
    /// And a large message is on its way.
    pub large_bytes: u64,
}

/// All that may be looked at.
pub struct Overview {
    /// The feeds.
    pub views: Views,
    /// The recorder.
    pub stats: Arc<RecorderStats>,
    /// Signs of life of those without whom nothing is recorded.
    pub pulses: Vec<(&'static str, Arc<Pulse>)>,
    /// What is on its way to the disk.
    pub pool: Arc<Pool>,
    /// The recording's folder.
    pub out: PathBuf,
    /// The machine's name.
    pub host: String,
    /// When it started.
    pub started: Mono,
    /// The same, in wall time.
    pub started_ns: UnixNs,
    /// Nothing is written while less is free.
    pub min_free_bytes: u64,
    /// Explains the process's memory.
    pub explain: Option<fn() -> Explained>,
    /// Reads the memory of earlier runs; done once.
    pub earlier_memory: Option<ReadEarlier>,
    /// What was planned.
    pub plan: Option<Plan>,
}

/// The disk, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DiskFigures {
    pub(super) total_bytes: Option<u64>,
    pub(super) free_bytes: Option<u64>,
    pub(super) min_free_bytes: u64,
    pub(super) written_per_day_bytes: Option<u64>,
    pub(super) full_in_s: Option<u64>,
    pub(super) stalled: bool,
}

impl Overview {
    /// The feeds that are wanted.
    pub(super) fn feeds(&self) -> Vec<FeedView> {
        let mut all = self.views.all();
        all.retain(|view| view.stats.wanted.is_up());
        all
    }

    /// Why the recorder is not well; nothing where it is. A writer, syncer or sealer that dies ends
    /// the process, as soon as the main thread sees it.
    pub(super) fn ills(&self, now: Mono) -> Vec<String> {
        let silent = now.since(Mono(self.stats.main_at.get()).max(self.started));
        let mut ills = Vec::new();
        if silent > MAIN_SILENT_MAX {
            ills.push(format!("the main thread is silent for {} s", silent.as_secs()));
        }
        for (name, pulse) in &self.pulses {
            // One that waits for the disk is not ill.
            if let Some(due) = pulse.due()
                && now > due
                && pulse.call_since().is_none()
            {
                ills.push(format!("the {name} hangs for {} s", now.since(due).as_secs()));
            }
        }
        ills
    }

    /// Why not everything is recorded; nothing where it is.
    pub(super) fn reasons(&self, now: Mono, now_ns: UnixNs) -> Vec<String> {
        let mut reasons = self.ills(now);
        reasons.extend(self.disk_trouble(now));
        let feeds = self.feeds();
        if feeds.is_empty() {
            reasons.push("no feed is wanted".to_string());
        }
        reasons.extend(feeds.iter().filter_map(|view| reason(view, now_ns)));
        reasons
    }

    /// Why the disk takes nothing, where it does not.
    fn disk_trouble(&self, now: Mono) -> Option<String> {
        let lasted = self.stats.writer.call_since().map(|since| now.since(since));
        if let Some(lasted) = lasted.filter(|lasted| *lasted >= CALL_MAX) {
            Some(format!("the disk stalls: a call to it lasts {} s", lasted.as_secs()))
        } else if self.stats.disk_stalled.get() == 1 {
            Some("the disk takes nothing; see the log".to_string())
        } else {
            self.space_is_low()
                .then(|| "the disk is nearly full: less than --min-free is free".to_string())
        }
    }

    fn space_is_low(&self) -> bool {
        let free = self.stats.disk_free_bytes.get();
        free > 0 && free < self.min_free_bytes
    }

    /// The disk, and what goes to it.
    pub(super) fn disk(&self, now: Mono) -> DiskFigures {
        let known = |bytes: u64| (bytes > 0).then_some(bytes);
        let free_bytes = known(self.stats.disk_free_bytes.get());
        let up = now.since(self.started);
        let per_day = (up >= RATE_AFTER).then(|| {
            let (mut plain, mut sealed) = (0u64, 0u64);
            for FeedView { stats, .. } in self.views.all() {
                let open = stats.tape_bytes.get().saturating_sub(stats.sealed_raw_bytes.get());
                plain += open;
                sealed += stats.sealed_bytes.get();
            }
            let kept = (plain + sealed).saturating_sub(self.stats.pruned_bytes.get());
            (kept as f64 / up.as_secs_f64() * 86_400.0) as u64
        });
        let left = free_bytes.map(|free| free.saturating_sub(self.min_free_bytes));
        let full_in_s = match (left, per_day) {
            (Some(left), Some(per_day)) if per_day > 0 => {
                Some((left as f64 / per_day as f64 * 86_400.0) as u64)
            }
            _ => None,
        };
        DiskFigures {
            total_bytes: known(self.stats.disk_total_bytes.get()),
            free_bytes,
            min_free_bytes: self.min_free_bytes,
            written_per_day_bytes: per_day,
            full_in_s,
            stalled: self.disk_trouble(now).is_some(),
        }
    }
}

/// Why a feed is not recorded, where it is not.
fn reason(FeedView { name, stats }: &FeedView, now_ns: UnixNs) -> Option<String> {
    let phase = stats.phase.get();
    let is_well = match phase {
        Phase::Live => true,
        // It has all that was asked for.
        Phase::Ended => true,
        Phase::Waiting
        | Phase::Connecting
        | Phase::Stale
        | Phase::Paused
        | Phase::Refused
        | Phase::Failed => false,
    };
    if is_well {
        return None;
    }
    let span = Duration::from_secs(now_ns.saturating_sub(stats.phase.since()) / 1_000_000_000);
    let trouble = match stats.trouble.get() {
        words if words.is_empty() || phase == Phase::Paused => String::new(),
        words => format!(": {words}"),
    };
    Some(format!("{name}: {} since {}{trouble}", phase.word(), format_span(span)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::overview;

    fn at(s: u64) -> Mono {
        Mono(s * 1_000_000_000)
    }

    #[test]
    fn each_reason_not_to_be_ready() {
        let overview = overview(&["btc", "eth"]);
        let now_ns = || crate::clock::wall_now();
        overview.stats.main_at.set(at(100).0);
        let reasons = |s| overview.reasons(at(s), now_ns());
        assert_eq!(reasons(101), ["btc: waiting since 0", "eth: waiting since 0"]);
        let feeds = overview.feeds();
        feeds[0].stats.phase.set(Phase::Live);
        feeds[1].stats.phase.set(Phase::Paused);
        feeds[1].stats.trouble.set("lost");
        assert_eq!(reasons(101), ["eth: paused since 0"]);
        feeds[1].stats.phase.set(Phase::Connecting);
        assert_eq!(reasons(101), ["eth: connecting since 0: lost"]);
        feeds[1].stats.phase.set(Phase::Ended);
        assert!(reasons(130).is_empty());
        assert_eq!(reasons(131), ["the main thread is silent for 31 s"]);
        overview.pulses[0].1.waits_until(Some(at(60)));
        assert!(reasons(90).is_empty());
        assert_eq!(reasons(101), ["the writer hangs for 11 s"]);
        overview.pulses[0].1.waits_until(None);
        overview.stats.disk_free_bytes.set(999);
        assert_eq!(reasons(101), ["the disk is nearly full: less than --min-free is free"]);
        overview.stats.disk_free_bytes.set(1000);
        feeds[1].stats.wanted.lower();
        feeds[0].stats.wanted.lower();
        assert_eq!(reasons(101), ["no feed is wanted"]);
    }

    #[test]
    fn when_the_disk_is_full() {
        let overview = overview(&["btc"]);
        let stats = overview.feeds()[0].stats.clone();
        stats.tape_bytes.add(100_000);
        stats.sealed_raw_bytes.add(90_000);
        stats.sealed_bytes.add(10_000);
        overview.stats.disk_free_bytes.set(1_001_000);
        let early = overview.disk(at(1 + 59));
        assert_eq!((early.written_per_day_bytes, early.full_in_s), (None, None));
        let disk = overview.disk(at(1 + 86_400));
        assert_eq!((disk.written_per_day_bytes, disk.full_in_s), (Some(20_000), Some(50 * 86_400)));
        assert_eq!((disk.total_bytes, disk.stalled), (None, false));
    }
}
