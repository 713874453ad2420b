//! The sealer as the recorder has it: what comes to it, and what its events mean to log and
//! counters.
//!
//! Owns no decision: the order of its work is the sealer's own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::clock::mono_now;
use crate::config::RecorderOptions;
use crate::folding::Folding;
use crate::report::Views;
use crate::sealer::{self, SealEvent, SealQueue, Sealer};
use crate::stats::RecorderStats;
use crate::storage::Storage;
use crate::tape::name::SegmentName;
use crate::units::format_size;

/// Of failures in a row so many are logged one by one.
const FAILURES_LOGGED_SINGLY: u64 = 3;
/// Where nothing failed for so long while segments are sealed, the failures are over: each is tried
/// again after a minute.
const STEADY_AFTER: Duration = Duration::from_mins(5);

/// Finished segments go to the sealer.
pub(super) fn on_finished(queue: SealQueue) -> Box<dyn FnMut(SegmentName) + Send> {
    Box::new(move |name| queue.push(name))
}

/// Starts the sealer, with all that is to be said of its work.
pub(super) fn start_sealer(
    storage: &Arc<dyn Storage>,
    options: &RecorderOptions,
    views: &Views,
    stats: &Arc<RecorderStats>,
) -> anyhow::Result<Sealer> {
    let views = views.clone();
    let stats = stats.clone();
    let mut failures = Folding::new(FAILURES_LOGGED_SINGLY);
    let on_event = Box::new(move |event: SealEvent| match event {
        SealEvent::Sealed { name, raw_bytes, sealed_bytes, elapsed } => {
            let now = mono_now();
            if !failures.is_clear() && !failures.better(now) {
                failures.over_after(now, STEADY_AFTER);
            }
            if let Some(view) = views.find(&name.feed) {
                view.stats.sealed_raw_bytes.add(raw_bytes);
                view.stats.sealed_bytes.add(sealed_bytes);
            }
            stats.seal_times.observe(elapsed);
            // That of the recorder's own tape is no news.
            let level = if name.feed.is_own() { log::Level::Debug } else { log::Level::Info };
            log::log!(
                level,
                feed = name.feed.as_str();
                "{}: sealed segment {}: {} to {} in {} ms",
                name.feed,
                name.number,
                format_size(raw_bytes),
                format_size(sealed_bytes),
                elapsed.as_millis()
            );
        }
        SealEvent::Failed { name, error } => {
            stats.seal_failures.add(1);
            let number = name.number;
            log::error!(
                feed = name.feed.as_str();
                "{}: can't seal segment {number}: {error}", name.feed
            );
        }
        SealEvent::Unlisted { folder, error } => {
            if let Some(untold) = failures.worse(mono_now(), &error.to_string()) {
                let folder = folder.display();
                log::error!("can't list '{folder}' for segments to seal: {error}{untold}");
            }
        }
        SealEvent::Pruned { name, bytes, reason, .. } => {
            stats.pruned_segments.add(1);
            stats.pruned_bytes.add(bytes);
            let size = format_size(bytes);
            let number = name.number;
            log::info!(
                feed = name.feed.as_str();
                "{}: deleted segment {number}, {size}: {reason}", name.feed
            );
        }
        SealEvent::PruneFailed { path, error } => {
            if let Some(untold) = failures.worse(mono_now(), &error.to_string()) {
                let path = path.display();
                log::error!("can't delete old segments: '{path}': {error}{untold}");
            }
        }
        SealEvent::OverKeep { bytes, keep_bytes } => log::warn!(
            "{} are on disk, more than --keep-bytes {}, and none of it may go: it is open, not \
             sealed yet, or the newest of its feed",
            format_size(bytes),
            format_size(keep_bytes)
        ),
        SealEvent::Left { .. } => {}
    });
    sealer::spawn(storage.clone(), options.compression, options.keep, on_event)
        .context("can't start the sealer")
}
