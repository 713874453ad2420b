//! What the writer does when the disk does not take what it should: it gives the segment up, waits,
//! tries again on a new one, and counts what is lost in the end.

use std::io;

use crossbeam_channel::RecvTimeoutError;

use super::segment::{Abandoned, AbandonedEnd, Chunk, count_messages, measure};
use super::{Stall, Tried, Writer};
use crate::block::FeedId;
use crate::clock::{self, mono_now};
use crate::stats::GapNote;
use crate::storage;
use crate::syncer::SyncItem;
use crate::tape::event::{Event, GapReason};
use crate::tape::line::Stamp;
use crate::units::format_size;

impl Writer {
    /// After an error: the segment is closed for good. Returns the lines that are not on disk.
    pub(super) fn give_segment_up(
        &mut self,
        feed: FeedId,
        error: &io::Error,
        tried: Tried,
        bytes: &[u8],
    ) -> Vec<u8> {
        let name = self.tapes[feed].name.clone();
        let errno = error.raw_os_error();
        if self.stall.is_none_or(|stall| stall.errno != errno) {
            log::error!(
                "{name}: can't write to the tape: {}; tried again every {} s",
                storage::explain(&*self.storage, error),
                self.options.retry_every.as_secs()
            );
        }
        self.stall = Some(Stall { errno, ..self.stall_now() });
        self.dirty.retain(|dirty| *dirty != feed);
        let taken = match tried {
            Tried::Open => return bytes.to_vec(),
            Tried::Append { taken } => taken,
        };
        let Some(segment) = self.open[feed].take() else {
            return bytes.to_vec();
        };
        let last_ts = segment.last_ts();
        let Abandoned { mut carry, next_index, end, lines_lost } = segment.abandon(bytes, taken);
        if lines_lost > 0 {
            self.tapes[feed].stats.gaps.count(GapReason::Disk, lines_lost, 0);
            log::error!("{name}: {lines_lost} line could not be read back and is lost");
            let to_ts = clock::wall_now();
            let gap = Event::Gap {
                reason: GapReason::Disk,
                messages: Some(lines_lost),
                bytes: None,
                from_ts: Some(last_ts),
                to_ts,
            };
            self.stats.gap_log.note(GapNote {
                feed: self.tapes[feed].stats.number.get(),
                reason: GapReason::Disk,
                from_ts: Some(last_ts),
                to_ts,
                messages: Some(lines_lost),
            });
            carry.splice(..0, gap.to_line(&Stamp::new(last_ts)));
        }
        self.tapes[feed].next_index = next_index;
        match end {
            AbandonedEnd::Written => self.tell_syncer(SyncItem::Finished { feed, next_index }),
            AbandonedEnd::Missing(unended) => self.unended[feed] = Some(unended),
            AbandonedEnd::Never => self.tell_syncer(SyncItem::Abandoned { feed }),
        }
        carry
    }

    /// Tries again to end the segment that was given up, before the next one begins.
    pub(super) fn end_given_up(&mut self, feed: FeedId) {
        if let Some(unended) = &self.unended[feed]
            && unended.end().is_ok()
        {
            let next_index = unended.next_index;
            self.unended[feed] = None;
            self.tapes[feed].next_index = next_index;
            self.tell_syncer(SyncItem::Finished { feed, next_index });
        }
    }

    /// The next segment has begun, or none will: the one that was given up is left to recovery.
    pub(super) fn leave_given_up(&mut self, feed: FeedId) {
        if self.unended[feed].take().is_some() {
            self.tell_syncer(SyncItem::Abandoned { feed });
        }
    }

    /// What a flush or an `end` could not write.
    pub(super) fn rescue(&mut self, feed: FeedId, error: &io::Error) {
        let carry = self.give_segment_up(feed, error, Tried::Append { taken: 0 }, &[]);
        self.write_carried(feed, carry, None);
    }

    /// Lines that a failed segment did not take go to a new one.
    pub(super) fn write_carried(&mut self, feed: FeedId, mut carry: Vec<u8>, conn: Option<u64>) {
        while !carry.is_empty() {
            if !self.wait_for_disk() {
                self.count_lost(feed, &carry);
                return;
            }
            let (lines, first_ts, last_ts) = measure(&carry);
            let chunk = Chunk { pieces: &[&carry], lines, first_ts, last_ts, conn };
            match self.try_write(feed, &chunk) {
                Ok(()) => return,
                Err((error, tried)) => {
                    carry = self.give_segment_up(feed, &error, tried, &carry);
                }
            }
        }
    }

    /// Waits until it is time to try again; `false`: the recorder ends, give up.
    pub(super) fn wait_for_disk(&mut self) -> bool {
        if self.gave_up {
            return false;
        }
        self.stats.disk_stalled.set(1);
        self.note_idle();
        self.stall = Some(self.stall_now());
        match self.give_up.recv_timeout(self.options.retry_every) {
            Err(RecvTimeoutError::Timeout) => {
                self.note_busy();
                true
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                self.gave_up = true;
                false
            }
        }
    }

    pub(super) fn stall_now(&self) -> Stall {
        self.stall.unwrap_or_else(|| Stall { since: mono_now(), errno: None })
    }

    /// Waits until more than `--min-free` is free; `false`: the recorder ends, give up.
    pub(super) fn wait_for_space(&mut self) -> bool {
        while self.space_is_low {
            if !self.wait_for_disk() {
                return false;
            }
            self.look_at_free_space();
        }
        true
    }

    pub(super) fn look_at_free_space(&mut self) {
        let min_free = self.options.min_free;
        if min_free == 0 {
            return;
        }
        let was_low = self.space_is_low;
        match self.storage.free_bytes() {
            Ok(free) => {
                self.stats.disk_free_bytes.set(free);
                self.space_is_low = free < min_free;
                if self.space_is_low && !was_low {
                    log::error!(
                        "the disk is nearly full: {} free, less than --min-free {}; nothing is \
                         written until there is more",
                        format_size(free),
                        format_size(min_free)
                    );
                }
            }
            // Writing will tell what is wrong.
            Err(error) => log::debug!("can't see how much of the disk is free: {error}"),
        }
        if was_low && !self.space_is_low {
            log::warn!("the disk has room again");
        }
    }

    pub(super) fn count_lost(&mut self, feed: FeedId, lines: &[u8]) {
        let (messages, bytes) = count_messages(lines);
        let lost = &mut self.lost[feed];
        *lost = (lost.0 + messages, lost.1 + bytes);
    }

    /// What could not be written in the end: no gap on the tape tells of it, but the report does.
    pub(super) fn report_lost(&self) {
        for (tape, (messages, bytes)) in self.tapes.iter().zip(&self.lost) {
            if *messages > 0 {
                tape.stats.gaps.count(GapReason::Disk, *messages, *bytes);
                log::error!("{}: {messages} messages are lost: the disk takes nothing", tape.name);
            }
        }
    }
}
