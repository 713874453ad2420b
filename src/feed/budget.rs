//! How often a host may be connected to, by all feeds together: venues count connections by
//! address, not by feed.
//!
//! Owns one budget for each host. Time comes in with each call; waiting is the feeds'.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Mono;
use crate::units::{RATE_COUNT_MAX, Rate};

/// The budgets of all hosts.
#[derive(Debug, Default)]
pub struct ConnectBudgets {
    hosts: Mutex<HashMap<String, Connects>>,
}

/// When a host was connected to, as far back as the longest window goes that a feed has asked for:
/// feeds of one host may have different rates, and each counts the connections of all.
#[derive(Debug, Default)]
struct Connects {
    window_max: Duration,
    at: VecDeque<Mono>,
}

impl ConnectBudgets {
    /// Takes one connection to `host` out of its budget.
    ///
    /// # Errors
    /// When there is none: the moment at which there will be one.
    pub fn take(&self, host: &str, rate: Rate, now: Mono) -> Result<(), Mono> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let connects = hosts.entry(host.to_string()).or_default();
        connects.window_max = connects.window_max.max(rate.window);
        let Connects { window_max, at } = connects;
        while at.len() > RATE_COUNT_MAX as usize
            || at.front().is_some_and(|at| at.after(*window_max) <= now)
        {
            at.pop_front();
        }
        // With so many connections since, there is room again: the one that must be over.
        let oldest = at.len().checked_sub(rate.count as usize).map(|n| at[n].after(rate.window));
        if let Some(until) = oldest.filter(|until| *until > now) {
            return Err(until);
        }
        at.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(1_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn no_window_holds_more_than_its_budget() {
        let budgets = ConnectBudgets::default();
        let rate = Rate { count: 2, window: Duration::from_secs(1) };
        let take = |host, ms| budgets.take(host, rate, at(ms));
        assert_eq!(take("a", 0), Ok(()));
        assert_eq!(take("a", 400), Ok(()));
        assert_eq!(take("a", 500), Err(at(1000)));
        assert_eq!(take("b", 500), Ok(()), "another host has its own");
        assert_eq!(take("a", 1000), Ok(()));
        assert_eq!(take("a", 1001), Err(at(1400)));
        assert_eq!(take("a", 5000), Ok(()));
    }

    /// A feed with a short window took the connections out that one with a long window counts.
    #[test]
    fn each_rate_counts_the_connections_of_all() {
        let budgets = ConnectBudgets::default();
        let rate = |count, secs| Rate { count, window: Duration::from_secs(secs) };
        let (short, long) = (rate(1, 1), rate(3, 60));
        assert_eq!(budgets.take("a", long, at(0)), Ok(()));
        assert_eq!(budgets.take("a", short, at(500)), Err(at(1000)));
        assert_eq!(budgets.take("a", short, at(2000)), Ok(()));
        assert_eq!(budgets.take("a", short, at(4000)), Ok(()));
        assert_eq!(budgets.take("a", long, at(6000)), Err(at(60_000)));
        assert_eq!(budgets.take("a", long, at(60_000)), Ok(()));
    }
}
