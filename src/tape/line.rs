//! One line of a tape: encoding messages into it, and taking it apart again.
//!
//! Owns the byte format of lines. Knows nothing of what events mean ([`super::event`]) and does
//! no I/O. Encoding appends to a buffer that already has room: it never allocates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::clock::UnixNs;

/// Digits of a line's stamp.
pub const TS_DIGITS: usize = 19;
/// Bytes of a line beside its payload: stamp, kind and LF.
pub const OVERHEAD: usize = TS_DIGITS + 2;

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text message, verbatim.
    Text,
    /// A text message with `\` and LF escaped.
    EscapedText,
    /// A binary message in base64.
    Binary,
    /// An event.
    Event,
}

impl Kind {
    /// The byte that stands for it.
    pub const fn byte(self) -> u8 {
        match self {
            Kind::Text => b' ',
            Kind::EscapedText => b'\\',
            Kind::Binary => b'~',
            Kind::Event => b'!',
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Text, Kind::EscapedText, Kind::Binary, Kind::Event]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// A stamp in its 19 digits. Formatting is kept apart because all messages of one read share a
/// stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    ts: UnixNs,
    digits: [u8; TS_DIGITS],
}

impl Stamp {
    /// Formats `ts`; what has more than 19 digits (from the year 2286) is cut to the largest
    /// stamp that fits.
    pub fn new(ts: UnixNs) -> Stamp {
        let ts = ts.min(9_999_999_999_999_999_999);
        let mut digits = [b'0'; TS_DIGITS];
        let mut rest = ts;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Stamp { ts, digits }
    }

    /// The stamp as a number.
    pub fn ts(&self) -> UnixNs {
        self.ts
    }

    /// The stamp as it stands on the tape.
    pub fn digits(&self) -> &[u8; TS_DIGITS] {
        &self.digits
    }
}

/// A message on its way into a line; made by [`Encoding::of_text`] or [`Encoding::of_binary`],
/// which find out how long its line will be.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    payload: &'a [u8],
    kind: Kind,
    line_bytes: usize,
}

impl<'a> Encoding<'a> {
    /// A text message.
    pub fn of_text(payload: &'a [u8]) -> Self {
        if memchr::memchr(b'\n', payload).is_none() {
            return Encoding { payload, kind: Kind::Text, line_bytes: OVERHEAD + payload.len() };
        }
        let escapes = memchr::memchr2_iter(b'\n', b'\\', payload).count();
        let line_bytes = OVERHEAD + payload.len() + escapes;
        Encoding { payload, kind: Kind::EscapedText, line_bytes }
    }

    /// A binary message.
    pub fn of_binary(payload: &'a [u8]) -> Self {
        let line_bytes = OVERHEAD + payload.len().div_ceil(3) * 4;
        Encoding { payload, kind: Kind::Binary, line_bytes }
    }

    /// Bytes of the whole line, LF included.
    pub fn line_bytes(&self) -> usize {
        self.line_bytes
    }

    /// Bytes of the message.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Appends the line to `buf`, which must have room for [`Encoding::line_bytes`] more.
    #[inline]
    pub fn append_to(&self, stamp: &Stamp, buf: &mut Vec<u8>) {
        let start = buf.len();
        assert!(buf.capacity() - start >= self.line_bytes, "the caller made room for the line");
        buf.extend_from_slice(&stamp.digits);
        buf.push(self.kind.byte());
        match self.kind {
            Kind::EscapedText => {
                let mut from = 0;
                for at in memchr::memchr2_iter(b'\n', b'\\', self.payload) {
                    buf.extend_from_slice(&self.payload[from..at]);
                    buf.extend_from_slice(if self.payload[at] == b'\n' { b"\\n" } else { b"\\\\" });
                    from = at + 1;
                }
                buf.extend_from_slice(&self.payload[from..]);
            }
            Kind::Binary => {
                let encoded = start + TS_DIGITS + 1;
                buf.resize(start + self.line_bytes - 1, 0);
                BASE64
                    .encode_slice(self.payload, &mut buf[encoded..])
                    .expect("the room is exactly what base64 needs");
            }
            Kind::Text | Kind::Event => buf.extend_from_slice(self.payload),
        }
        buf.push(b'\n');
        debug_assert_eq!(buf.len() - start, self.line_bytes);
    }
}

/// A line taken apart; the payload is as it stands on the tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The stamp.
    pub ts: UnixNs,
    /// What the payload is.
    pub kind: Kind,
    /// The payload, still escaped or in base64.
    pub raw: &'a [u8],
}

/// Why some bytes are not a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// Shorter than a stamp and a kind.
    Short,
    /// The stamp is not 19 digits.
    Stamp,
    /// No such kind.
    Kind(u8),
    /// A text is not UTF-8.
    Utf8,
    /// A backslash is not followed by `\` or `n`, or nothing needed escaping.
    Escape,
    /// Not standard base64 with padding.
    Base64,
    /// Not a JSON object with `"event"` as its first key.
    Event,
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineError::Short => f.write_str("shorter than a stamp and a kind"),
            LineError::Stamp => f.write_str("the stamp is not 19 digits"),
            LineError::Kind(byte) => write!(f, "unknown kind {:?}", char::from(*byte)),
            LineError::Utf8 => f.write_str("the text is not UTF-8"),
            LineError::Escape => f.write_str("a wrong escape in the text"),
            LineError::Base64 => f.write_str("the binary message is not base64"),
            LineError::Event => f.write_str("the event is not a JSON object that names itself"),
        }
    }
}

impl<'a> Line<'a> {
    /// Takes `bytes` (one line without its LF) apart; looks at the stamp and the kind only.
    ///
    /// # Errors
    /// [`LineError::Short`], [`LineError::Stamp`] or [`LineError::Kind`].
    pub fn parse(bytes: &'a [u8]) -> Result<Line<'a>, LineError> {
        if bytes.len() <= TS_DIGITS {
            return Err(LineError::Short);
        }
        let (digits, rest) = bytes.split_at(TS_DIGITS);
        let ts = parse_stamp(digits).ok_or(LineError::Stamp)?;
        let kind = Kind::from_byte(rest[0]).ok_or(LineError::Kind(rest[0]))?;
        Ok(Line { ts, kind, raw: &rest[1..] })
    }

    /// Checks the payload too: UTF-8, escapes, base64, JSON.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), LineError> {
        match self.kind {
            Kind::Text => check_utf8(self.raw),
            Kind::EscapedText => {
                check_utf8(self.raw)?;
                let mut seen_lf = false;
                for_each_escape(self.raw, |_, escaped| seen_lf |= escaped == b'\n')?;
                if seen_lf { Ok(()) } else { Err(LineError::Escape) }
            }
            Kind::Binary => check_base64(self.raw),
            Kind::Event => check_event(self.raw),
        }
    }

    /// The message's own bytes, unescaped or decoded into `scratch` where needed; for an event
    /// its JSON.
    ///
    /// # Errors
    /// [`LineError::Escape`] or [`LineError::Base64`].
    pub fn payload<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], LineError>
    where
        'a: 'b,
    {
        scratch.clear();
        match self.kind {
            Kind::Text | Kind::Event => Ok(self.raw),
            Kind::EscapedText => {
                let mut from = 0;
                for_each_escape(self.raw, |at, escaped| {
                    scratch.extend_from_slice(&self.raw[from..at]);
                    scratch.push(escaped);
                    from = at + 2;
                })?;
                scratch.extend_from_slice(&self.raw[from..]);
                Ok(scratch)
            }
            Kind::Binary => {
                BASE64.decode_vec(self.raw, scratch).map_err(|_| LineError::Base64)?;
                Ok(scratch)
            }
        }
    }

    /// Bytes of the message, without decoding it; 0 for an event.
    pub fn message_bytes(&self) -> usize {
        match self.kind {
            Kind::Event => 0,
            Kind::Text => self.raw.len(),
            Kind::EscapedText => {
                let mut escapes = 0;
                // A wrong escape ends the count early; whoever cares has checked the line.
                let _ = for_each_escape(self.raw, |_, _| escapes += 1);
                self.raw.len() - escapes
            }
            Kind::Binary => {
                let padding = self.raw.iter().rev().take(2).filter(|b| **b == b'=').count();
                (self.raw.len() / 4 * 3).saturating_sub(padding)
            }
        }
    }
}

/// The number in 19 digits.
pub fn parse_stamp(digits: &[u8]) -> Option<UnixNs> {
    if digits.len() != TS_DIGITS {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |ts, byte| byte.is_ascii_digit().then(|| ts * 10 + u64::from(byte - b'0')))
}

/// Calls `found(position, the byte meant)` for each escape.
fn for_each_escape(raw: &[u8], mut found: impl FnMut(usize, u8)) -> Result<(), LineError> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'\\', &raw[from..]) {
        let at = from + at;
        match raw.get(at + 1) {
            Some(b'n') => found(at, b'\n'),
            Some(b'\\') => found(at, b'\\'),
            _ => return Err(LineError::Escape),
        }
        from = at + 2;
    }
    Ok(())
}

fn check_utf8(raw: &[u8]) -> Result<(), LineError> {
    std::str::from_utf8(raw).map(|_| ()).map_err(|_| LineError::Utf8)
}

/// Decodes piece by piece, so that a message of any length is checked in little memory.
fn check_base64(raw: &[u8]) -> Result<(), LineError> {
    const PIECE: usize = 1024;
    if !raw.len().is_multiple_of(4) {
        return Err(LineError::Base64);
    }
    let mut decoded = [0u8; PIECE / 4 * 3];
    let mut pieces = raw.chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        let bytes = BASE64.decode_slice(piece, &mut decoded).map_err(|_| LineError::Base64)?;
        // Padding may stand at the end only.
        if pieces.peek().is_some() && bytes != decoded.len() {
            return Err(LineError::Base64);
        }
    }
    Ok(())
}

fn check_event(raw: &[u8]) -> Result<(), LineError> {
    if !raw.starts_with(b"{\"event\":\"") {
        return Err(LineError::Event);
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(raw).map(|_| ()).map_err(|_| LineError::Event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TS: UnixNs = 1_736_682_893_953_758_185;

    fn text_line(payload: &[u8]) -> Vec<u8> {
        encode(Encoding::of_text(payload))
    }

    fn encode(encoding: Encoding<'_>) -> Vec<u8> {
        let mut buf = Vec::with_capacity(encoding.line_bytes());
        encoding.append_to(&Stamp::new(TS), &mut buf);
        assert_eq!(buf.len(), encoding.line_bytes(), "the length was right beforehand");
        buf
    }

    #[test]
    fn golden_lines() {
        let check = |encoding: Encoding<'_>, expected: &str| {
            let line = encode(encoding);
            assert_eq!(String::from_utf8_lossy(&line), format!("{TS}{expected}\n"));
            assert_eq!(Line::parse(&line[..line.len() - 1]).unwrap().check(), Ok(()));
        };
        check(Encoding::of_text(b""), " ");
        check(Encoding::of_text(b"{\"a\":1}"), " {\"a\":1}");
        check(Encoding::of_text(b"back\\slash"), " back\\slash");
        check(Encoding::of_text(b"a\nb"), "\\a\\nb");
        check(Encoding::of_text(b"\n"), "\\\\n");
        check(Encoding::of_text(b"a\\\nb\\n"), "\\a\\\\\\nb\\\\n");
        check(Encoding::of_text("\u{20ac}\r".as_bytes()), " \u{20ac}\r");
        check(Encoding::of_binary(b""), "~");
        check(Encoding::of_binary(b"\x00"), "~AA==");
        check(Encoding::of_binary(b"\x00\xff"), "~AP8=");
        check(Encoding::of_binary(b"\x1f\x8b\x08"), "~H4sI");
    }

    #[test]
    fn stamps_have_nineteen_digits() {
        for ts in [0, 1, TS, 9_999_999_999_999_999_999, u64::MAX] {
            let stamp = Stamp::new(ts);
            assert_eq!(parse_stamp(stamp.digits()), Some(stamp.ts()));
            assert_eq!(stamp.ts(), ts.min(9_999_999_999_999_999_999));
        }
        assert_eq!(Stamp::new(7).digits(), b"0000000000000000007");
    }

    #[test]
    fn wrong_lines_are_told_apart() {
        let check = |line: &str, expected: LineError| {
            let got = Line::parse(line.as_bytes()).and_then(|line| line.check());
            assert_eq!(got, Err(expected), "{line}");
        };
        check("", LineError::Short);
        check("1736682893953758185", LineError::Short);
        check("173668289395375818x ", LineError::Stamp);
        check(" 736682893953758185 x", LineError::Stamp);
        check("1736682893953758185?x", LineError::Kind(b'?'));
        check("1736682893953758185\\no escape of a line feed", LineError::Escape);
        check("1736682893953758185\\a\\nb\\", LineError::Escape);
        check("1736682893953758185\\a\\nb\\t", LineError::Escape);
        check("1736682893953758185~AA=", LineError::Base64);
        check("1736682893953758185~AB==", LineError::Base64);
        check("1736682893953758185~A*==", LineError::Base64);
        check("1736682893953758185!{}", LineError::Event);
        check("1736682893953758185!{\"a\":1,\"event\":\"end\"}", LineError::Event);
        check("1736682893953758185!{\"event\":\"end\"", LineError::Event);
        assert_eq!(
            Line::parse(b"1736682893953758185 \xff").and_then(|line| line.check()),
            Err(LineError::Utf8)
        );
    }

    #[test]
    fn cut_and_flipped_anywhere_never_panics() {
        let lines = [
            text_line(b"{\"a\":[1,2]}"),
            text_line(b"two\nlines \\ and more"),
            encode(Encoding::of_binary(&[7u8; 40])),
            format!("{TS}!{{\"event\":\"gap\",\"reason\":\"stall\"}}\n").into_bytes(),
        ];
        let mut scratch = Vec::new();
        for line in &lines {
            let whole = &line[..line.len() - 1];
            for cut in 0..whole.len() {
                if let Ok(parsed) = Line::parse(&whole[..cut]) {
                    // Cut lines may still be lines; what counts is that nothing panics.
                    let _ = (parsed.check(), parsed.payload(&mut scratch), parsed.message_bytes());
                }
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut flipped = whole.to_vec();
                    flipped[at] ^= 1 << bit;
                    if let Ok(parsed) = Line::parse(&flipped) {
                        let _ = (parsed.check(), parsed.payload(&mut scratch));
                    }
                    if at < TS_DIGITS
                        && let Ok(parsed) = Line::parse(&flipped)
                    {
                        assert_ne!(parsed.ts, TS, "a flipped digit is another stamp");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in ".*\n?[a\\\\\n]{0,8}.*") {
            let line = text_line(text.as_bytes());
            prop_assert_eq!(memchr::memchr_iter(b'\n', &line).count(), 1);
            prop_assert!(line.len() <= 2 * text.len() + OVERHEAD);
            let parsed = Line::parse(&line[..line.len() - 1]).unwrap();
            prop_assert_eq!(parsed.check(), Ok(()));
            prop_assert_eq!(parsed.message_bytes(), text.len());
            let mut scratch = Vec::new();
            prop_assert_eq!(parsed.payload(&mut scratch).unwrap(), text.as_bytes());
        }

        #[test]
        fn any_binary_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let line = encode(Encoding::of_binary(&bytes));
            let parsed = Line::parse(&line[..line.len() - 1]).unwrap();
            prop_assert_eq!(parsed.check(), Ok(()));
            prop_assert_eq!(parsed.message_bytes(), bytes.len());
            let mut scratch = Vec::new();
            prop_assert_eq!(parsed.payload(&mut scratch).unwrap(), &bytes[..]);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(line) = Line::parse(&bytes) {
                let _ = (line.check(), line.message_bytes());
            }
        }
    }
}
