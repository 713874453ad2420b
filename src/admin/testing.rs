//! A recorder to look at, for tests.

use std::sync::Arc;

use super::Overview;
use crate::block::{Pool, PoolPlan};
use crate::clock::Mono;
use crate::stats::{FeedView, Phase, Views};
use crate::tape::name::FeedName;

/// One with these feeds, which wait, started a second after the machine.
pub(super) fn overview(feeds: &[&str]) -> Overview {
    let views = Views::default();
    for (at, name) in feeds.iter().enumerate() {
        let view = FeedView { name: FeedName::new(name).unwrap(), stats: Arc::default() };
        view.stats.number.set(at as u64 + 1);
        view.stats.wanted.raise();
        view.stats.phase.set(Phase::Waiting);
        view.stats.url.set(&format!("ws://{name}.example/"));
        views.push(view);
    }
    Overview {
        views,
        stats: Arc::default(),
        pulses: vec![("writer", Arc::default())],
        pool: Arc::new(Pool::new(PoolPlan::new(1 << 20, feeds.len()), feeds.len())),
        out: "/tapes".into(),
        host: "box".to_string(),
        started: Mono(1_000_000_000),
        started_ns: 1_700_000_000_000_000_000,
        min_free_bytes: 1000,
        explain: None,
        earlier_memory: None,
        plan: None,
    }
}
