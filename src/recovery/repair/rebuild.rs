//! The walk over what can be read of a damaged segment: which lines go into the new one.
//!
//! Owns the new file's counts, marks and gaps, and the way back: lines are written as they come,
//! and where a mark says later that they were wrong, the new file is cut to where it was before
//! them. So memory depends neither on the lines nor on the distance of marks. What `gaps` counts
//! and what `known` remembers is there for the next walk.

mod gaps;
mod known;
mod long;

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

pub(super) use self::known::Known;
use self::known::{HeaderIs, Told, note};
use super::{Around, Repaired};
use crate::clock::{self, UnixNs};
use crate::recovery::pieces::{Part, Proof};
use crate::storage::{Appender, StorageFile};
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Kind, Line, Stamp};
use crate::tape::name::{FeedName, SegmentName};
use crate::tape::reader::{Header, PayloadDecoder, event_name};
use crate::tape::{EVENT_LINE_BYTES_MAX, VERSION};

const SECOND_NS: UnixNs = 1_000_000_000;

/// What the new file holds: a place to go back to.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    bytes: u64,
    lines: u64,
    /// Since its last mark.
    crc: u32,
    last_ts: UnixNs,
    /// Of the first line of the old one that was kept, but for the header.
    first_ts: Option<UnixNs>,
    /// Lines of the old one that were kept since [`Old::base`], and their bytes.
    since: u64,
    since_bytes: u64,
    /// Places since then where something is missing, lines that were kept before the first, and
    /// gaps that say so already.
    holes: u64,
    since_before_hole: u64,
    gaps: u64,
    /// Lines are missing before the next one, and no gap says so yet.
    is_gap_due: bool,
}

/// Where the walk is in the old file.
#[derive(Debug, Clone, Copy)]
struct Old {
    /// Plain bytes before the current line, where they are known.
    offset: Option<u64>,
    /// Since the last mark, where nothing is missing since then.
    crc: Option<u32>,
    /// Lines and bytes up to the last mark that was believed, with it.
    base: u64,
    base_bytes: u64,
}

/// The line that has begun.
#[derive(Debug, Default)]
struct Current {
    /// All of it, or nothing where it is long: then it has been written as far as it came.
    head: Vec<u8>,
    bytes: u64,
    start: Kept,
    crc_before: Option<u32>,
    /// A long line, and its stamp; without a decoder it is none.
    long: Option<(UnixNs, Option<PayloadDecoder>)>,
}

/// The walk.
pub(super) struct Rebuild<'a> {
    around: &'a Around,
    file: Arc<dyn StorageFile>,
    out: BufWriter<Appender>,
    kept: Kept,
    /// Up to here a checksum is right.
    proven: Kept,
    /// Before the first line since the last mark that is none.
    suspect: Option<Kept>,
    /// Before the line that was kept last.
    before_last: Kept,
    old: Old,
    current: Current,
    proof: Proof,
    known: Known,
    /// The header does not fit, and no mark has said yet that it was written so.
    is_header_doubtful: bool,
    first_index: u64,
    has_ended: bool,
    /// Lines before the old one's `end`, where they are known.
    old_lines: Option<u64>,
    /// Bytes since the last mark that no checksum covers, which no event tells of yet.
    untold_bytes: u64,
    bytes_lost: u64,
    /// Marks so far, and those of them that were believed.
    marks: u64,
    marks_believed: u64,
    /// What the next walk must know: [`Known::wrong`] and [`Known::told`].
    wrong: Vec<u64>,
    told: Vec<Told>,
    scratch: Vec<u8>,
    repaired: Repaired,
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(around: &'a Around, file: Arc<dyn StorageFile>, known: Known) -> Rebuild<'a> {
        let old = Old { offset: Some(0), crc: Some(0), base: 0, base_bytes: 0 };
        Rebuild {
            around,
            out: BufWriter::with_capacity(EVENT_LINE_BYTES_MAX, Appender(file.clone())),
            file,
            kept: Kept::default(),
            proven: Kept::default(),
            suspect: None,
            before_last: Kept::default(),
            old,
            current: Current::default(),
            proof: Proof::Piece,
            known,
            is_header_doubtful: false,
            first_index: 0,
            has_ended: false,
            old_lines: None,
            untold_bytes: 0,
            bytes_lost: 0,
            marks: 0,
            marks_believed: 0,
            wrong: Vec::new(),
            told: Vec::new(),
            scratch: Vec::new(),
            repaired: Repaired::default(),
        }
    }

    /// Takes what the old file has next.
    pub(super) fn take(&mut self, part: Part<'_>) -> io::Result<()> {
        if self.has_ended {
            // Whatever follows the end is none of the segment's.
            self.repaired.is_changed = true;
            return Ok(());
        }
        match part {
            Part::Hole => self.hole(),
            Part::Bytes(proof, bytes) => {
                self.proof = proof;
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    if !self.has_ended {
                        self.piece(piece)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes what must stand at the end, after all was taken.
    pub(super) fn finish(&mut self) -> io::Result<Repaired> {
        if !self.has_ended {
            self.hole()?;
            let next = self.around.next_index;
            // The line before the next segment was the `end`.
            self.old_lines =
                next.and_then(|next| next.checked_sub(self.first_index)?.checked_sub(1));
            // From the least first index on, lines of the segment before may be among them.
            let is_own = !(self.repaired.is_header_new && self.known.is_index_least);
            self.settle(self.old_lines.filter(|_| is_own));
            self.end(self.around.next_ts, b"")?;
        }
        self.out.flush()?;
        self.repaired.lines = self.kept.lines;
        Ok(self.repaired.clone())
    }

    /// Takes a line or a part of one.
    fn piece(&mut self, part: &[u8]) -> io::Result<()> {
        if self.current.bytes == 0 {
            self.current.start = self.kept;
            self.current.crc_before = self.old.crc;
        }
        self.current.bytes += part.len() as u64;
        self.old.crc = self.old.crc.map(|crc| crc32c::crc32c_append(crc, part));
        let is_whole = part.ends_with(b"\n");
        let fits = self.current.head.len() + part.len() <= EVENT_LINE_BYTES_MAX;
        if self.current.long.is_none() && fits {
            self.current.head.extend_from_slice(part);
            if is_whole {
                self.short_line()?;
            }
        } else {
            if self.current.long.is_none() {
                self.begin_long()?;
            }
            self.long_part(part)?;
            if is_whole {
                self.long_line()?;
            }
        }
        if is_whole {
            self.old.offset = self.old.offset.map(|at| at + self.current.bytes);
            self.current.bytes = 0;
            self.current.head.clear();
            self.current.long = None;
        }
        Ok(())
    }

    fn short_line(&mut self) -> io::Result<()> {
        let head = std::mem::take(&mut self.current.head);
        let body = head.strip_suffix(b"\n").unwrap_or(&head);
        let line = Line::parse(body).ok();
        if self.kept.lines == 0 {
            if let Ok(header) = Header::parse(body)
                && self.is_credible(&header, line.map_or(0, |line| line.ts))
            {
                self.first_index = header.first_index;
                let ts = line.map_or(0, |line| line.ts);
                self.repaired.is_misnamed = !self.is_own(&header, ts);
                self.is_header_doubtful = !self.fits(&header, ts);
                self.keep(&head, ts)?;
                self.kept.first_ts = None;
                self.proven = self.kept;
                return Ok(());
            }
            // This line was the header.
            return self.new_header();
        }
        let ts = line.map(|line| line.ts);
        // A page that was never written reads as zeroes, which no JSON holds.
        let is_torn = memchr::memchr(0, body).is_some();
        let Some(line) = line.filter(|line| !is_torn && line.check().is_ok()) else {
            return self.doubt(&head, ts);
        };
        let name = if line.kind == Kind::Event { event_name(line.raw) } else { None };
        let counts: Option<Counts> = match name {
            Some("mark" | "end") => serde_json::from_slice(line.raw).ok(),
            _ => None,
        };
        if let Some(counts) = counts {
            return self.mark(&head, line.ts, counts, name == Some("end"));
        }
        let is_wrong_event = matches!(name, Some("segment" | "mark" | "end"));
        if !is_wrong_event {
            self.blame_last(line.ts)?;
        }
        if line.ts < self.kept.last_ts || is_wrong_event {
            return self.doubt(&head, ts);
        }
        self.keep(&head, line.ts)
    }

    /// A header in a piece that is damaged must be right in all that can be compared.
    fn is_credible(&self, header: &Header, ts: UnixNs) -> bool {
        let is_believed =
            self.proof != Proof::MarksAgainst && self.known.header == HeaderIs::Believed;
        is_believed || self.fits(header, ts)
    }

    fn fits(&self, header: &Header, ts: UnixNs) -> bool {
        let first_index = self.around.first_index;
        self.is_own(header, ts) && first_index.is_none_or(|first| first == header.first_index)
    }

    fn is_own(&self, header: &Header, ts: UnixNs) -> bool {
        FeedName::new(&header.feed)
            .is_ok_and(|feed| SegmentName::new(&feed, header.segment, ts) == self.around.name)
    }

    /// The header is lost: makes one of what is known.
    fn new_header(&mut self) -> io::Result<()> {
        let name = &self.around.name;
        self.first_index = self.known.first_index.unwrap_or(0);
        let ts = name.first_second().ok_or_else(|| io::Error::other("its name has no such day"))?;
        // Not below the end of the segment before, unless its own lines are: a clock was set back.
        let least = self.around.last_ts.filter(|least| least / SECOND_NS == ts / SECOND_NS);
        let least = least.and_then(|least| match self.known.first_ts {
            Some(first) => Some(least.min(first)),
            // Not known yet, or there is none.
            None => self.known.told.is_some().then_some(least),
        });
        let ts = least.map_or(ts, |least| least.max(ts));
        let header = Event::NewHeader {
            version: VERSION,
            feed: name.feed.as_str(),
            segment: name.number,
            first_index: self.first_index,
            url: (),
            host: (),
            boot_id: (),
            mono_offset_ns: (),
            clock_sync: clock::ClockSync::Unknown,
            clock_error_ns: (),
            conn: (),
            feedtape: env!("CARGO_PKG_VERSION"),
        };
        self.kept.last_ts = ts;
        self.put(&header)?;
        self.kept.since = 1;
        self.proven = self.kept;
        self.repaired.is_header_new = true;
        self.repaired.is_changed = true;
        Ok(())
    }

    /// A line goes into the new file.
    fn keep(&mut self, bytes: &[u8], ts: UnixNs) -> io::Result<()> {
        self.say_gap(Some(ts))?;
        self.write(bytes)?;
        self.count_line(ts);
        Ok(())
    }

    fn count_line(&mut self, ts: UnixNs) {
        self.kept.lines += 1;
        self.kept.since += 1;
        self.kept.since_bytes += self.current.bytes;
        self.kept.last_ts = ts;
        self.kept.first_ts.get_or_insert(ts);
        self.before_last = self.current.start;
        if self.proof == Proof::Piece && self.suspect.is_none() {
            self.proven = self.kept;
        }
    }

    /// Whether the lines here are right by themselves or not at all: an earlier walk found that
    /// the next mark is wrong, and no checksum of a piece says what was recorded.
    fn is_strict(&self) -> bool {
        self.proof == Proof::Marks && self.known.wrong.binary_search(&self.marks).is_ok()
    }

    /// A line that is none. Right after a hole it is a part of it, and it is lost where an earlier
    /// walk found the next mark wrong. Else it is written all the same: the next mark tells whether
    /// it is what was recorded.
    fn doubt(&mut self, bytes: &[u8], ts: Option<UnixNs>) -> io::Result<()> {
        if self.kept.is_gap_due || self.is_strict() {
            return self.lose(self.kept);
        }
        self.suspect_before(ts);
        self.keep(bytes, ts.unwrap_or(self.kept.last_ts))
    }

    /// Notes where the first wrong line stands: where its stamp is too low, but not for the line
    /// before the last, it is the last one's that is wrong.
    fn suspect_before(&mut self, ts: Option<UnixNs>) {
        let is_last_wrong = ts.is_some_and(|ts| self.is_last_wrong(ts));
        let place = if is_last_wrong { self.before_last } else { self.current.start };
        self.suspect.get_or_insert(place);
    }

    fn is_last_wrong(&self, ts: UnixNs) -> bool {
        let before = self.before_last;
        before.lines > 0 && ts < self.kept.last_ts && ts >= before.last_ts
    }

    /// The same where lines are right by themselves or not at all: then the last one is lost.
    fn blame_last(&mut self, ts: UnixNs) -> io::Result<()> {
        if self.is_strict() && self.is_last_wrong(ts) {
            self.lose(self.before_last)?;
            self.current.start = self.kept;
        }
        Ok(())
    }

    /// What was kept since the last mark is wrong somewhere: the next walk looks at each line.
    fn note_wrong(&mut self) {
        if self.proof == Proof::Marks && !self.is_strict() {
            note(&mut self.wrong, self.marks);
        }
    }

    /// A mark or the end: says whether what was kept since the last one is right.
    fn mark(&mut self, line: &[u8], ts: UnixNs, said: Counts, is_end: bool) -> io::Result<()> {
        self.blame_last(ts)?;
        if ts < self.kept.last_ts && !self.is_strict() {
            self.suspect_before(Some(ts));
        }
        let is_right = self.current.crc_before.map(Crc32c) == Some(said.crc32c);
        let is_whole = self.current.crc_before.is_some();
        self.is_header_doubtful &= !is_right || self.old.base > 0;
        match self.suspect.take() {
            _ if is_right => {}
            _ if self.proof == Proof::MarksAgainst => self.lose(self.proven)?,
            Some(place) => {
                self.note_wrong();
                self.lose(place)?;
            }
            None if is_whole => {
                self.untold_bytes += self.kept.since_bytes;
                self.repaired.bytes_unverified += self.kept.since_bytes;
                self.repaired.is_changed = true;
            }
            None => {}
        }
        let at = self.old.offset;
        let known = self.old.base.saturating_add(self.kept.since);
        // Then what was counted is right, whatever became of the mark's own line.
        let lines = if is_right && self.kept.holes == 0 { known } else { said.lines };
        let said = Counts { lines, ..said };
        let is_believed = (is_right || at.is_none_or(|at| at == said.bytes)) && said.lines >= known;
        if is_believed {
            self.bytes_lost += said
                .bytes
                .saturating_sub(self.old.base_bytes.saturating_add(self.kept.since_bytes));
            self.settle(Some(said.lines));
        }
        if is_end {
            self.has_ended = true;
            self.old_lines = is_believed.then_some(said.lines);
            return self.end(Some(ts), line);
        }
        self.say_gap(Some(ts))?;
        self.put_mark(line, is_believed.then_some(said.lines))?;
        if is_believed {
            self.old.base = said.lines.saturating_add(1);
            self.old.base_bytes = said.bytes.saturating_add(self.current.bytes);
            self.old.offset = Some(said.bytes);
            let Kept { bytes, lines, crc, last_ts, first_ts, is_gap_due, .. } = self.kept;
            self.kept =
                Kept { bytes, lines, crc, last_ts, first_ts, is_gap_due, ..Kept::default() };
            self.marks_believed += 1;
        } else {
            self.kept.since += 1;
            self.kept.since_bytes += self.current.bytes;
        }
        self.marks += 1;
        self.old.crc = Some(crc32c::crc32c(line));
        self.proven = self.kept;
        self.before_last = self.kept;
        Ok(())
    }

    /// In the place of an old mark: what tells of bytes that it did not cover, or a new mark; or
    /// nothing where gaps have made the segment longer than it was.
    fn put_mark(&mut self, line: &[u8], old_lines: Option<u64>) -> io::Result<()> {
        if self.untold_bytes > 0 {
            return self.put_recovered();
        }
        if old_lines.is_some_and(|old| self.kept.lines > old) {
            self.repaired.is_changed = true;
            return Ok(());
        }
        let counts = self.counts();
        self.kept.crc = 0;
        let new = self.put(&Event::Mark(counts))?;
        self.repaired.is_changed |= new != line;
        Ok(())
    }

    fn counts(&self) -> Counts {
        let Kept { lines, bytes, crc, .. } = self.kept;
        Counts { lines, bytes, crc32c: Crc32c(crc) }
    }

    /// Something is missing here: what is not sure without the next mark is lost as well.
    fn hole(&mut self) -> io::Result<()> {
        if self.current.bytes > 0 {
            self.roll_back(self.current.start)?;
            self.current = Current::default();
            self.repaired.is_changed = true;
        }
        if self.kept.lines == 0 {
            self.new_header()?;
        }
        match (self.suspect.take(), self.proof) {
            (_, Proof::MarksAgainst) => self.lose(self.proven)?,
            (Some(place), Proof::Marks | Proof::Piece) => {
                self.note_wrong();
                self.lose(place)?;
            }
            (None, Proof::Marks) => {
                let bytes = self.kept.since_bytes.saturating_sub(self.proven.since_bytes);
                self.untold_bytes += bytes;
                self.repaired.bytes_unverified += bytes;
                self.lose(self.kept)?;
            }
            (None, Proof::Piece) => self.lose(self.kept)?,
        }
        self.old.offset = None;
        self.old.crc = None;
        self.proven = self.kept;
        self.before_last = self.kept;
        Ok(())
    }

    fn roll_back(&mut self, place: Kept) -> io::Result<()> {
        if place.bytes < self.kept.bytes {
            self.out.flush()?;
            self.file.truncate(place.bytes)?;
        }
        self.kept = place;
        Ok(())
    }

    /// Puts what stands at the end: the gap that is due, `recovered` where it is needed, `end`.
    /// `old` is the `end` that was there.
    fn end(&mut self, to_ts: Option<UnixNs>, old: &[u8]) -> io::Result<()> {
        self.say_gap(to_ts)?;
        let is_shorter = match self.old_lines {
            Some(old) => self.kept.lines < old,
            None => self.repaired.has_lost(),
        };
        let has_room = self.old_lines.is_none_or(|old| self.kept.lines < old);
        if is_shorter || (self.untold_bytes > 0 && has_room) {
            self.put_recovered()?;
        }
        let counts = self.counts();
        let new = self.put(&Event::End(counts))?;
        self.repaired.is_changed |= new != old;
        Ok(())
    }

    fn put_recovered(&mut self) -> io::Result<()> {
        let event = Event::Recovered {
            bytes_cut: std::mem::take(&mut self.bytes_lost),
            bytes_unverified: std::mem::take(&mut self.untold_bytes),
            at: clock::wall_now(),
        };
        self.put(&event)?;
        Ok(())
    }

    /// Writes an event of our own.
    fn put(&mut self, event: &Event<'_>) -> io::Result<Vec<u8>> {
        let line = event.to_line(&Stamp::new(self.kept.last_ts));
        self.write(&line)?;
        self.kept.lines += 1;
        Ok(line)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.kept.bytes += bytes.len() as u64;
        self.kept.crc = crc32c::crc32c_append(self.kept.crc, bytes);
        Ok(())
    }
}
