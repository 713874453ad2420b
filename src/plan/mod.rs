//! What a recording will need, before anything of it runs: memory line by line, threads,
//! descriptors, and space on the disk.
//!
//! Owns the sum. Each line is how many of something there are, by the options, times the size that
//! the code which uses it has as a constant; what no constant says was measured, and its doc says
//! how. [`host`] reads what only the running program can know of itself, `lines` knows the lines,
//! [`fit`] turns the sum around (`--memory`, the limit of a cgroup), [`space`] is the disk's part.
//! A process test measures that all of it is true. Whoever adds a buffer, a thread or a cache adds
//! it here.

pub mod fit;
pub mod host;
mod lines;
pub mod space;

use std::collections::HashSet;

use serde::Serialize;

use self::host::Host;
use crate::config::RecorderOptions;
use crate::feed::FeedPlan;
use crate::feed::tls::TlsOptions;
use crate::recorder;
use crate::recorder::limits::{FDS_BASE, FDS_PER_FEED};
use crate::sealer::Compression;
use crate::units::format_size;

/// What of the options decides how much memory there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Feeds over a WebSocket, and those of them with TLS.
    pub streams: usize,
    /// See `streams`.
    pub streams_tls: usize,
    /// Feeds that are polled, and those of them with TLS.
    pub polls: usize,
    /// See `polls`.
    pub polls_tls: usize,
    /// Different sets of TLS options: each has a CA store of its own.
    pub connectors: usize,
    /// Symbols and topics that are watched by themselves, over all feeds.
    pub keys: usize,
    /// So many feeds there may be after reloads.
    pub feeds_max: usize,
    /// The largest `--max-message` of all feeds, in bytes.
    pub message_bytes_max: usize,
    /// `--queue-bytes`.
    pub queue_bytes: usize,
    /// How segments are sealed.
    pub compression: Compression,
    /// Whether there is a sealer: it also prunes.
    pub has_sealer: bool,
    /// Whether the recorder records itself.
    pub has_own_tape: bool,
    /// Whether there is an admin endpoint.
    pub has_admin: bool,
}

impl Needs {
    /// Those of a recording.
    pub fn of(options: &RecorderOptions) -> Needs {
        let mut needs = Needs {
            streams: 0,
            streams_tls: 0,
            polls: 0,
            polls_tls: 0,
            connectors: 0,
            keys: 0,
            feeds_max: recorder::feeds_max(options),
            message_bytes_max: 0,
            queue_bytes: options.queue_bytes,
            compression: options.compression,
            has_sealer: options.compression != Compression::None || !options.keep.is_all(),
            has_own_tape: options.self_every.is_some(),
            has_admin: options.admin.is_some(),
        };
        let mut connectors: HashSet<&TlsOptions> = HashSet::new();
        for feed in &options.feeds {
            let (route, max_message) = match feed {
                FeedPlan::Stream(feed) => {
                    needs.streams += 1;
                    needs.streams_tls += usize::from(feed.target.url.tls);
                    needs.keys += feed.keys.as_ref().map_or(0, |keys| keys.expect.len());
                    (&feed.target.route, feed.target.max_message)
                }
                FeedPlan::Poll(feed) => {
                    needs.polls += 1;
                    needs.polls_tls += usize::from(feed.url.tls);
                    (&feed.route, feed.max_message)
                }
            };
            if feed.url().tls {
                connectors.insert(&route.tls);
            }
            needs.message_bytes_max = needs.message_bytes_max.max(max_message);
        }
        needs.connectors = connectors.len();
        needs
    }

    /// Feeds of all kinds.
    pub fn feeds(&self) -> usize {
        self.streams + self.polls
    }

    /// Those of all feeds, and the recorder's own.
    pub fn tapes(&self) -> usize {
        self.feeds() + usize::from(self.has_own_tape)
    }

    /// As in `1 feed`.
    pub fn feeds_in_words(&self) -> String {
        let plural = if self.feeds() == 1 { "" } else { "s" };
        format!("{} feed{plural}", self.feeds())
    }

    /// Connections with TLS.
    fn tls(&self) -> usize {
        self.streams_tls + self.polls_tls
    }
}

/// Bytes in the three states that are planned for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// All feeds are connected and nothing flows; nothing is sealed.
    pub idle: u64,
    /// The disk takes nothing, and the pool is full; an earlier segment is sealed.
    pub full: u64,
    /// The same, and one message of `--max-message` is on its way, in the costliest form.
    pub large: u64,
}

impl Rows {
    fn add(&mut self, other: Rows) {
        self.idle += other.idle;
        self.full += other.full;
        self.large += other.large;
    }
}

/// One kind of thing that takes memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is.
    pub what: &'static str,
    /// How many there are.
    pub count: u64,
    /// The size of one, in bytes, when it is used to the full.
    pub each: u64,
    /// What they take in resident memory, or in the kernel.
    pub rss: Rows,
    /// What they take in address space, in bytes.
    pub vsz: u64,
}

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// What the process itself takes.
    pub lines: Vec<Line>,
    /// What the kernel takes for it: in no figure of the process, but a cgroup may count it.
    pub kernel: Vec<Line>,
    /// Sum of the resident memory.
    pub rss: Rows,
    /// Sum of the address space, in bytes.
    pub vsz: u64,
    /// Sum of the kernel's part.
    pub kernel_rss: Rows,
    /// Threads.
    pub threads: u64,
    /// Descriptors that may be open at once.
    pub descriptors: u64,
    /// Of the kernel's part what sockets hold: a cgroup of version 1 does not count it.
    pub unread_bytes: u64,
}

impl Budget {
    /// Sums up.
    pub fn new(needs: &Needs, host: &Host) -> Budget {
        let (lines, threads) = lines::of_process(needs, host);
        let mut rss = Rows::default();
        lines.iter().for_each(|line| rss.add(line.rss));
        let kernel = lines::of_kernel(needs, host, threads, rss);
        let mut kernel_rss = Rows::default();
        kernel.iter().for_each(|line| kernel_rss.add(line.rss));
        Budget {
            vsz: lines.iter().map(|line| line.vsz).sum(),
            lines,
            kernel,
            rss,
            kernel_rss,
            unread_bytes: needs.feeds() as u64 * host.tcp_receive_bytes,
            threads,
            descriptors: FDS_BASE + FDS_PER_FEED * needs.tapes() as u64,
        }
    }

    /// The three rows, for the log.
    pub fn in_short(&self, needs: &Needs) -> String {
        format!(
            "memory planned: {} idle, {} with the pool full, {} with one message of {} on its way \
             too",
            format_size(self.rss.idle),
            format_size(self.rss.full),
            format_size(self.rss.large),
            format_size(needs.message_bytes_max as u64),
        )
    }

    /// The largest figure that a cgroup may see, in bytes.
    pub fn largest(&self) -> u64 {
        self.rss.large + self.kernel_rss.large
    }
}
