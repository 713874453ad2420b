//! The HTTP request that opens a connection: which streams it asks for, or why it is refused.
//!
//! Owns reading one request's head, bounded in bytes and time, and writing one reply. The rules
//! of the WebSocket upgrade itself are tungstenite's.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::bail;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};

use super::market::{Channel, StreamName};
use super::socket::{Interest, Socket, wait_or_fail};
use super::subscriptions::STREAMS_MAX;
use crate::clock::Mono;

/// A request's head is at most this long.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// The symbol of a request that names none.
pub(super) const DEFAULT_SYMBOL: &str = "btcusdt";

/// Whether a connection may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Serve,
    /// The venue has as many connections as it takes: 503.
    Full,
}

/// A request that was answered.
#[derive(Debug)]
pub(super) enum Answered {
    /// With 101: the streams asked for, and bytes that came behind the request.
    Upgraded { streams: Vec<StreamName>, tail: Vec<u8> },
    /// With another status.
    Refused(Status),
}

/// The replies other than 101.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    UpgradeRequired,
    HeadTooLarge,
    Full,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.parts().0)
    }
}

impl Status {
    /// Status line, further headers, body.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Status::BadRequest => (
                "400 Bad Request",
                "",
                "not a WebSocket upgrade for symbols like ?symbols=btcusdt,ethusdt",
            ),
            Status::NotFound => (
                "404 Not Found",
                "",
                "no such path: use /trades, /book or /ticker with ?symbols=.., or /ws",
            ),
            Status::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n", "use GET"),
            Status::UpgradeRequired => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                "this is a WebSocket server: connect with a WebSocket client",
            ),
            Status::HeadTooLarge => {
                ("431 Request Header Fields Too Large", "", "the request is longer than 8 KiB")
            }
            Status::Full => {
                ("503 Service Unavailable", "Retry-After: 1\r\n", "too many connections")
            }
        }
    }

    fn reply(self) -> Vec<u8> {
        let (line, headers, body) = self.parts();
        // RFC 9110, section 7.8: who sends Upgrade also names it in Connection.
        let connection = if self == Status::UpgradeRequired { "upgrade, close" } else { "close" };
        format!(
            "HTTP/1.1 {line}\r\n{headers}Connection: {connection}\r\n\
             Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}\n",
            body.len() + 1
        )
        .into_bytes()
    }
}

/// Reads the request from `socket` and answers it, before `deadline`.
pub(super) fn answer(
    socket: &mut Socket,
    admission: Admission,
    stop: BorrowedFd<'_>,
    deadline: Mono,
) -> anyhow::Result<Answered> {
    let head = read_head(socket, stop, deadline)?;
    let (reply, answered) = decide(&head, admission);
    let mut rest: &[u8] = &reply;
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(0) => bail!("the client closed before its request was answered"),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_or_fail(socket.as_fd(), Interest::Write, stop, deadline)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answered)
}

/// Reads up to the empty line, or as much as a head may have.
fn read_head(socket: &mut Socket, stop: BorrowedFd<'_>, deadline: Mono) -> anyhow::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut len = 0;
    loop {
        match socket.read(&mut head[len..]) {
            Ok(0) => bail!("the client closed before its request was complete"),
            Ok(count) => {
                // The empty line may have begun in what was read before.
                let from = len.saturating_sub(3);
                len += count;
                if len == HEAD_BYTES_MAX
                    || memchr::memmem::find(&head[from..len], b"\r\n\r\n").is_some()
                {
                    head.truncate(len);
                    return Ok(head);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_or_fail(socket.as_fd(), Interest::Read, stop, deadline)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The reply to a request, and what it means.
fn decide(head: &[u8], admission: Admission) -> (Vec<u8>, Answered) {
    accept(head, admission).unwrap_or_else(|status| (status.reply(), Answered::Refused(status)))
}

fn accept(head: &[u8], admission: Admission) -> Result<(Vec<u8>, Answered), Status> {
    let (len, request) = match Request::try_parse(head) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Err(Status::HeadTooLarge),
        Err(Error::Protocol(ProtocolError::WrongHttpMethod)) => {
            return Err(Status::MethodNotAllowed);
        }
        Err(_) => return Err(Status::BadRequest),
    };
    let streams = streams(request.uri().path(), request.uri().query().unwrap_or(""))?;
    let response = create_response(&request).map_err(|error| match error {
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader
            | ProtocolError::MissingSecWebSocketVersionHeader,
        ) => Status::UpgradeRequired,
        _ => Status::BadRequest,
    })?;
    if admission == Admission::Full {
        return Err(Status::Full);
    }
    let mut reply = Vec::new();
    write_response(&mut reply, &response).map_err(|_| Status::BadRequest)?;
    Ok((reply, Answered::Upgraded { streams, tail: head[len..].to_vec() }))
}

/// The streams that a path and its query ask for; none for `/ws`.
fn streams(path: &str, query: &str) -> Result<Vec<StreamName>, Status> {
    let channel = match path {
        "/ws" => return Ok(Vec::new()),
        "/trades" => Channel::Trade,
        "/book" => Channel::Book,
        "/ticker" => Channel::Ticker,
        _ => return Err(Status::NotFound),
    };
    let symbols = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("symbols="))
        .unwrap_or(DEFAULT_SYMBOL)
        .replace("%2C", ",")
        .replace("%2c", ",");
    let mut names: Vec<StreamName> = Vec::new();
    for symbol in symbols.split(',') {
        let name = StreamName::new(symbol, channel).ok_or(Status::BadRequest)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.len() > STREAMS_MAX { Err(Status::BadRequest) } else { Ok(names) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn check(request: &str, admission: Admission, expected: &str) {
        let (reply, answered) = decide(request.as_bytes(), admission);
        let reply = String::from_utf8(reply).unwrap();
        let line = reply.lines().next().unwrap();
        let got = match answered {
            Answered::Upgraded { streams, tail } => {
                let names: Vec<String> = streams.iter().map(ToString::to_string).collect();
                format!("{line} [{}] +{}", names.join(" "), tail.len())
            }
            Answered::Refused(_) => line.to_string(),
        };
        assert_eq!(got, format!("HTTP/1.1 {expected}"), "{request}");
    }

    #[test]
    fn requests() {
        let upgraded = |path: &str, expected: &str| {
            let request = format!("GET {path} HTTP/1.1\r\n{UPGRADE}\r\n");
            check(&request, Admission::Serve, expected);
        };
        upgraded("/ws", "101 Switching Protocols [] +0");
        upgraded("/trades", "101 Switching Protocols [btcusdt@trade] +0");
        upgraded(
            "/book?symbols=BTCUSDT,ethusdt,btcusdt",
            "101 Switching Protocols [btcusdt@book ethusdt@book] +0",
        );
        upgraded("/ticker?x=1&symbols=a%2Cb", "101 Switching Protocols [a@ticker b@ticker] +0");
        upgraded("/ticker?symbols=", "400 Bad Request");
        upgraded("/ticker?symbols=a/b", "400 Bad Request");
        upgraded("/", "404 Not Found");
        upgraded("/trades/btcusdt", "404 Not Found");

        let ws = format!("GET /ws HTTP/1.1\r\n{UPGRADE}\r\n");
        check(&format!("{ws}abc"), Admission::Serve, "101 Switching Protocols [] +3");
        check(&ws, Admission::Full, "503 Service Unavailable");
        check(&ws.replace("ZQ==", "ZQ"), Admission::Serve, "400 Bad Request");
        check("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", Admission::Serve, "426 Upgrade Required");
        check("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", Admission::Serve, "404 Not Found");
        check("POST /ws HTTP/1.1\r\nHost: x\r\n\r\n", Admission::Serve, "405 Method Not Allowed");
        check("\x16\x03\x01 hello\r\n\r\n", Admission::Serve, "400 Bad Request");
        let large = format!("GET /ws HTTP/1.1\r\nX: {}", "x".repeat(9_000));
        check(&large, Admission::Serve, "431 Request Header Fields Too Large");
    }
}
