//! Whether a figure grows for ever: from its values over the time of one run to a word.
//!
//! Owns the statistics and the words. Pure: no clock, no file, no log. What is a run, and which
//! figures there are, is its caller's to know.
//!
//! # How it is judged
//!
//! 1. **Bounded**: a [`Series`] keeps at most [`BUCKETS_MAX`] values, each the lowest of some that
//!    follow each other: what is left when all that was taken for a while is given back. When it
//!    is full neighbours are merged, so months cost what an hour does.
//! 2. **Warm-up**: the second half says what is usual, by its slope and its scatter. From there
//!    backwards all counts until values leave that path for good; what is before is dropped: a
//!    start, or a step that a reload made.
//! 3. **Slope**: Theil-Sen, the median of the slopes of all pairs, which a quarter of wild values
//!    doesn't move. Its interval is Sen's, of 99 %, widened for values that follow each other.
//! 4. **Growth** is only what is steady. What is judged is cut into `PIECES` pieces, whose low
//!    values must rise from piece to piece: a step rises once, and saw-teeth fall again.
//! 5. **Settling**: a curve whose second half is clearly flatter than its first still warms up.
//!
//! Saw-teeth must be seen twice: less than one tooth looks like growth to anybody.

use std::fmt;

use crate::units::format_size;

/// A series keeps so many values at most: 20,000 pairs are looked through in no time.
pub const BUCKETS_MAX: usize = 200;
/// Nothing is said of fewer values.
const VALUES_MIN: usize = 30;
/// Nothing is said of a shorter run: memory is to be flat after the first minute.
const SPAN_MIN_S: f64 = 60.0;
/// A slope is known where the near end of its interval is at least this part of it.
const KNOWN_PART: f64 = 0.5;
/// What is judged for steadiness is cut into so many pieces.
const PIECES: usize = 8;
/// Of the rises from piece to piece so many may be missing.
const RISES_MISSING_MAX: usize = 1;
/// A rise is at least this part of the mean one; and no piece falls by more than this part.
const RISE_PART: f64 = 0.2;
const FALL_PART: f64 = 0.5;
/// A second half flatter than this part of the first is on its way to be flat.
const SETTLING_PART: f64 = 0.8;
/// Values further than so many scatters from the path are before the warm-up's end.
const PATH_SCATTERS: f64 = 6.0;
/// So many of them in a row, that is: one may be a spike.
const OFF_PATH_MIN: usize = 3;
/// Values nearer to the path than this part of it are on it.
const ROUNDING: f64 = 1e-6;
/// Normal quantile of an interval of 99 %.
const QUANTILE: f64 = 2.576;
/// Values that follow each other more closely than this are taken to do it no more than so.
const FOLLOWING_MAX: f64 = 0.95;
/// Growth below this is none: a page here and there is no news.
const BYTES_LEAST: f64 = (256 << 10) as f64;
/// And below this part of what is there.
const PART_LEAST: f64 = 0.005;
/// The same for threads and descriptors.
const COUNT_LEAST: f64 = 6.0;
const DAY_S: f64 = 86_400.0;

/// What a figure counts, and so what its growth means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Bytes that only the program can give back: its heap in use, its anonymous pages.
    Memory,
    /// Bytes of files that the kernel takes back when it needs them.
    PageCache,
    /// Bytes that the allocator holds and nobody uses.
    Fragmentation,
    /// Bytes of address space, of which no memory is used yet.
    AddressSpace,
    /// Threads, descriptors.
    Count,
}

impl Nature {
    fn least(self, level: f64) -> f64 {
        match self {
            Nature::Memory | Nature::PageCache | Nature::Fragmentation | Nature::AddressSpace => {
                BYTES_LEAST.max(PART_LEAST * level)
            }
            Nature::Count => COUNT_LEAST,
        }
    }

    /// An amount for people.
    pub fn show(self, amount: f64) -> String {
        let sign = if amount < 0.0 { "-" } else { "" };
        match self {
            Nature::Memory | Nature::PageCache | Nature::Fragmentation | Nature::AddressSpace => {
                format!("{sign}{}", format_size(amount.abs().round() as u64))
            }
            Nature::Count => format!("{amount:.1}").trim_end_matches(".0").to_string(),
        }
    }
}

/// Change per day, and the interval in which it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// The median of the slopes of all pairs of values.
    pub per_day: f64,
    /// Lower end of the interval of 99 %.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// What is to be said of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Too few values, or too short a run, for any word.
    TooShort {
        /// Of the run, in seconds.
        span_s: f64,
    },
    /// It grows, but ever more slowly.
    WarmingUp(Slope),
    /// No growth worth a word: flat, or up and down, or a step and then flat.
    Flat(Slope),
    /// It falls steadily.
    Falls(Slope),
    /// It grows steadily, and is nothing that leaks.
    Grows(Slope),
    /// It grows steadily, and nobody but the program can stop it.
    Leaks(Slope),
}

impl Verdict {
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::TooShort { .. } => "too short",
            Verdict::WarmingUp(_) => "warming up",
            Verdict::Flat(_) => "flat",
            Verdict::Falls(_) => "falls",
            Verdict::Grows(_) => "grows",
            Verdict::Leaks(_) => "leaks",
        }
    }

    /// The slope, where there is one.
    pub fn slope(&self) -> Option<Slope> {
        match *self {
            Verdict::TooShort { .. } => None,
            Verdict::WarmingUp(slope)
            | Verdict::Flat(slope)
            | Verdict::Falls(slope)
            | Verdict::Grows(slope)
            | Verdict::Leaks(slope) => Some(slope),
        }
    }

    /// The verdict on a figure of this nature, in words.
    pub fn words(&self, nature: Nature) -> Words<'_> {
        Words { verdict: self, nature }
    }
}

/// See [`Verdict::words`].
pub struct Words<'a> {
    verdict: &'a Verdict,
    nature: Nature,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |amount| self.nature.show(amount);
        match self.verdict {
            Verdict::TooShort { .. } => f.write_str("still warming up (too short to tell)"),
            Verdict::WarmingUp(_) => f.write_str("still warming up"),
            Verdict::Flat(_) => f.write_str("flat"),
            Verdict::Falls(slope) => write!(f, "falls {}/day", show(-slope.per_day)),
            Verdict::Grows(slope) => {
                write!(f, "grows {}/day", show(slope.per_day))?;
                f.write_str(match self.nature {
                    Nature::PageCache => ", probably page cache",
                    Nature::Fragmentation => ", probably fragmentation",
                    Nature::AddressSpace => ", address space only",
                    Nature::Memory | Nature::Count => "",
                })
            }
            Verdict::Leaks(slope) => write!(f, "leaks {}/day", show(slope.per_day)),
        }
    }
}

/// The values of one figure over the time of one run, in bounded memory.
#[derive(Debug, Clone, Default)]
pub struct Series {
    buckets: Vec<Bucket>,
    /// Values that a bucket takes; 0 before the first.
    values_per_bucket: u64,
}

/// Some values that follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    values: u64,
    seconds: f64,
    /// Lowest value.
    pub min: f64,
    /// Highest value.
    pub max: f64,
}

impl Bucket {
    /// Mean time of the values, in seconds.
    pub fn at_s(&self) -> f64 {
        self.seconds / self.values as f64
    }

    fn add(&mut self, other: &Bucket) {
        self.values += other.values;
        self.seconds += other.seconds;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

impl Series {
    /// Adds the value at a time of the run; times go up. What is no number is left out.
    pub fn push(&mut self, at_s: f64, value: f64) {
        if !at_s.is_finite() || !value.is_finite() {
            return;
        }
        let one = Bucket { values: 1, seconds: at_s, min: value, max: value };
        match self.buckets.last_mut() {
            Some(last) if last.values < self.values_per_bucket => last.add(&one),
            Some(_) | None => {
                if self.buckets.len() == BUCKETS_MAX {
                    self.halve();
                }
                self.values_per_bucket = self.values_per_bucket.max(1);
                self.buckets.push(one);
            }
        }
    }

    fn halve(&mut self) {
        let merged = self.buckets.chunks(2).map(|pair| {
            let mut first = pair[0];
            pair[1..].iter().for_each(|second| first.add(second));
            first
        });
        self.buckets = merged.collect();
        self.values_per_bucket *= 2;
    }

    /// What it keeps, in the order of time.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The verdict.
    pub fn judge(&self, nature: Nature) -> Verdict {
        let points: Vec<Point> =
            self.buckets.iter().map(|b| Point { at: b.at_s(), value: b.min }).collect();
        judge(&points, nature)
    }
}

#[derive(Debug, Clone, Copy)]
struct Point {
    at: f64,
    value: f64,
}

fn judge(all: &[Point], nature: Nature) -> Verdict {
    let span_s = span(all);
    if all.len() < VALUES_MIN || span_s < SPAN_MIN_S {
        return Verdict::TooShort { span_s };
    }
    let kept = after_warm_up(all);
    let line = Line::through(kept);
    let slope = line.slope();
    let growth = line.slope * span(kept);
    let level = median(kept.iter().map(|point| point.value));
    let is_known = line.nearest_to_zero() >= KNOWN_PART * line.slope.abs();
    let is_clear = is_known && growth.abs() >= nature.least(level);
    if !is_clear {
        return Verdict::Flat(slope);
    }
    let steps = Steps::of(kept);
    if growth < 0.0 {
        let is_steady = steps.are_steady(-1.0);
        return if is_steady { Verdict::Falls(slope) } else { Verdict::Flat(slope) };
    }
    if is_settling(all) || is_settling(kept) {
        return Verdict::WarmingUp(slope);
    }
    if !steps.are_steady(1.0) {
        return Verdict::Flat(slope);
    }
    match nature {
        Nature::Memory | Nature::Count => Verdict::Leaks(slope),
        Nature::PageCache | Nature::Fragmentation | Nature::AddressSpace => Verdict::Grows(slope),
    }
}

/// The part that goes on as the second half does; at least that half.
fn after_warm_up(all: &[Point]) -> &[Point] {
    let half = all.len() / 2;
    let path = Line::through(&all[half..]);
    let scatter = path.scatter(&all[half..]);
    let limit = (PATH_SCATTERS * scatter).max(ROUNDING * path.level.abs());
    let mut begin = half;
    let mut off_path = 0;
    for at in (0..half).rev() {
        if (all[at].value - path.at(all[at].at)).abs() <= limit {
            (begin, off_path) = (at, 0);
        } else {
            off_path += 1;
            if off_path == OFF_PATH_MIN {
                break;
            }
        }
    }
    &all[begin..]
}

/// Whether the second half is clearly flatter than the first.
fn is_settling(points: &[Point]) -> bool {
    let (first, second) = points.split_at(points.len() / 2);
    let (first, second) = (Line::through(first), Line::through(second));
    second.slope < SETTLING_PART * first.slope && second.high < first.low
}

/// A line through points, with the interval of its slope, per second.
#[derive(Debug, Clone, Copy)]
struct Line {
    slope: f64,
    low: f64,
    high: f64,
    /// Where it is at time 0.
    level: f64,
}

impl Line {
    fn through(points: &[Point]) -> Line {
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        for (n, a) in points.iter().enumerate() {
            let later = points[n + 1..].iter().filter(|b| b.at > a.at);
            slopes.extend(later.map(|b| (b.value - a.value) / (b.at - a.at)));
        }
        if slopes.is_empty() {
            let level = points.first().map_or(0.0, |point| point.value);
            return Line { slope: 0.0, low: f64::NEG_INFINITY, high: f64::INFINITY, level };
        }
        let pairs = slopes.len() as f64;
        let slope = quantile(&mut slopes, 0.5);
        let level = median(points.iter().map(|p| p.value - slope * p.at));
        let mut line = Line { slope, low: slope, high: slope, level };
        // Sen's interval: so many pairs on each side of the median.
        let n = points.len() as f64;
        let spread = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let part = QUANTILE * spread * line.widening(points) / pairs / 2.0;
        line.low = quantile(&mut slopes, (0.5 - part).max(0.0));
        line.high = quantile(&mut slopes, (0.5 + part).min(1.0));
        line
    }

    fn at(&self, at: f64) -> f64 {
        self.level + self.slope * at
    }

    /// The least that the slope may be, whichever way it goes; negative where it may be none.
    fn nearest_to_zero(&self) -> f64 {
        if self.slope < 0.0 { -self.high } else { self.low }
    }

    fn slope(&self) -> Slope {
        Slope { per_day: self.slope * DAY_S, low: self.low * DAY_S, high: self.high * DAY_S }
    }

    /// Median distance of points from the line, as that of a normal distribution.
    fn scatter(&self, points: &[Point]) -> f64 {
        1.4826 * median(points.iter().map(|p| (p.value - self.at(p.at)).abs()))
    }

    /// How much wider the interval is for values that follow each other: by the correlation of
    /// neighbours, as if there were fewer of them.
    fn widening(&self, points: &[Point]) -> f64 {
        let scatter = self.scatter(points);
        let off = |p: &Point| (p.value - self.at(p.at)).clamp(-4.0 * scatter, 4.0 * scatter);
        let square: f64 = points.iter().map(|p| off(p).powi(2)).sum();
        let product: f64 = points.windows(2).map(|pair| off(&pair[0]) * off(&pair[1])).sum();
        if square <= 0.0 {
            return 1.0;
        }
        let following = (product / square).clamp(0.0, FOLLOWING_MAX);
        ((1.0 + following) / (1.0 - following)).sqrt()
    }
}

/// The rises from piece to piece.
struct Steps(Vec<f64>);

impl Steps {
    fn of(points: &[Point]) -> Steps {
        let len = points.len();
        let low = |piece: usize| {
            let part = &points[piece * len / PIECES..(piece + 1) * len / PIECES];
            quantile(&mut part.iter().map(|point| point.value).collect::<Vec<_>>(), 0.25)
        };
        let levels: Vec<f64> = (0..PIECES).map(low).collect();
        Steps(levels.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }

    /// Whether it goes the same way all the time.
    fn are_steady(&self, sign: f64) -> bool {
        let rises = || self.0.iter().map(|rise| rise * sign);
        let mean = rises().sum::<f64>() / self.0.len() as f64;
        let missing = rises().filter(|rise| *rise < RISE_PART * mean).count();
        let no_fall = rises().all(|rise| rise >= -FALL_PART * mean);
        mean > 0.0 && no_fall && missing <= RISES_MISSING_MAX
    }
}

fn span(points: &[Point]) -> f64 {
    match points {
        [first, .., last] => last.at - first.at,
        [] | [_] => 0.0,
    }
}

/// The value below which this part of the values lies; 0 where there are none. Reorders them.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let place = part * last as f64;
    let (_, &mut below, above) = values.select_nth_unstable_by(place as usize, f64::total_cmp);
    let next = above.iter().copied().fold(f64::INFINITY, f64::min);
    if place.fract() > 0.0 { below + (next - below) * place.fract() } else { below }
}

/// Their median; 0 where there are none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&mut values.collect::<Vec<_>>(), 0.5)
}

#[cfg(test)]
mod tests;
