//! Compression of a segment in pieces that can be read independently.
//!
//! Owns where pieces are cut, both encoders, and the seek table at the end of a zstd file. Piece
//! means a zstd frame or a gzip member. Knows nothing of files: bytes come in by
//! [`Compressor::write`] and leave through a [`Write`].
//!
//! Memory does not depend on the segment: one encoder is reused for all pieces, a piece is never
//! held whole. A zstd context takes 1.8 MiB at level 3 and 5.8 MiB at level 19, one for gzip
//! 0.3 MiB; the output buffer 129 KiB; the seek table 24 bytes for each MiB of the segment.

use std::io::{self, BufRead, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, Crc, FlushCompress, Status};
use zeekstd::SeekTable;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, get_error_name};

use super::copy::READ_BYTES;
use crate::tape::MESSAGE_BYTES_MAX;
use crate::tape::name::Form;

/// A piece ends with the line that brings it to so many plain bytes.
pub(super) const PIECE_BYTES: u64 = 1 << 20;
/// A piece ends here even within a line: only a file that is no tape has lines this long. The seek
/// table has 32 bits for the length of a piece.
const PIECE_BYTES_MAX: u64 = 1 << 30;
/// A piece that ends with the longest line is not cut; and expansion can't overflow 32 bits.
const _: () = assert!(PIECE_BYTES_MAX > PIECE_BYTES + 2 * MESSAGE_BYTES_MAX + 21);
const _: () = assert!(PIECE_BYTES_MAX + PIECE_BYTES_MAX / 128 < u32::MAX as u64);

/// How far back zstd looks: 256 KiB, so that whoever reads needs no more memory than that.
const WINDOW_LOG: u32 = 18;
/// A context of zstd takes no more, in bytes: up to level 3, and above it.
const ZSTD_CONTEXT_BYTES_MAX: [usize; 2] = [2 << 20, 6 << 20];
/// One of deflate takes no more.
const GZIP_CONTEXT_BYTES_MAX: usize = 320 << 10;
/// Output is handed on in parts of about this size (a zstd block and its header).
const OUT_BYTES: usize = (128 << 10) + 1024;

/// A gzip member's first bytes: deflate, no name, no time, unknown system (RFC 1952, 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last bytes of a file in zstd's seekable format.
const SEEKABLE_MAGIC: [u8; 4] = 0x8F92_EAB1_u32.to_le_bytes();

/// How finished segments are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As `.tape.zst`, in zstd's seekable format.
    Zstd {
        /// 1 to 19; outside of that the nearest.
        level: i32,
    },
    /// As `.tape.gz`.
    Gzip {
        /// 1 to 9; outside of that the nearest.
        level: u32,
    },
    /// Not at all: finished segments stay as they are.
    None,
}

impl Compression {
    /// How to compress, where that is wanted.
    pub(super) fn codec(self) -> Option<Codec> {
        match self {
            Compression::Zstd { level } => Some(Codec::Zstd { level: level.clamp(1, 19) }),
            Compression::Gzip { level } => Some(Codec::Gzip { level: level.clamp(1, 9) }),
            Compression::None => None,
        }
    }
}

impl Compression {
    /// Memory of the sealer while it is at work, in bytes at most; no segment needs more.
    pub fn memory_bytes(self) -> usize {
        let context = match self.codec() {
            Some(Codec::Zstd { level }) => ZSTD_CONTEXT_BYTES_MAX[usize::from(level > 3)],
            Some(Codec::Gzip { .. }) => GZIP_CONTEXT_BYTES_MAX,
            None => return 0,
        };
        context + OUT_BYTES + 2 * READ_BYTES
    }
}

/// A [`Compression`] that compresses, with a level in its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Zstd { level: i32 },
    Gzip { level: u32 },
}

impl Codec {
    /// The form of the segments it makes.
    pub(super) fn form(self) -> Form {
        match self {
            Codec::Zstd { .. } => Form::Zstd,
            Codec::Gzip { .. } => Form::Gzip,
        }
    }
}

/// Decompresses all pieces one after the other.
///
/// # Errors
/// No memory for it; `form` is not a compressed one.
pub(super) fn decoder<'a>(form: Form, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    match form {
        Form::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Ok(Box::new(decoder))
        }
        Form::Gzip => Ok(Box::new(MultiGzDecoder::new(input))),
        Form::Open | Form::Plain => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a plain segment is not compressed"))
        }
    }
}

/// Whether a file whose last bytes are `tail` can be whole: a zstd file without its seek table was
/// cut, even where every frame in it is whole.
pub(super) fn ends_well(form: Form, tail: &[u8]) -> bool {
    match form {
        Form::Zstd => tail.ends_with(&SEEKABLE_MAGIC),
        Form::Open | Form::Plain | Form::Gzip => true,
    }
}

/// Cuts a stream of lines into pieces. Pure.
#[derive(Debug, Default)]
struct Cutter {
    /// Bytes of the piece so far.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The piece goes on.
    GoOn,
    /// The piece ends here.
    End,
}

impl Cutter {
    /// How many of the next `bytes` belong to this piece, and whether they are its last.
    fn next(&mut self, bytes: &[u8]) -> (usize, Cut) {
        // A line end counts from the byte on that fills the piece.
        let from = usize::try_from(PIECE_BYTES.saturating_sub(self.bytes + 1)).unwrap_or(0);
        let line_end = bytes.get(from..).and_then(|rest| memchr::memchr(b'\n', rest));
        let room = usize::try_from(PIECE_BYTES_MAX - self.bytes).unwrap_or(usize::MAX);
        let (taken, cut) = match line_end {
            Some(at) if from + at < room => (from + at + 1, Cut::End),
            _ if bytes.len() >= room => (room, Cut::End),
            _ => (bytes.len(), Cut::GoOn),
        };
        self.bytes = if cut == Cut::End { 0 } else { self.bytes + taken as u64 };
        (taken, cut)
    }
}

/// Compresses lines into pieces.
pub(super) struct Compressor<W> {
    encoder: Encoder,
    cutter: Cutter,
    /// The piece being made.
    piece: Piece,
    table: SeekTable,
    out: Vec<u8>,
    sink: W,
}

#[derive(Debug, Default)]
struct Piece {
    begun: bool,
    raw_bytes: u64,
    sealed_bytes: u64,
}

impl<W: Write> Compressor<W> {
    /// Compressed bytes go to `sink`.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn new(codec: Codec, sink: W) -> io::Result<Compressor<W>> {
        Ok(Compressor {
            encoder: Encoder::new(codec)?,
            cutter: Cutter::default(),
            piece: Piece::default(),
            table: SeekTable::new(),
            out: Vec::with_capacity(OUT_BYTES),
            sink,
        })
    }

    /// Takes the next plain bytes, any number of them.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (taken, cut) = self.cutter.next(bytes);
            self.encode(&bytes[..taken], cut)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Ends the last piece and writes the seek table.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn finish(mut self) -> io::Result<W> {
        // A gzip file has one member at least; a zstd file without frames is valid.
        let empty_gzip = self.table.num_frames() == 0 && matches!(self.encoder, Encoder::Gzip(_));
        if self.piece.begun || empty_gzip {
            self.encode(b"", Cut::End)?;
        }
        if matches!(self.encoder, Encoder::Zstd(_)) {
            let mut table = self.table.into_serializer();
            self.out.resize(OUT_BYTES, 0);
            loop {
                let bytes = table.write_into(&mut self.out);
                if bytes == 0 {
                    break;
                }
                self.sink.write_all(&self.out[..bytes])?;
            }
        }
        Ok(self.sink)
    }

    fn encode(&mut self, bytes: &[u8], cut: Cut) -> io::Result<()> {
        if !self.piece.begun {
            self.piece.begun = true;
            self.hand_on(|encoder, out| {
                out.extend_from_slice(encoder.header());
                Ok(())
            })?;
        }
        self.piece.raw_bytes += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            let mut done = false;
            self.hand_on(|encoder, out| {
                let step = encoder.step(rest, cut, out)?;
                rest = &rest[step.taken..];
                done = rest.is_empty() && (cut == Cut::GoOn || step.ended);
                Ok(())
            })?;
            if done {
                break;
            }
        }
        if cut == Cut::End {
            self.hand_on(|encoder, out| encoder.end(out))?;
            self.log_piece()?;
        }
        Ok(())
    }

    /// Writes what `make` puts into the empty output buffer.
    fn hand_on(
        &mut self,
        make: impl FnOnce(&mut Encoder, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.out.clear();
        make(&mut self.encoder, &mut self.out)?;
        self.piece.sealed_bytes += self.out.len() as u64;
        self.sink.write_all(&self.out)
    }

    fn log_piece(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        let narrow = |bytes: u64| u32::try_from(bytes).map_err(io::Error::other);
        self.table
            .log_frame(narrow(piece.sealed_bytes)?, narrow(piece.raw_bytes)?)
            .map_err(|error| io::Error::other(format!("the seek table is full: {error}")))
    }
}

/// One of the libraries at work on a piece.
enum Encoder {
    Zstd(CCtx<'static>),
    Gzip(Deflate),
}

struct Deflate {
    compress: Compress,
    crc: Crc,
}

struct Step {
    /// Input bytes taken.
    taken: usize,
    /// The piece was to end, and all of it is in the output.
    ended: bool,
}

impl Encoder {
    fn new(codec: Codec) -> io::Result<Encoder> {
        match codec {
            Codec::Zstd { level } => {
                let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
                let parameters = [
                    CParameter::CompressionLevel(level),
                    CParameter::WindowLog(WINDOW_LOG),
                    CParameter::ChecksumFlag(true),
                ];
                for parameter in parameters.into_iter().chain(table_limits(level)) {
                    context.set_parameter(parameter).map_err(zstd_error)?;
                }
                Ok(Encoder::Zstd(context))
            }
            Codec::Gzip { level } => {
                let compress = Compress::new(flate2::Compression::new(level), false);
                Ok(Encoder::Gzip(Deflate { compress, crc: Crc::new() }))
            }
        }
    }

    /// What stands before a piece.
    fn header(&self) -> &'static [u8] {
        match self {
            Encoder::Zstd(_) => &[],
            Encoder::Gzip(_) => &GZIP_HEADER,
        }
    }

    /// Encodes some of `bytes` into the room that `out` has.
    fn step(&mut self, bytes: &[u8], cut: Cut, out: &mut Vec<u8>) -> io::Result<Step> {
        match self {
            Encoder::Zstd(context) => {
                let operation = match cut {
                    Cut::GoOn => ZSTD_EndDirective::ZSTD_e_continue,
                    Cut::End => ZSTD_EndDirective::ZSTD_e_end,
                };
                let mut input = InBuffer::around(bytes);
                let left = context
                    .compress_stream2(&mut OutBuffer::around(out), &mut input, operation)
                    .map_err(zstd_error)?;
                Ok(Step { taken: input.pos, ended: cut == Cut::End && left == 0 })
            }
            Encoder::Gzip(Deflate { compress, crc }) => {
                let flush = match cut {
                    Cut::GoOn => FlushCompress::None,
                    Cut::End => FlushCompress::Finish,
                };
                let before = compress.total_in();
                let status = compress.compress_vec(bytes, out, flush)?;
                let taken = (compress.total_in() - before) as usize;
                crc.update(&bytes[..taken]);
                Ok(Step { taken, ended: status == Status::StreamEnd })
            }
        }
    }

    /// Writes what stands after a piece, and gets ready for the next one.
    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Encoder::Gzip(Deflate { compress, crc }) = self {
            out.extend_from_slice(&crc.sum().to_le_bytes());
            out.extend_from_slice(&crc.amount().to_le_bytes());
            compress.reset();
            crc.reset();
        }
        Ok(())
    }
}

/// Tables that fit the window. Zstd fits them itself only where it knows a frame's length ahead;
/// else level 19 takes 82 MiB for what a window of 256 KiB can't use. Below level 7 they fit.
fn table_limits(level: i32) -> impl Iterator<Item = CParameter> {
    // From level 13 on the chain table is a binary tree, with two entries for each position.
    let chain_log = if level >= 13 { WINDOW_LOG + 1 } else { WINDOW_LOG };
    let limits = [CParameter::HashLog(WINDOW_LOG + 1), CParameter::ChainLog(chain_log)];
    limits.into_iter().filter(move |_| level >= 7)
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(format!("zstd: {}", get_error_name(code)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use zeekstd::BytesWrapper;

    /// Lines of about `line_bytes` each, `bytes` at least, that compress like feeds do.
    pub(in crate::sealer) fn lines(bytes: usize, line_bytes: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(bytes as u64);
        let mut text = Vec::with_capacity(bytes + line_bytes);
        let mut ts: u64 = 1_736_682_893_953_758_185;
        while text.len() < bytes {
            ts += random.u64(1000..2_000_000);
            let start = text.len();
            text.extend_from_slice(format!("{ts} {{\"price\":\"").as_bytes());
            while text.len() + 3 < start + line_bytes {
                text.push(b'0' + random.u8(0..10));
            }
            text.extend_from_slice(b"\"}\n");
        }
        text
    }

    fn compress(codec: Codec, text: &[u8], chunk_bytes: usize) -> Vec<u8> {
        let mut compressor = Compressor::new(codec, Vec::new()).unwrap();
        for chunk in text.chunks(chunk_bytes) {
            compressor.write(chunk).unwrap();
        }
        compressor.finish().unwrap()
    }

    fn decompress(form: Form, sealed: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        decoder(form, sealed)?.read_to_end(&mut text)?;
        Ok(text)
    }

    /// The pieces of a zstd file by its seek table: each frame decompressed alone.
    pub(in crate::sealer) fn frames(sealed: &[u8]) -> Vec<Vec<u8>> {
        let table = SeekTable::from_seekable(&mut BytesWrapper::new(sealed)).unwrap();
        (0..table.num_frames())
            .map(|n| {
                let from = table.frame_start_comp(n).unwrap() as usize;
                let to = table.frame_end_comp(n).unwrap() as usize;
                let frame = decompress(Form::Zstd, &sealed[from..to]).unwrap();
                assert_eq!(frame.len() as u64, table.frame_size_decomp(n).unwrap(), "frame {n}");
                frame
            })
            .collect()
    }

    #[test]
    fn cuts_at_the_first_line_end_that_fills_a_piece() {
        const P: u64 = PIECE_BYTES;
        let check = |before: u64, bytes: &[u8], expected: (usize, Cut)| {
            let mut cutter = Cutter { bytes: before };
            assert_eq!(cutter.next(bytes), expected, "after {before}: {bytes:?}");
            let now = if expected.1 == Cut::End { 0 } else { before + expected.0 as u64 };
            assert_eq!(cutter.bytes, now);
        };
        check(0, b"a\nb\n", (4, Cut::GoOn));
        check(P - 4, b"a\nb\nc\n", (4, Cut::End));
        check(P - 3, b"a\nb\nc\n", (4, Cut::End));
        check(P - 2, b"a\nb\nc\n", (2, Cut::End));
        check(P - 1, b"\nb\n", (1, Cut::End));
        check(P - 1, b"a", (1, Cut::GoOn));
        check(P + 77, b"aaa", (3, Cut::GoOn));
        check(P + 77, b"\n", (1, Cut::End));
        check(PIECE_BYTES_MAX - 2, b"aaa", (2, Cut::End));
        check(PIECE_BYTES_MAX - 2, b"aa\n", (2, Cut::End));
        check(PIECE_BYTES_MAX - 2, b"a\nb", (2, Cut::End));
        check(PIECE_BYTES_MAX - 2, b"\nb", (1, Cut::End));
    }

    #[test]
    fn every_frame_is_lines_of_its_own() {
        for chunk_bytes in [1000, 128 << 10, usize::MAX] {
            let text = lines(3 * PIECE_BYTES as usize + 5000, 300);
            let sealed = compress(Codec::Zstd { level: 3 }, &text, chunk_bytes.min(text.len()));
            assert!(sealed.len() < text.len());
            let frames = frames(&sealed);
            assert_eq!(frames.len(), 4);
            for frame in &frames {
                assert!(frame.ends_with(b"\n"));
                assert!(frame.len() as u64 <= PIECE_BYTES + 300);
            }
            assert!(frames[..3].iter().all(|frame| frame.len() as u64 >= PIECE_BYTES));
            assert_eq!(frames.concat(), text);
            assert_eq!(decompress(Form::Zstd, &sealed).unwrap(), text, "in one go");
        }
    }

    #[test]
    fn the_header_says_window_and_checksum() {
        let text = lines(2 * PIECE_BYTES as usize, 100);
        for level in [1, 3, 19] {
            let sealed = compress(Codec::Zstd { level }, &text[..400_000], 128 << 10);
            // RFC 8878, 3.1.1.1: the descriptor's bit 2 is the checksum, bit 5 single segment;
            // then the window: 10 + exponent in the upper five bits.
            assert_eq!(sealed[4] & 0b0010_0100, 0b0000_0100, "level {level}");
            assert!(10 + (sealed[5] >> 3) <= WINDOW_LOG as u8, "level {level}");
        }
    }

    #[test]
    fn a_long_line_makes_a_long_frame() {
        let mut text = lines(1000, 100);
        text.extend_from_slice(&lines(0, 100));
        text.extend_from_slice(&[b'x'; 5 << 20]);
        text.extend_from_slice(b"\n");
        text.extend_from_slice(&lines(1000, 100));
        let sealed = compress(Codec::Zstd { level: 3 }, &text, 128 << 10);
        let frames = frames(&sealed);
        assert_eq!(frames.len(), 2);
        assert!(frames[0].len() > 5 << 20);
        assert!(frames[0].ends_with(b"x\n"));
        assert_eq!(frames.concat(), text);
    }

    #[test]
    fn gzip_members_are_lines_of_their_own() {
        let text = lines(2 * PIECE_BYTES as usize + 5000, 300);
        let sealed = compress(Codec::Gzip { level: 6 }, &text, 100_000);
        let mut rest = &sealed[..];
        let mut members = Vec::new();
        while !rest.is_empty() {
            let mut member = Vec::new();
            let mut decoder = flate2::bufread::GzDecoder::new(rest);
            decoder.read_to_end(&mut member).unwrap();
            rest = decoder.into_inner();
            members.push(member);
        }
        assert_eq!(members.len(), 3);
        assert!(members.iter().all(|member| member.ends_with(b"\n")));
        assert_eq!(members.concat(), text);
        assert_eq!(decompress(Form::Gzip, &sealed).unwrap(), text);
    }

    #[test]
    fn odd_inputs_come_back() {
        for codec in [Codec::Zstd { level: 3 }, Codec::Gzip { level: 9 }] {
            for text in [&b""[..], b"\n", b"no line end", b"a\nb", &[0xff; 300_000]] {
                let sealed = compress(codec, text, 7);
                let form = codec.form();
                assert_eq!(decompress(form, &sealed).unwrap(), text, "{codec:?}");
                assert!(ends_well(form, &sealed));
            }
        }
        assert_eq!(frames(&compress(Codec::Zstd { level: 3 }, b"", 1)).len(), 0);
    }

    #[test]
    fn a_cut_file_is_found_out() {
        let text = lines(PIECE_BYTES as usize + 5000, 5000);
        for codec in [Codec::Zstd { level: 1 }, Codec::Gzip { level: 1 }] {
            let form = codec.form();
            let sealed = compress(codec, &text, 128 << 10);
            for cut in [1, sealed.len() / 2, sealed.len() - 1] {
                let tail = &sealed[..cut];
                let found = decompress(form, tail).is_err() || !ends_well(form, tail);
                assert!(found, "{codec:?} cut at {cut} of {}", sealed.len());
            }
        }
    }

    #[test]
    fn contexts_are_small() {
        let text = lines(600_000, 300);
        for level in 1..=19 {
            let bytes_max = Compression::Zstd { level }.memory_bytes() - OUT_BYTES - 2 * READ_BYTES;
            let mut compressor = Compressor::new(Codec::Zstd { level }, io::sink()).unwrap();
            compressor.write(&text).unwrap();
            let Encoder::Zstd(context) = &compressor.encoder else { panic!("not zstd") };
            let bytes = context.sizeof();
            assert!(bytes <= bytes_max, "level {level}: {bytes} bytes");
        }
    }
}
