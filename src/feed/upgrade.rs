//! The WebSocket upgrade: the request, what the server may answer, and redirects.
//!
//! Owns what is asked for and what an answer means. Where a redirect leads is `redirect.rs`'s; the
//! stream below is [`super::transport`]'s; what is sent and read afterwards is
//! [`super::connection`]'s.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use tungstenite::client::client_with_config;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError as UpgradeError;
use tungstenite::handshake::client::{Request, Response, generate_key};
use tungstenite::http;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, WebSocket};

use super::redirect;
use super::session::{Reason, STAY_AWAY, Stage};
use super::transport::{Attempt, ConnectError, Endpoint, Route, Stream};
use super::url::FeedUrl;
use crate::clock;

/// Room for a subscription and some pongs that the socket does not take at once, in bytes. The
/// buffer grows as it is needed, and stays as large for as long as the connection lives.
pub(crate) const WRITE_BUFFER_BYTES_MAX: usize = 1 << 20;
/// Bytes of a connection's read buffer, all of which are touched. tungstenite zeroes what is left
/// of it at each read: large enough to bring many messages at once, small enough for many feeds.
/// It grows for a larger message, and [`super::connection::Connection::done_with`] has it made
/// anew afterwards.
pub(crate) const READ_BUFFER_BYTES: usize = 8 << 10;
/// So many redirects are followed on the way to one connection.
const REDIRECTS_MAX: usize = 5;
/// A longer Retry-After is taken for a mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Who we say we are, unless a header of the options says otherwise.
pub(super) const USER_AGENT: &str = concat!("feedtape/", env!("CARGO_PKG_VERSION"));

/// Where to connect, and as whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The address.
    pub url: FeedUrl,
    /// Headers for the upgrade.
    pub headers: Vec<(String, String)>,
    /// Subprotocols offered, in order of preference.
    pub subprotocols: Vec<String>,
    /// How to get there.
    pub route: Route,
    /// Largest message, in bytes.
    pub max_message: usize,
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
    /// Proxy and redirects on the way there, for the log; empty where there were none.
    pub way: String,
}

/// The server is elsewhere.
struct Moved {
    status: http::StatusCode,
    location: String,
}

/// Connects to the target and asks for the upgrade; redirects are followed, for this connection
/// only.
///
/// # Errors
/// The first stage that failed, or that the deadline passed in.
pub(super) fn connect(
    target: &Target,
    attempt: &mut Attempt<'_>,
) -> Result<Box<Upgraded>, ConnectError> {
    // On the heap: it lies below the deepest frames of the thread's stack.
    let mut target = Box::new(target.clone());
    let mut way: Vec<String> = Vec::new();
    loop {
        let arrived = ask(&target, attempt).map_err(|error| match way.last() {
            Some(redirected) => error.with_context(redirected),
            None => error,
        })?;
        match arrived {
            Ok(mut upgraded) => {
                way.splice(..0, through(&target));
                upgraded.way = way.iter().map(|part| format!(", {part}")).collect();
                return Ok(upgraded);
            }
            Err(Moved { status, .. }) if way.len() == REDIRECTS_MAX => {
                let way = way.join(", ");
                let cause = format!("the server answered {status} after {way}: this does not end");
                return Err(ConnectError::at(Stage::Upgrade, cause));
            }
            Err(moved) => {
                *target = follow(*target, &moved)?;
                way.push(format!("redirected to {}", target.url));
            }
        }
    }
}

/// One request to one server.
fn ask(
    target: &Target,
    attempt: &mut Attempt<'_>,
) -> Result<Result<Box<Upgraded>, Moved>, ConnectError> {
    let mut attempt = attempt.by_way_of(&target.route);
    let (stream, peer) = attempt.open(target.endpoint())?;
    upgrade(target, &mut attempt, stream, peer)
}

fn through(target: &Target) -> Option<String> {
    let proxy = target.route.proxies.pick(target.endpoint())?;
    Some(format!("through proxy {proxy}"))
}

impl Target {
    fn endpoint(&self) -> Endpoint<'_> {
        let FeedUrl { tls, host, port, .. } = &self.url;
        Endpoint { host, port: *port, tls: *tls }
    }
}

/// The target that the server sends us to. What we show of ourselves stays with the origin that
/// it was meant for: another one gets neither credentials, headers nor the client's certificate.
#[inline(never)]
fn follow(mut target: Target, moved: &Moved) -> Result<Target, ConnectError> {
    let to = redirect::resolve(&target.url, &moved.location).map_err(|why| {
        let cause = format!("the server answered {}: it redirects {why}", moved.status);
        ConnectError::at(Stage::Upgrade, cause)
    })?;
    if !redirect::same_origin(&target.url, &to) {
        target.headers.clear();
        target.route.tls.cert = None;
        target.route.tls.key = None;
    }
    target.url = to;
    Ok(target)
}

#[inline(never)]
fn upgrade(
    target: &Target,
    attempt: &mut Attempt<'_>,
    stream: Stream,
    peer: SocketAddr,
) -> Result<Result<Box<Upgraded>, Moved>, ConnectError> {
    let failed = |error: &dyn std::fmt::Display| ConnectError::at(Stage::Upgrade, error);
    let request = request(target).map_err(|error| failed(&error))?;
    let mut result = client_with_config(request, stream, Some(config(target.max_message)));
    loop {
        match result {
            Ok((socket, response)) => {
                let subprotocol = header(&response, "sec-websocket-protocol");
                let status = response.status().as_u16();
                let way = String::new();
                let upgraded = Upgraded { socket, peer, status, subprotocol, way };
                return Ok(Ok(Box::new(upgraded)));
            }
            Err(UpgradeError::Interrupted(mid)) => {
                let socket = mid.get_ref().get_ref().socket();
                let blocked = Some((socket.as_fd(), socket.blocked_on()));
                attempt.wait(Stage::Upgrade, blocked, attempt.by)?;
                result = mid.handshake();
            }
            Err(UpgradeError::Failure(Error::Http(response))) => {
                return match moved(&response) {
                    Some(moved) => Ok(Err(moved)),
                    None => Err(refused(&response)),
                };
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

fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

#[inline(never)]
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
        request = request.header("User-Agent", USER_AGENT);
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

/// Where the answer is a redirect to somewhere.
fn moved(response: &Response) -> Option<Moved> {
    let status = response.status();
    let location = header(response, "location")?;
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308).then_some(Moved { status, location })
}

fn refused(response: &Response) -> ConnectError {
    let mut cause = format!("the server answered {}", response.status());
    let after = header(response, "retry-after").and_then(|value| retry_after(&value));
    if let Some(wait) = after {
        cause += &format!("; it says to come back in {} s", wait.as_secs());
    }
    let reason = Reason::Failed { stage: Stage::Upgrade, cause };
    let retry_after = after.or_else(|| stay_away(response.status().as_u16()));
    ConnectError::Failed { reason, retry_after }
}

/// Who is told that it asks too often, and not when to come back, stays away as long as it ever
/// does: some venues turn a 429 that goes unheard into a ban, which is their 418.
fn stay_away(status: u16) -> Option<Duration> {
    matches!(status, 418 | 429).then_some(STAY_AWAY)
}

/// RFC 9110 section 10.2.3: seconds, or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => clock::until_http_date(value)?,
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::super::proxy::Proxies;
    use super::super::text::Text;
    use super::super::tls::TlsOptions;
    use super::super::transport::Origin;
    use super::*;
    use crate::tape::event::StampClock;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("Sat, 06 Nov 2094 08:49:37 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn nothing_of_ours_goes_to_another_origin() {
        let target = |url: &str| {
            let path = || Some(std::path::PathBuf::from("f.pem"));
            let tls = TlsOptions { cert: path(), key: path(), ..TlsOptions::default() };
            Target {
                url: FeedUrl::parse(&Text::plain(url)).unwrap(),
                headers: vec![("Cookie".into(), "secret".into())],
                subprotocols: vec!["v2".into()],
                route: Route {
                    tls,
                    clock: StampClock::User,
                    proxies: Proxies::default(),
                    from: Origin::Any,
                },
                max_message: 1 << 20,
            }
        };
        let follow = |target: Target, location: &str| {
            let status = http::StatusCode::FOUND;
            super::follow(target, &Moved { status, location: location.to_string() }).unwrap()
        };
        let near = follow(target("wss://me:pw@h/a"), "/b");
        assert_eq!(near.headers.len(), 1);
        assert!(near.url.credentials.is_some() && near.route.tls.cert.is_some());
        let far = follow(near, "wss://other/b");
        let bare = |target: &Target| {
            let request = request(target).unwrap();
            assert!(request.headers().get("cookie").is_none());
            assert!(request.headers().get("authorization").is_none());
            assert_eq!(request.headers()["sec-websocket-protocol"], "v2");
            assert_eq!(target.route.tls, TlsOptions::default());
        };
        bare(&far);
        bare(&follow(far, "wss://h/a"));
    }

    #[test]
    fn who_asks_too_often_stays_away() {
        assert_eq!([418, 429].map(stay_away), [Some(STAY_AWAY); 2]);
        assert_eq!([400, 403, 500, 503].map(stay_away), [None; 4]);
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
