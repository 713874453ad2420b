//! The WebSocket upgrade: the request, and what the server may answer.
//!
//! Owns what is asked for and what an answer means. The stream below is [`super::transport`]'s;
//! what is sent and read afterwards is [`super::connection`]'s.

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

use super::session::{Reason, Stage};
use super::transport::{Attempt, ConnectError, Endpoint, Route, Stream, printable};
use super::url::FeedUrl;
use crate::clock;

/// Room for a subscription and some pongs that the socket does not take at once.
const WRITE_BUFFER_BYTES_MAX: usize = 1 << 20;
/// tungstenite zeroes what is left of it at each read: large enough to bring many messages at
/// once, small enough for many feeds.
pub(crate) const READ_BUFFER_BYTES: usize = 16 << 10;
/// A longer Retry-After is taken for a mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Who we say we are, unless a header of the options says otherwise.
pub(super) const USER_AGENT: &str = concat!("feedtape/", env!("CARGO_PKG_VERSION"));

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
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
}

/// Connects to the target and asks for the upgrade.
///
/// # Errors
/// The first stage that failed, or that the deadline passed in.
pub(super) fn connect(
    target: &Target,
    attempt: &mut Attempt<'_>,
) -> Result<Upgraded, ConnectError> {
    let FeedUrl { tls, host, port, .. } = &target.url;
    let (stream, peer) = attempt.open(Endpoint { host, port: *port, tls: *tls })?;
    upgrade(target, attempt, stream, peer)
}

fn upgrade(
    target: &Target,
    attempt: &mut Attempt<'_>,
    stream: Stream,
    peer: SocketAddr,
) -> Result<Upgraded, ConnectError> {
    let failed = |error: &dyn std::fmt::Display| ConnectError::at(Stage::Upgrade, error);
    let request = request(target).map_err(|error| failed(&error))?;
    let mut result = client_with_config(request, stream, Some(config(target.max_message)));
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
                attempt.wait(Stage::Upgrade, blocked, attempt.by)?;
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
