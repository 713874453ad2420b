//! A connection's socket, plain or TLS, and the one place where the venue's threads wait.
//!
//! Every socket is non-blocking; whoever would block waits here, on the socket and on the venue's
//! stop, until a deadline.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, bail};
use native_tls::{HandshakeError, TlsAcceptor, TlsStream};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::clock::{Mono, mono_now};

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The descriptor is ready, or in error, which the next read or write will tell.
    Ready,
    /// The deadline passed.
    Deadline,
    /// The venue stops. Goes before the other two.
    Stop,
}

/// Waits for `interest` on `fd`, for the end of `stop`, or for `deadline`. A deadline that has
/// passed looks without waiting. May return `Deadline` early, after a signal.
pub(super) fn wait(
    fd: BorrowedFd<'_>,
    interest: Interest,
    stop: Option<BorrowedFd<'_>>,
    deadline: Mono,
) -> io::Result<Woken> {
    let flags = match interest {
        Interest::Read => PollFlags::POLLIN,
        Interest::Write => PollFlags::POLLOUT,
    };
    let (mut one, mut two);
    let fds: &mut [PollFd<'_>] = match stop {
        Some(stop) => {
            two = [PollFd::new(fd, flags), PollFd::new(stop, PollFlags::POLLIN)];
            &mut two
        }
        None => {
            one = [PollFd::new(fd, flags)];
            &mut one
        }
    };
    match ppoll(fds, Some(TimeSpec::from(deadline.since(mono_now()))), None) {
        Ok(0) | Err(Errno::EINTR) => return Ok(Woken::Deadline),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stopped = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(true));
    Ok(if stopped { Woken::Stop } else { Woken::Ready })
}

/// The same within one deadline, for steps that a stop just ends.
pub(super) fn wait_or_fail(
    fd: BorrowedFd<'_>,
    interest: Interest,
    stop: BorrowedFd<'_>,
    deadline: Mono,
) -> anyhow::Result<()> {
    loop {
        match wait(fd, interest, Some(stop), deadline)? {
            Woken::Ready => return Ok(()),
            Woken::Stop => bail!("the venue stops"),
            Woken::Deadline if mono_now() >= deadline => bail!("timeout: upgrade"),
            Woken::Deadline => {}
        }
    }
}

/// A connected, non-blocking socket.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Takes over `tcp`; with an acceptor, does the TLS handshake before `deadline`.
    pub(super) fn accept(
        tcp: TcpStream,
        acceptor: Option<&TlsAcceptor>,
        stop: BorrowedFd<'_>,
        deadline: Mono,
    ) -> anyhow::Result<Socket> {
        tcp.set_nonblocking(true)?;
        tcp.set_nodelay(true)?;
        let Some(acceptor) = acceptor else {
            return Ok(Socket::Plain(tcp));
        };
        let mut handshake = acceptor.accept(tcp);
        loop {
            match handshake {
                Ok(stream) => return Ok(Socket::Tls(Box::new(stream))),
                Err(HandshakeError::Failure(error)) => {
                    return Err(error).context("TLS handshake");
                }
                Err(HandshakeError::WouldBlock(middle)) => {
                    // The handshake's few kilobytes always fit into a fresh socket, so what
                    // would block is a read.
                    wait_or_fail(middle.get_ref().as_fd(), Interest::Read, stop, deadline)?;
                    handshake = middle.handshake();
                }
            }
        }
    }

    /// Says goodbye in TLS, where that is spoken; the socket itself closes when it is dropped.
    pub(super) fn say_goodbye(&mut self) {
        if let Socket::Tls(stream) = self
            && let Err(error) = stream.shutdown()
        {
            log::trace!("TLS close_notify: {error}");
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Plain(tcp) => tcp.as_fd(),
            Socket::Tls(stream) => stream.get_ref().as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.read(buf),
            Socket::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.write(buf),
            Socket::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(tcp) => tcp.flush(),
            Socket::Tls(stream) => stream.flush(),
        }
    }
}
