//! What may still be asked of a host: weights, as venues count requests.
//!
//! Owns the count of each host, shared by all polls of the recorder. A server says in a header of
//! its answers how much is used in the present window of the clock; what is under way is added to
//! it, so that polls at the same time don't overshoot. Pure but for the lock around it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::UnixNs;

/// Our clock may be ahead of the server's by so much when a window turns.
const MARGIN: Duration = Duration::from_millis(500);

/// One poll's part in the budget of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// The header that says how much is used; lower case.
    pub header: String,
    /// No poll is made that would use more.
    pub limit: u64,
    /// What is used is forgotten at multiples of this time, on the wall clock.
    pub window: Duration,
    /// What one poll costs.
    pub cost: u64,
}

/// The budgets of all hosts.
#[derive(Debug, Default)]
pub struct Budgets {
    hosts: Mutex<HashMap<(String, String), Used>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Used {
    /// The window that `known` counts in, by its number since 1970.
    window: u64,
    /// What the server said, or what we used since.
    known: u64,
    /// Costs of polls under way.
    under_way: u64,
}

/// Permission for one poll, to be given back with what the server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    window: u64,
}

impl Budgets {
    /// Asks for one poll of `host`.
    ///
    /// # Errors
    /// There is no room for it before this time has passed.
    pub fn ask(&self, host: &str, weights: &Weights, now: UnixNs) -> Result<Permit, Duration> {
        self.with(host, weights, |used| used.ask(weights, now))
    }

    /// A poll is over; `said` is what the server's header says, if it came so far.
    pub fn done(&self, host: &str, weights: &Weights, permit: Permit, said: Option<u64>) {
        self.with(host, weights, |used| used.done(weights, permit, said));
    }

    fn with<T>(&self, host: &str, weights: &Weights, act: impl FnOnce(&mut Used) -> T) -> T {
        let key = (host.to_ascii_lowercase(), weights.header.clone());
        // Nothing in here panics half way.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        act(hosts.entry(key).or_default())
    }
}

impl Used {
    fn ask(&mut self, weights: &Weights, now: UnixNs) -> Result<Permit, Duration> {
        let span = u64::try_from(weights.window.as_nanos()).unwrap_or(u64::MAX).max(1);
        let window = now / span;
        if window != self.window {
            (self.window, self.known) = (window, 0);
        }
        if self.known.saturating_add(self.under_way).saturating_add(weights.cost) > weights.limit {
            let left = window.saturating_add(1).saturating_mul(span).saturating_sub(now);
            return Err(Duration::from_nanos(left) + MARGIN);
        }
        self.under_way += weights.cost;
        Ok(Permit { window })
    }

    fn done(&mut self, weights: &Weights, permit: Permit, said: Option<u64>) {
        self.under_way = self.under_way.saturating_sub(weights.cost);
        // What was asked in another window tells nothing about this one.
        if permit.window == self.window {
            // Without a word of the server we have used at least what it costs.
            let ours = self.known.saturating_add(weights.cost);
            self.known = said.map_or(ours, |said| self.known.max(said));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn weights(cost: u64) -> Weights {
        let header = "x-mbx-used-weight-1m".to_string();
        Weights { header, limit: 100, window: Duration::from_secs(60), cost }
    }

    #[test]
    fn the_server_s_word_counts_until_the_window_turns() {
        let budgets = Budgets::default();
        let ask = |host: &str, cost, second| {
            budgets.ask(host, &weights(cost), second * SECOND).map_err(|wait| wait.as_millis())
        };
        let permit = ask("h", 10, 61).unwrap();
        budgets.done("h", &weights(10), permit, Some(95));
        assert_eq!(ask("H", 10, 70), Err(50_500), "the same host");
        assert!(ask("other", 10, 70).is_ok());
        let last = ask("h", 5, 70).unwrap();
        assert_eq!(ask("h", 1, 71), Err(49_500), "one is under way");
        let next = ask("h", 90, 120).unwrap();
        budgets.done("h", &weights(5), last, Some(100));
        assert!(ask("h", 10, 121).is_ok(), "what was asked before the turn says nothing now");
        budgets.done("h", &weights(90), next, None);
        assert_eq!(ask("h", 1, 122), Err(58_500), "without its word we count ourselves");
    }

    #[test]
    fn polls_at_the_same_time_do_not_overshoot() {
        let budgets = Budgets::default();
        let all: Vec<_> =
            (0..8).map(|_| budgets.ask("h", &weights(30), 5 * SECOND).is_ok()).collect();
        assert_eq!(all.iter().filter(|ok| **ok).count(), 3);
    }

    #[test]
    fn words_that_come_late_do_not_lower_the_count() {
        let budgets = Budgets::default();
        let first = budgets.ask("h", &weights(10), SECOND).unwrap();
        let second = budgets.ask("h", &weights(10), SECOND).unwrap();
        budgets.done("h", &weights(10), second, Some(90));
        budgets.done("h", &weights(10), first, Some(80));
        assert!(budgets.ask("h", &weights(20), SECOND).is_err());
        assert!(budgets.ask("h", &weights(10), SECOND).is_ok());
    }
}
