//! Recordings for tests, written by hand: no code of the recorder is in it, so that what reads
//! them is checked against the format and not against the writer.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::Digest;
use tempfile::TempDir;
use zstd::bulk::Compressor;
use zstd::stream::raw::CParameter;

use crate::clock::{ClockSync, UnixNs};
use crate::tape::event::{Counts, Crc32c, Event, GapReason};
use crate::tape::line::{Encoding, Stamp};
use crate::tape::name::{FeedName, Form, SegmentName};

/// Stamp of the lines, where no other is set: 2025-01-12T11:54:53Z.
pub const TS: UnixNs = 1_736_682_893_953_758_185;

/// A folder of tapes.
pub struct Recording {
    path: PathBuf,
    _dir: Option<TempDir>,
}

impl Recording {
    pub fn new() -> Recording {
        let dir = tempfile::tempdir().unwrap();
        Recording { path: dir.path().to_path_buf(), _dir: Some(dir) }
    }

    pub fn at(path: &Path) -> Recording {
        fs::create_dir_all(path).unwrap();
        Recording { path: path.to_path_buf(), _dir: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the segment's file; a sealed one is listed in the sums.
    pub fn put(&self, segment: &SegmentBuilder, form: Form) -> PathBuf {
        let path = self.path.join(segment.name().path(form));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, segment.stored(form)).unwrap();
        self.list_sums(path.parent().unwrap());
        path
    }

    /// Writes `_SHA256SUMS` of a folder anew.
    pub fn list_sums(&self, folder: &Path) {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".zst") || name.ends_with(".gz"))
            .collect();
        names.sort();
        let lines = names.iter().map(|name| {
            let sum = sha2::Sha256::digest(fs::read(folder.join(name)).unwrap());
            let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}  {name}\n")
        });
        fs::write(folder.join("_SHA256SUMS"), lines.collect::<String>()).unwrap();
    }
}

/// Builds the plain bytes of a segment.
pub struct SegmentBuilder {
    feed: String,
    number: u64,
    first_index: u64,
    first_ts: UnixNs,
    ts: UnixNs,
    plain: Vec<u8>,
    lines: u64,
    crc_from: usize,
}

impl SegmentBuilder {
    pub fn new(feed: &str, number: u64, first_index: u64) -> SegmentBuilder {
        let mut segment = SegmentBuilder {
            feed: feed.to_string(),
            number,
            first_index,
            first_ts: TS,
            ts: TS,
            plain: Vec::new(),
            lines: 0,
            crc_from: 0,
        };
        segment.header();
        segment
    }

    fn header(&mut self) {
        let feed = self.feed.clone();
        self.event(&Event::Segment {
            version: crate::tape::VERSION,
            feed: &feed,
            segment: self.number,
            first_index: self.first_index,
            url: "ws://127.0.0.1:1/x",
            host: "tester",
            boot_id: "0",
            mono_offset_ns: 1,
            clock_sync: ClockSync::Yes,
            clock_error_ns: Some(1),
            conn: Some(1),
            feedtape: "0.1.0",
        });
    }

    /// Gives the header another stamp; only right after [`SegmentBuilder::new`].
    pub fn header_ts(&mut self, ts: UnixNs) -> &mut Self {
        assert_eq!(self.lines, 1);
        self.plain.clear();
        self.lines = 0;
        self.first_ts = ts;
        self.ts = ts;
        self.header();
        self
    }

    /// Stamp of the lines that follow.
    pub fn ts(&mut self, ts: UnixNs) -> &mut Self {
        self.ts = ts;
        self
    }

    pub fn text(&mut self, payload: &[u8]) -> &mut Self {
        self.message(Encoding::of_text(payload))
    }

    pub fn binary(&mut self, payload: &[u8]) -> &mut Self {
        self.message(Encoding::of_binary(payload))
    }

    fn message(&mut self, encoding: Encoding<'_>) -> &mut Self {
        self.plain.reserve(encoding.line_bytes());
        encoding.append_to(&Stamp::new(self.ts), &mut self.plain);
        self.lines += 1;
        self
    }

    pub fn event(&mut self, event: &Event<'_>) -> &mut Self {
        let line = event.to_line(&Stamp::new(self.ts));
        self.raw(&line)
    }

    pub fn gap(&mut self, reason: GapReason, messages: Option<u64>) -> &mut Self {
        let to_ts = self.ts;
        self.event(&Event::Gap { reason, messages, bytes: None, from_ts: None, to_ts })
    }

    /// Appends bytes as they are, as one line.
    pub fn raw(&mut self, line: &[u8]) -> &mut Self {
        self.plain.extend_from_slice(line);
        self.lines += 1;
        self
    }

    /// What a mark or end would say here.
    pub fn counts(&self) -> Counts {
        Counts {
            lines: self.lines,
            bytes: self.plain.len() as u64,
            crc32c: Crc32c(crc32c::crc32c(&self.plain[self.crc_from..])),
        }
    }

    pub fn mark(&mut self) -> &mut Self {
        let counts = self.counts();
        self.crc_from = self.plain.len();
        self.event(&Event::Mark(counts))
    }

    pub fn end(&mut self) -> &mut Self {
        let counts = self.counts();
        self.event(&Event::End(counts))
    }

    /// Index of the line after the last one so far.
    pub fn next_index(&self) -> u64 {
        self.first_index + self.lines
    }

    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    pub fn name(&self) -> SegmentName {
        SegmentName::new(&FeedName::new(&self.feed).unwrap(), self.number, self.first_ts)
    }

    /// The file's bytes in the given form.
    pub fn stored(&self, form: Form) -> Vec<u8> {
        seal(&self.plain, form, 600)
    }
}

/// The bytes of a file that holds `plain`, in frames of at least `frame_bytes` cut at line ends.
pub fn seal(plain: &[u8], form: Form, frame_bytes: usize) -> Vec<u8> {
    match form {
        Form::Open | Form::Plain => plain.to_vec(),
        Form::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            std::io::Write::write_all(&mut encoder, plain).unwrap();
            encoder.finish().unwrap()
        }
        Form::Zstd => {
            let mut compressor = Compressor::new(3).unwrap();
            compressor.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
            compressor.set_parameter(CParameter::WindowLog(18)).unwrap();
            let mut table = zeekstd::SeekTable::new();
            let mut stored = Vec::new();
            let mut rest = plain;
            while !rest.is_empty() {
                let from = frame_bytes.min(rest.len()) - 1;
                let end = memchr::memchr(b'\n', &rest[from..]).map_or(rest.len(), |n| from + n + 1);
                let frame = compressor.compress(&rest[..end]).unwrap();
                table.log_frame(frame.len() as u32, end as u32).unwrap();
                stored.extend(frame);
                rest = &rest[end..];
            }
            with_table(stored, table)
        }
    }
}

/// Appends a seek table.
pub fn with_table(mut stored: Vec<u8>, table: zeekstd::SeekTable) -> Vec<u8> {
    let mut serializer = table.into_serializer();
    let mut buf = [0u8; 64];
    loop {
        let bytes = serializer.write_into(&mut buf);
        if bytes == 0 {
            return stored;
        }
        stored.extend_from_slice(&buf[..bytes]);
    }
}
