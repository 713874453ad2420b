//! The last line of a finished segment, found without reading the whole of it.
//!
//! Owns that search in each form. A sealed segment's last frame is found by its seek table.

use std::io::{self, Read};
use std::path::Path;

use crate::clock::UnixNs;
use crate::storage::{Cursor, Storage, StorageFile};
use crate::tape::event::Counts;
use crate::tape::line::{Kind, Line};
use crate::tape::name::Form;
use crate::tape::reader::frames::SeekTable;
use crate::tape::reader::source::WINDOW_LOG_MAX;
use crate::tape::{COUNT_MAX, EVENT_LINE_BYTES_MAX, LINE_BYTES_MAX};

/// So much of the end is read: the end line, and with luck the last message.
const TAIL_BYTES: usize = EVENT_LINE_BYTES_MAX + (4 << 10);
/// The last frame of a sealed segment is not decoded beyond this: about a MiB, and the longest
/// line. A frame of a few KiB can hold many GiB.
const FRAME_BYTES_MAX: u64 = (2 << 20) + LINE_BYTES_MAX;
/// The same for all of a gzip file: above the largest segment, 16 GiB and a block.
const GZIP_BYTES_MAX: u64 = 17 << 30;

/// Where a segment ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    /// The first index after it.
    pub next_index: u64,
    /// Lines were lost from it, so the next one may begin with a higher index.
    pub is_least: bool,
    /// Stamp of its last line.
    pub last_ts: UnixNs,
    /// Stamp of its header.
    pub first_ts: UnixNs,
    /// Its last lines, `end` included, as far as they were read.
    pub lines: Vec<u8>,
}

impl Tail {
    /// Goes back from the end to the line up to which nothing can be missing: a message, or a gap,
    /// which closes a hole. What comes after it on the same connection counts too, but not a new
    /// attempt to connect: a run that is killed in it leaves the hole open that it began with.
    /// `after` is what the segment after this one knew.
    pub fn covered(&self, mut after: Option<UnixNs>) -> Covered {
        let body = self.lines.strip_suffix(b"\n").unwrap_or(&self.lines);
        for line in body.rsplit(|byte| *byte == b'\n') {
            let Ok(line) = Line::parse(line) else {
                // The end of a long line, which no event is.
                let is_message = line.len() >= EVENT_LINE_BYTES_MAX;
                return after.filter(|_| is_message).map_or(Covered::Unknown, Covered::Until);
            };
            let is =
                |name: &str| line.raw.starts_with(format!("{{\"event\":\"{name}\",").as_bytes());
            if line.kind != Kind::Event || is("gap") {
                return Covered::Until(after.unwrap_or(line.ts));
            } else if is("segment") {
                return Covered::Before(after);
            } else if is("connecting") {
                after = None;
            } else {
                after.get_or_insert(line.ts);
            }
        }
        Covered::Unknown
    }
}

/// Up to where nothing is missing on a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Covered {
    /// Up to this stamp.
    Until(UnixNs),
    /// The segment holds no such line: the one before it tells, given this.
    Before(Option<UnixNs>),
    /// More would have to be read.
    Unknown,
}

/// Header and end of the segment; `None` where they can't be understood.
pub(super) fn of_segment(
    storage: &dyn Storage,
    path: &Path,
    form: Form,
) -> io::Result<Option<Tail>> {
    let file = storage.open(path)?;
    let opened = file.clone();
    let (head, tail) = match form {
        Form::Open | Form::Plain => {
            let mut head = vec![0; EVENT_LINE_BYTES_MAX];
            let bytes = read_up_to(&*file, 0, &mut head)?;
            head.truncate(bytes);
            let from = file.bytes()?.saturating_sub(TAIL_BYTES as u64);
            let mut tail = vec![0; TAIL_BYTES];
            let bytes = read_up_to(&*file, from, &mut tail)?;
            tail.truncate(bytes);
            (head, tail)
        }
        Form::Gzip => {
            let decoder = flate2::read::MultiGzDecoder::new(Cursor::new(file));
            head_and_tail(decoder.take(GZIP_BYTES_MAX))?
        }
        Form::Zstd => {
            let head = zstd_decoder(Cursor::new(file.clone()))?;
            let (head, _) = head_and_tail(head.take(EVENT_LINE_BYTES_MAX as u64))?;
            let table = SeekTable::open(file.clone(), file.bytes()?).map_err(io::Error::other)?;
            let Some(start) = table.last_frame_at()? else { return Ok(None) };
            let last = zstd_decoder(Cursor::starting_at(file, start))?.single_frame();
            let (_, tail) = head_and_tail(last.take(FRAME_BYTES_MAX))?;
            (head, tail)
        }
    };
    // Nobody reads a finished one again soon; of an open one it may be the only copy.
    if form != Form::Open {
        opened.drop_cache(0, 0);
    }
    Ok(understand(&head, &tail))
}

/// Where a segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Index of its header.
    pub first_index: u64,
    /// Stamp of it.
    pub ts: UnixNs,
}

/// Index of the segment's header; `None` where it can't be understood.
pub(super) fn first_index(
    storage: &dyn Storage,
    path: &Path,
    form: Form,
) -> io::Result<Option<u64>> {
    Ok(header(storage, path, form)?.map(|header| header.first_index))
}

/// What the segment's header says; `None` where it can't be understood.
pub(super) fn header(storage: &dyn Storage, path: &Path, form: Form) -> io::Result<Option<Head>> {
    let mut source: Box<dyn Read> = match form {
        Form::Open | Form::Plain => Box::new(Cursor::new(storage.open(path)?)),
        Form::Gzip => Box::new(flate2::read::MultiGzDecoder::new(Cursor::new(storage.open(path)?))),
        Form::Zstd => Box::new(zstd_decoder(Cursor::new(storage.open(path)?))?),
    };
    let mut head = vec![0; EVENT_LINE_BYTES_MAX];
    let mut done = 0;
    while done < head.len() && !head[..done].contains(&b'\n') {
        match source.read(&mut head[done..])? {
            0 => break,
            bytes => done += bytes,
        }
    }
    Ok(parse_header(&head[..done]))
}

/// A decoder which needs no more memory than those of the readers.
fn zstd_decoder(from: Cursor) -> io::Result<zstd::Decoder<'static, io::BufReader<Cursor>>> {
    let mut decoder = zstd::Decoder::new(from)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn parse_header(head: &[u8]) -> Option<Head> {
    #[derive(serde::Deserialize)]
    struct Header {
        first_index: u64,
    }
    let line = Line::parse(head.split(|byte| *byte == b'\n').next()?).ok()?;
    let header: Header = serde_json::from_slice(line.raw).ok()?;
    let first_index = Some(header.first_index).filter(|index| *index <= COUNT_MAX)?;
    Some(Head { first_index, ts: line.ts })
}

fn understand(head: &[u8], tail: &[u8]) -> Option<Tail> {
    let head = parse_header(head)?;
    let mut lines = tail.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n');
    let line = Line::parse(lines.next()?).ok()?;
    if !line.raw.starts_with(b"{\"event\":\"end\",") {
        return None;
    }
    let before = lines.next().and_then(|line| Line::parse(line).ok());
    let is_least = before.is_some_and(|line| {
        line.kind == Kind::Event && line.raw.starts_with(b"{\"event\":\"recovered\",")
    });
    let counts: Counts = serde_json::from_slice(line.raw).ok()?;
    let lines = Some(counts.lines).filter(|lines| *lines <= COUNT_MAX)?;
    Some(Tail {
        next_index: head.first_index + lines + 1,
        is_least,
        last_ts: line.ts,
        first_ts: head.ts,
        lines: tail.to_vec(),
    })
}

/// The first and the last bytes of a stream, in little memory.
fn head_and_tail(mut source: impl Read) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut buf = vec![0; 64 << 10];
    loop {
        let bytes = source.read(&mut buf)?;
        if bytes == 0 {
            return Ok((head, tail));
        }
        let room = EVENT_LINE_BYTES_MAX - head.len();
        head.extend(buf[..bytes].iter().take(room));
        tail.extend_from_slice(&buf[..bytes]);
        let extra = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..extra);
    }
}

/// Fills `buf` as far as the file goes.
pub(crate) fn read_up_to(file: &dyn StorageFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..])? {
            0 => break,
            bytes => done += bytes,
        }
    }
    Ok(done)
}
