//! Why a connection ended: one word for it in logs, events and close frames.
//!
//! Owns the reasons, how they read, and the close code that goes with each.

use std::fmt;
use std::time::Duration;

use crate::stats::Cause;
use crate::units::format_span;

/// RFC 6455 section 7.4.1: close codes that we send.
pub mod code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// We go away.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A text was not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A message was too large.
    pub const TOO_BIG: u16 = 1009;
}

/// How far a connection attempt got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking the host's name up.
    Lookup,
    /// Connecting TCP.
    Connect,
    /// Asking a proxy to pass us on.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The WebSocket upgrade.
    Upgrade,
    /// Sending the subscriptions.
    Subscribe,
    /// Sending the request of a poll.
    Request,
    /// Waiting for the status and headers of its answer.
    Answer,
    /// Reading the answer's body.
    Body,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Lookup => "lookup",
            Stage::Connect => "connect",
            Stage::Proxy => "proxy",
            Stage::Tls => "tls",
            Stage::Upgrade => "upgrade",
            Stage::Subscribe => "subscribe",
            Stage::Request => "request",
            Stage::Answer => "answer",
            Stage::Body => "body",
        })
    }
}

/// Why a connection, or the attempt at one, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The recorder stops.
    Stopped,
    /// The feed has all the messages that were asked for.
    Complete,
    /// An operator paused the feed.
    Paused,
    /// An operator asked for a new connection.
    Reconnect,
    /// The feed's options changed.
    Reload,
    /// The attempt failed.
    Failed {
        /// Where.
        stage: Stage,
        /// What the other side or the system said.
        cause: String,
    },
    /// The attempt took too long.
    Timeout {
        /// Where it stood.
        stage: Stage,
        /// The limit that passed.
        limit: Duration,
    },
    /// No data for too long.
    Stale {
        /// The limit that passed.
        limit: Duration,
    },
    /// Nothing came in after a ping.
    NoPong {
        /// The limit that passed.
        limit: Duration,
    },
    /// A heartbeat was not answered.
    NoAnswer {
        /// The limit that passed.
        limit: Duration,
    },
    /// Not all subscriptions were acknowledged.
    NoAck {
        /// The limit that passed.
        limit: Duration,
        /// How many were.
        acks: usize,
        /// How many should have been.
        wanted: usize,
    },
    /// The venue refused a subscription.
    Refused {
        /// Its words.
        text: String,
    },
    /// A symbol fell silent.
    SilentKey {
        /// Which.
        key: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// The server sent a close frame.
    ServerClosed {
        /// Its code; `None` where the frame had none.
        code: Option<u16>,
        /// Its reason.
        text: String,
    },
    /// The connection ended with no close frame.
    Lost {
        /// What the system said.
        cause: String,
    },
    /// The server broke the protocol.
    Protocol {
        /// How.
        cause: String,
    },
    /// A text message was not UTF-8.
    InvalidUtf8,
    /// A message was larger than `--max-message`.
    Oversized {
        /// What the frame said, or what had come together so far.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The feed's thread failed; the connection is dropped.
    Panic,
}

impl Reason {
    /// The close code that we send for it; `None` where nothing is to be sent.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Reason::Stopped
            | Reason::Complete
            | Reason::Paused
            | Reason::Reconnect
            | Reason::Reload
            | Reason::Refused { .. } => Some(code::NORMAL),
            Reason::Stale { .. }
            | Reason::NoPong { .. }
            | Reason::NoAnswer { .. }
            | Reason::NoAck { .. }
            | Reason::SilentKey { .. } => Some(code::GOING_AWAY),
            Reason::Protocol { .. } => Some(code::PROTOCOL),
            Reason::InvalidUtf8 => Some(code::INVALID_DATA),
            Reason::Oversized { .. } => Some(code::TOO_BIG),
            Reason::Failed { .. }
            | Reason::Timeout { .. }
            | Reason::ServerClosed { .. }
            | Reason::Lost { .. }
            | Reason::Panic => None,
        }
    }

    /// The code for the `disconnected` event: the server's, or the one we sent.
    pub fn event_code(&self) -> Option<u16> {
        match self {
            Reason::ServerClosed { code, .. } => *code,
            other => other.close_code(),
        }
    }

    /// As which of the counted causes an open connection's end counts; none where the feed itself
    /// ends.
    pub fn cause(&self) -> Option<Cause> {
        Some(match self {
            Reason::Stopped | Reason::Complete => return None,
            Reason::Paused => Cause::Paused,
            Reason::Reconnect => Cause::Asked,
            Reason::Reload => Cause::Reload,
            Reason::Timeout { .. } => Cause::Timeout,
            Reason::Stale { .. } => Cause::Stale,
            Reason::NoPong { .. } => Cause::NoPong,
            Reason::NoAnswer { .. } => Cause::NoAnswer,
            Reason::NoAck { .. } => Cause::NoAck,
            Reason::Refused { .. } => Cause::Refused,
            Reason::SilentKey { .. } => Cause::SilentKey,
            Reason::ServerClosed { .. } => Cause::ClosedByServer,
            Reason::Failed { .. } | Reason::Lost { .. } => Cause::Lost,
            Reason::Protocol { .. } => Cause::Protocol,
            Reason::InvalidUtf8 => Cause::InvalidUtf8,
            Reason::Oversized { .. } => Cause::Oversized,
            Reason::Panic => Cause::Panic,
        })
    }

    /// Whether what follows in the stream can still be read as frames.
    pub(super) fn leaves_frames(&self) -> bool {
        !matches!(self, Reason::Protocol { .. } | Reason::InvalidUtf8 | Reason::Oversized { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Stopped => f.write_str("stopped"),
            Reason::Complete => f.write_str("all messages asked for are recorded"),
            Reason::Paused => f.write_str("paused"),
            Reason::Reconnect => f.write_str("reconnect asked for"),
            Reason::Reload => f.write_str("its options changed"),
            Reason::Failed { stage, cause } => write!(f, "{stage}: {cause}"),
            Reason::Timeout { stage, limit } => {
                write!(f, "timeout: {stage} ({})", format_span(*limit))
            }
            Reason::Stale { limit } => write!(f, "stale: no data for {}", format_span(*limit)),
            Reason::NoPong { limit } => {
                write!(f, "timeout: pong ({})", format_span(*limit))
            }
            Reason::NoAnswer { limit } => {
                write!(f, "timeout: answer to a heartbeat ({})", format_span(*limit))
            }
            Reason::NoAck { limit, acks, wanted } => write!(
                f,
                "timeout: acknowledgement ({}); {acks} of {wanted} came",
                format_span(*limit)
            ),
            Reason::Refused { text } => write!(f, "subscription refused: {text}"),
            Reason::SilentKey { key, limit } => {
                write!(f, "stale: nothing of '{key}' for {}", format_span(*limit))
            }
            Reason::ServerClosed { code, text } => {
                f.write_str("closed by server")?;
                if let Some(code) = code {
                    write!(f, ": {code}")?;
                }
                if !text.is_empty() {
                    write!(f, " '{text}'")?;
                }
                Ok(())
            }
            Reason::Lost { cause } => write!(f, "lost: {cause}"),
            Reason::Protocol { cause } => write!(f, "protocol error: {cause}"),
            Reason::InvalidUtf8 => f.write_str("protocol error: text message is not UTF-8"),
            Reason::Oversized { bytes, limit } => {
                write!(f, "oversized: message of {bytes} bytes or more, the limit is {limit}")
            }
            Reason::Panic => f.write_str("panic"),
        }
    }
}
