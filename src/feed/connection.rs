//! One open connection: reading messages, sending what must be sent, and closing.
//!
//! Owns the WebSocket and what its errors mean. Decides nothing ([`super::session`] does) and
//! never waits. Sees to it that the memory of a large message is given back.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Error, Message, Utf8Bytes, WebSocket};

use super::session::Reason;
use super::socket::Socket;
use super::transport::{Stream, printable};
use super::upgrade::{READ_BUFFER_BYTES, Upgraded};
use super::wait::Interest;

/// What is thrown away at once after a protocol error.
const DISCARD_BYTES: usize = 4096;
/// A message from so many bytes on has its pages given back at once. Smaller ones are not worth
/// the system call, and lie beside others in the C library's heap.
const RELEASE_BYTES_MIN: usize = 128 << 10;
/// No system has larger pages than this, and few have.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// What a read brought.
#[derive(Debug)]
pub enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping or pong.
    Control,
    /// Nothing more for now.
    Nothing,
    /// The server's close frame; ours was answered, or its own is answered by now.
    CloseFrame(Reason),
    /// The end, which was to be expected after a close.
    End,
    /// The connection can't go on.
    Broken(Reason),
}

/// An upgraded connection.
pub struct Connection {
    socket: WebSocket<Stream>,
    wants_write: bool,
    /// After a protocol error frames can't be told apart any more.
    discards: bool,
    /// The last message that the read buffer had to grow for.
    large: Option<Bytes>,
}

impl Connection {
    /// Takes over after the upgrade.
    pub fn new(upgraded: Upgraded) -> Connection {
        Connection { socket: upgraded.socket, wants_write: false, discards: false, large: None }
    }

    /// The socket below TLS: stamps and byte counts.
    pub fn socket(&self) -> &Socket {
        self.socket.get_ref().socket()
    }

    /// What to wait for.
    pub fn interest(&self) -> Interest {
        if self.wants_write { Interest::Both } else { Interest::Read }
    }

    /// Whether the server has not taken all yet that was sent.
    pub fn waits_to_send(&self) -> bool {
        self.wants_write
    }

    /// The next message, if there is one.
    pub fn read(&mut self) -> Incoming {
        if self.discards {
            return self.discard();
        }
        // Once the read buffer is another one this is the last that holds the grown one.
        self.large.take_if(|large| large.is_unique());
        match self.socket.read() {
            Ok(Message::Text(text)) => Incoming::Text(text),
            Ok(Message::Binary(bytes)) => Incoming::Binary(bytes),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Incoming::Control,
            Ok(Message::Close(frame)) => Incoming::CloseFrame(server_closed(frame)),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Incoming::Nothing,
            Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => Incoming::Control,
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Incoming::End,
            Err(error) => Incoming::Broken(reason_of(error)),
        }
    }

    /// Takes a message back that nobody needs any more. The read buffer grows to hold a large
    /// message, and is used again as it is once no message lies in it. Kept here, the message
    /// keeps it from that: the next buffer is of the ordinary size, and this one is freed.
    pub fn done_with(&mut self, message: impl Into<Bytes>) {
        let message = message.into();
        if message.len() > READ_BUFFER_BYTES {
            release_pages(&message);
            self.large = Some(message);
        }
    }

    // By itself, so that its buffer is not on the stack in each read.
    #[inline(never)]
    fn discard(&mut self) -> Incoming {
        let mut scrap = [0; DISCARD_BYTES];
        match self.socket.get_mut().read(&mut scrap) {
            Ok(0) => Incoming::End,
            Ok(_) => Incoming::Control,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Incoming::Nothing,
                ErrorKind::Interrupted => Incoming::Control,
                _ => Incoming::End,
            },
        }
    }

    /// Sends what waits to be sent, pongs and close replies too; `true` once all has left.
    ///
    /// # Errors
    /// The connection can't go on.
    pub fn flush(&mut self) -> Result<bool, Reason> {
        let flushed = self.socket.flush();
        self.note(flushed)
    }

    /// Queues a text message.
    ///
    /// # Errors
    /// The connection can't go on.
    pub fn send_text(&mut self, text: &str) -> Result<bool, Reason> {
        let sent = self.socket.send(Message::text(text));
        self.note(sent)
    }

    /// Queues an empty ping.
    ///
    /// # Errors
    /// The connection can't go on.
    pub fn ping(&mut self) -> Result<bool, Reason> {
        let sent = self.socket.send(Message::Ping(Bytes::new()));
        self.note(sent)
    }

    /// Queues an unsolicited pong (RFC 6455 section 5.5.3): we are there, though we don't read.
    ///
    /// # Errors
    /// The connection can't go on.
    pub fn pong(&mut self) -> Result<bool, Reason> {
        let sent = self.socket.send(Message::Pong(Bytes::new()));
        self.note(sent)
    }

    /// Begins the close handshake. Without `frames` nothing that comes in is looked at any more,
    /// and the server sees the end of what we send.
    pub fn close(&mut self, code: u16, frames: bool) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::default() };
        let closed = self.socket.close(Some(frame));
        // Where the connection is gone there is nobody left to tell.
        let _ = self.note(closed);
        if !frames {
            self.discards = true;
            if !self.wants_write {
                self.socket().shutdown_write();
            }
        }
    }

    fn note(&mut self, result: Result<(), Error>) -> Result<bool, Reason> {
        match result {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                self.wants_write = false;
                Ok(true)
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.wants_write = true;
                Ok(false)
            }
            // We are closing: there is nothing to be sent any more.
            Err(Error::Protocol(ProtocolError::SendAfterClosing)) => Ok(!self.wants_write),
            Err(error) => Err(reason_of(error)),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// Gives the memory of a message back to the system before its buffer is freed, which may take
/// until the next 16 KiB have come.
fn release_pages(message: &Bytes) {
    if message.len() < RELEASE_BYTES_MIN {
        return;
    }
    let page = PAGE_BYTES_MAX;
    let from = (message.as_ptr() as usize).next_multiple_of(page);
    let end = (message.as_ptr() as usize + message.len()) / page * page;
    // SAFETY: whole pages within the message, which is private memory of the heap. The message is
    // the only one to see them, and is never read again: that they turn to zeros shows nowhere.
    unsafe {
        // Where it fails they are freed later, with the buffer.
        libc::madvise(from as *mut libc::c_void, end - from, libc::MADV_DONTNEED);
    }
}

fn server_closed(frame: Option<CloseFrame>) -> Reason {
    match frame {
        Some(frame) => {
            Reason::ServerClosed { code: Some(frame.code.into()), text: printable(&frame.reason) }
        }
        None => Reason::ServerClosed { code: None, text: String::new() },
    }
}

fn reason_of(error: Error) -> Reason {
    match error {
        Error::Io(error) => Reason::Lost { cause: lost(&error) },
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Reason::Lost { cause: "ended without a close frame".to_string() }
        }
        Error::Protocol(error) => {
            let mut cause = error.to_string();
            if let Some(first) = cause.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            Reason::Protocol { cause }
        }
        Error::Utf8(_) => Reason::InvalidUtf8,
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            Reason::Oversized { bytes: size as u64, limit: max_size as u64 }
        }
        // What pings and replies add is a few bytes each: it has not read for long.
        Error::WriteBufferFull(_) => {
            Reason::Lost { cause: "the server does not read what is sent to it".to_string() }
        }
        other => Reason::Lost { cause: printable(&other.to_string()) },
    }
}

fn lost(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset => "reset by the server".to_string(),
        ErrorKind::UnexpectedEof => "ended without a close frame".to_string(),
        _ => printable(&error.to_string()),
    }
}
