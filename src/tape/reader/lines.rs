//! The lines of a segment, from its plain bytes, in bounded memory.
//!
//! Owns cutting bytes into lines. A line of up to [`BUFFER_BYTES`] comes whole; a longer one comes
//! in pieces of that size and a last shorter one. Knows nothing of what a line holds.

use std::io::{self, Read};

use crate::tape::EVENT_LINE_BYTES_MAX;

/// Size of the buffer, and the longest line that is handed out whole: 64 KiB, so every event is.
pub const BUFFER_BYTES: usize = 64 << 10;

const _: () = assert!(BUFFER_BYTES >= EVENT_LINE_BYTES_MAX, "events are never in pieces");

/// How a piece of a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceEnd {
    /// With the line's LF, which is the last byte of the piece.
    Lf,
    /// The line goes on in the next piece.
    More,
    /// The bytes end without a LF.
    Torn,
}

/// A line, or a part of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes, with the LF where there is one.
    pub bytes: &'a [u8],
    /// Where they stand in the segment's plain bytes.
    pub offset: u64,
    /// Whether the line begins with this piece.
    pub is_start: bool,
    /// How it ends.
    pub end: PieceEnd,
}

impl<'a> Piece<'a> {
    /// The bytes without the LF.
    pub fn content(&self) -> &'a [u8] {
        self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes)
    }

    /// Whether this is a whole line.
    pub fn is_whole(&self) -> bool {
        self.is_start && self.end == PieceEnd::Lf
    }
}

/// Reads pieces: call [`LineReader::advance`], then look at [`LineReader::piece`].
pub struct LineReader<R> {
    source: R,
    buf: Box<[u8]>,
    /// The current piece is `buf[start..next]`; what was read and not handed out is
    /// `buf[next..end]`.
    start: usize,
    next: usize,
    end: usize,
    /// Offset of `buf[next]` in the plain bytes.
    offset: u64,
    is_start: bool,
    /// How the current piece ends; before the first piece as if a line had just ended.
    piece_end: PieceEnd,
}

impl<R: Read> LineReader<R> {
    /// Reads the lines of `source`.
    pub fn new(source: R) -> LineReader<R> {
        LineReader {
            source,
            buf: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            next: 0,
            end: 0,
            offset: 0,
            is_start: true,
            piece_end: PieceEnd::Lf,
        }
    }

    /// Goes to the next piece; false at the end.
    ///
    /// # Errors
    /// Those of the source. After one, the lines read before it have all been handed out.
    pub fn advance(&mut self) -> io::Result<bool> {
        self.is_start = match self.piece_end {
            PieceEnd::Lf => true,
            PieceEnd::More => false,
            PieceEnd::Torn => return Ok(false),
        };
        self.start = self.next;
        let mut searched = self.start;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buf[searched..self.end]) {
                self.hand_out(searched + at + 1, PieceEnd::Lf);
                return Ok(true);
            }
            searched = self.end;
            if self.end - self.start == self.buf.len() {
                self.hand_out(self.end, PieceEnd::More);
                return Ok(true);
            }
            if self.start > 0 {
                self.buf.copy_within(self.start..self.end, 0);
                searched -= self.start;
                self.end -= self.start;
                self.next -= self.start;
                self.start = 0;
            }
            let bytes = self.read()?;
            if bytes == 0 {
                if self.end > self.start || !self.is_start {
                    self.hand_out(self.end, PieceEnd::Torn);
                    return Ok(true);
                }
                return Ok(false);
            }
            self.end += bytes;
        }
    }

    /// The current piece; empty before the first one.
    pub fn piece(&self) -> Piece<'_> {
        let bytes = &self.buf[self.start..self.next];
        Piece {
            bytes,
            offset: self.offset - bytes.len() as u64,
            is_start: self.is_start,
            end: self.piece_end,
        }
    }

    /// Plain bytes handed out so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the bytes come from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Where the bytes come from.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    fn hand_out(&mut self, next: usize, end: PieceEnd) {
        self.offset += (next - self.start) as u64;
        self.next = next;
        self.piece_end = end;
    }

    fn read(&mut self) -> io::Result<usize> {
        loop {
            match self.source.read(&mut self.buf[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives at most `step` bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let bytes = self.0.len().min(self.1).min(buf.len());
            let (now, rest) = self.0.split_at(bytes);
            buf[..bytes].copy_from_slice(now);
            self.0 = rest;
            Ok(bytes)
        }
    }

    /// Reads all; checks offsets and starts on the way.
    fn lines(bytes: &[u8], step: usize) -> Vec<(usize, PieceEnd)> {
        let mut reader = LineReader::new(Drip(bytes, step));
        let mut all = Vec::new();
        let mut offset = 0;
        let mut is_start = true;
        while reader.advance().unwrap() {
            let piece = reader.piece();
            assert_eq!(piece.offset as usize, offset);
            assert_eq!(piece.bytes, &bytes[offset..offset + piece.bytes.len()]);
            assert_eq!(piece.is_start, is_start);
            is_start = piece.end != PieceEnd::More;
            offset += piece.bytes.len();
            all.push((piece.bytes.len(), piece.end));
        }
        assert_eq!(offset, bytes.len(), "all bytes were handed out");
        assert!(!reader.advance().unwrap(), "the end stays the end");
        all
    }

    #[test]
    fn lines_and_pieces() {
        use PieceEnd::{Lf, More, Torn};
        let check = |bytes: Vec<u8>, expected: &[(usize, PieceEnd)]| {
            for step in [1, 7, 4096, usize::MAX] {
                assert_eq!(lines(&bytes, step), expected, "step {step}");
            }
        };
        let long = |bytes: usize, end: &[u8]| [&vec![b'x'; bytes], end].concat();
        check(vec![], &[]);
        check(b"\n".to_vec(), &[(1, Lf)]);
        check(b"a\n\nbc\n".to_vec(), &[(2, Lf), (1, Lf), (3, Lf)]);
        check(b"a\nb".to_vec(), &[(2, Lf), (1, Torn)]);
        check(long(BUFFER_BYTES - 1, b"\n"), &[(BUFFER_BYTES, Lf)]);
        check(long(BUFFER_BYTES, b"\na\n"), &[(BUFFER_BYTES, More), (1, Lf), (2, Lf)]);
        check(long(BUFFER_BYTES, b""), &[(BUFFER_BYTES, More), (0, Torn)]);
        check(
            long(2 * BUFFER_BYTES + 5, b"\n"),
            &[(BUFFER_BYTES, More), (BUFFER_BYTES, More), (6, Lf)],
        );
        check(
            [b"a\n".to_vec(), long(BUFFER_BYTES - 1, b"\n")].concat(),
            &[(2, Lf), (BUFFER_BYTES, Lf)],
        );
    }

    #[test]
    fn an_error_comes_after_the_lines_before_it() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 1 {
                    return Err(io::Error::other("broken"));
                }
                buf[..4].copy_from_slice(b"a\nb\n");
                Ok(4)
            }
        }
        let mut reader = LineReader::new(Failing(0));
        assert!(reader.advance().unwrap());
        assert!(reader.advance().unwrap());
        assert_eq!(reader.advance().unwrap_err().to_string(), "broken");
        assert_eq!(reader.offset(), 4);
    }

    proptest! {
        #[test]
        fn any_bytes_come_out_as_they_are(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            step in 1usize..50,
        ) {
            let whole = lines(&bytes, step).iter().filter(|(_, end)| *end == PieceEnd::Lf).count();
            prop_assert_eq!(whole, memchr::memchr_iter(b'\n', &bytes).count());
        }
    }
}
