//! One connection of the simulated venue: the thread that serves one client.
//!
//! ```text
//! TLS handshake -> HTTP request -> serving -> closing (at most 1 s) -> closed
//!                                     |
//!                                     +-> dropped without a word (--drop-after)
//! ```
//!
//! Waits in one place while serving (`Connection::wait`), always with a deadline. A message is
//! made only when the socket took all before it, so a slow client holds up its own schedule and
//! never fills memory: tungstenite's write buffer stays below `WRITE_BYTES_MAX`.

use std::fmt;
use std::io::{ErrorKind, PipeReader};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use native_tls::TlsAcceptor;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Bytes, Message, WebSocket};

use super::Options;
use super::socket::{Interest, Socket, Woken, wait};
use super::subscriptions::Subscriptions;
use super::upgrade::{self, Admission, Answered, Status};
use crate::clock::{Mono, mono_now, wall_now};

/// For TLS handshake and HTTP request together.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the client's answer to a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A wait is never longer than this.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A schedule that is later than this is late for good: what was not sent meanwhile is sent at
/// the usual rate, not in one burst.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Messages made before the thread looks at everything else again.
const ROUND_MESSAGES_MAX: usize = 256;
/// Messages read before the same.
const ROUND_READS_MAX: usize = 64;

const READ_BUFFER_BYTES: usize = 4 << 10;
const WRITE_BUFFER_BYTES: usize = 16 << 10;
/// Room for a full buffer, one round of replies to a client and a close frame.
const WRITE_BYTES_MAX: usize = 128 << 10;
/// A client's message; only subscriptions are expected.
const CLIENT_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// A reply quotes at most 64 characters of the request (each at most six bytes in JSON) and an
/// id, and one frame header comes before it.
const REPLY_BYTES_MAX: usize = 1 << 10;
const _: () =
    assert!(WRITE_BUFFER_BYTES + (ROUND_READS_MAX + 2) * REPLY_BYTES_MAX < WRITE_BYTES_MAX);

/// What all threads of one venue share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) acceptor: Option<TlsAcceptor>,
    /// Its other end is closed when the venue stops.
    pub(super) stop: PipeReader,
    /// Taken once per round of messages, not per message.
    pub(super) sent: Mutex<Sent>,
}

impl Shared {
    pub(super) fn count(&self, add: impl FnOnce(&mut Sent)) {
        add(&mut self.sent.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a venue did since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Connections that were upgraded to WebSockets.
    pub connections: u64,
    /// Requests that were answered with an error, and connections that never made one.
    pub refused: u64,
    /// Messages of all streams that were given to sockets; replies to clients don't count.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Refused(Status),
    /// `--drop-after` passed.
    Dropped,
    /// The venue stops.
    Stopped,
    /// The client sent a close frame.
    ClosedByClient,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Refused(status) => write!(f, "refused: {status}"),
            Ending::Dropped => f.write_str("dropped, as asked for"),
            Ending::Stopped => f.write_str("closed: the venue stops"),
            Ending::ClosedByClient => f.write_str("closed by the client"),
        }
    }
}

/// Serves the client behind `tcp` until one of the two ends it.
pub(super) fn serve(tcp: TcpStream, number: u64, shared: &Shared, admission: Admission) {
    match talk(tcp, shared, admission) {
        Ok(ending) => log::debug!("venue: connection {number}: {ending}"),
        Err(error) => log::debug!("venue: connection {number}: {error:#}"),
    }
}

fn talk(tcp: TcpStream, shared: &Shared, admission: Admission) -> anyhow::Result<Ending> {
    let deadline = mono_now().after(UPGRADE_TIMEOUT);
    let stop = shared.stop.as_fd();
    let opened = Socket::accept(tcp, shared.acceptor.as_ref(), stop, deadline)
        .and_then(|mut socket| {
            let answered = upgrade::answer(&mut socket, admission, stop, deadline)?;
            Ok((socket, answered))
        })
        .inspect_err(|_| shared.count(|sent| sent.refused += 1))?;
    let (mut socket, (streams, tail)) = match opened {
        (socket, Answered::Upgraded { streams, tail }) => (socket, (streams, tail)),
        (mut socket, Answered::Refused(status)) => {
            shared.count(|sent| sent.refused += 1);
            socket.say_goodbye();
            return Ok(Ending::Refused(status));
        }
    };
    shared.count(|sent| sent.connections += 1);

    let mut subscriptions = Subscriptions::new(shared.options.seed, shared.options.rate);
    for name in streams {
        let room = subscriptions.subscribe(name, 0);
        assert!(room, "a request with too many streams is refused");
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BYTES_MAX)
        .max_message_size(Some(CLIENT_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(CLIENT_MESSAGE_BYTES_MAX));
    let websocket = WebSocket::from_partially_read(socket, tail, Role::Server, Some(config));
    let mut connection = Connection::new(websocket, subscriptions, shared);
    let ending = connection.serve();
    connection.end(&ending);
    socket = connection.websocket.into_inner();
    if !matches!(ending, Ok(Ending::Dropped)) {
        socket.say_goodbye();
    }
    ending.context("serving")
}

struct Connection<'a> {
    websocket: WebSocket<Socket>,
    subscriptions: Subscriptions,
    shared: &'a Shared,
    /// Where the connection's own time line starts; moved on while the client is too slow.
    start: Mono,
    ping_at: Option<Mono>,
    drop_at: Option<Mono>,
    pings: u64,
    /// The socket took nothing more at the last try.
    blocked: bool,
}

/// Whether a round left something to do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    More,
}

impl<'a> Connection<'a> {
    fn new(
        websocket: WebSocket<Socket>,
        subscriptions: Subscriptions,
        shared: &'a Shared,
    ) -> Connection<'a> {
        let now = mono_now();
        let ping_every = shared.options.ping_every;
        Connection {
            websocket,
            subscriptions,
            shared,
            start: now,
            ping_at: (!ping_every.is_zero()).then(|| now.after(ping_every)),
            drop_at: shared.options.drop_after.map(|span| now.after(span)),
            pings: 0,
            blocked: false,
        }
    }

    /// Until the end of the connection, but without its last words.
    fn serve(&mut self) -> Result<Ending, Error> {
        // The first look is without a wait: the client may have sent data with its request.
        let mut round = Round::More;
        loop {
            match self.wait(round)? {
                Woken::Stop => return Ok(Ending::Stopped),
                Woken::Ready | Woken::Deadline => {}
            }
            if self.drop_at.is_some_and(|at| mono_now() >= at) {
                return Ok(Ending::Dropped);
            }
            self.flush()?;
            round = Round::Done;
            // While the socket is full nothing is read: replies would have no place to go.
            if !self.blocked {
                match self.read()? {
                    Some(more) => round = more,
                    None => return Ok(Ending::ClosedByClient),
                }
                self.ping()?;
                if self.send()? == Round::More {
                    round = Round::More;
                }
                self.flush()?;
            }
            self.allow_for_lateness();
        }
    }

    fn wait(&self, round: Round) -> Result<Woken, Error> {
        let now = mono_now();
        let mut deadline = now.after(WAIT_MAX);
        let mut interest = Interest::Write;
        if !self.blocked {
            interest = Interest::Read;
            let due = self.subscriptions.next_due().map(|due| Mono(self.start.0 + due));
            deadline = [due, self.ping_at].into_iter().flatten().fold(deadline, Mono::min);
            if round == Round::More {
                deadline = now;
            }
        }
        deadline = self.drop_at.map_or(deadline, |at| deadline.min(at));
        let socket = self.websocket.get_ref().as_fd();
        Ok(wait(socket, interest, Some(self.shared.stop.as_fd()), deadline)?)
    }

    /// Reads what the client sent; `None` after its close frame.
    fn read(&mut self) -> Result<Option<Round>, Error> {
        for _ in 0..ROUND_READS_MAX {
            let message = match self.websocket.read() {
                Ok(message) => message,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Some(Round::Done));
                }
                Err(error) => return Err(error),
            };
            let reply = match message {
                Message::Text(text) => self.subscriptions.answer(&text, self.now()),
                Message::Binary(_) => self.subscriptions.answer("a binary message", self.now()),
                Message::Close(_) => return Ok(None),
                // tungstenite answers pings itself.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            self.write(Message::text(reply))?;
            if self.blocked {
                return Ok(Some(Round::More));
            }
        }
        Ok(Some(Round::More))
    }

    fn ping(&mut self) -> Result<(), Error> {
        let now = mono_now();
        if self.blocked || self.ping_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        self.pings += 1;
        self.ping_at = Some(now.after(self.shared.options.ping_every));
        let payload = Bytes::from(self.pings.to_string());
        self.write(Message::Ping(payload))
    }

    /// Sends what is due.
    fn send(&mut self) -> Result<Round, Error> {
        let now = self.now();
        let (mut messages, mut bytes) = (0, 0);
        let mut result = Ok(());
        while !self.blocked && messages < ROUND_MESSAGES_MAX as u64 && result.is_ok() {
            let Some(text) = self.subscriptions.next_message(now, wall_now() / 1_000_000) else {
                break;
            };
            messages += 1;
            bytes += text.len() as u64;
            result = self.write(Message::text(text));
        }
        if messages > 0 {
            self.shared.count(|sent| {
                sent.messages += messages;
                sent.bytes += bytes;
            });
        }
        result?;
        Ok(if self.subscriptions.is_due(now) { Round::More } else { Round::Done })
    }

    /// Hands over a message. Where the socket is full, tungstenite keeps it for the next flush.
    fn write(&mut self, message: Message) -> Result<(), Error> {
        let result = self.websocket.write(message);
        self.note_blocked(result)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let result = self.websocket.flush();
        self.note_blocked(result)
    }

    fn note_blocked(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.blocked = match result {
            Ok(()) => false,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Now on the connection's own time line, in nanoseconds.
    fn now(&self) -> u64 {
        mono_now().0.saturating_sub(self.start.0)
    }

    fn allow_for_lateness(&mut self) {
        let late = self.subscriptions.late(self.now());
        self.start = self.start.after(late.saturating_sub(LATE_MAX));
    }

    /// The connection's last words, as far as its end calls for some.
    fn end(&mut self, ending: &Result<Ending, Error>) {
        let (code, reason) = match ending {
            Ok(Ending::Dropped | Ending::Refused(_)) => return,
            Ok(Ending::Stopped) => (CloseCode::Away, "the venue stops"),
            // The reply to the client's close frame is queued already.
            Ok(Ending::ClosedByClient) => return self.close(None),
            Err(Error::Protocol(_)) => (CloseCode::Protocol, "not a valid frame"),
            Err(Error::Utf8(_)) => (CloseCode::Invalid, "not valid UTF-8"),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                (CloseCode::Size, "the message is longer than 64 KiB")
            }
            Err(_) => return,
        };
        self.close(Some(CloseFrame { code, reason: reason.into() }));
    }

    /// The closing handshake, within `CLOSE_TIMEOUT`; a client that doesn't take part in it is
    /// left behind.
    fn close(&mut self, frame: Option<CloseFrame>) {
        let deadline = mono_now().after(CLOSE_TIMEOUT);
        let mut result = match frame {
            Some(frame) => self.websocket.close(Some(frame)),
            None => self.websocket.flush(),
        };
        loop {
            if self.note_blocked(result).is_err() || mono_now() >= deadline {
                return;
            }
            // What the client sent before it saw the close frame is read and dropped.
            let interest = match self.websocket.read() {
                Ok(_) => None,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    Some(if self.blocked { Interest::Write } else { Interest::Read })
                }
                Err(_) => return,
            };
            if let Some(interest) = interest {
                // Not on the venue's stop, which may have been what led here.
                let socket = self.websocket.get_ref().as_fd();
                if wait(socket, interest, None, deadline).is_err() {
                    return;
                }
            }
            result = self.websocket.flush();
        }
    }
}
