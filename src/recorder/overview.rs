//! What the admin endpoint may look at, and its start.
//!
//! Owns nothing that runs: the endpoint reads counters, and sends its orders to the main thread.

use std::sync::Arc;

use anyhow::Context;

use crate::admin::order::Order;
use crate::admin::{Admin, Explained, Overview, Plan, ReadEarlier};
use crate::block::Pool;
use crate::clock::{self, mono_now};
use crate::config::RecorderOptions;
use crate::stats::{Pulse, RecorderStats, Views};

/// What others know of the recorder's memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Explain {
    /// Each figure of this process's memory in words.
    pub memory: Option<fn() -> Explained>,
    /// Reads the memory of earlier runs from the recorder's own tape.
    pub earlier_memory: Option<ReadEarlier>,
    /// What was planned.
    pub plan: Option<Plan>,
}

/// Starts the endpoint where one is asked for.
pub(super) fn start_admin(
    options: &RecorderOptions,
    views: &Views,
    stats: &Arc<RecorderStats>,
    pool: &Arc<Pool>,
    sealer: Arc<Pulse>,
    explain: Explain,
    send: impl Fn(Order) -> bool + Send + 'static,
) -> anyhow::Result<Option<Admin>> {
    let Some(admin) = &options.admin else { return Ok(None) };
    if let Ok(stat) = nix::sys::statvfs::statvfs(&options.out) {
        let blocks = stat.blocks() - stat.blocks_free() + stat.blocks_available();
        stats.disk_total_bytes.set(blocks.saturating_mul(stat.fragment_size()));
    }
    let overview = Overview {
        views: views.clone(),
        stats: stats.clone(),
        pulses: vec![
            ("writer", stats.writer.clone()),
            ("syncer", stats.syncer.clone()),
            ("sealer", sealer),
        ],
        pool: pool.clone(),
        out: options.out.clone(),
        host: clock::host_name(),
        started: mono_now(),
        started_ns: clock::wall_now(),
        min_free_bytes: options.min_free,
        explain: explain.memory,
        earlier_memory: explain.earlier_memory,
        plan: explain.plan,
    };
    Admin::start(admin, overview, Box::new(send)).context("--admin").map(Some)
}
