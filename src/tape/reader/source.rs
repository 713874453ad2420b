//! The plain bytes of one segment file, whatever its form.
//!
//! Owns opening and decoding. An uncompressed file is read up to the last LF that it had when it
//! was opened, so that a line still being written is never seen; how many bytes stand after it is
//! told. Knows nothing of lines beyond that.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::frames::{Frame, FrameCheck, FrameReport};
use crate::storage::{StorageFile, open_regular};
use crate::tape::LINE_BYTES_MAX;
use crate::tape::name::Form;

/// Frames that need a larger window are refused: 8 MiB, the most that a decoder has to support
/// (RFC 8878, section 3.1.1.1.2). Tapes of this program need 256 KiB.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;
/// Bytes read from a compressed file at once.
const INPUT_BYTES: usize = 64 << 10;
/// While verifying, the page cache is dropped each time so many bytes were read.
const DROP_BYTES: u64 = 1 << 20;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What the bytes are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Their content.
    Read,
    /// To verify the file: the frames of zstd are checked too, and what was read is dropped from
    /// the page cache, for nobody is going to read it again soon.
    Verify,
}

/// The plain bytes of a segment file. Reading stops at the last whole line of an uncompressed
/// file.
pub struct Source {
    body: Body,
    disk_bytes: u64,
    torn_bytes: u64,
}

enum Body {
    Plain(RawFile),
    Gzip(Box<MultiGzDecoder<BufReader<RawFile>>>),
    Zstd(Box<ZstdReader>),
}

impl Source {
    /// Opens the file at `path`, which has the given form. Only a regular file is opened, and no
    /// link to one.
    ///
    /// # Errors
    /// Those of opening and reading the file; a plain one without any line end within its last
    /// bytes, more of them than the longest line has.
    pub fn open(path: &Path, form: Form, purpose: Purpose) -> io::Result<Source> {
        let file = open_regular(path, OpenOptions::new().read(true))?;
        let disk_bytes = file.metadata()?.len();
        // Of an open one the page cache may be the only copy, where the disk refused it.
        let purpose = if form == Form::Open { Purpose::Read } else { purpose };
        let mut raw = RawFile { file, offset: 0, end: u64::MAX, purpose, dropped: 0 };
        let mut torn_bytes = 0;
        let body = match form {
            Form::Open | Form::Plain => {
                raw.end = whole_lines_bytes(&raw.file, disk_bytes)?;
                torn_bytes = disk_bytes - raw.end;
                Body::Plain(raw)
            }
            Form::Gzip => {
                let input = BufReader::with_capacity(INPUT_BYTES, raw);
                Body::Gzip(Box::new(MultiGzDecoder::new(input)))
            }
            Form::Zstd => Body::Zstd(Box::new(ZstdReader::new(raw, disk_bytes)?)),
        };
        Ok(Source { body, disk_bytes, torn_bytes })
    }

    /// Length of the file when it was opened.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Bytes after the last LF of an uncompressed file: a line that isn't whole.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// What is wrong with the frames and the seek table, once all has been read; `None` where the
    /// file is not zstd or was not opened to verify it.
    pub fn frame_report(&mut self) -> Option<FrameReport> {
        match &mut self.body {
            Body::Zstd(reader) => reader.check.take().map(FrameCheck::finish),
            Body::Plain(_) | Body::Gzip(_) => None,
        }
    }

    /// Reads over `bytes` plain bytes, which must be there.
    pub(super) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.body {
            Body::Plain(file) => file.read(buf),
            Body::Gzip(decoder) => decoder.read(buf),
            Body::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// The form of a file whose name does not tell, by its first bytes.
pub(super) fn detect_form(path: &Path) -> io::Result<Form> {
    let mut start = Vec::with_capacity(4);
    open_regular(path, OpenOptions::new().read(true))?.take(4).read_to_end(&mut start)?;
    Ok(if start.starts_with(&ZSTD_MAGIC) {
        Form::Zstd
    } else if start.starts_with(&GZIP_MAGIC) {
        Form::Gzip
    } else {
        // It may be a copy of a segment that was open: nothing is known against it.
        Form::Open
    })
}

/// Bytes up to and with the last LF among the first `bytes` of `file`.
fn whole_lines_bytes(file: &File, bytes: u64) -> io::Result<u64> {
    // Lines are short: the first piece nearly always has one's end.
    let mut buf = vec![0u8; 4096];
    let mut end = bytes;
    while end > 0 {
        // A sparse file can have any length.
        if bytes - end > LINE_BYTES_MAX {
            let what = format!("no tape: its last {} bytes hold no line end", bytes - end);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let start = end.saturating_sub(buf.len() as u64);
        let piece = &mut buf[..(end - start) as usize];
        file.read_exact_at(piece, start)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
        buf.resize(INPUT_BYTES, 0);
    }
    Ok(0)
}

/// A file read from the start up to `end`.
struct RawFile {
    file: File,
    offset: u64,
    end: u64,
    purpose: Purpose,
    /// The page cache was dropped up to here.
    dropped: u64,
}

impl RawFile {
    fn drop_cache(&mut self) {
        match self.purpose {
            Purpose::Read => {}
            Purpose::Verify => {
                self.file.drop_cache(0, self.offset);
                self.dropped = self.offset;
            }
        }
    }
}

impl Read for RawFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.end - self.offset;
        let want = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let bytes = FileExt::read_at(&self.file, &mut buf[..want], self.offset)?;
        self.offset += bytes as u64;
        if self.offset - self.dropped >= DROP_BYTES {
            self.drop_cache();
        }
        Ok(bytes)
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        self.drop_cache();
    }
}

/// Decodes zstd frame by frame.
struct ZstdReader {
    raw: RawFile,
    decoder: Decoder<'static>,
    input: Box<[u8]>,
    /// What of `input` is not consumed yet.
    from: usize,
    to: usize,
    /// The decoder may hold output that had no room.
    more_output: bool,
    frame: Frame,
    check: Option<FrameCheck>,
}

impl ZstdReader {
    fn new(raw: RawFile, disk_bytes: u64) -> io::Result<ZstdReader> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let check = match raw.purpose {
            Purpose::Read => None,
            Purpose::Verify => Some(FrameCheck::new(Arc::new(raw.file.try_clone()?), disk_bytes)),
        };
        let input = vec![0; INPUT_BYTES].into_boxed_slice();
        let frame = Frame::starting_at(0);
        Ok(ZstdReader { raw, decoder, input, from: 0, to: 0, more_output: false, frame, check })
    }

    /// One step of the decoder; returns how many bytes of output it made.
    fn step(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut input = InBuffer::around(&self.input[self.from..self.to]);
        let mut output = OutBuffer::around(buf);
        let place = self.frame.at + self.frame.compressed;
        let hint = self.decoder.run(&mut input, &mut output).map_err(|e| {
            io::Error::new(e.kind(), format!("zstd, near byte {place} of the file: {e}"))
        })?;
        let (consumed, produced) = (input.pos(), output.pos());
        self.frame.record(&self.input[self.from..self.from + consumed], &buf[..produced]);
        self.from += consumed;
        // Zero means that the frame is complete and all of it is in the output.
        self.more_output = hint != 0 && produced == buf.len();
        if hint == 0 && self.frame.compressed > 0 {
            let next = Frame::starting_at(self.frame.at + self.frame.compressed);
            let frame = std::mem::replace(&mut self.frame, next);
            if let Some(check) = &mut self.check {
                check.frame(&frame);
            }
        }
        Ok(produced)
    }
}

impl Read for ZstdReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if self.from == self.to && !self.more_output {
                self.from = 0;
                self.to = 0;
                self.to = self.raw.read(&mut self.input)?;
                if self.to == 0 {
                    if self.frame.compressed > 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the file ends inside a zstd frame",
                        ));
                    }
                    return Ok(0);
                }
            }
            let produced = self.step(buf)?;
            if produced > 0 {
                return Ok(produced);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::reader::testing;
    use proptest::prelude::*;

    fn read(bytes: &[u8], form: Form, purpose: Purpose) -> io::Result<(Vec<u8>, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let mut source = Source::open(&path, form, purpose)?;
        let mut plain = Vec::new();
        source.by_ref().take(64 << 20).read_to_end(&mut plain)?;
        Ok((plain, source.torn_bytes()))
    }

    #[test]
    fn each_form_gives_the_plain_bytes() {
        let plain: Vec<u8> = (0..20_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        for purpose in [Purpose::Read, Purpose::Verify] {
            for form in Form::ALL {
                let stored = testing::seal(&plain, form, 10_000);
                assert_eq!(read(&stored, form, purpose).unwrap(), (plain.clone(), 0), "{form:?}");
            }
        }
        let two_members =
            [testing::seal(b"a\n", Form::Gzip, 99), testing::seal(b"b\n", Form::Gzip, 99)];
        assert_eq!(read(&two_members.concat(), Form::Gzip, Purpose::Read).unwrap().0, b"a\nb\n");
    }

    #[test]
    fn an_unfinished_line_is_left_out() {
        for (bytes, whole) in [
            (b"".to_vec(), 0),
            (b"abc".to_vec(), 0),
            (b"abc\n".to_vec(), 4),
            (b"abc\ndef".to_vec(), 4),
            ([b"abc\n".to_vec(), vec![b'x'; 10_000]].concat(), 4),
            (vec![b'x'; 10_000], 0),
            ([vec![b'x'; 4095], b"\n".to_vec(), vec![b'y'; 4096]].concat(), 4096),
        ] {
            let torn = (bytes.len() - whole) as u64;
            let got = read(&bytes, Form::Open, Purpose::Read).unwrap();
            assert_eq!(got, (bytes[..whole].to_vec(), torn));
        }
    }

    #[test]
    fn cut_sealed_files_are_errors() {
        for form in [Form::Gzip, Form::Zstd] {
            let stored = testing::seal(b"some\nlines\nof\ntext\n", form, 8);
            for cut in 1..stored.len() {
                // What is cut between two frames is still a stream of frames.
                if let Ok((plain, _)) = read(&stored[..cut], form, Purpose::Read) {
                    assert_eq!(form, Form::Zstd);
                    assert!(b"some\nlines\nof\ntext\n".starts_with(&plain[..]), "{cut}");
                }
            }
        }
    }

    #[test]
    fn a_window_that_is_too_large_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(25).unwrap();
        std::io::Write::write_all(&mut encoder, &vec![b'a'; 40 << 20]).unwrap();
        let stored = encoder.finish().unwrap();
        let error = read(&stored, Form::Zstd, Purpose::Read).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    #[test]
    fn forms_show_in_the_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for (form, expected) in
            [(Form::Zstd, Form::Zstd), (Form::Gzip, Form::Gzip), (Form::Plain, Form::Open)]
        {
            let path = dir.path().join("renamed");
            std::fs::write(&path, testing::seal(b"x\n", form, 99)).unwrap();
            assert_eq!(detect_form(&path).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for form in Form::ALL {
                for magic in [&[][..], &ZSTD_MAGIC, &GZIP_MAGIC] {
                    // An error is as good as some bytes here.
                    let _ = read(&[magic, &bytes].concat(), form, Purpose::Verify);
                }
            }
        }
    }
}
