//! Making the sealed copy of a segment and reading it back.
//!
//! Owns the bytes on their way through: what is read or written leaves the page cache, what is
//! written is hashed. Decides nothing about names, see `seal`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::compress::{self, Codec, Compressor};
use crate::storage::{Appender, StorageFile, WriteBehind};
use crate::tape::name::Form;

/// Bytes read at once.
pub(super) const READ_BYTES: usize = 128 << 10;
/// Pages are forgotten whenever so many bytes were read or written.
const FORGET_BYTES: u64 = 1 << 20;

/// What a segment holds, plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

impl Content {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
    }
}

/// A sealed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    /// What it holds.
    pub(super) content: Content,
    /// Its own length.
    pub(super) bytes: u64,
    /// Of the file itself, in lower-case hex.
    pub(super) sha256: String,
}

/// Why a copy was not made, or not read.
#[derive(Debug)]
pub(super) enum CopyError {
    /// Told to stop.
    Interrupted,
    /// Reading the plain segment.
    Plain(io::Error),
    /// Reading or writing the copy.
    Copy(io::Error),
    /// The copy is not a whole compressed file.
    Corrupt(String),
}

/// Asked again and again whether to stop.
pub(super) type Stop<'a> = &'a dyn Fn() -> bool;

/// Compresses `plain` to the end of `file`, which is empty.
pub(super) fn write(
    plain: &Arc<dyn StorageFile>,
    file: &Arc<dyn StorageFile>,
    codec: Codec,
    stop: Stop<'_>,
) -> Result<Copy, CopyError> {
    let (to, sha256, behind) = (Appender(file.clone()), Sha256::new(), WriteBehind::default());
    let sink = HashingWriter { to, bytes: 0, sha256, behind };
    let mut compressor = Compressor::new(codec, sink).map_err(CopyError::Copy)?;
    let content = pass(plain, stop, |bytes| compressor.write(bytes).map_err(CopyError::Copy))?;
    let sink = compressor.finish().map_err(CopyError::Copy)?;
    Ok(Copy { content, bytes: sink.bytes, sha256: hex(sink.sha256) })
}

/// Reads `plain` for what it holds.
pub(super) fn read_plain(
    plain: &Arc<dyn StorageFile>,
    stop: Stop<'_>,
) -> Result<Content, CopyError> {
    pass(plain, stop, |_| Ok(()))
}

/// Decompresses all of a sealed file.
pub(super) fn read_back(
    file: &Arc<dyn StorageFile>,
    form: Form,
    stop: Stop<'_>,
) -> Result<Copy, CopyError> {
    let mut reader = HashingReader { from: ColdReader::new(file), sha256: Sha256::new() };
    let content = decompress(&mut reader, form, stop)?;
    // Nothing is left, unless a decoder stopped early: the hash is of the whole file.
    io::copy(&mut reader, &mut io::sink()).map_err(CopyError::Copy)?;
    let bytes = reader.from.offset;
    let mut tail = [0; 4];
    let offset = bytes.saturating_sub(tail.len() as u64);
    let tail_bytes = file.read_at(offset, &mut tail).map_err(CopyError::Copy)?;
    if !compress::ends_well(form, &tail[..tail_bytes]) {
        return Err(CopyError::Corrupt("the seek table is missing".to_string()));
    }
    file.drop_cache(0, 0);
    Ok(Copy { content, bytes, sha256: hex(reader.sha256) })
}

fn decompress(
    reader: &mut HashingReader,
    form: Form,
    stop: Stop<'_>,
) -> Result<Content, CopyError> {
    let mut content = Content::default();
    let mut buf = vec![0; READ_BYTES];
    let mut input = BufReader::with_capacity(READ_BYTES, &mut *reader);
    // An empty file decompresses to nothing without complaint.
    if input.fill_buf().map_err(CopyError::Copy)?.is_empty() {
        return Err(CopyError::Corrupt("the file is empty".to_string()));
    }
    let mut decoder = compress::decoder(form, input).map_err(CopyError::Copy)?;
    let end = loop {
        if stop() {
            return Err(CopyError::Interrupted);
        }
        match decoder.read(&mut buf) {
            Ok(0) => break Ok(()),
            Ok(bytes) => content.add(&buf[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    drop(decoder);
    match end {
        Ok(()) => Ok(content),
        // The disk's errors are none of the file's.
        Err(error) if reader.from.failed => Err(CopyError::Copy(error)),
        Err(error) => Err(CopyError::Corrupt(error.to_string())),
    }
}

/// Reads all of `plain`, part by part.
fn pass(
    plain: &Arc<dyn StorageFile>,
    stop: Stop<'_>,
    mut take: impl FnMut(&[u8]) -> Result<(), CopyError>,
) -> Result<Content, CopyError> {
    let mut reader = ColdReader::new(plain);
    let mut content = Content::default();
    let mut buf = vec![0; READ_BYTES];
    loop {
        if stop() {
            return Err(CopyError::Interrupted);
        }
        match reader.read(&mut buf) {
            Ok(0) => break,
            Ok(bytes) => {
                content.add(&buf[..bytes]);
                take(&buf[..bytes])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Plain(error)),
        }
    }
    plain.drop_cache(0, 0);
    Ok(content)
}

fn hex(sha256: Sha256) -> String {
    sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file from the start; what was read leaves the page cache.
struct ColdReader {
    file: Arc<dyn StorageFile>,
    offset: u64,
    forgotten: u64,
    /// A read failed.
    failed: bool,
}

impl ColdReader {
    fn new(file: &Arc<dyn StorageFile>) -> ColdReader {
        ColdReader { file: file.clone(), offset: 0, forgotten: 0, failed: false }
    }
}

impl Read for ColdReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(self.offset, buf).inspect_err(|_| self.failed = true)?;
        self.offset += bytes as u64;
        if self.offset - self.forgotten >= FORGET_BYTES {
            self.file.drop_cache(0, self.offset);
            self.forgotten = self.offset;
        }
        Ok(bytes)
    }
}

struct HashingReader {
    from: ColdReader,
    sha256: Sha256,
}

impl Read for HashingReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.from.read(buf)?;
        self.sha256.update(&buf[..bytes]);
        Ok(bytes)
    }
}

struct HashingWriter {
    to: Appender,
    bytes: u64,
    sha256: Sha256,
    behind: WriteBehind,
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.to.write(bytes)?;
        self.bytes += taken as u64;
        self.sha256.update(&bytes[..taken]);
        if self.behind.behind(self.bytes) >= FORGET_BYTES {
            self.behind.step(&*self.to.0, self.bytes);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
