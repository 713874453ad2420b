//! What `recover` says: a line for each segment that is not as it was, and a summary.
//!
//! Owns the words and the exit code. A reader of the output who has enough stops no recovery.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::recovery::Finished;
use crate::recovery::repair::Repaired;
use crate::tape::name::SegmentName;

/// What was done so far.
pub(super) struct Report<'a> {
    out: &'a mut dyn Write,
    /// The first failure to say something.
    failure: io::Result<()>,
    whole: u64,
    finished: u64,
    repaired: u64,
    left: u64,
    failed: u64,
    lines_lost: u64,
    /// Lines are lost, or damage is left, whether or not it is known how much.
    is_loss: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Report<'a> {
        Report {
            out,
            failure: Ok(()),
            whole: 0,
            finished: 0,
            repaired: 0,
            left: 0,
            failed: 0,
            lines_lost: 0,
            is_loss: false,
        }
    }

    fn say(&mut self, text: &str) {
        if self.failure.is_ok() {
            self.failure = writeln!(self.out, "{text}");
        }
    }

    fn tell(&mut self, name: &SegmentName, text: &str) {
        self.say(&format!("{} {:06}: {text}", name.feed, name.number));
    }

    pub(super) fn whole(&mut self) {
        self.whole += 1;
    }

    /// Its sum was not as listed, while all of its lines are right.
    pub(super) fn listed(&mut self, name: &SegmentName) {
        self.whole += 1;
        self.tell(name, "every line checks; its checksum is listed anew");
    }

    pub(super) fn finished(&mut self, name: &SegmentName, finished: &Finished) {
        match finished {
            Finished::Ended { lines, bytes_cut, lines_cut, bytes_unverified } => {
                self.finished += 1;
                self.is_loss |= *lines_cut > 0;
                self.lines_lost += lines_cut;
                let mut text = format!("finished with {lines} lines");
                match (bytes_cut, lines_cut) {
                    (0, _) => {}
                    (bytes, 0) => text += &format!("; {bytes} bytes of an unfinished line cut"),
                    (bytes, lines) => {
                        text += &format!("; {bytes} bytes with {lines} line ends kept as .tail");
                    }
                }
                if *bytes_unverified > 0 {
                    text += &format!("; {bytes_unverified} bytes are not covered by a checksum");
                }
                self.tell(name, &text);
            }
            Finished::Replaced { by, aside } => self.repaired(name, by, Some(aside)),
            Finished::SetAside(path) => {
                self.left += 1;
                self.is_loss = true;
                let text = format!("nothing in it is a line; kept as '{}'", path.display());
                self.tell(name, &text);
            }
            Finished::Removed => self.tell(name, "it was empty, and is removed"),
        }
    }

    /// `aside`: where the damaged one is kept.
    pub(super) fn repaired(&mut self, name: &SegmentName, done: &Repaired, aside: Option<&Path>) {
        self.repaired += 1;
        self.lines_lost = self.lines_lost.saturating_add(done.lines_lost);
        self.is_loss |= done.has_lost() || done.bytes_unverified > 0;
        for lost in &done.lost {
            self.tell(name, &lost.to_string());
        }
        let told: u64 = done.lost.iter().filter_map(|lost| lost.lines).sum();
        if told < done.lines_lost {
            let more = done.lines_lost - told;
            self.tell(name, &format!("lost {more} more lines in other places"));
        }
        if done.is_header_new {
            self.tell(name, "its header was lost, and is made anew from its name");
        }
        if done.bytes_unverified > 0 {
            let bytes = done.bytes_unverified;
            self.tell(name, &format!("{bytes} bytes are kept which no checksum covers"));
        }
        let mut text = format!("repaired with {} lines", done.lines);
        if !done.has_lost() {
            text += ", none is lost";
        }
        if let Some(aside) = aside {
            text += &format!("; the damaged one is kept as '{}'", aside.display());
        }
        self.tell(name, &text);
    }

    /// Damage that can't be mended.
    pub(super) fn left(&mut self, name: &SegmentName, why: &str) {
        self.left += 1;
        self.is_loss = true;
        self.tell(name, &format!("can't be mended, and is left as it is: {why}"));
    }

    pub(super) fn failed_segment(&mut self, name: &SegmentName, error: &anyhow::Error) {
        self.failed(name.feed.as_str(), Some(name.number), error);
    }

    pub(super) fn failed(&mut self, feed: &str, number: Option<u64>, error: &anyhow::Error) {
        self.failed += 1;
        let number = number.map_or_else(String::new, |number| format!(" {number:06}"));
        log::error!("{feed}{number}: {error:#}");
    }

    /// Says what was done in all.
    ///
    /// # Errors
    /// Something failed, or could not be said for another reason than a closed pipe.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        let (whole, finished, repaired) = (self.whole, self.finished, self.repaired);
        let mut text = format!("{whole} whole, {finished} finished, {repaired} repaired");
        if self.left > 0 {
            text += &format!(", {} left damaged", self.left);
        }
        if self.lines_lost > 0 {
            text += &format!("; {} lines lost", self.lines_lost);
        }
        self.say(&text);
        match &self.failure {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => self.failure?,
            Ok(()) | Err(_) => {}
        }
        let failed = self.failed;
        ensure!(failed == 0, "{failed} segments could not be recovered, see above");
        Ok(if self.is_loss { Outcome::Loss } else { Outcome::Clean })
    }
}
