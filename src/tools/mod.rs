//! The commands beside `record`: those that read tapes, the one that mends them, the check of
//! feeds, what is known of venues, the simulated venue, the demo, and the manual pages.
//!
//! Owns what they share: how they end, what they make of a closed pipe, and how they count gaps.
//! Those that read write nothing but their output: results to the given writer, talk to the log.
//! `prune` alone deletes.

pub mod cat;
pub mod check;
pub mod ctl;
pub mod demo;
pub mod info;
pub mod manual;
pub mod mem;
pub mod prune;
pub mod recover;
pub mod simulate;
pub mod venues;
pub mod verify;

use std::fmt;
use std::io;

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Deserialize;

use crate::tape::event::GapReason;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: exit code 0.
    Clean,
    /// Done, but something is lost or damaged: exit code 3.
    Loss,
}

/// Files beside those of tapes that a command may have open.
const OTHER_FILES: u64 = 32;

/// Makes sure that a file of each tape may be open at once: raises the soft limit as far as needed.
///
/// # Errors
/// The hard limit is too low.
fn allow_open_files(tapes: usize) -> anyhow::Result<()> {
    let want = tapes as u64 + OTHER_FILES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    if soft >= want {
        return Ok(());
    }
    ensure!(
        want <= hard,
        "{tapes} feeds at once need {want} open files, the limit is {hard}: raise it \
         (ulimit -Hn), or give fewer feeds at a time"
    );
    setrlimit(Resource::RLIMIT_NOFILE, want, hard)
        .with_context(|| format!("the limit of open files can't be raised from {soft} to {want}"))
}

/// Whether the reader of our output has enough, as `head` has: no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The gaps of a tape, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Gaps([GapCount; GapReason::ALL.len()]);

/// The gaps of one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct GapCount {
    /// How many gaps.
    gaps: u64,
    /// Those which don't say how much is lost.
    uncounted: u64,
    /// Messages lost in the others.
    messages: u64,
    /// Their payload bytes.
    bytes: u64,
}

#[derive(Deserialize)]
struct GapEvent {
    reason: GapReason,
    messages: Option<u64>,
    bytes: Option<u64>,
}

impl Gaps {
    /// Counts a gap event, given its JSON; false where it is not as the format says.
    fn count(&mut self, raw: &[u8]) -> bool {
        let Ok(event) = serde_json::from_slice::<GapEvent>(raw) else { return false };
        let slots = GapReason::ALL.iter().zip(&mut self.0);
        for (_, count) in slots.filter(|(reason, _)| **reason == event.reason) {
            count.gaps += 1;
            count.uncounted += u64::from(event.messages.is_none());
            count.messages = count.messages.saturating_add(event.messages.unwrap_or(0));
            count.bytes = count.bytes.saturating_add(event.bytes.unwrap_or(0));
        }
        true
    }

    /// Reasons that occur, with their counts.
    fn iter(&self) -> impl Iterator<Item = (GapReason, GapCount)> + '_ {
        GapReason::ALL.into_iter().zip(self.0).filter(|(_, count)| count.gaps > 0)
    }

    fn add(&mut self, other: &Gaps) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.gaps += theirs.gaps;
            mine.uncounted += theirs.uncounted;
            mine.messages = mine.messages.saturating_add(theirs.messages);
            mine.bytes = mine.bytes.saturating_add(theirs.bytes);
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (reason, count) in self.iter() {
            write!(f, "{separator}{reason} {}", count.gaps)?;
            if count.uncounted < count.gaps {
                write!(f, " ({} messages lost)", count.messages)?;
            }
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_by_reason() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.to_string(), "none");
        for (raw, valid) in [
            ("{\"event\":\"gap\",\"reason\":\"reconnect\",\"messages\":null,\"bytes\":null}", true),
            ("{\"event\":\"gap\",\"reason\":\"stall\",\"messages\":5,\"bytes\":50}", true),
            ("{\"event\":\"gap\",\"reason\":\"stall\",\"messages\":2,\"bytes\":20}", true),
            ("{\"event\":\"gap\",\"reason\":\"boredom\",\"messages\":2,\"bytes\":20}", false),
            ("{\"event\":\"gap\"}", false),
        ] {
            assert_eq!(gaps.count(raw.as_bytes()), valid, "{raw}");
        }
        assert_eq!(gaps.to_string(), "reconnect 1, stall 2 (7 messages lost)");
    }

    #[test]
    fn too_many_feeds_are_refused_at_once() {
        allow_open_files(1).unwrap();
        let error = allow_open_files(usize::MAX >> 8).unwrap_err().to_string();
        assert!(error.contains("72057594037927935 feeds"), "{error}");
    }

    #[test]
    fn only_a_closed_pipe_is_quiet() {
        let error = |kind: io::ErrorKind| anyhow::Error::from(io::Error::from(kind));
        assert!(is_closed_pipe(&error(io::ErrorKind::BrokenPipe)));
        assert!(!is_closed_pipe(&error(io::ErrorKind::StorageFull)));
        assert!(!is_closed_pipe(&anyhow::anyhow!("else")));
    }
}
