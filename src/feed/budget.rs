//! How often a host may be connected to, by all feeds together: venues count connections by
//! address, not by feed.
//!
//! Owns one budget for each host. Time comes in with each call; waiting is the feeds'.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::clock::Mono;
use crate::units::{RATE_COUNT_MAX, Rate};

/// The budgets of all hosts.
#[derive(Debug, Default)]
pub struct ConnectBudgets {
    /// When each host was connected to, as far back as its longest window goes.
    hosts: Mutex<HashMap<String, VecDeque<Mono>>>,
}

impl ConnectBudgets {
    /// Takes one connection to `host` out of its budget.
    ///
    /// # Errors
    /// When there is none: the moment at which there will be one.
    pub fn take(&self, host: &str, rate: Rate, now: Mono) -> Result<(), Mono> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let connects = hosts.entry(host.to_string()).or_default();
        let allowed = rate.count as usize;
        while connects.len() > RATE_COUNT_MAX as usize
            || connects.front().is_some_and(|at| at.after(rate.window) <= now)
        {
            connects.pop_front();
        }
        if connects.len() >= allowed {
            // The first moment at which one less than allowed lie in the window behind it.
            return Err(connects[connects.len() - allowed].after(rate.window));
        }
        connects.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
}
