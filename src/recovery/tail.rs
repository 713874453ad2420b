//! The last line of a finished segment, found without reading the whole of it.
//!
//! Owns that search in each form. A sealed segment's last frame is found by its seek table.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use zeekstd::SeekTable;

use crate::clock::UnixNs;
use crate::storage::{Cursor, Storage, StorageFile};
use crate::tape::EVENT_LINE_BYTES_MAX;
use crate::tape::event::Counts;
use crate::tape::line::{Kind, Line};
use crate::tape::name::Form;

/// The end line is shorter than this.
const TAIL_BYTES: usize = 4 << 10;

/// Where a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// The first index after it.
    pub next_index: u64,
    /// Lines were lost from it, so the next one may begin with a higher index.
    pub is_least: bool,
    /// Stamp of its last line.
    pub last_ts: UnixNs,
}

/// Header and end of the segment; `None` where they can't be understood.
pub(super) fn of_segment(
    storage: &dyn Storage,
    path: &Path,
    form: Form,
) -> io::Result<Option<Tail>> {
    let file = storage.open(path)?;
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
        Form::Gzip => head_and_tail(flate2::read::MultiGzDecoder::new(Cursor::new(file)))?,
        Form::Zstd => {
            let head = zstd::Decoder::new(Cursor::new(file.clone()))?;
            let (head, _) = head_and_tail(head.take(EVENT_LINE_BYTES_MAX as u64))?;
            let mut last = SeekFile { file, at: 0 };
            let table = SeekTable::from_seekable(&mut last).map_err(io::Error::other)?;
            let frames = table.num_frames();
            if frames == 0 {
                return Ok(None);
            }
            let start = table.frame_start_comp(frames - 1).map_err(io::Error::other)?;
            last.seek(SeekFrom::Start(start))?;
            let (_, tail) = head_and_tail(zstd::Decoder::new(last)?.single_frame())?;
            (head, tail)
        }
    };
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
        Form::Zstd => Box::new(zstd::Decoder::new(Cursor::new(storage.open(path)?))?),
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

fn parse_header(head: &[u8]) -> Option<Head> {
    #[derive(serde::Deserialize)]
    struct Header {
        first_index: u64,
    }
    let line = Line::parse(head.split(|byte| *byte == b'\n').next()?).ok()?;
    let header: Header = serde_json::from_slice(line.raw).ok()?;
    Some(Head { first_index: header.first_index, ts: line.ts })
}

fn understand(head: &[u8], tail: &[u8]) -> Option<Tail> {
    let first_index = parse_header(head)?.first_index;
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
    let next_index = first_index.checked_add(counts.lines)?.checked_add(1)?;
    Some(Tail { next_index, is_least, last_ts: line.ts })
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
pub(super) fn read_up_to(file: &dyn StorageFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..])? {
            0 => break,
            bytes => done += bytes,
        }
    }
    Ok(done)
}

struct SeekFile {
    file: Arc<dyn StorageFile>,
    at: u64,
}

impl Read for SeekFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(self.at, buf)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for SeekFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.bytes()?.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
