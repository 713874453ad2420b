//! What a session is told, and what it says is to be done.
//!
//! Owns the words only; what follows from which is the session's.

use std::time::Duration;

use super::Reason;
use crate::clock::Mono;

/// As [`Input::ConnectFailed`]'s `retry_after`: the server wants us to stay away and doesn't say
/// for how long. That is the longest wait, `--backoff-max`.
pub const STAY_AWAY: Duration = Duration::MAX;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time passed; nothing else did.
    Tick,
    /// The upgrade is done.
    Connected,
    /// The attempt failed; the server may have said when to come back.
    ConnectFailed {
        /// Why.
        reason: Reason,
        /// Lower bound of the next wait.
        retry_after: Option<Duration>,
    },
    /// It is not its turn to connect yet: the host's budget is spent.
    Postponed {
        /// When it will be.
        until: Mono,
    },
    /// All that was to be sent has left for the server.
    Flushed,
    /// A subscription was acknowledged.
    Acked,
    /// A subscription was refused, with these words.
    Refused(String),
    /// These subscriptions are to be sent again, on the connection that is live.
    Resubscribe(Vec<usize>),
    /// A heartbeat was answered.
    Answered,
    /// Frames came in; `data` where a message was among them.
    Received {
        /// At least one was a text or binary message.
        data: bool,
    },
    /// The connection can't go on: server closed, lost, protocol error.
    Broken(Reason),
    /// Our close was answered, or the socket is at its end.
    Closed,
    /// An operator, the recorder, or the feed's own limit asks.
    Asked(Ask),
}

/// What one may ask of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// End for good.
    Stop,
    /// End for good: `--max-messages` is reached.
    Complete,
    /// Close, and wait for `Resume`.
    Pause,
    /// Connect again, at once.
    Resume,
    /// Close and connect again, at once.
    Reconnect,
    /// As `Reconnect`, because the options changed.
    Reload,
}

/// What to do about it. Results come back as inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect, and be done `by` then; in between only commands and this deadline interrupt.
    Connect {
        /// The deadline.
        by: Mono,
    },
    /// Send the n-th subscription.
    Subscribe(usize),
    /// All subscriptions are sent, and acknowledged where that is wanted: from now on all is
    /// recorded.
    GoLive,
    /// Send a ping.
    Ping,
    /// Send the heartbeat's text.
    Heartbeat,
    /// Write down that no data came for so long.
    NoteStale(Duration),
    /// Begin the close handshake with this code; where `frames` is false, what comes in after it
    /// is no longer to be understood and only thrown away.
    Close {
        /// The code.
        code: u16,
        /// Whether to read on.
        frames: bool,
    },
    /// Drop the socket, if there is one, and write down why.
    Disconnect(Reason),
    /// Write down that the feed is paused.
    NotePaused,
    /// Write down that it goes on.
    NoteResumed,
}
