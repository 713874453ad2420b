//! Reading a tape: open, finished and sealed segments, of one feed or of many.
//!
//! Owns finding the segments under some paths ([`find()`]), their plain bytes whatever their form
//! ([`Source`]), their lines in bounded memory ([`LineReader`]), and the lines of many feeds in
//! the order of their stamps ([`Merge`]). Writes nothing, and judges nothing beyond what is needed
//! to go on: whether a tape is sound is for `verify` to say.
//!
//! Memory per feed: one line buffer ([`lines::BUFFER_BYTES`]) and, for a sealed segment, its
//! decoder, whose window is at most 8 MiB and 256 KiB in tapes of this program. A longer line
//! comes in pieces. One file is open per feed at a time.
//!
//! A segment may be renamed, sealed or pruned between the listing and the opening: then its folder
//! is listed again and its other form is read.

pub mod find;
pub mod frames;
pub mod lines;
pub mod merge;
pub mod payload;
pub mod source;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use find::{OpenSegment, SegmentFile, Tape, find};
pub use lines::{LineReader, Piece, PieceEnd};
pub use merge::Merge;
pub use payload::PayloadDecoder;
pub use source::{Purpose, Source};

use super::line::{Kind, Line, LineError};

/// What went wrong where while a tape was read.
#[derive(Debug)]
pub struct ReadError {
    /// The file or folder.
    pub path: PathBuf,
    /// How many plain bytes of it had been read.
    pub byte: Option<u64>,
    /// What went wrong.
    pub cause: io::Error,
}

impl ReadError {
    /// An error that has no place within the file.
    pub fn new(path: &Path, cause: io::Error) -> ReadError {
        ReadError { path: path.to_path_buf(), byte: None, cause }
    }

    /// An error after `byte` plain bytes.
    pub fn at(path: &Path, byte: u64, cause: io::Error) -> ReadError {
        ReadError { path: path.to_path_buf(), byte: Some(byte), cause }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}': ", self.path.display())?;
        if let Some(byte) = self.byte {
            write!(f, "after {byte} plain bytes: ")?;
        }
        write!(f, "{}", self.cause)
    }
}

// The message holds the cause already, so it is no `source`: it would be printed twice.
impl std::error::Error for ReadError {}

/// What a reader needs of a segment's first line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub version: u32,
    /// The feed's name.
    pub feed: String,
    /// Number of the segment in its feed.
    pub segment: u64,
    /// Index of the header's own line.
    pub first_index: u64,
}

impl Header {
    /// Reads a segment's first line, without its LF.
    ///
    /// # Errors
    /// A sentence that says why it is no header.
    pub fn parse(line: &[u8]) -> Result<Header, String> {
        let line = Line::parse(line).map_err(|e| e.to_string())?;
        if line.kind != Kind::Event || event_name(line.raw) != Some("segment") {
            return Err("not a segment event".to_string());
        }
        serde_json::from_slice(line.raw).map_err(|e| e.to_string())
    }
}

/// The name of an event, from its JSON; `None` where the first key is not `"event"` or the name is
/// not plain.
pub fn event_name(raw: &[u8]) -> Option<&str> {
    let rest = raw.strip_prefix(b"{\"event\":\"")?;
    let end = memchr::memchr2(b'"', b'\\', rest)?;
    if rest[end] == b'\\' {
        return None;
    }
    std::str::from_utf8(&rest[..end]).ok()
}

/// A line on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLine {
    /// The feed's name.
    pub feed: String,
    /// Number of its segment, as the header says it.
    pub segment: u64,
    /// Its index in its feed.
    pub index: u64,
    /// The line, without its LF.
    pub bytes: Vec<u8>,
}

impl OwnedLine {
    /// Takes the line apart.
    ///
    /// # Errors
    /// Those of [`Line::parse`].
    pub fn line(&self) -> Result<Line<'_>, LineError> {
        Line::parse(&self.bytes)
    }
}

/// All lines of all tapes under `path`, in memory, in the order of [`Merge`]: for tests and for
/// what is known to be small.
///
/// # Errors
/// The first thing that could not be read.
pub fn read_all(path: &Path) -> Result<Vec<OwnedLine>, ReadError> {
    let mut merge = Merge::new(find(&[path])?, Purpose::Read);
    let mut all = Vec::new();
    let mut bytes = Vec::new();
    while merge.advance()? {
        let piece = merge.piece();
        bytes.extend_from_slice(piece.content());
        if piece.end != PieceEnd::More {
            let place = merge.place();
            all.push(OwnedLine {
                feed: merge.tape().feed.clone(),
                segment: place.segment,
                index: place.index,
                bytes: std::mem::take(&mut bytes),
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_events() {
        for (raw, expected) in [
            ("{\"event\":\"gap\",\"x\":1}", Some("gap")),
            ("{\"event\":\"\"}", Some("")),
            ("{\"event\":\"a\\\"b\"}", None),
            ("{\"event\":\"gap", None),
            ("{\"other\":1}", None),
            ("", None),
        ] {
            assert_eq!(event_name(raw.as_bytes()), expected, "{raw}");
        }
    }

    #[test]
    fn errors_quote_the_path_and_the_place() {
        let cause = || io::Error::other("no more paper");
        let error = ReadError::at(Path::new("a/b"), 17, cause());
        assert_eq!(error.to_string(), "'a/b': after 17 plain bytes: no more paper");
        assert_eq!(ReadError::new(Path::new("a/b"), cause()).to_string(), "'a/b': no more paper");
    }
}
