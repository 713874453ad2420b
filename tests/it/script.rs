//! What the scripted server does on one connection: a list of steps.
//!
//! Only says what; [`super::server`] does it. Each step is printed when a test fails, so large
//! payloads are shown by their start and length.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::wire::{self, FIN, Message, PING};

/// Bytes to send, with a name for people, shown briefly.
#[derive(Clone)]
pub struct Bytes {
    name: &'static str,
    bytes: Arc<[u8]>,
}

impl Bytes {
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes { name: "", bytes: bytes.into() }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, wire::brief(&self.bytes))
    }
}

/// How the answer to a right upgrade request goes wrong or not.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Header lines beside the ones that the RFC asks for, without their line ends.
    pub headers: Vec<String>,
    /// Instead of the right `Sec-WebSocket-Accept`.
    pub accept_key: Option<String>,
    /// Follows the head in the same write.
    pub glued: Option<Bytes>,
    /// In small pieces.
    pub slowly: bool,
}

/// One thing that the server does. The TLS handshake is no step: the first step that needs the
/// stream does it.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads the upgrade request and answers 101.
    Upgrade(Answer),
    /// Reads a request, for an upgrade or not, and answers with these bytes.
    AnswerWith(Bytes),
    /// Does the TLS handshake and wants it to fail.
    ExpectTlsFailure,
    /// Wants these bytes before TLS begins, if there is any: what is spoken to a proxy.
    ExpectBare(Bytes),
    /// Sends bytes before TLS begins.
    SendBare(Bytes),
    /// Wants the connection to come from this address.
    ExpectPeer(IpAddr),
    /// Sends bytes in one write.
    Send(Bytes),
    /// Sends bytes one by one.
    SendSlowly(Bytes),
    /// Sends a ping and waits for the pong with the same payload.
    PingPong(Bytes),
    /// Sends pings, and takes pongs, until the client sends a close frame; answers it.
    PingUntilClose,
    /// Waits for a text message.
    ExpectText(String),
    /// Takes so many text messages, whatever they say; the test reads them from the server.
    TakeTexts(usize),
    /// Takes text messages until the client sends a close frame, which is answered; sends these
    /// answers to those that ask.
    AnswerUntilClose(Vec<(String, String)>),
    /// Sends the texts `PREFIX 1`, `PREFIX 2`, .. until the client sends a close frame; answers it.
    CountUntilClose(String),
    /// Sends `say` again and again until the text `until` comes.
    SayUntil { say: String, until: String },
    /// Sends the bytes over and over and reads nothing, until the client is gone.
    FloodUntilGone(Bytes),
    /// Waits for a ping of the client; answers it.
    ExpectPing,
    /// Waits for a close frame with one of these codes; answers it or not.
    ExpectClose { codes: Vec<u16>, answer: bool },
    /// Sends a close frame and waits for the client's with the same code.
    Close(u16, String),
    /// Says nothing, answers nothing, until the client is gone, and marks `silence` when that
    /// begins. `bare`: not even TLS.
    Stall { bare: bool },
    /// Closes at once, so that the client sees a reset.
    Reset,
    /// Tells the test that the script came here.
    Mark(String),
    /// Waits until the test lets it go on.
    WaitFor(String),
}

/// The steps on one connection. After the last one the server closes its side and waits for the
/// client to close the other.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub steps: Vec<Step>,
    pub again: bool,
    /// The client may leave at any step: that is no failure.
    pub may_be_left: bool,
}

/// A script that begins with a right upgrade.
pub fn accept() -> Script {
    script().upgrade(Answer::default())
}

/// An empty script.
pub fn script() -> Script {
    Script::default()
}

impl Script {
    fn step(mut self, step: Step) -> Script {
        self.steps.push(step);
        self
    }

    fn bytes(self, name: &'static str, bytes: Vec<u8>) -> Script {
        self.step(Step::Send(Bytes { name, bytes: bytes.into() }))
    }

    /// All later connections are served by this script too.
    pub fn again(mut self) -> Script {
        self.again = true;
        self
    }

    /// The client may leave at any step: that is no failure.
    pub fn may_be_left(mut self) -> Script {
        self.may_be_left = true;
        self
    }

    pub fn upgrade(self, answer: Answer) -> Script {
        self.step(Step::Upgrade(answer))
    }

    /// The answer to the upgrade and the first frames in one write.
    pub fn accept_glued(self, frames: Vec<u8>) -> Script {
        self.upgrade(Answer { glued: Some(frames.into()), ..Answer::default() })
    }

    /// Anything in place of a right answer to the upgrade.
    pub fn answer(self, bytes: impl Into<Vec<u8>>) -> Script {
        self.step(Step::AnswerWith(bytes.into().into()))
    }

    /// An HTTP answer with an empty body.
    pub fn refuse(self, status: &str, headers: &[&str]) -> Script {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        self.answer(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n"))
    }

    /// An HTTP answer with a body, after which the connection is closed.
    pub fn respond(self, status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Script {
        self.answer(http_answer(status, headers, body.as_ref()))
    }

    pub fn expect_bare(self, bytes: impl Into<Vec<u8>>) -> Script {
        self.step(Step::ExpectBare(bytes.into().into()))
    }

    pub fn send_bare(self, bytes: impl Into<Vec<u8>>) -> Script {
        self.step(Step::SendBare(bytes.into().into()))
    }

    pub fn expect_peer(self, address: &str) -> Script {
        self.step(Step::ExpectPeer(address.parse().unwrap()))
    }

    pub fn expect_tls_failure(self) -> Script {
        self.step(Step::ExpectTlsFailure)
    }

    pub fn text(self, text: &str) -> Script {
        self.messages(&[Message::text(text)])
    }

    /// The messages, one frame each, in one write.
    pub fn messages(self, messages: &[Message]) -> Script {
        self.bytes("messages", messages.iter().flat_map(wire::message).collect())
    }

    pub fn raw(self, name: &'static str, bytes: Vec<u8>) -> Script {
        self.bytes(name, bytes)
    }

    pub fn send_slowly(self, bytes: Vec<u8>) -> Script {
        self.step(Step::SendSlowly(bytes.into()))
    }

    pub fn ping_pong(self, payload: &[u8]) -> Script {
        self.step(Step::PingPong(payload.to_vec().into()))
    }

    pub fn ping_until_close(self) -> Script {
        self.step(Step::PingUntilClose)
    }

    pub fn expect_text(self, text: &str) -> Script {
        self.step(Step::ExpectText(text.to_string()))
    }

    pub fn take_texts(self, count: usize) -> Script {
        self.step(Step::TakeTexts(count))
    }

    pub fn answer_until_close(self, answers: &[(&str, &str)]) -> Script {
        let answers = answers.iter().map(|(asked, answer)| (asked.to_string(), answer.to_string()));
        self.step(Step::AnswerUntilClose(answers.collect()))
    }

    /// Reads on, and says nothing but the answer to a close frame.
    pub fn listen_until_close(self) -> Script {
        self.answer_until_close(&[])
    }

    pub fn count_until_close(self, prefix: &str) -> Script {
        self.step(Step::CountUntilClose(prefix.to_string()))
    }

    pub fn say_until(self, say: &str, until: &str) -> Script {
        self.step(Step::SayUntil { say: say.to_string(), until: until.to_string() })
    }

    pub fn flood_until_gone(self, bytes: Vec<u8>) -> Script {
        self.step(Step::FloodUntilGone(bytes.into()))
    }

    /// Reads nothing more until the test says `listen`; marks `deaf` when that begins.
    pub fn deaf(self) -> Script {
        self.mark("deaf").wait_for("listen")
    }

    pub fn expect_ping(self) -> Script {
        self.step(Step::ExpectPing)
    }

    /// The close frame of a client that fails the connection.
    pub fn expect_close(self, code: u16) -> Script {
        self.step(Step::ExpectClose { codes: vec![code], answer: true })
    }

    /// The close frame of a client that leaves in peace.
    pub fn expect_bye(self) -> Script {
        self.step(Step::ExpectClose { codes: vec![1000, 1001], answer: true })
    }

    /// Takes the client's close frame and never answers it.
    pub fn expect_bye_in_vain(self) -> Script {
        self.step(Step::ExpectClose { codes: vec![1000, 1001], answer: false })
            .step(Step::Stall { bare: false })
    }

    pub fn close(self, code: u16, reason: &str) -> Script {
        self.step(Step::Close(code, reason.to_string()))
    }

    pub fn stall(self) -> Script {
        self.step(Step::Stall { bare: false })
    }

    /// Silence from the start: with TLS, the handshake is never answered.
    pub fn stall_bare(self) -> Script {
        self.step(Step::Stall { bare: true })
    }

    pub fn reset(self) -> Script {
        self.step(Step::Reset)
    }

    pub fn mark(self, name: &str) -> Script {
        self.step(Step::Mark(name.to_string()))
    }

    pub fn wait_for(self, name: &str) -> Script {
        self.step(Step::WaitFor(name.to_string()))
    }
}

/// An HTTP answer with a body of known length; it says that the connection is closed after it.
pub fn http_answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A ping frame, to stand between others.
pub fn ping(payload: &[u8]) -> Vec<u8> {
    wire::frame(FIN | PING, payload)
}
