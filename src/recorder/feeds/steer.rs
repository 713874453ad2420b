//! What an operator asks of feeds: to pause, to go on, to connect anew.
//!
//! Owns which feeds that concerns, and why it can't be done. A feed that is paused stays so until
//! it is told to go on: through reloads, and where its thread fails and is started again.

use super::{Feeds, State};
use crate::admin::order::Refusal;
use crate::block::FeedId;
use crate::feed::session::Ask;
use crate::feed::{Command, FeedEnd};
use crate::stats::Phase;
use crate::tape::name::FeedName;

impl Feeds {
    /// Pauses a feed, or all, and those that come later; which ones that are.
    ///
    /// # Errors
    /// There is no such feed, or it has ended.
    pub(in super::super) fn pause(
        &mut self,
        name: Option<&FeedName>,
    ) -> Result<Vec<FeedId>, Refusal> {
        let ids = self.meant(name)?;
        self.all_paused |= name.is_none();
        for id in &ids {
            self.slots[*id].paused = true;
            self.tell(*id, Command::Ask(Ask::Pause));
        }
        self.shop.stats.paused.set(u64::from(self.all_paused));
        Ok(ids)
    }

    /// Lets a feed go on, or all; how many were paused.
    ///
    /// # Errors
    /// There is no such feed, or it has ended.
    pub(in super::super) fn unpause(&mut self, name: Option<&FeedName>) -> Result<usize, Refusal> {
        let ids = self.meant(name)?;
        self.all_paused = false;
        let mut resumed = 0;
        for id in ids {
            resumed += usize::from(std::mem::take(&mut self.slots[id].paused));
            self.tell(id, Command::Ask(Ask::Resume));
        }
        self.shop.stats.paused.set(0);
        Ok(resumed)
    }

    /// Closes a feed's connection, and connects again at once; polls at once, where it is polled.
    ///
    /// # Errors
    /// There is no such feed, it has ended, or it is paused.
    pub(in super::super) fn reconnect(&mut self, name: &FeedName) -> Result<(), Refusal> {
        let ids = self.meant(Some(name))?;
        if ids.iter().any(|id| self.slots[*id].paused) {
            return Err(Refusal::Conflict(format!("{name} is paused: resume it")));
        }
        ids.into_iter().for_each(|id| self.tell(id, Command::Ask(Ask::Reconnect)));
        Ok(())
    }

    /// Names of those that were told to pause and have not yet, as far as their threads run.
    pub(in super::super) fn still_pausing(&self, ids: &[FeedId]) -> Vec<FeedName> {
        let slots = ids.iter().map(|id| &self.slots[*id]);
        let open = slots.filter(|slot| {
            slot.paused
                && matches!(slot.state, State::Running { .. })
                && slot.view.stats.phase.get() != Phase::Paused
        });
        open.map(|slot| slot.view.name.clone()).collect()
    }

    /// Feeds that are wanted and paused.
    pub(in super::super) fn paused(&self) -> usize {
        self.slots.iter().filter(|slot| slot.paused && slot.wanted.is_some()).count()
    }

    /// The feed of this name, or all; none of those that have ended.
    fn meant(&self, name: Option<&FeedName>) -> Result<Vec<FeedId>, Refusal> {
        let wanted = |id: &FeedId| {
            let slot = &self.slots[*id];
            slot.wanted.is_some() && name.is_none_or(|name| slot.view.name == *name)
        };
        let ids: Vec<FeedId> = (0..self.slots.len()).filter(wanted).collect();
        let alive = |id: &FeedId| match &self.slots[*id].state {
            State::Ended { end, .. } => *end == FeedEnd::Stopped,
            State::Running { .. } | State::Failed { .. } => true,
        };
        let alive: Vec<FeedId> = ids.iter().copied().filter(alive).collect();
        match name {
            Some(name) if ids.is_empty() => {
                Err(Refusal::NotFound(format!("no feed '{name}' is recorded")))
            }
            Some(name) if alive.is_empty() => {
                Err(Refusal::Conflict(format!("{name} has ended: a reload may start it again")))
            }
            _ => Ok(alive),
        }
    }
}
