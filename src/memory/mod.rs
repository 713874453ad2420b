//! Memory figures: what the kernel, the cgroup and the allocator say of a process.
//!
//! Owns reading them and giving them names; judges none, prints none. `process` reads /proc,
//! `cgroup` the files of a group, `mappings` sorts the address space, `descriptors` counts what is
//! open, `pages` asks what stands in the page cache, `allocator` asks the C library. [`Figures`]
//! are those that a recorder can read of itself at any time and from any thread.

pub mod allocator;
pub mod cgroup;
pub mod descriptors;
mod files;
pub mod mappings;
pub mod pages;
pub mod process;
pub mod verdict;

use std::path::Path;

use serde::{Deserialize, Serialize};

use self::process::Process;

/// The figures that are cheap to read: three files of /proc, some of the cgroup, a question to
/// the allocator, a few hundred microseconds in all. Sizes are in bytes; unknown is none, `null`
/// in JSON. The names in JSON stay: they stand on tapes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Resident memory: the sum of the next three.
    pub rss_bytes: Option<u64>,
    /// Of it, heap and stacks.
    pub rss_anon_bytes: Option<u64>,
    /// Of it, pages of files: the program itself, libraries.
    pub rss_file_bytes: Option<u64>,
    /// Of it, shared memory.
    pub rss_shmem_bytes: Option<u64>,
    /// The most that was ever resident.
    pub rss_peak_bytes: Option<u64>,
    /// Address space.
    pub vsz_bytes: Option<u64>,
    /// The most there ever was of it.
    pub vsz_peak_bytes: Option<u64>,
    /// Page tables.
    pub page_tables_bytes: Option<u64>,
    /// What was swapped out.
    pub swap_bytes: Option<u64>,
    /// Allocated and not freed.
    pub heap_in_use_bytes: Option<u64>,
    /// What the allocator holds of the system, in use or not.
    pub heap_held_bytes: Option<u64>,
    /// Of it, large blocks with mappings of their own.
    pub heap_mapped_bytes: Option<u64>,
    /// Each arena of the allocator; empty where it can't tell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heap_arenas: Vec<allocator::Arena>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open descriptors.
    pub fds: Option<u64>,
    /// All that counts against the limit of the cgroup.
    pub cgroup_usage_bytes: Option<u64>,
    /// The smallest limit that counts; none where there is none.
    pub cgroup_limit_bytes: Option<u64>,
    /// The most that was ever used.
    pub cgroup_peak_bytes: Option<u64>,
    /// Of the usage, heap and stacks.
    pub cgroup_anon_bytes: Option<u64>,
    /// Of the usage, page cache.
    pub cgroup_file_bytes: Option<u64>,
    /// Of the page cache, what was used again lately.
    pub cgroup_active_file_bytes: Option<u64>,
    /// Of the page cache, what was used once.
    pub cgroup_inactive_file_bytes: Option<u64>,
    /// Of the page cache, what is not on the disk yet.
    pub cgroup_dirty_bytes: Option<u64>,
    /// Of the page cache, what is on its way to the disk.
    pub cgroup_writeback_bytes: Option<u64>,
    /// Memory of the kernel for the group.
    pub cgroup_kernel_bytes: Option<u64>,
    /// Buffers of sockets.
    pub cgroup_sock_bytes: Option<u64>,
    /// Processes of the group that were killed for its limit.
    pub cgroup_oom_kills: Option<u64>,
    /// What `docker stats` shows since 20.10.
    pub docker_bytes: Option<u64>,
    /// What `docker stats` showed up to 19.03.
    pub docker_old_bytes: Option<u64>,
}

/// What the kernel could hand out without swapping, on the whole machine, in bytes.
pub fn machine_available() -> Option<u64> {
    files::size_of(&files::read_text(Path::new("/proc/meminfo")).ok()?, "MemAvailable")
}

impl Figures {
    /// This process's.
    pub fn own() -> Figures {
        let mut figures = Figures::of(&Process::own());
        if let Some(heap) = allocator::own() {
            figures.heap_in_use_bytes = Some(heap.in_use);
            figures.heap_held_bytes = Some(heap.held);
            figures.heap_mapped_bytes = Some(heap.mapped);
            figures.heap_arenas = heap.arenas;
        }
        figures
    }

    /// Those of any process: its heap is unknown from outside.
    pub fn of(process: &Process) -> Figures {
        let status = process.status().unwrap_or_default();
        let mut figures = Figures {
            rss_bytes: status.rss,
            rss_anon_bytes: status.rss_anon,
            rss_file_bytes: status.rss_file,
            rss_shmem_bytes: status.rss_shmem,
            rss_peak_bytes: status.rss_peak,
            vsz_bytes: status.vsz,
            vsz_peak_bytes: status.vsz_peak,
            page_tables_bytes: status.page_tables,
            swap_bytes: status.swap,
            threads: status.threads,
            fds: process.count_descriptors().ok(),
            ..Figures::default()
        };
        if let Ok(group) = cgroup::find(process) {
            figures.add_group(&group);
        }
        figures
    }

    fn add_group(&mut self, group: &cgroup::Group) {
        let usage = group.usage();
        self.cgroup_usage_bytes = usage.usage;
        self.cgroup_limit_bytes = group.limit().map(|limit| limit.bytes);
        self.cgroup_peak_bytes = usage.peak;
        self.cgroup_anon_bytes = usage.anon;
        self.cgroup_file_bytes = usage.file;
        self.cgroup_active_file_bytes = usage.active_file;
        self.cgroup_inactive_file_bytes = usage.inactive_file;
        self.cgroup_dirty_bytes = usage.dirty;
        self.cgroup_writeback_bytes = usage.writeback;
        self.cgroup_kernel_bytes = usage.kernel;
        self.cgroup_sock_bytes = usage.sock;
        self.cgroup_oom_kills = usage.oom_kills;
        self.docker_bytes = usage.docker;
        self.docker_old_bytes = usage.docker_old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_figures_are_plausible() {
        let own = Figures::own();
        let [rss, anon, file, shmem] =
            [own.rss_bytes, own.rss_anon_bytes, own.rss_file_bytes, own.rss_shmem_bytes]
                .map(Option::unwrap);
        assert_eq!(rss, anon + file + shmem);
        assert!(own.vsz_bytes.unwrap() > rss);
        assert!(own.rss_peak_bytes.unwrap() > 0);
        assert!(own.heap_held_bytes.unwrap() >= own.heap_in_use_bytes.unwrap());
        assert!(own.threads.unwrap() >= 1);
        assert!(own.fds.unwrap() >= 3);
    }

    #[test]
    fn names_on_tapes_stay() {
        let json = serde_json::to_value(Figures::own()).unwrap();
        let names: Vec<&String> = json.as_object().unwrap().keys().collect();
        expect_test::expect![[r#"
            [
                "cgroup_active_file_bytes",
                "cgroup_anon_bytes",
                "cgroup_dirty_bytes",
                "cgroup_file_bytes",
                "cgroup_inactive_file_bytes",
                "cgroup_kernel_bytes",
                "cgroup_limit_bytes",
                "cgroup_oom_kills",
                "cgroup_peak_bytes",
                "cgroup_sock_bytes",
                "cgroup_usage_bytes",
                "cgroup_writeback_bytes",
                "docker_bytes",
                "docker_old_bytes",
                "fds",
                "heap_arenas",
                "heap_held_bytes",
                "heap_in_use_bytes",
                "heap_mapped_bytes",
                "page_tables_bytes",
                "rss_anon_bytes",
                "rss_bytes",
                "rss_file_bytes",
                "rss_peak_bytes",
                "rss_shmem_bytes",
                "swap_bytes",
                "threads",
                "vsz_bytes",
                "vsz_peak_bytes",
            ]"#]]
        .assert_eq(&format!("{names:#?}"));
        let back: Figures = serde_json::from_str("{\"rss_bytes\":5,\"of_later\":[1]}").unwrap();
        assert_eq!(back, Figures { rss_bytes: Some(5), ..Figures::default() });
    }
}
