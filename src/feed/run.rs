//! What a feed's thread does.
//!
//! The loop does what the session decides, and nothing on its own: read until the socket would
//! block (or a block is full, or 64 messages came), hand over what there is, look at the
//! deadlines, wait on socket and wake-up descriptor until the next one. It waits nowhere else but
//! for a block of the pool. A panic costs the connection, not the feed.

mod said;
mod talk;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::connection::{Connection, Incoming};
use super::current;
use super::inbox::Inbox;
use super::keys::Keys;
use super::lines::{EventStamp, Full, Lines};
use super::listen::Trigger;
use super::session::{Action, Ask, Input, Reason, Session};
use super::stack;
use super::stall::{STOP_STALL_MAX, Stall};
use super::transport::{Attempt, ConnectError, Network};
use super::upgrade::{self, Upgraded};
use super::wait::{Waker, wait};
use super::{Command, FeedEnd, FeedOptions, OnStall};
use crate::clock::{self, Mono, UnixNs, mono_now};
use crate::folding::Folding;
use crate::stats::{FeedStats, Phase};
use crate::tape::event::{Event, GapReason};
use crate::tape::line::Encoding;
use crate::units::format_span;

/// Messages read before deadlines are looked at again.
const READS_MAX: usize = 64;
/// While a block could not be handed over, it is tried again this often.
const RETRY_HAND_OVER: Duration = Duration::from_millis(2);
/// While events or gaps wait for a block, it is tried again this often.
pub(super) const RETRY_EVENTS: Duration = Duration::from_millis(50);
/// With `--on-stall drop` a message larger than a block waits so long for its turn, once a stall.
const PERMIT_WAIT_MAX: Duration = Duration::from_secs(1);
/// While a feed waits for a block, commands are looked at this often.
pub(super) const STALL_SLICE: Duration = Duration::from_millis(50);
/// While a feed waits for a block, the server hears from us this often.
const STALL_PONG_EVERY: Duration = Duration::from_secs(5);
/// With `--on-stall block` a stall that lasts so long is logged.
const STALL_LOG_AFTER: Duration = Duration::from_secs(1);

/// Of failures in a row so many are logged one by one.
const FAILURES_LOGGED_SINGLY: u64 = 3;

/// Figures of one connection, for its `disconnected` event.
#[derive(Debug, Clone, Copy)]
struct Figures {
    since: Mono,
    messages: u64,
    bytes: u64,
}

pub(super) struct FeedLoop {
    options: Arc<FeedOptions>,
    network: Arc<Network>,
    lines: Box<Lines>,
    stats: Arc<FeedStats>,
    inbox: Inbox,
    waker: Waker,
    session: Session,
    /// Actions still to be done, in order.
    actions: Vec<Action>,
    connection: Option<Connection>,
    keys: Option<Keys>,
    /// Number of the last connection.
    conn: u64,
    /// When it may connect, where the host's budget was spent.
    turn: Option<Mono>,
    figures: Figures,
    /// Messages recorded since the start.
    recorded: u64,
    /// Subscriptions that wait for those before them to leave.
    to_send: VecDeque<usize>,
    /// Subscriptions, or a part of them, may still be on their way into the socket.
    subscribing: bool,
    stall: Stall,
    /// Attempts and connections that failed, for the log.
    failures: Folding,
    wire_bytes_counted: u64,
}

impl FeedLoop {
    // On the heap, and made in a function of its own, as are others below: what they put on the
    // stack would lie under the upgrade, which goes deepest, and hundreds of threads hold what
    // they have touched of their stacks as long as they live.
    #[inline(never)]
    pub(super) fn new(
        options: Arc<FeedOptions>,
        network: Arc<Network>,
        lines: Box<Lines>,
        stats: Arc<FeedStats>,
        inbox: Inbox,
        waker: Waker,
    ) -> Box<FeedLoop> {
        let now = mono_now();
        let session = Session::new(options.rules.clone(), fastrand::u64(..), now);
        Box::new(FeedLoop {
            conn: stats.last_conn.get(),
            keys: options.keys.clone().map(Keys::new),
            options,
            network,
            lines,
            stats,
            inbox,
            waker,
            session,
            actions: Vec::new(),
            connection: None,
            turn: None,
            figures: Figures { since: now, messages: 0, bytes: 0 },
            recorded: 0,
            to_send: VecDeque::new(),
            subscribing: false,
            stall: Stall::default(),
            failures: Folding::new(FAILURES_LOGGED_SINGLY),
            wire_bytes_counted: 0,
        })
    }

    /// Returns why it ended, and the way to the tape for a feed that goes on with it.
    pub(super) fn run(mut self: Box<FeedLoop>) -> (FeedEnd, Box<Lines>) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.run_until_stopped())) {
                Ok(Ok(end)) => {
                    self.lines.end(STOP_STALL_MAX);
                    return (end, self.lines);
                }
                Ok(Err(error)) => {
                    self.log(log::Level::Error, format_args!("can't wait for its socket: {error}"));
                    self.give_up_connection(Reason::Lost { cause: error.to_string() });
                    // The kernel lacks memory: it is not asked again at once.
                    std::thread::sleep(RETRY_EVENTS);
                }
                Err(_) => {
                    // The panic hook has logged where and why.
                    self.lines.hole_begins(GapReason::Panic);
                    self.give_up_connection(Reason::Panic);
                }
            }
        }
    }

    /// Back to a state that is known to be sound: no connection.
    fn give_up_connection(&mut self, reason: Reason) {
        self.actions.clear();
        // Only one of the two says something to the session: whichever it was in the middle of.
        self.step(Input::ConnectFailed { reason: reason.clone(), retry_after: None });
        self.step(Input::Broken(reason));
    }

    fn run_until_stopped(&mut self) -> io::Result<FeedEnd> {
        loop {
            while let Some(command) = self.inbox.next() {
                match command {
                    Command::Ask(ask) => self.step(Input::Asked(ask)),
                    Command::Rotate => self.lines.rotate(),
                    Command::Options(options) => self.change_options(options),
                    Command::Listeners(listeners) => {
                        // Who begins to listen now has not heard that it is connected.
                        if self.session.is_live() {
                            self.lines.tell_new(&listeners, Trigger::Connected);
                        }
                        self.lines.set_listeners(listeners);
                    }
                }
            }
            let conn = self.conn;
            self.stats.pulse.works();
            let drained = self.read_some();
            self.step(Input::Tick);
            if self.session.is_stopped() {
                return Ok(match (self.session.is_refused(), self.is_complete()) {
                    (true, _) => FeedEnd::Refused,
                    (false, true) => FeedEnd::Complete,
                    (false, false) => FeedEnd::Stopped,
                });
            }
            let now = mono_now();
            self.look_for_silent_keys(now);
            self.lines.tick(now, drained);
            // The first read of a connection comes before the first wait: messages may stand behind
            // the 101 already, out of poll's sight.
            if drained && self.conn == conn {
                let handed_over = self.lines.hand_over_if_wanted();
                self.wait(now, handed_over)?;
            }
        }
    }

    /// Closes the connection and goes on with the new options.
    #[inline(never)]
    fn change_options(&mut self, options: Arc<FeedOptions>) {
        self.keys = options.keys.clone().map(Keys::new);
        self.session.set_rules(options.rules.clone(), fastrand::u64(..));
        self.lines.set_url(options.target.url.to_string());
        self.options = options;
        self.step(Input::Asked(Ask::Reload));
    }

    fn wait(&mut self, now: Mono, handed_over: bool) -> io::Result<()> {
        let hand_over = (!handed_over).then(|| now.after(RETRY_HAND_OVER));
        let events = self.lines.is_waiting().then(|| now.after(RETRY_EVENTS));
        let keys = self.keys.as_ref().and_then(Keys::deadline);
        let deadlines = [self.session.deadline(), hand_over, events, keys];
        let deadline = deadlines.into_iter().flatten().min();
        let socket = self.connection.as_ref().map(|c| (c.as_fd(), c.interest()));
        self.stats.pulse.waits_until(deadline);
        wait(&self.waker, socket, deadline).map(|_| ())
    }

    /// Reads what there is, up to a block or [`READS_MAX`] messages; `true` once there is nothing
    /// more for now.
    fn read_some(&mut self) -> bool {
        if self.connection.is_none() {
            return true;
        }
        let handed_over = self.lines.handed_over();
        let now = mono_now();
        let (mut any, mut data, mut drained, mut last) = (false, false, false, None);
        for _ in 0..READS_MAX {
            let Some(connection) = &mut self.connection else {
                break;
            };
            match connection.read() {
                Incoming::Text(text) => {
                    any = true;
                    let stamp = connection.socket().stamp();
                    self.record(stamp, &Encoding::of_text(text.as_bytes()));
                    data |= self.understand(text.as_bytes(), false, now);
                    if let Some(connection) = &mut self.connection {
                        connection.done_with(text);
                    }
                }
                Incoming::Binary(bytes) => {
                    any = true;
                    let stamp = connection.socket().stamp();
                    self.record(stamp, &Encoding::of_binary(&bytes));
                    data |= self.understand(&bytes, true, now);
                    if let Some(connection) = &mut self.connection {
                        connection.done_with(bytes);
                    }
                }
                Incoming::Control => any = true,
                Incoming::Nothing => {
                    drained = true;
                    break;
                }
                end @ (Incoming::CloseFrame(_) | Incoming::End | Incoming::Broken(_)) => {
                    last = Some(end);
                    break;
                }
            }
            if self.is_complete() || self.lines.handed_over() != handed_over {
                break;
            }
        }
        if data {
            self.stats.data_at.set(now.0);
            self.note_health(now);
        }
        self.after_reading(any, data, last);
        drained
    }

    fn after_reading(&mut self, any: bool, data: bool, last: Option<Incoming>) {
        self.count_wire_bytes();
        if any {
            self.step(Input::Received { data });
        }
        if any && self.is_complete() {
            self.step(Input::Asked(Ask::Complete));
        }
        match last {
            Some(Incoming::CloseFrame(reason)) => {
                // The reply to it should leave before the socket is dropped.
                self.flush();
                self.step(Input::Broken(reason));
            }
            Some(Incoming::Broken(reason)) => self.step(Input::Broken(reason)),
            Some(Incoming::End) => {
                let cause = "ended by the server".to_string();
                self.step(Input::Broken(Reason::Lost { cause }));
            }
            _ => self.flush(),
        }
    }

    fn is_complete(&self) -> bool {
        self.options.messages_max.is_some_and(|max| self.recorded >= max)
    }

    fn record(&mut self, ts: UnixNs, message: &Encoding<'_>) {
        if self.is_complete() {
            return;
        }
        while let Err(Full) = self.lines.message(ts, message) {
            if !self.wait_for_room(message.line_bytes()) {
                self.note_dropping();
                self.lines.drop_message(message.payload_bytes() as u64);
                return;
            }
        }
        if self.stall.since.is_some()
            && let Some(dropped) = self.stall.end()
        {
            let text = format_args!("the queue has room again; {dropped} messages were dropped");
            self.log(log::Level::Warn, text);
        }
        self.recorded += 1;
        self.figures.messages += 1;
        self.figures.bytes += message.payload_bytes() as u64;
    }

    /// Waits for a block as `--on-stall` says; `false`: drop the message.
    fn wait_for_room(&mut self, bytes: usize) -> bool {
        let now = mono_now();
        let since = *self.stall.since.get_or_insert(now);
        let limit = match self.options.on_stall {
            // Another large message on its way is no stall.
            OnStall::Drop if self.lines.needs_permit(bytes) => PERMIT_WAIT_MAX,
            OnStall::Drop => return false,
            OnStall::Block => self.options.stall_deadline,
        };
        let mut pong_at = now.after(STALL_PONG_EVERY);
        loop {
            let now = mono_now();
            self.stats.pulse.waits_until(Some(now));
            let end = self.stall.wait_until(now, limit, self.inbox.is_stop());
            if now >= end {
                return false;
            }
            if now.since(since) >= STALL_LOG_AFTER && self.stall.is_news(now) {
                let text = "the queue is full: the disk takes less than the feeds bring; waiting";
                self.log(log::Level::Warn, format_args!("{text}"));
            }
            if now >= pong_at {
                // We don't read, so its pings are not answered; a lost connection shows later.
                let _ = self.connection.as_mut().map(Connection::pong);
                pong_at = now.after(STALL_PONG_EVERY);
            }
            if self.lines.wait_for_room(bytes, STALL_SLICE.min(end.since(now))) {
                return true;
            }
        }
    }

    fn note_dropping(&mut self) {
        if self.stall.drops_news(mono_now()) {
            let text = "the queue is full: messages are dropped until the disk takes them again";
            self.log(log::Level::Error, format_args!("{text}"));
        }
    }

    /// Gives the session an input, and does what it says, and so on until it says nothing.
    fn step(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.session.handle(mono_now(), input, &mut self.actions);
            // At the latest before it connects, which takes a while; an operator is told that a
            // feed is paused once it is on the tape.
            if let Some(phase) = self.session.phase()
                && phase != Phase::Paused
            {
                self.stats.phase.set(phase);
            }
            while next.is_none() && !self.actions.is_empty() {
                let action = self.actions.remove(0);
                next = self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Connect { by } => self.connect(by),
            Action::Subscribe(n) => self.subscribe(n),
            Action::GoLive => {
                self.lines.hole_ends();
                self.stats.live.set(1);
                if let Some(keys) = &mut self.keys {
                    keys.begin(mono_now());
                }
                self.lines.tell(Trigger::Connected);
                None
            }
            Action::Ping => self.connection.as_mut()?.ping().err().map(Input::Broken),
            Action::Heartbeat => {
                let text = self.options.heartbeat.as_ref()?;
                self.connection.as_mut()?.send_text(&text.value).err().map(Input::Broken)
            }
            Action::NoteStale(limit) => {
                self.stats.phase.set(Phase::Stale);
                let after_ms = limit.as_millis() as u64;
                let at = clock::wall_now();
                let event = Event::Stale { conn: self.conn, after_ms, key: None, at };
                self.lines.event(EventStamp::Previous, &event);
                None
            }
            Action::Close { code, frames } => {
                self.connection.as_mut()?.close(code, frames);
                None
            }
            Action::Disconnect(reason) => {
                self.disconnect(&reason);
                None
            }
            Action::NotePaused => {
                self.lines.hole_begins(GapReason::Paused);
                let at = clock::wall_now();
                self.lines.event(EventStamp::Own(at), &Event::Paused { at });
                self.lines.hand_over();
                self.stats.phase.set(Phase::Paused);
                self.log(log::Level::Info, format_args!("paused"));
                None
            }
            Action::NoteResumed => {
                let at = clock::wall_now();
                self.lines.event(EventStamp::Own(at), &Event::Resumed { at });
                self.log(log::Level::Info, format_args!("resumed"));
                None
            }
        }
    }

    #[inline(never)]
    fn connect(&mut self, by: Mono) -> Option<Input> {
        let now = mono_now();
        if let Some(rate) = self.options.connect_rate {
            let host = &self.options.target.url.host;
            let turn = self.turn.take();
            if let Err(until) = self.network.connects.take(host, rate, turn, now) {
                self.turn = Some(until);
                let wait = format_span(until.since(now));
                let level = match self.failures.is_folding() {
                    true => log::Level::Debug,
                    false => log::Level::Info,
                };
                self.log(level, format_args!("{host} allows {rate}: connecting in {wait}"));
                return Some(Input::Postponed { until });
            }
        }
        self.begin_connection(now);
        self.stats.pulse.waits_until(Some(by));
        let limit = self.options.rules.connect_timeout;
        let FeedLoop { options, network, waker, inbox, .. } = self;
        let mut interrupted = || inbox.is_urgent();
        let route = &options.target.route;
        let mut attempt =
            Attempt { network, route, by, limit, waker, interrupted: &mut interrupted };
        match upgrade::connect(&options.target, &mut attempt) {
            Ok(upgraded) => {
                self.connected(upgraded);
                Some(Input::Connected)
            }
            Err(ConnectError::Failed { reason, retry_after }) => {
                Some(Input::ConnectFailed { reason, retry_after })
            }
            // What interrupted it comes next, and ends the attempt.
            Err(ConnectError::Interrupted) => None,
        }
    }

    #[inline(never)]
    fn begin_connection(&mut self, now: Mono) {
        self.conn += 1;
        self.stats.last_conn.set(self.conn);
        current::set_conn(self.conn);
        self.figures = Figures { since: now, messages: 0, bytes: 0 };
        let url = self.options.target.url.to_string();
        let at = clock::wall_now();
        let event = Event::Connecting { conn: self.conn, url: &url, at };
        self.lines.event(EventStamp::Own(at), &event);
        self.lines.hand_over();
    }

    #[inline(never)]
    fn connected(&mut self, upgraded: Box<Upgraded>) {
        let peer = upgraded.peer.to_string();
        let status = upgraded.status;
        let way = upgraded.way.clone();
        let subprotocol = upgraded.subprotocol.clone();
        let connection = Connection::new(*upgraded);
        let socket = connection.socket();
        let event = Event::Connected {
            conn: self.conn,
            peer: &peer,
            status,
            subprotocol: subprotocol.as_deref(),
            clock: socket.clock(),
            at: clock::wall_now(),
        };
        self.lines.set_conn(Some(self.conn));
        self.lines.event(EventStamp::Read(socket.stamp()), &event);
        self.connection = Some(connection);
        self.wire_bytes_counted = 0;
        self.stats.connections.add(1);
        let now = mono_now();
        self.stats.connected_at.set(now.0);
        let took = now.since(self.figures.since).as_millis();
        self.log_connected(now, format_args!("connected to {peer} in {took} ms{way}"));
        stack::release_deep_end();
    }

    fn count_wire_bytes(&mut self) {
        if let Some(connection) = &self.connection {
            let bytes = connection.socket().wire_bytes();
            self.stats.wire_bytes.add(bytes - self.wire_bytes_counted);
            self.wire_bytes_counted = bytes;
        }
    }

    #[inline(never)]
    fn disconnect(&mut self, reason: &Reason) {
        let was_connected = self.connection.take().is_some();
        self.to_send.clear();
        self.subscribing = false;
        if was_connected {
            if let Some(cause) = reason.cause() {
                self.stats.causes.count(cause);
            }
            self.begin_hole(reason);
        } else {
            self.stats.connect_failures.add(1);
        }
        self.lines.set_conn(None);
        self.stats.live.set(0);
        if let Some(keys) = &mut self.keys {
            keys.end();
        }
        let (text, at) = (reason.to_string(), clock::wall_now());
        let event = Event::Disconnected {
            conn: self.conn,
            reason: &text,
            // Where nobody was connected nothing was sent or received.
            code: if was_connected { reason.event_code() } else { None },
            duration_ms: mono_now().since(self.figures.since).as_millis() as u64,
            messages: self.figures.messages,
            bytes: self.figures.bytes,
            at,
        };
        self.lines.event(EventStamp::Own(at), &event);
        self.lines.hand_over();
        self.log_end(reason, &text, was_connected);
    }

    fn begin_hole(&mut self, reason: &Reason) {
        self.lines.hole_begins(match reason {
            Reason::Oversized { .. } => GapReason::Oversized,
            Reason::Panic => GapReason::Panic,
            Reason::Paused => GapReason::Paused,
            Reason::Stopped | Reason::Complete => return,
            Reason::Reconnect
            | Reason::Reload
            | Reason::NoAnswer { .. }
            | Reason::NoAck { .. }
            | Reason::Refused { .. }
            | Reason::SilentKey { .. }
            | Reason::Failed { .. }
            | Reason::Timeout { .. }
            | Reason::Stale { .. }
            | Reason::NoPong { .. }
            | Reason::ServerClosed { .. }
            | Reason::Lost { .. }
            | Reason::Protocol { .. }
            | Reason::InvalidUtf8 => GapReason::Reconnect,
        });
    }
}
