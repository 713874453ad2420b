//! What must hold within one segment: pure, fed with the pieces of its lines.
//!
//! Owns the checks of lines, header, stamps, marks and end. Does no I/O; what it finds is
//! collected in [`SegmentCheck::findings`] for the caller to take.

use std::fmt;
use std::io;

use super::super::Gaps;
use super::NextIndex;
use crate::clock::{self, UnixNs};
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Kind, Line, Stamp, TS_DIGITS};
use crate::tape::name::{FeedName, Form, SegmentName};
use crate::tape::reader::lines::BUFFER_BYTES;
use crate::tape::reader::{Header, PayloadDecoder, Piece, PieceEnd, event_name};
use crate::tape::{EVENT_LINE_BYTES_MAX, LINE_BYTES_MAX, VERSION};

// So an event is too long exactly where it comes in pieces.
const _: () = assert!(BUFFER_BYTES == EVENT_LINE_BYTES_MAX, "whole events are short enough");
const DAY_NS: u64 = 86_400_000_000_000;

/// Something that is not as it should be, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Number of the line, from 1.
    line: u64,
    /// Where it begins in the plain bytes.
    byte: u64,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (byte {}): {}", self.line, self.byte, self.text)
    }
}

/// What is known of a segment before it is read.
pub(super) struct Expected {
    /// The file's name, where it has one of a segment.
    pub name: Option<SegmentName>,
    /// What the header's index may be.
    pub next_index: NextIndex,
    /// The file's form; only an open one may lack its end.
    pub form: Form,
}

/// Checks one segment.
pub(super) struct SegmentCheck {
    expected: Expected,
    pub findings: Vec<Finding>,
    header: Option<Header>,
    /// Lines before the current one.
    lines: u64,
    /// Where the current line begins, and how long it is so far.
    line_at: u64,
    line_bytes: u64,
    /// Stamp of the last line that had one.
    ts: Option<UnixNs>,
    /// Stamps of messages are below this: the end of the header's day.
    day_end: UnixNs,
    /// Over the bytes from the last mark's line on.
    crc32c: u32,
    /// What the last mark said beyond what was counted (modulo 2^64), so that one lost line makes
    /// one finding.
    lines_shift: u64,
    bytes_shift: u64,
    has_ended: bool,
    told_after_end: bool,
    was_recovered: bool,
    /// The payload of a long line on its way.
    long: Option<PayloadDecoder>,
    scratch: Vec<u8>,
    gaps: Gaps,
}

impl SegmentCheck {
    pub(super) fn new(expected: Expected) -> SegmentCheck {
        SegmentCheck {
            expected,
            findings: Vec::new(),
            header: None,
            lines: 0,
            line_at: 0,
            line_bytes: 0,
            ts: None,
            day_end: UnixNs::MAX,
            crc32c: 0,
            lines_shift: 0,
            bytes_shift: 0,
            has_ended: false,
            told_after_end: false,
            was_recovered: false,
            long: None,
            scratch: Vec::new(),
            gaps: Gaps::default(),
        }
    }

    /// Takes the next piece of the segment.
    pub(super) fn piece(&mut self, piece: &Piece<'_>) {
        if piece.is_start {
            self.line_at = piece.offset;
            self.line_bytes = 0;
            self.start_of_line(piece);
        } else {
            self.more_of_line(piece.content(), piece.end);
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, piece.bytes);
        self.line_bytes += piece.bytes.len() as u64;
        match piece.end {
            PieceEnd::More => {}
            PieceEnd::Lf => {
                if self.line_bytes > LINE_BYTES_MAX {
                    let bytes = self.line_bytes;
                    self.found(format!("{bytes} bytes long, at most {LINE_BYTES_MAX} are allowed"));
                }
                self.lines += 1;
            }
            PieceEnd::Torn => {
                self.found("the last line has no line feed".to_string());
                self.lines += 1;
            }
        }
    }

    /// The segment has ended after `bytes` plain bytes, with `torn_bytes` left out after them.
    pub(super) fn finish(&mut self, bytes: u64, torn_bytes: u64) {
        self.line_at = bytes;
        match self.expected.form {
            // What is not there yet, all of it even, may be on its way.
            Form::Open => return,
            Form::Plain | Form::Gzip | Form::Zstd => {}
        }
        if torn_bytes > 0 {
            self.found(format!("the last line has no line feed ({torn_bytes} bytes)"));
        }
        if !self.has_ended {
            self.found("no end event, which a finished segment has".to_string());
        }
    }

    /// Reading failed after `bytes` plain bytes.
    pub(super) fn broken_off(&mut self, bytes: u64, error: &io::Error) {
        self.line_at = bytes;
        self.found(format!("can't be read on from here: {error}"));
    }

    /// Lines seen.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// The gaps that the segment tells of.
    pub(super) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Whether the end event was seen.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Index of the line after the last one.
    /// Whether recovery ended it: lines after the ones it has may be lost.
    pub(super) fn was_recovered(&self) -> bool {
        self.was_recovered
    }

    pub(super) fn next_index(&self) -> Option<u64> {
        self.header.as_ref()?.first_index.checked_add(self.lines)
    }

    fn found(&mut self, text: String) {
        self.findings.push(Finding { line: self.lines + 1, byte: self.line_at, text });
    }

    fn start_of_line(&mut self, piece: &Piece<'_>) {
        self.long = None;
        if self.has_ended {
            // Whatever stands there, it must not; what it is makes no difference.
            if !std::mem::replace(&mut self.told_after_end, true) {
                self.found("a line after the end event".to_string());
            }
            return;
        }
        let content = piece.content();
        if self.lines == 0 {
            self.header(content);
        }
        let line = match Line::parse(content) {
            Ok(line) => line,
            Err(e) => return self.found(format!("{e}: {}", excerpt(content))),
        };
        let last_ts = self.ts.replace(line.ts);
        if let Some(last) = last_ts.filter(|last| line.ts < *last) {
            self.found(format!("the stamp {} is before that of the line before, {last}", line.ts));
        }
        if line.kind != Kind::Event && line.ts >= self.day_end {
            let date = clock::date(line.ts);
            self.found(format!("a message of {date} is in a segment of the day before"));
        }
        if piece.end == PieceEnd::More {
            if line.kind == Kind::Event {
                return self.found(format!("an event longer than {EVENT_LINE_BYTES_MAX} bytes"));
            }
            self.long = Some(PayloadDecoder::new(line.kind));
            return self.more_of_line(&content[TS_DIGITS + 1..], piece.end);
        }
        match line.check() {
            Err(e) => self.found(format!("{e}: {}", excerpt(content))),
            Ok(()) if line.kind == Kind::Event => self.event(piece, &line, last_ts),
            Ok(()) => {}
        }
    }

    fn more_of_line(&mut self, raw: &[u8], end: PieceEnd) {
        let Some(decoder) = &mut self.long else { return };
        self.scratch.clear();
        let mut result = decoder.push(raw, &mut self.scratch);
        if end != PieceEnd::More || result.is_err() {
            let decoder = self.long.take();
            result = result.and(decoder.map_or(Ok(()), PayloadDecoder::finish));
        }
        if let Err(e) = result {
            self.found(e.to_string());
        }
    }

    fn header(&mut self, content: &[u8]) {
        let header = match Header::parse(content) {
            Ok(header) => header,
            Err(why) => return self.found(format!("no header: {why}: {}", excerpt(content))),
        };
        if header.version != VERSION {
            let version = header.version;
            self.found(format!("format version {version}, expected {VERSION}"));
        }
        if let Some(expected) = self.expected.next_index.refuse(header.first_index) {
            let found = header.first_index;
            self.found(format!("first_index is {found}, expected {expected}: lines are missing"));
        }
        let ts = Line::parse(content).map_or(0, |line| line.ts);
        self.day_end = (ts / DAY_NS + 1).saturating_mul(DAY_NS);
        match FeedName::new(&header.feed) {
            Err(why) => self.found(why),
            Ok(feed) => {
                let own = SegmentName::new(&feed, header.segment, ts);
                if let Some(name) = self.expected.name.take().filter(|name| *name != own) {
                    let (name, own) = (name.file(Form::Plain), own.file(Form::Plain));
                    self.found(format!("the file's name says {name}, the header {own}"));
                }
            }
        }
        self.header = Some(header);
    }

    /// An event whose line is whole and checked.
    fn event(&mut self, piece: &Piece<'_>, line: &Line<'_>, last_ts: Option<UnixNs>) {
        match event_name(line.raw) {
            Some("mark") => self.counts(piece, line, last_ts, Event::Mark),
            Some("end") => {
                self.counts(piece, line, last_ts, Event::End);
                self.has_ended = true;
            }
            Some("recovered") => self.was_recovered = true,
            Some("segment") if self.lines > 0 => {
                self.found("a second header".to_string());
            }
            Some("gap") if !self.gaps.count(line.raw) => {
                self.found(format!("the gap can't be read: {}", excerpt(line.raw)));
            }
            Some(_) => {}
            None => self.found(format!("the event has no name: {}", excerpt(line.raw))),
        }
    }

    /// A mark or end: must say what was counted, byte by byte as it is written.
    fn counts(
        &mut self,
        piece: &Piece<'_>,
        line: &Line<'_>,
        last_ts: Option<UnixNs>,
        event: fn(Counts) -> Event<'static>,
    ) {
        let counted = Counts {
            lines: self.lines.wrapping_add(self.lines_shift),
            bytes: piece.offset.wrapping_add(self.bytes_shift),
            crc32c: Crc32c(std::mem::take(&mut self.crc32c)),
        };
        let expected = event(counted).to_line(&Stamp::new(last_ts.unwrap_or(line.ts)));
        if piece.bytes == expected {
            return;
        }
        let said: Counts = match serde_json::from_slice(line.raw) {
            Ok(said) => said,
            Err(e) => return self.found(format!("the counts can't be read: {e}")),
        };
        let before = self.findings.len();
        if said.lines != counted.lines {
            self.found(format!("says {} lines, expected {}", said.lines, counted.lines));
            self.lines_shift = said.lines.wrapping_sub(self.lines);
        }
        if said.bytes != counted.bytes {
            self.found(format!("says {} bytes, expected {}", said.bytes, counted.bytes));
            self.bytes_shift = said.bytes.wrapping_sub(piece.offset);
        }
        let (said, counted) = (said.crc32c.0, counted.crc32c.0);
        if said != counted {
            self.found(format!(
                "says crc32c {said:08x} of the bytes since the mark before (or the start), \
                 expected {counted:08x}"
            ));
        }
        if let Some(last) = last_ts.filter(|last| *last != line.ts) {
            self.found(format!(
                "its stamp is {}, expected that of the line before, {last}",
                line.ts
            ));
        }
        if self.findings.len() == before {
            let expected = String::from_utf8_lossy(&expected[TS_DIGITS + 1..]);
            self.found(format!("not as the format writes it, expected {}", expected.trim_end()));
        }
    }
}

/// The beginning of some bytes, fit for a terminal.
fn excerpt(bytes: &[u8]) -> String {
    const EXCERPT_BYTES: usize = 60;
    let end = bytes.len().min(EXCERPT_BYTES);
    let more = if bytes.len() > end { ".." } else { "" };
    format!("\"{}\"{more}", bytes[..end].escape_ascii())
}
