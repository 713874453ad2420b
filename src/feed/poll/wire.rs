//! The streams that ureq speaks HTTP over: ours, so that lookups, deadlines, certificates, stamps
//! and stops are those of all feeds.
//!
//! Owns ureq's `Connector`, `Resolver` and `Transport` as it wants them, over
//! [`super::super::transport`]. They wait where all feeds wait, for socket and wake-up, and give up
//! at the call's one deadline or when a command wants it. What went wrong is kept here in our own
//! words; ureq hears only that something did.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::super::inbox::Inbox;
use super::super::reason::{Reason, Stage};
use super::super::transport::{Attempt, ConnectError, Endpoint, Network, Route, Stream};
use super::super::wait::Waker;
use crate::clock::{self, Mono, UnixNs, mono_now};

/// Status and headers of an answer may be so long.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;
/// What is read at once. ureq takes a head that is too long for one by its length, so one fits.
pub(super) const INPUT_BYTES: usize = HEAD_BYTES_MAX + (4 << 10);
/// What is written at once; a body goes through it in pieces.
pub(super) const OUTPUT_BYTES: usize = 16 << 10;

/// What a poll's thread shares with the transports that ureq keeps for it. All of it is used on
/// that thread only: the locks, which ureq's `Send` and `Sync` ask for, are never waited for.
pub(super) struct Link {
    network: Arc<Network>,
    route: Route,
    waker: Waker,
    inbox: Mutex<Inbox>,
    call: Mutex<Call>,
}

/// The call under way, and what became of it so far.
#[derive(Debug)]
struct Call {
    by: Mono,
    limit: Duration,
    stage: Stage,
    failure: Option<ConnectError>,
    /// When the last bytes came in.
    stamp: UnixNs,
    /// Bytes received, below TLS, not asked for yet.
    wire_bytes: u64,
    /// Connections opened since the start.
    connections: u64,
    /// Whether anything came in, or a connection was opened.
    is_begun: bool,
}

impl Link {
    pub(super) fn new(network: Arc<Network>, route: Route, waker: Waker, inbox: Inbox) -> Link {
        let call = Call {
            by: mono_now(),
            limit: Duration::ZERO,
            stage: Stage::Connect,
            failure: None,
            stamp: 0,
            wire_bytes: 0,
            connections: 0,
            is_begun: false,
        };
        Link { network, route, waker, inbox: Mutex::new(inbox), call: Mutex::new(call) }
    }

    /// Commands for the feed.
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins, to be over `by` then, `limit` after its begin.
    pub(super) fn begin(&self, by: Mono, limit: Duration) {
        let mut call = self.call();
        (call.by, call.limit, call.failure, call.is_begun) = (by, limit, None, false);
        call.stamp = clock::wall_now();
    }

    /// What is waited for from now on.
    pub(super) fn set_stage(&self, stage: Stage) {
        self.call().stage = stage;
    }

    /// What went wrong in our own words; `None` where it is ureq that did not like something.
    pub(super) fn take_failure(&self) -> Option<ConnectError> {
        self.call().failure.take()
    }

    pub(super) fn stage(&self) -> Stage {
        self.call().stage
    }

    /// When the last bytes of the call came in.
    pub(super) fn stamp(&self) -> UnixNs {
        self.call().stamp
    }

    /// Bytes received since the last call of this.
    pub(super) fn take_wire_bytes(&self) -> u64 {
        std::mem::take(&mut self.call().wire_bytes)
    }

    /// Connections opened since the start.
    pub(super) fn connections(&self) -> u64 {
        self.call().connections
    }

    /// Whether the call found a connection of an earlier one closed: nothing came in on it, and no
    /// new one was opened.
    pub(super) fn met_closed_connection(&self) -> bool {
        let call = self.call();
        let is_lost = match &call.failure {
            Some(ConnectError::Failed { reason: Reason::Failed { .. }, .. }) | None => true,
            Some(ConnectError::Failed { .. } | ConnectError::Interrupted) => false,
        };
        is_lost && !call.is_begun
    }

    /// Does something against the call's deadline; keeps the reason where it fails.
    fn attempt<T>(
        &self,
        act: impl FnOnce(&mut Attempt<'_>) -> Result<T, ConnectError>,
    ) -> Result<T, Error> {
        let (by, limit) = {
            let call = self.call();
            (call.by, call.limit)
        };
        let Link { network, route, waker, .. } = self;
        let mut interrupted = || self.inbox().is_urgent();
        act(&mut Attempt { network, route, by, limit, waker, interrupted: &mut interrupted })
            .map_err(|error| self.keep(error))
    }

    fn keep(&self, error: ConnectError) -> Error {
        self.call().failure = Some(error);
        // Of a kind that ureq takes for no end of a body.
        Error::Io(io::ErrorKind::Other.into())
    }

    fn failed(&self, stage: Stage, cause: impl ToString) -> Error {
        self.keep(ConnectError::at(stage, cause))
    }

    /// Whether the call may go on, though it has not waited for a while.
    fn check(&self) -> Result<(), Error> {
        if self.inbox().is_urgent() {
            return Err(self.keep(ConnectError::Interrupted));
        }
        let (by, limit, stage) = {
            let call = self.call();
            (call.by, call.limit, call.stage)
        };
        if mono_now() < by {
            return Ok(());
        }
        let reason = Reason::Timeout { stage, limit };
        Err(self.keep(ConnectError::Failed { reason, retry_after: None }))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Leaves lookups to the connector, which has the deadline.
#[derive(Debug)]
pub(super) struct NoLookups;

impl Resolver for NoLookups {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Opens our streams.
#[derive(Debug)]
pub(super) struct Opener(pub(super) Arc<Link>);

impl Connector for Opener {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, Error> {
        let Opener(link) = self;
        let tls = details.needs_tls();
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = details.uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        link.set_stage(Stage::Connect);
        let (stream, _) = link.attempt(|attempt| attempt.open(Endpoint { host, port, tls }))?;
        let mut call = link.call();
        call.connections += 1;
        call.is_begun = true;
        drop(call);
        let buffers = LazyBuffers::new(INPUT_BYTES, OUTPUT_BYTES);
        Ok(Some(Wire { stream, buffers, tls, counted: 0, link: link.clone() }))
    }
}

/// A stream as ureq wants it.
pub(super) struct Wire {
    stream: Stream,
    buffers: LazyBuffers,
    tls: bool,
    /// Bytes received that the link knows of.
    counted: u64,
    link: Arc<Link>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// Waits for what the last call on the stream would have blocked on.
fn wait(link: &Link, stream: &Stream) -> Result<(), Error> {
    let socket = stream.socket();
    let blocked = Some((stream.as_fd(), socket.blocked_on()));
    link.attempt(|attempt| attempt.wait(link.stage(), blocked, attempt.by)).map(|_| ())
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let Wire { stream, buffers, link, .. } = self;
        link.set_stage(Stage::Request);
        let mut left = &buffers.output()[..amount];
        while !left.is_empty() {
            link.check()?;
            match stream.write(left) {
                Ok(0) => return Err(link.failed(Stage::Request, "the connection takes nothing")),
                Ok(sent) => left = &left[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(link, stream)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(link.failed(Stage::Request, error)),
            }
        }
        // Neither TLS nor the socket keep anything back.
        stream.flush().map_err(|error| link.failed(Stage::Request, error))?;
        link.set_stage(Stage::Answer);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let Wire { stream, buffers, link, counted, .. } = self;
        loop {
            link.check()?;
            match stream.read(buffers.input_append_buf()) {
                Ok(bytes) => {
                    buffers.input_appended(bytes);
                    let socket = stream.socket();
                    let mut call = link.call();
                    call.wire_bytes += socket.wire_bytes() - *counted;
                    *counted = socket.wire_bytes();
                    if bytes > 0 {
                        (call.stamp, call.is_begun) = (socket.stamp(), true);
                    }
                    return Ok(bytes > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(link, stream)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(link.failed(link.stage(), error)),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Nothing is under way: whatever can be read is no answer to anything, or the end.
        let mut scrap = [0];
        matches!(self.stream.read(&mut scrap), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    fn is_tls(&self) -> bool {
        self.tls
    }
}
