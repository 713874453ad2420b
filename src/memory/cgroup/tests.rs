//! Groups as folders of files: both versions, as whole and as broken as they come.

use super::*;

const STAT_V1: &str = "cache 1000\nrss 5\nmapped_file 1\nhierarchical_memory_limit 67108864\n\
    hierarchical_memsw_limit 9223372036854771712\ntotal_cache 2000\ntotal_rss 300\n\
    total_shmem 7\ntotal_dirty 40\ntotal_writeback 41\ntotal_swap 0\ntotal_inactive_anon 1\n\
    total_inactive_file 1500\ntotal_active_file 500\n";
const STAT_V2: &str = "anon 300\nfile 2000\nkernel 600\nkernel_stack 16\npagetables 20\npercpu 4\n\
    sock 50\nvmalloc 0\nshmem 7\nfile_mapped 100\nfile_dirty 40\nfile_writeback 41\n\
    inactive_anon 1\nactive_anon 2\ninactive_file 1500\nactive_file 500\nslab_reclaimable 80\n\
    slab_unreclaimable 90\nslab 170\n";

/// A hierarchy in a folder.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Tree(dir)
    }

    fn group(&self, version: Version, folder: &str) -> Group {
        Group { version, folder: self.0.path().join(folder), top: self.0.path().to_path_buf() }
    }
}

#[test]
fn version_1() {
    let tree = Tree::new(&[
        ("g/memory.stat", STAT_V1),
        ("g/memory.usage_in_bytes", "5000\n"),
        ("g/memory.max_usage_in_bytes", "6000\n"),
        ("g/memory.kmem.usage_in_bytes", "600\n"),
        ("g/memory.kmem.tcp.usage_in_bytes", "50\n"),
        ("g/memory.failcnt", "3\n"),
        ("g/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ]);
    let expected = Usage {
        usage: Some(5000),
        peak: Some(6000),
        anon: Some(300),
        file: Some(2000),
        shmem: Some(7),
        active_file: Some(500),
        inactive_file: Some(1500),
        dirty: Some(40),
        writeback: Some(41),
        kernel: Some(600),
        slab_reclaimable: None,
        sock: Some(50),
        swap: Some(0),
        limit_hits: Some(3),
        high_hits: None,
        ooms: None,
        oom_kills: Some(2),
        docker: Some(3500),
        docker_old: Some(4000),
    };
    assert_eq!(tree.group(Version::V1, "g").usage(), expected);
}

#[test]
fn version_2() {
    let tree = Tree::new(&[
        ("g/memory.stat", STAT_V2),
        ("g/memory.current", "5000\n"),
        ("g/memory.peak", "6000\n"),
        ("g/memory.swap.current", "0\n"),
        ("g/memory.events", "low 0\nhigh 9\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"),
    ]);
    let expected = Usage {
        usage: Some(5000),
        peak: Some(6000),
        anon: Some(300),
        file: Some(2000),
        shmem: Some(7),
        active_file: Some(500),
        inactive_file: Some(1500),
        dirty: Some(40),
        writeback: Some(41),
        kernel: Some(600),
        slab_reclaimable: Some(80),
        sock: Some(50),
        swap: Some(0),
        limit_hits: Some(3),
        high_hits: Some(9),
        ooms: Some(1),
        oom_kills: Some(2),
        docker: Some(3500),
        docker_old: None,
    };
    assert_eq!(tree.group(Version::V2, "g").usage(), expected);
}

#[test]
fn a_kernel_without_the_sum_is_added_up() {
    let stat = STAT_V2.replace("kernel 600\n", "");
    let tree = Tree::new(&[("memory.stat", &stat), ("memory.current", "5000")]);
    assert_eq!(tree.group(Version::V2, "").usage().kernel, Some(170 + 16 + 20 + 4));
}

#[test]
fn what_is_missing_or_broken_is_unknown() {
    let tree = Tree::new(&[("none", "")]);
    for version in [Version::V1, Version::V2] {
        assert_eq!(tree.group(version, "").usage(), Usage::default());
        assert_eq!(tree.group(version, "").limit(), None);
    }
    for cut in 0..STAT_V2.len() {
        let tree = Tree::new(&[
            ("memory.stat", &STAT_V2[..cut]),
            ("memory.current", "x"),
            ("memory.max", "-1"),
        ]);
        let group = tree.group(Version::V2, "");
        let usage = group.usage();
        assert!(usage.file.is_none_or(|file| [2000, 200, 20, 2].contains(&file)), "{cut}");
        assert_eq!((usage.usage, usage.docker, group.limit()), (None, None, None));
    }
}

#[test]
fn what_docker_shows() {
    for (usage, inactive, expected) in [
        (Some(318), Some(301), Some(17)),
        (Some(309), Some(0), Some(309)),
        // The figures are read one after the other: then docker takes none off.
        (Some(300), Some(300), Some(300)),
        (Some(300), Some(301), Some(300)),
        (None, Some(1), None),
        (Some(1), None, None),
    ] {
        assert_eq!(docker(usage, inactive), expected, "{usage:?} {inactive:?}");
    }
}

#[test]
fn the_smallest_limit_of_all_above_counts() {
    let check =
        |files: &[(&str, &str)], version, expected: Option<(u64, Option<&str>, Option<u64>)>| {
            let tree = Tree::new(files);
            let got = tree.group(version, "a/b").limit();
            let expected = expected.map(|(bytes, folder, usage)| Limit {
                bytes,
                folder: folder.map(|folder| tree.0.path().join(folder)),
                usage,
            });
            assert_eq!(got, expected, "{files:?}");
        };
    check(&[("a/b/memory.max", "max\n"), ("a/memory.max", "max\n")], Version::V2, None);
    check(
        &[("a/b/memory.max", "max\n"), ("a/memory.max", "100\n"), ("a/memory.current", "60\n")],
        Version::V2,
        Some((100, Some("a"), Some(60))),
    );
    check(
        &[("a/b/memory.max", "100\n"), ("a/memory.max", "100\n"), ("a/b/memory.current", "7")],
        Version::V2,
        Some((100, Some("a/b"), Some(7))),
    );
    let unlimited = "9223372036854771712\n";
    check(
        &[("a/b/memory.limit_in_bytes", unlimited), ("a/memory.limit_in_bytes", unlimited)],
        Version::V1,
        None,
    );
    // Of a container on version 1 the limit may stand above all that it sees.
    check(
        &[("a/b/memory.limit_in_bytes", unlimited), ("a/b/memory.stat", STAT_V1)],
        Version::V1,
        Some((67_108_864, None, None)),
    );
    check(
        &[("a/b/memory.limit_in_bytes", "67108864"), ("a/b/memory.stat", STAT_V1)],
        Version::V1,
        Some((67_108_864, Some("a/b"), None)),
    );
}
