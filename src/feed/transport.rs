//! Getting through to a server: lookup, TCP, proxy and TLS, against one deadline.
//!
//! Owns the steps and what their failures are called. The socket never blocks; each step that
//! would waits in [`super::wait`]. What is spoken to a proxy is `tunnel.rs`'s, to a server
//! [`super::upgrade`]'s and [`super::connection`]'s.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use native_tls::{HandshakeError as TlsHandshakeError, TlsStream};

use super::budget::ConnectBudgets;
use super::poll::budget::Budgets;
use super::proxy::Proxies;
use super::session::{Reason, Stage};
use super::socket::Socket;
use super::tls::{TlsConnectors, TlsOptions};
use super::tunnel;
use super::wait::{Interest, Waker, Woken, wait};
use crate::clock::{Mono, mono_now};
use crate::resolver::Resolver;
use crate::tape::event::StampClock;

/// An address gets at least so long before the next one is tried.
const ATTEMPT_MIN: Duration = Duration::from_millis(250);

/// How to get to a server, whichever it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// For `wss` and `https`.
    pub tls: TlsOptions,
    /// Which stamps are wanted.
    pub clock: StampClock,
    /// Through whom.
    pub proxies: Proxies,
    /// From where.
    pub from: Origin,
}

/// From where connections are made, and so to which addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// The system chooses.
    #[default]
    Any,
    /// From addresses of one family, IPv4 or IPv6.
    Family {
        /// IPv4, else IPv6.
        v4: bool,
    },
    /// From this local address.
    Address(IpAddr),
}

impl Origin {
    fn address(self) -> Option<IpAddr> {
        match self {
            Origin::Any | Origin::Family { .. } => None,
            Origin::Address(address) => Some(address),
        }
    }

    /// Those of `addresses` that can be reached from here.
    fn reachable(self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
        let (v4, wanted_by) = match self {
            Origin::Any => return Ok(addresses),
            Origin::Family { v4 } => (v4, format!("--family {}", if v4 { "ipv4" } else { "ipv6" })),
            Origin::Address(from) => (from.is_ipv4(), format!("--bind {from}")),
        };
        let (kept, other): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| address.is_ipv4() == v4);
        if !kept.is_empty() {
            return Ok(kept);
        }
        let family = if v4 { "IPv4" } else { "IPv6" };
        let other: Vec<String> = other.iter().map(|address| address.ip().to_string()).collect();
        let other = other.join(", ");
        Err(format!("{wanted_by} needs an {family} address, and there is only {other}"))
    }
}

/// A server.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// Name or address, without the brackets of IPv6.
    pub host: &'a str,
    /// TCP port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// What all feeds share for connecting.
pub struct Network {
    /// Name lookups.
    pub resolver: Resolver,
    /// TLS connectors.
    pub connectors: TlsConnectors,
    /// Connections that hosts allow.
    pub connects: ConnectBudgets,
    /// What polls may still ask of their hosts.
    pub budgets: Budgets,
}

impl Network {
    /// With the threads for name lookups, and nothing used up yet.
    ///
    /// # Errors
    /// No threads to be had.
    pub fn start() -> io::Result<Network> {
        Ok(Network {
            resolver: Resolver::start()?,
            connectors: TlsConnectors::default(),
            connects: ConnectBudgets::default(),
            budgets: Budgets::default(),
        })
    }
}

/// TCP, with or without TLS.
pub enum Stream {
    /// `ws`.
    Plain(Socket),
    /// `wss`.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(buf),
            Stream::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// It failed.
    Failed {
        /// Why.
        reason: Reason,
        /// When the server said to come back.
        retry_after: Option<Duration>,
    },
    /// `interrupted` said so.
    Interrupted,
}

impl ConnectError {
    pub(super) fn at(stage: Stage, cause: impl ToString) -> ConnectError {
        let reason = Reason::Failed { stage, cause: printable(&cause.to_string()) };
        ConnectError::Failed { reason, retry_after: None }
    }

    /// Where there is a cause: the same with words before it.
    pub(super) fn with_context(self, context: impl std::fmt::Display) -> ConnectError {
        match self {
            ConnectError::Failed { reason: Reason::Failed { stage, cause }, retry_after } => {
                let reason = Reason::Failed { stage, cause: format!("{context}: {cause}") };
                ConnectError::Failed { reason, retry_after }
            }
            other => other,
        }
    }
}

/// Text from the other side, fit for a log: no control characters, no more than 500 characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One attempt to get to a server and be understood there, with one deadline for all of it.
pub(super) struct Attempt<'a> {
    pub(super) network: &'a Arc<Network>,
    pub(super) route: &'a Route,
    /// The deadline, and the limit that it came from.
    pub(super) by: Mono,
    pub(super) limit: Duration,
    pub(super) waker: &'a Waker,
    /// Asked whenever the waker is called: whether to give up.
    pub(super) interrupted: &'a mut dyn FnMut() -> bool,
}

impl Attempt<'_> {
    /// The same attempt, another way.
    pub(super) fn by_way_of<'a>(&'a mut self, route: &'a Route) -> Attempt<'a> {
        Attempt {
            network: self.network,
            route,
            by: self.by,
            limit: self.limit,
            waker: self.waker,
            interrupted: &mut *self.interrupted,
        }
    }

    /// Opens a stream to the server, through a proxy where there is one; all addresses are tried.
    /// The address is the one that we are connected to: the proxy's, where there is one.
    ///
    /// # Errors
    /// The first stage that failed, or that the deadline passed in.
    pub(super) fn open(
        &mut self,
        endpoint: Endpoint<'_>,
    ) -> Result<(Stream, SocketAddr), ConnectError> {
        let proxy = self.route.proxies.pick(endpoint);
        let (socket, peer) = match proxy {
            None => self.reach(endpoint.host, endpoint.port)?,
            Some(proxy) => {
                let (mut socket, peer) = self
                    .reach(&proxy.host, proxy.port)
                    .map_err(|error| error.with_context(format_args!("proxy {proxy}")))?;
                tunnel::open(self, &mut socket, proxy, endpoint)?;
                (socket, peer)
            }
        };
        let stream = if endpoint.tls {
            Stream::Tls(Box::new(self.secure(socket, endpoint.host)?))
        } else {
            Stream::Plain(socket)
        };
        Ok((stream, peer))
    }

    fn reach(&mut self, host: &str, port: u16) -> Result<(Socket, SocketAddr), ConnectError> {
        let addresses = self.look_up(host, port)?;
        let addresses = self
            .route
            .from
            .reachable(addresses)
            .map_err(|cause| ConnectError::at(Stage::Connect, cause))?;
        self.connect_to_any(&addresses)
    }

    /// Waits for the socket, or for the waker alone. `Ok(false)`: `until` passed, but not `by`.
    pub(super) fn wait(
        &mut self,
        stage: Stage,
        socket: Option<(BorrowedFd<'_>, Interest)>,
        until: Mono,
    ) -> Result<bool, ConnectError> {
        loop {
            let deadline = until.min(self.by);
            match wait(self.waker, socket, Some(deadline)) {
                Ok(Woken::Socket) => return Ok(true),
                Ok(Woken::Waker) => {
                    if (self.interrupted)() {
                        return Err(ConnectError::Interrupted);
                    }
                    if socket.is_none() {
                        return Ok(true);
                    }
                }
                Ok(Woken::Deadline) => {}
                Err(error) => return Err(ConnectError::at(stage, error)),
            }
            let now = mono_now();
            if now >= self.by {
                let reason = Reason::Timeout { stage, limit: self.limit };
                return Err(ConnectError::Failed { reason, retry_after: None });
            }
            if now >= until {
                return Ok(false);
            }
        }
    }

    fn look_up(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let (sender, answer) = bounded(1);
        let waker = self.waker.clone();
        let reply = Box::new(move |addresses| {
            // Nobody may be waiting any more: then the answer is dropped.
            let _ = sender.try_send(addresses);
            waker.wake();
        });
        let failed = |error: io::Error| ConnectError::at(Stage::Lookup, error);
        self.network.resolver.look_up(host, port, self.by, reply).map_err(failed)?;
        loop {
            self.wait(Stage::Lookup, None, self.by)?;
            match answer.try_recv() {
                Ok(Ok(addresses)) if addresses.is_empty() => {
                    return Err(ConnectError::at(Stage::Lookup, "the name has no address"));
                }
                Ok(addresses) => return addresses.map_err(failed),
                Err(_) => {}
            }
        }
    }

    fn connect_to_any(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<(Socket, SocketAddr), ConnectError> {
        let mut failures = Vec::new();
        for (n, address) in addresses.iter().enumerate() {
            let left = (addresses.len() - n) as u32;
            let share = (self.by.since(mono_now()) / left).max(ATTEMPT_MIN);
            match self.connect_to(*address, mono_now().after(share))? {
                Ok(socket) => return Ok((socket, *address)),
                Err(cause) => failures.push(format!("{address}: {cause}")),
            }
        }
        Err(ConnectError::at(Stage::Connect, failures.join(", ")))
    }

    /// The inner error is one address's: the next may do better.
    fn connect_to(
        &mut self,
        address: SocketAddr,
        until: Mono,
    ) -> Result<Result<Socket, String>, ConnectError> {
        let socket = match Socket::connect(address, self.route.from.address(), self.route.clock) {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if !self.wait(Stage::Connect, Some((socket.as_fd(), Interest::Write)), until)? {
            return Ok(Err("no answer".to_string()));
        }
        Ok(socket.finish_connect().map(|()| socket).map_err(|error| error.to_string()))
    }

    fn secure(
        &mut self,
        mut socket: Socket,
        host: &str,
    ) -> Result<TlsStream<Socket>, ConnectError> {
        let connector = self
            .network
            .connectors
            .get(&self.route.tls)
            .map_err(|error| ConnectError::at(Stage::Tls, error))?;
        socket.read_ahead();
        let mut result = connector.connect(host, socket);
        loop {
            match result {
                Ok(stream) => return Ok(stream),
                Err(TlsHandshakeError::WouldBlock(mid)) => {
                    let socket = mid.get_ref();
                    let blocked = Some((socket.as_fd(), socket.blocked_on()));
                    self.wait(Stage::Tls, blocked, self.by)?;
                    result = mid.handshake();
                }
                Err(TlsHandshakeError::Failure(error)) => {
                    return Err(ConnectError::at(Stage::Tls, error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_other_family_are_left_out() {
        let all: Vec<SocketAddr> =
            ["[::1]:7", "1.1.1.1:7", "[::2]:7"].map(|text| text.parse().unwrap()).to_vec();
        let check = |from: Origin, expected: &[usize]| {
            let expected: Vec<SocketAddr> = expected.iter().map(|at| all[*at]).collect();
            assert_eq!(from.reachable(all.clone()), Ok(expected), "{from:?}");
        };
        let bind = |text: &str| Origin::Address(text.parse().unwrap());
        check(Origin::Any, &[0, 1, 2]);
        check(Origin::Family { v4: true }, &[1]);
        check(Origin::Family { v4: false }, &[0, 2]);
        check(bind("127.0.0.1"), &[1]);
        check(bind("::1"), &[0, 2]);
        let error = bind("127.0.0.1").reachable(vec![all[0], all[2]]).unwrap_err();
        assert!(error.contains("--bind 127.0.0.1") && error.contains("::1, ::2"), "{error}");
    }
}
