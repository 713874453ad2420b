//! Which feed a thread works for, and on which connection: for lines of the log that are written
//! deep inside, and for panics.
//!
//! Owns a note of the thread itself. Nothing is decided by it.

use std::cell::RefCell;

use crate::tape::name::FeedName;

/// Whom a line of the log is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The feed.
    pub feed: FeedName,
    /// Its connection; `None` before the first one, and for a feed that is polled.
    pub conn: Option<u64>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The calling thread works for this feed from now on.
pub(super) fn begin(feed: &FeedName) {
    CURRENT.with_borrow_mut(|current| *current = Some(Current { feed: feed.clone(), conn: None }));
}

/// It works on this connection from now on.
pub(super) fn set_conn(conn: u64) {
    CURRENT.with_borrow_mut(|current| {
        if let Some(current) = current {
            current.conn = Some(conn);
        }
    });
}

/// What the calling thread works for; `None` where it is no feed's.
pub fn of_this_thread() -> Option<Current> {
    // Gone already while the thread ends.
    CURRENT.try_with(|current| current.try_borrow().ok()?.clone()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_the_thread_itself() {
        assert_eq!(of_this_thread(), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                set_conn(1);
                assert_eq!(of_this_thread(), None, "no feed's thread has no connection");
                let feed = FeedName::new("btc").unwrap();
                begin(&feed);
                assert_eq!(of_this_thread(), Some(Current { feed: feed.clone(), conn: None }));
                set_conn(7);
                assert_eq!(of_this_thread(), Some(Current { feed, conn: Some(7) }));
            });
        });
        assert_eq!(of_this_thread(), None);
    }
}
