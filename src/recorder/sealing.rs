//! The sealer as the recorder has it: what comes to it, and what its events mean to log and
//! counters.
//!
//! Owns no decision: the order of its work is the sealer's own.

use std::sync::Arc;

use anyhow::Context;

use crate::config::RecorderOptions;
use crate::report::Views;
use crate::sealer::{self, SealEvent, SealQueue, Sealer};
use crate::stats::RecorderStats;
use crate::storage::Storage;
use crate::tape::name::SegmentName;
use crate::units::format_size;

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
    let on_event = Box::new(move |event: SealEvent| match event {
        SealEvent::Sealed { name, raw_bytes, sealed_bytes, elapsed } => {
            if let Some(view) = views.find(&name.feed) {
                view.stats.sealed_raw_bytes.add(raw_bytes);
                view.stats.sealed_bytes.add(sealed_bytes);
            }
            stats.seal_times.observe(elapsed);
            log::info!(
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
            log::error!("{}: can't seal segment {}: {error}", name.feed, name.number);
        }
        SealEvent::Unlisted { folder, error } => {
            log::error!("can't list '{}' for segments to seal: {error}", folder.display());
        }
        SealEvent::Pruned { name, bytes, reason, .. } => {
            stats.pruned_segments.add(1);
            stats.pruned_bytes.add(bytes);
            let size = format_size(bytes);
            log::info!("{}: deleted segment {}, {size}: {reason}", name.feed, name.number);
        }
        SealEvent::PruneFailed { path, error } => {
            log::error!("can't delete old segments: '{}': {error}", path.display());
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
