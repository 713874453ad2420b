//! The lines of many tapes in one stream, in the order of their stamps.
//!
//! Owns the order: within a tape that of its segments and lines, whatever the stamps say (they go
//! back where the clock was stepped back); between tapes the lower stamp first, and the earlier
//! tape where they are equal. A line without a valid stamp stays with the line before it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::find::{OpenSegment, Tape};
use super::lines::{LineReader, Piece, PieceEnd};
use super::source::Purpose;
use super::{Header, ReadError};
use crate::clock::UnixNs;
use crate::tape::line::{TS_DIGITS, parse_stamp};
use crate::tape::name::Form;

/// Where a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Number of its segment, as the header says it.
    pub segment: u64,
    /// Its index in its feed.
    pub index: u64,
    /// Its stamp.
    pub ts: UnixNs,
}

/// Reads the lines of several tapes: call [`Merge::advance`], then look at [`Merge::piece`].
pub struct Merge {
    tapes: Vec<TapeReader>,
    /// Tapes below this have been started.
    started: usize,
    /// The next stamp of each tape but the current one.
    heap: BinaryHeap<Reverse<(UnixNs, usize)>>,
    current: Option<usize>,
}

impl Merge {
    /// Merges `tapes`. Files are opened as they are needed: the first one of each tape at the
    /// first line.
    pub fn new(tapes: Vec<Tape>, purpose: Purpose) -> Merge {
        let tapes: Vec<_> = tapes.into_iter().map(|tape| TapeReader::new(tape, purpose)).collect();
        let heap = BinaryHeap::with_capacity(tapes.len());
        Merge { tapes, started: 0, heap, current: None }
    }

    /// Goes to the next piece; false at the end of all tapes. The pieces of a long line come one
    /// after the other.
    ///
    /// # Errors
    /// Something of a segment can't be read. The next call goes on with the segment after it.
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        while self.started < self.tapes.len() {
            let tape = self.started;
            if self.tapes[tape].advance()? {
                self.heap.push(Reverse((self.tapes[tape].place.ts, tape)));
            }
            self.started += 1;
        }
        if let Some(tape) = self.current {
            let reader = &mut self.tapes[tape];
            if reader.advance()? {
                let key = (reader.place.ts, tape);
                match self.heap.peek_mut() {
                    // Most lines stay with their tape, which costs one comparison.
                    Some(mut first) if reader.piece().is_start && first.0 < key => {
                        let Reverse((_, tape)) = std::mem::replace(&mut *first, Reverse(key));
                        self.current = Some(tape);
                    }
                    _ => {}
                }
                return Ok(true);
            }
        }
        self.current = self.heap.pop().map(|Reverse((_, tape))| tape);
        Ok(self.current.is_some())
    }

    /// The current piece.
    ///
    /// # Panics
    /// Where [`Merge::advance`] did not just return true.
    pub fn piece(&self) -> Piece<'_> {
        self.reader().piece()
    }

    /// Where the current line stands.
    ///
    /// # Panics
    /// As [`Merge::piece`].
    pub fn place(&self) -> Place {
        self.reader().place
    }

    /// The tape of the current line.
    ///
    /// # Panics
    /// As [`Merge::piece`].
    pub fn tape(&self) -> &Tape {
        &self.reader().tape
    }

    fn reader(&self) -> &TapeReader {
        &self.tapes[self.current.expect("advance has just returned true")]
    }
}

/// The lines of one tape, segment after segment.
struct TapeReader {
    tape: Tape,
    purpose: Purpose,
    /// Segments before this one have been opened.
    next: usize,
    lines: Option<LineReader<OpenSegment>>,
    place: Place,
    /// Index of the next line.
    next_index: u64,
}

impl TapeReader {
    fn new(tape: Tape, purpose: Purpose) -> TapeReader {
        let place = Place::default();
        TapeReader { tape, purpose, next: 0, lines: None, place, next_index: 0 }
    }

    fn advance(&mut self) -> Result<bool, ReadError> {
        loop {
            let Some(lines) = &mut self.lines else {
                let Some(segment) = self.tape.segments.get(self.next) else { return Ok(false) };
                self.next += 1;
                self.place.segment = segment.number().unwrap_or(0);
                self.lines = segment.open(self.purpose)?.map(OpenSegment::lines);
                continue;
            };
            let error = match lines.advance() {
                Ok(true) if lines.piece().end == PieceEnd::Torn => unfinished(lines),
                Ok(true) => {
                    self.note_line();
                    return Ok(true);
                }
                Ok(false) => torn_error(lines.source()),
                Err(e) => Some(e),
            };
            let path = lines.source().file().path();
            let offset = lines.offset();
            self.lines = None;
            if let Some(cause) = error {
                return Err(ReadError::at(&path, offset, cause));
            }
        }
    }

    /// Keeps track of where the line stands that begins with the current piece.
    fn note_line(&mut self) {
        let Some(piece) = self.lines.as_ref().map(LineReader::piece) else { return };
        if !piece.is_start {
            return;
        }
        if piece.offset == 0
            && let Ok(header) = Header::parse(piece.content())
        {
            self.place.segment = header.segment;
            self.next_index = header.first_index;
        }
        self.place.index = self.next_index;
        self.next_index = self.next_index.saturating_add(1);
        if let Some(ts) = piece.bytes.get(..TS_DIGITS).and_then(parse_stamp) {
            self.place.ts = ts;
        }
    }

    fn piece(&self) -> Piece<'_> {
        self.lines.as_ref().expect("advance has just returned true").piece()
    }
}

/// A sealed segment ends inside a line.
fn unfinished(lines: &LineReader<OpenSegment>) -> Option<std::io::Error> {
    let bytes = lines.piece().bytes.len();
    Some(not_whole(bytes as u64))
}

/// A finished plain segment has bytes after its last line; in an open one they are on their way.
pub(crate) fn torn_error(segment: &OpenSegment) -> Option<std::io::Error> {
    let bytes = segment.source().torn_bytes();
    match segment.file().form() {
        Form::Open => None,
        Form::Plain | Form::Gzip | Form::Zstd => (bytes > 0).then(|| not_whole(bytes)),
    }
}

fn not_whole(bytes: u64) -> std::io::Error {
    std::io::Error::other(format!("its last line is not whole ({bytes} bytes left out)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::reader::testing::{Recording, SegmentBuilder, TS};
    use crate::tape::reader::{find, read_all};

    /// Writes one segment with texts at the given stamps (after [`TS`]), named `<feed><stamp>`.
    fn put(
        recording: &Recording,
        feed: &str,
        number: u64,
        first_index: u64,
        stamps: &[u64],
    ) -> u64 {
        let mut segment = SegmentBuilder::new(feed, number, first_index);
        segment.header_ts(TS + stamps[0]);
        for ts in stamps {
            segment.ts(TS + ts).text(format!("{feed}{ts}").as_bytes());
        }
        segment.end();
        recording.put(&segment, if number.is_multiple_of(2) { Form::Zstd } else { Form::Plain });
        first_index + stamps.len() as u64 + 2
    }

    fn texts(recording: &Recording) -> Vec<String> {
        let lines = read_all(recording.path()).unwrap();
        let texts = lines.iter().filter_map(|line| {
            let line = line.line().unwrap();
            (line.kind == crate::tape::line::Kind::Text)
                .then(|| String::from_utf8(line.raw.to_vec()).unwrap())
        });
        texts.collect()
    }

    #[test]
    fn tapes_are_merged_by_stamp() {
        let recording = Recording::new();
        put(&recording, "a", 0, 0, &[1, 4, 4, 9]);
        put(&recording, "b", 0, 0, &[2, 3, 4, 5]);
        put(&recording, "c", 0, 0, &[7]);
        assert_eq!(texts(&recording), ["a1", "b2", "b3", "a4", "a4", "b4", "b5", "c7", "a9"]);
    }

    #[test]
    fn within_a_feed_the_index_is_the_order() {
        let recording = Recording::new();
        let next = put(&recording, "a", 0, 0, &[5, 8]);
        // The clock was set back.
        put(&recording, "a", 1, next, &[2, 9]);
        put(&recording, "b", 0, 0, &[3, 6, 9]);
        assert_eq!(texts(&recording), ["b3", "a5", "b6", "a8", "a2", "a9", "b9"]);
        let lines = read_all(recording.path()).unwrap();
        let a: Vec<_> = lines.iter().filter(|line| line.feed == "a").collect();
        let indices: Vec<u64> = a.iter().map(|line| line.index).collect();
        assert_eq!(indices, (0..8).collect::<Vec<u64>>());
        assert_eq!(a.iter().map(|line| line.segment).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_broken_segment_is_told_and_the_next_one_read() {
        let recording = Recording::new();
        let next = put(&recording, "a", 0, 0, &[1]);
        put(&recording, "a", 1, next, &[2]);
        put(&recording, "b", 0, 0, &[3]);
        let tapes = find(&[recording.path()]).unwrap();
        let broken = tapes[0].segments[0].path();
        std::fs::write(&broken, b"no zstd at all").unwrap();
        let mut merge = Merge::new(tapes, Purpose::Read);
        let error = merge.advance().unwrap_err();
        assert_eq!(error.path, broken);
        let mut lines = 0;
        while merge.advance().unwrap() {
            lines += 1;
        }
        assert_eq!(lines, 6, "header, text and end of the other two");
    }

    #[test]
    fn a_torn_end_is_an_error_only_where_the_segment_is_finished() {
        let check = |form: Form, expected: Option<&str>| {
            let recording = Recording::new();
            let mut segment = SegmentBuilder::new("a", 0, 0);
            segment.text(b"whole").text(b"torn");
            let mut plain = segment.plain().to_vec();
            plain.truncate(plain.len() - 3);
            let path = recording.put(&segment, form);
            std::fs::write(&path, crate::tape::reader::testing::seal(&plain, form, 1000)).unwrap();
            let mut merge = Merge::new(find(&[recording.path()]).unwrap(), Purpose::Read);
            assert!(merge.advance().unwrap());
            assert!(merge.advance().unwrap());
            match (merge.advance(), expected) {
                (Ok(false), None) => {}
                (Err(e), Some(expected)) => {
                    assert!(e.to_string().contains(expected), "{e}");
                    assert!(!merge.advance().unwrap());
                }
                (got, expected) => panic!("{form:?}: {got:?}, expected {expected:?}"),
            }
        };
        check(Form::Open, None);
        check(Form::Plain, Some("not whole"));
        check(Form::Gzip, Some("not whole"));
        check(Form::Zstd, Some("not whole"));
    }

    #[test]
    fn long_lines_stay_together() {
        let recording = Recording::new();
        let long = "x".repeat(200_000);
        let mut segment = SegmentBuilder::new("a", 0, 0);
        segment.header_ts(TS).ts(TS + 5).text(long.as_bytes()).end();
        recording.put(&segment, Form::Zstd);
        put(&recording, "b", 0, 0, &[1, 5, 6]);
        assert_eq!(texts(&recording), ["b1", &long, "b5", "b6"]);
    }

    #[test]
    fn three_hundred_feeds() {
        let recording = Recording::new();
        for feed in 0..300u64 {
            put(&recording, &format!("f{feed}-"), 1, 0, &[feed, 1000 - feed]);
        }
        let texts = texts(&recording);
        assert_eq!(texts.len(), 600);
        let stamps: Vec<u64> =
            texts.iter().map(|text| text.rsplit_once('-').unwrap().1.parse().unwrap()).collect();
        assert!(stamps.is_sorted(), "{stamps:?}");
    }
}
