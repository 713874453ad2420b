//! Where a feed thread waits: `ppoll` on its socket and its wake-up descriptor, with a deadline.
//!
//! Owns the wake-up and the call; knows nothing of what is waited for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::clock::{Mono, mono_now};

/// Wakes a thread out of [`wait`]. Clones wake the same thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new wake-up.
    ///
    /// # Errors
    /// Those of eventfd(2): no descriptors left.
    pub fn new() -> io::Result<Waker> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Waker(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Makes the next or the present [`wait`] return.
    pub fn wake(&self) {
        // It fails only when 2^64 - 2 wake-ups are pending, and then there is one pending.
        let _ = self.0.write(1);
    }

    /// Forgets wake-ups that came until now; for who waits for it in another way than [`wait`].
    pub fn clear(&self) {
        // It fails only when no wake-up is pending.
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What to wait for on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the end.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
}

/// Why [`wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The socket is ready.
    Socket,
    /// Somebody called [`Waker::wake`]; maybe the socket is ready too.
    Waker,
    /// Neither: the deadline passed, or a signal came.
    Deadline,
}

/// Waits until the socket is ready, the waker is called, or the deadline passes.
///
/// # Errors
/// Those of ppoll(2) but EINTR: lack of memory.
pub fn wait(
    waker: &Waker,
    socket: Option<(BorrowedFd<'_>, Interest)>,
    deadline: Option<Mono>,
) -> io::Result<Woken> {
    let timeout = deadline.map(|at| TimeSpec::from_duration(at.since(mono_now())));
    let wake_fd = PollFd::new(waker.0.as_fd(), PollFlags::POLLIN);
    let fired = match socket {
        None => {
            let mut fds = [wake_fd];
            poll_once(&mut fds, timeout)?;
            [fds[0].any() == Some(true), false]
        }
        Some((fd, interest)) => {
            let flags = match interest {
                Interest::Read => PollFlags::POLLIN,
                Interest::Write => PollFlags::POLLOUT,
                Interest::Both => PollFlags::POLLIN | PollFlags::POLLOUT,
            };
            let mut fds = [wake_fd, PollFd::new(fd, flags)];
            poll_once(&mut fds, timeout)?;
            [fds[0].any() == Some(true), fds[1].any() == Some(true)]
        }
    };
    Ok(match fired {
        [true, _] => {
            waker.clear();
            Woken::Waker
        }
        [false, true] => Woken::Socket,
        [false, false] => Woken::Deadline,
    })
}

fn poll_once(fds: &mut [PollFd<'_>], timeout: Option<TimeSpec>) -> io::Result<()> {
    match ppoll(fds, timeout, None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn each_cause_is_told() {
        let waker = Waker::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let soon = || Some(mono_now().after(Duration::from_millis(1)));
        let socket = Some((near.as_fd(), Interest::Read));
        assert_eq!(wait(&waker, socket, soon()).unwrap(), Woken::Deadline);
        assert_eq!(wait(&waker, None, soon()).unwrap(), Woken::Deadline);
        far.write_all(b"x").unwrap();
        assert_eq!(wait(&waker, socket, None).unwrap(), Woken::Socket);
        waker.wake();
        waker.wake();
        assert_eq!(wait(&waker, socket, None).unwrap(), Woken::Waker);
        assert_eq!(wait(&waker, socket, None).unwrap(), Woken::Socket);
        let both = Some((near.as_fd(), Interest::Write));
        assert_eq!(wait(&waker, both, None).unwrap(), Woken::Socket);
    }
}
