//! How long to wait before the next connection attempt: capped, jittered, and pure.
//!
//! Owns the rule only; waiting and the reasons for it are the session's.

use std::time::Duration;

/// A random part of up to this is added to what a server asked for, or of up to as much again where
/// that is less: it asks all feeds of a host at once, and they must not come back at once.
pub const FLOOR_JITTER_MAX: Duration = Duration::from_secs(5);

/// The waits of one feed. The n-th wait in a row (n from 1) is uniform between `min / 2` and
/// `min(max, min * 2^(n-1))`, so that many feeds cut at once don't come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// `min` and `max` bound the waits (`max` is raised to `min` where it is less); `seed` makes
    /// the jitter repeatable.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Backoff { min, max: max.max(min), attempts: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The next wait, at least `floor` (a server's Retry-After), and then at most twice as much, or
    /// [`FLOOR_JITTER_MAX`] more than it.
    pub fn next_wait(&mut self, floor: Duration) -> Duration {
        let doublings = self.attempts.min(31);
        self.attempts = self.attempts.saturating_add(1);
        let upper = self.min.saturating_mul(1 << doublings).min(self.max);
        let lower = self.min / 2;
        let wait = lower + (upper - lower).mul_f64(self.random.f64());
        if floor.is_zero() {
            return wait;
        }
        let jitter = floor.min(FLOOR_JITTER_MAX).mul_f64(self.random.f64());
        wait.max(floor.saturating_add(jitter))
    }

    /// The waits start again from the shortest: the last connection was healthy.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Waits in a row since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_in_their_bounds_and_reset() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        for seed in 0..200 {
            let mut backoff = Backoff::new(min, max, seed);
            for n in 1..80u32 {
                let wait = backoff.next_wait(Duration::ZERO);
                let upper = max.min(min * 2u32.saturating_pow(n - 1).min(64));
                assert!(wait >= min / 2 && wait <= upper, "seed {seed}, wait {n}: {wait:?}");
            }
            backoff.reset();
            assert!(backoff.next_wait(Duration::ZERO) <= min, "seed {seed}");
        }
    }

    #[test]
    fn jitter_spreads_and_the_floor_holds() {
        let mut backoff = Backoff::new(Duration::from_secs(8), Duration::from_secs(8), 7);
        let waits: Vec<_> = (0..50).map(|_| backoff.next_wait(Duration::ZERO)).collect();
        assert!(waits.iter().any(|w| *w < Duration::from_secs(5)), "{waits:?}");
        assert!(waits.iter().any(|w| *w > Duration::from_secs(7)), "{waits:?}");
        let floor = Duration::from_secs(100);
        let waits: Vec<_> = (0..50).map(|_| backoff.next_wait(floor)).collect();
        assert!(waits.iter().all(|w| *w >= floor && *w < floor + FLOOR_JITTER_MAX), "{waits:?}");
        // All feeds of a host came back in the same millisecond.
        let (first, last) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*last - *first > FLOOR_JITTER_MAX / 2, "{waits:?}");
        assert_eq!(backoff.next_wait(Duration::MAX), Duration::MAX);
    }
}
