//! Blocks: the pooled buffers of whole lines that travel from the feeds to the writer and back.
//!
//! Owns the bound on everything in flight. `Pool` hands blocks out: one is reserved for each
//! feed, the others are shared up to a cap per feed, so that neither a hot feed nor a stalled
//! disk starves the rest. Blocks are made when first needed and reused last-in first-out: what is
//! never needed is never touched. The pool's lock is taken once a block, never a message, and
//! nothing slow happens under it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::UnixNs;
use crate::stats::FeedStats;
use crate::tape::line::{Encoding, Stamp};
use crate::tape::name::FeedName;

/// Smallest block.
pub const BLOCK_BYTES_MIN: usize = 4 << 10;
/// Largest block, but for one that holds a single large message.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;

/// Number of a feed in this run of the recorder.
pub type FeedId = usize;

/// Some lines of one feed, which all go to the same segment.
#[derive(Debug)]
pub struct Block {
    /// Whose lines they are.
    pub feed: FeedId,
    /// The first line begins a new segment.
    pub opens_segment: bool,
    /// The connection open at the first line.
    pub conn: Option<u64>,
    /// Lines.
    pub lines: u64,
    /// Those of them that are messages.
    pub messages: u64,
    /// Payload bytes of the messages.
    pub message_bytes: u64,
    /// Stamp of the first line.
    pub first_ts: UnixNs,
    /// Stamp of the last line.
    pub last_ts: UnixNs,
    buf: Vec<u8>,
    oversized: bool,
}

impl Block {
    fn new(buf: Vec<u8>, oversized: bool) -> Block {
        Block {
            feed: 0,
            opens_segment: false,
            conn: None,
            lines: 0,
            messages: 0,
            message_bytes: 0,
            first_ts: 0,
            last_ts: 0,
            buf,
            oversized,
        }
    }

    /// The lines.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Whether it was made for one large message.
    pub fn is_oversized(&self) -> bool {
        self.oversized
    }

    /// Room left, in bytes.
    pub fn room(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    /// Appends a message, for which there must be room.
    #[inline]
    pub fn push_message(&mut self, stamp: &Stamp, message: &Encoding<'_>) {
        message.append_to(stamp, &mut self.buf);
        self.messages += 1;
        self.message_bytes += message.payload_bytes() as u64;
        self.count_line(stamp.ts());
    }

    /// Appends an event's line, for which there must be room.
    pub fn push_event(&mut self, ts: UnixNs, line: &[u8]) {
        assert!(self.room() >= line.len(), "the caller looked for room");
        self.buf.extend_from_slice(line);
        self.count_line(ts);
    }

    fn count_line(&mut self, ts: UnixNs) {
        if self.lines == 0 {
            self.first_ts = ts;
        }
        debug_assert!(ts >= self.last_ts, "stamps never decrease within a block");
        self.last_ts = ts;
        self.lines += 1;
    }

    fn reset(&mut self) {
        let buf = std::mem::take(&mut self.buf);
        *self = Block::new(buf, self.oversized);
        self.buf.clear();
    }
}

/// Where the tape of one feed goes on.
#[derive(Debug, Clone)]
pub struct Tape {
    /// The feed.
    pub name: FeedName,
    /// Its address, secrets hidden.
    pub url: String,
    /// Number of the next segment.
    pub next_number: u64,
    /// Index of its header.
    pub next_index: u64,
    /// The feed's counters.
    pub stats: Arc<FeedStats>,
}

/// What travels to the writer.
#[derive(Debug)]
pub enum Parcel {
    /// Lines to append.
    Lines(Block),
    /// Nothing more comes for the feed's open segment: close it.
    CloseSegment(FeedId),
    /// The address that the feed's segments name from now on, secrets hidden.
    Url(FeedId, String),
    /// One feed more: the tape that gets the next number.
    Tape(Box<Tape>),
}

/// The channel to the writer. It has a place for every block there may be, with an address before
/// it and a closing behind it, so a feed that has a block can always send it: the pool is the only
/// place to wait.
///
/// `feeds_max`: how many there may be when feeds are added later, each with two blocks more.
pub fn channel(
    plan: PoolPlan,
    feeds: usize,
    feeds_max: usize,
) -> (Sender<Parcel>, Receiver<Parcel>) {
    let blocks = plan.blocks + 2 * feeds_max.saturating_sub(feeds) + 1;
    // Beside them each feed may close a segment without a block, and be one that was added.
    bounded(3 * blocks + 2 * feeds_max)
}

/// How large the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPlan {
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Blocks there may be.
    pub blocks: usize,
    /// Blocks that one feed may hold, the one reserved for it included.
    pub blocks_per_feed: usize,
}

impl PoolPlan {
    /// Divides `queue_bytes` among the feeds. Each needs two of the smallest blocks, so the pool
    /// may come out larger than `queue_bytes`.
    pub fn new(queue_bytes: usize, feeds: usize) -> PoolPlan {
        let feeds = feeds.max(1);
        let share = queue_bytes / (2 * feeds);
        let block_bytes = share.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX) / 4096 * 4096;
        let blocks = (queue_bytes / block_bytes).max(2 * feeds);
        let shared = blocks - feeds;
        // With one feed all is its own; else half of what is shared stays for the others.
        let blocks_per_feed = if feeds == 1 { blocks } else { 1 + shared.div_ceil(2) };
        PoolPlan { block_bytes, blocks, blocks_per_feed }
    }

    /// The plan with room for one feed more, which needs little: the recorder's own tape. The size
    /// of blocks stays, and all there are but the two of that feed.
    pub fn with_own_tape(self, feeds: usize) -> PoolPlan {
        PoolPlan { blocks: self.blocks.max(2 * (feeds + 1)), ..self }
    }

    /// Bytes of all blocks together.
    pub fn bytes(&self) -> usize {
        self.block_bytes * self.blocks
    }
}

/// What is out of the pool, and so on its way to the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Blocks, large ones included.
    pub blocks: usize,
    /// Their sizes together, in bytes.
    pub bytes: usize,
}

impl Depth {
    fn max(self, other: Depth) -> Depth {
        Depth { blocks: self.blocks.max(other.blocks), bytes: self.bytes.max(other.bytes) }
    }
}

/// Who asks for the depth: each is told the most since it asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The line in the log.
    Summary,
    /// The recorder's own tape.
    OwnTape,
    /// Metrics.
    Admin,
}

/// Bytes that the pool has less.
#[derive(Debug)]
pub struct Loan {
    pool: Arc<Pool>,
    blocks: usize,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.blocks += self.blocks;
        state.lent -= self.blocks;
        drop(state);
        self.pool.returned.notify_all();
    }
}

/// Hands out blocks and takes them back.
#[derive(Debug)]
pub struct Pool {
    plan: PoolPlan,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    free: Vec<Block>,
    /// As many as there may be.
    blocks: usize,
    /// As many more there might be, were they not lent.
    lent: usize,
    made: usize,
    held: Vec<usize>,
    /// Blocks out beyond the one that each feed has by right.
    shared_out: usize,
    oversized_out: bool,
    waiting: usize,
    depth: Depth,
    /// The most since each asker last asked.
    depth_max: [Depth; 3],
}

impl Pool {
    /// A pool for feeds `0..feeds`.
    pub fn new(plan: PoolPlan, feeds: usize) -> Pool {
        assert!(plan.blocks >= 2 * feeds, "a reserved block for each, and as many to share");
        let state = State {
            free: Vec::with_capacity(plan.blocks),
            blocks: plan.blocks,
            lent: 0,
            made: 0,
            held: vec![0; feeds],
            shared_out: 0,
            oversized_out: false,
            waiting: 0,
            depth: Depth::default(),
            depth_max: [Depth::default(); 3],
        };
        Pool { plan, state: Mutex::new(state), returned: Condvar::new() }
    }

    /// One feed more, with a block of its own and one to share.
    pub fn add_feed(&self) {
        let mut state = self.lock();
        state.held.push(0);
        state.blocks += 2;
    }

    /// Sizes of the pool, as it was made.
    pub fn plan(&self) -> PoolPlan {
        self.plan
    }

    /// An empty block with room for `bytes`, where there is one at once. More than fit into an
    /// ordinary block get one of that size; there is one such at a time.
    pub fn try_take(&self, feed: FeedId, bytes: usize) -> Option<Block> {
        self.lock().take(&self.plan, feed, bytes)
    }

    /// As [`Pool::try_take`], but waits up to `limit` for a block to come back.
    pub fn take(&self, feed: FeedId, bytes: usize, limit: Duration) -> Option<Block> {
        let mut state = self.lock();
        if let Some(block) = state.take(&self.plan, feed, bytes) {
            return Some(block);
        }
        state.waiting += 1;
        let mut taken = None;
        let (mut state, _) = self
            .returned
            .wait_timeout_while(state, limit, |state| {
                taken = state.take(&self.plan, feed, bytes);
                taken.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        taken
    }

    /// Whether `feed`, by handing its block over now, would keep room for more: a feed that the
    /// writer lags behind does better to fill its block first.
    pub fn may_hand_over(&self, feed: FeedId) -> bool {
        let state = self.lock();
        let shared = state.blocks - state.held.len();
        state.held[feed] <= self.plan.blocks_per_feed / 2 && state.shared_out <= shared / 2
    }

    /// Blocks that are out now.
    pub fn blocks_out(&self) -> usize {
        self.lock().held.iter().sum()
    }

    /// What is out now.
    pub fn depth(&self) -> Depth {
        self.lock().depth
    }

    /// What is out now, and the most that was out since this was last asked.
    pub fn take_depth(&self, asker: Asker) -> (Depth, Depth) {
        let mut state = self.lock();
        let now = state.depth;
        (now, std::mem::replace(&mut state.depth_max[asker as usize], now))
    }

    /// Frees the blocks that nobody holds; they are made again when they are needed. The bytes
    /// that were freed.
    pub fn free_unused(&self) -> usize {
        let mut state = self.lock();
        let unused = std::mem::take(&mut state.free);
        state.made -= unused.len();
        drop(state);
        unused.iter().map(|block| block.buf.capacity()).sum()
    }

    /// Memory for something else that is on its way to the disk: the pool has so many bytes less
    /// until the loan is dropped. Half of what is shared is never lent.
    pub fn lend(self: &Arc<Self>, bytes: usize) -> Option<Loan> {
        let blocks = bytes.div_ceil(self.plan.block_bytes);
        let mut state = self.lock();
        let shared = state.blocks - state.held.len();
        if state.shared_out + state.lent + blocks > (shared + state.lent) / 2 {
            return None;
        }
        state.blocks -= blocks;
        state.lent += blocks;
        while state.made > state.blocks {
            state.free.pop().expect("no more are out than one for each feed and half the others");
            state.made -= 1;
        }
        Some(Loan { pool: self.clone(), blocks })
    }

    /// Takes a block back; an oversized one is freed.
    pub fn give_back(&self, mut block: Block) {
        let feed = block.feed;
        let oversized = block.oversized;
        block.reset();
        let mut state = self.lock();
        state.depth.blocks -= 1;
        state.depth.bytes -= block.buf.capacity();
        if oversized {
            debug_assert!(state.oversized_out);
            state.oversized_out = false;
        } else {
            debug_assert!(state.held[feed] > 0);
            state.held[feed] -= 1;
            if state.held[feed] > 0 {
                state.shared_out -= 1;
            }
            state.free.push(block);
        }
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            // Whoever waits may wait for its own reserve or cap: all must look.
            self.returned.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked while counting leaves counts that are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, plan: &PoolPlan, feed: FeedId, bytes: usize) -> Option<Block> {
        let mut block = if bytes > plan.block_bytes {
            if self.oversized_out {
                return None;
            }
            self.oversized_out = true;
            Block::new(Vec::with_capacity(bytes), true)
        } else {
            let held = self.held[feed];
            let shared = self.blocks - self.held.len();
            if held > 0 {
                if held >= plan.blocks_per_feed || self.shared_out >= shared {
                    return None;
                }
                self.shared_out += 1;
            }
            self.held[feed] += 1;
            self.free.pop().unwrap_or_else(|| {
                self.made += 1;
                assert!(self.made <= self.blocks, "no more blocks are out than there may be");
                Block::new(Vec::with_capacity(plan.block_bytes), false)
            })
        };
        block.feed = feed;
        self.depth.blocks += 1;
        self.depth.bytes += block.buf.capacity();
        self.depth_max = self.depth_max.map(|max| max.max(self.depth));
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let check = |queue_bytes: usize, feeds: usize, expected: (usize, usize)| {
            let plan = PoolPlan::new(queue_bytes, feeds);
            assert_eq!((plan.block_bytes, plan.blocks), expected, "{queue_bytes} / {feeds}");
            assert!(plan.blocks_per_feed >= 2 && plan.blocks_per_feed <= plan.blocks);
        };
        check(4 << 20, 1, (64 << 10, 64));
        check(4 << 20, 3, (64 << 10, 64));
        check(4 << 20, 256, (8 << 10, 512));
        check(4 << 20, 4096, (4 << 10, 8192));
        check(256 << 10, 1, (64 << 10, 4));
        check(256 << 10, 1000, (4 << 10, 2000));
    }

    #[test]
    fn a_hot_feed_leaves_the_others_their_share() {
        let plan = PoolPlan { block_bytes: 4096, blocks: 8, blocks_per_feed: 4 };
        let pool = Pool::new(plan, 3);
        let hot: Vec<_> = std::iter::from_fn(|| pool.try_take(0, 10)).collect();
        assert_eq!(hot.len(), plan.blocks_per_feed);
        let other: Vec<_> = std::iter::from_fn(|| pool.try_take(1, 10)).collect();
        assert_eq!(other.len(), 3, "its own, and the two that are left to share");
        let last: Vec<_> = std::iter::from_fn(|| pool.try_take(2, 10)).collect();
        assert_eq!(last.len(), 1, "the reserve is always there");
        assert_eq!(pool.blocks_out(), 8);
        for block in hot.into_iter().chain(other).chain(last) {
            pool.give_back(block);
        }
        assert_eq!(pool.blocks_out(), 0);
        assert_eq!(std::iter::from_fn(|| pool.try_take(2, 10)).count(), plan.blocks_per_feed);
    }

    #[test]
    fn the_depth_is_known_and_its_maximum() {
        let pool = Pool::new(PoolPlan::new(1 << 20, 2), 2);
        let depth = |blocks, bytes| Depth { blocks, bytes };
        let (small, large) = (pool.try_take(0, 10).unwrap(), pool.try_take(1, 1 << 20).unwrap());
        let both = depth(2, (64 << 10) + (1 << 20));
        assert_eq!(pool.take_depth(Asker::OwnTape), (both, both));
        pool.give_back(large);
        let one = depth(1, 64 << 10);
        assert_eq!(pool.take_depth(Asker::OwnTape), (one, both));
        assert_eq!(pool.take_depth(Asker::OwnTape), (one, one));
        assert_eq!(pool.take_depth(Asker::Summary), (one, both), "to each its own");
        pool.give_back(small);
        assert_eq!(pool.take_depth(Asker::Summary), (Depth::default(), one));
    }

    #[test]
    fn an_own_tape_leaves_blocks_as_large_as_they_were() {
        for (feeds, blocks) in [(1, 64), (256, 514), (4096, 8194)] {
            let plan = PoolPlan::new(4 << 20, feeds);
            let with_own = plan.with_own_tape(feeds);
            assert_eq!((with_own.block_bytes, with_own.blocks), (plan.block_bytes, blocks));
            Pool::new(with_own, feeds + 1);
        }
    }

    #[test]
    fn the_block_given_back_last_is_taken_first() {
        let pool = Pool::new(PoolPlan::new(1 << 20, 1), 1);
        let first = pool.try_take(0, 10).unwrap();
        let second = pool.try_take(0, 10).unwrap();
        let address = second.buf.as_ptr();
        pool.give_back(first);
        pool.give_back(second);
        assert_eq!(pool.try_take(0, 10).unwrap().buf.as_ptr(), address);
        assert_eq!(pool.lock().made, 2);
    }

    #[test]
    fn blocks_that_nobody_holds_are_freed_and_made_again() {
        let pool = Pool::new(PoolPlan::new(1 << 20, 1), 1);
        let held: Vec<_> = std::iter::from_fn(|| pool.try_take(0, 10)).collect();
        let mut held = held.into_iter();
        let kept = held.next().unwrap();
        held.for_each(|block| pool.give_back(block));
        assert_eq!(pool.free_unused(), 15 * (64 << 10));
        assert_eq!(pool.free_unused(), 0);
        assert_eq!(std::iter::from_fn(|| pool.try_take(0, 10)).count(), 15);
        pool.give_back(kept);
    }

    #[test]
    fn one_large_message_at_a_time() {
        let pool = Pool::new(PoolPlan::new(1 << 20, 2), 2);
        let large = pool.try_take(0, 1 << 20).unwrap();
        assert!(large.room() >= 1 << 20);
        assert!(pool.try_take(1, 1 << 20).is_none());
        assert!(pool.try_take(1, 100).is_some(), "small ones are not held up");
        pool.give_back(large);
        assert!(pool.try_take(1, 1 << 20).is_some());
    }

    #[test]
    fn what_is_lent_is_missing_until_it_comes_back() {
        let pool = Arc::new(Pool::new(PoolPlan::new(1 << 20, 1), 1));
        // Sixteen blocks of 64 KiB, of which one is reserved.
        let held: Vec<_> = std::iter::from_fn(|| pool.try_take(0, 10)).collect();
        assert!(pool.lend(1).is_none(), "all are out");
        held.into_iter().for_each(|block| pool.give_back(block));
        let loan = pool.lend(5 * (64 << 10) - 1).unwrap();
        assert!(pool.lend(3 * (64 << 10)).is_none(), "half of the fifteen, with what is lent");
        let more = pool.lend(2 * (64 << 10)).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| pool.try_take(0, 10)).collect();
        assert_eq!(held.len(), 16 - 7);
        drop(loan);
        let again: Vec<_> = std::iter::from_fn(|| pool.try_take(0, 10)).collect();
        assert_eq!(again.len(), 5);
        drop(more);
        assert_eq!(std::iter::from_fn(|| pool.try_take(0, 10)).count(), 2);
    }

    #[test]
    fn waiting_ends_when_a_block_comes_back() {
        let plan = PoolPlan { block_bytes: 4096, blocks: 2, blocks_per_feed: 2 };
        let pool = Pool::new(plan, 1);
        let held = [pool.try_take(0, 10).unwrap(), pool.try_take(0, 10).unwrap()];
        assert!(pool.take(0, 10, Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(0, 10, Duration::from_secs(10)));
            held.into_iter().for_each(|block| pool.give_back(block));
            assert!(waiter.join().unwrap().is_some());
        });
    }
}
