//! Reading an open segment that a crash left: how far it is whole.
//!
//! Owns finding the last mark to start from, and the walk over the lines after it, in little
//! memory. After a crash of the recorder the stamp, the kind and the LF of each line are looked at;
//! after a crash of the machine, when pages may be missing, all of it. Of marks the counts and the
//! checksum are checked. Changes nothing.

use std::io;

use super::tail::read_up_to;
use crate::clock::UnixNs;
use crate::storage::StorageFile;
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Line, Stamp, TS_DIGITS};
use crate::tape::{EVENT_LINE_BYTES_MAX, LINE_BYTES_MAX};

/// Pieces in which a segment is read.
const READ_BYTES: usize = 256 << 10;
/// What was read leaves the page cache each time it is so much.
const FORGET_BYTES: u64 = 1 << 20;
/// After a crash of the machine so much time before the end is checked by its marks: many times
/// the fsync interval. What is older was synced long before.
const CHECKED_NS: u64 = 60_000_000_000;
/// So many marks are looked at for one to start from, and so many of those are tried: where marks
/// stand a MiB apart that is never reached. Then the walk begins at the start of the file.
const MARKS_MAX: usize = 16 << 10;
const BASES_MAX: usize = 8;
/// The line of a mark is shorter than this.
const MARK_LINE_BYTES_MAX: usize = 1 << 10;
/// No file system has smaller blocks.
const HOLE_BYTES_MIN: usize = 512;
const MARK_START: &[u8] = b"!{\"event\":\"mark\",";
const END_START: &[u8] = b"!{\"event\":\"end\",";
const HEADER_START: &[u8] = b"!{\"event\":\"segment\",";

/// How much the bytes on disk can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// The machine did not crash: what was written is there.
    Written,
    /// Nor did it, but the disk may have refused what was written: what the page cache has is all.
    Refused,
    /// It did: only what a mark's checksum covers is sure.
    Marked,
}

impl Trust {
    /// Drops the page cache up to `offset` (0: all of it) of a file that was read.
    fn forget(self, file: &dyn StorageFile, offset: u64) {
        match self {
            // Where the disk did not take them the only copy.
            Trust::Written | Trust::Refused => {}
            Trust::Marked => file.drop_cache(0, offset),
        }
    }
}

/// What an open segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scan {
    /// Whole lines from the start.
    pub lines: u64,
    /// Where they end.
    pub valid_bytes: u64,
    /// Of these, bytes after the last mark that checks.
    pub unverified_bytes: u64,
    /// Checksum since the last mark's line.
    pub crc: u32,
    /// Stamp of the last line.
    pub last_ts: UnixNs,
    /// Whether the last line is the `end`.
    pub ended: bool,
}

/// A mark and where it stands.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: u64,
    ts: UnixNs,
    counts: Counts,
}

/// Whether the segment is, from its first byte on, what its marks and its `end` count.
pub(crate) fn is_whole(file: &dyn StorageFile) -> io::Result<bool> {
    let bytes = file.bytes()?;
    let mut walk = Walk::new(None, Trust::Written);
    walk.run(file)?;
    Ok(walk.ended && walk.valid_bytes == bytes)
}

/// Scans the segment; `None` where it has no header.
pub(super) fn scan(file: &dyn StorageFile, trust: Trust) -> io::Result<Option<Scan>> {
    let result = find_and_walk(file, trust);
    trust.forget(file, 0);
    result
}

fn find_and_walk(file: &dyn StorageFile, trust: Trust) -> io::Result<Option<Scan>> {
    let bytes = file.bytes()?;
    // Nothing of what was refused was synced, however old it is.
    let mut base = match trust {
        Trust::Refused => None,
        Trust::Written | Trust::Marked => find_base(file, bytes, trust)?,
    };
    let mut tried = 0;
    loop {
        tried += 1;
        let mut walk = Walk::new(base, trust);
        walk.run(file)?;
        if walk.lines == 0 {
            return Ok(None);
        }
        // The base itself may be what is broken: then an earlier one must do.
        match base {
            Some(mark) if walk.lines <= mark.counts.lines => {
                base = if tried < BASES_MAX { find_base(file, mark.at, trust)? } else { None };
            }
            _ => return Ok(Some(walk.result())),
        }
    }
}

/// The mark to walk on from: one that stands where it says, and that the checksum of the mark
/// after it covers.
fn find_base(file: &dyn StorageFile, before: u64, trust: Trust) -> io::Result<Option<Mark>> {
    let mut to = before;
    let mut newest_ts = None;
    let mut later: Option<Mark> = None;
    for _ in 0..MARKS_MAX {
        let Some(mark) = mark_before(file, to)? else { break };
        to = mark.at;
        if let Some(later) = later
            && checks(file, mark.at, later)?
        {
            return Ok(Some(mark));
        }
        let newest = *newest_ts.get_or_insert(mark.ts);
        let far_enough = match trust {
            Trust::Written => true,
            Trust::Refused | Trust::Marked => newest.saturating_sub(mark.ts) >= CHECKED_NS,
        };
        later = far_enough.then_some(mark);
    }
    Ok(None)
}

/// Whether the checksum of `mark` is right for the bytes from `from`, the mark before it.
fn checks(file: &dyn StorageFile, from: u64, mark: Mark) -> io::Result<bool> {
    let mut crc = 0;
    let mut at = from;
    let mut buf = vec![0; READ_BYTES];
    while at < mark.at {
        let want = buf.len().min(usize::try_from(mark.at - at).unwrap_or(usize::MAX));
        let bytes = read_up_to(file, at, &mut buf[..want])?;
        if bytes == 0 {
            return Ok(false);
        }
        crc = crc32c::crc32c_append(crc, &buf[..bytes]);
        at += bytes as u64;
    }
    Ok(Crc32c(crc) == mark.counts.crc32c)
}

/// The last mark that begins before `to` and stands where its own count says.
fn mark_before(file: &dyn StorageFile, to: u64) -> io::Result<Option<Mark>> {
    let mut end = to;
    let mut buf = vec![0; READ_BYTES];
    while end > 0 {
        // A line that begins in this piece may end in the next: read so much more.
        let from = end.saturating_sub((READ_BYTES - EVENT_LINE_BYTES_MAX) as u64);
        let bytes = read_up_to(file, from, &mut buf)?;
        let piece = &buf[..bytes];
        let mut until = usize::try_from(end - from).unwrap_or(usize::MAX).min(bytes);
        while let Some(at) = memchr::memmem::rfind(&piece[..until], MARK_START) {
            if let Some(mark) = mark_at(piece, at, from) {
                return Ok(Some(mark));
            }
            until = at;
        }
        // A mark's start may lie across the edge of two pieces.
        let overlap = (MARK_START.len() + TS_DIGITS + 1) as u64;
        end = if from == 0 { 0 } else { (from + overlap).min(end - 1) };
        if from == 0 {
            break;
        }
    }
    Ok(None)
}

fn mark_at(piece: &[u8], at: usize, from: u64) -> Option<Mark> {
    let start = at.checked_sub(TS_DIGITS)?;
    if start.checked_sub(1).is_some_and(|before| piece[before] != b'\n') {
        return None;
    }
    let line = &piece[start..piece.len().min(start + MARK_LINE_BYTES_MAX)];
    let line = Line::parse(&line[..memchr::memchr(b'\n', line)?]).ok()?;
    let counts: Counts = serde_json::from_slice(line.raw).ok()?;
    let offset = from + start as u64;
    // No line is shorter than a byte: what is said here is counted on.
    let is_right = counts.bytes == offset && counts.lines <= counts.bytes;
    is_right.then_some(Mark { at: offset, ts: line.ts, counts })
}

/// The walk over lines, from the start or from a mark.
struct Walk {
    trust: Trust,
    lines: u64,
    valid_bytes: u64,
    verified_bytes: u64,
    /// Up to the last whole line.
    crc: u32,
    last_ts: UnixNs,
    ended: bool,
    /// The line that has begun: its first bytes, its length, the checksum with it.
    head: Vec<u8>,
    line_bytes: u64,
    running_crc: u32,
    /// So many zeroes are its last bytes.
    zeros: usize,
}

impl Walk {
    fn new(base: Option<Mark>, trust: Trust) -> Walk {
        let (lines, at) = base.map_or((0, 0), |mark| (mark.counts.lines, mark.at));
        Walk {
            trust,
            lines,
            valid_bytes: at,
            verified_bytes: at,
            crc: base.map_or(0, |mark| mark.counts.crc32c.0),
            last_ts: 0,
            ended: false,
            head: Vec::with_capacity(1024),
            line_bytes: 0,
            running_crc: base.map_or(0, |mark| mark.counts.crc32c.0),
            zeros: 0,
        }
    }

    fn result(&self) -> Scan {
        let unverified_bytes = match self.trust {
            Trust::Written => 0,
            Trust::Refused | Trust::Marked => self.valid_bytes - self.verified_bytes,
        };
        Scan {
            lines: self.lines,
            valid_bytes: self.valid_bytes,
            unverified_bytes,
            crc: self.crc,
            last_ts: self.last_ts,
            ended: self.ended,
        }
    }

    /// Goes on to the first line that is none.
    fn run(&mut self, file: &dyn StorageFile) -> io::Result<()> {
        let mut buf = vec![0; READ_BYTES];
        let mut offset = self.valid_bytes;
        let mut forgotten = offset;
        loop {
            let bytes = read_up_to(file, offset, &mut buf)?;
            if bytes == 0 {
                return Ok(());
            }
            offset += bytes as u64;
            if offset - forgotten >= FORGET_BYTES {
                self.trust.forget(file, offset);
                forgotten = offset;
            }
            for part in buf[..bytes].split_inclusive(|byte| *byte == b'\n') {
                if !self.take(part) {
                    return Ok(());
                }
            }
        }
    }

    /// Takes a line or a part of one; `false` where it is none.
    fn take(&mut self, part: &[u8]) -> bool {
        let (body, whole) = match part.strip_suffix(b"\n") {
            Some(body) => (body, true),
            None => (part, false),
        };
        let room = EVENT_LINE_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend_from_slice(&body[..body.len().min(room)]);
        self.running_crc = crc32c::crc32c_append(self.running_crc, part);
        self.line_bytes += part.len() as u64;
        if self.line_bytes > LINE_BYTES_MAX {
            return false;
        }
        if self.trust != Trust::Written && self.has_hole(part) {
            return false;
        }
        if !whole {
            return true;
        }
        let taken = self.take_line();
        self.head.clear();
        self.line_bytes = 0;
        taken
    }

    /// What was never written reads as zeroes, whole blocks of the disk of them. A few are a text's
    /// own: a frame of STOMP ends with one.
    fn has_hole(&mut self, part: &[u8]) -> bool {
        let mut rest = part;
        while let Some(at) = memchr::memchr(0, rest) {
            self.zeros = if at == 0 { self.zeros } else { 0 };
            let run = rest[at..].iter().position(|byte| *byte != 0).unwrap_or(rest.len() - at);
            self.zeros += run;
            if self.zeros >= HOLE_BYTES_MIN {
                return true;
            }
            rest = &rest[at + run..];
        }
        if !rest.is_empty() {
            self.zeros = 0;
        }
        false
    }

    fn take_line(&mut self) -> bool {
        let Ok(line) = Line::parse(&self.head) else {
            return false;
        };
        let event = &self.head[TS_DIGITS..];
        let is_header = event.starts_with(HEADER_START);
        if line.ts < self.last_ts || self.ended || is_header != (self.lines == 0) {
            return false;
        }
        let whole_head = self.line_bytes == self.head.len() as u64 + 1;
        if self.trust != Trust::Written && whole_head && line.check().is_err() {
            return false;
        }
        let is_mark = event.starts_with(MARK_START);
        let is_end = event.starts_with(END_START);
        if (is_mark || is_end) && !self.is_right(&line, is_end) {
            return false;
        }
        let ts = line.ts;
        self.ended = is_end;
        if is_mark {
            // From its line on the next mark counts.
            self.running_crc = crc32c::crc32c(&self.head);
            self.running_crc = crc32c::crc32c_append(self.running_crc, b"\n");
        }
        self.lines += 1;
        self.valid_bytes += self.line_bytes;
        if is_mark || is_end {
            self.verified_bytes = self.valid_bytes;
        }
        self.crc = self.running_crc;
        self.last_ts = ts;
        true
    }

    /// A mark or end is right only if it is, byte for byte, the one that belongs here: then it
    /// needs no checksum of its own. Of the mark that the walk begins with the stamp is not known.
    fn is_right(&self, line: &Line<'_>, is_end: bool) -> bool {
        let crc32c = Crc32c(self.crc);
        let here = Counts { lines: self.lines, bytes: self.valid_bytes, crc32c };
        let event = if is_end { Event::End(here) } else { Event::Mark(here) };
        let is_base = self.last_ts == 0;
        let ts = if is_base { line.ts } else { self.last_ts };
        event.to_line(&Stamp::new(ts)).strip_suffix(b"\n") == Some(&self.head[..])
    }
}
