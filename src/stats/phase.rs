//! What a feed is doing, and why its connections ended, as counters that others look at.
//!
//! Owns the words for both, which stand in metrics and in the admin endpoint's answers: they stay.

use super::Counter;
use crate::clock::{self, UnixNs};

/// What a feed is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing yet, or it waits for the next attempt.
    Waiting,
    /// It connects, or subscribes; a poll that has had no answer yet.
    Connecting,
    /// Data is to be expected.
    Live,
    /// No data came for too long, and it waits for the next attempt.
    Stale,
    /// An operator paused it.
    Paused,
    /// It has all that was asked for, or is not wanted any more.
    Ended,
    /// It ended because the venue refused what was asked for.
    Refused,
    /// Its thread failed and is started again.
    Failed,
}

impl Phase {
    /// All of them, in the order of their numbers.
    pub const ALL: [Phase; 8] = [
        Phase::Waiting,
        Phase::Connecting,
        Phase::Live,
        Phase::Stale,
        Phase::Paused,
        Phase::Ended,
        Phase::Refused,
        Phase::Failed,
    ];

    /// In metrics and answers.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Connecting => "connecting",
            Phase::Live => "live",
            Phase::Stale => "stale",
            Phase::Paused => "paused",
            Phase::Ended => "ended",
            Phase::Refused => "refused",
            Phase::Failed => "failed",
        }
    }
}

/// The phase of a feed, and since when. One thread sets it at a time.
#[derive(Debug, Default)]
pub struct PhaseCell {
    phase: Counter,
    since: Counter,
}

impl PhaseCell {
    /// The feed is in this phase now; if it was already, nothing changes. One that waits because it
    /// was stale is still stale.
    pub fn set(&self, phase: Phase) {
        let before = self.get();
        let still_stale = before == Phase::Stale && phase == Phase::Waiting;
        if (before == phase && self.since.get() > 0) || still_stale {
            return;
        }
        self.since.set(clock::wall_now());
        self.phase.set(phase as u64);
    }

    /// The phase.
    pub fn get(&self) -> Phase {
        Phase::ALL[self.phase.get() as usize]
    }

    /// Since when, in wall time; 0 where none was ever set.
    pub fn since(&self) -> UnixNs {
        self.since.get()
    }
}

/// Why a connection that was open came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Cause {
    Paused,
    Asked,
    Reload,
    Timeout,
    Stale,
    NoPong,
    NoAnswer,
    NoAck,
    Refused,
    SilentKey,
    ClosedByServer,
    Lost,
    Protocol,
    InvalidUtf8,
    Oversized,
    Panic,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Cause; 16] = [
        Cause::Paused,
        Cause::Asked,
        Cause::Reload,
        Cause::Timeout,
        Cause::Stale,
        Cause::NoPong,
        Cause::NoAnswer,
        Cause::NoAck,
        Cause::Refused,
        Cause::SilentKey,
        Cause::ClosedByServer,
        Cause::Lost,
        Cause::Protocol,
        Cause::InvalidUtf8,
        Cause::Oversized,
        Cause::Panic,
    ];

    /// In metrics and answers.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Paused => "paused",
            Cause::Asked => "asked",
            Cause::Reload => "reload",
            Cause::Timeout => "timeout",
            Cause::Stale => "stale",
            Cause::NoPong => "no_pong",
            Cause::NoAnswer => "no_answer",
            Cause::NoAck => "no_ack",
            Cause::Refused => "refused",
            Cause::SilentKey => "silent_key",
            Cause::ClosedByServer => "closed_by_server",
            Cause::Lost => "lost",
            Cause::Protocol => "protocol",
            Cause::InvalidUtf8 => "invalid_utf8",
            Cause::Oversized => "oversized",
            Cause::Panic => "panic",
        }
    }
}

/// How often connections ended, by cause.
#[derive(Debug, Default)]
pub struct Causes([Counter; Cause::ALL.len()]);

impl Causes {
    /// One more.
    pub fn count(&self, cause: Cause) {
        self.0[cause as usize].add(1);
    }

    /// The causes that occurred.
    pub fn figures(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        let all = Cause::ALL.into_iter().map(|cause| (cause, self.0[cause as usize].get()));
        all.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        for (at, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, at);
        }
        for (at, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, at);
        }
    }

    #[test]
    fn a_phase_that_stays_keeps_its_beginning() {
        let cell = PhaseCell::default();
        assert_eq!((cell.get(), cell.since()), (Phase::Waiting, 0));
        cell.set(Phase::Waiting);
        let since = cell.since();
        assert!(since > 0);
        cell.set(Phase::Waiting);
        assert_eq!(cell.since(), since);
        for (phase, expected) in [
            (Phase::Stale, Phase::Stale),
            (Phase::Waiting, Phase::Stale),
            (Phase::Connecting, Phase::Connecting),
            (Phase::Waiting, Phase::Waiting),
        ] {
            cell.set(phase);
            assert_eq!(cell.get(), expected);
        }
    }
}
