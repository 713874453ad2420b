//! The writer: one thread that appends the blocks of all feeds to their open segments.
//!
//! Owns the open segments: it creates them where a block says so, flushes when nothing more is
//! there (and at the latest after the flush interval), and closes them. It does no work per
//! message and nothing slow: syncing and sealing are other threads'. While the disk takes nothing
//! it keeps the block in hand and tries again on a new segment; the feeds wait or drop, as they
//! were told.

pub mod segment;
mod trouble;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use self::segment::{Chunk, PIECES_MAX, Segment, SegmentFile, Unended};
use crate::block::{Block, FeedId, Parcel, Pool, Tape};
use crate::clock::{self, Mono, UnixNs, mono_now};
use crate::folding::Folding;
use crate::stats::RecorderStats;
use crate::storage::{self, Storage};
use crate::syncer::SyncItem;
use crate::tape;
use crate::tape::event::{Event, GapReason};
use crate::tape::line::Stamp;
use crate::tape::name::SegmentName;

/// Deep enough for formatting a header; nothing recurses here.
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// After a round with something to write the writer rests so long, so that blocks gather instead
/// of waking it one by one. Half of what receive-to-file may take at p99.
const NAP: Duration = Duration::from_micros(500);
/// So many segments have something in their buffers at once; then all are flushed. At the start all
/// feeds want to write in the same moment.
pub(crate) const BUFFERED_MAX: usize = 16;
/// Idle segments and free space are looked at this often.
const HOUSEKEEPING_EVERY: Duration = Duration::from_millis(500);
/// A segment whose time is over is closed once nothing came for so long.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Of failures in a row so many are logged one by one.
const FAILURES_LOGGED_SINGLY: u64 = 3;
/// Failures are over where the disk has taken everything for so long.
const STEADY_AFTER: Duration = Duration::from_mins(1);

/// Options of the writer.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// Bytes are with the kernel after this at the latest.
    pub flush_every: Duration,
    /// Segments end at multiples of this.
    pub rotate_every: Duration,
    /// Nothing is written while less is free, in bytes.
    pub min_free: u64,
    /// After a failed write it is tried again this often, on a new segment.
    pub retry_every: Duration,
}

/// Starts the writer. It ends when all senders of `parcels` are gone and everything is written,
/// or, where the disk takes nothing, when `give_up` is closed.
///
/// # Errors
/// No thread to be had.
#[allow(clippy::too_many_arguments, reason = "each is one of the writer's neighbours")]
pub fn spawn(
    options: WriterOptions,
    storage: Arc<dyn Storage>,
    tapes: Vec<Tape>,
    parcels: Receiver<Parcel>,
    pool: Arc<Pool>,
    syncer: Sender<SyncItem>,
    stats: Arc<RecorderStats>,
    give_up: Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    let writer = Writer::new(options, storage, tapes, pool, syncer, stats, give_up);
    thread::Builder::new()
        .name("writer".to_string())
        .stack_size(STACK_BYTES)
        .spawn(move || writer.run(&parcels))
}

struct Writer {
    /// Blocks for one segment, to be written at once.
    batch: Vec<Block>,
    options: WriterOptions,
    storage: Arc<dyn Storage>,
    tapes: Vec<Tape>,
    open: Vec<Option<Segment>>,
    /// Segments that were given up and lack their `end`, which the next one waits for.
    unended: Vec<Option<Unended>>,
    /// Feeds whose segments hold bytes that are not with the kernel.
    dirty: Vec<FeedId>,
    /// Messages and bytes of each feed that were given up when the recorder ended.
    lost: Vec<(u64, u64)>,
    host: String,
    boot_id: String,
    pool: Arc<Pool>,
    syncer: Sender<SyncItem>,
    stats: Arc<RecorderStats>,
    give_up: Receiver<()>,
    gave_up: bool,
    space_is_low: bool,
    /// Set while the disk takes nothing.
    stall: Option<Stall>,
    /// Errors of the disk, and times when it was nearly full, for the log.
    failures: Folding,
    shortages: Folding,
    flush_by: Option<Mono>,
    housekeeping_at: Mono,
}

/// The disk takes nothing.
#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Mono,
    /// The error that was said last.
    errno: Option<i32>,
}

impl Writer {
    fn new(
        options: WriterOptions,
        storage: Arc<dyn Storage>,
        tapes: Vec<Tape>,
        pool: Arc<Pool>,
        syncer: Sender<SyncItem>,
        stats: Arc<RecorderStats>,
        give_up: Receiver<()>,
    ) -> Writer {
        Writer {
            batch: Vec::with_capacity(PIECES_MAX),
            options,
            storage,
            open: tapes.iter().map(|_| None).collect(),
            unended: tapes.iter().map(|_| None).collect(),
            dirty: Vec::with_capacity(BUFFERED_MAX),
            lost: vec![(0, 0); tapes.len()],
            tapes,
            host: clock::host_name(),
            boot_id: clock::boot_id(),
            pool,
            syncer,
            stats,
            give_up,
            gave_up: false,
            space_is_low: false,
            stall: None,
            failures: Folding::new(FAILURES_LOGGED_SINGLY),
            shortages: Folding::new(FAILURES_LOGGED_SINGLY),
            flush_by: None,
            housekeeping_at: mono_now(),
        }
    }

    fn run(mut self, parcels: &Receiver<Parcel>) {
        storage::call::show_in(self.stats.writer.clone());
        loop {
            let now = mono_now();
            self.stats.writer.waits_until(Some(self.housekeeping_at.max(now)));
            match parcels.recv_timeout(self.housekeeping_at.since(now)) {
                Ok(parcel) => {
                    self.handle(parcel);
                    self.handle_all(parcels);
                    self.flush_all();
                    thread::sleep(NAP);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if mono_now() >= self.housekeeping_at {
                self.housekeeping();
            }
        }
        self.close_all();
        self.stats.writer.waits_until(None);
    }

    fn close_all(&mut self) {
        self.write_batch();
        for feed in 0..self.tapes.len() {
            self.close(feed);
            self.end_given_up(feed);
            self.leave_given_up(feed);
        }
        self.report_lost();
    }

    fn handle_all(&mut self, parcels: &Receiver<Parcel>) {
        self.flush_by = Some(mono_now().after(self.options.flush_every));
        while let Ok(parcel) = parcels.try_recv() {
            self.handle(parcel);
            let now = mono_now();
            self.stats.writer.waits_until(Some(now));
            let is_due = self.flush_by.is_some_and(|by| now >= by);
            if is_due || self.dirty.len() >= BUFFERED_MAX {
                self.flush_all();
                self.flush_by = Some(now.after(self.options.flush_every));
            }
            // A disk slower than the feeds never lets the channel run empty.
            if now >= self.housekeeping_at {
                self.housekeeping();
            }
        }
    }

    fn handle(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Lines(block) => {
                let fits = self.batch.first().is_none_or(|first| {
                    first.feed == block.feed
                        && !block.opens_segment
                        && self.batch.len() < PIECES_MAX
                });
                if !fits {
                    self.write_batch();
                }
                self.batch.push(block);
            }
            Parcel::CloseSegment(feed) => {
                self.write_batch();
                self.close(feed);
            }
            Parcel::Url(feed, url) => self.tapes[feed].url = url,
            Parcel::Tape(tape) => {
                self.tapes.push(*tape);
                self.open.push(None);
                self.unended.push(None);
                self.lost.push((0, 0));
            }
        }
    }

    /// Puts the blocks that came for one segment on the tape, however often that must be tried.
    fn write_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
            let mut pieces: [&[u8]; PIECES_MAX] = [&[]; PIECES_MAX];
            for (piece, block) in pieces.iter_mut().zip(&batch) {
                *piece = block.bytes();
            }
            let chunk = Chunk {
                pieces: &pieces[..batch.len()],
                lines: batch.iter().map(|block| block.lines).sum(),
                first_ts: first.first_ts,
                last_ts: last.last_ts,
                conn: first.conn,
            };
            self.write(first.feed, first.opens_segment, &chunk);
            let lag_ns = clock::wall_now().saturating_sub(first.first_ts);
            self.stats.receive_lag.observe(Duration::from_nanos(lag_ns));
        }
        for block in batch.drain(..) {
            self.pool.give_back(block);
        }
        // It keeps its memory for the next round.
        self.batch = batch;
    }

    fn write(&mut self, feed: FeedId, opens_segment: bool, chunk: &Chunk<'_>) {
        if self.space_is_low && !self.wait_for_space() {
            self.count_lost(feed, &chunk.pieces.concat());
            return;
        }
        if opens_segment {
            self.close(feed);
        }
        if let Err((error, tried)) = self.try_write(feed, chunk) {
            let carry = self.give_segment_up(feed, &error, tried, &chunk.pieces.concat());
            self.write_carried(feed, carry, chunk.conn);
        }
    }

    fn try_write(&mut self, feed: FeedId, chunk: &Chunk<'_>) -> Result<(), (io::Error, Tried)> {
        let now = mono_now();
        let (unsynced, every) =
            (self.tapes[feed].stats.unsynced.is_there(), self.options.retry_every);
        if self.open[feed].as_ref().is_some_and(|open| open.must_close(unsynced, now, every)) {
            self.close(feed);
        }
        if self.open[feed].is_none() {
            self.open_segment(feed, chunk, now).map_err(|error| (error, Tried::Open))?;
        }
        let segment = self.open[feed].as_mut().expect("it was just opened");
        let before = segment.bytes();
        let mut taken = 0;
        let result = segment.append(chunk, now, &mut taken);
        let (next_index, added) = (segment.next_index(), segment.bytes() - before);
        if !self.dirty.contains(&feed) {
            self.dirty.push(feed);
        }
        self.tapes[feed].next_index = next_index;
        self.tapes[feed].stats.tape_bytes.add(added);
        result.map_err(|error| (error, Tried::Append { taken }))
    }

    fn open_segment(&mut self, feed: FeedId, chunk: &Chunk<'_>, now: Mono) -> io::Result<()> {
        self.end_given_up(feed);
        let tape = &mut self.tapes[feed];
        let mut segment = loop {
            let name = SegmentName::new(&tape.name, tape.next_number, chunk.first_ts);
            match Segment::create(&*self.storage, name, tape.next_index, now) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let (feed, number) = (tape.name.as_str(), tape.next_number);
                    log::warn!(feed; "{feed}: segment {number} is there already");
                    tape.next_number += 1;
                }
                other => break other?,
            }
        };
        let first_index = tape.next_index;
        let (clock_sync, clock_error_ns) = clock::sync_state();
        let header = Event::Segment {
            version: tape::VERSION,
            feed: tape.name.as_str(),
            segment: tape.next_number,
            first_index,
            url: &tape.url,
            host: &self.host,
            boot_id: &self.boot_id,
            mono_offset_ns: clock::mono_offset_ns(),
            clock_sync,
            clock_error_ns,
            conn: chunk.conn,
            feedtape: env!("CARGO_PKG_VERSION"),
        };
        let (ts, conn) = (chunk.first_ts, chunk.conn);
        let stamp = Stamp::new(ts);
        let mut line = header.to_line(&stamp);
        let mut lines = 1;
        // Taken before it is written: what fails from here on is another hole.
        let unsynced = tape.stats.unsynced.take();
        if let Some(from) = unsynced {
            let from_ts = from.map(|from| from.min(ts));
            // What the failed sync was to make durable may be there or not: nobody can know.
            let reason = GapReason::Disk;
            let gap = Event::Gap { reason, messages: None, bytes: None, from_ts, to_ts: ts };
            line.extend_from_slice(&gap.to_line(&stamp));
            lines += 1;
        }
        let header = Chunk { pieces: &[&line], lines, first_ts: ts, last_ts: ts, conn };
        let mut taken = 0;
        let written = segment.append(&header, now, &mut taken).and_then(|()| segment.flush());
        if let Err(error) = written {
            if let Some(from) = unsynced {
                // Still the same hole, counted already.
                tape.stats.unsynced.note(from);
            }
            segment.discard(&*self.storage);
            return Err(error);
        }
        tape.next_number += 1;
        tape.next_index = segment.next_index();
        tape.stats.segments.add(1);
        tape.stats.tape_bytes.add(line.len() as u64);
        let (file, stats) = (SegmentFile::from(&segment), tape.stats.clone());
        let opened = SyncItem::Opened { feed, segment: file, first_index, stats };
        self.open[feed] = Some(segment);
        self.leave_given_up(feed);
        self.tell_syncer(opened);
        Ok(())
    }

    /// Closes the feed's segment, if it has one.
    fn close(&mut self, feed: FeedId) {
        let Some(segment) = &mut self.open[feed] else {
            return;
        };
        let before = segment.bytes();
        match segment.end() {
            Ok(()) => {
                self.tapes[feed].stats.tape_bytes.add(segment.bytes() - before);
                let next_index = segment.next_index();
                self.open[feed] = None;
                self.dirty.retain(|dirty| *dirty != feed);
                self.tapes[feed].next_index = next_index;
                self.tell_syncer(SyncItem::Finished { feed, next_index });
            }
            Err(error) => self.rescue(feed, &error),
        }
    }

    fn flush_all(&mut self) {
        self.write_batch();
        while !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            for feed in dirty.drain(..) {
                self.flush(feed);
            }
            // What a failed segment did not take stands in the buffer of a new one by now.
            if self.dirty.is_empty() {
                // The list keeps its memory for the next round.
                self.dirty = dirty;
                return;
            }
        }
    }

    fn flush(&mut self, feed: FeedId) {
        let Some(segment) = &mut self.open[feed] else {
            return;
        };
        let begun = mono_now();
        let flushed = segment.flush();
        self.stats.flush_times.observe(mono_now().since(begun));
        if let Err(error) = flushed {
            return self.rescue(feed, &error);
        }
        if segment.has_grown() {
            // Full: the syncer has more to do than it can, and comes to it in time.
            let _ = self.syncer.try_send(SyncItem::Grown { feed });
        }
        if let Some(stall) = self.stall.take() {
            self.stats.disk_stalled.set(0);
            let now = mono_now();
            let after = now.since(stall.since).as_secs_f64();
            if self.failures.better(now) {
                log::warn!("the disk takes data again, after {after:.1} s");
            }
        }
    }

    fn housekeeping(&mut self) {
        self.write_batch();
        let now = mono_now();
        self.housekeeping_at = now.after(HOUSEKEEPING_EVERY);
        self.look_at_free_space();
        let wall = clock::wall_now();
        for feed in 0..self.tapes.len() {
            let over = self.open[feed].as_ref().is_some_and(|segment| {
                let idle = now.since(segment.appended_at()) >= IDLE_AFTER;
                // What could not be synced is saved once it is finished: the sooner the better.
                segment.is_unsynced() || idle && self.period_is_over(segment.last_ts(), wall)
            });
            if over {
                self.close(feed);
            }
        }
    }

    fn period_is_over(&self, last_ts: UnixNs, wall: UnixNs) -> bool {
        let every = self.options.rotate_every.as_nanos() as u64;
        wall.saturating_sub(IDLE_AFTER.as_nanos() as u64) / every > last_ts / every
    }

    fn tell_syncer(&self, item: SyncItem) {
        // Where the syncer lags far behind, this waits for the disk as well.
        self.stats.writer.call_begins();
        let sent = self.syncer.send(item);
        self.stats.writer.call_ends();
        if sent.is_err() {
            // The recorder ends with an error because of it.
            log::error!("the syncer has ended: a segment is not finished");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Tried {
    Open,
    Append { taken: usize },
}

#[cfg(test)]
mod tests;
