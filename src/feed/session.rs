//! The life of a feed as a pure state machine: when to connect, subscribe, ping, give up, wait.
//!
//! ```text
//!              Connect                 connected          all sent and
//!   Waiting ------------> Connecting ------------> Subscribing ----> Live
//!      ^  ^                   | failed,                |  acknowledged |
//!      |  +-------------------+ postponed              +------+-------+
//!      |                                                      | stale, no pong, server closed,
//!      |        closed, lost, or 1 s passed                   | refused, protocol error, stop
//!      +--------------------------------------- Closing <-----+
//!                                                  |
//!                              Paused, Stopped <---+      (a lost connection skips Closing)
//! ```
//!
//! Owns all deadlines and all decisions about them. No socket, clock, sleep or log in here: time
//! comes in with each input, and what to do goes out as actions.

mod words;

use std::collections::VecDeque;
use std::time::Duration;

pub use self::words::{Action, Ask, Input, STAY_AWAY};
pub use super::reason::{Reason, Stage};
pub use super::rules::{OnRefusal, Rules};
use crate::backoff::Backoff;
use crate::clock::Mono;
use crate::stats::Phase;

/// The close handshake may take so long; then the socket is dropped.
pub const CLOSING_MAX: Duration = Duration::from_secs(1);

/// A connection that lived so long (or `--backoff-max`, where that is less) resets the backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting { until: Mono },
    Connecting { by: Mono, since: Mono },
    Subscribing { by: Mono, progress: Progress, watch: Watch },
    Live { since: Mono, again: Again, watch: Watch },
    Closing { by: Mono, reason: Reason, then: Then },
    Paused,
    Stopped,
}

/// What comes after a connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Backoff,
    AtOnce,
    Pause,
    Stop,
}

/// How far subscribing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// The subscription to be sent next, and when.
    next: usize,
    next_at: Mono,
    /// Whether the last one has left.
    all_sent: bool,
    acks: usize,
}

/// Subscriptions to be sent again, each once, and when the next one may be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Again {
    queue: VecDeque<usize>,
    next_at: Mono,
}

/// Deadlines of an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watch {
    stale_from: Mono,
    ping_at: Mono,
    pong_by: Option<Mono>,
    heartbeat_at: Mono,
    answer_by: Option<Mono>,
}

/// The machine of one feed.
#[derive(Debug)]
pub struct Session {
    rules: Rules,
    backoff: Backoff,
    state: State,
    /// Why it ended, where that was the venue's word.
    refused: bool,
}

impl Session {
    /// Starts in Waiting, due at `now`; `seed` is for the jitter.
    pub fn new(rules: Rules, seed: u64, now: Mono) -> Session {
        let backoff = Backoff::new(rules.backoff_min, rules.backoff_max, seed);
        Session { rules, backoff, state: State::Waiting { until: now }, refused: false }
    }

    /// Other rules from now on. What an open connection waits for keeps its deadline; ask for
    /// [`Ask::Reload`] next.
    pub fn set_rules(&mut self, rules: Rules, seed: u64) {
        self.backoff = Backoff::new(rules.backoff_min, rules.backoff_max, seed);
        self.rules = rules;
    }

    /// Whether it has ended for good.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// Whether it has ended because the venue refused a subscription.
    pub fn is_refused(&self) -> bool {
        self.is_stopped() && self.refused
    }

    /// Whether acknowledgements are awaited.
    pub fn awaits_acks(&self) -> bool {
        self.rules.acks > 0 && matches!(self.state, State::Subscribing { .. })
    }

    /// Whether messages are to be expected: connected, subscribed, not closing.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    /// What to show of it; none for one that has stopped, of which others know more.
    pub fn phase(&self) -> Option<Phase> {
        match self.state {
            State::Waiting { .. } | State::Closing { .. } => Some(Phase::Waiting),
            State::Connecting { .. } | State::Subscribing { .. } => Some(Phase::Connecting),
            State::Live { .. } => Some(Phase::Live),
            State::Paused => Some(Phase::Paused),
            State::Stopped => None,
        }
    }

    /// When the next connection attempt is due, while waiting for it.
    pub fn waiting_until(&self) -> Option<Mono> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Attempts in a row that did not lead to a healthy connection.
    pub fn attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    /// By when `handle` wants to be called with a Tick; `None` is never.
    pub fn deadline(&self) -> Option<Mono> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Connecting { by, .. } | State::Closing { by, .. } => Some(*by),
            State::Subscribing { by, progress, watch } => {
                let next = (progress.next < self.rules.subscriptions).then_some(progress.next_at);
                [Some(*by), next, self.watch_deadline(watch)].into_iter().flatten().min()
            }
            State::Live { again, watch, .. } => {
                let next = (!again.queue.is_empty()).then_some(again.next_at);
                [next, self.watch_deadline(watch)].into_iter().flatten().min()
            }
            State::Paused | State::Stopped => None,
        }
    }

    fn watch_deadline(&self, watch: &Watch) -> Option<Mono> {
        let ping = (!self.rules.ping_every.is_zero()).then_some(watch.ping_at);
        let heartbeat = (!self.rules.heartbeat_every.is_zero()).then_some(watch.heartbeat_at);
        let stale = (!self.rules.stale_after.is_zero())
            .then(|| watch.stale_from.after(self.rules.stale_after));
        [ping, watch.pong_by, heartbeat, watch.answer_by, stale].into_iter().flatten().min()
    }

    /// Takes one input and appends what is to be done about it.
    pub fn handle(&mut self, now: Mono, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Tick => self.tick(now, actions),
            Input::Connected => self.connected(now, actions),
            Input::Postponed { until } => self.postponed(until),
            Input::Flushed => self.flushed(now, actions),
            Input::Acked => self.acked(now, actions),
            Input::Refused(text) => self.refused(now, text, actions),
            Input::Resubscribe(which) => self.resubscribe(now, &which, actions),
            Input::Answered => self.answered(),
            Input::ConnectFailed { reason, retry_after } => {
                self.connect_failed(now, reason, retry_after, actions);
            }
            Input::Received { data } => self.received(now, data),
            Input::Broken(reason) => self.broken(now, reason, actions),
            Input::Closed => self.closed(now, actions),
            Input::Asked(ask) => self.asked(now, ask, actions),
        }
    }

    fn tick(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Waiting { until } if now >= *until => self.connect(now, actions),
            State::Subscribing { by, progress, .. } if now >= *by => {
                let reason = if progress.all_sent {
                    let (acks, wanted) = (progress.acks, self.rules.acks);
                    Reason::NoAck { limit: self.rules.ack_deadline, acks, wanted }
                } else {
                    let limit = self.rules.connect_timeout;
                    Reason::Timeout { stage: Stage::Subscribe, limit }
                };
                self.close(now, reason, Then::Backoff, actions);
            }
            State::Subscribing { watch, .. } => {
                let watch = *watch;
                self.subscribe_next(now, actions);
                self.check_watch(now, watch, actions);
            }
            State::Live { watch, .. } => {
                let watch = *watch;
                self.resubscribe_next(now, actions);
                self.check_watch(now, watch, actions);
            }
            State::Closing { by, .. } if now >= *by => self.closed(now, actions),
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Closing { .. }
            | State::Paused
            | State::Stopped => {}
        }
    }

    fn connect(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let by = now.after(self.rules.connect_timeout);
        self.state = State::Connecting { by, since: now };
        actions.push(Action::Connect { by });
    }

    fn connected(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let State::Connecting { since, .. } = self.state else {
            return;
        };
        // Staleness counts from the moment of connecting: a venue that never sends is found too.
        let watch = Watch {
            stale_from: since,
            ping_at: now.after(self.rules.ping_every),
            pong_by: None,
            heartbeat_at: now.after(self.rules.heartbeat_every),
            answer_by: None,
        };
        let pauses = u32::try_from(self.rules.subscriptions).unwrap_or(u32::MAX);
        let pace = self.rules.subscribe_every.saturating_mul(pauses);
        let by = now.after(self.rules.connect_timeout.saturating_add(pace));
        let progress = Progress { next: 0, next_at: now, all_sent: false, acks: 0 };
        self.state = State::Subscribing { by, progress, watch };
        self.subscribe_next(now, actions);
        if self.rules.subscriptions == 0 {
            self.flushed(now, actions);
        }
    }

    fn postponed(&mut self, until: Mono) {
        if matches!(self.state, State::Connecting { .. }) {
            self.state = State::Waiting { until };
        }
    }

    /// All that are due: one after the other with a pause between, or all at once.
    fn subscribe_next(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Rules { subscriptions, subscribe_every, .. } = self.rules;
        if let State::Subscribing { progress, .. } = &mut self.state {
            while progress.next < subscriptions && now >= progress.next_at {
                actions.push(Action::Subscribe(progress.next));
                progress.next += 1;
                progress.next_at = now.after(subscribe_every);
            }
        }
    }

    fn resubscribe(&mut self, now: Mono, which: &[usize], actions: &mut Vec<Action>) {
        if let State::Live { again, .. } = &mut self.state {
            for n in which {
                if !again.queue.contains(n) {
                    again.queue.push_back(*n);
                }
            }
            self.resubscribe_next(now, actions);
        }
    }

    /// At the same pace as the first time.
    fn resubscribe_next(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if let State::Live { again, .. } = &mut self.state {
            while now >= again.next_at
                && let Some(n) = again.queue.pop_front()
            {
                actions.push(Action::Subscribe(n));
                again.next_at = now.after(self.rules.subscribe_every);
            }
        }
    }

    fn flushed(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if let State::Subscribing { by, progress, .. } = &mut self.state
            && progress.next == self.rules.subscriptions
            && !progress.all_sent
        {
            progress.all_sent = true;
            *by = now.after(self.rules.ack_deadline);
            self.go_live_if_acked(now, actions);
        }
    }

    fn acked(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if let State::Subscribing { progress, .. } = &mut self.state {
            progress.acks += 1;
            self.go_live_if_acked(now, actions);
        }
    }

    fn go_live_if_acked(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if let State::Subscribing { progress, watch, .. } = self.state
            && progress.all_sent
            && progress.acks >= self.rules.acks
        {
            let again = Again { queue: VecDeque::new(), next_at: progress.next_at };
            self.state = State::Live { since: now, again, watch };
            actions.push(Action::GoLive);
        }
    }

    fn refused(&mut self, now: Mono, text: String, actions: &mut Vec<Action>) {
        if !matches!(self.state, State::Subscribing { .. } | State::Live { .. }) {
            return;
        }
        match self.rules.on_refusal {
            // Nothing more will come for it: that settles it as an acknowledgement would.
            OnRefusal::Log => self.acked(now, actions),
            OnRefusal::Retry => self.close(now, Reason::Refused { text }, Then::Backoff, actions),
            OnRefusal::Stop => {
                self.refused = true;
                self.close(now, Reason::Refused { text }, Then::Stop, actions);
            }
        }
    }

    fn answered(&mut self) {
        if let State::Subscribing { watch, .. } | State::Live { watch, .. } = &mut self.state {
            watch.answer_by = None;
        }
    }

    fn check_watch(&mut self, now: Mono, watch: Watch, actions: &mut Vec<Action>) {
        let Rules { ping_every, pong_deadline, stale_after, .. } = self.rules;
        let Rules { heartbeat_every, answer_deadline, .. } = self.rules;
        if !stale_after.is_zero() && now >= watch.stale_from.after(stale_after) {
            actions.push(Action::NoteStale(stale_after));
            self.close(now, Reason::Stale { limit: stale_after }, Then::Backoff, actions);
            return;
        }
        if watch.pong_by.is_some_and(|by| now >= by) {
            self.close(now, Reason::NoPong { limit: pong_deadline }, Then::Backoff, actions);
            return;
        }
        if watch.answer_by.is_some_and(|by| now >= by) {
            self.close(now, Reason::NoAnswer { limit: answer_deadline }, Then::Backoff, actions);
            return;
        }
        let (State::Subscribing { watch, .. } | State::Live { watch, .. }) = &mut self.state else {
            return;
        };
        if !ping_every.is_zero() && now >= watch.ping_at {
            actions.push(Action::Ping);
            watch.ping_at = now.after(ping_every);
            if !pong_deadline.is_zero() {
                watch.pong_by.get_or_insert(now.after(pong_deadline));
            }
        }
        if !heartbeat_every.is_zero() && now >= watch.heartbeat_at {
            actions.push(Action::Heartbeat);
            watch.heartbeat_at = now.after(heartbeat_every);
            if !answer_deadline.is_zero() {
                watch.answer_by.get_or_insert(now.after(answer_deadline));
            }
        }
    }

    fn connect_failed(
        &mut self,
        now: Mono,
        reason: Reason,
        retry_after: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        if matches!(self.state, State::Connecting { .. }) {
            actions.push(Action::Disconnect(reason));
            let floor = match retry_after {
                Some(STAY_AWAY) => self.rules.backoff_max,
                other => other.unwrap_or_default(),
            };
            let wait = self.backoff.next_wait(floor);
            self.state = State::Waiting { until: now.after(wait) };
        }
    }

    /// Anything that comes in shows that the other side is there; only data is data.
    fn received(&mut self, now: Mono, data: bool) {
        if let State::Subscribing { watch, .. } | State::Live { watch, .. } = &mut self.state {
            watch.pong_by = None;
            if data {
                watch.stale_from = now;
            }
        }
    }

    fn broken(&mut self, now: Mono, reason: Reason, actions: &mut Vec<Action>) {
        match &self.state {
            State::Subscribing { .. } | State::Live { .. } => {
                self.close(now, reason, Then::Backoff, actions);
            }
            // The reason to close stays the first one.
            State::Closing { .. } => self.closed(now, actions),
            State::Waiting { .. } | State::Connecting { .. } | State::Paused | State::Stopped => {}
        }
    }

    /// Leaves an open connection: with a close handshake where the reason asks for one.
    fn close(&mut self, now: Mono, reason: Reason, then: Then, actions: &mut Vec<Action>) {
        self.note_health(now, &reason);
        match reason.close_code() {
            Some(code) => {
                actions.push(Action::Close { code, frames: reason.leaves_frames() });
                self.state = State::Closing { by: now.after(CLOSING_MAX), reason, then };
            }
            None => {
                actions.push(Action::Disconnect(reason));
                self.go_on(now, then, actions);
            }
        }
    }

    fn note_health(&mut self, now: Mono, reason: &Reason) {
        let silent = matches!(
            reason,
            Reason::Stale { .. } | Reason::NoPong { .. } | Reason::NoAnswer { .. }
        );
        if let State::Live { since, .. } = self.state
            && !silent
            && now.since(since) >= HEALTHY_AFTER.min(self.rules.backoff_max)
        {
            self.backoff.reset();
        }
    }

    fn closed(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Closing { reason, then, .. } => {
                actions.push(Action::Disconnect(reason));
                self.go_on(now, then, actions);
            }
            other => self.state = other,
        }
    }

    fn go_on(&mut self, now: Mono, then: Then, actions: &mut Vec<Action>) {
        self.state = match then {
            Then::Backoff => {
                State::Waiting { until: now.after(self.backoff.next_wait(Duration::ZERO)) }
            }
            Then::AtOnce => State::Waiting { until: now },
            Then::Pause => {
                actions.push(Action::NotePaused);
                State::Paused
            }
            Then::Stop => State::Stopped,
        };
    }

    fn asked(&mut self, now: Mono, ask: Ask, actions: &mut Vec<Action>) {
        let (reason, then) = match ask {
            Ask::Stop => (Reason::Stopped, Then::Stop),
            Ask::Complete => (Reason::Complete, Then::Stop),
            Ask::Pause => (Reason::Paused, Then::Pause),
            Ask::Reconnect => (Reason::Reconnect, Then::AtOnce),
            Ask::Reload => (Reason::Reload, Then::AtOnce),
            Ask::Resume => {
                self.resume(now, actions);
                return;
            }
        };
        match &mut self.state {
            State::Stopped => {}
            // A paused feed stays paused until somebody resumes or stops it.
            State::Paused => match then {
                Then::Stop => self.state = State::Stopped,
                Then::Backoff | Then::AtOnce | Then::Pause => {}
            },
            State::Waiting { .. } => self.go_on(now, then, actions),
            State::Connecting { .. } => {
                actions.push(Action::Disconnect(reason));
                self.go_on(now, then, actions);
            }
            State::Subscribing { .. } | State::Live { .. } => {
                self.close(now, reason, then, actions);
            }
            State::Closing { then: current, .. } => {
                // A stop is final, but for a feed that was refused what it asked for and now asks
                // for something else. What an operator asks for does not wait for the handshake.
                let asks_anew = self.refused && ask == Ask::Reload;
                self.refused &= !asks_anew && then != Then::Stop;
                if *current != Then::Stop || asks_anew {
                    *current = then;
                }
                if then == Then::AtOnce {
                    self.closed(now, actions);
                }
            }
        }
    }

    fn resume(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Paused => {
                actions.push(Action::NoteResumed);
                self.state = State::Waiting { until: now };
            }
            State::Closing { then, .. } if *then == Then::Pause => {
                *then = Then::AtOnce;
                self.closed(now, actions);
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Subscribing { .. }
            | State::Live { .. }
            | State::Closing { .. }
            | State::Stopped => {}
        }
    }
}

#[cfg(test)]
mod tests;
