//! What may be ordered of the recorder, and how it answers.
//!
//! Owns the words only: the main thread does it, and answers once.

use std::fmt;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::feed::wait::Waker;
use crate::tape::name::FeedName;

/// Orders that wait for the main thread, at most.
pub const ORDERS_MAX: usize = 16;

/// What is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A feed, or all, are to close their connections and wait.
    Pause(Option<FeedName>),
    /// They are to go on.
    Resume(Option<FeedName>),
    /// A feed is to connect anew.
    Reconnect(FeedName),
    /// Every feed begins a new segment.
    Rotate,
    /// The options are read again.
    Reload,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Pause(Some(feed)) => write!(f, "pause {feed}"),
            Ask::Pause(None) => f.write_str("pause all feeds"),
            Ask::Resume(Some(feed)) => write!(f, "resume {feed}"),
            Ask::Resume(None) => f.write_str("resume all feeds"),
            Ask::Reconnect(feed) => write!(f, "connect {feed} anew"),
            Ask::Rotate => f.write_str("begin new segments"),
            Ask::Reload => f.write_str("reload"),
        }
    }
}

/// Why an order is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such feed.
    NotFound(String),
    /// It can't be done as things stand.
    Conflict(String),
    /// It can't be done now, or takes longer.
    Unavailable(String),
}

/// An order, and the way to answer it.
pub struct Order {
    /// What.
    pub ask: Ask,
    /// How.
    pub reply: Reply,
}

/// Answers one order. Dropped, it says that there will be no answer.
pub struct Reply {
    sender: Sender<Result<String, Refusal>>,
    waker: Waker,
}

impl Reply {
    /// With where the answer will be; `waker` is called when it is there.
    pub fn new(waker: Waker) -> (Reply, Receiver<Result<String, Refusal>>) {
        let (sender, receiver) = bounded(1);
        (Reply { sender, waker }, receiver)
    }

    /// What was done, or why it was not.
    pub fn send(self, done: Result<String, Refusal>) {
        // Whoever asked may have left.
        let _ = self.sender.try_send(done);
        self.waker.wake();
    }
}
