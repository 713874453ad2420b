//! Lines: no bytes make taking them apart panic, the decoder of pieces agrees with the one of
//! whole lines, no byte is lost on the way, and every message that is encoded comes back.
//!
//! Input: a byte for the size of the pieces, then the bytes.

#![no_main]

use std::io::{self, Read};

use feedtape::tape::line::{Encoding, Kind, Line, Stamp, TS_DIGITS};
use feedtape::tape::reader::{Header, LineReader, PayloadDecoder, event_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let step = usize::from(*step) + 1;
    cut_into_lines(bytes, step);
    for line in bytes.split(|byte| *byte == b'\n') {
        take_apart(line, step);
    }
    // What follows the stamp and the kind is a payload for each kind.
    for kind in [Kind::Text, Kind::EscapedText, Kind::Binary, Kind::Event] {
        let mut line = Stamp::new(1).digits().to_vec();
        line.push(kind.byte());
        line.extend(bytes.iter().filter(|byte| **byte != b'\n'));
        take_apart(&line, step);
    }
    if std::str::from_utf8(bytes).is_ok() {
        comes_back(Encoding::of_text(bytes), bytes);
    }
    comes_back(Encoding::of_binary(bytes), bytes);
});

/// Gives at most so many bytes at a time.
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

fn cut_into_lines(bytes: &[u8], step: usize) {
    let mut lines = LineReader::new(Drip(bytes, step * 64));
    let mut offset = 0;
    while lines.advance().expect("reading from memory does not fail") {
        let piece = lines.piece();
        assert_eq!(piece.offset, offset as u64);
        assert_eq!(piece.bytes, &bytes[offset..offset + piece.bytes.len()]);
        offset += piece.bytes.len();
    }
    assert_eq!(offset, bytes.len(), "all bytes were handed out");
}

fn take_apart(bytes: &[u8], step: usize) {
    // A header need not be one; what counts is that it does not panic.
    let _ = Header::parse(bytes);
    let _ = event_name(bytes);
    let Ok(line) = Line::parse(bytes) else { return };
    let mut scratch = Vec::new();
    let checked = line.check();
    let whole = line.payload(&mut scratch).map(<[u8]>::to_vec);
    // Events hold no message, and never come in pieces.
    if line.kind == Kind::Event {
        return;
    }
    if checked.is_ok() {
        let whole = whole.as_ref().expect("a line that checks has a payload");
        assert_eq!(line.message_bytes(), whole.len());
    }
    let mut decoder = PayloadDecoder::new(line.kind);
    let mut decoded = Vec::new();
    let pushed = bytes[TS_DIGITS + 1..]
        .chunks(step)
        .try_for_each(|piece| decoder.push(piece, &mut decoded))
        .and_then(|()| decoder.finish());
    assert_eq!(pushed.is_ok(), checked.is_ok(), "{pushed:?} in pieces, {checked:?} whole");
    if pushed.is_ok() {
        assert_eq!(Ok(decoded), whole, "the payload in pieces and whole");
    }
}

fn comes_back(encoding: Encoding<'_>, message: &[u8]) {
    let mut line = Vec::with_capacity(encoding.line_bytes());
    encoding.append_to(&Stamp::new(u64::MAX), &mut line);
    let content = line.strip_suffix(b"\n").expect("a line ends with its LF");
    assert!(!content.contains(&b'\n'));
    let parsed = Line::parse(content).expect("what was encoded is a line");
    assert_eq!(parsed.check(), Ok(()));
    assert_eq!(parsed.payload(&mut Vec::new()), Ok(message));
}
