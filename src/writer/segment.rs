//! One open segment: its file, its buffer, and what its marks count.
//!
//! Owns the bytes from the header to the `end`. After a failed write it is closed for good: cut to
//! its last whole line, and the lines that are not on disk are handed back for the next one.

use std::io::{self, BufWriter, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, UnixNs};
use crate::stats::SegmentProgress;
use crate::storage::{Appender, Storage, StorageFile};
use crate::syncer::GROWN_BYTES;
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::{Kind, Line, Stamp};
use crate::tape::name::{Form, SegmentName};
use crate::tape::{EVENT_LINE_BYTES_MAX, MARK_BYTES};

/// Blocks of this size and more go to the file as they are; smaller ones gather in a buffer of so
/// many bytes, which is there only while something is in it: of 256 quiet feeds few have one.
pub(crate) const SEGMENT_BUFFER_BYTES: usize = 8 << 10;
/// The longest mark or end: stamp, keys, two 20-digit numbers, checksum.
const MARK_LINE_BYTES_MAX: usize = 160;
/// Pieces in which a failed segment is read back.
const READ_BACK_BYTES: usize = 64 << 10;

/// Pieces that go to the file at once, at most.
pub const PIECES_MAX: usize = 8;

/// Whole lines on their way to a segment.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Their bytes; no more than [`PIECES_MAX`] pieces, each of whole lines.
    pub pieces: &'a [&'a [u8]],
    /// How many they are.
    pub lines: u64,
    /// Stamp of the first.
    pub first_ts: UnixNs,
    /// Stamp of the last.
    pub last_ts: UnixNs,
    /// The connection open at the first.
    pub conn: Option<u64>,
}

/// A segment being written.
pub struct Segment {
    name: SegmentName,
    /// Index of the header.
    first_index: u64,
    file: Arc<dyn StorageFile>,
    /// None: all that was taken is with the kernel.
    out: Option<BufWriter<Appender>>,
    progress: Arc<SegmentProgress>,
    /// Lines and bytes that `out` took, and the checksum since the last mark's line.
    lines: u64,
    bytes: u64,
    crc: u32,
    /// Where the last two marks' lines begin; 0 is the start of the file.
    marks: [u64; 2],
    last_ts: UnixNs,
    created_at: Mono,
    appended_at: Mono,
    /// The syncer was told that so much of it is with the kernel.
    told: u64,
}

/// What is left of a segment that could not be written.
pub struct Abandoned {
    /// Whole lines that are not on disk, marks left out.
    pub carry: Vec<u8>,
    /// The index of the line after it. Where it has no `end`, two are left free for the
    /// `recovered` and the `end` that recovery will add.
    pub next_index: u64,
    /// What became of its `end`.
    pub end: AbandonedEnd,
    /// Lines lost because not even reading back worked; 1 at most.
    pub lines_lost: u64,
}

/// Whether a segment that was given up has its `end`.
pub enum AbandonedEnd {
    /// It has.
    Written,
    /// The disk did not take it; it may be tried again before the next segment begins.
    Missing(Unended),
    /// It can't have one: it stays open for recovery.
    Never,
}

/// A segment that was given up, cut to its whole lines, and lacks its `end`.
pub struct Unended {
    file: Arc<dyn StorageFile>,
    keep: u64,
    lines: u64,
    marks: [u64; 2],
    last_ts: UnixNs,
    /// The index after its `end`.
    pub next_index: u64,
}

impl Unended {
    /// Cuts it to its whole lines, and writes the `end`.
    ///
    /// # Errors
    /// Those of the disk; may be tried again.
    pub fn end(&self) -> io::Result<()> {
        end_after_cut(&*self.file, self.keep, self.lines, self.marks, self.last_ts)
    }
}

impl Segment {
    /// Creates the file, which must not be there. Nothing is written yet.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(
        storage: &dyn Storage,
        name: SegmentName,
        first_index: u64,
        now: Mono,
    ) -> io::Result<Segment> {
        let path = name.path(Form::Open);
        let file = match storage.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                storage.create_dirs(&name.folder())?;
                storage.create(&path)?
            }
            other => other?,
        };
        Ok(Segment {
            name,
            first_index,
            out: None,
            file,
            progress: Arc::default(),
            lines: 0,
            bytes: 0,
            crc: 0,
            marks: [0, 0],
            last_ts: 0,
            created_at: now,
            appended_at: now,
            told: 0,
        })
    }

    /// Its name.
    pub fn name(&self) -> &SegmentName {
        &self.name
    }

    /// Its path while it is open, relative to the recording.
    pub fn path(&self) -> PathBuf {
        self.name.path(Form::Open)
    }

    /// The file, for the syncer.
    pub fn file(&self) -> &Arc<dyn StorageFile> {
        &self.file
    }

    /// Whether its own sync failed.
    pub fn is_unsynced(&self) -> bool {
        self.progress.failed()
    }

    /// Whether a gap must stand before what comes next, so that it is closed: its own sync failed,
    /// or it is no new one and something else of the feed could not be synced.
    pub fn must_close(&self, unsynced: bool, now: Mono, retry_every: Duration) -> bool {
        // Not at once: where nothing can be synced each new segment would only be the next to fail.
        self.progress.failed() || unsynced && now.since(self.created_at) >= retry_every
    }

    /// The index of the next line.
    pub fn next_index(&self) -> u64 {
        self.first_index + self.lines
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stamp of the last line.
    pub fn last_ts(&self) -> UnixNs {
        self.last_ts
    }

    /// When something was last appended.
    pub fn appended_at(&self) -> Mono {
        self.appended_at
    }

    /// Appends whole lines, and a mark when it is time for one; `taken` tells how many of the
    /// bytes were taken, also where it fails.
    ///
    /// # Errors
    /// Those of the disk; then [`Segment::abandon`] it.
    pub fn append(&mut self, chunk: &Chunk<'_>, now: Mono, taken: &mut usize) -> io::Result<()> {
        debug_assert!(chunk.pieces.iter().all(|piece| piece.last() == Some(&b'\n')));
        self.take(chunk.pieces, taken)?;
        self.lines += chunk.lines;
        self.last_ts = chunk.last_ts;
        self.appended_at = now;
        if self.bytes - self.marks[1] >= MARK_BYTES {
            self.mark()?;
        }
        Ok(())
    }

    /// Small pieces gather in the buffer; large ones go past it, all in one call.
    fn take(&mut self, pieces: &[&[u8]], taken: &mut usize) -> io::Result<()> {
        *taken = 0;
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if total < SEGMENT_BUFFER_BYTES {
            for piece in pieces {
                self.out().write_all(piece)?;
                self.count(piece, taken);
            }
            return Ok(());
        }
        self.flush_out()?;
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut left = &mut slices[..pieces.len()];
        while !left.is_empty() {
            let bytes = match self.file.append_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut counted = 0;
            for slice in left.iter() {
                let part = slice.len().min(bytes - counted);
                self.count(&slice[..part], taken);
                counted += part;
            }
            IoSlice::advance_slices(&mut left, bytes);
        }
        Ok(())
    }

    fn out(&mut self) -> &mut BufWriter<Appender> {
        self.out.get_or_insert_with(|| {
            BufWriter::with_capacity(SEGMENT_BUFFER_BYTES, Appender(self.file.clone()))
        })
    }

    /// Hands what is buffered to the kernel, and drops the buffer. After an error it stays, with
    /// what the file did not take.
    fn flush_out(&mut self) -> io::Result<()> {
        if let Some(out) = &mut self.out {
            out.flush()?;
            self.out = None;
        }
        Ok(())
    }

    fn count(&mut self, bytes: &[u8], taken: &mut usize) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        *taken += bytes.len();
    }

    fn mark(&mut self) -> io::Result<()> {
        let at = self.bytes;
        let mut line = [0; MARK_LINE_BYTES_MAX];
        let len = mark_line(&Event::Mark(self.counts()), self.last_ts, &mut line)?;
        self.crc = 0;
        self.take(&[&line[..len]], &mut 0)?;
        self.lines += 1;
        self.marks = [self.marks[1], at];
        Ok(())
    }

    fn counts(&self) -> Counts {
        Counts { lines: self.lines, bytes: self.bytes, crc32c: Crc32c(self.crc) }
    }

    /// Hands what is buffered to the kernel.
    ///
    /// # Errors
    /// Those of the disk; then [`Segment::abandon`] it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.flush_out()?;
        self.progress.set_written(self.bytes);
        Ok(())
    }

    /// Whether so much of it is with the kernel that the syncer is to be told; true once each time.
    pub fn has_grown(&mut self) -> bool {
        let written = self.progress.written();
        let grown = written - self.told >= GROWN_BYTES;
        if grown {
            self.told = written;
        }
        grown
    }

    /// Writes the `end`, and all of it to the kernel. Then the segment is finished.
    ///
    /// # Errors
    /// Those of the disk; then [`Segment::abandon`] it.
    pub fn end(&mut self) -> io::Result<()> {
        let mut line = [0; MARK_LINE_BYTES_MAX];
        let len = mark_line(&Event::End(self.counts()), self.last_ts, &mut line)?;
        self.take(&[&line[..len]], &mut 0)?;
        self.lines += 1;
        self.flush()
    }

    /// Gives the segment up after an error: cuts it to its last whole line, ends it if the disk
    /// allows, and returns the lines that are not on disk. Of `chunk`, whose append failed, `taken`
    /// bytes were taken.
    pub fn abandon(self, chunk: &[u8], taken: usize) -> Abandoned {
        let Segment { file, out, first_index, lines, bytes, marks, last_ts, .. } = self;
        // A BufWriter that is dropped would write once more, so it is taken apart.
        let buffered = out.map(BufWriter::into_parts).map(|(_, buffered)| buffered);
        let buffered = buffered.and_then(Result::ok).unwrap_or_default();
        let on_disk = bytes - buffered.len() as u64;
        let (keep, torn, lines_lost) = match torn_line(&*file, on_disk) {
            Ok((keep, torn)) => (keep, torn, 0),
            Err(_) => (on_disk, Vec::new(), u64::from(on_disk > 0)),
        };
        let mut carry = torn;
        carry.extend_from_slice(&buffered);
        // `lines` counts whole appends; the one that failed may have been taken in part, and of
        // that part some may be on disk. An append that was taken whole failed at its mark.
        let (part, rest) = chunk.split_at(taken);
        let taken_lines = if rest.is_empty() { lines } else { lines + count_lines(part) };
        let lines_kept = taken_lines.saturating_sub(count_lines(&carry));
        carry.extend_from_slice(rest);
        // Only a mark or an end of which a part was taken has no end here.
        carry.truncate(memchr::memrchr(b'\n', &carry).map_or(0, |at| at + 1));
        if lines_lost > 0 {
            // The line that is torn on disk can't be put together again: its rest goes too.
            let first = memchr::memchr(b'\n', &carry).map_or(carry.len(), |at| at + 1);
            carry.drain(..first);
        }
        let carry = without_marks(carry);
        let next_index = first_index + lines_kept + 1;
        let unended = Unended { file, keep, lines: lines_kept, marks, last_ts, next_index };
        if lines_lost == 0 && unended.end().is_ok() {
            return Abandoned { carry, next_index, end: AbandonedEnd::Written, lines_lost };
        }
        // Recovery will cut it if this fails too.
        let _ = unended.file.truncate(keep);
        let end = match lines_lost {
            0 => AbandonedEnd::Missing(unended),
            _ => AbandonedEnd::Never,
        };
        Abandoned { carry, next_index: next_index + 1, end, lines_lost }
    }

    /// Removes a segment whose header could not be written.
    pub fn discard(self, storage: &dyn Storage) {
        let path = self.path();
        drop(self.out.map(BufWriter::into_parts));
        if let Err(error) = storage.remove(&path) {
            log::warn!("can't remove the empty segment '{}': {error}", path.display());
        }
    }
}

fn mark_line(event: &Event<'_>, ts: UnixNs, line: &mut [u8]) -> io::Result<usize> {
    let room = line.len();
    let mut out = &mut line[..];
    event.append_line(&Stamp::new(ts), &mut out)?;
    let left = out.len();
    Ok(room - left)
}

/// Where the last whole line ends, and the bytes after it.
fn torn_line(file: &dyn StorageFile, on_disk: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut tail = Vec::new();
    let mut from = on_disk;
    while from > 0 {
        let piece = (READ_BACK_BYTES as u64).min(from);
        from -= piece;
        let mut buf = vec![0; piece as usize];
        read_exact_at(file, from, &mut buf)?;
        if let Some(at) = memchr::memrchr(b'\n', &buf) {
            let mut torn = buf.split_off(at + 1);
            torn.extend_from_slice(&tail);
            return Ok((from + at as u64 + 1, torn));
        }
        buf.extend_from_slice(&tail);
        tail = buf;
    }
    Ok((0, tail))
}

fn read_exact_at(file: &dyn StorageFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => done += bytes,
        }
    }
    Ok(())
}

fn end_after_cut(
    file: &dyn StorageFile,
    keep: u64,
    lines: u64,
    marks: [u64; 2],
    last_ts: UnixNs,
) -> io::Result<()> {
    let from = *marks
        .iter()
        .rev()
        .find(|at| **at < keep)
        .ok_or_else(|| io::Error::other("nothing of the segment is on disk"))?;
    file.truncate(keep)?;
    let mut crc = 0;
    let mut last_line = Vec::new();
    let mut at = from;
    let mut buf = vec![0; READ_BACK_BYTES];
    while at < keep {
        let piece = buf.len().min((keep - at) as usize);
        read_exact_at(file, at, &mut buf[..piece])?;
        crc = crc32c::crc32c_append(crc, &buf[..piece]);
        keep_last_stamp(&mut last_line, &buf[..piece]);
        at += piece as u64;
    }
    // The last line may be of the append that failed: then `last_ts` is older.
    let ts = Line::parse(&last_line).map_or(last_ts, |line| line.ts);
    let mut line = [0; MARK_LINE_BYTES_MAX];
    let counts = Counts { lines, bytes: keep, crc32c: Crc32c(crc) };
    let len = mark_line(&Event::End(counts), ts, &mut line)?;
    let mut done = 0;
    while done < len {
        match file.append(&line[done..len])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => done += bytes,
        }
    }
    Ok(())
}

/// Keeps the first bytes of the last line seen so far, enough for its stamp and kind.
fn keep_last_stamp(last_line: &mut Vec<u8>, piece: &[u8]) {
    const ENOUGH: usize = 20;
    let body = piece.strip_suffix(b"\n").unwrap_or(piece);
    if let Some(at) = memchr::memrchr(b'\n', body) {
        last_line.clear();
        last_line.extend(body[at + 1..].iter().take(ENOUGH));
    } else if last_line.len() < ENOUGH {
        let room = ENOUGH - last_line.len();
        last_line.extend(body.iter().take(room));
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// The lines without marks, which count what stands in another segment, and headers.
fn without_marks(lines: Vec<u8>) -> Vec<u8> {
    let is_ours = |line: &[u8]| {
        line.len() < EVENT_LINE_BYTES_MAX
            && line.get(19..).is_some_and(|event| {
                [
                    &b"!{\"event\":\"mark\","[..],
                    b"!{\"event\":\"segment\",",
                    b"!{\"event\":\"end\",",
                ]
                .iter()
                .any(|start| event.starts_with(start))
            })
    };
    let mut kept = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if !is_ours(line) {
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// Number of lines, and the stamps of the first and the last.
pub(super) fn measure(lines: &[u8]) -> (u64, UnixNs, UnixNs) {
    let stamp = |line: Option<&[u8]>| {
        line.and_then(|line| Line::parse(line).ok()).map_or(0, |line| line.ts)
    };
    let body = lines.strip_suffix(b"\n").unwrap_or(lines);
    let is_lf = |byte: &u8| *byte == b'\n';
    let (first, last) = (body.split(is_lf).next(), body.rsplit(is_lf).next());
    (memchr::memchr_iter(b'\n', lines).count() as u64, stamp(first), stamp(last))
}

/// Messages among the lines, and their payload bytes.
pub(super) fn count_messages(lines: &[u8]) -> (u64, u64) {
    let (mut messages, mut bytes) = (0, 0);
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if let Ok(line) = Line::parse(line)
            && line.kind != Kind::Event
        {
            messages += 1;
            bytes += line.message_bytes() as u64;
        }
    }
    (messages, bytes)
}

/// What the syncer needs of a segment.
pub struct SegmentFile {
    /// Its name.
    pub name: SegmentName,
    /// Its file.
    pub file: Arc<dyn StorageFile>,
    /// How far it is written.
    pub progress: Arc<SegmentProgress>,
}

impl SegmentFile {
    /// Folder of the segment, relative to the recording.
    pub fn folder(&self) -> PathBuf {
        self.name.folder()
    }

    /// The two folders above it, down from the recording's own.
    pub fn parents(&self) -> [PathBuf; 2] {
        [PathBuf::new(), Path::new(&self.name.feed.folder()).to_path_buf()]
    }
}

impl From<&Segment> for SegmentFile {
    fn from(segment: &Segment) -> SegmentFile {
        SegmentFile {
            name: segment.name.clone(),
            file: segment.file.clone(),
            progress: segment.progress.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::{Fault, MemoryDisk};
    use crate::tape::name::FeedName;

    const FIRST_TS: UnixNs = 1_700_000_000_000_000_000;

    /// Lines with rising stamps, `bytes` or so in all.
    fn chunk(next: &mut u64, bytes: usize) -> (Vec<u8>, u64, UnixNs) {
        let (mut chunk, mut lines) = (Vec::new(), 0);
        while chunk.len() < bytes {
            *next += 1;
            lines += 1;
            let ts = FIRST_TS + *next;
            chunk.extend_from_slice(format!("{ts} message {next} {}\n", "x".repeat(80)).as_bytes());
        }
        (chunk, lines, FIRST_TS + *next)
    }

    /// Writes chunks of these sizes and the end. Operation `n` takes 100 bytes if it is `short`,
    /// and all fails from there until the segment is given up. Returns what was to be written,
    /// the file, and what is left of the segment; `None`: it went well.
    fn write(sizes: &[usize], n: u64, short: bool) -> Option<(Vec<u8>, Vec<u8>, Abandoned)> {
        let disk = MemoryDisk::new();
        let feed = FeedName::new("f").expect("a valid name");
        let name = SegmentName::new(&feed, 0, FIRST_TS);
        let path = name.path(Form::Open);
        let mut segment = Segment::create(&disk, name, 0, Mono(0)).expect("no fault yet");
        let (mut next, mut sent, mut failed) = (0, Vec::new(), None);
        let at = disk.operations() + n;
        if short {
            disk.fault_at(at, Fault::Short(100));
        }
        disk.fail_from(at + u64::from(short), io::ErrorKind::StorageFull);
        for size in sizes {
            let (chunk, lines, last_ts) = chunk(&mut next, *size);
            sent.extend_from_slice(&chunk);
            let mut taken = 0;
            let now = Mono(0);
            let pieces = [&chunk[..]];
            let whole = Chunk { pieces: &pieces, lines, first_ts: last_ts, last_ts, conn: None };
            if segment.append(&whole, now, &mut taken).is_err() {
                failed = Some((chunk, taken));
                break;
            }
        }
        if failed.is_none() && segment.end().is_err() {
            failed = Some((Vec::new(), 0));
        }
        let (chunk, taken) = failed?;
        disk.clear_faults();
        let abandoned = segment.abandon(&chunk, taken);
        Some((sent, disk.contents(&path).unwrap_or_default(), abandoned))
    }

    /// Found on a full disk: the `end` of a segment whose last append was taken in part counted
    /// too few lines, with a stamp before that of the last one.
    #[test]
    fn what_is_kept_and_what_is_carried_are_all_there_is() {
        let sizes = [300, 5000, 20_000, 60_000, 100, 1 << 20, 9000, 50];
        let mut given_up = 0;
        for (n, short) in (0..).flat_map(|n| [(n, false), (n, true)]) {
            let Some((sent, file, abandoned)) = write(&sizes, n, short) else {
                break;
            };
            given_up += 1;
            let lines: Vec<Line<'_>> = file
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| Line::parse(line).expect("whole lines"))
                .collect();
            let at = format!("operation {n}, short: {short}");
            assert!(lines.is_sorted_by_key(|line| line.ts), "{at}: stamps go back");
            let ended = matches!(abandoned.end, AbandonedEnd::Written);
            let free = if ended { 0 } else { 2 };
            assert_eq!(lines.len() as u64 + free, abandoned.next_index, "{at}");
            if ended {
                let end = lines.last().expect("an end");
                let counts: Counts = serde_json::from_slice(end.raw).expect("counts");
                assert_eq!(counts.lines + 1, lines.len() as u64, "{at}: the end's count");
            }
            let mut seen = without_marks(file.clone());
            seen.extend_from_slice(&abandoned.carry);
            assert!(seen == sent, "{at}: {} of {} bytes", seen.len(), sent.len());
        }
        assert!(given_up > 8, "only {given_up}");
    }
}
