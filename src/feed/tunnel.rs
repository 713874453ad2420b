//! Asking a proxy to pass us on to a server.
//!
//! Owns what is spoken to a proxy, HTTP CONNECT and SOCKS5, and what its refusals are called. Not a
//! byte more is read than the proxy's answers have: what follows belongs to the server behind it.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;

use base64::Engine as _;

use super::proxy::{Proxy, ProxyKind, host_and_port};
use super::session::Stage;
use super::socket::Socket;
use super::transport::{Attempt, ConnectError, Endpoint};
use super::wait::Interest;

/// The head of an answer to CONNECT is not longer than this, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// SOCKS carries names of up to so many bytes.
const SOCKS_NAME_BYTES_MAX: usize = 255;

/// Asks `proxy`, to which `socket` is connected, for a way to `server`.
///
/// # Errors
/// Names the proxy, and says what it answered.
pub(super) fn open(
    attempt: &mut Attempt<'_>,
    socket: &mut Socket,
    proxy: &Proxy,
    server: Endpoint<'_>,
) -> Result<(), ConnectError> {
    let mut dialogue = Dialogue { attempt, socket, proxy };
    match proxy.kind {
        ProxyKind::Http => dialogue.connect(server),
        ProxyKind::Socks5 => dialogue.socks(server),
    }
}

struct Dialogue<'a, 'b> {
    attempt: &'a mut Attempt<'b>,
    socket: &'a mut Socket,
    proxy: &'a Proxy,
}

impl Dialogue<'_, '_> {
    fn failed(&self, what: impl std::fmt::Display) -> ConnectError {
        ConnectError::at(Stage::Proxy, format!("{} {what}", self.proxy))
    }

    fn connect(&mut self, server: Endpoint<'_>) -> Result<(), ConnectError> {
        let to = host_and_port(server.host, server.port);
        let agent = concat!("feedtape/", env!("CARGO_PKG_VERSION"));
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: {agent}\r\n");
        if let Some((user, password)) = &self.proxy.credentials {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            request += &format!("Proxy-Authorization: Basic {encoded}\r\n");
        }
        request += "\r\n";
        self.send(request.as_bytes())?;
        let head = self.read_head()?;
        let line = head.lines().next().unwrap_or_default();
        let answer = line.split_once(' ').map_or("", |(_, answer)| answer.trim());
        match answer.get(..3).and_then(|code| code.parse::<u16>().ok()) {
            Some(200..=299) => Ok(()),
            // tinyproxy answers 401 to a wrong password.
            Some(401 | 407) if self.proxy.credentials.is_some() => Err(self.failed(format_args!(
                "does not accept the user and password of its URL: it answered {answer}"
            ))),
            Some(407) => Err(self.failed(format_args!(
                "wants authentication: give user:password in the proxy's URL (it answered {answer})"
            ))),
            Some(_) => Err(self.failed(format_args!("would not connect to {to}: {answer}"))),
            None => Err(self.failed(format_args!("answered '{line}', which is not HTTP"))),
        }
    }

    /// Up to and with the empty line, byte by byte: it comes once in a connection, and is short.
    fn read_head(&mut self) -> Result<String, ConnectError> {
        const BEGIN: &[u8] = b"HTTP/";
        let mut head = Vec::new();
        while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
            if head.len() == HEAD_BYTES_MAX {
                return Err(self.failed("answered with a head that is too long"));
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            head.push(byte[0]);
            let checked = head.len().min(BEGIN.len());
            if head[..checked] != BEGIN[..checked] {
                return Err(self.failed("does not speak HTTP: is it a proxy of another kind?"));
            }
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    fn socks(&mut self, server: Endpoint<'_>) -> Result<(), ConnectError> {
        let methods: &[u8] =
            if self.proxy.credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
        self.send(methods)?;
        let mut answer = [0; 2];
        self.read_version(5, &mut answer)?;
        match (answer[1], &self.proxy.credentials) {
            (0, _) => {}
            (2, Some((user, password))) => self.authenticate(user, password)?,
            (_, None) => {
                return Err(
                    self.failed("wants authentication: give user:password in the proxy's URL")
                );
            }
            (_, Some(_)) => {
                return Err(self.failed("wants authentication, but not by user and password"));
            }
        }
        self.send(&self.socks_request(server)?)?;
        let mut head = [0; 4];
        self.read_version(5, &mut head)?;
        if head[1] != 0 {
            let to = host_and_port(server.host, server.port);
            let why = socks_refusal(head[1]);
            return Err(self.failed(format_args!("would not connect to {to}: {why}")));
        }
        self.skip_address(head[3])
    }

    /// RFC 1929.
    fn authenticate(&mut self, user: &str, password: &str) -> Result<(), ConnectError> {
        let mut request = vec![1];
        for part in [user, password] {
            request.push(u8::try_from(part.len()).expect("parsing bounds both"));
            request.extend_from_slice(part.as_bytes());
        }
        self.send(&request)?;
        let mut answer = [0; 2];
        self.read_version(1, &mut answer)?;
        if answer[1] == 0 {
            return Ok(());
        }
        Err(self.failed("does not accept the user and password of its URL"))
    }

    /// A name is sent as it is, for the proxy to look up.
    fn socks_request(&self, server: Endpoint<'_>) -> Result<Vec<u8>, ConnectError> {
        let mut request = vec![5, 1, 0];
        match server.host.parse() {
            Ok(IpAddr::V4(address)) => {
                request.push(1);
                request.extend_from_slice(&address.octets());
            }
            Ok(IpAddr::V6(address)) => {
                request.push(4);
                request.extend_from_slice(&address.octets());
            }
            Err(_) if server.host.len() > SOCKS_NAME_BYTES_MAX => {
                return Err(self.failed("can't be asked for a host with so long a name"));
            }
            Err(_) => {
                request.extend_from_slice(&[3, server.host.len() as u8]);
                request.extend_from_slice(server.host.as_bytes());
            }
        }
        request.extend_from_slice(&server.port.to_be_bytes());
        Ok(request)
    }

    /// The address that the proxy uses, and its port; nobody needs them.
    fn skip_address(&mut self, kind: u8) -> Result<(), ConnectError> {
        let bytes = match kind {
            1 => 4,
            4 => 16,
            3 => {
                let mut length = [0];
                self.read(&mut length)?;
                usize::from(length[0])
            }
            other => {
                return Err(self.failed(format_args!(
                    "does not speak SOCKS5: it answered with an address of kind {other}"
                )));
            }
        };
        let mut rest = vec![0; bytes + 2];
        self.read(&mut rest)
    }

    /// Fills `answer`, whose first byte must be `version`.
    fn read_version(&mut self, version: u8, answer: &mut [u8]) -> Result<(), ConnectError> {
        let (first, rest) = answer.split_at_mut(1);
        self.read(first)?;
        if first[0] != version {
            return Err(self.failed(format_args!(
                "does not speak SOCKS5: its answer begins with {:#04x}, not {version:#04x}",
                first[0]
            )));
        }
        self.read(rest)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<(), ConnectError> {
        let mut done = 0;
        while done < buf.len() {
            match self.socket.read(&mut buf[done..]) {
                Ok(0) => return Err(self.failed("closed the connection")),
                Ok(bytes) => done += bytes,
                Err(error) => self.wait_after(&error, Interest::Read)?,
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let mut done = 0;
        while done < bytes.len() {
            match self.socket.write(&bytes[done..]) {
                Ok(0) => return Err(self.failed("takes nothing")),
                Ok(bytes) => done += bytes,
                Err(error) => self.wait_after(&error, Interest::Write)?,
            }
        }
        Ok(())
    }

    fn wait_after(&mut self, error: &io::Error, interest: Interest) -> Result<(), ConnectError> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                let by = self.attempt.by;
                let blocked = Some((self.socket.as_fd(), interest));
                self.attempt.wait(Stage::Proxy, blocked, by).map(|_| ())
            }
            _ => Err(self.failed(format_args!("can't be asked: {error}"))),
        }
    }
}

/// RFC 1928 section 6.
fn socks_refusal(code: u8) -> String {
    let words = match code {
        1 => "general failure",
        2 => "its rules don't allow it",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "the time to live ran out",
        7 => "it does not know the command",
        8 => "it does not know the kind of address",
        _ => "a code that has no meaning",
    };
    format!("{words} (SOCKS code {code})")
}
