//! One question to a running recorder, and its answer.
//!
//! Owns a connection for one request over TCP or a Unix socket, which the recorder closes after its
//! answer; no HTTP library speaks to Unix sockets without a runtime of its own. Everything has a
//! deadline and a limit.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::admin::listen::Address;

/// A recorder answers at once; a pause takes seconds.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Longer than any answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// Where the recorder is asked, and what it wants to know.
pub(super) struct Client {
    pub(super) address: Address,
    pub(super) token: Option<String>,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Client {
    /// Asks for figures.
    ///
    /// # Errors
    /// Nobody answers there, or not what a recorder answers.
    pub(super) fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path)
    }

    /// Orders something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) fn post(&self, path: &str) -> Result<Answer> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> Result<Answer> {
        let about = || {
            format!(
                "can't ask a recorder at '{}': is one running with --admin there?",
                self.address
            )
        };
        let bytes = self.exchange(&self.request(method, path)).with_context(about)?;
        let (status, body) = parse(&bytes).with_context(about)?;
        let body = serde_json::from_slice(body)
            .map_err(|_| anyhow!("status {status}, and no JSON"))
            .with_context(about)?;
        Ok(Answer { status, body })
    }

    fn request(&self, method: &str, path: &str) -> String {
        let host = match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_string(),
        };
        let token = match &self.token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Feedtape: 1\r\nConnection: close\r\n\
             {length}{token}\r\n"
        )
    }

    fn exchange(&self, request: &str) -> io::Result<Vec<u8>> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, ANSWER_MAX)?;
                stream.set_write_timeout(Some(ANSWER_MAX))?;
                talk(stream, request, |stream, left| stream.set_read_timeout(Some(left)))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(ANSWER_MAX))?;
                talk(stream, request, |stream, left| stream.set_read_timeout(Some(left)))
            }
        }
    }
}

fn talk<S: Read + Write>(
    mut stream: S,
    request: &str,
    set_timeout: impl Fn(&S, Duration) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let until = Instant::now() + ANSWER_MAX;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("timeout: answer ({} s)", ANSWER_MAX.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        set_timeout(&stream, left)?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The time is over; the next turn says so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"));
        }
    }
}

/// Status and body of an answer that ended with its connection.
fn parse(bytes: &[u8]) -> Result<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(|error| anyhow!("no HTTP: {error}"))?;
    let (httparse::Status::Complete(start), Some(status)) = (parsed, head.code) else {
        bail!("the answer is cut");
    };
    let length = head.headers.iter().find(|line| line.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|line| std::str::from_utf8(line.value).ok()?.parse().ok());
    let body = &bytes[start..];
    if length.is_some_and(|length: usize| length != body.len()) {
        bail!("the answer is cut");
    }
    Ok((status, body))
}

/// Where a recorder may be that was not told: the socket of the service, else the usual port.
pub(super) fn usual_address() -> Address {
    let socket = Path::new("/run/feedtape/admin.sock");
    match socket.exists() {
        true => Address::Unix(socket.to_path_buf()),
        false => Address::Tcp(([127, 0, 0, 1], 9464).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_whole_and_others() {
        let check = |text: &'static str| parse(text.as_bytes()).ok();
        let whole = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(check(whole), Some((503, &b"{}"[..])));
        assert_eq!(check("HTTP/1.1 200 OK\r\n\r\n{}"), Some((200, &b"{}"[..])));
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "SSH-2.0-OpenSSH_9\r\n\r\n",
        ] {
            assert_eq!(check(text), None, "{text}");
        }
    }
}
