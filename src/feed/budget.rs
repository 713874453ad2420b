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
    hosts: Mutex<HashMap<String, Host>>,
}

/// One host. Both lists are in order, and go as far back as the longest window.
#[derive(Debug, Default)]
struct Host {
    /// The longest window that a feed has asked for: feeds of one host may have different rates,
    /// and each counts the connections of all.
    window_max: Duration,
    /// When it was connected to.
    connects: VecDeque<Mono>,
    /// Moments that feeds were told to come back at, one for each: were it one moment for all,
    /// hundreds would come for a few places, again and again.
    turns: VecDeque<Mono>,
}

impl ConnectBudgets {
    /// Takes one connection to `host` out of its budget, by the `turn` that the feed was told the
    /// last time, if it was. Who comes before its turn gives it back.
    ///
    /// # Errors
    /// When there is none: the feed's turn, the moment at which there will be one.
    pub fn take(&self, host: &str, rate: Rate, turn: Option<Mono>, now: Mono) -> Result<(), Mono> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(host.to_string()).or_default().take(rate, turn, now)
    }
}

impl Host {
    fn take(&mut self, rate: Rate, turn: Option<Mono>, now: Mono) -> Result<(), Mono> {
        self.window_max = self.window_max.max(rate.window);
        let window_max = self.window_max;
        let is_over = |at: &Mono| at.after(window_max) <= now;
        while self.connects.len() > RATE_COUNT_MAX as usize
            || self.connects.front().is_some_and(is_over)
        {
            self.connects.pop_front();
        }
        // Who did not come when it was its turn does not come any more.
        while self.turns.front().is_some_and(is_over) {
            self.turns.pop_front();
        }
        if let Some(own) = turn.and_then(|turn| self.turns.iter().position(|at| *at == turn)) {
            self.turns.remove(own);
        }
        // Those who wait come before who asks for the first time, but not before whose turn it is.
        let mut taken: Vec<Mono> = self.connects.iter().copied().collect();
        if turn.is_none_or(|turn| turn > now) {
            taken.extend(&self.turns);
            taken.sort_unstable();
        }
        // The first moment at which one less than allowed lie in the window behind it.
        let oldest = taken.len().checked_sub(rate.count as usize);
        let at = oldest.map(|n| taken[n].after(rate.window)).filter(|at| *at > now);
        if let Some(at) = at {
            self.turns.insert(self.turns.partition_point(|other| *other <= at), at);
            return Err(at);
        }
        self.connects.push_back(now);
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
        let take = |host, turn: Option<u64>, ms| budgets.take(host, rate, turn.map(at), at(ms));
        assert_eq!(take("a", None, 0), Ok(()));
        assert_eq!(take("a", None, 400), Ok(()));
        assert_eq!(take("a", None, 500), Err(at(1000)));
        assert_eq!(take("b", None, 500), Ok(()), "another host has its own");
        assert_eq!(take("a", None, 1000), Err(at(1400)), "1000 is taken");
        assert_eq!(take("a", Some(1000), 1100), Ok(()), "late, but in turn");
        assert_eq!(take("a", Some(1400), 1300), Err(at(1400)), "early: it has its turn again");
        assert_eq!(take("a", Some(1400), 1400), Ok(()));
        assert_eq!(take("a", None, 1401), Err(at(2100)), "from the moment of the late one on");
        assert_eq!(take("a", None, 5000), Ok(()), "who did not come is not waited for");
    }

    /// With one moment for all, 500 feeds on one host asked (and logged it) fifteen times each, and
    /// some waited long after their turn.
    #[test]
    fn each_waits_once() {
        let budgets = ConnectBudgets::default();
        let rate = Rate { count: 10, window: Duration::from_secs(1) };
        let mut turns: Vec<Option<Mono>> = vec![None; 95];
        let mut connects = Vec::new();
        for (n, turn) in turns.iter_mut().enumerate() {
            *turn = budgets.take("a", rate, None, at(n as u64)).err();
            connects.extend(turn.is_none().then(|| at(n as u64)));
        }
        for turn in turns.into_iter().flatten() {
            assert_eq!(budgets.take("a", rate, Some(turn), turn), Ok(()), "{turn:?}");
            connects.push(turn);
        }
        assert_eq!(connects.len(), 95);
        assert!(connects.windows(11).all(|w| w[10].since(w[0]) >= rate.window), "{connects:?}");
        assert_eq!(connects[94], at(9004), "as early as the rate allows");
    }

    /// A feed with a short window took the connections out that one with a long window counts.
    #[test]
    fn each_rate_counts_the_connections_of_all() {
        let budgets = ConnectBudgets::default();
        let rate = |count, secs| Rate { count, window: Duration::from_secs(secs) };
        let (short, long) = (rate(1, 1), rate(3, 60));
        assert_eq!(budgets.take("a", long, None, at(0)), Ok(()));
        assert_eq!(budgets.take("a", short, None, at(500)), Err(at(1000)));
        assert_eq!(budgets.take("a", short, Some(at(1000)), at(2000)), Ok(()));
        assert_eq!(budgets.take("a", short, None, at(4000)), Ok(()));
        assert_eq!(budgets.take("a", long, None, at(6000)), Err(at(60_000)));
        assert_eq!(budgets.take("a", long, Some(at(60_000)), at(60_000)), Ok(()));
    }
}
