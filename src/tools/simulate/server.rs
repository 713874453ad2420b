//! The simulated venue as a whole: its listening thread, and the handle to it.
//!
//! One thread accepts, one thread serves each connection. All of them end when the venue's stop
//! pipe is closed; the listener joins the others, the handle joins the listener.

use std::io::{ErrorKind, PipeWriter};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};

use super::certificate;
use super::connection::{Sent, Shared, serve};
use super::socket::{Interest, Woken, wait};
use super::upgrade::Admission;
use super::{Options, Reach, Security};
use crate::clock::mono_now;

/// Enough for a TLS handshake, with room to spare in a build without optimisation.
const STACK_BYTES: usize = 256 << 10;
/// Connections beyond the limit that are being told so; still more are just closed.
const REFUSALS_MAX: usize = 16;
/// Ended threads are joined at least this often.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// How long to leave the listener alone after it failed (out of descriptors, for one).
const REST: Duration = Duration::from_millis(100);

/// A running venue. Dropping it stops it.
pub struct Venue {
    address: SocketAddr,
    certificate_pem: Option<String>,
    shared: Arc<Shared>,
    /// Closing it stops all threads; so it goes before the listener is joined.
    stop: Option<PipeWriter>,
    listener: Option<JoinHandle<()>>,
}

/// Starts a venue; it accepts connections when this returns.
///
/// # Errors
/// Where the address is not allowed or can't be listened on, or TLS can't be set up.
pub fn start(options: Options) -> anyhow::Result<Venue> {
    let wanted = options.listen;
    if options.reach == Reach::Loopback && !wanted.ip().is_loopback() {
        bail!(
            "'{wanted}' is not a loopback address: listen on 127.0.0.1 or [::1], or pass \
             --allow-remote to let other machines connect"
        );
    }
    let listener =
        TcpListener::bind(wanted).with_context(|| format!("cannot listen on '{wanted}'"))?;
    listener.set_nonblocking(true).context("listening socket")?;
    let address = listener.local_addr().context("listening socket")?;
    let (acceptor, certificate_pem) = match options.security {
        Security::Plain => (None, None),
        Security::Tls => {
            let (acceptor, pem) = certificate::throw_away(address.ip())?;
            (Some(acceptor), Some(pem))
        }
    };
    let (stop_reader, stop) = std::io::pipe().context("stop pipe")?;
    let sent = Mutex::new(Sent::default());
    let shared = Arc::new(Shared { options, acceptor, stop: stop_reader, sent });
    let listener = Builder::new()
        .name("venue".to_string())
        .stack_size(STACK_BYTES)
        .spawn({
            let shared = Arc::clone(&shared);
            move || listen(&listener, &shared)
        })
        .context("the venue's thread could not be started")?;
    Ok(Venue { address, certificate_pem, shared, stop: Some(stop), listener: Some(listener) })
}

impl Venue {
    /// Where it listens, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `path`, as in `/trades?symbols=btcusdt`.
    pub fn url(&self, path: &str) -> String {
        let scheme = match self.shared.options.security {
            Security::Plain => "ws",
            Security::Tls => "wss",
        };
        let mut address = self.address;
        if address.ip().is_unspecified() {
            // Listening on every address, IPv4 loopback among them.
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        format!("{scheme}://{address}{path}")
    }

    /// The certificate for clients to trust; `None` without TLS.
    pub fn certificate_pem(&self) -> Option<&str> {
        self.certificate_pem.as_deref()
    }

    /// What it has sent so far.
    pub fn sent(&self) -> Sent {
        *self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all connections with 1001, waits for all threads (1 s for clients that don't
    /// answer, and a little) and returns the totals.
    pub fn stop(mut self) -> Sent {
        self.end();
        self.sent()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(listener) = self.listener.take()
            && listener.join().is_err()
        {
            log::error!("venue: the listening thread panicked");
        }
    }
}

impl Drop for Venue {
    fn drop(&mut self) {
        self.end();
    }
}

/// The threads of connections, with what each was started for.
type Threads = Vec<(Admission, JoinHandle<()>)>;

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Threads::new();
    let mut number = 0;
    loop {
        let deadline = mono_now().after(TIDY_EVERY);
        let stop = Some(shared.stop.as_fd());
        let accepted = match wait(listener.as_fd(), Interest::Read, stop, deadline) {
            Ok(Woken::Stop) => break,
            Ok(Woken::Deadline) => {
                tidy(&mut threads);
                continue;
            }
            Ok(Woken::Ready) => listener.accept(),
            Err(error) => Err(error),
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            // The client went away before it was accepted.
            Err(error) if is_passing(error.kind()) => continue,
            Err(error) => {
                log::warn!("venue: cannot accept a connection: {error}");
                let rest = mono_now().after(REST);
                match wait(shared.stop.as_fd(), Interest::Read, None, rest) {
                    Ok(Woken::Ready | Woken::Stop) => break,
                    Ok(Woken::Deadline) | Err(_) => continue,
                }
            }
        };
        tidy(&mut threads);
        number += 1;
        let Some(admission) = admission(&threads, shared.options.connections_max) else {
            shared.count(|sent| sent.refused += 1);
            continue;
        };
        let thread =
            Builder::new().name(format!("venue-{number}")).stack_size(STACK_BYTES).spawn({
                let shared = Arc::clone(shared);
                move || serve(tcp, number, &shared, admission)
            });
        match thread {
            Ok(thread) => threads.push((admission, thread)),
            Err(error) => {
                log::warn!("venue: connection {number}: no thread for it: {error}");
                shared.count(|sent| sent.refused += 1);
            }
        }
    }
    threads.into_iter().for_each(|(_, thread)| join(thread));
}

fn is_passing(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(kind, ConnectionAborted | Interrupted | WouldBlock)
}

/// What to do with one more connection; `None` to close it at once.
fn admission(threads: &Threads, connections_max: usize) -> Option<Admission> {
    let served = threads.iter().filter(|(admission, _)| *admission == Admission::Serve).count();
    if served < connections_max {
        Some(Admission::Serve)
    } else {
        (threads.len() - served < REFUSALS_MAX).then_some(Admission::Full)
    }
}

/// Joins the threads that have ended.
fn tidy(threads: &mut Threads) {
    for (_, thread) in threads.extract_if(.., |(_, thread)| thread.is_finished()) {
        join(thread);
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("venue: a connection's thread panicked");
    }
}
