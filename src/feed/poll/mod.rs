//! Feeds that are polled: GET or POST at times of the clock, and when another feed tells something.
//!
//! This file owns such a feed's options and what its thread does: wait for what [`schedule`] says,
//! poll (`client.rs`), and put the answer on the tape: an `http` event, then the body as a message.
//! It waits in two places: for the next poll, and for the answer of the one under way, both in
//! [`super::wait`], where commands reach it. As with all feeds, a panic costs the poll, not the
//! feed.
//!
//! A body is held whole before it is written, as a message is: up to `--max-message`, besides the
//! block it is copied to.

pub mod budget;
mod client;
pub mod schedule;
mod wire;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use self::budget::{Permit, Weights};
use self::client::{Answer, Client, Content, is_throttling, refusal};
use self::schedule::{Action, Input, Now, Schedule, Timing};
use self::wire::{INPUT_BYTES, Link, OUTPUT_BYTES};
use super::inbox::Inbox;
use super::lines::{EventStamp, Full, Lines};
use super::listen::{Ear, Trigger};
use super::reason::Reason;
use super::run::{RETRY_EVENTS, STALL_SLICE};
use super::session::Ask;
use super::stall::STOP_STALL_MAX;
use super::text::Text;
use super::transport::{ConnectError, Network, Route};
use super::url::FeedUrl;
use super::wait::wait;
use super::{Command, FeedEnd, OnStall};
use crate::clock::{self, Mono, UnixNs, mono_now};
use crate::folding::Folding;
use crate::stats::{FeedStats, Phase};
use crate::tape::event::{Event, GapReason};
use crate::tape::line::Encoding;
use crate::tape::name::FeedName;

/// Headers of an answer that go to the tape, unless others are named; and that of the budget.
pub const KEPT_HEADERS: [&str; 5] =
    ["content-type", "date", "etag", "last-modified", "retry-after"];
/// More headers than this are not kept: an event's line has a limit.
pub const KEPT_HEADERS_MAX: usize = 16;
/// Buffers of one connection, in bytes.
pub const CONNECTION_BYTES: usize = INPUT_BYTES + OUTPUT_BYTES;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST, with this body.
    Post(Text),
}

/// Options of one feed that is polled.
#[derive(Debug, Clone, PartialEq)]
pub struct PollOptions {
    /// Its name.
    pub name: FeedName,
    /// What is polled.
    pub url: FeedUrl,
    /// How.
    pub method: Method,
    /// Headers for the request.
    pub headers: Vec<(String, String)>,
    /// How to get there.
    pub route: Route,
    /// When.
    pub timing: Timing,
    /// The feeds that are listened to, and what for.
    pub on: Option<(Vec<FeedName>, Vec<Trigger>)>,
    /// Largest body, decoded, in bytes.
    pub max_message: usize,
    /// Headers of the answer that go to the tape; lower case.
    pub keep_headers: Vec<String>,
    /// Whether the server may answer that there is nothing new.
    pub conditional: bool,
    /// The part in the budget of the host.
    pub weights: Option<Weights>,
    /// What must not show where the server repeats it.
    pub secrets: Vec<String>,
    /// Record exactly so many bodies, then end.
    pub messages_max: Option<u64>,
    /// When the queue is full.
    pub on_stall: OnStall,
    /// `Block` turns into `Drop` after so long.
    pub stall_deadline: Duration,
}

/// Where nothing failed for so long between answers, the failures are over.
const STEADY_AFTER: Duration = Duration::from_secs(30);

pub(super) struct PollLoop {
    options: Box<PollOptions>,
    network: Arc<Network>,
    link: Arc<Link>,
    ear: Ear,
    client: Client,
    lines: Box<Lines>,
    stats: Arc<FeedStats>,
    schedule: Schedule,
    /// Actions still to be done, in order.
    actions: Vec<Action>,
    /// Bodies recorded since the start.
    recorded: u64,
    /// Connections that the counters know of.
    connections_counted: u64,
    /// The part of the poll under way in its host's budget.
    permit: Option<Permit>,
    /// Polls that failed, for the log.
    failures: Folding,
}

impl PollLoop {
    // On the heap, as a feed's loop is.
    #[inline(never)]
    pub(super) fn new(
        options: Box<PollOptions>,
        network: Arc<Network>,
        lines: Box<Lines>,
        stats: Arc<FeedStats>,
        inbox: Inbox,
        ear: Ear,
    ) -> Box<PollLoop> {
        let waker = ear.waker.clone();
        let link = Arc::new(Link::new(network.clone(), options.route.clone(), waker, inbox));
        Box::new(PollLoop {
            client: Client::new(link.clone(), options.timing.every),
            schedule: Schedule::new(options.timing.clone(), fastrand::u64(..), now()),
            options,
            network,
            link,
            ear,
            lines,
            stats,
            actions: Vec::new(),
            recorded: 0,
            connections_counted: 0,
            permit: None,
            failures: Folding::new(1),
        })
    }

    /// Returns why it ended, and the way to the tape for a feed that goes on with it.
    pub(super) fn run(mut self: Box<PollLoop>) -> (FeedEnd, Box<Lines>) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.run_until_stopped())) {
                Ok(Ok(end)) => {
                    self.lines.end(STOP_STALL_MAX);
                    return (end, self.lines);
                }
                Ok(Err(error)) => {
                    self.log(log::Level::Error, format_args!("can't wait: {error}"));
                    // The kernel lacks memory: it is not asked again at once.
                    std::thread::sleep(RETRY_EVENTS);
                }
                Err(_) => {
                    // The panic hook has logged where and why.
                    self.lines.hole_begins(GapReason::Panic);
                    self.recover();
                }
            }
        }
    }

    /// Back to a state that is known to be sound: no poll under way.
    fn recover(&mut self) {
        self.actions.clear();
        self.settle_budget(None);
        self.client = Client::new(self.link.clone(), self.options.timing.every);
        let input = self.failed(&Reason::Panic, None, false);
        self.step(input);
    }

    fn run_until_stopped(&mut self) -> io::Result<FeedEnd> {
        self.stats.phase.set(Phase::Connecting);
        loop {
            while let Some(command) = self.next_command() {
                match command {
                    Command::Ask(ask) => self.step(Input::Asked(ask)),
                    Command::Rotate => self.lines.rotate(),
                    Command::Listeners(listeners) => self.lines.set_listeners(listeners),
                    // A poll with other options is another thread.
                    Command::Options(_) => {}
                }
            }
            if let Some(trigger) = self.ear.take() {
                self.log(log::Level::Debug, format_args!("heard of '{trigger}'"));
                self.step(Input::Heard);
            }
            self.step(Input::Tick);
            if self.schedule.is_stopped() {
                let complete = self.is_complete();
                return Ok(if complete { FeedEnd::Complete } else { FeedEnd::Stopped });
            }
            let now = now();
            self.lines.tick(now.mono, true);
            self.lines.hand_over();
            let retry = self.lines.is_waiting().then(|| now.mono.after(RETRY_EVENTS));
            let deadline = [self.schedule.deadline(now), retry].into_iter().flatten().min();
            self.stats.pulse.waits_until(deadline);
            wait(self.link.waker(), None, deadline)?;
            self.stats.pulse.works();
        }
    }

    fn next_command(&self) -> Option<Command> {
        self.link.inbox().next()
    }

    /// Gives the schedule an input, and does what it says, and so on until it says nothing.
    fn step(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.schedule.handle(now(), input, &mut self.actions);
            while next.is_none() && !self.actions.is_empty() {
                let action = self.actions.remove(0);
                next = self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Input> {
        let at = clock::wall_now();
        match action {
            Action::Poll { by, whole } => return Some(self.poll(by, whole)),
            Action::NoteStale(limit) => {
                self.stats.phase.set(Phase::Stale);
                let after_ms = limit.as_millis() as u64;
                let conn = self.link.connections();
                self.lines
                    .event(EventStamp::Own(at), &Event::Stale { conn, after_ms, key: None, at });
                let limit = crate::units::format_span(limit);
                self.log(log::Level::Warn, format_args!("stale: no answer for {limit}"));
            }
            Action::NotePaused => {
                self.lines.hole_begins(GapReason::Paused);
                self.lines.event(EventStamp::Own(at), &Event::Paused { at });
                self.lines.hand_over();
                self.stats.live.set(0);
                self.stats.phase.set(Phase::Paused);
                self.log(log::Level::Info, format_args!("paused"));
            }
            Action::NoteResumed => {
                self.lines.event(EventStamp::Own(at), &Event::Resumed { at });
                self.stats.phase.set(Phase::Connecting);
                self.log(log::Level::Info, format_args!("resumed"));
            }
        }
        None
    }

    fn poll(&mut self, by: Mono, whole: bool) -> Input {
        if let Some(weights) = &self.options.weights {
            let asked =
                self.network.budgets.ask(&self.options.url.host, weights, clock::wall_now());
            match asked {
                Ok(permit) => self.permit = Some(permit),
                Err(wait) => return self.put_off(wait),
            }
        }
        let begun = mono_now();
        self.stats.pulse.waits_until(Some(by));
        let result = self.client.call(&self.options, by, whole);
        let ms = mono_now().since(begun).as_millis() as u64;
        self.settle_budget(result.as_ref().ok().and_then(|answer| answer.used));
        self.stats.wire_bytes.add(self.link.take_wire_bytes());
        let connections = self.link.connections();
        self.stats.connections.add(connections - self.connections_counted);
        self.connections_counted = connections;
        let input = match result {
            Ok(answer) => self.take(answer, ms),
            Err(ConnectError::Failed { reason, retry_after }) => {
                let at = clock::wall_now();
                let event = Event::Http { status: None, ms, headers: &[], at };
                self.lines.event(EventStamp::Own(at), &event);
                self.failed(&reason, retry_after, false)
            }
            // What interrupted it comes next.
            Err(ConnectError::Interrupted) => Input::Interrupted,
        };
        self.lines.hand_over();
        input
    }

    fn settle_budget(&mut self, used: Option<u64>) {
        if let (Some(weights), Some(permit)) = (&self.options.weights, self.permit.take()) {
            self.network.budgets.done(&self.options.url.host, weights, permit, used);
        }
    }

    fn put_off(&mut self, wait: Duration) -> Input {
        let host = &self.options.url.host;
        let text =
            format!("the budget of {host} is used up; its polls wait until the window turns");
        self.complain(text);
        Input::PutOff { wait }
    }

    /// Puts an answer on the tape.
    fn take(&mut self, answer: Answer, ms: u64) -> Input {
        let Answer { status, stamp, retry_after, .. } = answer;
        let headers = &answer.headers;
        let event = Event::Http { status: Some(status), ms, headers, at: clock::wall_now() };
        self.lines.event(EventStamp::Read(stamp), &event);
        match answer.content {
            Content::Message(body, validators) => {
                if !self.record(stamp, &body) {
                    // It is written down as lost; what is owed is still owed.
                    return Input::Failed { retry_after: None, throttled: false };
                }
                self.client.keep(validators);
                self.answered()
            }
            Content::Nothing => self.answered(),
            Content::TooLarge(bytes) => {
                let limit = self.options.max_message as u64;
                self.lines.message_is_lost(GapReason::Oversized, bytes);
                let reason = Reason::Oversized { bytes: bytes.unwrap_or(limit + 1), limit };
                self.stats.trouble.set(&reason.to_string());
                self.log(log::Level::Error, format_args!("{reason}"));
                // Asked again at once it would be as large.
                Input::Answered
            }
            Content::Complaint(ref complaint) => {
                self.failed(&refusal(&answer, complaint), retry_after, is_throttling(status))
            }
        }
    }

    fn answered(&mut self) -> Input {
        self.stats.live.set(1);
        self.stats.phase.set(Phase::Live);
        self.stats.data_at.set(mono_now().0);
        self.note_answer();
        if self.is_complete() { Input::Asked(Ask::Complete) } else { Input::Answered }
    }

    fn failed(&mut self, reason: &Reason, retry_after: Option<Duration>, throttled: bool) -> Input {
        self.stats.live.set(0);
        self.stats.phase.set(Phase::Waiting);
        self.stats.connect_failures.add(1);
        self.complain(reason.to_string());
        Input::Failed { retry_after, throttled }
    }

    fn note_answer(&mut self) {
        if self.failures.is_clear() {
            return;
        }
        let (now, count) = (mono_now(), self.failures.count());
        let is_news = self.failures.better(now);
        if is_news || self.failures.over_after(now, STEADY_AFTER).is_some() {
            self.log(log::Level::Info, format_args!("answered again, after {count} failures"));
        }
    }

    /// The same trouble is said once, and now and then.
    fn complain(&mut self, text: String) {
        self.stats.trouble.set(&text);
        if let Some(untold) = self.failures.worse(mono_now(), &text) {
            self.log(log::Level::Warn, format_args!("{text}{untold}"));
        }
    }

    fn is_complete(&self) -> bool {
        self.options.messages_max.is_some_and(|max| self.recorded >= max)
    }

    /// Puts a body on the tape; `false` where the queue is full and it is dropped.
    fn record(&mut self, stamp: UnixNs, body: &[u8]) -> bool {
        let message = match std::str::from_utf8(body) {
            Ok(_) => Encoding::of_text(body),
            Err(_) => Encoding::of_binary(body),
        };
        while let Err(Full) = self.lines.message(stamp, &message) {
            if !self.wait_for_room(message.line_bytes()) {
                self.lines.drop_message(body.len() as u64);
                self.log(log::Level::Error, format_args!("the queue is full: a body is dropped"));
                return false;
            }
        }
        self.recorded += 1;
        true
    }

    /// Waits for a block as `--on-stall` says; `false`: drop the body.
    fn wait_for_room(&mut self, bytes: usize) -> bool {
        let begun = mono_now();
        let mut until = match self.options.on_stall {
            OnStall::Drop => return false,
            OnStall::Block => begun.after(self.options.stall_deadline),
        };
        let mut stopping = false;
        loop {
            let now = mono_now();
            self.stats.pulse.waits_until(Some(now));
            if !stopping && self.link.inbox().is_stop() {
                (stopping, until) = (true, until.min(now.after(STOP_STALL_MAX)));
            }
            if now >= until {
                return false;
            }
            if self.lines.wait_for_room(bytes, STALL_SLICE.min(until.since(now))) {
                return true;
            }
        }
    }

    fn log(&self, level: log::Level, text: std::fmt::Arguments<'_>) {
        log::log!(level, "{}: {text}", self.options.name);
    }
}

fn now() -> Now {
    Now { mono: mono_now(), wall: clock::wall_now() }
}
