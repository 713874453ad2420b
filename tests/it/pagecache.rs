//! What a recording leaves in the page cache, asked of the kernel; and heap profiles, the other
//! look at memory: what a build without them answers to SIGUSR2.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};

use super::program::{FEED, Run, output};
use super::script::accept;
use super::server::Scheme;
use super::wire::Message;

/// So many lines fill several segments of 64 KiB.
const MESSAGES: usize = 3000;

/// Pages of a file that are in the page cache: cachestat(2), Linux 6.5. `None` on older kernels.
fn cached_pages(path: &Path) -> Option<u64> {
    const SYS_CACHESTAT: nix::libc::c_long = 451;
    let file = File::open(path).unwrap();
    // Offset and length, 0 being all; then five counts, of which cached pages are the first.
    let range = [0u64; 2];
    let mut counts = [0u64; 5];
    // SAFETY: both pointers lead to what the kernel expects, for as long as the call takes.
    let result = unsafe {
        nix::libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0)
    };
    (result == 0).then_some(counts[0])
}

/// Records several segments, and returns the cached pages of each; `None` where the kernel does
/// not tell, or the file system is none to ask about.
fn record(args: &str) -> Option<Vec<u64>> {
    let messages: Vec<Message> = (0..MESSAGES)
        .map(|n| Message::text(format!("{{\"n\":{n},\"pad\":\"{n:080}\"}}")))
        .collect();
    let run = Run::serve(Scheme::Ws, [accept().messages(&messages).expect_bye()])
        .args("--rotate-bytes 64KiB --max-messages 3000")
        .args(args)
        .finish(0);
    // In memory there is no other copy; and where files lie over others nothing is told of them.
    let kind = statfs(&run.out()).unwrap().filesystem_type();
    if ![EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&kind) {
        return None;
    }
    let mut cached = Vec::new();
    for day in std::fs::read_dir(run.out().join(format!("feed={FEED}"))).unwrap() {
        let day = day.unwrap().path();
        if !day.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(day).unwrap() {
            let path = file.unwrap().path();
            if path.to_string_lossy().contains(".tape") {
                cached.push(cached_pages(&path)?);
            }
        }
    }
    assert!(cached.len() >= 4, "{cached:?}");
    // What was looked at is whole.
    run.verify(0);
    Some(cached)
}

#[test]
fn what_is_recorded_leaves_the_page_cache() {
    for args in ["--compress none", "--compress zstd --stop-timeout 60s"] {
        if let Some(cached) = record(args) {
            assert!(cached.iter().all(|pages| *pages == 0), "{args}: {cached:?}");
        }
    }
}

#[test]
fn it_stays_where_it_is_to_be_kept() {
    for args in ["--compress none", "--compress zstd --stop-timeout 60s"] {
        if let Some(cached) = record(&format!("{args} --page-cache keep")) {
            assert!(cached.iter().all(|pages| *pages > 0), "{args}: {cached:?}");
        }
    }
}

/// SIGUSR2 ended the program, as it does one that has no use for it. A profile of an earlier run
/// beside the feeds is nothing to any reader.
#[test]
fn a_build_without_heap_profiles_says_how_to_get_one() {
    let run = Run::serve(Scheme::Ws, [accept().text("one").expect_bye()]);
    std::fs::create_dir_all(run.out()).unwrap();
    std::fs::write(run.out().join("feedtape.7.20260101T000000Z.heap"), "heap_v2/524288\n").unwrap();
    let run = run.start();
    run.on_tape("one");
    run.signal(Signal::SIGUSR2);
    run.said("--features heap-profile");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    assert_eq!(run.tape().messages().len(), 1);
    run.verify(0);
    let out = run.out();
    let out = out.to_str().unwrap();
    for command in ["info", "recover"] {
        let output = output(&[command, out]);
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("heap"), "{output:?}");
    }
}
