//! What a message costs in allocations, counted thread by thread in a whole recorder.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use tungstenite::protocol::WebSocketConfig;

use super::*;
use crate::config::RecordArgs;
use crate::tools::simulate::{self, Rate};

/// Threads are told apart by their kernel id, modulo this.
const SLOTS: usize = 1 << 16;

static ALLOCATIONS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    let slot = SLOT.with(|slot| {
        if slot.get() == usize::MAX {
            slot.set(nix::unistd::gettid().as_raw() as usize % SLOTS);
        }
        slot.get()
    });
    ALLOCATIONS[slot].fetch_add(1, Ordering::Relaxed);
}

// SAFETY: all is handed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are handed on.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

/// Kernel ids of this process's threads with the given name.
fn threads_named(name: &str) -> HashSet<usize> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let comm = std::fs::read_to_string(path.join("comm")).ok()?;
            (comm.trim() == name).then(|| path.file_name()?.to_str()?.parse().ok())?
        })
        .collect()
}

fn allocations(thread: usize) -> u64 {
    ALLOCATIONS[thread % SLOTS].load(Ordering::Relaxed)
}

/// Allocations a message of tungstenite alone, with the buffers that we give it.
fn tungstenite_alone(address: std::net::SocketAddr, messages: u64) -> f64 {
    let config = WebSocketConfig::default()
        .read_buffer_size(crate::feed::upgrade::READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(1 << 20);
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let url = format!("ws://{address}/trades");
    let (mut socket, _) =
        tungstenite::client::client_with_config(url, stream, Some(config)).unwrap();
    let mut read = |n: u64| (0..n).for_each(|_| drop(socket.read().unwrap()));
    read(messages / 10);
    let me = nix::unistd::gettid().as_raw() as usize;
    let before = allocations(me);
    read(messages);
    (allocations(me) - before) as f64 / messages as f64
}

#[derive(Debug, clap::Parser)]
struct Typed {
    #[command(flatten)]
    record: RecordArgs,
}

#[test]
fn a_message_costs_no_allocation_of_ours() {
    const MESSAGES: u64 = 100_000;
    let options = simulate::Options { rate: Rate::Unlimited, ..simulate::Options::default() };
    let venue = simulate::start(options).unwrap();
    let alone = tungstenite_alone(venue.address(), MESSAGES);

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tapes").display().to_string();
    let feed = format!("counted={}", venue.url("/trades"));
    let words = ["feedtape", &feed, "--out", &out, "--compress", "none", "--fsync", "never"];
    let options = Typed::try_parse_from(words).unwrap().record.check().unwrap();
    let writers_before = threads_named("writer");
    let recorder = Recorder::start(options).unwrap();
    let events = recorder.events();
    // Threads name themselves once they run; by the first message they have.
    let find = || {
        let writer = *threads_named("writer").difference(&writers_before).next().unwrap();
        (*threads_named("counted").iter().next().unwrap(), writer)
    };
    let mut threads = None;
    let mut first: Option<(u64, u64, u64)> = None;
    let mut last = None;
    recorder
        .run(
            Duration::from_millis(1),
            &mut |views| {
                let messages = views[0].stats.messages.get();
                if messages <= MESSAGES / 10 {
                    return;
                }
                let (feed, writer) = *threads.get_or_insert_with(find);
                let now = (messages, allocations(feed), allocations(writer));
                match first {
                    None => first = Some(now),
                    Some(first) if messages > first.0 + MESSAGES && last.is_none() => {
                        last = Some(now);
                        events.send(Event::Stop).unwrap();
                    }
                    _ => {}
                }
            },
            &mut || None,
        )
        .unwrap();
    venue.stop();
    let (first, last) = (first.unwrap(), last.unwrap());
    let messages = (last.0 - first.0) as f64;
    let (ours, writers) = (last.1 - first.1, last.2 - first.2);
    let a_message = ours as f64 / messages;
    // One read of tungstenite's own varies with how the bytes arrive.
    assert!(
        a_message <= alone + 0.01,
        "{a_message} allocations a message on the feed's thread, tungstenite alone has {alone}"
    );
    // A handful for a segment that is closed at the boundary of its size.
    assert!(writers < 100, "{writers} allocations on the writer for {messages} messages");
}
