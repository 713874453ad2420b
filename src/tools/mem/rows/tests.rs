//! The words for made-up processes.

use expect_test::expect;

use super::super::facts::OwnFigures;
use super::super::show;
use super::super::verdict::verdict;
use super::*;
use crate::memory::Figures;
use crate::memory::allocator::Arena;
use crate::memory::cgroup::{Group, Limit};
use crate::memory::descriptors::{Descriptors, Queues};
use crate::memory::mappings::Mappings;
use crate::memory::pages::Cached;
use crate::memory::process::{Rollup, Status};

const MIB: u64 = 1 << 20;

fn usage() -> Usage {
    Usage {
        usage: Some(60 * MIB),
        anon: Some(8 * MIB),
        file: Some(50 * MIB),
        shmem: Some(0),
        active_file: Some(20 * MIB),
        inactive_file: Some(30 * MIB),
        dirty: Some(4 * MIB),
        writeback: Some(MIB),
        kernel: Some(2 * MIB),
        oom_kills: Some(0),
        docker: Some(30 * MIB),
        ..Usage::default()
    }
}

fn within(limit: Option<u64>, usage: Usage) -> InGroup {
    let folder = "/sys/fs/cgroup/memory/g";
    InGroup {
        group: Group::at(Version::V2, folder.into(), folder.into()),
        limit: limit.map(|bytes| Limit { bytes, folder: Some(folder.into()), usage: usage.usage }),
        usage,
        processes: Some(1),
    }
}

fn facts() -> Facts {
    Facts {
        pid: 17,
        status: Status {
            name: "feed\ntape".to_string(),
            threads: Some(11),
            rss: Some(9 * MIB),
            rss_anon: Some(4 * MIB),
            vsz: Some(80 * MIB),
            ..Status::default()
        },
        rollup: Ok(Rollup { pss: Some(6 * MIB), ..Rollup::default() }),
        mappings: Ok(Mappings::default()),
        open: Ok(Descriptors { all: 12, ..Descriptors::default() }),
        queues: Ok(Queues { sockets: 1, receive: 5, send: 0 }),
        tcp_memory: Ok(Some(MIB)),
        out: Some("/tapes".into()),
        heap: Ok(OwnFigures {
            figures: Figures {
                heap_in_use_bytes: Some(2 * MIB),
                heap_arenas: vec![Arena { in_use_bytes: MIB, held_bytes: 3 * MIB }],
                ..Figures::default()
            },
            age: std::time::Duration::from_millis(7300),
        }),
        tapes: Ok(Some(Cached { files: 9, bytes: 3 * MIB, ..Cached::default() })),
        group: Ok(within(Some(64 * MIB), usage())),
        available: Some(1 << 30),
    }
}

#[test]
fn the_verdict_in_all_cases() {
    let said = |limit, change: &dyn Fn(&mut Usage)| {
        let mut usage = usage();
        change(&mut usage);
        verdict(&Facts { group: Ok(within(limit, usage)), ..facts() })
    };
    let full = said(Some(64 * MIB), &|_| {});
    let (usage, rest) = full.split_once(" Before it kills, ").unwrap();
    expect!["The OOM killer looks at the cgroup's usage: 60MiB of 64MiB, 4MiB to go."]
        .assert_eq(usage);
    let (back, rest) = rest.split_once("; ").unwrap();
    expect!["the kernel takes back up to 45MiB (page cache that is on the disk)"].assert_eq(back);
    expect!["15MiB stay, 23 % of the limit. No reason to worry."].assert_eq(rest);
    let close = said(Some(64 * MIB), &|usage| usage.file = Some(20 * MIB));
    assert!(close.contains("70 % of the limit. That is close"), "{close}");
    let bad = said(Some(64 * MIB), &|usage| {
        (usage.file, usage.oom_kills) = (Some(0), Some(3));
    });
    assert!(bad.contains("93 % of the limit. WORRY"), "{bad}");
    assert!(bad.contains("killed 3 processes"), "{bad}");
    let free = said(None, &|_| {});
    assert!(free.contains("No limit is set") && free.contains("1GiB are available"), "{free}");
    let none = verdict(&Facts { group: Err("hidden".to_string()), ..facts() });
    assert!(none.contains("not known (hidden)"), "{none}");
    // Figures that don't fit together, as they are read one after the other.
    let odd = said(Some(1), &|usage| usage.file = Some(u64::MAX));
    assert!(odd.contains("0B to go") && odd.contains("0B stay"), "{odd}");
}

#[test]
fn all_lines_fit_and_line_up() {
    let facts = facts();
    let sections = sections(&facts);
    for width in [60, 80, 120] {
        let text = show::text(&facts, &sections, &verdict(&facts), width);
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        assert!(text.starts_with("17 feed\\ntape: recorder of /tapes\n"), "{text}");
        assert!(text.contains("\nHEAP, as the recorder wrote 7s ago\n"), "{text}");
    }
    let text = show::text(&facts, &sections, &verdict(&facts), 80);
    let shown = text.lines().skip_while(|line| !line.starts_with("WHAT DOCKER"));
    expect![[r#"
        WHAT DOCKER STATS SHOWS
          since 20.10                30MiB  Usage without the inactive cache, as
                                            cadvisor and kubectl top: cache that was
                                            used again is in it, so it may climb. Don't
                                            worry.
    "#]]
    .assert_eq(&shown.take(5).fold(String::new(), |all, line| all + line + "\n"));
}

#[test]
fn every_figure_has_a_sentence_and_a_name_of_its_own() {
    let all = sections(&facts());
    let rows: Vec<&Row> = all.iter().flat_map(|section| &section.rows).collect();
    let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.key).collect();
    assert_eq!(names.len(), rows.len());
    for row in rows {
        assert!(row.sentence.ends_with('.') && row.sentence.len() < 170, "{}", row.sentence);
        assert!(!row.label.is_empty() && row.label.len() <= 22, "{}", row.label);
    }
}

#[test]
fn what_is_not_permitted_is_a_line_for_each_figure() {
    let no = || "not permitted: run this as root".to_string();
    let facts = Facts {
        rollup: Err(no()),
        mappings: Err(no()),
        open: Err(no()),
        queues: Err(no()),
        heap: Err(no()),
        tapes: Err(no()),
        group: Err("hidden".to_string()),
        out: None,
        ..facts()
    };
    let sections = sections(&facts);
    let text = show::text(&facts, &sections, &verdict(&facts), 100);
    for label in ["PSS", "stacks", "open descriptors", "in use", "in the cache"] {
        let line = text.lines().find(|line| line.starts_with(&format!("  {label}  ")));
        assert!(line.is_some_and(|line| line.contains("?  not permitted")), "{label}: {text}");
    }
    let json = show::json(&facts, &sections, "");
    assert_eq!(json["rss_bytes"], 9 * MIB);
    assert!(json["pss_bytes"].is_null());
    assert_eq!(json["unknown"]["pss_bytes"], no());
    assert_eq!(json["unknown"]["cgroup_usage_bytes"], "hidden");
}
