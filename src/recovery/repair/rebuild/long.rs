//! Lines that are longer than the walk's buffer: they are written as they come.
//!
//! Owns their checks, piece by piece. What turns out to be no line is cut off again.

use std::io;

use super::Rebuild;
use crate::tape::line::{Kind, Line, TS_DIGITS};
use crate::tape::reader::PayloadDecoder;

impl Rebuild<'_> {
    /// The line is longer than the buffer: what came of it so far is written.
    pub(super) fn begin_long(&mut self) -> io::Result<()> {
        let head = std::mem::take(&mut self.current.head);
        if self.kept.lines == 0 {
            self.new_header()?;
            self.lose(self.kept)?;
            self.current.start = self.kept;
        }
        let line = Line::parse(&head).ok().filter(|line| line.kind != Kind::Event);
        if let Some(line) = line {
            self.blame_last(line.ts)?;
        }
        let line = line.filter(|line| line.ts >= self.kept.last_ts);
        let ts = line.map_or(self.kept.last_ts, |line| line.ts);
        self.say_gap(Some(ts))?;
        self.current.long = Some((ts, line.map(|line| PayloadDecoder::new(line.kind))));
        self.write(&head)?;
        self.check_long(head.get(TS_DIGITS + 1..).unwrap_or_default());
        Ok(())
    }

    pub(super) fn long_part(&mut self, part: &[u8]) -> io::Result<()> {
        self.write(part)?;
        self.check_long(part.strip_suffix(b"\n").unwrap_or(part));
        Ok(())
    }

    fn check_long(&mut self, raw: &[u8]) {
        self.scratch.clear();
        if let Some((_, decoder)) = &mut self.current.long
            && (memchr::memchr(0, raw).is_some()
                || decoder.as_mut().is_some_and(|d| d.push(raw, &mut self.scratch).is_err()))
        {
            *decoder = None;
        }
    }

    /// A long line has ended, and has been written.
    pub(super) fn long_line(&mut self) -> io::Result<()> {
        let Some((ts, decoder)) = self.current.long.take() else { return Ok(()) };
        let is_line = decoder.is_some_and(|decoder| decoder.finish().is_ok());
        if !is_line && (self.current.start.is_gap_due || self.is_strict()) {
            return self.lose(self.current.start);
        }
        if !is_line {
            self.suspect_before(None);
        }
        self.count_line(ts);
        Ok(())
    }
}
