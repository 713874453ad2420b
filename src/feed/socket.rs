//! The socket of a feed, below TLS: non-blocking, and each read tells when its bytes came in.
//!
//! Owns the TCP socket, its options and the receive stamps. TLS and WebSocket lie above it
//! ([`super::transport`]).

use std::io::{self, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
    connect, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use super::wait::Interest;
use crate::clock::{self, UnixNs};
use crate::tape::event::StampClock;

/// OpenSSL reads each record's 5-byte head and body by themselves. With this buffer below it one
/// recvmsg brings several records; without it TLS costs about twice the system calls. It takes
/// memory only while something is in it, as OpenSSL's own buffers do.
pub(crate) const READ_AHEAD_BYTES: usize = 16 << 10;

/// After so many reads in a row the socket says "would block" once, though it would not. A server
/// that sends frames of no message without an end (continuations, say) else keeps a feed in one
/// call for ever, where no deadline and no stop reaches it.
const READS_IN_A_ROW_MAX: u32 = 64;

/// The kernel asks the other side whether it is still there after so long without a packet, in
/// seconds: below the minute or more after which firewalls and NAT forget a connection, so that it
/// also keeps one open that has nothing to say.
const KEEPALIVE_IDLE_S: u32 = 30;
/// It asks again this often, in seconds, and so many times.
const KEEPALIVE_EVERY_S: u32 = 10;
/// See [`KEEPALIVE_EVERY_S`]. Three lost packets in a row are no accident.
const KEEPALIVE_COUNT: u32 = 3;
/// What we sent (a subscription, a pong) must be acknowledged within this, in milliseconds. By
/// default the kernel sends again for about a quarter of an hour. While this is set it also
/// decides when unanswered questions end the connection: it is the time that these take.
const UNACKNOWLEDGED_MAX_MS: u32 = (KEEPALIVE_IDLE_S + KEEPALIVE_COUNT * KEEPALIVE_EVERY_S) * 1000;

/// A connected or connecting TCP socket.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    clock: StampClock,
    control: Vec<u8>,
    stamp: UnixNs,
    blocked_on: Interest,
    wire_bytes: u64,
    reads_in_a_row: u32,
    ahead: Option<ReadAhead>,
}

#[derive(Debug, Default)]
struct ReadAhead {
    /// Empty while nothing is there to be read.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Socket {
    /// Begins to connect to `address`, from the local address `from` where one is given; done
    /// once [`Socket::finish_connect`] says so.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2), bind(2), connect(2).
    pub fn connect(
        address: SocketAddr,
        from: Option<IpAddr>,
        want: StampClock,
    ) -> io::Result<Socket> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, None)?;
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        // A kernel without it stamps nothing: then the clock is read after each read.
        let stamped = want == StampClock::Kernel
            && setsockopt(&fd, sockopt::ReceiveTimestampns, &true).is_ok();
        if let Some(from) = from {
            // The port is chosen in connect(2), where one that serves another server is free too.
            // A kernel without the option has fewer ports to give.
            let _ = setsockopt(&fd, sockopt::IpBindAddressNoPort, &true);
            let local = SockaddrStorage::from(SocketAddr::new(from, 0));
            bind(fd.as_raw_fd(), &local).map_err(|error| {
                io::Error::other(format!("can't connect from {from}: {}", io::Error::from(error)))
            })?;
        }
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Socket {
            tcp: TcpStream::from(fd),
            clock: if stamped { StampClock::Kernel } else { StampClock::User },
            control: nix::cmsg_space!(TimeSpec),
            stamp: 0,
            blocked_on: Interest::Write,
            wire_bytes: 0,
            reads_in_a_row: 0,
            ahead: None,
        })
    }

    /// After the socket became writable: whether the connection stands. From then on the kernel
    /// watches over it.
    ///
    /// # Errors
    /// Why it does not.
    pub fn finish_connect(&self) -> io::Result<()> {
        if let Some(error) = self.tcp.take_error()? {
            return Err(error);
        }
        self.tcp.peer_addr()?;
        self.watch_over()
    }

    /// Half-open connections and sends that nobody acknowledges end as errors, also where no
    /// pings are sent. Not before it stands: `--connect-timeout` may be longer than these.
    fn watch_over(&self) -> io::Result<()> {
        setsockopt(&self.tcp, sockopt::KeepAlive, &true)?;
        setsockopt(&self.tcp, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
        setsockopt(&self.tcp, sockopt::TcpKeepInterval, &KEEPALIVE_EVERY_S)?;
        setsockopt(&self.tcp, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
        setsockopt(&self.tcp, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MAX_MS)?;
        Ok(())
    }

    /// Reads ahead from now on; for TLS, which reads in small pieces.
    pub fn read_ahead(&mut self) {
        self.ahead = Some(ReadAhead::default());
    }

    /// When the bytes of the last read came in.
    pub fn stamp(&self) -> UnixNs {
        self.stamp
    }

    /// Where stamps are from.
    pub fn clock(&self) -> StampClock {
        self.clock
    }

    /// What the last call that would have blocked waits for.
    pub fn blocked_on(&self) -> Interest {
        self.blocked_on
    }

    /// Bytes received since the start.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// Tells the other side that nothing more will come.
    pub fn shutdown_write(&self) {
        // It fails where the connection is gone already, which is what was asked for.
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
    }

    fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.reads_in_a_row == READS_IN_A_ROW_MAX {
            self.reads_in_a_row = 0;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.reads_in_a_row += 1;
        let Socket { tcp, control, .. } = self;
        let (bytes, stamp) = if self.clock == StampClock::Kernel {
            receive_stamped(tcp, buf, control)?
        } else {
            ((&*tcp).read(buf)?, None)
        };
        if bytes > 0 {
            // The first packets after the option is set may come without a stamp.
            self.stamp = stamp.unwrap_or_else(clock::wall_now);
            self.wire_bytes += bytes as u64;
        }
        Ok(bytes)
    }
}

/// One recvmsg(2); the stamp is that of the last segment of the bytes read.
fn receive_stamped(
    tcp: &TcpStream,
    buf: &mut [u8],
    control: &mut Vec<u8>,
) -> io::Result<(usize, Option<UnixNs>)> {
    control.clear();
    let room = control.capacity();
    control.resize(room, 0);
    let mut slices = [IoSliceMut::new(buf)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(tcp.as_raw_fd(), &mut slices, Some(control), flags)?;
    let stamp = message.cmsgs().ok().and_then(|mut messages| {
        messages.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => {
                Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
            }
            _ => None,
        })
    });
    Ok((message.bytes, stamp))
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.blocked_on = Interest::Read;
        let Some(mut ahead) = self.ahead.take() else {
            return self.receive(buf);
        };
        let mut result = Ok(());
        if ahead.start == ahead.end {
            ahead.buf.resize(READ_AHEAD_BYTES, 0);
            result = match self.receive(&mut ahead.buf) {
                Ok(bytes) => {
                    (ahead.start, ahead.end) = (0, bytes);
                    Ok(())
                }
                Err(error) => {
                    ahead = ReadAhead::default();
                    Err(error)
                }
            };
        }
        let bytes = buf.len().min(ahead.end - ahead.start);
        buf[..bytes].copy_from_slice(&ahead.buf[ahead.start..ahead.start + bytes]);
        ahead.start += bytes;
        self.ahead = Some(ahead);
        result.map(|()| bytes)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.blocked_on = Interest::Write;
        self.tcp.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}
