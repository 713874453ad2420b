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
use crate::stats::{FeedStats, RecorderStats};
use crate::tape::EVENT_LINE_BYTES_MAX;
use crate::tape::event::{Event, GapReason};
use crate::tape::line::{Encoding, Stamp, TS_DIGITS};

/// A stamp that goes back by more makes us compare the clocks; a clock that was set back by more
/// ends the segment. TCP hands out stamps some hundred ms old after a lost packet.
const STEP_BACK_NS: u64 = 10_000_000;
/// The clocks are compared this often while something happens anyway.
const CLOCK_CHECK_EVERY: Duration = Duration::from_secs(1);
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
    clocks: ClockWatch,
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
            clocks: ClockWatch::new(Reading::now()),
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

    /// Tells those that listen to the feed.
    pub fn tell(&self, trigger: Trigger) {
        for listener in &self.listeners {
            listener.tell(trigger);
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
        self.hole.get_or_insert(Hole { reason, from_ts, lost: None });
    }

    /// From now on all is recorded again.
    pub fn hole_ends(&mut self) {
        // Without room it stays open until the next message, which waits.
        let _ = self.settle(clock::wall_now());
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
    pub fn tick(&mut self, now: Mono) {
        if self.is_waiting() {
            // Still no room: the next tick tries again.
            let _ = self.settle_waiting(clock::wall_now());
        }
        if now.since(self.clocks.checked_at()) >= CLOCK_CHECK_EVERY {
            self.check_clocks();
        }
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
            self.take_stamp(clock::wall_now());
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
            self.check_clocks();
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

    /// Notes a step of the clock. After a real step back stamps begin anew, in a new segment.
    #[cold]
    fn check_clocks(&mut self) {
        if let Some(Step { step_ns, cause }) = self.clocks.check(Reading::now()) {
            log::warn!("the wall clock jumped by {step_ns} ns ({cause:?})");
            if step_ns < -(STEP_BACK_NS as i64) {
                self.hand_over();
                self.segment = None;
                self.stamp = Stamp::new(0);
            }
            let at = clock::wall_now();
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
        let (sender, sent) = channel(plan, 1);
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
        rig.lines.event(EventStamp::Own(25), &Event::Stale { conn: 1, after_ms: 5, at: 6 });
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
