//! What venue and feed say to each other beside data: subscriptions, acknowledgements, refusals,
//! heartbeats, questions, and symbols that fall silent.
//!
//! Owns doing what such a message asks for. What it means is [`super::super::matcher`]'s, what
//! follows from it the session's.

use super::FeedLoop;
use crate::clock::{self, Mono};
use crate::feed::keys::OnSilence;
use crate::feed::lines::EventStamp;
use crate::feed::matcher::Meaning;
use crate::feed::session::{Input, Reason};
use crate::feed::text::Text;
use crate::feed::transport::printable;
use crate::tape::event::Event;
use crate::units::format_span;

/// So much of the venue's words stands in an event and in the log.
const WORDS_BYTES_MAX: usize = 2 << 10;

impl FeedLoop {
    /// Sends a subscription, after those before it have left: a venue that reads slowly gets a
    /// list of many megabytes too, of which one text at a time waits in memory.
    pub(super) fn subscribe(&mut self, n: usize) -> Option<Input> {
        self.subscribing = true;
        self.to_send.push_back(n);
        self.send_next().err().map(Input::Broken)
    }

    /// Sends what waits; a connection that fails at it is broken.
    pub(super) fn flush(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let flushed = connection.flush().and_then(|_| self.send_next());
        match flushed {
            Ok(true) if self.subscribing => {
                self.subscribing = false;
                self.step(Input::Flushed);
            }
            Ok(_) => {}
            Err(reason) => self.step(Input::Broken(reason)),
        }
    }

    /// Subscriptions that wait, as long as the socket takes them; `true` once all have left.
    fn send_next(&mut self) -> Result<bool, Reason> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let mut sent = Ok(!connection.waits_to_send());
        while sent == Ok(true)
            && let Some(n) = self.to_send.pop_front()
        {
            let text = &self.options.subscriptions[n];
            sent = connection.send_text(&text.value);
            let (conn, at) = (self.conn, clock::wall_now());
            let event = Event::Sent { conn, text: &text.shown, cut: false, at };
            self.lines.event(EventStamp::Previous, &event);
        }
        sent
    }

    /// Whether a message is data, rather than talk between the venue and us. What it says is done.
    pub(super) fn understand(&mut self, message: &[u8], is_binary: bool, now: Mono) -> bool {
        let awaited = self.session.awaits_acks();
        let meaning = match self.options.matchers.is_empty() {
            true => Meaning::Data,
            false => self.options.matchers.meaning(message, is_binary, awaited),
        };
        match meaning {
            Meaning::Data => {
                // Only data shows that a symbol lives: what refuses it names it too.
                if let Some(keys) = &mut self.keys {
                    keys.see(message, now);
                }
                return true;
            }
            Meaning::Talk => {}
            Meaning::Answer => self.step(Input::Answered),
            Meaning::Question(reply) => {
                let sent = self.connection.as_mut().map(|connection| connection.send_text(&reply));
                if let Some(Err(reason)) = sent {
                    self.step(Input::Broken(reason));
                }
            }
            Meaning::Ack(text) => {
                let (conn, at) = (self.conn, clock::wall_now());
                let text = beginning(&text);
                self.lines.event(EventStamp::Previous, &Event::Subscribed { conn, text, at });
                self.step(Input::Acked);
            }
            Meaning::Refusal(text) => {
                self.stats.refusals.add(1);
                let (conn, at) = (self.conn, clock::wall_now());
                let text = beginning(&text);
                self.lines.event(EventStamp::Previous, &Event::Refused { conn, text, at });
                let text = printable(text);
                let words = format!("the venue refused: {text}");
                self.stats.trouble.set(&words);
                self.log(log::Level::Error, format_args!("{words}"));
                self.step(Input::Refused(text));
            }
        }
        false
    }

    pub(super) fn look_for_silent_keys(&mut self, now: Mono) {
        let Some(keys) = &mut self.keys else { return };
        if !self.session.is_live() {
            return;
        }
        let silent = keys.silent(now);
        let (then, limit) = (keys.then(), keys.stale_after());
        let Some(first) = silent.first() else { return };
        self.stats.silent_keys.add(silent.len() as u64);
        let (conn, at, after_ms) = (self.conn, clock::wall_now(), limit.as_millis() as u64);
        for key in &silent {
            let event = Event::Stale { conn, after_ms, key: Some(key), at };
            self.lines.event(EventStamp::Previous, &event);
        }
        let span = format_span(limit);
        let names = printable(&silent.join(", "));
        let text = format_args!("nothing for {span} of {} symbols: {names}", silent.len());
        self.log(log::Level::Warn, text);
        match then {
            OnSilence::Log => {}
            OnSilence::Resubscribe => self.resubscribe(&silent),
            OnSilence::Reconnect => {
                self.step(Input::Broken(Reason::SilentKey { key: first.clone(), limit }));
            }
        }
    }

    /// Sends the subscriptions that name one of the keys again; all of them, where none does.
    fn resubscribe(&mut self, keys: &[String]) {
        let keys: Vec<String> = keys.iter().map(|key| key.to_ascii_lowercase()).collect();
        let names_one = |text: &Text| {
            let text = text.value.to_ascii_lowercase();
            keys.iter().any(|key| text.contains(key.as_str()))
        };
        let all = 0..self.options.subscriptions.len();
        let naming: Vec<usize> =
            all.clone().filter(|n| names_one(&self.options.subscriptions[*n])).collect();
        let naming = if naming.is_empty() { all.collect() } else { naming };
        self.step(Input::Resubscribe(naming));
    }
}

/// As much of the venue's words as an event and the log take.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS_BYTES_MAX)]
}
