//! A segment in the syncer's hands: how far it is on the disk, and what is done where the disk
//! refuses it.
//!
//! Owns the order of syncing and forgetting, and the copy that is made of what could not be synced:
//! to write it again in its place does not help, for a file system that failed to write a block for
//! the first time may show zeroes there for ever (ext4 does). That the copy is right is seen by the
//! segment's marks.

use std::io;
use std::sync::Arc;

use crate::block::{Loan, Pool};
use crate::clock::UnixNs;
use crate::recovery::{append_all, is_whole, put_copy, read_up_to};
use crate::storage::{Appender, Storage, StorageFile, WriteBehind};
use crate::tape::line::Line;
use crate::writer::segment::SegmentFile;

/// So far back the last line is looked for.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Bytes that are on no disk.
struct Held {
    bytes: Vec<u8>,
    #[expect(dead_code, reason = "given back when it is dropped")]
    loan: Loan,
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
    /// What stands behind [`Open::synced`], where the disk refuses it.
    held: Option<Held>,
}

impl Open {
    pub(super) fn new(segment: SegmentFile) -> Open {
        Open { segment, synced: 0, taken: 0, behind: WriteBehind::default(), held: None }
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

    /// Holds what is not durable of the finished segment, in memory that the pool lends, if it
    /// does.
    pub(super) fn hold(&mut self, pool: &Arc<Pool>) {
        let file = &self.segment.file;
        let unsynced = file.bytes().map(|bytes| bytes.saturating_sub(self.synced) as usize);
        if let Ok(unsynced @ 1..) = unsynced
            && let Some(loan) = pool.lend(unsynced)
        {
            let mut bytes = vec![0; unsynced];
            let read = read_up_to(&**file, self.synced, &mut bytes);
            self.held = read.is_ok_and(|read| read == unsynced).then_some(Held { bytes, loan });
        }
    }

    /// Puts a copy of the finished segment, made durable, in its place. What the kernel could not
    /// write can still be read, until it is forgotten, or is held.
    ///
    /// # Errors
    /// Those of the disk: may be tried again. `InvalidData`: some of it is forgotten already.
    pub(super) fn save(&mut self, storage: &dyn Storage) -> io::Result<()> {
        let copy = put_copy(storage, &self.segment.name, &mut |copy| {
            self.copy_to(copy)?;
            if is_whole(&**copy)? { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        })?;
        copy.drop_cache(0, 0);
        self.segment.file = copy;
        self.held = None;
        Ok(())
    }

    fn copy_to(&self, copy: &Arc<dyn StorageFile>) -> io::Result<()> {
        let file = &*self.segment.file;
        let Some(held) = &self.held else { return append_all(file, 0..u64::MAX, copy) };
        append_all(file, 0..self.synced, copy)?;
        io::Write::write_all(&mut Appender(copy.clone()), &held.bytes)
    }

    /// Stamp of the last line that is durable; `None` where there is none, or it is too long.
    pub(super) fn synced_until(&self) -> Option<UnixNs> {
        let from = self.synced.saturating_sub(LINE_BYTES_MAX);
        let mut buf = vec![0; (self.synced - from) as usize];
        let read = self.segment.file.read_at(from, &mut buf).ok()?;
        let lines = buf[..read].strip_suffix(b"\n").filter(|_| read == buf.len())?;
        let is_all = from == 0;
        let before = memchr::memrchr(b'\n', lines).map(|at| at + 1);
        let at = before.or(is_all.then_some(0))?;
        Line::parse(&lines[at..]).ok().map(|line| line.ts)
    }
}
