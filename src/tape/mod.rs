//! Tape format, version 1: what stands on disk.
//!
//! A *segment* is one file of lines; the segments of a feed, by number, are its *tape*. A line is
//!
//! ```text
//! <ts><kind><payload>\n
//! ```
//!
//! with `ts` exactly 19 ASCII digits, Unix nanoseconds, and `kind` one byte:
//!
//! | kind | payload |
//! |---|---|
//! | space | a text message, verbatim; it holds no LF |
//! | `\` | a text message which holds LF: each `\` became `\\`, each LF became `\n` (two characters) |
//! | `~` | a binary message, standard base64 with padding |
//! | `!` | an event: one JSON object whose first key is `"event"` |
//!
//! The first line of a segment is its `segment` event (the header), the last one of a finished
//! segment its `end`; about every MiB stands a `mark`. `mark` and `end` count the lines and bytes
//! that stand before them in the segment, and carry the CRC-32C of the plain bytes from the
//! previous mark's line (or the start) up to their own line. The *index* of a line is its ordinal
//! in its feed over all segments, from 0; a header's `first_index` is its own.
//!
//! This module owns lines ([`mod@line`]), events ([`event`]), names ([`name`]) and reading
//! ([`reader`]). It does no network I/O and writes no files.

pub mod event;
pub mod line;
pub mod name;
pub mod reader;

/// The version that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Numbers of segments and indices of lines beyond this are not believed: no recorder gets there,
/// and the sum of a few of them still fits.
pub const COUNT_MAX: u64 = 1 << 60;

/// A mark follows once so many bytes stand after the previous one.
pub const MARK_BYTES: u64 = 1 << 20;

/// The largest `--max-message`: no data line is longer than twice this and 21 bytes.
pub const MESSAGE_BYTES_MAX: u64 = 256 << 20;

/// The longest line, LF included. What goes on for longer without a LF is no tape.
pub const LINE_BYTES_MAX: u64 = 2 * MESSAGE_BYTES_MAX + line::OVERHEAD as u64;

/// The longest event line, LF included; longer texts in it are cut.
pub const EVENT_LINE_BYTES_MAX: usize = 64 << 10;
