//! The last lines of the log, for who looks from outside.
//!
//! Owns a ring that is off until an admin endpoint is there, and its bounds. What is a line of the
//! log, and what is not, is the log's own matter: lines come here as they are shown.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;

use crate::clock::{self, UnixNs};

/// Lines that are kept.
const LINES_MAX: usize = 512;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 512;
/// What all of it takes at most.
pub const BYTES_MAX: usize = LINES_MAX * (LINE_BYTES_MAX + size_of::<LogLine>());

static IS_ON: AtomicBool = AtomicBool::new(false);
static RING: Mutex<Ring> = Mutex::new(Ring::new());

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its number, from 1.
    pub seq: u64,
    /// When it was said.
    pub at_ns: UnixNs,
    /// How bad it is.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// What [`since`] finds.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the line after the last one.
    pub next: u64,
    /// Whether lines that were asked for are there no more.
    pub missed: bool,
    /// The lines.
    pub lines: Vec<LogLine>,
}

struct Ring {
    lines: VecDeque<LogLine>,
    last: u64,
}

/// From now on lines are kept.
pub fn start() {
    IS_ON.store(true, Relaxed);
}

/// A line of the log; kept where it is one for everybody.
pub fn note(level: Level, text: &str) {
    if IS_ON.load(Relaxed) && level <= Level::Info {
        lock().push(level, text, clock::wall_now());
    }
}

/// Lines from number `seq` on, from 0 all of this run; a number that was never given, as of an
/// earlier run, is all.
pub fn since(seq: u64) -> Found {
    lock().since(seq)
}

fn lock() -> MutexGuard<'static, Ring> {
    // Whoever panicked left a whole ring.
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    const fn new() -> Ring {
        Ring { lines: VecDeque::new(), last: 0 }
    }

    fn push(&mut self, level: Level, text: &str, at_ns: UnixNs) {
        if self.lines.len() >= LINES_MAX {
            self.lines.pop_front();
        }
        self.last += 1;
        let text = text[..text.floor_char_boundary(LINE_BYTES_MAX)].to_string();
        self.lines.push_back(LogLine { seq: self.last, at_ns, level, text });
    }

    fn since(&self, seq: u64) -> Found {
        let next = self.last + 1;
        let oldest = self.lines.front().map_or(next, |line| line.seq);
        let is_of_another_run = seq > next;
        let from = if is_of_another_run { 0 } else { seq };
        Found {
            next,
            missed: is_of_another_run || (seq.max(1) < oldest),
            lines: self.lines.iter().filter(|line| line.seq >= from).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_is_told() {
        let mut ring = Ring::new();
        assert_eq!(ring.since(0), Found { next: 1, missed: false, lines: Vec::new() });
        ring.push(Level::Info, "1", 1);
        assert!(!ring.since(0).missed, "there never was one before it");
        for n in 2..=LINES_MAX as u64 + 2 {
            ring.push(Level::Info, &n.to_string(), n);
        }
        let next = LINES_MAX as u64 + 3;
        for (seq, missed, first) in [
            (0, true, Some(3)),
            (1, true, Some(3)),
            (2, true, Some(3)),
            (3, false, Some(3)),
            (next - 1, false, Some(next - 1)),
            (next, false, None),
            (next + 1, true, Some(3)),
        ] {
            let found = ring.since(seq);
            assert_eq!((found.next, found.missed), (next, missed), "{seq}");
            assert_eq!(found.lines.first().map(|line| line.seq), first, "{seq}");
        }
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let mut ring = Ring::new();
        ring.push(Level::Warn, &"\u{e4}".repeat(LINE_BYTES_MAX), 1);
        ring.push(Level::Warn, &format!("a{}", "\u{e4}".repeat(LINE_BYTES_MAX)), 1);
        let lengths: Vec<usize> = ring.lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX, LINE_BYTES_MAX - 1]);
    }
}
