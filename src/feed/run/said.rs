//! What a feed's log says of its connections.
//!
//! Owns which lines are written: each change once, and what fails again and again counted.

use std::time::Duration;

use super::FeedLoop;
use crate::clock::{Mono, mono_now};
use crate::feed::session::Reason;
use crate::units::format_span;

impl FeedLoop {
    pub(super) fn log_connected(&mut self, now: Mono, text: std::fmt::Arguments<'_>) {
        let before = match self.failures.is_folding() {
            true => format!(", after {} failures", self.failures.count()),
            false => String::new(),
        };
        let is_news = self.failures.better(now);
        let level = if is_news { log::Level::Info } else { log::Level::Debug };
        self.log(level, format_args!("{text}{before}"));
    }

    /// Data still comes after a while: what failed before is over.
    pub(super) fn note_health(&mut self, now: Mono) {
        if self.failures.is_clear() || self.session.healthy_at().is_none_or(|at| now < at) {
            return;
        }
        if let Some(failures) = self.failures.over() {
            let text = format_args!("stays connected, after {failures} failures");
            self.log(log::Level::Info, text);
        }
    }

    /// What was asked for is told each time; what went wrong is folded.
    pub(super) fn log_end(&mut self, reason: &Reason, text: &str, was_connected: bool) {
        let (level, untold) = match reason {
            Reason::Stopped
            | Reason::Complete
            | Reason::Paused
            | Reason::Reconnect
            | Reason::Reload => (log::Level::Info, String::new()),
            _ => {
                self.stats.trouble.set(text);
                match self.failures.worse(mono_now(), text) {
                    Some(untold) => (log::Level::Warn, untold.to_string()),
                    None => (log::Level::Debug, String::new()),
                }
            }
        };
        let (messages, next) = (self.figures.messages, self.next());
        match was_connected {
            true => self.log(
                level,
                format_args!("disconnected after {messages} messages: {text}{next}{untold}"),
            ),
            false => self.log(level, format_args!("can't connect: {text}{next}{untold}")),
        }
    }

    /// When it will be tried again, for the log.
    fn next(&self) -> String {
        let wait = self.session.waiting_until().map(|until| until.since(mono_now()).as_millis());
        match wait.map(|ms| ms as u64).filter(|ms| *ms > 0) {
            Some(ms) => format!("; next attempt in {}", format_span(Duration::from_millis(ms))),
            None => String::new(),
        }
    }

    pub(super) fn log(&self, level: log::Level, text: std::fmt::Arguments<'_>) {
        log::log!(level, "{}: conn {}: {text}", self.options.name, self.conn);
    }
}
