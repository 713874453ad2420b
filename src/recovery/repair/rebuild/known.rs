//! What the earlier walks over a damaged segment found: each walk writes the new file from its
//! first byte, so that what is known only behind a place can stand in it.
//!
//! Owns what is learnt from a walk, and when no further one is needed. Each is a fact about the
//! old bytes which the next walks leave as it is, so that there are at most five.

use super::Rebuild;
use crate::clock::UnixNs;
use crate::recovery::repair::{Around, Lost, RepairError};

/// Intervals between marks of which something is remembered, so that memory does not depend on
/// the file. Of further ones it is forgotten: they are kept up to their first wrong line, and
/// their gaps have no counts.
const NOTED_MAX: usize = 1 << 14;

/// What a header is that does not fit the segment's name and neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderIs {
    /// As it was written, until a mark says that it is not: somebody renamed the file.
    Believed,
    /// Damaged.
    Wrong,
}

/// The lines that are lost between two marks that were believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// How many marks were believed before.
    pub marks: u64,
    pub lost: Lost,
}

/// The findings so far.
#[derive(Debug, Clone)]
pub(in crate::recovery::repair) struct Known {
    pub(super) header: HeaderIs,
    /// Index of the header, where it had to be found out.
    pub(super) first_index: Option<u64>,
    /// It is the least that it can be: lines of the segment before are lost, nobody knows how many.
    pub(super) is_index_least: bool,
    /// Intervals of a plain segment that hold lines that are none, and whose mark is wrong. By the
    /// number of marks before, rising.
    pub(super) wrong: Vec<u64>,
    /// What is lost, where that is known already. By the number of marks, rising.
    pub(super) told: Option<Vec<Told>>,
    /// Stamp of the first line that is kept.
    pub(super) first_ts: Option<UnixNs>,
}

impl Known {
    /// Before the first walk.
    pub(in crate::recovery::repair) fn new(around: &Around) -> Known {
        Known {
            header: HeaderIs::Believed,
            first_index: around.first_index,
            is_index_least: false,
            wrong: Vec::new(),
            told: None,
            first_ts: None,
        }
    }

    /// Whether what is lost in the interval of this number is told, and what that is.
    pub(super) fn lost(&self, marks: u64) -> Option<Lost> {
        let told = self.told.as_ref()?;
        let at = told.binary_search_by_key(&marks, |told| told.marks).ok()?;
        Some(told[at].lost)
    }
}

/// Adds to what is remembered of intervals, while there is room.
pub(super) fn note<T>(noted: &mut Vec<T>, one: T) {
    if noted.len() < NOTED_MAX {
        noted.push(one);
    }
}

impl Rebuild<'_> {
    /// What the next walk has to know that this one, which is finished, did not; `None` where the
    /// new file is as it must be.
    ///
    /// # Errors
    /// [`RepairError::FirstIndex`].
    pub(in crate::recovery::repair) fn learn(self) -> Result<Option<Known>, RepairError> {
        let is_wrong = self.is_header_doubtful && self.known.header == HeaderIs::Believed;
        let needs_index = self.repaired.is_header_new && self.known.first_index.is_none();
        let mut known = self.known;
        if is_wrong {
            known.header = HeaderIs::Wrong;
        } else if needs_index {
            let own = if self.has_ended { self.old_lines } else { None };
            let lines = own.and_then(|lines| lines.checked_add(1));
            let exact = lines.and_then(|lines| self.around.next_index?.checked_sub(lines));
            let first = exact.or(self.around.first_index_least);
            known.first_index = Some(first.ok_or(RepairError::FirstIndex)?);
            known.is_index_least = exact.is_none();
        } else if known.wrong.is_empty() && !self.wrong.is_empty() {
            known.wrong = self.wrong;
        } else if known.told.is_none() && (!self.told.is_empty() || self.repaired.is_header_new) {
            known.told = Some(self.told);
            known.first_ts = self.kept.first_ts;
        } else {
            return Ok(None);
        }
        Ok(Some(known))
    }
}
