//! The plain bytes of a segment file that is damaged, as far as there are any.
//!
//! Owns the way through the pieces of a sealed file (zstd frames, gzip members): each is decoded
//! twice, first to see whether its checksum is right, then for its bytes, so that memory does not
//! depend on its size. After a damaged piece the next one is looked for by its first bytes; the
//! seek table, which may be damaged as well, is not needed. Pages that the disk can't read any
//! more read as zeroes here. What the bytes are worth as lines is for `repair` to say.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use crate::storage::StorageFile;
use crate::tape::name::Form;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Where a read fails, the others are tried in pages of this size.
const PAGE_BYTES: u64 = 4 << 10;
/// Frames that need a larger window are taken for damaged: 8 MiB, as in the reader of tapes.
const WINDOW_LOG_MAX: u32 = 23;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Magic numbers of skippable frames, but for the lowest four bits.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// The last bytes of a seek table.
const TABLE_END: [u8; 4] = 0x8F92_EAB1_u32.to_le_bytes();
/// All gzip members of the sealer begin so.
const GZIP_MAGIC: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Any gzip member begins so.
const GZIP_MAGIC_ANY: [u8; 3] = [0x1f, 0x8b, 8];

/// What tells that bytes are as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The checksum of the piece that they were decoded from.
    Piece,
    /// Marks only: they come from a plain file, or from a piece that was cut.
    Marks,
    /// Marks only, and without one they are wrong: their piece's checksum is.
    MarksAgainst,
}

/// What a damaged file has next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Plain bytes, which follow the ones before.
    Bytes(Proof, &'a [u8]),
    /// Something is missing here.
    Hole,
}

/// Hands out all that can be read of a file, in order.
///
/// # Errors
/// Those of `take`; of the disk only where the file's length can't be told.
pub(super) fn read(
    file: &dyn StorageFile,
    form: Form,
    take: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let end = file.bytes()?;
    let Some(codec) = Codec::of(form) else {
        return hand_out(&mut Patient { file, at: 0, end }, Proof::Marks, take);
    };
    let (mut at, mut is_missing) = (0, false);
    while at < end {
        let state = check(file, codec, at, end)?;
        if let State::Skippable { bytes } = state {
            at += bytes;
            continue;
        }
        if let State::Whole { bytes, proof } = state {
            if std::mem::take(&mut is_missing) {
                take(Part::Hole)?;
            }
            decode(file, codec, at, end, proof, take)?;
            at += bytes;
            continue;
        }
        let next = next_piece(file, codec, at + 1, end)?;
        // What follows other damage may be anything, and decode to anything.
        if !is_missing {
            let is_cut = state == State::Cut && next == end && !has_table(file, codec, end)?;
            let proof = if is_cut { Proof::Marks } else { Proof::MarksAgainst };
            decode(file, codec, at, end, proof, take)?;
        }
        is_missing = true;
        at = next;
    }
    if is_missing { take(Part::Hole) } else { Ok(()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Zstd,
    Gzip,
}

impl Codec {
    fn of(form: Form) -> Option<Codec> {
        match form {
            Form::Open | Form::Plain => None,
            Form::Gzip => Some(Codec::Gzip),
            Form::Zstd => Some(Codec::Zstd),
        }
    }

    /// What a piece begins with, so that it is found among other bytes.
    fn magic(self) -> &'static [u8] {
        match self {
            Codec::Zstd => &ZSTD_MAGIC,
            Codec::Gzip => &GZIP_MAGIC,
        }
    }
}

/// What stands at some place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A piece that decodes to its end; its checksum, where it has one, is right.
    Whole { bytes: u64, proof: Proof },
    /// A frame with no lines in it, as the seek table.
    Skippable { bytes: u64 },
    /// A piece that the file's end cuts, by what it says itself.
    Cut,
    /// A piece that does not decode, or no piece.
    Damaged,
}

type Input<'a> = BufReader<Patient<'a>>;

fn input(file: &dyn StorageFile, at: u64, end: u64) -> Input<'_> {
    BufReader::with_capacity(READ_BYTES, Patient { file, at, end })
}

/// Looks at the piece at `at`, which is before `end`.
fn check(file: &dyn StorageFile, codec: Codec, at: u64, end: u64) -> io::Result<State> {
    let mut input = input(file, at, end);
    let head: Vec<u8> = input.fill_buf()?.iter().take(8).copied().collect();
    let proof = match (codec, &head[..]) {
        (Codec::Zstd, [a, b, c, d, rest @ ..]) => {
            let magic = u32::from_le_bytes([*a, *b, *c, *d]);
            if magic & 0xFFFF_FFF0 == SKIPPABLE_MAGIC {
                return Ok(skippable(rest, end - at));
            }
            if !head.starts_with(&ZSTD_MAGIC) {
                return Ok(State::Damaged);
            }
            // Bit 2 of the frame header's descriptor (RFC 8878, 3.1.1.1.1): there is a checksum.
            let has_checksum = rest.first().is_some_and(|descriptor| descriptor & 0b100 != 0);
            if has_checksum { Proof::Piece } else { Proof::Marks }
        }
        (Codec::Gzip, head) if head.starts_with(&GZIP_MAGIC_ANY) => Proof::Piece,
        (Codec::Zstd | Codec::Gzip, _) => return Ok(State::Damaged),
    };
    let result =
        decoder(codec, &mut input).and_then(|mut decoder| io::copy(&mut decoder, &mut io::sink()));
    Ok(match result {
        Ok(_) => {
            let bytes = input.get_ref().at - input.buffer().len() as u64 - at;
            if bytes == 0 { State::Damaged } else { State::Whole { bytes, proof } }
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => State::Cut,
        Err(_) => State::Damaged,
    })
}

/// Whether a seek table's last bytes are those of the file: then nothing is cut off.
fn has_table(file: &dyn StorageFile, codec: Codec, end: u64) -> io::Result<bool> {
    let at = end.saturating_sub(TABLE_END.len() as u64);
    let mut tail = [0; TABLE_END.len()];
    let bytes = Patient { file, at, end }.read(&mut tail)?;
    Ok(codec == Codec::Zstd && tail[..bytes] == TABLE_END)
}

/// A skippable frame: its length stands after the magic number.
fn skippable(rest: &[u8], room: u64) -> State {
    match rest {
        [a, b, c, d, ..] => {
            let bytes = 8 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
            if bytes <= room { State::Skippable { bytes } } else { State::Damaged }
        }
        _ => State::Damaged,
    }
}

/// Decodes one piece.
fn decoder<'a>(codec: Codec, input: &'a mut Input<'_>) -> io::Result<Box<dyn Read + 'a>> {
    match codec {
        Codec::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?.single_frame();
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(Box::new(decoder))
        }
        Codec::Gzip => Ok(Box::new(GzDecoder::new(input))),
    }
}

/// Hands out what a piece decodes to, as far as it does.
fn decode(
    file: &dyn StorageFile,
    codec: Codec,
    at: u64,
    end: u64,
    proof: Proof,
    take: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut input = input(file, at, end);
    // Only memory can be short here; `check` was not short of it.
    let mut decoder = decoder(codec, &mut input)?;
    hand_out(&mut decoder, proof, take)
}

/// Hands out what `source` gives until it ends or fails.
fn hand_out(
    source: &mut dyn Read,
    proof: Proof,
    take: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut buf = vec![0; READ_BYTES];
    loop {
        match source.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(bytes) => take(Part::Bytes(proof, &buf[..bytes]))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The decoder has met the damage.
            Err(_) => return Ok(()),
        }
    }
}

/// Where, from `from` on, a piece may begin; `end` where none does.
fn next_piece(file: &dyn StorageFile, codec: Codec, from: u64, end: u64) -> io::Result<u64> {
    let magic = codec.magic();
    let mut buf = vec![0; READ_BYTES];
    let mut at = from;
    let mut kept = 0;
    while at < end {
        let bytes = Patient { file, at, end }.read(&mut buf[kept..])?;
        if bytes == 0 {
            break;
        }
        let window = &buf[..kept + bytes];
        if let Some(found) = memchr::memmem::find(window, magic) {
            return Ok(at - kept as u64 + found as u64);
        }
        at += bytes as u64;
        // A magic number may lie across the edge.
        let keep = window.len().min(magic.len() - 1);
        let edge = window.len() - keep;
        buf.copy_within(edge..edge + keep, 0);
        kept = keep;
    }
    Ok(end)
}

/// Reads a file up to `end` on a disk that can't read all of it: what can't be read is zeroes.
struct Patient<'a> {
    file: &'a dyn StorageFile,
    at: u64,
    end: u64,
}

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX).min(buf.len());
        let whole = want(self.end.saturating_sub(self.at));
        let page = want(PAGE_BYTES - self.at % PAGE_BYTES).min(whole);
        let bytes = match self.file.read_at(self.at, &mut buf[..whole]) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(_) => match self.file.read_at(self.at, &mut buf[..page]) {
                Ok(bytes) => bytes,
                Err(_) => {
                    buf[..page].fill(0);
                    page
                }
            },
        };
        self.at += bytes as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use crate::storage::memory::{Fault, MemoryDisk};
    use crate::tape::reader::testing::seal;
    use std::path::Path;

    const PLAIN: &[u8] = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n";

    /// The parts in short: plain bytes per proof, `|` for a hole.
    fn parts(stored: &[u8], form: Form) -> String {
        let disk = MemoryDisk::new();
        disk.put("x", stored);
        let file = disk.open(Path::new("x")).unwrap();
        let mut said = String::new();
        let mut take = |part: Part<'_>| {
            match part {
                Part::Bytes(Proof::Piece, bytes) => said.push_str(&String::from_utf8_lossy(bytes)),
                Part::Bytes(Proof::Marks | Proof::MarksAgainst, _) => said.push('?'),
                Part::Hole => said.push('|'),
            }
            Ok(())
        };
        read(&*file, form, &mut take).unwrap();
        said.replace('\n', " ")
    }

    /// Two gzip members as the sealer makes them.
    fn members() -> Vec<u8> {
        let mut stored = Vec::new();
        for plain in [&PLAIN[..8], &PLAIN[8..]] {
            let mut member = seal(plain, Form::Gzip, 0);
            member[..GZIP_MAGIC.len()].copy_from_slice(&GZIP_MAGIC);
            stored.extend(member);
        }
        stored
    }

    #[test]
    fn whole_files_have_no_holes() {
        let all = "one two three four five six seven ";
        assert_eq!(parts(&seal(PLAIN, Form::Zstd, 8), Form::Zstd), all);
        assert_eq!(parts(&members(), Form::Gzip), all);
        assert_eq!(parts(b"", Form::Zstd), "");
        assert_eq!(parts(b"a\n", Form::Plain), "?");
    }

    #[test]
    fn what_a_flipped_bit_damages_is_a_hole_and_no_more() {
        for (form, stored) in [(Form::Zstd, seal(PLAIN, Form::Zstd, 8)), (Form::Gzip, members())] {
            for at in 0..stored.len() * 8 {
                let mut flipped = stored.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                let said = parts(&flipped, form);
                let kept: Vec<&str> = said.split(['|', '?']).collect();
                let words: Vec<&str> = kept.iter().flat_map(|part| part.split(' ')).collect();
                let right = ["one", "two", "three", "four", "five", "six", "seven", ""];
                assert!(words.iter().all(|word| right.contains(word)), "bit {at}: {said}");
                let lost = 7 - words.iter().filter(|word| !word.is_empty()).count();
                // Two lines stand in a frame, five in the longer member.
                let most = if form == Form::Zstd { 2 } else { 5 };
                assert!(lost <= most, "bit {at}: {said}");
                assert!(lost == 0 || said.contains('|'), "bit {at}: {said}");
            }
        }
    }

    #[test]
    fn pages_that_cannot_be_read_are_zeroes() {
        let disk = MemoryDisk::new();
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| 1 + (n % 200) as u8).collect();
        disk.put("x", &bytes);
        let file = disk.open(Path::new("x")).unwrap();
        let first = disk.operations();
        // The whole read fails, and the page; then all goes well.
        for n in [first + 1, first + 2] {
            disk.fault_at(n, Fault::Fail(io::ErrorKind::Other));
        }
        let mut got = Vec::new();
        let mut take = |part: Part<'_>| {
            if let Part::Bytes(_, bytes) = part {
                got.extend_from_slice(bytes);
            }
            Ok(())
        };
        read(&*file, Form::Plain, &mut take).unwrap();
        assert_eq!(got.len(), bytes.len());
        assert!(got[..4096].iter().all(|byte| *byte == 0) && got[4096..] == bytes[4096..]);
    }
}
