//! The counters of all feeds, with their names.
//!
//! Owns the list, which grows as feeds come; nobody is ever taken off it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::FeedStats;
use crate::tape::name::FeedName;

/// Figures of one feed, for reports and displays.
#[derive(Clone)]
pub struct FeedView {
    /// The feed.
    pub name: FeedName,
    /// Its counters.
    pub stats: Arc<FeedStats>,
}

/// The figures of all feeds, of those that come later too. Clones share them.
#[derive(Clone, Default)]
pub struct Views(Arc<Mutex<Vec<FeedView>>>);

impl Views {
    /// One more.
    pub fn push(&self, view: FeedView) {
        self.lock().push(view);
    }

    /// All there are now.
    pub fn all(&self) -> Vec<FeedView> {
        self.lock().clone()
    }

    /// That of a feed.
    pub fn find(&self, name: &FeedName) -> Option<FeedView> {
        self.lock().iter().find(|view| view.name == *name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<FeedView>> {
        // Whoever panicked left a whole list.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
