//! The frames of a sealed file, checked against the format and against its seek table.
//!
//! Owns reading the seek table (zstd's seekable format: a skippable frame at the end that lists
//! the compressed and plain size of each frame). The table is compared while the frames go by and
//! read bit by bit, so that a wrong count costs no memory. Decodes nothing itself.

use std::io;
use std::sync::Arc;

use crate::storage::StorageFile;

/// Findings kept in words; further ones are counted.
const FINDINGS_MAX: usize = 100;

/// Magic number of the skippable frame that holds the seek table.
const TABLE_MAGIC: u32 = 0x184D_2A5E;
/// The last four bytes of a file with a seek table.
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;
/// Magic number and size before the table's entries.
const TABLE_HEADER_BYTES: u64 = 8;
/// Number of frames, descriptor and magic number after them.
const FOOTER_BYTES: u64 = 9;

/// One frame as it went by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where it begins in the file.
    pub at: u64,
    /// Its bytes in the file.
    pub compressed: u64,
    plain: u64,
    /// Magic number and frame header descriptor.
    head: [u8; 5],
    last_byte: Option<u8>,
}

impl Frame {
    pub(super) fn starting_at(at: u64) -> Frame {
        Frame { at, compressed: 0, plain: 0, head: [0; 5], last_byte: None }
    }

    /// Notes what the decoder took in and gave out.
    pub(super) fn record(&mut self, consumed: &[u8], produced: &[u8]) {
        let seen = usize::try_from(self.compressed).unwrap_or(usize::MAX);
        for (slot, byte) in self.head.iter_mut().skip(seen).zip(consumed) {
            *slot = *byte;
        }
        self.compressed += consumed.len() as u64;
        self.plain += produced.len() as u64;
        self.last_byte = produced.last().copied().or(self.last_byte);
    }

    fn magic(&self) -> u32 {
        let [a, b, c, d, _] = self.head;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Any of the sixteen magic numbers of skippable frames.
    fn is_skippable(&self) -> bool {
        self.magic() & 0xFFFF_FFF0 == 0x184D_2A50
    }

    /// Bit 2 of the frame header descriptor.
    fn has_checksum(&self) -> bool {
        self.head[4] & 0b100 != 0
    }
}

/// What is wrong with a sealed file's frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameReport {
    /// In words, at most 100.
    pub findings: Vec<String>,
    /// How many more there are.
    pub more: u64,
}

impl FrameReport {
    fn add(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

/// Compares frames with the seek table.
pub(super) struct FrameCheck {
    table: Option<SeekTable>,
    frames: u64,
    report: FrameReport,
}

impl FrameCheck {
    /// Looks for the seek table at the end of `file`, which has `file_bytes`.
    pub(super) fn new(file: Arc<dyn StorageFile>, file_bytes: u64) -> FrameCheck {
        let mut report = FrameReport::default();
        let table = match SeekTable::open(file, file_bytes) {
            Ok(table) => Some(table),
            Err(why) => {
                report.add(format!("no seek table at the end of the file: {why}"));
                None
            }
        };
        FrameCheck { table, frames: 0, report }
    }

    /// A frame is complete.
    pub(super) fn frame(&mut self, frame: &Frame) {
        let at = frame.at;
        if frame.is_skippable() {
            if self.table.as_ref().is_none_or(|table| table.at != at) {
                self.report.add(format!(
                    "a skippable frame at byte {at} of the file which is not the seek table"
                ));
            }
            return;
        }
        let number = self.frames;
        self.frames += 1;
        if !frame.has_checksum() {
            self.report.add(format!("frame {number} at byte {at} of the file has no checksum"));
        }
        if frame.last_byte.is_some_and(|byte| byte != b'\n') {
            self.report.add(format!("frame {number} at byte {at} of the file ends inside a line"));
        }
        let Some(table) = &self.table else { return };
        if number >= table.frames {
            return; // Told once, with the numbers, in `finish`.
        }
        match table.entry(number) {
            Ok(listed) => {
                let (compressed, plain) = (frame.compressed, frame.plain);
                if (u64::from(listed.0), u64::from(listed.1)) != (compressed, plain) {
                    self.report.add(format!(
                        "frame {number} at byte {at} of the file has {compressed} bytes, {plain} \
                         plain, the seek table says {} and {}",
                        listed.0, listed.1
                    ));
                }
            }
            Err(e) => self.report.add(format!("the seek table can't be read: {e}")),
        }
    }

    /// All frames have gone by.
    pub(super) fn finish(mut self) -> FrameReport {
        if let Some(table) = &self.table
            && table.frames != self.frames
        {
            let (seen, listed) = (self.frames, table.frames);
            self.report.add(format!("{seen} frames, the seek table lists {listed}"));
        }
        self.report
    }
}

/// A seek table on disk: of what it says nothing is kept, so that a wrong count costs no memory.
pub(crate) struct SeekTable {
    file: Arc<dyn StorageFile>,
    /// Where its frame begins.
    at: u64,
    entry_bytes: u64,
    frames: u64,
}

impl SeekTable {
    /// Looks for it at the end of `file`, which has `file_bytes`.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub(crate) fn open(file: Arc<dyn StorageFile>, file_bytes: u64) -> Result<SeekTable, String> {
        let short = || "the file is too short".to_string();
        let footer_at = file_bytes.checked_sub(FOOTER_BYTES).ok_or_else(short)?;
        let mut footer = [0u8; FOOTER_BYTES as usize];
        read_exact_at(&*file, &mut footer, footer_at).map_err(|e| e.to_string())?;
        let [n0, n1, n2, n3, descriptor, m0, m1, m2, m3] = footer;
        if u32::from_le_bytes([m0, m1, m2, m3]) != FOOTER_MAGIC {
            return Err("its magic number is missing".to_string());
        }
        if descriptor & 0b0111_1111 != 0 {
            return Err(format!("its descriptor is {descriptor:#04x}"));
        }
        let entry_bytes = if descriptor & 0b1000_0000 == 0 { 8 } else { 12 };
        let frames = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
        let content_bytes = frames * entry_bytes + FOOTER_BYTES;
        let at = file_bytes
            .checked_sub(content_bytes + TABLE_HEADER_BYTES)
            .ok_or_else(|| format!("it would list {frames} frames, the file is too short"))?;
        let (magic, size) = read_pair(&*file, at).map_err(|e| e.to_string())?;
        if magic != TABLE_MAGIC || u64::from(size) != content_bytes {
            return Err("its header is wrong".to_string());
        }
        Ok(SeekTable { file, at, entry_bytes, frames })
    }

    /// Where the last frame before the table begins; `None` where there is none, or it would begin
    /// before the file does.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn last_frame_at(&self) -> io::Result<Option<u64>> {
        let Some(last) = self.frames.checked_sub(1) else { return Ok(None) };
        let (compressed, _) = self.entry(last)?;
        Ok(self.at.checked_sub(u64::from(compressed)))
    }

    /// Compressed and plain bytes of frame `number`, which must be below `frames`.
    fn entry(&self, number: u64) -> io::Result<(u32, u32)> {
        assert!(number < self.frames, "the caller knows how many there are");
        read_pair(&*self.file, self.at + TABLE_HEADER_BYTES + number * self.entry_bytes)
    }
}

fn read_exact_at(file: &dyn StorageFile, buf: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(at + done as u64, &mut buf[done..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => done += bytes,
        }
    }
    Ok(())
}

fn read_pair(file: &dyn StorageFile, at: u64) -> io::Result<(u32, u32)> {
    let mut pair = [0u8; 8];
    read_exact_at(file, &mut pair, at)?;
    let [a, b, c, d, e, f, g, h] = pair;
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::name::Form;
    use crate::tape::reader::testing;
    use crate::tape::reader::{Purpose, Source};
    use std::io::Read;

    fn report(stored: &[u8]) -> FrameReport {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.zst");
        std::fs::write(&path, stored).unwrap();
        let mut source = Source::open(&path, Form::Zstd, Purpose::Verify).unwrap();
        let mut plain = Vec::new();
        source.read_to_end(&mut plain).unwrap();
        source.frame_report().unwrap()
    }

    fn check(stored: &[u8], expected: &[&str]) {
        let report = report(stored);
        assert_eq!(report.findings.len(), expected.len(), "{report:?}");
        for (got, expected) in report.findings.iter().zip(expected) {
            assert!(got.contains(expected), "'{got}' should say '{expected}'");
        }
    }

    const PLAIN: &[u8] = b"one\ntwo\nthree\nfour\n";

    #[test]
    fn a_table_made_by_another_hand_is_right() {
        check(&testing::seal(PLAIN, Form::Zstd, 8), &[]);
        check(&testing::seal(b"", Form::Zstd, 8), &[]);
    }

    #[test]
    fn every_wrong_table_is_found() {
        let stored = testing::seal(PLAIN, Form::Zstd, 8);
        let table_bytes = 2 * 8 + (TABLE_HEADER_BYTES + FOOTER_BYTES) as usize;
        let table_at = stored.len() - table_bytes;
        check(&stored[..table_at], &["no seek table"]);
        for at in table_at + TABLE_HEADER_BYTES as usize..stored.len() {
            for bit in 0..8 {
                let mut flipped = stored.clone();
                flipped[at] ^= 1 << bit;
                assert_ne!(report(&flipped).findings, [""; 0], "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn frames_must_be_as_the_format_says() {
        let mut table = zeekstd::SeekTable::new();
        let frame = zstd::bulk::compress(b"half a line", 1).unwrap();
        table.log_frame(frame.len() as u32, 11).unwrap();
        let stored = testing::with_table(frame, table);
        check(&stored, &["has no checksum", "ends inside a line"]);

        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7];
        skippable.extend(testing::seal(PLAIN, Form::Zstd, 8));
        check(&skippable, &["not the seek table"]);
    }

    #[test]
    fn findings_are_capped() {
        let mut report = FrameReport::default();
        for n in 0..250 {
            report.add(n.to_string());
        }
        assert_eq!((report.findings.len(), report.more), (100, 150));
    }
}
