//! Holes: what is counted of them, and the gap that stands in the place of each.
//!
//! Owns how many lines are lost between two marks that are believed, and what a gap says of it.

use std::io;

use super::known::{Told, note};
use super::{Kept, Rebuild};
use crate::clock::UnixNs;
use crate::recovery::repair::{LOST_MAX, Lost};
use crate::tape::event::{Event, GapReason};

impl Rebuild<'_> {
    /// All after `place` is lost.
    pub(super) fn lose(&mut self, place: Kept) -> io::Result<()> {
        self.roll_back(place)?;
        self.repaired.is_changed = true;
        if !std::mem::replace(&mut self.kept.is_gap_due, true) {
            if self.kept.holes == 0 {
                self.kept.since_before_hole = self.kept.since;
            }
            self.kept.holes += 1;
        }
        Ok(())
    }

    /// Counts what is lost up to a place before which the old one had `lines`, where that is
    /// known.
    pub(super) fn settle(&mut self, lines: Option<u64>) {
        let kept = self.old.base.saturating_add(self.kept.since);
        let lost = lines.and_then(|lines| lines.checked_sub(kept));
        let is_hole = self.kept.holes > 0;
        if !is_hole && lost.is_none_or(|lost| lost == 0) {
            return;
        }
        // Lines that merged are no lines that are wrong in themselves.
        let before = if is_hole { self.kept.since_before_hole } else { self.kept.since };
        let first = self.first_index.saturating_add(self.old.base).saturating_add(before);
        let until = self.first_index.saturating_add(lines.unwrap_or(0));
        let lost = Lost { first, lines: lost, places: self.kept.holes, until };
        note(&mut self.told, Told { marks: self.marks_believed, lost });
        if lost.lines == Some(0) {
            // Bytes were damaged that held no line.
            self.kept.is_gap_due = false;
            return;
        }
        self.kept.is_gap_due |= !is_hole;
        self.repaired.lines_lost = self.repaired.lines_lost.saturating_add(lost.lines.unwrap_or(0));
        self.repaired.is_more_lost |= lost.lines.is_none();
        if self.repaired.lost.len() < LOST_MAX {
            self.repaired.lost.push(lost);
        }
    }

    /// Puts a gap where one is due; from `to_ts` on, where that is known, there are lines again.
    pub(super) fn say_gap(&mut self, to_ts: Option<UnixNs>) -> io::Result<()> {
        if !std::mem::take(&mut self.kept.is_gap_due) {
            return Ok(());
        }
        let told = self.known.lost(self.marks_believed);
        if told.is_some_and(|lost| lost.lines == Some(0)) {
            return Ok(());
        }
        // What is lost in several places is known in all only: the first gap says it.
        let told = told.filter(|_| self.kept.gaps == 0);
        // The stamp of a header that was made anew is not of a line that was recorded.
        let is_own = self.kept.first_ts.is_some() || !self.repaired.is_header_new;
        let from_ts = if is_own { Some(self.kept.last_ts) } else { self.around.last_ts };
        let to_ts = to_ts.map(|ts| ts.max(self.kept.last_ts));
        self.put(&Event::LinesLost {
            reason: GapReason::Disk,
            messages: (),
            bytes: (),
            from_ts: from_ts.map(|from| to_ts.map_or(from, |to| from.min(to))),
            to_ts,
            first_index: told.filter(|_| !self.known.is_index_least).map(|lost| lost.first),
            lines: told.and_then(|lost| lost.lines),
            places: told.map(|lost| lost.places).filter(|places| *places > 1),
        })?;
        self.kept.gaps += 1;
        Ok(())
    }
}
