//! The thread of the admin endpoint: one `poll(2)` over the listener and all clients.
//!
//! Owns how many clients there are. Where there is no room for one more, the one that is idle the
//! longest goes, then the one whose request has been on its way the longest: whoever sends slowly,
//! or opens connections only to hold them, keeps nobody else out.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::connection::Connection;
use super::desk::Desk;
use super::http::Wrong;
use super::listen::{Listener, Stream};
use crate::clock::{Mono, mono_now};
use crate::feed::wait::{Interest, Waker};

/// Clients at a time.
pub(super) const CLIENTS_MAX: usize = 64;
/// Clients that are taken in one turn.
const ACCEPTS_MAX: usize = 32;
/// After a turn in which clients had to go for others, none are taken for so long: a flood of them
/// may cost no more than a few thousand system calls a second.
const FLOOD_PAUSE: Duration = Duration::from_millis(20);
/// Where none can be taken, for lack of descriptors, it is tried again after this.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Server {
    listener: Listener,
    clients: Vec<Connection<Stream>>,
    desk: Desk,
    waker: Waker,
    /// Closed: the thread ends.
    stop: Receiver<()>,
    /// No client is taken before.
    accept_at: Mono,
}

impl Server {
    pub(super) fn new(listener: Listener, desk: Desk, waker: Waker, stop: Receiver<()>) -> Server {
        Server { listener, clients: Vec::new(), desk, waker, stop, accept_at: Mono(0) }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.turn() {
                Ok(()) => {}
                Err(error) => {
                    // The kernel lacks memory: it is not asked again at once.
                    log::warn!("admin: can't wait for clients: {error}");
                    std::thread::sleep(ACCEPT_RETRY);
                }
            }
            if self.stop.try_recv() == Err(TryRecvError::Disconnected) {
                return;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        let now = mono_now();
        self.desk.tick(now);
        for (at, is_ready) in ready.clients.iter().enumerate() {
            let is_due = self.clients[at].deadline().is_some_and(|by| now >= by);
            // The main thread may have answered.
            let is_answered = ready.woken && self.clients[at].interest().is_none();
            if *is_ready || is_due || is_answered {
                self.serve(at, now);
            }
        }
        self.clients.retain(|client| !client.is_gone());
        if ready.listener {
            self.accept(now);
        }
        Ok(())
    }

    fn serve(&mut self, at: usize, now: Mono) {
        let under_way: usize = self.clients.iter().map(Connection::answer_bytes).sum();
        let desk = &mut self.desk;
        self.clients[at].go_on(now, &mut |peer, request| desk.serve(now, peer, request, under_way));
    }

    /// Waits for anything; says what is ready.
    fn wait(&self) -> io::Result<Ready> {
        let mut fds = Vec::with_capacity(2 + self.clients.len());
        fds.push(PollFd::new(self.waker.as_fd(), PollFlags::POLLIN));
        let now = mono_now();
        let accepts = now >= self.accept_at;
        if accepts {
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let first_client = fds.len();
        // One for which nothing is waited is left out: poll would tell of its end all the time.
        let mut polled = Vec::with_capacity(self.clients.len());
        for (at, client) in self.clients.iter().enumerate() {
            let flags = match client.interest() {
                Some(Interest::Read) => PollFlags::POLLIN,
                Some(Interest::Write) => PollFlags::POLLOUT,
                Some(Interest::Both) => PollFlags::POLLIN | PollFlags::POLLOUT,
                None => continue,
            };
            polled.push(at);
            fds.push(PollFd::new(client.as_fd(), flags));
        }
        let accept_at = (!accepts).then_some(self.accept_at);
        let deadlines = self.clients.iter().filter_map(Connection::deadline);
        let deadline = deadlines.chain(accept_at).chain([self.desk.next_tick()]).min();
        let timeout = deadline.map(|at| TimeSpec::from_duration(at.since(now)));
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let fired = |at: usize| fds[at].any() == Some(true);
        let mut ready = Ready {
            woken: fired(0),
            listener: accepts && fired(1),
            clients: vec![false; self.clients.len()],
        };
        for (n, at) in polled.into_iter().enumerate() {
            ready.clients[at] = fired(first_client + n);
        }
        if ready.woken {
            self.waker.clear();
        }
        Ok(ready)
    }

    fn accept(&mut self, now: Mono) {
        let mut crowded = false;
        for _ in 0..ACCEPTS_MAX {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    let client = Connection::new(stream, peer, now);
                    crowded |= !self.admit(client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    log::debug!("admin: can't take a client: {error}");
                    self.accept_at = now.after(ACCEPT_RETRY);
                    return;
                }
            }
        }
        if crowded {
            self.accept_at = now.after(FLOOD_PAUSE);
        }
    }

    /// Whether there was room; else another one went for it, or it went itself.
    fn admit(&mut self, mut client: Connection<Stream>) -> bool {
        if self.clients.len() < CLIENTS_MAX {
            self.clients.push(client);
            return true;
        }
        let ranks = self.clients.iter().enumerate().filter_map(|(at, client)| {
            let (rank, by) = client.dispensable()?;
            Some((rank, by, at))
        });
        let mut wrong = Wrong::new(503, "too many connections");
        wrong.retry_after_s = Some(1);
        match ranks.min() {
            Some((_, _, at)) => {
                self.clients[at].turn_away(&wrong);
                self.clients[at] = client;
            }
            None => client.turn_away(&wrong),
        }
        false
    }
}

struct Ready {
    woken: bool,
    listener: bool,
    clients: Vec<bool>,
}
