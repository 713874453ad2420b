//! The lines of the plan.
//!
//! Owns what is counted, and the sizes that no constant of the code says: each was measured on
//! x86-64 with glibc 2.36 and OpenSSL 3.0, as its doc says, and is rounded up. The process test
//! `plan` fails where they are not true any more.

use super::host::Host;
use super::{Line, Needs, Rows};
use crate::admin;
use crate::block::{Parcel, PoolPlan};
use crate::feed;
use crate::feed::socket::READ_AHEAD_BYTES;
use crate::feed::upgrade::READ_BUFFER_BYTES;
use crate::recorder::limits::FDS_PER_FEED;
use crate::recorder::{folder, own, signals};
use crate::recovery;
use crate::resolver;
use crate::sealer;
use crate::syncer;
use crate::tape::line::OVERHEAD;
use crate::writer;
use crate::writer::segment;

/// What a thread's stack has touched of it while it connects: with 256 feeds the kernel's figure
/// for all stacks was 25 KiB each, TLS or not; the upgrade's answer or the handshake goes deepest.
const FEED_STACK_TOUCHED: u64 = 28 << 10;
/// The same of the other threads: 8 KiB for a resolver that was not asked, 16 KiB for the writer.
const THREAD_STACK_TOUCHED: u64 = 12 << 10;
/// Beside its stack each thread reserves a guard page, and a signal stack with its own.
const THREAD_EXTRA_RESERVED: u64 = 16 << 10;
/// What std gives a thread that asks for nothing else. Those that look at the tapes before the
/// start do not; glibc keeps their stacks for others.
const STD_STACK_BYTES: usize = 2 << 20;
/// A CA store of 140 certificates, parsed, with the first connection's tables: growth of the heap
/// from an idle ws feed to an idle wss feed, less what a further wss feed adds.
const CA_STORE_BYTES: u64 = 2200 << 10;
/// OpenSSL's part of a connection after its handshake, less our read-ahead: growth of the heap per
/// wss feed from 1 to 256, less that of a ws feed.
const TLS_CONNECTION_BYTES: u64 = 42 << 10;
/// A feed's own state beside its buffers: options, session, counters, the last events, names of
/// its segment; growth of the heap per connected ws feed from 1 to 256, less the buffers below.
const FEED_STATE_BYTES: u64 = 8 << 10;
/// A key that is watched: its text and its place in a table.
const KEY_BYTES: u64 = 160;
/// A poll's decoder for gzip, its agent and its headers.
const POLL_STATE_BYTES: u64 = 48 << 10;
/// A page of memory: what is touched of a block that holds a few events.
const PAGE_BYTES: u64 = 4 << 10;
/// What the allocator keeps between and above what is in use: of the heap, one part in so many.
const ALLOCATOR_PART: u64 = 8;
/// And so much in any case; it gives more back.
const ALLOCATOR_TOP_BYTES: u64 = 256 << 10;

/// The kernel's stack of a thread and what it keeps of it.
const KERNEL_THREAD_BYTES: u64 = 24 << 10;
/// A socket, an open file or another descriptor in the kernel, with its inode and its entry.
const KERNEL_DESCRIPTOR_BYTES: u64 = 2 << 10;
/// Descriptors beside those of feeds: ten were open with one feed, two of them its own.
const DESCRIPTORS_OF_THE_REST: u64 = 16;
/// Page tables before a page is mapped, and of each thread's stacks.
const PAGE_TABLES_BASE: u64 = 96 << 10;

/// The same in all three states.
fn always(bytes: u64) -> Rows {
    Rows { idle: bytes, full: bytes, large: bytes }
}

/// Collects lines.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    /// Things of one size that are there in all states; nothing is said of what there is none of.
    fn push(&mut self, what: &'static str, count: u64, each: u64) {
        self.push_rows(what, count, each, always(count * each), count * each);
    }

    fn push_rows(&mut self, what: &'static str, count: u64, each: u64, rss: Rows, vsz: u64) {
        if count > 0 && each > 0 {
            self.0.push(Line { what, count, each, rss, vsz });
        }
    }

    fn sum(&self) -> Rows {
        let mut sum = Rows::default();
        self.0.iter().for_each(|line| sum.add(line.rss));
        sum
    }
}

/// Lines of the process, and how many threads there are.
pub(super) fn of_process(needs: &Needs, host: &Host) -> (Vec<Line>, u64) {
    let mut lines = Lines::default();
    let tls_library = if needs.tls() > 0 { host.tls_library_bytes } else { 0 };
    let program = host.program_bytes + tls_library;
    let at_start = host.vsz_bytes;
    lines.push_rows("program and libraries", 1, program, always(program), at_start);
    let threads = push_threads(&mut lines, needs);
    let mut heap = Lines::default();
    push_feeds(&mut heap, needs, host);
    push_admin(&mut heap, needs);
    push_pool(&mut heap, needs);
    let held = |bytes: u64| bytes / ALLOCATOR_PART + ALLOCATOR_TOP_BYTES;
    let sum = heap.sum();
    let overhead = Rows { idle: held(sum.idle), full: held(sum.full), large: held(sum.full) };
    // It reserves ahead of what it touches.
    heap.push_rows("kept free by the allocator", 1, overhead.large, overhead, 2 * overhead.large);
    push_large(&mut heap, needs);
    lines.0.extend(heap.0);
    (lines.0, threads)
}

fn push_threads(lines: &mut Lines, needs: &Needs) -> u64 {
    let mut push = |what, count: usize, stack: usize, touched: u64| {
        let (count, each) = (count as u64, stack as u64 + THREAD_EXTRA_RESERVED);
        lines.push_rows(what, count, touched, always(count * touched), count * each);
        count
    };
    let sealers = usize::from(needs.has_sealer);
    let recovery = needs.tapes().min(recovery::THREADS_MAX);
    push("threads at the start", recovery, STD_STACK_BYTES, THREAD_STACK_TOUCHED);
    let others = [
        ("thread: writer", 1, writer::STACK_BYTES),
        ("thread: syncer", 1, syncer::STACK_BYTES),
        ("thread: sealer", sealers, sealer::STACK_BYTES),
        ("threads: resolver", resolver::THREADS, resolver::STACK_BYTES),
        ("thread: folder", 1, folder::STACK_BYTES),
        ("thread: signals", 1, signals::STACK_BYTES),
        ("thread: admin", usize::from(needs.has_admin), admin::STACK_BYTES),
        ("thread: own tape", usize::from(needs.has_own_tape), own::STACK_BYTES),
    ];
    let feeds = push("threads: feeds", needs.feeds(), feed::STACK_BYTES, FEED_STACK_TOUCHED);
    let others = others
        .map(|(what, count, stack)| push(what, count, stack, THREAD_STACK_TOUCHED))
        .into_iter()
        .sum::<u64>();
    // And the main thread, whose stack is part of what there is at the start.
    1 + feeds + others
}

/// The admin endpoint: little while one looks now and then, and its bound when it is besieged.
fn push_admin(lines: &mut Lines, needs: &Needs) {
    if needs.has_admin {
        let most = admin::memory_bytes_max(needs.feeds_max) as u64;
        let idle = admin::memory_bytes_kept(needs.feeds_max) as u64;
        let rss = Rows { idle, full: most, large: most };
        lines.push_rows("admin endpoint: clients, answers, history", 1, most, rss, most);
    }
}

/// What stands for each feed and each connection, whatever flows.
fn push_feeds(lines: &mut Lines, needs: &Needs, host: &Host) {
    // Part of the address space that there is at the start.
    lines.push_rows("options, lists, main stack", 1, host.heap_bytes, always(host.heap_bytes), 0);
    lines.push("feed: state", needs.tapes() as u64, FEED_STATE_BYTES);
    lines.push("feed: watched symbols", needs.keys as u64, KEY_BYTES);
    lines.push("WebSocket: read buffer", needs.streams as u64, READ_BUFFER_BYTES as u64);
    let poll_bytes = feed::poll::CONNECTION_BYTES as u64 + POLL_STATE_BYTES;
    lines.push("poll: buffers, decoder", needs.polls as u64, poll_bytes);
    lines.push("TLS: CA store, context", needs.connectors as u64, CA_STORE_BYTES);
    lines.push("TLS: connection", needs.tls() as u64, TLS_CONNECTION_BYTES);
    lines.push("TLS: read-ahead", needs.tls() as u64, READ_AHEAD_BYTES as u64);
    let buffered = needs.tapes().min(writer::BUFFERED_MAX + 1);
    lines.push("segment: write buffer", buffered as u64, segment::SEGMENT_BUFFER_BYTES as u64);
}

/// What is in flight, and what the sealer has in hand.
fn push_pool(lines: &mut Lines, needs: &Needs) {
    let mut pool = PoolPlan::new(needs.queue_bytes, needs.feeds());
    if needs.has_own_tape {
        pool = pool.with_own_tape(needs.feeds());
    }
    // Each feed has had a block at least, with its connection's events.
    let idle = (needs.tapes() as u64 * PAGE_BYTES).min(pool.bytes() as u64);
    let full = pool.bytes() as u64;
    let rss = Rows { idle, full, large: full };
    lines.push_rows("pool: blocks", pool.blocks as u64, pool.block_bytes as u64, rss, full);
    let added = 2 * needs.feeds_max.saturating_sub(needs.feeds());
    let places = 3 * (pool.blocks + added + 1) + 2 * needs.feeds_max;
    lines.push("pool: places in the channel", places as u64, size_of::<Parcel>() as u64 + 8);
    let sealing = needs.compression.memory_bytes() as u64;
    let rss = Rows { idle: 0, full: sealing, large: sealing };
    lines.push_rows("sealer: encoder, buffers", 1, sealing, rss, sealing);
}

/// One message of the largest size, in the costliest form: a text of line feeds in two fragments.
/// Then the read buffer holds a fragment, another buffer the message, and the block the line, in
/// which each line feed takes two bytes.
fn push_large(lines: &mut Lines, needs: &Needs) {
    let message = needs.message_bytes_max as u64;
    let line = 2 * message + OVERHEAD as u64;
    let mut push = |what, bytes, reserved| {
        let rss = Rows { large: bytes, ..Rows::default() };
        lines.push_rows(what, 1, bytes, rss, reserved);
    };
    push("large message: as received", message, message);
    // It grows by doubling; what is not used of it is not touched.
    push("large message: put together", message, 2 * message);
    push("large message: as a line", line, line);
}

/// What the kernel takes for the process.
pub(super) fn of_kernel(needs: &Needs, host: &Host, threads: u64, rss: Rows) -> Vec<Line> {
    let mut lines = Lines::default();
    let stacks = always(threads * KERNEL_THREAD_BYTES);
    lines.push_rows("stacks of threads", threads, KERNEL_THREAD_BYTES, stacks, 0);
    let tables = |bytes: u64| PAGE_TABLES_BASE + threads * 1024 + bytes / 512;
    let rss = Rows { idle: tables(rss.idle), full: tables(rss.full), large: tables(rss.large) };
    lines.push_rows("page tables", 1, rss.large, rss, 0);
    let descriptors = DESCRIPTORS_OF_THE_REST + FDS_PER_FEED * needs.tapes() as u64;
    let each = KERNEL_DESCRIPTOR_BYTES;
    lines.push_rows("sockets and files", descriptors, each, always(descriptors * each), 0);
    let (feeds, each) = (needs.feeds() as u64, host.tcp_receive_bytes);
    let unread = Rows { idle: 0, full: feeds * each, large: feeds * each };
    lines.push_rows("received, not read yet", feeds, each, unread, 0);
    lines.0
}
