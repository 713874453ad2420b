//! Making a connection: lookup, TCP, TLS and upgrade, against one deadline.
//!
//! Owns the steps and what their failures are called. The socket never blocks; each step that
//! would waits in [`super::wait`]. What is sent and read afterwards is [`super::connection`]'s.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use native_tls::{HandshakeError as TlsHandshakeError, TlsStream};
use tungstenite::client::client_with_config;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError as UpgradeError;
use tungstenite::handshake::client::{Request, Response, generate_key};
use tungstenite::http;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, WebSocket};

use super::session::{Reason, Stage};
use super::socket::Socket;
use super::tls::{TlsConnectors, TlsOptions};
use super::url::FeedUrl;
use super::wait::{Interest, Waker, Woken, wait};
use crate::clock::{self, Mono, mono_now};
use crate::resolver::Resolver;
use crate::tape::event::StampClock;

/// An address gets at least so long before the next one is tried.
const ATTEMPT_MIN: Duration = Duration::from_millis(250);
/// Room for a subscription and some pongs that the socket does not take at once.
const WRITE_BUFFER_BYTES_MAX: usize = 1 << 20;
/// tungstenite zeroes what is left of it at each read: large enough to bring many messages at
/// once, small enough for many feeds.
pub(crate) const READ_BUFFER_BYTES: usize = 16 << 10;
/// A longer Retry-After is taken for a mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address.
    pub url: FeedUrl,
    /// Headers for the upgrade.
    pub headers: Vec<(String, String)>,
    /// Subprotocols offered, in order of preference.
    pub subprotocols: Vec<String>,
    /// For `wss`.
    pub tls: TlsOptions,
    /// Largest message, in bytes.
    pub max_message: usize,
    /// Which stamps are wanted.
    pub clock: StampClock,
}

/// What all feeds share for connecting.
pub struct Network {
    /// Name lookups.
    pub resolver: Resolver,
    /// TLS connectors.
    pub connectors: TlsConnectors,
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

/// A connection after its upgrade.
pub struct Upgraded {
    /// The WebSocket.
    pub socket: WebSocket<Stream>,
    /// The address that answered.
    pub peer: SocketAddr,
    /// HTTP status of the upgrade.
    pub status: u16,
    /// The subprotocol agreed on.
    pub subprotocol: Option<String>,
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
    fn at(stage: Stage, cause: impl ToString) -> ConnectError {
        let reason = Reason::Failed { stage, cause: printable(&cause.to_string()) };
        ConnectError::Failed { reason, retry_after: None }
    }
}

/// Text from the other side, fit for a log: no control characters, no more than 500 characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Makes a connection, within `limit` and at the latest at `by`. `interrupted` is asked whenever
/// the waker is called.
///
/// # Errors
/// The first stage that failed, or that the deadline passed in.
pub fn connect(
    target: &Target,
    network: &Arc<Network>,
    (by, limit): (Mono, Duration),
    waker: &Waker,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Upgraded, ConnectError> {
    let mut attempt = Attempt { target, network, by, limit, waker, interrupted };
    let addresses = attempt.look_up()?;
    let (socket, peer) = attempt.connect_to_any(&addresses)?;
    let stream = if target.url.tls {
        Stream::Tls(Box::new(attempt.secure(socket)?))
    } else {
        Stream::Plain(socket)
    };
    attempt.upgrade(stream, peer)
}

struct Attempt<'a> {
    target: &'a Target,
    network: &'a Arc<Network>,
    by: Mono,
    limit: Duration,
    waker: &'a Waker,
    interrupted: &'a mut dyn FnMut() -> bool,
}

impl Attempt<'_> {
    /// Waits for the socket, or for the waker alone. `Ok(false)`: `until` passed, but not `by`.
    fn wait(
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

    fn look_up(&mut self) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = (&self.target.url.host, self.target.url.port);
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
        let socket = match Socket::connect(address, self.target.clock) {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if !self.wait(Stage::Connect, Some((socket.as_fd(), Interest::Write)), until)? {
            return Ok(Err("no answer".to_string()));
        }
        Ok(socket.finish_connect().map(|()| socket).map_err(|error| error.to_string()))
    }

    fn secure(&mut self, mut socket: Socket) -> Result<TlsStream<Socket>, ConnectError> {
        let connector = self
            .network
            .connectors
            .get(&self.target.tls)
            .map_err(|error| ConnectError::at(Stage::Tls, error))?;
        socket.read_ahead();
        let mut result = connector.connect(&self.target.url.host, socket);
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

    fn upgrade(&mut self, stream: Stream, peer: SocketAddr) -> Result<Upgraded, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::at(Stage::Upgrade, error);
        let request = request(self.target).map_err(|error| failed(&error))?;
        let mut result = client_with_config(request, stream, Some(config(self.target.max_message)));
        loop {
            match result {
                Ok((socket, response)) => {
                    let subprotocol = header(&response, "sec-websocket-protocol");
                    let status = response.status().as_u16();
                    return Ok(Upgraded { socket, peer, status, subprotocol });
                }
                Err(UpgradeError::Interrupted(mid)) => {
                    let socket = mid.get_ref().get_ref().socket();
                    let blocked = Some((socket.as_fd(), socket.blocked_on()));
                    self.wait(Stage::Upgrade, blocked, self.by)?;
                    result = mid.handshake();
                }
                Err(UpgradeError::Failure(Error::Http(response))) => {
                    return Err(refused(&response));
                }
                Err(UpgradeError::Failure(Error::Protocol(ProtocolError::HandshakeIncomplete))) => {
                    return Err(failed(&"the server closed the connection"));
                }
                Err(UpgradeError::Failure(Error::AttackAttempt)) => {
                    return Err(failed(&"the head of the server's answer is too long"));
                }
                Err(UpgradeError::Failure(error)) => return Err(failed(&error)),
            }
        }
    }
}

fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

fn request(target: &Target) -> Result<Request, http::Error> {
    use base64::Engine as _;
    let url = &target.url;
    let mut request = http::Request::builder()
        .method("GET")
        .uri(url.request_uri())
        .header("Host", url.host_header())
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key());
    if !target.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        request = request.header("User-Agent", concat!("feedtape/", env!("CARGO_PKG_VERSION")));
    }
    if let Some(credentials) = &url.credentials {
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        request = request.header("Authorization", format!("Basic {encoded}"));
    }
    if !target.subprotocols.is_empty() {
        request = request.header("Sec-WebSocket-Protocol", target.subprotocols.join(", "));
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    request.body(())
}

/// Whether `name: value` can be sent as a header.
///
/// # Errors
/// Says what is wrong, without the value, which may be a secret.
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    const OURS: [&str; 5] =
        ["host", "connection", "upgrade", "sec-websocket-version", "sec-websocket-key"];
    if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
        return Err(format!("'{name}' is set by the WebSocket upgrade itself"));
    }
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("'{name}' is not a header's name"));
    }
    if http::HeaderValue::from_str(value).is_err() {
        return Err(format!("the value of '{name}' holds characters that a header can't"));
    }
    Ok(())
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_string)
}

fn refused(response: &Response) -> ConnectError {
    let mut cause = format!("the server answered {}", response.status());
    let retry_after = header(response, "retry-after").and_then(|value| retry_after(&value));
    if let Some(wait) = retry_after {
        cause += &format!("; it says to come back in {} s", wait.as_secs());
    }
    if response.status().is_redirection()
        && let Some(location) = header(response, "location")
    {
        cause += &format!(
            " to '{}', which is not followed: record that address instead",
            printable(&origin(&location))
        );
    }
    let reason = Reason::Failed { stage: Stage::Upgrade, cause };
    ConnectError::Failed { reason, retry_after }
}

/// Scheme and host of a Location: the rest may repeat secrets of our own URL.
fn origin(location: &str) -> String {
    match location.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/...")
        }
        None => "another path of the same server".to_string(),
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => clock::until_http_date(value)?,
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("Sat, 06 Nov 2094 08:49:37 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn of_a_redirect_no_more_than_the_origin_is_told() {
        for (location, told) in [
            ("wss://new.example.com/ws?token=secret", "wss://new.example.com/..."),
            ("https://me:secret@h:8443?a=b", "https://h:8443/..."),
            ("/secret", "another path of the same server"),
            ("", "another path of the same server"),
        ] {
            assert_eq!(origin(location), told);
        }
    }

    #[test]
    fn headers_are_checked_without_showing_values() {
        assert_eq!(check_header("X-Token", "abc"), Ok(()));
        for (name, value) in [("Host", "x"), ("a b", "x"), ("", "x"), ("X", "se\ncret")] {
            let error = check_header(name, value).unwrap_err();
            assert!(!error.contains("cret"), "{error}");
        }
    }
}
