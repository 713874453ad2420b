//! How long things took, counted into fixed buckets.
//!
//! Owns the bounds. Adding is two atomic additions and a search among a few numbers; nothing is
//! allocated.

use std::time::Duration;

use super::Counter;

/// Upper bounds of the buckets in nanoseconds; what is longer falls into a last one without bound.
pub const BOUNDS_NS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
    300_000_000_000,
];
/// With the one without bound.
pub const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// Spans of time by their length.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_ns: Counter,
}

/// What a [`Histogram`] held at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistogramFigures {
    /// Spans in each bucket, those of smaller buckets not included.
    pub buckets: [u64; BUCKETS],
    /// All spans together, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// One more span.
    pub fn observe(&self, span: Duration) {
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_NS.partition_point(|bound| *bound < ns)].add(1);
        self.sum_ns.add(ns);
    }

    /// What there is now.
    pub fn figures(&self) -> HistogramFigures {
        HistogramFigures {
            buckets: std::array::from_fn(|at| self.buckets[at].get()),
            sum_ns: self.sum_ns.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for (ns, bucket) in [
            (0, 0),
            (100_000, 0),
            (100_001, 1),
            (1_000_000, 3),
            (300_000_000_000, 15),
            (300_000_000_001, 16),
        ] {
            let before = histogram.figures();
            histogram.observe(Duration::from_nanos(ns));
            let after = histogram.figures();
            let grown: Vec<usize> =
                (0..BUCKETS).filter(|at| after.buckets[*at] > before.buckets[*at]).collect();
            assert_eq!(grown, [bucket], "{ns}");
            assert_eq!(after.sum_ns - before.sum_ns, ns);
        }
    }
}
