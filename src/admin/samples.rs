//! Memory over the last hours, in samples; and the figures of just now.
//!
//! Owns how often the process is asked: figures cost some hundred microseconds, so whoever asks
//! again at once is told the same.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::overview::Sentence;
use crate::clock::{self, Mono, UnixNs};
use crate::memory::Figures;

/// Between two samples.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Samples that are kept: six hours.
const SAMPLES_MAX: usize = 2160;
/// What they take at most, in bytes.
pub(super) const SAMPLES_BYTES_MAX: usize = SAMPLES_MAX * size_of::<Sample>();
/// Figures are as good as new for so long ..
const FIGURES_FRESH: Duration = Duration::from_secs(1);
/// .. and sentences, which look at each file on the disk, for so long.
const SENTENCES_FRESH: Duration = Duration::from_secs(10);

/// Memory at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Sample {
    t_ns: UnixNs,
    rss_bytes: Option<u64>,
    rss_anon_bytes: Option<u64>,
    heap_in_use_bytes: Option<u64>,
    cgroup_usage_bytes: Option<u64>,
}

pub(super) struct Samples {
    kept: VecDeque<Sample>,
    next: Mono,
    figures: Option<(Mono, Figures)>,
    sentences: Option<(Mono, Vec<Sentence>)>,
}

impl Samples {
    /// None yet; the first is due now.
    pub(super) fn new(now: Mono) -> Samples {
        Samples { kept: VecDeque::new(), next: now, figures: None, sentences: None }
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
        let figures = self.figures(now).clone();
        self.push(Sample {
            t_ns: clock::wall_now(),
            rss_bytes: figures.rss_bytes,
            rss_anon_bytes: figures.rss_anon_bytes,
            heap_in_use_bytes: figures.heap_in_use_bytes,
            cgroup_usage_bytes: figures.cgroup_usage_bytes,
        });
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

    /// Sentences of now.
    pub(super) fn sentences(&mut self, now: Mono, make: fn() -> Vec<Sentence>) -> &[Sentence] {
        if self.sentences.as_ref().is_none_or(|(at, _)| now.since(*at) >= SENTENCES_FRESH) {
            self.sentences = Some((now, make()));
        }
        &self.sentences.as_ref().expect("they were just made").1
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
        let make = || {
            vec![Sentence {
                key: "k",
                label: "l",
                bytes: Some(clock::mono_now().0),
                text: String::new(),
            }]
        };
        let first = samples.sentences(at(0), make).to_vec();
        assert_eq!(samples.sentences(at(9_999), make), first);
        assert_ne!(samples.sentences(at(10_000), make), first);
    }
}
