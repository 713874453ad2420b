//! A process's memory cgroup: its limit, and what counts against it, for both versions.
//!
//! Owns what the files of a group are called and mean, and what `docker stats` makes of them.
//! Where the group's folder is, `find` knows. Reads only.

mod find;

use std::path::{Path, PathBuf};

pub use self::find::find;
use super::files::{number_of, read_number, read_text};

/// Version 1 writes a limit that nobody set as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// The two kinds of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

impl Version {
    /// 1 or 2.
    pub fn number(self) -> u8 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }

    fn usage_file(self) -> &'static str {
        match self {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        }
    }

    fn limit_file(self) -> &'static str {
        match self {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }
}

/// A group that accounts for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its version.
    pub version: Version,
    /// Its folder.
    pub folder: PathBuf,
    /// The topmost group that can be seen.
    top: PathBuf,
}

/// A limit, and how far from it those are whom it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The limit, in bytes.
    pub bytes: u64,
    /// The folder of the group that it is set for: the process's own, or one above it; none where
    /// that can't be seen.
    pub folder: Option<PathBuf>,
    /// What that whole group uses, where known.
    pub usage: Option<u64>,
}

/// Figures of a group with all groups below it, in bytes; unknown is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// All that counts against the limit.
    pub usage: Option<u64>,
    /// The most there ever was of it.
    pub peak: Option<u64>,
    /// Heap and stacks of its processes.
    pub anon: Option<u64>,
    /// Page cache, shared memory included.
    pub file: Option<u64>,
    /// Of it, tmpfs and shared memory, which can't be dropped.
    pub shmem: Option<u64>,
    /// Of the page cache, what was used again lately.
    pub active_file: Option<u64>,
    /// Of the page cache, what was used once.
    pub inactive_file: Option<u64>,
    /// Of the page cache, what is not on the disk yet.
    pub dirty: Option<u64>,
    /// Of the page cache, what is on its way to the disk.
    pub writeback: Option<u64>,
    /// Memory of the kernel for the group.
    pub kernel: Option<u64>,
    /// Of it, what the kernel can give back by itself.
    pub slab_reclaimable: Option<u64>,
    /// Buffers of sockets. Version 1 doesn't count them against the limit, and knows them only
    /// where a limit for them is set.
    pub sock: Option<u64>,
    /// Anonymous memory on swap.
    pub swap: Option<u64>,
    /// Times that the usage ran into the limit.
    pub limit_hits: Option<u64>,
    /// Times that it ran into `memory.high`, where processes are slowed down.
    pub high_hits: Option<u64>,
    /// Times that nothing could be taken back, so that somebody had to be killed.
    pub ooms: Option<u64>,
    /// Processes killed.
    pub oom_kills: Option<u64>,
    /// What `docker stats` shows since 20.10.
    pub docker: Option<u64>,
    /// What `docker stats` showed up to 19.03, which knew version 1 only.
    pub docker_old: Option<u64>,
}

impl Group {
    /// A group by its folder; `top`: the topmost folder above it that is a group.
    pub fn at(version: Version, folder: PathBuf, top: PathBuf) -> Group {
        assert!(folder.starts_with(&top), "a group is below the top");
        Group { version, folder, top }
    }

    /// Reads its figures. A file that can't be read leaves what stands in it unknown.
    pub fn usage(&self) -> Usage {
        let stat = read_text(&self.folder.join("memory.stat")).unwrap_or_default();
        let mut usage = match self.version {
            Version::V1 => self.usage_v1(&stat),
            Version::V2 => self.usage_v2(&stat),
        };
        usage.usage = read_number(&self.folder.join(self.version.usage_file()));
        usage.docker = docker(usage.usage, usage.inactive_file);
        if self.version == Version::V1 {
            // Without the groups below, as docker took it.
            let cache = number_of(&stat, "cache");
            usage.docker_old = usage.usage.zip(cache).map(|(all, cache)| all.saturating_sub(cache));
        }
        usage
    }

    fn usage_v1(&self, stat: &str) -> Usage {
        // With the groups below; a name without `total_` is this group alone.
        let total = |key: &str| number_of(stat, &format!("total_{key}"));
        let number = |file: &str| read_number(&self.folder.join(file));
        let control = read_text(&self.folder.join("memory.oom_control")).unwrap_or_default();
        Usage {
            peak: number("memory.max_usage_in_bytes"),
            anon: total("rss"),
            file: total("cache"),
            shmem: total("shmem"),
            active_file: total("active_file"),
            inactive_file: total("inactive_file"),
            dirty: total("dirty"),
            writeback: total("writeback"),
            kernel: number("memory.kmem.usage_in_bytes"),
            sock: number("memory.kmem.tcp.usage_in_bytes"),
            swap: total("swap"),
            limit_hits: number("memory.failcnt"),
            oom_kills: number_of(&control, "oom_kill"),
            ..Usage::default()
        }
    }

    fn usage_v2(&self, stat: &str) -> Usage {
        let of = |key: &str| number_of(stat, key);
        let events = read_text(&self.folder.join("memory.events")).unwrap_or_default();
        // Kernels before 5.18 have no sum.
        let parts = ["slab", "kernel_stack", "pagetables", "percpu"].map(of);
        let parts = parts.into_iter().flatten().reduce(u64::saturating_add);
        Usage {
            peak: read_number(&self.folder.join("memory.peak")),
            anon: of("anon"),
            file: of("file"),
            shmem: of("shmem"),
            active_file: of("active_file"),
            inactive_file: of("inactive_file"),
            dirty: of("file_dirty"),
            writeback: of("file_writeback"),
            kernel: of("kernel").or(parts),
            slab_reclaimable: of("slab_reclaimable"),
            sock: of("sock"),
            swap: read_number(&self.folder.join("memory.swap.current")),
            limit_hits: number_of(&events, "max"),
            high_hits: number_of(&events, "high"),
            ooms: number_of(&events, "oom"),
            oom_kills: number_of(&events, "oom_kill"),
            ..Usage::default()
        }
    }

    /// Processes of the group, those of the groups below it not counted.
    pub fn count_processes(&self) -> Option<u64> {
        let members = read_text(&self.folder.join("cgroup.procs")).ok()?;
        Some(members.lines().count() as u64)
    }

    /// The smallest limit of the group and of those above it; none where nobody set one.
    pub fn limit(&self) -> Option<Limit> {
        let own = self.groups().filter_map(|folder| {
            let bytes = read_number(&folder.join(self.version.limit_file()))?;
            Some((bytes, folder)).filter(|(bytes, _)| *bytes < UNLIMITED)
        });
        // The inner one of two equal limits is the first to be met.
        let own = own.min_by_key(|(bytes, _)| *bytes).map(|(bytes, folder)| Limit {
            bytes,
            folder: Some(folder.to_path_buf()),
            usage: read_number(&folder.join(self.version.usage_file())),
        });
        let stat = read_text(&self.folder.join("memory.stat")).unwrap_or_default();
        // Version 1 tells of limits above what is mounted.
        let unseen =
            number_of(&stat, "hierarchical_memory_limit").filter(|limit| *limit < UNLIMITED);
        match (own, unseen) {
            (Some(own), Some(unseen)) if unseen < own.bytes => Some(Limit::unseen(unseen)),
            (Some(own), _) => Some(own),
            (None, unseen) => unseen.map(Limit::unseen),
        }
    }

    /// Its folder and those above it, as far as they can be seen.
    fn groups(&self) -> impl Iterator<Item = &Path> {
        self.folder.ancestors().take_while(|folder| folder.starts_with(&self.top))
    }
}

impl Limit {
    fn unseen(bytes: u64) -> Limit {
        Limit { bytes, folder: None, usage: None }
    }
}

/// The formula of docker's command line since 20.10, also of cadvisor and of containerd: all but
/// the inactive page cache, unless that is no less than all.
fn docker(usage: Option<u64>, inactive_file: Option<u64>) -> Option<u64> {
    let usage = usage?;
    Some(usage.checked_sub(inactive_file?).filter(|rest| *rest > 0).unwrap_or(usage))
}

#[cfg(test)]
mod tests;
