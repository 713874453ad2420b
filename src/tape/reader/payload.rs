//! The messages of long lines, decoded piece by piece.
//!
//! Owns what [`Line::check`] and [`Line::payload`] do for a line in memory, for one that comes in
//! pieces of any size. Keeps at most a few bytes between two pieces.

use super::super::line::{Kind, Line, LineError};

/// Decodes and checks the payload of one line.
#[derive(Debug)]
pub struct PayloadDecoder {
    kind: Kind,
    /// Bytes of an unfinished character, or of an unfinished group of base64: three at most.
    carry: Vec<u8>,
    /// The piece before ended with the backslash of an escape.
    in_escape: bool,
    seen_lf: bool,
    /// Base64 ended with its padding.
    is_padded: bool,
    scratch: Vec<u8>,
}

impl PayloadDecoder {
    /// For the payload of a line of this kind.
    pub fn new(kind: Kind) -> PayloadDecoder {
        PayloadDecoder {
            kind,
            carry: Vec::new(),
            in_escape: false,
            seen_lf: false,
            is_padded: false,
            scratch: Vec::new(),
        }
    }

    /// Appends to `out` what the next piece of the payload decodes to.
    ///
    /// # Errors
    /// What is wrong with the payload.
    pub fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), LineError> {
        match self.kind {
            Kind::Text => {
                self.check_utf8(raw)?;
                out.extend_from_slice(raw);
                Ok(())
            }
            Kind::EscapedText => {
                self.check_utf8(raw)?;
                self.unescape(raw, out)
            }
            Kind::Binary => self.decode_base64(raw, out),
            // Events are never longer than what is handed out whole.
            Kind::Event => Err(LineError::Event),
        }
    }

    /// The payload has ended.
    ///
    /// # Errors
    /// It is not complete.
    pub fn finish(self) -> Result<(), LineError> {
        let whole = self.carry.is_empty() && !self.in_escape;
        match self.kind {
            Kind::Text if !whole => Err(LineError::Utf8),
            Kind::EscapedText if !whole || !self.seen_lf => Err(LineError::Escape),
            Kind::Binary if !whole => Err(LineError::Base64),
            Kind::Text | Kind::EscapedText | Kind::Binary => Ok(()),
            Kind::Event => Err(LineError::Event),
        }
    }

    fn check_utf8(&mut self, raw: &[u8]) -> Result<(), LineError> {
        // First the character that the piece before left unfinished, byte by byte.
        let mut rest = raw;
        while !self.carry.is_empty() {
            let Some((first, after)) = rest.split_first() else { return Ok(()) };
            rest = after;
            self.carry.push(*first);
            match std::str::from_utf8(&self.carry) {
                Ok(_) => self.carry.clear(),
                Err(e) if e.error_len().is_none() => {}
                Err(_) => return Err(LineError::Utf8),
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(e) if e.error_len().is_none() => {
                self.carry.extend_from_slice(&rest[e.valid_up_to()..]);
                Ok(())
            }
            Err(_) => Err(LineError::Utf8),
        }
    }

    fn unescape(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), LineError> {
        let mut rest = raw;
        loop {
            if self.in_escape {
                let Some((first, after)) = rest.split_first() else { return Ok(()) };
                match first {
                    b'n' => out.push(b'\n'),
                    b'\\' => out.push(b'\\'),
                    _ => return Err(LineError::Escape),
                }
                self.seen_lf |= *first == b'n';
                self.in_escape = false;
                rest = after;
            }
            let Some(at) = memchr::memchr(b'\\', rest) else {
                out.extend_from_slice(rest);
                return Ok(());
            };
            out.extend_from_slice(&rest[..at]);
            self.in_escape = true;
            rest = &rest[at + 1..];
        }
    }

    fn decode_base64(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), LineError> {
        if self.is_padded && !raw.is_empty() {
            return Err(LineError::Base64);
        }
        let mut rest = raw;
        if !self.carry.is_empty() {
            let fill = (4 - self.carry.len()).min(rest.len());
            self.carry.extend_from_slice(&rest[..fill]);
            rest = &rest[fill..];
            if self.carry.len() < 4 {
                return Ok(());
            }
            let group = std::mem::take(&mut self.carry);
            self.decode_groups(&group, out)?;
            if self.is_padded && !rest.is_empty() {
                return Err(LineError::Base64);
            }
        }
        let (groups, carry) = rest.split_at(rest.len() / 4 * 4);
        self.decode_groups(groups, out)?;
        if self.is_padded && !carry.is_empty() {
            return Err(LineError::Base64);
        }
        self.carry.extend_from_slice(carry);
        Ok(())
    }

    fn decode_groups(&mut self, groups: &[u8], out: &mut Vec<u8>) -> Result<(), LineError> {
        let line = Line { ts: 0, kind: Kind::Binary, raw: groups };
        out.extend_from_slice(line.payload(&mut self.scratch)?);
        self.is_padded |= groups.ends_with(b"=");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// In pieces of every size the outcome must be that of the whole line.
    fn check(kind: Kind, raw: &[u8]) {
        let line = Line { ts: 0, kind, raw };
        let mut scratch = Vec::new();
        let expected =
            line.check().and_then(|()| line.payload(&mut scratch).map(<[u8]>::to_vec)).ok();
        for size in 1..raw.len() + 2 {
            let mut decoder = PayloadDecoder::new(kind);
            let mut out = Vec::new();
            let got = raw.chunks(size).try_for_each(|piece| decoder.push(piece, &mut out));
            let got = got.and_then(|()| decoder.finish()).ok().map(|()| out);
            assert_eq!(got, expected, "{kind:?} {raw:?} in pieces of {size}");
        }
    }

    #[test]
    fn pieces_of_any_size() {
        for raw in [&b""[..], b"abc", "\u{20ac}\u{10ffff}x".as_bytes(), b"\xe2\x82", b"a\xffb"] {
            check(Kind::Text, raw);
        }
        for raw in [&b"a\\nb"[..], b"\\\\\\n", b"no escape", b"\\", b"\\n\\", b"\\t\\n", b"\\n\xe2"]
        {
            check(Kind::EscapedText, raw);
        }
        for raw in [&b""[..], b"AA==", b"AP8=", b"H4sI", b"H4sIH4sI", b"AA==AA==", b"AA=", b"A*=="]
        {
            check(Kind::Binary, raw);
        }
    }

    #[test]
    fn events_are_never_in_pieces() {
        let mut decoder = PayloadDecoder::new(Kind::Event);
        assert_eq!(decoder.push(b"{\"event\":\"gap\"", &mut Vec::new()), Err(LineError::Event));
    }

    proptest! {
        #[test]
        fn any_payload(raw in "[a\\\\n\u{20ac}=A/]{0,20}") {
            for kind in [Kind::Text, Kind::EscapedText, Kind::Binary] {
                check(kind, raw.as_bytes());
            }
        }

        #[test]
        fn random_bytes(raw in proptest::collection::vec(any::<u8>(), 0..20)) {
            for kind in [Kind::Text, Kind::EscapedText, Kind::Binary] {
                check(kind, &raw);
            }
        }
    }
}
