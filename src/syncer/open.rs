//! A segment in the syncer's hands: how far it is on the disk, and what is done where the disk
//! refuses it.
//!
//! Owns the order of syncing, forgetting and writing again. What is written again is what the
//! kernel still has; that this was the right thing is seen by the segment's marks in the end.

use std::io;

use crate::clock::UnixNs;
use crate::recovery;
use crate::storage::WriteBehind;
use crate::tape::line::Line;
use crate::writer::segment::SegmentFile;

/// So far back the last line is looked for.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What came of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// All is durable.
    Done,
    /// It is not, and may be tried again.
    Failed,
    /// It is not, and nothing can be done about it in this run.
    Lost,
}

/// A segment that is written, or was.
pub(super) struct Open {
    pub(super) segment: SegmentFile,
    /// Up to here all is durable.
    pub(super) synced: u64,
    /// Up to here the disk took all, as far as it said, and no sync followed.
    taken: u64,
    /// Where nothing is synced while it is open.
    behind: WriteBehind,
    /// Nothing is written to it any more.
    pub(super) is_finished: bool,
    /// What it holds could not be handed to the kernel again.
    pub(super) is_lost: bool,
}

impl Open {
    pub(super) fn new(segment: SegmentFile) -> Open {
        let behind = WriteBehind::default();
        Open { segment, synced: 0, taken: 0, behind, is_finished: false, is_lost: false }
    }

    /// Bytes that a power cut may take.
    pub(super) fn unsynced(&self) -> u64 {
        self.segment.progress.written() - self.synced
    }

    /// Makes all of it durable, and has the kernel forget it.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let written = self.segment.progress.written();
        self.segment.file.sync()?;
        // From the start: the page in which the last sync ended was not whole then.
        self.segment.file.drop_cache(0, written);
        self.synced = written;
        self.taken = written;
        Ok(())
    }

    /// Has the kernel write what is new, and forget what it was asked to write before. An error is
    /// that of the disk: it did not take all of that.
    pub(super) fn write_behind(&mut self) -> io::Result<()> {
        let begun = self.behind.begun();
        if begun > self.taken {
            self.segment.file.finish_writing(self.taken, begun - self.taken)?;
            self.taken = begun;
        }
        self.behind.step(&*self.segment.file, self.segment.progress.written());
        Ok(())
    }

    /// After an error: hands the kernel again what the disk may not have taken.
    pub(super) fn write_again(&mut self) -> io::Result<()> {
        self.behind.back_to(self.taken);
        let to = if self.is_finished {
            // One that was cut got its end past what the writer says.
            self.segment.file.bytes()?
        } else {
            self.segment.progress.written()
        };
        self.segment.file.write_again(self.taken.min(to), to)
    }

    /// Whether all that its marks and its `end` count is there.
    pub(super) fn is_whole(&self) -> bool {
        recovery::is_whole(&*self.segment.file).unwrap_or(false)
    }

    /// Stamp of the last line that is durable; `None` where there is none, or it is too long.
    pub(super) fn synced_until(&self) -> Option<UnixNs> {
        let from = self.synced.saturating_sub(LINE_BYTES_MAX);
        let mut buf = vec![0; (self.synced - from) as usize];
        let read = self.segment.file.read_at(from, &mut buf).ok()?;
        let lines = buf[..read].strip_suffix(b"\n").filter(|_| read == buf.len())?;
        let at = memchr::memrchr(b'\n', lines)?;
        Line::parse(&lines[at + 1..]).ok().map(|line| line.ts)
    }
}
