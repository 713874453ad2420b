//! `feedtape simulate`: a venue on this machine, for trying and testing.
//!
//! A real WebSocket server which the real recorder talks to: blocking threads, plain or TLS.
//!
//! | path | what it sends |
//! |---|---|
//! | `/trades?symbols=btcusdt,ethusdt` | the trades of these symbols (without any: `btcusdt`) |
//! | `/book?symbols=..` | a snapshot of the order book, then its changes |
//! | `/ticker?symbols=..` | last and best prices, and the day's range |
//! | `/ws` | nothing until asked |
//!
//! On every path a client may send `{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}` (or
//! `UNSUBSCRIBE`; channels `trade`, `book`, `ticker`), is answered
//! `{"id":1,"result":null}` or `{"error":{"code":3,"msg":".."},"id":1}`, and gets or loses these
//! streams.
//!
//! Every message carries `seq`, which counts the connection's messages from 1 (replies aside),
//! and `id`, which counts the stream's from 1: a hole in either is a loss. A stream starts anew
//! with each subscription, and what it says follows from seed and name alone, so that two
//! connections, or two runs, can be compared; only `time`, Unix milliseconds, is the real time at
//! which the message was made. For a path with symbols the order of its streams' messages is
//! fixed too.
//!
//! Owns the options, and `run`; the server is in `server.rs` (venue) and `connection.rs` (one
//! client), what is sent in `market.rs` (text) and `subscriptions.rs` (when).

mod certificate;
mod connection;
mod market;
mod server;
mod socket;
mod subscriptions;
mod upgrade;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};

pub use connection::Sent;
pub use server::{Venue, start};
pub use subscriptions::Rate;

use super::Outcome;
use crate::clock::mono_now;
use crate::units::{format_size, parse_span};
use socket::{Interest, Woken, wait};

const DEFAULT_LISTEN: &str = "127.0.0.1:9001";
const DEFAULT_PING_EVERY: &str = "20s";
const DEFAULT_SEED: u64 = 1;
const CONNECTIONS_MAX: usize = 1024;
/// For a run without `--duration`; it just starts to wait again.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What a venue is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// Who may connect.
    pub reach: Reach,
    /// Whether connections are encrypted.
    pub security: Security,
    /// What the streams say follows from it.
    pub seed: u64,
    /// Messages of each stream.
    pub rate: Rate,
    /// Each connection is cut without a close frame after so long.
    pub drop_after: Option<Duration>,
    /// Time between protocol pings to a client; zero sends none.
    pub ping_every: Duration,
    /// Connections served at the same time; further ones get the HTTP status 503.
    pub connections_max: usize,
}

impl Default for Options {
    /// On loopback with a free port, plain, at the default rate.
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            reach: Reach::Loopback,
            security: Security::Plain,
            seed: DEFAULT_SEED,
            rate: Rate::default(),
            drop_after: None,
            ping_every: parse_span(DEFAULT_PING_EVERY).expect("the default is a span"),
            connections_max: CONNECTIONS_MAX,
        }
    }
}

/// Who may connect to a venue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This machine only.
    Loopback,
    /// Whoever reaches the address.
    Remote,
}

/// Whether a venue's connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// ws
    Plain,
    /// wss, with a certificate made for this run.
    Tls,
}

/// Run a simulated venue on this machine, for trying and testing.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// Address and port to listen on; with port 0 the system chooses one. Only loopback
    /// addresses are taken, unless --allow-remote is given.
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,

    /// Let other machines connect.
    #[arg(long)]
    pub allow_remote: bool,

    /// Start of the random walks. The same seed gives the same messages, but for their time.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SEED)]
    pub seed: u64,

    /// Messages per second and stream, from 0.001 to 1000000. 0 sends as fast as the client
    /// takes them.
    #[arg(long, value_name = "R", value_parser = Rate::parse, default_value_t)]
    pub rate: Rate,

    /// Cut each connection, without a word, when it is this old. Good for trying reconnects.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub drop_after: Option<Duration>,

    /// Time between the pings that each client gets. 0 sends none.
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = DEFAULT_PING_EVERY)]
    pub ping_every: Duration,

    /// Speak wss, with a certificate for localhost, 127.0.0.1 and ::1 that is made anew at each
    /// start.
    #[arg(long)]
    pub tls: bool,

    /// Write that certificate to FILE as PEM, so that a client can be told to trust it with
    /// --cacert FILE. A file that is there is replaced.
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub cert_out: Option<PathBuf>,

    /// Stop after this long. Without it the venue runs until SIGINT or SIGTERM.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub duration: Option<Duration>,
}

impl SimulateArgs {
    fn options(&self) -> Options {
        Options {
            listen: self.listen,
            reach: if self.allow_remote { Reach::Remote } else { Reach::Loopback },
            security: if self.tls { Security::Tls } else { Security::Plain },
            seed: self.seed,
            rate: self.rate,
            drop_after: self.drop_after,
            ping_every: self.ping_every,
            connections_max: CONNECTIONS_MAX,
        }
    }
}

/// Runs a venue until a signal or for the given time, and prints where it is and what it sent.
///
/// # Errors
/// Where it can't be started, or the certificate or the output can't be written.
pub fn run(args: &SimulateArgs) -> anyhow::Result<Outcome> {
    // Before the URLs are printed: who reads them may send a signal at once.
    let signals = Signals::register()?;
    run_until(args, &mut std::io::stdout().lock(), || signals.wait(args.duration))
}

fn run_until(
    args: &SimulateArgs,
    out: &mut dyn Write,
    end: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let venue = start(args.options())?;
    if let (Some(path), Some(pem)) = (&args.cert_out, venue.certificate_pem()) {
        std::fs::write(path, pem).with_context(|| {
            format!("the certificate could not be written to '{}'", path.display())
        })?;
    }
    announce(args, &venue, out)?;
    end()?;
    let sent = venue.stop();
    let total = format!(
        "sent {} messages ({}) on {} connections; refused {}\n",
        sent.messages,
        format_size(sent.bytes),
        sent.connections,
        sent.refused
    );
    say(out, &total)?;
    Ok(Outcome::Clean)
}

fn announce(args: &SimulateArgs, venue: &Venue, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut text = String::new();
    for path in ["/trades", "/book", "/ticker"] {
        text += &venue.url(&format!("{path}?symbols={}\n", upgrade::DEFAULT_SYMBOL));
    }
    text += &venue.url("/ws\n");
    if let Some(path) = &args.cert_out {
        text += &format!("certificate: {}\n", path.display());
    }
    say(out, &text)
}

fn say(out: &mut dyn Write, text: &str) -> anyhow::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
}

/// SIGINT and SIGTERM as something to wait for, as long as it lives.
struct Signals {
    pipe: UnixStream,
    ids: Vec<signal_hook::SigId>,
}

impl Signals {
    fn register() -> anyhow::Result<Signals> {
        let (pipe, sender) = UnixStream::pair().context("signal pipe")?;
        let mut signals = Signals { pipe, ids: Vec::new() };
        for signal in [SIGINT, SIGTERM] {
            let sender = sender.try_clone().context("signal pipe")?;
            let id = signal_hook::low_level::pipe::register(signal, sender)
                .with_context(|| format!("signal {signal} could not be caught"))?;
            signals.ids.push(id);
        }
        Ok(signals)
    }

    /// Returns at the first signal, or after `span`.
    fn wait(&self, span: Option<Duration>) -> anyhow::Result<()> {
        let end = span.map(|span| mono_now().after(span));
        loop {
            let now = mono_now();
            if end.is_some_and(|end| now >= end) {
                return Ok(());
            }
            let deadline = end.unwrap_or(now.after(WAIT_MAX));
            match wait(self.pipe.as_fd(), Interest::Read, None, deadline)? {
                Woken::Ready | Woken::Stop => return Ok(()),
                Woken::Deadline => {}
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
