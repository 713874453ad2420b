//! Memory over the last hours, in samples; and the figures of just now, with words on them.
//!
//! Owns how often the process is asked: figures cost some hundred microseconds, so whoever asks
//! again at once is told the same.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::overview::{Explained, ReadEarlier};
use crate::clock::{self, Mono, UnixNs};
use crate::memory::Figures;
use crate::memory::verdict::{BUCKETS_MAX, Bucket, Nature, Series};

/// Between two samples.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Samples that are kept: six hours.
const SAMPLES_MAX: usize = 2160;
/// What they take at most, in bytes.
pub(super) const SAMPLES_BYTES_MAX: usize =
    SAMPLES_MAX * size_of::<Sample>() + BUCKETS_MAX * size_of::<Bucket>();
/// Figures are as good as new for so long ..
const FIGURES_FRESH: Duration = Duration::from_secs(1);
/// .. and words, for which each file on the disk is looked at, for so long.
const WORDS_FRESH: Duration = Duration::from_secs(10);

/// Memory at some moment; what is not known is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sample {
    t_ns: UnixNs,
    rss_bytes: Option<u64>,
    rss_anon_bytes: Option<u64>,
    heap_in_use_bytes: Option<u64>,
    cgroup_usage_bytes: Option<u64>,
}

impl Sample {
    /// Of the figures of a moment.
    pub fn of(t_ns: UnixNs, figures: &Figures) -> Sample {
        Sample {
            t_ns,
            rss_bytes: figures.rss_bytes,
            rss_anon_bytes: figures.rss_anon_bytes,
            heap_in_use_bytes: figures.heap_in_use_bytes,
            cgroup_usage_bytes: figures.cgroup_usage_bytes,
        }
    }
}

/// Whether the process leaks, as far as this run can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Leak {
    /// For programs.
    word: &'static str,
    /// For people, with the figure's name.
    text: String,
}

/// What is said of the memory in words.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    pub(super) explained: Explained,
    /// None where the run is too short to tell.
    pub(super) leak: Option<Leak>,
}

pub(super) struct Samples {
    kept: VecDeque<Sample>,
    next: Mono,
    /// What only the program can give back, over this run: its heap in use, or where the allocator
    /// does not tell, its anonymous pages.
    judged: Series,
    figures: Option<(Mono, Figures)>,
    words: Option<(Mono, Words)>,
}

impl Samples {
    /// None yet; the first is due now.
    pub(super) fn new(now: Mono) -> Samples {
        let judged = Series::default();
        Samples { kept: VecDeque::new(), next: now, judged, figures: None, words: None }
    }

    /// Takes over what earlier runs had, before the first of this one: of the same time as it will
    /// keep, and no denser.
    pub(super) fn read_earlier(&mut self, out: &Path, started_ns: UnixNs, read: ReadEarlier) {
        assert!(self.kept.is_empty(), "it is done before the first one is taken");
        let every_ns = SAMPLE_EVERY.as_nanos() as u64;
        let from = started_ns.saturating_sub(SAMPLES_MAX as u64 * every_ns);
        read(out, from..started_ns, &mut |sample| {
            let is_due = |last: &Sample| sample.t_ns >= last.t_ns.saturating_add(every_ns * 9 / 10);
            if self.kept.back().is_none_or(is_due) {
                self.push(sample);
            }
        });
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Mono {
        self.next
    }

    /// Takes one where it is time.
    pub(super) fn tick(&mut self, now: Mono) {
        if now < self.next {
            return;
        }
        let sample = Sample::of(clock::wall_now(), self.figures(now));
        if let Some(bytes) = sample.heap_in_use_bytes.or(sample.rss_anon_bytes) {
            self.judged.push(now.0 as f64 / 1e9, bytes as f64);
        }
        self.push(sample);
        self.next = now.after(SAMPLE_EVERY);
    }

    fn push(&mut self, sample: Sample) {
        if self.kept.len() >= SAMPLES_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(sample);
    }

    /// All that are kept.
    pub(super) fn all(&self) -> &VecDeque<Sample> {
        &self.kept
    }

    /// Figures of now.
    pub(super) fn figures(&mut self, now: Mono) -> &Figures {
        if self.figures.as_ref().is_none_or(|(at, _)| now.since(*at) >= FIGURES_FRESH) {
            self.figures = Some((now, Figures::own()));
        }
        &self.figures.as_ref().expect("they were just read").1
    }

    /// Words on the memory of now.
    pub(super) fn words(&mut self, now: Mono, explain: Option<fn() -> Explained>) -> &Words {
        if self.words.as_ref().is_none_or(|(at, _)| now.since(*at) >= WORDS_FRESH) {
            let explained = explain.map(|explain| explain()).unwrap_or_default();
            self.words = Some((now, Words { explained, leak: self.leak() }));
        }
        &self.words.as_ref().expect("they were just made").1
    }

    fn leak(&self) -> Option<Leak> {
        let is_heap = self.kept.back().is_some_and(|last| last.heap_in_use_bytes.is_some());
        let figure = if is_heap { "heap in use" } else { "heap and stacks" };
        let verdict = self.judged.judge(Nature::Memory);
        // Of too short a run there is no slope.
        verdict.slope().map(|_| {
            let text = format!("{figure}: {}", verdict.words(Nature::Memory));
            Leak { word: verdict.word(), text }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_in_time_and_stay_for_hours() {
        let at = |s: u64| Mono(1 + s * 1_000_000_000);
        let mut samples = Samples::new(at(0));
        for s in 0..=30 {
            samples.tick(at(s));
        }
        assert_eq!((samples.all().len(), samples.next()), (4, at(40)));
        let first = samples.all()[0];
        assert!(first.rss_anon_bytes > Some(0), "{first:?}");
        for _ in 0..2 * SAMPLES_MAX {
            samples.push(Sample { t_ns: 7, ..first });
        }
        assert_eq!((samples.all().len(), samples.all()[0].t_ns), (SAMPLES_MAX, 7));
    }

    #[test]
    fn who_asks_again_at_once_is_told_the_same() {
        let at = |ms: u64| Mono(1 + ms * 1_000_000);
        let mut samples = Samples::new(at(0));
        let explain: Option<fn() -> Explained> = Some(|| Explained {
            verdict: Some(clock::mono_now().0.to_string()),
            ..Explained::default()
        });
        let first = samples.words(at(0), explain).explained.clone();
        assert_eq!(samples.words(at(9_999), explain).explained, first);
        assert_ne!(samples.words(at(10_000), explain).explained, first);
    }

    /// The history began anew with each start.
    #[test]
    fn earlier_runs_are_taken_over_as_far_as_they_fit() {
        const HOUR_NS: u64 = 3600 * 1_000_000_000;
        let mut samples = Samples::new(Mono(1));
        samples.read_earlier(Path::new("/tapes"), 100 * HOUR_NS, |out, times, take| {
            assert_eq!((out, times.clone()), (Path::new("/tapes"), 94 * HOUR_NS..100 * HOUR_NS));
            // One each second, for an hour more than there is room for.
            for t_ns in (93 * HOUR_NS..times.end).step_by(1_000_000_000) {
                take(Sample::of(t_ns, &Figures { rss_bytes: Some(t_ns), ..Figures::default() }));
            }
        });
        let all = samples.all();
        assert_eq!(all.len(), SAMPLES_MAX);
        assert!(all[1].t_ns - all[0].t_ns >= 9_000_000_000, "{:?} {:?}", all[0], all[1]);
        assert!(all[SAMPLES_MAX - 1].t_ns > 100 * HOUR_NS - 10_000_000_000);
        samples.tick(Mono(1));
        assert_eq!(samples.all().len(), SAMPLES_MAX);
        assert!(samples.all()[SAMPLES_MAX - 1].rss_anon_bytes > Some(0), "of this run");
    }

    #[test]
    fn a_leak_is_told_once_there_is_enough_of_it() {
        let mut samples = Samples::new(Mono(1));
        samples.tick(Mono(1));
        assert_eq!(samples.leak(), None);
        samples.judged = Series::default();
        (0..100u32).for_each(|n| samples.judged.push(f64::from(n) * 10.0, f64::from(n << 20)));
        let leak = samples.leak().unwrap();
        assert_eq!(leak.word, "leaks");
        assert!(leak.text.starts_with("heap in use: leaks "), "{leak:?}");
    }
}
