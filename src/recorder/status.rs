//! What systemd is told: that the recorder has started, how it fares, that it lives.
//!
//! Owns the words of the status. When is for the main thread's loop.

use super::Recorder;
use super::life::Watched;
use super::watch::has_started;
use crate::clock::mono_now;
use crate::service;
use crate::tape::name::FeedName;

/// Feeds that the status names; more are counted.
const NAMED_MAX: usize = 3;

impl Recorder {
    /// The watchdog is fed while all go on without whom nothing is recorded.
    pub(super) fn tell_systemd(&mut self) {
        let (tried, wanted) = (self.feeds.tried(), self.feeds.wanted());
        let writer_runs = self.stats.writer.due().is_some();
        if self.is_ready {
            service::status(&self.status());
        } else if has_started(self.started, mono_now(), writer_runs, tried, wanted) {
            self.is_ready = true;
            service::ready(&self.status());
        } else {
            service::status(&format!("starting: {tried} of {wanted} feeds have tried to connect"));
        }
        if self.threads.iter().all(|thread| thread.hanging().is_none()) {
            service::watchdog();
        }
    }

    /// One line: what `systemctl status` shows.
    pub(super) fn status(&self) -> String {
        let messages: u64 = self.views.all().iter().map(|view| view.stats.messages.get()).sum();
        let (down, wanted) = (self.feeds.down(), self.feeds.wanted());
        let mut status = format!("{} of {wanted} feeds live", wanted - down.len());
        if !down.is_empty() {
            status += &format!(" (not: {})", names(&down));
        }
        match self.feeds.paused() {
            0 => {}
            n if n == wanted => status += ", PAUSED",
            n => status += &format!(", {n} paused"),
        }
        status += &format!(", {messages} messages recorded");
        let hanging = self.feeds.hanging();
        if !hanging.is_empty() {
            status += &format!("; HANGING: {}", names(&hanging));
        }
        if let Some(name) = self.threads.iter().find_map(Watched::hanging) {
            status += &format!("; THE {} HANGS", name.to_uppercase());
        }
        match self.disk.stalled_for(mono_now()) {
            Some(span) => {
                status += &format!("; THE DISK STALLS: nothing written for {} s", span.as_secs());
            }
            None if self.stats.disk_stalled.get() == 1 => status += "; THE DISK TAKES NOTHING",
            None => {}
        }
        status
    }
}

/// A few of the names, and how many more there are.
pub(super) fn names(names: &[&FeedName]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(|name| name.as_str()).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_named_and_the_others_counted() {
        let all: Vec<FeedName> =
            ["a", "b", "c", "d", "e"].iter().map(|name| FeedName::new(name).unwrap()).collect();
        for (count, shown) in [(1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more")] {
            assert_eq!(names(&all[..count].iter().collect::<Vec<_>>()), shown);
        }
    }
}
