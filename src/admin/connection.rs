//! One client of the admin endpoint, from its first byte to its last.
//!
//! ```text
//!   Reading --whole request--> (answer at once) ------------------> Writing --> Reading ..
//!      |                  \--> Ordered --main thread answered--->/     |  last one
//!      +--wrong, too late: its refusal --> Writing ------------------> +--> Lingering --> gone
//! ```
//!
//! Owns the deadlines and the bounds of a client. It reads nothing while it answers, so requests
//! that come one behind the other are answered in order and wait in the kernel. After the last
//! answer it reads what still comes for a moment: a socket that is closed with unread bytes in it
//! is reset, and the client would never see the answer.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

use super::guard::Peer;
use super::http::{self, BODY_BYTES_MAX, HEAD_BYTES_MAX, Method, Request, Response, Wrong};
use super::order::Refusal;
use crate::clock::Mono;
use crate::feed::wait::Interest;

/// Head and body must be there within this time from the first byte, or from the connection.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(5);
/// An answer must be taken within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two requests.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// An order is answered by the main thread within this time, or it is said that it was not.
const ORDER_MAX: Duration = Duration::from_secs(10);
/// What is still read after the last answer: so long, and so many bytes.
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 << 10;
/// Read at once.
const READ_BYTES: usize = 4 << 10;
/// Steps that are done for one client before others have their turn: requests may stand one behind
/// the other for ever.
const STEPS_MAX: usize = 16;
/// Bytes of a client that are kept at most.
pub(super) const BUF_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX + READ_BYTES;

/// What answers to orders come through.
pub(super) type Answer = Receiver<Result<String, Refusal>>;

/// What becomes of a request.
pub(super) enum Served {
    /// The answer.
    Now(Response),
    /// The main thread answers.
    Ordered(Answer),
}

/// A client; `S` is its socket, which never blocks.
pub(super) struct Connection<S> {
    stream: S,
    pub(super) peer: Peer,
    buf: Vec<u8>,
    stage: Stage,
    /// It had enough for this turn, and can go on at once.
    is_hasty: bool,
}

enum Stage {
    Reading { by: Mono, is_idle: bool },
    Ordered { answer: Answer, by: Mono, head_only: bool, keep_alive: bool },
    Writing { bytes: Vec<u8>, sent: usize, by: Mono, keep_alive: bool },
    Lingering { by: Mono, bytes: usize },
    Gone,
}

/// Ends the sending side of a socket.
pub(super) trait EndSending {
    /// Nothing more will be sent.
    fn end_sending(&self);
}

impl EndSending for super::listen::Stream {
    fn end_sending(&self) {
        super::listen::Stream::end_sending(self);
    }
}

impl<S: Read + Write + EndSending> Connection<S> {
    /// A client that has sent nothing yet.
    pub(super) fn new(stream: S, peer: Peer, now: Mono) -> Connection<S> {
        let stage = Stage::Reading { by: now.after(REQUEST_MAX), is_idle: false };
        Connection { stream, peer, buf: Vec::new(), stage, is_hasty: false }
    }

    /// Whether nothing is to be done for it any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }

    /// Bytes of answers that are not sent yet.
    pub(super) fn answer_bytes(&self) -> usize {
        match &self.stage {
            Stage::Writing { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// What is waited for on its socket; none while the main thread answers.
    pub(super) fn interest(&self) -> Option<Interest> {
        match self.stage {
            Stage::Reading { .. } | Stage::Lingering { .. } => Some(Interest::Read),
            Stage::Writing { .. } => Some(Interest::Write),
            Stage::Ordered { .. } | Stage::Gone => None,
        }
    }

    /// When it must be looked at, whatever comes.
    pub(super) fn deadline(&self) -> Option<Mono> {
        match self.stage {
            _ if self.is_hasty => Some(Mono(0)),
            Stage::Reading { by, .. }
            | Stage::Ordered { by, .. }
            | Stage::Writing { by, .. }
            | Stage::Lingering { by, .. } => Some(by),
            Stage::Gone => None,
        }
    }

    /// How soon it may go where there is no room for others: a smaller number goes first. None
    /// while it is being answered.
    pub(super) fn dispensable(&self) -> Option<(u8, Mono)> {
        match self.stage {
            Stage::Lingering { by, .. } => Some((0, by)),
            Stage::Reading { by, is_idle: true } => Some((1, by)),
            Stage::Reading { by, is_idle: false } => Some((2, by)),
            Stage::Ordered { .. } | Stage::Writing { .. } | Stage::Gone => None,
        }
    }

    /// Refuses it without having read anything, as far as its socket takes that at once.
    pub(super) fn turn_away(&mut self, wrong: &Wrong) {
        // It gets the answer or it does not: nobody waits for it.
        let _ = self.stream.write(&Response::of(wrong).render(false, false));
        self.stage = Stage::Gone;
    }

    /// Does what can be done now. `serve` makes the answer to a request; it is called once for
    /// each.
    pub(super) fn go_on(&mut self, now: Mono, serve: &mut dyn FnMut(Peer, &Request) -> Served) {
        self.is_hasty = false;
        for _ in 0..STEPS_MAX {
            let before = std::mem::discriminant(&self.stage);
            let result = match &mut self.stage {
                Stage::Reading { .. } => self.read(now, serve),
                Stage::Ordered { .. } => {
                    self.look_for_answer(now);
                    Ok(())
                }
                Stage::Writing { .. } => self.write(now),
                Stage::Lingering { .. } => self.linger(now),
                Stage::Gone => return,
            };
            if result.is_err() {
                self.stage = Stage::Gone;
            }
            if std::mem::discriminant(&self.stage) == before {
                return;
            }
        }
        self.is_hasty = true;
    }

    fn read(
        &mut self,
        now: Mono,
        serve: &mut dyn FnMut(Peer, &Request) -> Served,
    ) -> io::Result<()> {
        loop {
            // First: the next request may be there already, behind the one before.
            match self.take_request() {
                Ok(Some(request)) => {
                    let head_only = request.method == Method::Head;
                    match serve(self.peer, &request) {
                        Served::Now(response) => {
                            self.answer(now, &response, head_only, request.keep_alive);
                        }
                        Served::Ordered(answer) => {
                            let (by, keep_alive) = (now.after(ORDER_MAX), request.keep_alive);
                            self.stage = Stage::Ordered { answer, by, head_only, keep_alive };
                        }
                    }
                    return Ok(());
                }
                Ok(None) => {}
                Err(wrong) => {
                    self.answer(now, &Response::of(&wrong), false, false);
                    return Ok(());
                }
            }
            let Stage::Reading { by, is_idle } = &mut self.stage else { return Ok(()) };
            if now >= *by {
                let wrong = Wrong::new(408, "the request did not come in time");
                match *is_idle || self.buf.is_empty() {
                    true => self.stage = Stage::Gone,
                    false => self.answer(now, &Response::of(&wrong), false, false),
                }
                return Ok(());
            }
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.stage = Stage::Gone;
                    return Ok(());
                }
                Ok(n) => {
                    if std::mem::take(is_idle) {
                        *by = now.after(REQUEST_MAX);
                    }
                    self.buf.extend_from_slice(&bytes[..n]);
                    debug_assert!(self.buf.len() <= BUF_BYTES_MAX);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The request at the beginning of what came, with its body, which is thrown away.
    fn take_request(&mut self) -> Result<Option<Request>, Wrong> {
        if self.buf.is_empty() {
            return Ok(None);
        }
        let Some(request) = http::parse(&self.buf)? else { return Ok(None) };
        let bytes = request.head_bytes + request.body_bytes;
        if self.buf.len() < bytes {
            return Ok(None);
        }
        self.buf.drain(..bytes);
        if self.buf.is_empty() {
            self.buf = Vec::new();
        }
        Ok(Some(request))
    }

    fn answer(&mut self, now: Mono, response: &Response, head_only: bool, keep_alive: bool) {
        let bytes = response.render(head_only, keep_alive);
        self.stage = Stage::Writing { bytes, sent: 0, by: now.after(ANSWER_MAX), keep_alive };
    }

    fn look_for_answer(&mut self, now: Mono) {
        let Stage::Ordered { answer, by, head_only, keep_alive } = &self.stage else { return };
        let (head_only, keep_alive) = (*head_only, *keep_alive);
        let response = match answer.try_recv() {
            Ok(Ok(text)) => Response::json(200, &serde_json::json!({ "done": text })),
            Ok(Err(refusal)) => Response::of(&match refusal {
                Refusal::NotFound(why) => Wrong::new(404, why),
                Refusal::Conflict(why) => Wrong::new(409, why),
                Refusal::Unavailable(why) => Wrong::new(503, why),
            }),
            Err(TryRecvError::Empty) if now < *by => return,
            Err(TryRecvError::Empty) => {
                let why = "the recorder is busy; it does it as soon as it can: look at the log";
                Response::of(&Wrong::new(503, why))
            }
            Err(TryRecvError::Disconnected) => Response::of(&Wrong::new(503, "the recorder ends")),
        };
        self.answer(now, &response, head_only, keep_alive);
    }

    fn write(&mut self, now: Mono) -> io::Result<()> {
        let Stage::Writing { bytes, sent, by, keep_alive } = &mut self.stage else {
            return Ok(());
        };
        while *sent < bytes.len() {
            match self.stream.write(&bytes[*sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => *sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if now < *by { Ok(()) } else { Err(error) };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stage = if *keep_alive {
            // What came behind the request is the beginning of the next one.
            match self.buf.is_empty() {
                true => Stage::Reading { by: now.after(IDLE_MAX), is_idle: true },
                false => Stage::Reading { by: now.after(REQUEST_MAX), is_idle: false },
            }
        } else {
            self.buf = Vec::new();
            self.stream.end_sending();
            Stage::Lingering { by: now.after(LINGER_MAX), bytes: 0 }
        };
        Ok(())
    }

    fn linger(&mut self, now: Mono) -> io::Result<()> {
        let Stage::Lingering { by, bytes } = &mut self.stage else { return Ok(()) };
        let mut thrown_away = [0; READ_BYTES];
        while now < *by && *bytes < LINGER_BYTES_MAX {
            match self.stream.read(&mut thrown_away) {
                Ok(0) => break,
                Ok(n) => *bytes += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stage = Stage::Gone;
        Ok(())
    }
}

impl<S: AsFd> AsFd for Connection<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests;
