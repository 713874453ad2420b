//! One connection of the scripted server on its way through its script.
//!
//! Owns the socket, TLS and the frames of the client. Every step has a deadline, which all reads
//! and writes of the step share. Doesn't use the WebSocket library that the program uses.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::{HandshakeError, SslAcceptor, SslStream};

use super::script::{Answer, Script, Step};
use super::server::Shared;
use super::wire::{self, CLOSE, ClientFrame, FIN, PING, PONG, TEXT};

/// Each step is done within this, or the test fails.
pub const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two pings of [`Step::PingUntilClose`], or texts of [`Step::SayUntil`].
const PING_EVERY: Duration = Duration::from_millis(20);
/// Pause between two texts of [`Step::CountUntilClose`].
const COUNT_EVERY: Duration = Duration::from_millis(1);
/// A slow answer to the upgrade comes in pieces of this size. Clients take an answer in very many
/// very small pieces for an attack: tungstenite does from 64 pieces on.
const SLOW_HEAD_BYTES: usize = 4;
/// An upgrade request may be so long.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// A request as it came in: for an upgrade, or a poll's.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub body: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The values of all headers of this name.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(own, _)| own == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// A socket whose reads and writes all share one deadline.
struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buf)
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the bytes go through.
enum Stream {
    /// TLS, if there is any, has not begun.
    Bare(Timed),
    Tls(SslStream<Timed>),
    /// The handshake failed, or the script reset the connection.
    Gone,
}

/// One accepted connection on its way through a script.
pub struct Connection {
    stream: Stream,
    acceptor: Option<SslAcceptor>,
    inbox: Vec<u8>,
    shared: Arc<Shared>,
}

/// Why there is nothing more to read.
enum Ended {
    /// The client closed its side, in order or by a reset.
    Closed,
    /// The step's time is over.
    Deadline,
}

impl Connection {
    pub fn new(
        socket: TcpStream,
        acceptor: Option<SslAcceptor>,
        shared: Arc<Shared>,
    ) -> Connection {
        socket.set_nodelay(true).unwrap();
        let until = Instant::now() + STEP_DEADLINE;
        Connection {
            stream: Stream::Bare(Timed { socket, until }),
            acceptor,
            inbox: Vec::new(),
            shared,
        }
    }

    pub fn run(&mut self, script: &Script) -> Result<(), String> {
        for (at, step) in script.steps.iter().enumerate() {
            self.set_deadline(STEP_DEADLINE);
            self.step(step).map_err(|e| format!("step {} ({step:?}): {e}", at + 1))?;
        }
        self.set_deadline(STEP_DEADLINE);
        if let Some(timed) = self.timed() {
            // The client may be gone already.
            let _ = timed.socket.shutdown(Shutdown::Write);
            self.drain().map_err(|e| format!("after the last step: {e}"))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Upgrade(answer) => self.upgrade(answer),
            Step::AnswerWith(bytes) => {
                self.read_request()?;
                self.send(bytes.as_slice())
            }
            Step::ExpectTlsFailure => match self.handshake() {
                Ok(()) => Err("the TLS handshake succeeded".to_string()),
                Err(_) => Ok(()),
            },
            Step::ExpectBare(bytes) => self.expect_bare(bytes.as_slice()),
            Step::SendBare(bytes) => {
                let timed = self.timed().ok_or("the connection is gone")?;
                timed.write_all(bytes.as_slice()).map_err(|e| e.to_string())
            }
            Step::ExpectPeer(address) => self.expect_peer(*address),
            Step::Send(bytes) => self.send(bytes.as_slice()),
            Step::SendSlowly(bytes) => self.send_slowly(bytes.as_slice(), 1),
            Step::PingPong(payload) => self.ping_pong(payload.as_slice()),
            Step::PingUntilClose => self.ping_until_close(),
            Step::ExpectText(text) => self.expect_text(text),
            Step::TakeTexts(count) => (0..*count).try_for_each(|_| self.take_text().map(drop)),
            Step::AnswerUntilClose(answers) => self.answer_until_close(answers),
            Step::CountUntilClose(prefix) => self.count_until_close(prefix),
            Step::SayUntil { say, until } => self.say_until(say, until),
            Step::FloodUntilGone(bytes) => {
                self.flood_until_gone(bytes.as_slice());
                Ok(())
            }
            Step::ExpectPing => self.expect_ping(),
            Step::ExpectClose { codes, answer } => self.expect_close(codes, *answer),
            Step::Stall { bare } => {
                if !bare {
                    self.handshake()?;
                }
                self.mark("silence");
                self.drain()
            }
            Step::Close(code, reason) => self.close(*code, reason),
            Step::Reset => self.reset(),
            Step::Mark(name) => {
                self.mark(name);
                Ok(())
            }
            Step::WaitFor(name) => match self.shared.wait(|state| state.marks.contains(name)) {
                true => Ok(()),
                false => Err("the test never let it go on".to_string()),
            },
        }
    }

    fn mark(&self, name: &str) {
        self.shared.update(|state| {
            state.marks.insert(name.to_string());
        });
    }

    fn timed(&mut self) -> Option<&mut Timed> {
        match &mut self.stream {
            Stream::Bare(timed) => Some(timed),
            Stream::Tls(tls) => Some(tls.get_mut()),
            Stream::Gone => None,
        }
    }

    fn set_deadline(&mut self, after: Duration) {
        if let Some(timed) = self.timed() {
            timed.until = Instant::now() + after;
        }
    }

    /// Does the TLS handshake if there is one to do.
    fn handshake(&mut self) -> Result<(), String> {
        let Some(acceptor) = self.acceptor.take() else { return Ok(()) };
        if let Stream::Bare(timed) = std::mem::replace(&mut self.stream, Stream::Gone) {
            let tls = acceptor.accept(timed).map_err(|e| handshake_error(&e))?;
            self.stream = Stream::Tls(tls);
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.handshake()?;
        let result = match &mut self.stream {
            Stream::Bare(timed) => timed.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        };
        result.map_err(|e| format!("sending {} bytes: {e}", bytes.len()))
    }

    fn expect_bare(&mut self, expected: &[u8]) -> Result<(), String> {
        let timed = self.timed().ok_or("the connection is gone")?;
        let mut got = Vec::new();
        let result = timed.take(expected.len() as u64).read_to_end(&mut got);
        if got == expected {
            return Ok(());
        }
        let end = result.err().map_or(String::new(), |e| format!(", then {e}"));
        Err(format!("got '{}'{end}", got.escape_ascii()))
    }

    fn expect_peer(&mut self, expected: IpAddr) -> Result<(), String> {
        let timed = self.timed().ok_or("the connection is gone")?;
        let peer = timed.socket.peer_addr().map_err(|e| e.to_string())?.ip();
        if peer == expected { Ok(()) } else { Err(format!("it comes from {peer}")) }
    }

    fn send_slowly(&mut self, bytes: &[u8], at_once: usize) -> Result<(), String> {
        bytes.chunks(at_once).try_for_each(|piece| self.send(piece))
    }

    /// Reads something into the inbox.
    fn fill(&mut self) -> Result<(), Ended> {
        self.handshake().map_err(|_| Ended::Closed)?;
        let mut buf = [0u8; 4096];
        let result = match &mut self.stream {
            Stream::Bare(timed) => timed.read(&mut buf),
            Stream::Tls(tls) => tls.read(&mut buf),
            Stream::Gone => Ok(0),
        };
        match result {
            Ok(0) => Err(Ended::Closed),
            Ok(bytes) => {
                self.inbox.extend_from_slice(&buf[..bytes]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Ended::Deadline)
            }
            Err(_) => Err(Ended::Closed),
        }
    }

    /// Reads and ignores until the client is gone; a handshake that was not done stays undone.
    fn drain(&mut self) -> Result<(), String> {
        self.acceptor = None;
        loop {
            self.inbox.clear();
            match self.fill() {
                Ok(()) => {}
                Err(Ended::Closed) => return Ok(()),
                Err(Ended::Deadline) => return Err("the client never left".to_string()),
            }
        }
    }

    fn reset(&mut self) -> Result<(), String> {
        if let Some(timed) = self.timed() {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            let option = nix::sys::socket::sockopt::Linger;
            nix::sys::socket::setsockopt(&timed.socket, option, &linger)
                .map_err(|e| format!("SO_LINGER: {e}"))?;
        }
        // Dropping an SslStream says nothing on the wire; closing the socket sends the reset.
        self.stream = Stream::Gone;
        Ok(())
    }

    fn read_request(&mut self) -> Result<Request, String> {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        self.handshake()?;
        let end = loop {
            if let Some(at) = self.inbox.windows(HEAD_END.len()).position(|part| part == HEAD_END) {
                break at + HEAD_END.len();
            }
            if self.inbox.len() > REQUEST_BYTES_MAX {
                return Err("the request has no end".to_string());
            }
            self.fill_for_request()?;
        };
        let rest = self.inbox.split_off(end);
        let head = String::from_utf8(std::mem::replace(&mut self.inbox, rest))
            .map_err(|e| e.to_string())?;
        let mut request = parse_request(&head)?;
        let length = request.header("content-length").first().map_or(Ok(0), |n| n.parse());
        let length: usize = length.map_err(|e| format!("the length of the body: {e}"))?;
        while self.inbox.len() < length {
            self.fill_for_request()?;
        }
        if self.inbox.len() > length {
            return Err("the client sent more than its request".to_string());
        }
        request.body =
            String::from_utf8(std::mem::take(&mut self.inbox)).map_err(|e| e.to_string())?;
        self.shared.update(|state| state.requests.push(request.clone()));
        Ok(request)
    }

    fn fill_for_request(&mut self) -> Result<(), String> {
        self.fill().map_err(|_| format!("no whole request: {}", wire::brief(&self.inbox)))
    }

    fn upgrade(&mut self, answer: &Answer) -> Result<(), String> {
        let request = self.read_request()?;
        check_upgrade(&request)?;
        let key = request.header("sec-websocket-key")[0].as_bytes();
        let right = tungstenite::handshake::derive_accept_key(key);
        let accept_key = answer.accept_key.as_ref().unwrap_or(&right);
        let mut head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n".to_string();
        let _ = write!(head, "Upgrade: websocket\r\nSec-WebSocket-Accept: {accept_key}\r\n");
        for line in &answer.headers {
            let _ = write!(head, "{line}\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if let Some(glued) = &answer.glued {
            bytes.extend_from_slice(glued.as_slice());
        }
        if answer.slowly { self.send_slowly(&bytes, SLOW_HEAD_BYTES) } else { self.send(&bytes) }
    }

    /// The client's next frame; its pings are answered on the way where `skip_pings`.
    fn next_frame(&mut self, skip_pings: bool) -> Result<Option<ClientFrame>, String> {
        loop {
            while let Some(frame) = wire::take_client_frame(&mut self.inbox)? {
                if frame.opcode != PING {
                    return Ok(Some(frame));
                }
                self.send(&wire::frame(FIN | PONG, &frame.payload))?;
                if !skip_pings {
                    return Ok(Some(frame));
                }
            }
            match self.fill() {
                Ok(()) => {}
                Err(Ended::Closed) => return Err("the client is gone".to_string()),
                Err(Ended::Deadline) => return Ok(None),
            }
        }
    }

    /// The next frame that is neither a ping nor a pong: clients may send pongs unasked.
    fn next_but_pongs(&mut self) -> Result<ClientFrame, String> {
        loop {
            match self.next_frame(true)? {
                Some(frame) if frame.opcode == PONG => {}
                Some(frame) => return Ok(frame),
                None => return Err("nothing came from the client".to_string()),
            }
        }
    }

    fn ping_pong(&mut self, payload: &[u8]) -> Result<(), String> {
        self.send(&wire::frame(FIN | PING, payload))?;
        loop {
            match self.next_frame(true)? {
                Some(frame) if frame.opcode == PONG && frame.payload == payload => return Ok(()),
                // Answers to pings that stood between messages, or a pong that nobody asked for.
                Some(frame) if frame.opcode == PONG => {}
                Some(frame) => return Err(format!("no pong but {frame:?}")),
                None => return Err("no pong came".to_string()),
            }
        }
    }

    fn ping_until_close(&mut self) -> Result<(), String> {
        let until = Instant::now() + STEP_DEADLINE;
        while Instant::now() < until {
            self.set_deadline(STEP_DEADLINE);
            self.send(&wire::frame(FIN | PING, b"still here"))?;
            self.set_deadline(PING_EVERY);
            match self.next_frame(true)? {
                Some(frame) if frame.opcode == CLOSE => return self.answer_close(&frame),
                Some(frame) if frame.opcode != PONG => return Err(format!("got {frame:?}")),
                Some(_) | None => {}
            }
        }
        Err("the client never closed".to_string())
    }

    fn expect_text(&mut self, text: &str) -> Result<(), String> {
        let got = self.take_text()?;
        if got == text { Ok(()) } else { Err(format!("got {}", wire::brief(got.as_bytes()))) }
    }

    fn take_text(&mut self) -> Result<String, String> {
        let frame = self.next_but_pongs()?;
        if frame.opcode != TEXT {
            return Err(format!("got opcode {:#x}, {}", frame.opcode, wire::brief(&frame.payload)));
        }
        self.note_text(frame)
    }

    fn note_text(&self, frame: ClientFrame) -> Result<String, String> {
        let text = String::from_utf8(frame.payload).map_err(|e| e.to_string())?;
        self.shared.update(|state| state.texts.push((Instant::now(), text.clone())));
        Ok(text)
    }

    fn answer_until_close(&mut self, answers: &[(String, String)]) -> Result<(), String> {
        loop {
            self.set_deadline(STEP_DEADLINE);
            let frame = self.next_but_pongs()?;
            match frame.opcode {
                CLOSE => return self.answer_close(&frame),
                TEXT => {
                    let text = self.note_text(frame)?;
                    for (_, answer) in answers.iter().filter(|(asked, _)| *asked == text) {
                        self.send(&wire::frame(FIN | TEXT, answer.as_bytes()))?;
                    }
                }
                opcode => return Err(format!("got opcode {opcode:#x}")),
            }
        }
    }

    fn count_until_close(&mut self, prefix: &str) -> Result<(), String> {
        let until = Instant::now() + STEP_DEADLINE;
        let mut number = 0;
        while Instant::now() < until {
            number += 1;
            self.set_deadline(STEP_DEADLINE);
            self.send(&wire::frame(FIN | TEXT, format!("{prefix} {number}").as_bytes()))?;
            self.set_deadline(COUNT_EVERY);
            match self.next_frame(true)? {
                Some(frame) if frame.opcode == CLOSE => return self.answer_close(&frame),
                Some(frame) if frame.opcode == TEXT => drop(self.note_text(frame)?),
                Some(_) | None => {}
            }
        }
        Err("the client never closed".to_string())
    }

    fn say_until(&mut self, say: &str, expected: &str) -> Result<(), String> {
        let until = Instant::now() + STEP_DEADLINE;
        while Instant::now() < until {
            self.set_deadline(STEP_DEADLINE);
            self.send(&wire::frame(FIN | TEXT, say.as_bytes()))?;
            self.set_deadline(PING_EVERY);
            match self.next_frame(true)? {
                Some(frame) if frame.opcode == TEXT => {
                    let text = self.note_text(frame)?;
                    let what = format!("got {}", wire::brief(text.as_bytes()));
                    return if text == expected { Ok(()) } else { Err(what) };
                }
                Some(frame) if frame.opcode != PONG => return Err(format!("got {frame:?}")),
                Some(_) | None => {}
            }
        }
        Err("it never came".to_string())
    }

    fn flood_until_gone(&mut self, bytes: &[u8]) {
        while self.send(bytes).is_ok() {
            self.set_deadline(STEP_DEADLINE);
        }
        self.stream = Stream::Gone;
    }

    fn expect_ping(&mut self) -> Result<(), String> {
        match self.next_frame(false)? {
            Some(frame) if frame.opcode == PING => Ok(()),
            other => Err(format!("got {other:?}")),
        }
    }

    fn expect_close(&mut self, codes: &[u16], answer: bool) -> Result<(), String> {
        let frame = self.next_but_pongs()?;
        if frame.opcode != CLOSE || !frame.close_code().is_some_and(|code| codes.contains(&code)) {
            let code = frame.close_code();
            let payload = wire::brief(&frame.payload);
            return Err(format!("got opcode {:#x}, {payload} (code {code:?})", frame.opcode));
        }
        if answer { self.answer_close(&frame) } else { Ok(()) }
    }

    fn answer_close(&mut self, frame: &ClientFrame) -> Result<(), String> {
        // What was left of a short pause is no time to answer in.
        self.set_deadline(STEP_DEADLINE);
        let code = frame.payload.get(..2).unwrap_or_default();
        self.send(&wire::frame(FIN | CLOSE, code))
    }

    fn close(&mut self, code: u16, reason: &str) -> Result<(), String> {
        self.send(&wire::close(code, reason))?;
        self.expect_close(&[code], false)
    }
}

fn handshake_error(error: &HandshakeError<Timed>) -> String {
    match error {
        HandshakeError::SetupFailure(error) => format!("TLS set-up: {error}"),
        HandshakeError::Failure(stream) | HandshakeError::WouldBlock(stream) => {
            format!("TLS handshake: {}", stream.error())
        }
    }
}

fn parse_request(head: &str) -> Result<Request, String> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let (method, path) = first
        .strip_suffix(" HTTP/1.1")
        .and_then(|rest| rest.split_once(' '))
        .ok_or_else(|| format!("no request: {first}"))?;
    let mut headers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no header: {line}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let (method, path) = (method.to_string(), path.to_string());
    Ok(Request { method, path, body: String::new(), headers })
}

/// What section 4.1 asks of a client.
fn check_upgrade(request: &Request) -> Result<(), String> {
    if request.method != "GET" || !request.body.is_empty() {
        return Err(format!("{} with a body of {}", request.method, request.body.len()));
    }
    for (name, expected) in
        [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")]
    {
        let values = request.header(name);
        if values.len() != 1 || !values[0].eq_ignore_ascii_case(expected) {
            return Err(format!("header '{name}' is {values:?}, not '{expected}'"));
        }
    }
    for name in ["host", "sec-websocket-key"] {
        let values = request.header(name);
        if values.len() != 1 || values[0].is_empty() {
            return Err(format!("header '{name}' is {values:?}"));
        }
    }
    Ok(())
}
