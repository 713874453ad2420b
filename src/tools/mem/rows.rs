//! What each figure is, in one plain sentence: whether it counts against the limit, whether the
//! kernel can take it back, whether to worry.
//!
//! Owns the words; what they come to is in `verdict`. The names are those of the recorder's own
//! tape where it has the figure too.

use super::facts::{Facts, InGroup, Source};
use crate::memory::cgroup::{Usage, Version};
use crate::memory::mappings::Kind;
use crate::units::{format_size, format_span};

/// Figures that belong together.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) rows: Vec<Row>,
}

/// One figure.
pub(super) struct Row {
    /// In JSON.
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    pub(super) figure: Figure,
    pub(super) sentence: String,
}

/// A figure's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Figure {
    Bytes(u64),
    Count(u64),
    /// There is one, and this is why it can't be told.
    Unknown(String),
    /// There is none: not here, or not with this kernel.
    Absent,
}

/// All sections.
pub(super) fn sections(facts: &Facts) -> Vec<Section> {
    let mut sections = vec![process(facts), heap(facts), address_space(facts), kernel(facts)];
    match &facts.group {
        Ok(within) => sections.extend([group(within), docker(&within.usage)]),
        Err(_) => sections.push(Section {
            title: "CGROUP".to_string(),
            rows: vec![sized(
                "cgroup_usage_bytes",
                "usage",
                &facts.group,
                |within| within.usage.usage,
                "",
            )],
        }),
    }
    sections.push(tapes(facts));
    sections.retain(|section| section.rows.iter().any(|row| row.figure != Figure::Absent));
    sections
}

fn sized<T>(
    key: &'static str,
    label: &'static str,
    source: &Source<T>,
    get: impl FnOnce(&T) -> Option<u64>,
    sentence: impl Into<String>,
) -> Row {
    let figure = match source.as_ref().map(get) {
        Ok(value) => value.map_or(Figure::Absent, Figure::Bytes),
        Err(why) => Figure::Unknown(why.clone()),
    };
    Row { key, label, figure, sentence: sentence.into() }
}

fn counted<T>(
    key: &'static str,
    label: &'static str,
    source: &Source<T>,
    get: impl FnOnce(&T) -> Option<u64>,
    sentence: impl Into<String>,
) -> Row {
    let mut row = sized(key, label, source, get, sentence);
    if let Figure::Bytes(count) = row.figure {
        row.figure = Figure::Count(count);
    }
    row
}

fn process(facts: &Facts) -> Section {
    let status = &Ok(&facts.status);
    let rollup = &facts.rollup;
    Section {
        title: "PROCESS".to_string(),
        rows: vec![
            sized(
                "rss_bytes",
                "RSS",
                status,
                |of| of.rss,
                "Resident, as ps shows it: the sum of the next three; worry only if the first of \
                 them grows.",
            ),
            sized(
                "rss_anon_bytes",
                "RSS, anonymous",
                status,
                |of| of.rss_anon,
                "Heap and stacks: counts, can't be taken back without swap; what grows here for \
                 days is a leak.",
            ),
            sized(
                "rss_file_bytes",
                "RSS, files",
                status,
                |of| of.rss_file,
                "Program and libraries: counts for whoever read them first; the kernel drops them \
                 when it needs room. Don't worry.",
            ),
            sized(
                "rss_shmem_bytes",
                "RSS, shared",
                status,
                |of| of.rss_shmem,
                "Memory shared with others: counts, can't be taken back without swap; a recorder \
                 has none.",
            ),
            sized(
                "rss_peak_bytes",
                "RSS, peak",
                status,
                |of| of.rss_peak,
                "The most there ever was: history, counts for nothing now.",
            ),
            sized(
                "pss_bytes",
                "PSS",
                rollup,
                |of| of.pss,
                "RSS with shared pages divided among those who share them: the fairest figure of \
                 one process; no limit looks at it.",
            ),
            sized(
                "private_bytes",
                "private",
                rollup,
                |of| of.private,
                "What would be free if the process ended: counts; its files' part can be taken \
                 back.",
            ),
            sized(
                "shared_bytes",
                "shared with others",
                rollup,
                |of| of.shared,
                "Mostly libraries that others use too: counts once, for one of them. Don't worry.",
            ),
            sized(
                "swap_bytes",
                "swapped out",
                status,
                |of| of.swap,
                "On swap, not in RAM: no part of the limit; if it is not 0 the machine was short \
                 of memory.",
            ),
            counted(
                "threads",
                "threads",
                status,
                |of| of.threads,
                "Each costs its stack, as far as it is touched; worry if the number grows.",
            ),
        ],
    }
}

fn heap(facts: &Facts) -> Section {
    let heap = &facts.heap;
    let title = match heap {
        Ok(own) if !own.age.is_zero() => {
            format!("HEAP, as the recorder wrote {} ago", format_span(own.age_shown()))
        }
        Ok(_) | Err(_) => "HEAP".to_string(),
    };
    let arenas = heap.as_ref().map(|own| &own.figures.heap_arenas[..]).unwrap_or_default();
    let shown: Vec<String> = arenas
        .iter()
        .map(|arena| {
            format!("{} of {}", format_size(arena.in_use_bytes), format_size(arena.held_bytes))
        })
        .collect();
    Section {
        title,
        rows: vec![
            sized(
                "heap_in_use_bytes",
                "in use",
                heap,
                |of| of.figures.heap_in_use_bytes,
                "Allocated and not freed: counts, as part of RSS anonymous; if this grows for \
                 days, the program leaks.",
            ),
            sized(
                "heap_held_bytes",
                "held",
                heap,
                |of| of.figures.heap_held_bytes,
                "What the allocator keeps, in use or free: counts as far as it was touched; much \
                 more than in use is fragmentation, no leak.",
            ),
            sized(
                "heap_mapped_bytes",
                "large blocks",
                heap,
                |of| of.figures.heap_mapped_bytes,
                "Part of held: blocks with mappings of their own, which go back to the kernel once \
                 they are freed. Don't worry.",
            ),
            counted(
                "heap_arenas",
                "arenas",
                heap,
                |of| Some(of.figures.heap_arenas.len() as u64).filter(|arenas| *arenas > 0),
                format!("Parts of the heap, in use of held: {}.", shown.join(", ")),
            ),
        ],
    }
}

fn address_space(facts: &Facts) -> Section {
    let mappings = &facts.mappings;
    let of_kind = |key, label, kind, sentence: &str| {
        let sum = mappings.as_ref().map(|all| all.of_kind(kind)).unwrap_or_default();
        let sentence =
            format!("{} mapped, {} resident: {sentence}", sum.mappings, format_size(sum.rss));
        sized(key, label, mappings, |all| Some(all.of_kind(kind).bytes), sentence)
    };
    let arenas = match mappings.as_ref().is_ok_and(|all| all.seems_go()) {
        true => "this looks like a Go program, whose heap it is; the resident part counts.",
        false => "malloc's areas for further threads; only the resident part counts.",
    };
    Section {
        title: "ADDRESS SPACE".to_string(),
        rows: vec![
            sized(
                "vsz_bytes",
                "VSZ",
                &Ok(&facts.status),
                |of| of.vsz,
                "Addresses, not memory: counts against nothing but ulimit -v; the sum of the \
                 mappings below. Don't worry.",
            ),
            sized(
                "vsz_peak_bytes",
                "VSZ, peak",
                &Ok(&facts.status),
                |of| of.vsz_peak,
                "The most there ever was: history.",
            ),
            of_kind(
                "stacks_bytes",
                "stacks",
                Kind::Stack,
                "of threads, and of their signals; the resident part counts, and does not shrink.",
            ),
            of_kind(
                "main_heap_bytes",
                "main heap",
                Kind::Heap,
                "malloc's first area; the resident part counts, and is the heap above.",
            ),
            of_kind("arenas_bytes", "arenas", Kind::Arena, arenas),
            of_kind(
                "anonymous_bytes",
                "other anonymous",
                Kind::Anonymous,
                "large blocks, and what a runtime maps for itself; the resident part counts.",
            ),
            of_kind(
                "shared_memory_bytes",
                "shared memory",
                Kind::Shared,
                "counts as far as it is resident; a recorder has none.",
            ),
            of_kind(
                "file_mappings_bytes",
                "files",
                Kind::File,
                "program, libraries and mapped files; can be dropped and read again.",
            ),
            of_kind(
                "reserved_bytes",
                "reserved",
                Kind::Reserved,
                "guards of stacks and room for arenas; costs nothing.",
            ),
        ],
    }
}

fn kernel(facts: &Facts) -> Section {
    let open = &facts.open;
    let queues = &facts.queues;
    Section {
        title: "KERNEL SIDE".to_string(),
        rows: vec![
            sized(
                "page_tables_bytes",
                "page tables",
                &Ok(&facts.status),
                |of| of.page_tables,
                "The kernel's map of the address space: counts as kernel memory; grows with what \
                 was touched. Don't worry.",
            ),
            counted(
                "fds",
                "open descriptors",
                open,
                |of| Some(of.all),
                "Files and sockets: each costs a few hundred bytes of the kernel; worry if the \
                 number grows.",
            ),
            counted(
                "sockets",
                "of them sockets",
                open,
                |of| Some(of.sockets.len() as u64),
                "Their buffers are the kernel's; what it spends on a single one it does not tell.",
            ),
            sized(
                "tcp_receive_bytes",
                "received, unread",
                queues,
                |of| Some(of.receive),
                "Waits in TCP's queues for the process: counts on cgroup v2 (with its overhead); \
                 worry if it stays high, the reader is too slow.",
            ),
            sized(
                "tcp_send_bytes",
                "sent, unacknowledged",
                queues,
                |of| Some(of.send),
                "Waits in TCP's queues for the other side: counts on cgroup v2; worry if it stays \
                 high.",
            ),
            sized(
                "tcp_machine_bytes",
                "all TCP buffers",
                &facts.tcp_memory,
                |of| *of,
                "Of the whole machine, not of this process alone; the kernel shrinks them under \
                 pressure.",
            ),
        ],
    }
}

fn group(within: &InGroup) -> Section {
    let version = within.group.version.number();
    let usage = &Ok(&within.usage);
    let whom = match within.processes {
        Some(1) => "this process alone is in it".to_string(),
        Some(n) => format!("{n} processes are in it"),
        None => "how many processes are in it can't be told".to_string(),
    };
    let sock = match within.group.version {
        Version::V1 => {
            "Buffers of sockets, known only where a limit for them is set: they don't \
                        count with v1."
        }
        Version::V2 => {
            "Buffers of sockets: count; the kernel shrinks them under pressure; worry \
                        if they grow."
        }
    };
    let folder = within.group.folder.display();
    Section {
        title: format!("CGROUP v{version}: {folder} ({whom})"),
        rows: vec![
            sized(
                "cgroup_usage_bytes",
                "usage",
                usage,
                |of| of.usage,
                "All that counts against the limit, page cache included; it climbs to the limit by \
                 itself. Worry only about the verdict below.",
            ),
            sized(
                "cgroup_limit_bytes",
                "limit",
                &Ok(within),
                |of| Some(of.limit.as_ref()?.bytes),
                limit_sentence(within),
            ),
            sized(
                "cgroup_peak_bytes",
                "usage, peak",
                usage,
                |of| of.peak,
                "The most there ever was: history; at the limit it was full of cache, most likely.",
            ),
            sized(
                "cgroup_anon_bytes",
                "anonymous",
                usage,
                |of| of.anon,
                "Heap and stacks of all its processes: counts, can't be taken back without swap; \
                 this is what must not grow.",
            ),
            sized(
                "cgroup_file_bytes",
                "page cache",
                usage,
                |of| of.file,
                "What was written and read: counts, and the kernel takes it back when it needs \
                 room. Don't worry.",
            ),
            sized(
                "cgroup_active_file_bytes",
                "cache, active",
                usage,
                |of| of.active_file,
                "Part of it that was used again: taken back last, and docker shows it as used. \
                 Don't worry.",
            ),
            sized(
                "cgroup_inactive_file_bytes",
                "cache, inactive",
                usage,
                |of| of.inactive_file,
                "Part of it that was used once: taken back first. Don't worry.",
            ),
            sized(
                "cgroup_shmem_bytes",
                "cache, tmpfs",
                usage,
                |of| of.shmem,
                "Part of it that is tmpfs or shared memory: can't be taken back without swap; \
                 worry if it grows.",
            ),
            sized(
                "cgroup_dirty_bytes",
                "cache, dirty",
                usage,
                |of| of.dirty,
                "Part of it that is not on the disk yet: taken back once it is written; worry if \
                 it grows, the disk is too slow.",
            ),
            sized(
                "cgroup_writeback_bytes",
                "cache, in writing",
                usage,
                |of| of.writeback,
                "Part of it that is on its way to the disk. Don't worry.",
            ),
            sized(
                "cgroup_kernel_bytes",
                "kernel",
                usage,
                |of| of.kernel,
                "Page tables, slab, stacks of the kernel: counts; a few per cent of the cache are \
                 normal, and go with it.",
            ),
            sized(
                "cgroup_slab_reclaimable_bytes",
                "slab, reclaimable",
                usage,
                |of| of.slab_reclaimable,
                "Part of it that the kernel takes back by itself. Don't worry.",
            ),
            sized("cgroup_sock_bytes", "sockets", usage, |of| of.sock, sock),
            counted(
                "cgroup_limit_hits",
                "limit hits",
                usage,
                |of| of.limit_hits,
                "Times that the limit was met and something was taken back, mostly cache: no \
                 trouble by itself.",
            ),
            counted(
                "cgroup_high_hits",
                "memory.high hits",
                usage,
                |of| of.high_hits,
                "Times that processes were slowed down to shrink; worry if it counts up.",
            ),
            counted(
                "cgroup_ooms",
                "out of memory",
                usage,
                |of| of.ooms,
                "Times that nothing was left to be taken back: worry if it is not 0.",
            ),
            counted(
                "cgroup_oom_kills",
                "killed",
                usage,
                |of| of.oom_kills,
                "Processes killed for the limit: worry if it is not 0.",
            ),
        ],
    }
}

fn limit_sentence(within: &InGroup) -> String {
    let whose = match within.limit.as_ref().map(|limit| &limit.folder) {
        Some(Some(folder)) if *folder == within.group.folder => "of this group".to_string(),
        Some(Some(folder)) => format!("of the group above: {}", folder.display()),
        Some(None) => "of a group above that can't be seen from here".to_string(),
        None => String::new(),
    };
    format!(
        "The smallest that counts, {whose}: when it is met the kernel first takes back, then \
             kills."
    )
}

fn docker(usage: &Usage) -> Section {
    let usage = &Ok(usage);
    Section {
        title: "WHAT DOCKER STATS SHOWS".to_string(),
        rows: vec![
            sized(
                "docker_bytes",
                "since 20.10",
                usage,
                |of| of.docker,
                "Usage without the inactive cache, as cadvisor and kubectl top: cache that was \
                 used again is in it, so it may climb. Don't worry.",
            ),
            sized(
                "docker_old_bytes",
                "up to 19.03",
                usage,
                |of| of.docker_old,
                "Usage without all cache: anonymous and kernel memory; closest to what can't be \
                 taken back.",
            ),
        ],
    }
}

fn tapes(facts: &Facts) -> Section {
    let tapes = &facts.tapes;
    let looked = match tapes {
        Ok(Some(cached)) if cached.is_partial => {
            format!("PARTIAL, of the first {} files: ", cached.files)
        }
        Ok(Some(cached)) if cached.failed > 0 => {
            format!("Of {} files, and {} can't be asked about: ", cached.files, cached.failed)
        }
        Ok(Some(cached)) => format!("Of {} files: ", cached.files),
        Ok(None) | Err(_) => String::new(),
    };
    let title = match &facts.out {
        Some(out) => format!("PAGE CACHE OF THE TAPES in {}", out.display()),
        None => "PAGE CACHE OF THE TAPES".to_string(),
    };
    Section {
        title,
        rows: vec![
            sized(
                "tapes_cached_bytes",
                "in the cache",
                tapes,
                |of| Some(of.as_ref()?.bytes),
                format!(
                    "{looked}counts for the group that wrote or read them; the kernel takes it \
                         back. Don't worry."
                ),
            ),
            sized(
                "tapes_dirty_bytes",
                "of it dirty",
                tapes,
                |of| of.as_ref()?.dirty,
                "Not on the disk yet: can be taken back once it is; worry if it grows, the disk is \
                 too slow.",
            ),
        ],
    }
}

#[cfg(test)]
mod tests;
