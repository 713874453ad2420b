//! What becomes of a segment that the disk refused: it is copied until the disk takes it.
//!
//! Owns when that is tried, its bounds, and what the log says of it. How a copy is made is in
//! `open`.

use std::io;
use std::time::Duration;

use super::Syncer;
use super::open::Open;
use crate::block::FeedId;
use crate::clock::mono_now;
use crate::storage;
use crate::tape::name::Form;
use crate::units::format_size;

/// Finished segments that could not be synced and are tried again; more of them, or one that is
/// larger, wait for the next start.
const UNSYNCED_MAX: usize = 256;
const UNSYNCED_BYTES_MAX: u64 = 512 << 20;
/// A segment that could not be copied is tried again after this, and twice as long each time, up
/// to the longest.
pub(super) const SAVE_AFTER_MIN: Duration = Duration::from_secs(1);
const SAVE_AFTER_MAX: Duration = Duration::from_secs(10);
/// Of syncs that fail so many are told one by one.
pub(super) const FAILURES_LOGGED_SINGLY: u64 = 8;
/// Failures are over where none came for so long.
const STEADY_AFTER: Duration = Duration::from_mins(1);

impl Syncer {
    /// The disk did not take all of a segment: a hole.
    pub(super) fn failed(&mut self, feed: FeedId, open: &Open, error: &io::Error) {
        open.segment.progress.set_failed();
        self.stats[&feed].sync_failed(open.synced_until());
        let now = mono_now();
        self.failures.over_after(now, STEADY_AFTER);
        let Some(untold) = self.failures.worse(now, &error.to_string()) else { return };
        log::error!(
            feed = open.segment.name.feed.as_str();
            "can't sync '{}': {}; it is closed for good, and copied until the disk takes it; until \
             then a power cut may take up to {} of it{untold}",
            open.segment.name.path(Form::Open).display(),
            storage::explain(&*self.storage, error),
            format_size(open.unsynced())
        );
    }

    /// Remembers a finished segment that the disk refused.
    pub(super) fn keep_unsynced(&mut self, feed: FeedId, mut open: Open) {
        if self.unsynced.len() == UNSYNCED_MAX || open.unsynced() > UNSYNCED_BYTES_MAX {
            return self.leave_unsynced(&open, "too much can't be synced");
        }
        open.hold(&self.pool);
        self.unsynced.push_back((feed, open));
        self.save_at.get_or_insert(mono_now());
    }

    /// Puts copies of the finished segments that could not be synced in their places, until the
    /// disk refuses one: then it is that one's turn again after the others.
    pub(crate) fn save_unsynced(&mut self) {
        self.save_at = None;
        let mut saved = 0_u64;
        while let Some((feed, mut open)) = self.unsynced.pop_front() {
            match open.save(&*self.storage) {
                Ok(()) => {
                    saved += 1;
                    self.folder_is_dirty(feed, open.segment.folder());
                    self.name(feed, open.segment.name);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.leave_unsynced(&open, "what the disk refused is gone from memory too");
                }
                Err(_) => {
                    self.unsynced.push_back((feed, open));
                    self.save_at = Some(mono_now().after(self.save_after));
                    self.save_after = (2 * self.save_after).min(SAVE_AFTER_MAX);
                    break;
                }
            }
        }
        if saved > 0 {
            self.save_after = SAVE_AFTER_MIN;
            let left = self.unsynced.len();
            if self.failures.better(mono_now()) || left == 0 {
                log::info!(
                    "{saved} segments that could not be synced are on the disk after all; {left} \
                     are not yet"
                );
            }
        }
    }

    /// Leaves a segment open: the next start looks what there is of it.
    pub(super) fn leave_unsynced(&mut self, open: &Open, why: &str) {
        if let Some(untold) = self.left.worse(mono_now(), why) {
            let name = &open.segment.name;
            log::error!(
                feed = name.feed.as_str();
                "{why}: '{}' stays open, and the next start saves what there is of it{untold}",
                name.path(Form::Open).display()
            );
        }
    }
}
