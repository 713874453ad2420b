//! From messages to blocks: the feed's end of the path to the tape.
//!
//! Owns the block being filled, the stamps, the choice where a segment begins, and what must be
//! written about holes. Messages are encoded straight into the block. Never waits but in
//! [`Lines::wait_for_room`], and does no I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::listen::{Listener, Trigger};
use crate::block::{Block, FeedId, Parcel, Pool};
use crate::clock::{self, ClockWatch, Mono, Reading, Step, UnixNs};
use crate::stats::{FeedStats, GapNote, RecorderStats};
use crate::tape::EVENT_LINE_BYTES_MAX;
use crate::tape::event::{Event, GapReason};
use crate::tape::line::{Encoding, Stamp, TS_DIGITS};

/// A stamp that goes back by more makes us compare the clocks; a clock that was set back by more
/// ends the segment. TCP hands out stamps some hundred ms old after a lost packet.
const STEP_BACK_NS: u64 = 10_000_000;
/// The clocks are compared this often while something happens anyway.
const CLOCK_CHECK_EVERY: Duration = Duration::from_secs(1);
/// After a step back the first line with a lower stamp comes within this time: messages that were
/// received before it may have to be read first.
const STEP_BACK_EXPECTED: Duration = Duration::from_mins(1);
/// Events that wait for room in a block; more are dropped, the oldest first.
const EVENTS_WAITING_MAX: usize = 64;

/// When to begin a new segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// At multiples of this time of day; divides 24 h.
    pub every: Duration,
    /// Before a segment's lines pass so many bytes.
    pub bytes: u64,
}

impl Rotation {
    /// The first moment after `ts` that belongs to another segment.
    pub fn period_end(&self, ts: UnixNs) -> UnixNs {
        let every = u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX).max(1);
        (ts / every).saturating_add(1).saturating_mul(every)
    }
}

/// Which stamp an event takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventStamp {
    /// That of the line before it: its connection is live, and messages older than the event's
    /// own time may still be unread.
    Previous,
    /// Its own wall time, given here.
    Own(UnixNs),
    /// That of the read that brought it.
    Read(UnixNs),
}

/// No block is to be had at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Clone, Copy)]
struct Segment {
    period_end: UnixNs,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Hole {
    reason: GapReason,
    from_ts: Option<UnixNs>,
    /// Messages and, where known, their bytes; known for what we dropped ourselves.
    lost: Option<(u64, Option<u64>)>,
}

/// One feed's end of the path to the tape.
pub struct Lines {
    feed: FeedId,
    pool: Arc<Pool>,
    writer: Sender<Parcel>,
    stats: Arc<FeedStats>,
    /// Tells whether the disk takes anything.
    recorder: Arc<RecorderStats>,
    rotation: Rotation,
    block: Option<Block>,
    /// The segment that the next line goes to; `None`: it opens a new one.
    segment: Option<Segment>,
    /// Stamp of the last line; the next is not lower.
    stamp: Stamp,
    /// Whether there is such a line.
    any_line: bool,
    conn: Option<u64>,
    /// An address that the writer does not know yet: it goes before the next block. So there are
    /// never more addresses on the way than blocks.
    url: Option<String>,
    clocks: ClockWatch,
    /// How they are read.
    read_clocks: fn() -> Reading,
    /// When the wall clock was last stepped back, where no segment has begun since.
    stepped_back_at: Option<Mono>,
    /// Events that found no room yet: whole lines, still with a stamp to be set.
    waiting: VecDeque<(EventStamp, Vec<u8>)>,
    /// A hole that is over once the next message comes, or the session says so.
    hole: Option<Hole>,
    /// What was dropped because no block was to be had.
    dropped: Option<Hole>,
    /// Blocks handed over so far.
    handed_over: u64,
    /// Who wants to know of gaps, and of what the feed tells.
    listeners: Vec<Listener>,
}

/// After a panic a block may hold half a line: it is emptied, not sent.
impl Drop for Lines {
    fn drop(&mut self) {
        self.give_block_back();
    }
}

impl Lines {
    /// `last_ts`: the stamp of the last line on the tape, where there is one.
    pub fn new(
        feed: FeedId,
        pool: Arc<Pool>,
        writer: Sender<Parcel>,
        stats: Arc<FeedStats>,
        recorder: Arc<RecorderStats>,
        rotation: Rotation,
        last_ts: Option<UnixNs>,
    ) -> Lines {
        let restart = Hole { reason: GapReason::Restart, from_ts: last_ts, lost: None };
        Lines {
            feed,
            pool,
            writer,
            stats,
            recorder,
            rotation,
            block: None,
            segment: None,
            stamp: Stamp::new(0),
            any_line: false,
            conn: None,
            url: None,
            clocks: ClockWatch::new(Reading::now()),
            read_clocks: Reading::now,
            stepped_back_at: None,
            waiting: VecDeque::new(),
            hole: last_ts.map(|_| restart),
            dropped: None,
            handed_over: 0,
            listeners: Vec::new(),
        }
    }

    /// Whom to tell what happens to the feed.
    pub fn set_listeners(&mut self, listeners: Vec<Listener>) {
        self.listeners = listeners;
    }

    /// Tells those among them that have not listened so far.
    pub fn tell_new(&self, listeners: &[Listener], trigger: Trigger) {
        let is_known = |new: &Listener| self.listeners.iter().any(|known| known.is_same(new));
        for listener in listeners.iter().filter(|listener| !is_known(listener)) {
            listener.tell(trigger);
        }
    }

    /// Tells those that listen to the feed.
    pub fn tell(&self, trigger: Trigger) {
        for listener in &self.listeners {
            listener.tell(trigger);
        }
    }

    /// Segments opened from now on name this address.
    pub fn set_url(&mut self, url: String) {
        self.url = Some(url);
    }

    /// The feed goes on after it had ended: what came meanwhile is missing.
    pub fn resume(&mut self) {
        if self.any_line {
            self.hole_begins(GapReason::Restart);
        }
    }

    /// The connection that is open from now on.
    pub fn set_conn(&mut self, conn: Option<u64>) {
        self.conn = conn;
    }

    /// Blocks handed over so far.
    pub fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// Whether events or gaps wait for room.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.dropped.is_some()
    }

    /// Whether there are lines that are not handed over.
    pub fn holds_lines(&self) -> bool {
        self.block.as_ref().is_some_and(|block| !block.is_empty())
    }

    /// Puts a message on the tape.
    ///
    /// # Errors
    /// [`Full`]: nothing was done; wait, or drop it.
    #[inline]
    pub fn message(&mut self, ts: UnixNs, message: &Encoding<'_>) -> Result<(), Full> {
        if self.hole.is_some() || self.is_waiting() {
            self.settle(ts)?;
        }
        let before = self.stamp;
        self.take_stamp(ts);
        let len = message.line_bytes();
        let opens_segment = self.begins_segment(len);
        if let Err(full) = self.make_room(len, opens_segment) {
            self.stamp = before;
            return Err(full);
        }
        let block = self.block.as_mut().expect("make_room left a block");
        block.push_message(&self.stamp, message);
        self.after_line(len, opens_segment);
        Ok(())
    }

    /// Puts an event on the tape, or keeps it until there is room.
    pub fn event(&mut self, stamp: EventStamp, event: &Event<'_>) {
        let line = event.to_line(&Stamp::new(0));
        let in_order = self.waiting.is_empty() && self.dropped.is_none();
        if in_order && self.push_event(stamp, &line).is_ok() {
            return;
        }
        if self.waiting.len() == EVENTS_WAITING_MAX {
            log::warn!("the queue is full: an event is lost too");
            self.waiting.pop_front();
        }
        self.waiting.push_back((stamp, line));
    }

    /// From here on something is missing, until [`Lines::hole_ends`] or the next message. A hole
    /// that is open already stays the one that counts.
    pub fn hole_begins(&mut self, reason: GapReason) {
        let from_ts = self.any_line.then_some(self.stamp.ts());
        let hole = self.hole.get_or_insert(Hole { reason, from_ts, lost: None });
        self.stats.hole_reason.set(hole.reason as u64);
        self.stats.hole_since.set(hole.from_ts.unwrap_or_else(clock::wall_now));
    }

    /// From here on all is recorded again. On a connection that is from its last line on: messages
    /// older than now may still be unread.
    pub fn hole_ends(&mut self) {
        let from = match self.conn {
            Some(_) if self.any_line => self.stamp.ts(),
            _ => clock::wall_now(),
        };
        // Without room it stays open until the next message, which waits.
        let _ = self.settle(from);
    }

    /// The feed ends: what is still to be said about holes is said, and the segment closed. Where
    /// there is no room for it within `limit`, it is at least counted.
    pub fn end(&mut self, limit: Duration) {
        let now = clock::wall_now();
        if self.settle(now).is_err() {
            // An event's line is shorter than any block.
            self.wait_for_room(EVENT_LINE_BYTES_MAX.min(self.pool.plan().block_bytes), limit);
            if self.settle(now).is_err() {
                for hole in self.hole.into_iter().chain(self.dropped) {
                    self.count(&hole);
                }
            }
        }
        self.rotate();
        self.give_block_back();
    }

    fn give_block_back(&mut self) {
        if let Some(unused) = self.block.take() {
            self.pool.give_back(unused);
        }
    }

    /// Counts a message that finds no room; the gap is written as soon as there is some.
    pub fn drop_message(&mut self, bytes: u64) {
        let from_ts = self.any_line.then_some(self.stamp.ts());
        let failing = self.recorder.disk_stalled.get() == 1;
        let reason = if failing { GapReason::Disk } else { GapReason::Stall };
        let hole = Hole { reason, from_ts, lost: Some((0, Some(0))) };
        let lost = &mut self.dropped.get_or_insert(hole).lost;
        *lost = lost.map(|(messages, all)| (messages + 1, all.map(|all| all + bytes)));
    }

    /// One message is lost, of so many bytes where known; what comes next is recorded again.
    pub fn message_is_lost(&mut self, reason: GapReason, bytes: Option<u64>) {
        // A hole that is open already is another one: it ends where this one begins.
        self.hole_ends();
        let from_ts = self.any_line.then_some(self.stamp.ts());
        self.hole.get_or_insert(Hole { reason, from_ts, lost: Some((1, bytes)) });
        self.hole_ends();
    }

    /// Writes what waits for room, where there is some now; compares the clocks when it is time.
    /// `drained`: nothing is left to be read. Else the next message ends the hole, at its stamp,
    /// which is older than now.
    pub fn tick(&mut self, now: Mono, drained: bool) {
        if self.is_waiting() && drained {
            // Still no room: the next tick tries again.
            let _ = self.settle_waiting(clock::wall_now());
        }
        if now.since(self.clocks.checked_at()) >= CLOCK_CHECK_EVERY {
            self.check_clocks((self.read_clocks)());
        }
    }

    /// Whether a line of `bytes` is larger than a block: one such is on its way at a time.
    pub fn needs_permit(&self, bytes: usize) -> bool {
        bytes > self.pool.plan().block_bytes
    }

    /// Waits for room for a line of `bytes`, up to `limit`.
    pub fn wait_for_room(&mut self, bytes: usize, limit: Duration) -> bool {
        self.hand_over();
        match self.pool.take(self.feed, bytes, limit) {
            Some(block) => {
                if let Some(unused) = self.block.replace(block) {
                    self.pool.give_back(unused);
                }
                true
            }
            None => false,
        }
    }

    /// Hands the block over unless the writer lags so far that filling it first is better.
    pub fn hand_over_if_wanted(&mut self) -> bool {
        if self.holds_lines() && !self.pool.may_hand_over(self.feed) {
            return false;
        }
        self.hand_over();
        true
    }

    /// Hands the block over, if it holds anything.
    pub fn hand_over(&mut self) {
        if !self.holds_lines() {
            return;
        }
        let Some(block) = self.block.take() else {
            return;
        };
        self.stats.messages.add(block.messages);
        self.stats.bytes.add(block.message_bytes);
        self.handed_over += 1;
        if let Some(url) = self.url.take() {
            self.send(Parcel::Url(self.feed, url));
        }
        self.send(Parcel::Lines(block));
    }

    /// Closes the open segment: the next line opens a new one.
    pub fn rotate(&mut self) {
        self.hand_over();
        if self.segment.take().is_some() {
            self.send(Parcel::CloseSegment(self.feed));
        }
    }

    fn send(&self, parcel: Parcel) {
        if self.writer.try_send(parcel).is_err() {
            // The channel has a place for every block; so the writer is gone, and the recorder
            // ends with an error because of it.
            log::error!("the writer does not take lines any more: some are lost");
        }
    }

    /// Events and gaps that must stand before the next message.
    #[cold]
    fn settle(&mut self, to_ts: UnixNs) -> Result<(), Full> {
        self.settle_waiting(to_ts)?;
        if let Some(hole) = self.hole {
            self.push_gap(hole, to_ts)?;
            self.hole = None;
            self.stats.hole_since.set(0);
        }
        Ok(())
    }

    fn settle_waiting(&mut self, to_ts: UnixNs) -> Result<(), Full> {
        if let Some(hole) = self.dropped {
            self.push_gap(hole, to_ts)?;
            self.dropped = None;
        }
        while let Some((stamp, line)) = self.waiting.pop_front() {
            if let Err(full) = self.push_event(stamp, &line) {
                self.waiting.push_front((stamp, line));
                return Err(full);
            }
        }
        Ok(())
    }

    fn push_gap(&mut self, hole: Hole, to_ts: UnixNs) -> Result<(), Full> {
        let to_ts = to_ts.max(hole.from_ts.unwrap_or(0));
        let gap = Event::Gap {
            reason: hole.reason,
            messages: hole.lost.map(|lost| lost.0),
            bytes: hole.lost.and_then(|lost| lost.1),
            from_ts: hole.from_ts,
            to_ts,
        };
        self.push_event(EventStamp::Previous, &gap.to_line(&Stamp::new(0)))?;
        self.count(&hole);
        self.recorder.gap_log.note(GapNote {
            feed: self.stats.number.get(),
            reason: hole.reason,
            from_ts: hole.from_ts,
            to_ts,
            messages: hole.lost.map(|lost| lost.0),
        });
        self.tell(Trigger::Gap);
        Ok(())
    }

    fn count(&self, hole: &Hole) {
        let (messages, bytes) = hole.lost.unwrap_or_default();
        self.stats.gaps.count(hole.reason, messages, bytes.unwrap_or(0));
    }

    fn push_event(&mut self, stamp: EventStamp, line: &[u8]) -> Result<(), Full> {
        let before = self.stamp;
        self.take_stamp(match stamp {
            EventStamp::Previous => before.ts(),
            EventStamp::Own(ts) | EventStamp::Read(ts) => ts,
        });
        let mut opens_segment = self.begins_segment(line.len());
        if opens_segment && stamp == EventStamp::Previous {
            self.take_stamp((self.read_clocks)().wall);
            opens_segment = self.begins_segment(line.len());
        }
        if let Err(full) = self.make_room(line.len(), opens_segment) {
            self.stamp = before;
            return Err(full);
        }
        let mut stamped = line.to_vec();
        stamped[..TS_DIGITS].copy_from_slice(self.stamp.digits());
        let block = self.block.as_mut().expect("make_room left a block");
        block.push_event(self.stamp.ts(), &stamped);
        self.after_line(line.len(), opens_segment);
        Ok(())
    }

    /// Sets the next line's stamp: `ts`, raised to that of the line before.
    #[inline]
    fn take_stamp(&mut self, ts: UnixNs) {
        if ts == self.stamp.ts() {
            return;
        }
        if ts.saturating_add(STEP_BACK_NS) < self.stamp.ts() {
            self.stamp_went_back();
        }
        if ts > self.stamp.ts() {
            self.stamp = Stamp::new(ts);
        }
    }

    #[inline]
    fn begins_segment(&self, len: usize) -> bool {
        match &self.segment {
            None => true,
            Some(segment) => {
                self.stamp.ts() >= segment.period_end
                    || segment.bytes + len as u64 > self.rotation.bytes
            }
        }
    }

    /// Leaves a block with room for `len` bytes, all of one segment.
    #[inline]
    fn make_room(&mut self, len: usize, opens_segment: bool) -> Result<(), Full> {
        let fits = self
            .block
            .as_ref()
            .is_some_and(|block| block.room() >= len && (block.is_empty() || !opens_segment));
        if fits { Ok(()) } else { self.next_block(len) }
    }

    fn next_block(&mut self, len: usize) -> Result<(), Full> {
        self.hand_over();
        if let Some(unused) = self.block.take() {
            // Too small for this one; it is there again for the next.
            self.pool.give_back(unused);
        }
        self.block = Some(self.pool.try_take(self.feed, len).ok_or(Full)?);
        Ok(())
    }

    #[inline]
    fn after_line(&mut self, len: usize, opens_segment: bool) {
        self.any_line = true;
        let block = self.block.as_mut().expect("a line was just put into it");
        if block.lines == 1 {
            block.conn = self.conn;
            block.opens_segment = opens_segment;
        }
        if opens_segment {
            self.stepped_back_at = None;
            let period_end = self.rotation.period_end(self.stamp.ts());
            self.segment = Some(Segment { period_end, bytes: 0 });
        }
        if let Some(segment) = &mut self.segment {
            segment.bytes += len as u64;
        }
        if block.is_oversized() {
            self.hand_over();
        }
    }

    /// After a real step of the clock back stamps begin anew, in a new segment; else it was TCP.
    #[cold]
    fn stamp_went_back(&mut self) {
        let now = (self.read_clocks)();
        self.check_clocks(now);
        // No line was received in the future: then the clock was set back since, whenever that was
        // noticed. Where the step was smaller than the time that the messages have waited, it must
        // have been noticed.
        let is_past = now.wall.saturating_add(STEP_BACK_NS) < self.stamp.ts();
        let is_noticed =
            self.stepped_back_at.is_some_and(|at| now.mono_after.since(at) < STEP_BACK_EXPECTED);
        if is_past || is_noticed {
            self.hand_over();
            self.segment = None;
            self.stamp = Stamp::new(0);
        }
    }

    /// Notes a step of the clock, on the tape; the log has it from the main thread, once.
    #[cold]
    fn check_clocks(&mut self, now: Reading) {
        if let Some(Step { step_ns, cause }) = self.clocks.check(now) {
            if step_ns < -(STEP_BACK_NS as i64) {
                self.stepped_back_at = Some(now.mono_after);
            }
            let at = now.wall;
            self.event(EventStamp::Previous, &Event::Clock { step_ns, cause, at });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{PoolPlan, channel};
    use crossbeam_channel::Receiver;

    const HOUR_NS: u64 = 3_600_000_000_000;

    struct Rig {
        lines: Lines,
        sent: Receiver<Parcel>,
        stats: Arc<FeedStats>,
        pool: Arc<Pool>,
    }

    fn rig(blocks: usize, rotate_bytes: u64, last_ts: Option<UnixNs>) -> Rig {
        let plan = PoolPlan { block_bytes: 4096, blocks, blocks_per_feed: blocks };
        let pool = Arc::new(Pool::new(plan, 1));
        let (sender, sent) = channel(plan, 1, 1);
        let stats = Arc::new(FeedStats::default());
        let rotation = Rotation { every: Duration::from_secs(3600), bytes: rotate_bytes };
        let lines = {
            let recorder = Arc::default();
            Lines::new(0, pool.clone(), sender, stats.clone(), recorder, rotation, last_ts)
        };
        Rig { lines, sent, stats, pool }
    }

    impl Rig {
        fn text(&mut self, ts: UnixNs, text: &str) -> Result<(), Full> {
            self.lines.message(ts, &Encoding::of_text(text.as_bytes()))
        }

        /// What was sent: `>` before a block that opens a segment, lines cut to 40 characters.
        fn sent(&mut self) -> Vec<String> {
            self.lines.hand_over();
            let mut seen = Vec::new();
            for parcel in self.sent.try_iter() {
                match parcel {
                    Parcel::CloseSegment(_) => seen.push("close".to_string()),
                    Parcel::Url(_, url) => seen.push(url),
                    Parcel::Tape(_) => unreachable!("feeds make none"),
                    Parcel::Lines(block) => {
                        let text = String::from_utf8(block.bytes().to_vec()).unwrap();
                        for (n, line) in text.lines().enumerate() {
                            let opens = if n == 0 && block.opens_segment { ">" } else { "" };
                            let ts: u64 = line[..19].parse().unwrap();
                            let rest: String = line[19..].chars().take(40).collect();
                            seen.push(format!("{opens}{ts}{rest}"));
                        }
                        self.pool.give_back(block);
                    }
                }
            }
            seen
        }
    }

    #[test]
    fn stamps_are_raised_and_periods_end_blocks() {
        let mut rig = rig(8, 1 << 20, None);
        for (ts, text) in [
            (100, "a"),
            (90, "b"),
            (HOUR_NS - 1, "c"),
            (HOUR_NS, "d"),
            (HOUR_NS - 5, "e"),
            (3 * HOUR_NS, "f"),
        ] {
            rig.text(ts, text).unwrap();
        }
        let h = HOUR_NS;
        assert_eq!(
            rig.sent(),
            [
                ">100 a".to_string(),
                "100 b".into(),
                format!("{} c", h - 1),
                format!(">{h} d"),
                format!("{h} e"),
                format!(">{} f", 3 * h),
            ]
        );
        assert_eq!(rig.stats.messages.get(), 6);
    }

    /// Each change of options told the writer an address. While the disk took nothing they filled
    /// the channel, which has a place for every block, and lines were lost without a gap.
    #[test]
    fn an_address_travels_with_a_block() {
        let mut rig = rig(8, 1 << 20, None);
        for n in 0..1000 {
            rig.lines.set_url(format!("ws://h/{n}"));
        }
        assert_eq!(rig.sent(), [""; 0]);
        rig.text(100, "a").unwrap();
        assert_eq!(rig.sent(), ["ws://h/999", ">100 a"]);
        rig.text(101, "b").unwrap();
        assert_eq!(rig.sent(), ["101 b"]);
    }

    #[test]
    fn segments_end_before_they_grow_too_large() {
        let mut rig = rig(8, 100, None);
        for text in ["1234567890", "1234567890", "1234567890", "1234567890"] {
            rig.text(5, text).unwrap();
        }
        let opens = rig.sent().iter().map(|line| line.starts_with('>')).collect::<Vec<_>>();
        assert_eq!(opens, [true, false, false, true], "31 bytes a line, 100 a segment");
    }

    #[test]
    fn a_restart_is_a_gap_before_the_first_message() {
        let mut rig = rig(8, 1 << 20, Some(77));
        rig.text(100, "a").unwrap();
        rig.text(101, "b").unwrap();
        let sent = rig.sent();
        assert!(sent[0].contains("!{\"event\":\"gap\",\"reason\":\"restart\""), "{sent:?}");
        assert_eq!(sent.len(), 3);
        assert_eq!(rig.stats.gaps.figures()[0].reason, GapReason::Restart);
    }

    #[test]
    fn what_is_dropped_is_counted_where_it_is_missing() {
        let mut rig = rig(2, 1 << 20, None);
        let long = "x".repeat(2000);
        let mut taken = 0;
        while rig.text(10, &long).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 4, "two blocks of two lines");
        for _ in 0..3 {
            assert_eq!(rig.text(20, &long), Err(Full));
            rig.lines.drop_message(long.len() as u64);
        }
        rig.lines
            .event(EventStamp::Own(25), &Event::Stale { conn: 1, after_ms: 5, key: None, at: 6 });
        assert!(rig.lines.is_waiting());
        assert_eq!(rig.sent().len(), 4);
        rig.text(30, "after").unwrap();
        let sent = rig.sent();
        assert!(sent[0].starts_with("10!{\"event\":\"gap\",\"reason\":\"stall\""), "{sent:?}");
        assert!(sent[1].contains("stale"), "{sent:?}");
        assert!(sent[2].ends_with("after"), "{sent:?}");
        let figures = rig.stats.gaps.figures();
        assert_eq!((figures[0].messages, figures[0].bytes), (3, 6000));
    }

    #[test]
    fn a_hole_ends_at_the_stamp_of_the_next_message_while_there_are_unread_ones() {
        let mut rig = rig(2, 1 << 20, None);
        let long = "x".repeat(2000);
        while rig.text(10, &long).is_ok() {}
        rig.lines.drop_message(2000);
        rig.sent();
        // There is room again, and messages older than now wait in the socket.
        rig.lines.tick(clock::mono_now(), false);
        rig.text(30, "after").unwrap();
        let block = rig.lines.block.as_ref().unwrap().bytes().to_vec();
        let text = String::from_utf8(block).unwrap();
        assert!(text.contains(r#""from_ts":10,"to_ts":30}"#), "{text}");
        // With nothing to be read it ends now.
        rig.lines.drop_message(2000);
        rig.lines.tick(clock::mono_now(), true);
        assert!(!rig.lines.is_waiting());
    }

    const MS: u64 = 1_000_000;

    /// Clocks of the next test, in ms: monotonic, and wall minus monotonic.
    mod fake {
        use super::*;
        use std::cell::Cell;

        thread_local! {
            static CLOCKS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
        }

        pub(super) fn set(mono_ms: u64, offset_ms: u64) {
            CLOCKS.set((mono_ms, offset_ms));
        }

        pub(super) fn read() -> Reading {
            let (mono, offset) = CLOCKS.get();
            let mono = Mono(mono * MS);
            let wall = mono.0 + offset * MS;
            Reading { mono_before: mono, wall, mono_after: mono, boot: mono.0 }
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Do {
        /// The clocks are so now: monotonic, and wall minus monotonic, in ms.
        Clocks(u64, u64),
        /// A message received at this wall time, in ms.
        Message(u64),
        /// A turn with no message.
        Tick,
        /// No block is to be had, or there is again.
        Stalled(bool),
    }

    /// The stamps of the lines in ms; `>` opens a segment, `!` is a clock event.
    fn check_stamps(name: &str, script: &[Do], expected: &[&str]) {
        let mut rig = rig(4, 1 << 20, None);
        fake::set(1_000, 1_000_000);
        rig.lines.read_clocks = fake::read;
        rig.lines.clocks = ClockWatch::new(fake::read());
        let (mut got, mut kept) = (Vec::new(), Vec::new());
        for step in script {
            match *step {
                Do::Clocks(mono_ms, offset_ms) => fake::set(mono_ms, offset_ms),
                // Without room it is tried again, as the feed does.
                Do::Message(ts_ms) => {
                    assert_eq!(rig.text(ts_ms * MS, "m").is_ok(), kept.is_empty())
                }
                Do::Tick => rig.lines.tick(fake::read().mono_after, true),
                Do::Stalled(true) => {
                    got.extend(rig.sent());
                    kept.extend(std::iter::from_fn(|| rig.pool.try_take(0, 10)));
                }
                Do::Stalled(false) => kept.drain(..).for_each(|block| rig.pool.give_back(block)),
            }
        }
        got.extend(rig.sent());
        let brief = |line: &String| {
            let at = line.find(|c: char| !c.is_ascii_digit() && c != '>').unwrap();
            let (head, kind) = (&line[..at], &line[at..=at]);
            format!("{}{}", &head[..head.len() - 6], kind.trim())
        };
        let got: Vec<String> = got.iter().map(brief).collect();
        assert_eq!(got, expected, "{name}: {script:?}");
    }

    #[test]
    fn stamps_that_go_back() {
        use Do::*;
        // Wall minus monotonic is a million ms at first, so monotonic 1000 is wall 1001000.
        check_stamps(
            "TCP hands out old stamps after a lost packet: no step, they are raised",
            &[Message(1_001_000), Clocks(1_300, 1_000_000), Message(1_000_700), Message(1_001_300)],
            &[">1001000", "1001000", "1001300"],
        );
        check_stamps(
            "set back: seen by the message",
            &[Message(1_001_000), Clocks(1_100, 640_000), Message(641_100), Message(641_101)],
            &[">1001000", "1001000!", ">641100", "641101"],
        );
        check_stamps(
            "set back: seen by the clocks before the message",
            &[Message(1_001_000), Clocks(2_000, 900_000), Tick, Message(902_000), Message(902_001)],
            &[">1001000", "1001000!", ">902000", "902001"],
        );
        check_stamps(
            "set back: messages received before it are still unread when it is seen",
            &[
                Message(1_001_000),
                Clocks(2_000, 900_000),
                Tick,
                Message(1_001_500),
                Message(902_000),
                Message(902_001),
            ],
            &[">1001000", "1001000!", "1001500", ">902000", "902001"],
        );
        check_stamps(
            "set back: one of them begins a segment by its time",
            &[
                Clocks(2_599_000, 1_000_000),
                Message(3_599_000),
                Clocks(2_602_000, 100_000),
                Tick,
                Message(3_600_500),
                Message(2_702_000),
            ],
            &[">3599000", "3599000!", ">3600500", ">2702000"],
        );
        check_stamps(
            "set back by less than the messages have waited",
            &[
                Message(1_001_000),
                Message(1_001_100),
                Clocks(6_000, 999_950),
                Tick,
                Message(1_001_060),
            ],
            &[">1001000", "1001100", "1001100!", ">1001060"],
        );
        check_stamps(
            "set back by 10 ms or less: raised",
            &[Message(1_001_000), Clocks(1_002, 999_992), Message(1_000_994), Message(1_001_001)],
            &[">1001000", "1001000", "1001001"],
        );
        check_stamps(
            "set back, and wall time is past the last line again: nothing to do",
            &[Message(1_001_000), Clocks(3_000, 999_900), Tick, Message(1_002_900)],
            &[">1001000", "1001000!", "1002900"],
        );
        check_stamps(
            "long after such a step TCP's old stamps are no step",
            &[
                Message(1_001_000),
                Clocks(3_000, 999_900),
                Tick,
                Message(1_002_900),
                Clocks(90_000, 999_900),
                Message(1_089_900),
                Message(1_089_600),
            ],
            &[">1001000", "1001000!", "1002900", "1089900", "1089900"],
        );
        check_stamps(
            "set forward: the next line is in the segment of its time",
            &[Message(1_001_000), Clocks(2_000, 4_600_000), Tick, Message(4_602_000)],
            &[">1001000", "1001000!", ">4602000"],
        );
        check_stamps(
            "set back while no block is to be had",
            &[
                Message(1_001_000),
                Stalled(true),
                Clocks(1_500, 900_000),
                Message(901_500),
                Message(901_500),
                Stalled(false),
                Message(901_500),
                Message(901_501),
            ],
            &[">1001000", ">901500!", "901500", "901501"],
        );
    }

    #[test]
    fn a_lost_message_is_a_gap_of_its_own_and_is_told() {
        let mut rig = rig(8, 1 << 20, Some(77));
        let (listener, ear) = super::super::listen::Ear::new(&[Trigger::Gap]).unwrap();
        rig.lines.set_listeners(vec![listener]);
        rig.lines.message_is_lost(GapReason::Oversized, Some(9));
        rig.lines.message_is_lost(GapReason::Oversized, None);
        let reasons: Vec<_> =
            rig.sent().iter().map(|line| line[19..].chars().skip(25).collect::<String>()).collect();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(reasons[0].contains("resta") && reasons[2].contains("overs"), "{reasons:?}");
        let figures = rig.stats.gaps.figures();
        let figures: Vec<_> = figures.iter().map(|f| (f.reason, f.messages, f.bytes)).collect();
        assert_eq!(figures, [(GapReason::Restart, 0, 0), (GapReason::Oversized, 2, 9)]);
        assert_eq!(ear.take(), Some(Trigger::Gap));
    }

    #[test]
    fn rotate_closes_once_and_the_next_line_opens() {
        let mut rig = rig(8, 1 << 20, None);
        rig.lines.rotate();
        rig.text(5, "a").unwrap();
        rig.lines.rotate();
        rig.lines.rotate();
        rig.text(6, "b").unwrap();
        assert_eq!(rig.sent(), [">5 a", "close", ">6 b"]);
    }

    #[test]
    fn large_messages_travel_alone_and_at_once() {
        let mut rig = rig(4, 1 << 30, None);
        rig.text(5, "small").unwrap();
        rig.text(5, &"x".repeat(100_000)).unwrap();
        assert_eq!(rig.lines.handed_over(), 2);
        rig.text(5, "small").unwrap();
        assert_eq!(rig.sent().len(), 3);
        assert_eq!(rig.pool.blocks_out(), 0);
    }
}
