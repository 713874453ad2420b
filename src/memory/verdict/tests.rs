//! Series with known slopes, steps, noise and saw-teeth.

use super::*;

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const HOUR: f64 = 3600.0;
/// So many seeds for each shape.
const SEEDS: u64 = 60;

/// A normally distributed number, near enough: the sum of twelve even ones.
fn normal(random: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

/// A day of the recorder, or two minutes of a hurried one: values every `every` seconds.
fn series(span: f64, every: f64, mut value: impl FnMut(f64) -> f64) -> Series {
    let mut series = Series::default();
    for n in 0..=(span / every) as u64 {
        let at = n as f64 * every;
        series.push(at, value(at));
    }
    series
}

/// What a clean recorder may show: a level, and on it what the name says.
type Shape = fn(at: f64, span: f64, random: &mut fastrand::Rng) -> f64;

/// None of them grows for ever.
const CLEAN: [(&str, Shape); 14] = [
    ("constant", |_, _, _| 20.0 * MIB),
    ("noise", |_, _, r| 20.0 * MIB + MIB * normal(r)),
    ("noise of pages", |_, _, r| 20.0 * MIB + (4.0 * normal(r)).round() * 4.0 * KIB),
    ("heavy tails", |_, _, r| 20.0 * MIB + 100.0 * KIB * normal(r) / (r.f64() + 0.01)),
    ("spikes", |_, _, r| if r.u32(..50) == 0 { 90.0 * MIB } else { 20.0 * MIB + KIB * normal(r) }),
    ("a step", |at, span, r| step(at, span, &[0.4]) + 30.0 * KIB * normal(r)),
    ("a late step", |at, span, r| step(at, span, &[0.7]) + 30.0 * KIB * normal(r)),
    ("a very late step", |at, span, _| step(at, span, &[0.9])),
    ("three steps", |at, span, r| step(at, span, &[0.3, 0.5, 0.8]) + 30.0 * KIB * normal(r)),
    ("up and down", |at, span, _| step(at, span, &[0.5]) - step(at, span, &[0.75])),
    ("saw-teeth", |at, span, r| 20.0 * MIB + saw(at, span / 24.0) + 30.0 * KIB * normal(r)),
    ("few saw-teeth", |at, span, _| 20.0 * MIB + saw(at, span / 2.6)),
    ("pulses", |at, span, r| pulse(at, span / 24.0, r)),
    ("warm-up", |at, span, r| warm_up(at, span / 10.0) + 30.0 * KIB * normal(r)),
];

fn step(at: f64, span: f64, places: &[f64]) -> f64 {
    let passed = places.iter().filter(|place| at > span * **place).count();
    20.0 * MIB + 3.0 * MIB * passed as f64
}

fn saw(at: f64, period: f64) -> f64 {
    8.0 * MIB * (at / period).fract()
}

/// A tenth of the time something large is there: a sealer's contexts.
fn pulse(at: f64, period: f64, random: &mut fastrand::Rng) -> f64 {
    let is_up = (at / period).fract() > 0.9;
    20.0 * MIB + if is_up { 8.0 * MIB } else { 0.0 } + 30.0 * KIB * normal(random)
}

fn warm_up(at: f64, tau: f64) -> f64 {
    20.0 * MIB * (1.0 - (-at / tau).exp())
}

/// A day at the default pace, and two minutes of a hurried run.
const PACES: [(f64, f64); 3] = [(24.0 * HOUR, 10.0), (HOUR, 10.0), (120.0, 0.1)];

#[test]
fn clean_series_are_never_accused() {
    for (name, shape) in CLEAN {
        for (span, every) in PACES {
            for seed in 0..SEEDS {
                let mut random = fastrand::Rng::with_seed(seed);
                let series = series(span, every, |at| shape(at, span, &mut random));
                let verdict = series.judge(Nature::Memory);
                let is_accused = matches!(verdict, Verdict::Leaks(_) | Verdict::Grows(_));
                assert!(!is_accused, "{name}, {span} s, seed {seed}: {verdict:?}");
            }
        }
    }
}

/// At any moment: what is right at the end may be wrong on the way there.
#[test]
fn a_start_is_never_accused() {
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut series = Series::default();
        for n in 0..1800 {
            let at = f64::from(n) * 0.5;
            series.push(at, warm_up(at, 40.0) + 30.0 * KIB * normal(&mut random));
            if n % 20 == 0 {
                let verdict = series.judge(Nature::Memory);
                let is_accused = matches!(verdict, Verdict::Leaks(_));
                assert!(!is_accused, "seed {seed}, after {at} s: {verdict:?}");
            }
        }
        assert_eq!(series.judge(Nature::Memory).word(), "flat", "seed {seed}");
    }
}

/// What a leak hides under.
const UNDER: [(&str, Shape); 7] = [
    ("nothing", |_, _, _| 20.0 * MIB),
    ("noise", |_, _, r| 20.0 * MIB + 200.0 * KIB * normal(r)),
    ("spikes", |_, _, r| if r.u32(..50) == 0 { 90.0 * MIB } else { 20.0 * MIB + KIB * normal(r) }),
    ("saw-teeth", |at, span, r| 20.0 * MIB + saw(at, span / 32.0) + 30.0 * KIB * normal(r)),
    ("pulses", |at, span, r| pulse(at, span / 24.0, r)),
    ("a warm-up", |at, span, r| warm_up(at, span / 50.0) + 30.0 * KIB * normal(r)),
    ("a step", |at, span, r| step(at, span, &[0.3]) - 2.0 * MIB + 30.0 * KIB * normal(r)),
];

/// So much in the time of the series is always found.
const LEAK: f64 = 4.0 * MIB;

#[test]
fn leaks_are_always_named_and_measured() {
    let (mut all, mut off) = (0, 0);
    for (name, shape) in UNDER {
        for (span, every) in PACES {
            let mut missed = Vec::new();
            for seed in 0..SEEDS {
                let mut random = fastrand::Rng::with_seed(seed);
                let series =
                    series(span, every, |at| shape(at, span, &mut random) + LEAK * at / span);
                match series.judge(Nature::Memory) {
                    Verdict::Leaks(slope) => {
                        let truth = LEAK * DAY_S / span;
                        off += u64::from(!(slope.low <= truth && truth <= slope.high));
                        let error = (slope.per_day - truth).abs() / truth;
                        assert!(error < 0.2, "{name}, {span} s, seed {seed}: {slope:?}, {truth}");
                    }
                    other => missed.push((seed, other)),
                }
            }
            assert!(
                missed.is_empty(),
                "{name}, {span} s: {} missed: {:?}",
                missed.len(),
                missed[0]
            );
            all += SEEDS;
        }
    }
    // Where a warm-up or a step bends the series it is off by more than chance would have it.
    assert!(off * 20 <= all, "{off} of {all} slopes are outside of their interval");
}

#[test]
fn words() {
    let check = |nature: Nature, expected: &str, value: &dyn Fn(f64) -> f64| {
        let verdict = series(24.0 * HOUR, 10.0, value).judge(nature);
        assert_eq!(verdict.words(nature).to_string(), expected, "{verdict:?}");
    };
    let day = 24.0 * HOUR;
    check(Nature::Memory, "flat", &|_| 5.0 * MIB);
    check(Nature::Memory, "leaks 1.2MiB/day", &|at| 5.0 * MIB + 1.2 * MIB * at / day);
    let grows = |at: f64| 80.0 * MIB + 1.2 * MIB * at / day;
    check(Nature::PageCache, "grows 1.2MiB/day, probably page cache", &grows);
    check(Nature::Fragmentation, "grows 1.2MiB/day, probably fragmentation", &grows);
    check(Nature::Memory, "flat", &|at| step(at, day, &[0.7]));
    check(Nature::Memory, "falls 2MiB/day", &|at| 9.0 * MIB - 2.0 * MIB * at / day);
    check(Nature::Memory, "still warming up", &|at| warm_up(at, day / 2.0));
    check(Nature::Count, "leaks 24/day", &|at| (10.0 + at / HOUR).floor());
    check(Nature::Count, "flat", &|at| 10.0 + (at / HOUR / 8.0).floor());
    // Less than a page an hour is no news.
    check(Nature::Memory, "flat", &|at| 5.0 * MIB + 200.0 * KIB * at / day);
}

#[test]
fn little_is_too_little() {
    for (span, every) in [(0.0, 1.0), (59.0, 0.1), (HOUR, 300.0)] {
        let verdict = series(span, every, |at| at * MIB).judge(Nature::Memory);
        assert!(matches!(verdict, Verdict::TooShort { .. }), "{span}: {verdict:?}");
        let words = verdict.words(Nature::Memory).to_string();
        assert_eq!(words, "still warming up (too short to tell)");
    }
    assert_eq!(Series::default().judge(Nature::Memory), Verdict::TooShort { span_s: 0.0 });
}

/// Values that are missing for hours, or that are none, change nothing.
#[test]
fn holes_do_no_harm() {
    let is_there = |at: f64| !(8.0..15.0).contains(&(at / HOUR));
    let leak =
        |at: f64| if is_there(at) { 9.0 * MIB + LEAK * at / (24.0 * HOUR) } else { f64::NAN };
    let verdict = series(24.0 * HOUR, 10.0, leak).judge(Nature::Memory);
    assert_eq!(verdict.words(Nature::Memory).to_string(), "leaks 4MiB/day");
    let flat = |at: f64| if is_there(at) { 9.0 * MIB } else { f64::INFINITY };
    assert_eq!(series(24.0 * HOUR, 10.0, flat).judge(Nature::Memory).word(), "flat");
}

#[test]
fn a_series_is_bounded_and_keeps_what_it_was_given() {
    let series = series(1e6, 1.0, |at| at);
    assert!(series.buckets().len() <= BUCKETS_MAX && series.buckets().len() >= BUCKETS_MAX / 2);
    let values: u64 = series.buckets().iter().map(|bucket| bucket.values).sum();
    assert_eq!(values, 1_000_001);
    for bucket in series.buckets() {
        assert!(bucket.min <= bucket.at_s() && bucket.at_s() <= bucket.max);
    }
}
