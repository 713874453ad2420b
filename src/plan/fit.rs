//! The plan turned around: how large the pool may be within a given memory, and whether all fits
//! into the limit of a cgroup.
//!
//! Owns both decisions and what is said of them. Pure but for [`settle`], which looks at the
//! running program, and [`Confines::own`], which looks at its cgroup.

use std::path::PathBuf;

use super::host::Host;
use super::{Budget, Needs};
use crate::config::{QUEUE_BYTES, RecorderOptions};
use crate::memory::cgroup::{self, Version};
use crate::memory::process::Process;
use crate::units::{format_size, parse_size};

/// Sizes that are suggested are multiples of this.
const MIB: u64 = 1 << 20;
/// Beside the plan a group needs some page cache, without which every write waits for the disk.
const CACHE_BYTES: u64 = 8 << 20;

/// The plan of a recording; with `--memory` it also sizes the pool.
///
/// # Errors
/// It can't be done within `--memory`: what would do.
pub fn settle(options: &mut RecorderOptions, host: &Host) -> Result<Budget, String> {
    let mut needs = Needs::of(options);
    if let Some(memory) = options.memory {
        needs.queue_bytes = queue_within(memory, &needs, host)?;
        options.queue_bytes = needs.queue_bytes;
    }
    Ok(Budget::new(&needs, host))
}

/// Smallest and largest `--queue-bytes`.
fn queue_bounds() -> [usize; 2] {
    QUEUE_BYTES.map(|text| parse_size(text).expect("bounds are sizes") as usize)
}

/// The largest pool with which the largest row stays within `memory`.
fn queue_within(memory: u64, needs: &Needs, host: &Host) -> Result<usize, String> {
    let row = |queue_bytes| Budget::new(&Needs { queue_bytes, ..*needs }, host).rss.large;
    largest_queue(|queue_bytes| row(queue_bytes) <= memory).ok_or_else(|| {
        let [min, _] = queue_bounds();
        let smallest = row(min).next_multiple_of(MIB);
        let more = match message_within(memory, &Needs { queue_bytes: min, ..*needs }, host, 0) {
            Some(message) => {
                format!(", or --max-message {} or less (now {})", format_size(message), {
                    format_size(needs.message_bytes_max as u64)
                })
            }
            None => String::new(),
        };
        format!(
            "--memory '{}': is too little for {}: give --memory {} or more{more}; \
             'feedtape plan' shows what needs it",
            format_size(memory),
            needs.feeds_in_words(),
            format_size(smallest),
        )
    })
}

/// The largest pool that `fits`, in whole pages; none where the smallest does not.
fn largest_queue(fits: impl Fn(usize) -> bool) -> Option<usize> {
    const PAGE: usize = 4096;
    let [min, max] = queue_bounds();
    if !fits(min) {
        return None;
    }
    // Pages beyond the smallest: `low` fit, `high` don't, or are more than there may be.
    let (mut low, mut high) = (0, (max - min) / PAGE + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match fits(min + middle * PAGE) {
            true => low = middle,
            false => high = middle,
        }
    }
    Some(min + low * PAGE)
}

/// The largest `--max-message`, rounded down to something that can be typed, with which resident
/// memory stays within `memory` less what is taken `beside` it.
fn message_within(memory: u64, needs: &Needs, host: &Host, beside: u64) -> Option<u64> {
    let row = |bytes: u64| {
        let needs = Needs { message_bytes_max: bytes as usize, ..*needs };
        Budget::new(&needs, host).rss.large + beside
    };
    let sizes = (0..19).rev().map(|power| 1024 << power);
    sizes
        .into_iter()
        .filter(|size| *size < needs.message_bytes_max as u64)
        .find(|size| row(*size) <= memory)
}

/// The limit under which this process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confines {
    /// In bytes.
    pub bytes: u64,
    /// The folder of the group that it is set for, where that can be seen.
    pub group: Option<PathBuf>,
    /// Whether what sockets hold counts too.
    pub counts_sockets: bool,
}

impl Confines {
    /// Of the process's cgroup and those above it the smallest limit; none where there is none, or
    /// it can't be told.
    pub fn own() -> Option<Confines> {
        let group = cgroup::find(&Process::own()).ok()?;
        let limit = group.limit()?;
        let counts_sockets = group.version == Version::V2;
        Some(Confines { bytes: limit.bytes, group: limit.folder, counts_sockets })
    }

    /// As in `cgroup '/sys/fs/cgroup/x'`.
    pub fn name(&self) -> String {
        match &self.group {
            Some(folder) => format!("cgroup '{}'", folder.display()),
            None => "cgroup, which can't be seen from here".to_string(),
        }
    }

    /// What counts against the limit at the worst, in bytes.
    pub fn counted(&self, budget: &Budget) -> u64 {
        let unread = if self.counts_sockets { 0 } else { budget.unread_bytes };
        budget.largest() - unread
    }

    /// Whether the plan fits.
    ///
    /// # Errors
    /// It does not: the figures, and what to do.
    pub fn check(&self, budget: &Budget, needs: &Needs, host: &Host) -> Result<(), String> {
        let counted = self.counted(budget);
        if counted <= self.bytes {
            return Ok(());
        }
        let kernel = counted - budget.rss.large;
        let limit = format_size(self.bytes);
        let advised = format_size(advised_limit(counted));
        let raise = format!(
            "raise the limit to {advised} (systemd: MemoryMax={}M, docker: -m {}m)",
            advised_limit(counted) / MIB,
            advised_limit(counted) / MIB
        );
        let mut remedies = vec![raise];
        let queue = largest_queue(|queue_bytes| {
            let needs = Needs { queue_bytes, ..*needs };
            self.counted(&Budget::new(&needs, host)) <= self.bytes
        });
        remedies.extend(
            queue
                .filter(|queue| *queue < needs.queue_bytes)
                .map(|queue| format!("give --queue-bytes {}KiB", queue / 1024)),
        );
        let message = message_within(self.bytes, needs, host, kernel);
        remedies.extend(message.map(|bytes| format!("give --max-message {}", format_size(bytes))));
        Err(format!(
            "memory for {} may come to {} ({} with the pool full and one message of \
             {} on its way, {} in the kernel), but the limit of {} is {limit}: {}; \
             'feedtape plan' shows what needs it",
            needs.feeds_in_words(),
            format_size(counted),
            format_size(budget.rss.large),
            format_size(needs.message_bytes_max as u64),
            format_size(kernel),
            self.name(),
            remedies.join(", or ")
        ))
    }
}

/// The limit to set for a plan that may come to so many bytes: an eighth more, and some page cache.
pub fn advised_limit(counted: u64) -> u64 {
    (counted + counted / 8 + CACHE_BYTES).next_multiple_of(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealer::Compression;

    const HOST: Host = Host {
        program_bytes: 9 << 20,
        tls_library_bytes: 3 << 20,
        heap_bytes: 300 << 10,
        vsz_bytes: 18 << 20,
        tcp_receive_bytes: 128 << 10,
    };

    fn needs(streams: usize, message_bytes_max: usize) -> Needs {
        Needs {
            streams,
            streams_tls: streams,
            polls: 1,
            polls_tls: 0,
            connectors: 1,
            keys: 0,
            feeds_max: streams + 1,
            message_bytes_max,
            queue_bytes: 4 << 20,
            compression: Compression::Zstd { level: 3 },
            has_sealer: true,
            has_own_tape: true,
            has_admin: false,
        }
    }

    #[test]
    fn a_pool_within_memory_is_as_large_as_it_can_be() {
        for (streams, memory) in [(1, 100), (16, 100), (256, 200), (1000, 3000)] {
            let (needs, memory) = (needs(streams, 16 << 20), memory << 20);
            let queue_bytes = queue_within(memory, &needs, &HOST).unwrap();
            let row = |queue_bytes| Budget::new(&Needs { queue_bytes, ..needs }, &HOST).rss.large;
            assert!(row(queue_bytes) <= memory, "{streams}");
            let [_, max] = queue_bounds();
            assert!(queue_bytes == max || row(queue_bytes + 4096) > memory, "{streams}");
        }
    }

    #[test]
    fn the_smallest_memory_that_is_named_would_do() {
        for streams in [1, 16, 256] {
            let needs = needs(streams, 16 << 20);
            let error = queue_within(10 << 20, &needs, &HOST).unwrap_err();
            let (_, rest) = error.split_once("give --memory ").unwrap();
            let smallest = parse_size(rest.split(' ').next().unwrap()).unwrap();
            assert!(queue_within(smallest, &needs, &HOST).is_ok(), "{error}");
            assert!(queue_within(smallest - MIB, &needs, &HOST).is_err(), "{error}");
        }
        let error = queue_within(40 << 20, &needs(1, 16 << 20), &HOST).unwrap_err();
        assert!(error.contains("or --max-message 4MiB or less (now 16MiB)"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let needs = needs(16, 16 << 20);
        let budget = Budget::new(&needs, &HOST);
        let confines = |bytes, counts_sockets| Confines {
            bytes,
            group: Some("/sys/fs/cgroup/x".into()),
            counts_sockets,
        };
        let all = budget.largest();
        assert!(confines(all, true).check(&budget, &needs, &HOST).is_ok());
        assert!(confines(all - 1, false).check(&budget, &needs, &HOST).is_ok());
        let error = confines(all - 1, true).check(&budget, &needs, &HOST).unwrap_err();
        for part in ["cgroup '/sys/fs/cgroup/x'", "MemoryMax=", "--queue-bytes", "--max-message"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = confines(40 << 20, true).check(&budget, &needs, &HOST).unwrap_err();
        assert!(!error.contains("--queue-bytes") && error.contains("--max-message"), "{error}");
        let error = confines(4 << 20, true).check(&budget, &needs, &HOST).unwrap_err();
        assert!(error.contains("MemoryMax=") && !error.contains("--max-message"), "{error}");
    }
}
