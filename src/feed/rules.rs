//! What a feed's session goes by: its timeouts, intervals, and what it does when it is refused.
//!
//! Owns what each means; defaults and bounds are the options'.

use std::time::Duration;

/// What the session is told to do with a feed; see design of the command line for meanings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Limit for lookup, connect, TLS and upgrade together.
    pub connect_timeout: Duration,
    /// Shortest and longest wait between attempts.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// A ping is sent this often; zero is never.
    pub ping_every: Duration,
    /// Something must come in within this time after a ping; zero is no limit.
    pub pong_deadline: Duration,
    /// A data message must come in within this time; zero is no limit.
    pub stale_after: Duration,
    /// How many texts to send after connecting.
    pub subscriptions: usize,
    /// Time between two of them; zero is none.
    pub subscribe_every: Duration,
    /// How many acknowledgements must come before the feed is live.
    pub acks: usize,
    /// They must have come so long after the last subscription was sent.
    pub ack_deadline: Duration,
    /// What a refusal leads to.
    pub on_refusal: OnRefusal,
    /// A heartbeat text is sent this often; zero is never.
    pub heartbeat_every: Duration,
    /// Its answer must come within this time; zero is no limit.
    pub answer_deadline: Duration,
}

/// What to do when the venue refuses a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRefusal {
    /// Write it down and go on with what was not refused.
    Log,
    /// Connect again, with backoff.
    Retry,
    /// End the feed.
    Stop,
}
