//! How much a recording writes in a day, at a given load.
//!
//! Owns the sum. Nothing of it is known beforehand: all that it needs is assumed or given, and
//! shown with the result.

use serde::Serialize;

use crate::config::RecorderOptions;
use crate::feed::FeedPlan;
use crate::sealer::Compression;
use crate::tape::line::OVERHEAD;
use crate::units::Rate;

const DAY_S: f64 = 86_400.0;
/// What JSON of a venue is compressed to, at least: one part in so many.
const RATIO_ASSUMED: f64 = 5.0;

/// What comes in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Messages of each feed over a WebSocket.
    pub rate: Rate,
    /// Bytes of such a message, on average.
    pub message_bytes: u64,
    /// Bytes of what a poll brings, on average.
    pub body_bytes: u64,
    /// What sealing makes smaller; none is to be assumed.
    pub ratio: Option<f64>,
}

/// What is written in a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Space {
    /// Messages and bodies.
    pub messages: u64,
    /// Bytes as they come.
    pub raw_bytes: u64,
    /// Bytes as they are kept.
    pub sealed_bytes: u64,
    /// By which they are smaller.
    pub ratio: f64,
}

impl Space {
    /// Of all feeds together.
    pub fn per_day(options: &RecorderOptions, load: &Load) -> Space {
        let streams = DAY_S / load.rate.window.as_secs_f64() * f64::from(load.rate.count);
        let (mut messages, mut raw) = (0.0, 0.0);
        for feed in &options.feeds {
            let (count, bytes) = match feed {
                FeedPlan::Stream(_) => (streams, load.message_bytes),
                FeedPlan::Poll(poll) => {
                    let every = poll.timing.every;
                    (every.map_or(0.0, |every| DAY_S / every.as_secs_f64()), load.body_bytes)
                }
            };
            messages += count;
            raw += count * (bytes as f64 + OVERHEAD as f64);
        }
        let ratio = match (options.compression, load.ratio) {
            (Compression::None, _) => 1.0,
            (_, Some(ratio)) => ratio,
            (Compression::Zstd { .. } | Compression::Gzip { .. }, None) => RATIO_ASSUMED,
        };
        let sealed_bytes = (raw / ratio) as u64;
        Space { messages: messages as u64, raw_bytes: raw as u64, sealed_bytes, ratio }
    }
}
