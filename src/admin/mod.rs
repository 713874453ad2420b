//! The admin endpoint: metrics, health, figures, orders and the dashboard, over HTTP.
//!
//! One thread of low priority does all of it: it looks at counters that others write, and hands
//! orders to the main thread. Nothing that records ever waits for it. `server` has the clients,
//! `connection` one of them, `http` what a request is, `guard` who may ask, `route` what for,
//! `desk` the answers, `metrics` those for Prometheus, `overview` what may be looked at.
//!
//! Owns the start and end of that thread, and the sum of what it may need: see
//! [`memory_bytes_max`]. A server of our own, because those there are lack Unix sockets, deadlines
//! over whole requests, or bounds; parsing is httparse's.

mod connection;
mod desk;
pub mod events;
pub mod guard;
pub mod http;
pub mod listen;
mod metrics;
pub mod order;
mod overview;
mod page;
pub mod route;
mod samples;
mod server;
#[cfg(test)]
mod testing;

use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use crossbeam_channel::{Sender, bounded};

use self::connection::BUF_BYTES_MAX;
use self::desk::{ANSWERS_BYTES_MAX, Desk, Send};
use self::guard::{Guard, Hosts};
use self::listen::{Address, Listener};
pub use self::overview::{Explained, Overview, Plan, ReadEarlier, Sentence, Unit};
use self::samples::SAMPLES_BYTES_MAX;
pub use self::samples::Sample;
use self::server::{CLIENTS_MAX, Server};
use crate::feed::wait::Waker;
use crate::stats::GAPS_BYTES_MAX;

/// Deep enough for the sentences on memory, which look at files; measured below 40 KiB.
pub const STACK_BYTES: usize = 192 << 10;
/// What `/metrics` and `/api/feeds` say of one feed is shorter than this, in bytes.
const FEED_BYTES_MAX: usize = 4 << 10;
/// How much later than others the thread gets the CPU, where that is scarce.
const NICE: libc::c_int = 10;

/// What the endpoint may need at most in heap memory, in bytes: of each client what it sends, the
/// answers on their way, one that is being made, and what is kept to be told.
pub const fn memory_bytes_max(feeds: usize) -> usize {
    let answer = feeds * FEED_BYTES_MAX + (64 << 10);
    let largest = if answer > ANSWERS_BYTES_MAX { answer } else { ANSWERS_BYTES_MAX };
    let kept = SAMPLES_BYTES_MAX + events::BYTES_MAX + GAPS_BYTES_MAX;
    CLIENTS_MAX * BUF_BYTES_MAX + largest + 2 * answer + kept
}

/// What of that is there while hardly anybody asks: what is kept to be told, and an answer of the
/// largest kind.
pub const fn memory_bytes_kept(feeds: usize) -> usize {
    SAMPLES_BYTES_MAX + events::BYTES_MAX + GAPS_BYTES_MAX + 2 * feeds * FEED_BYTES_MAX
}

/// What is needed to start.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminOptions {
    /// Where.
    pub address: Address,
    /// What must be known to look and to order; needed where others than this machine can reach it.
    pub token: Option<String>,
}

impl std::fmt::Debug for AdminOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "***");
        f.debug_struct("AdminOptions")
            .field("address", &self.address)
            .field("token", &token)
            .finish()
    }
}

/// The running endpoint. Dropped, it ends.
pub struct Admin {
    stop: Option<Sender<()>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Begins to listen, and says in the log where.
    ///
    /// # Errors
    /// The address can't be used, or no thread or descriptor is to be had.
    pub fn start(options: &AdminOptions, overview: Overview, send: Send) -> anyhow::Result<Admin> {
        assert!(options.address.is_local() || options.token.is_some(), "options were checked");
        let listener = Listener::bind(&options.address).map_err(|error| anyhow!(error))?;
        let address = listener.address().context("getsockname")?;
        let hosts = match &address {
            Address::Unix(_) => Hosts::Any,
            Address::Tcp(_) if address.is_local() => Hosts::Loopback,
            Address::Tcp(_) => Hosts::Remote { name: overview.host.clone() },
        };
        let guard = Guard::new(options.token.as_deref(), hosts);
        let waker = Waker::new().context("can't make a wake-up")?;
        let (stop, stopped) = bounded(0);
        events::start();
        let desk = Desk::new(overview, guard, send, waker.clone());
        let server = Server::new(listener, desk, waker.clone(), stopped);
        let thread = thread::Builder::new()
            .name("admin".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                lower_priority();
                server.run();
            })
            .context("can't start its thread")?;
        match &address {
            Address::Tcp(at) => log::info!("admin: listening at http://{at}"),
            Address::Unix(_) => log::info!("admin: listening at {address}"),
        }
        Ok(Admin { stop: Some(stop), waker, thread: Some(thread) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.waker.wake();
        // The panic hook has logged where and why.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Who records goes first.
fn lower_priority() {
    let tid = nix::unistd::gettid().as_raw().unsigned_abs();
    // SAFETY: plain numbers; on Linux a thread's id means that thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, NICE) } != 0 {
        log::debug!("admin: can't lower its priority: {}", std::io::Error::last_os_error());
    }
}
