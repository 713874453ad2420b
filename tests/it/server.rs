//! The one scripted server: a list of connections, each a list of steps, on a port of loopback
//! that the kernel picks, plain or with TLS.
//!
//! One thread accepts, one thread runs each connection ([`super::conn`]). A step that fails is
//! written down and ends its connection; the test asks for failures at its end.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};

use super::certs::{CERTS, Pair};
use super::conn::{Connection, Request, STEP_DEADLINE};
use super::script::Script;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Ws,
    Wss,
}

/// How the server shows itself on TLS, and what it wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    #[default]
    Plain,
    /// A certificate for another host.
    OtherHost,
    /// Asks for a client's certificate and takes no connection without.
    ClientCert,
}

/// What the threads of a server share with the test.
#[derive(Default)]
pub struct State {
    accepted: usize,
    finished: usize,
    pub requests: Vec<Request>,
    /// Text messages of clients, and when each came in.
    pub texts: Vec<(Instant, String)>,
    pub marks: HashSet<String>,
    failures: Vec<String>,
    stopped: bool,
}

/// The state, and the news that it changed.
#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked here has failed its test already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits for `done`, which also ends where the server failed; false where the time is over.
    pub fn wait(&self, mut done: impl FnMut(&State) -> bool) -> bool {
        let wait = self.changed.wait_timeout_while(self.lock(), STEP_DEADLINE, |state| {
            !done(state) && state.failures.is_empty() && !state.stopped
        });
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }
}

/// A running server; dropping it ends it.
pub struct Server {
    address: SocketAddr,
    scheme: Scheme,
    scripts: Arc<[Script]>,
    shared: Arc<Shared>,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(scheme: Scheme, scripts: impl Into<Vec<Script>>) -> Server {
        Server::start_tls(scheme, TlsMode::Plain, scripts)
    }

    pub fn start_tls(scheme: Scheme, mode: TlsMode, scripts: impl Into<Vec<Script>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: Arc<[Script]> = scripts.into().into();
        let shared = Arc::new(Shared::default());
        let acceptor = (scheme == Scheme::Wss).then(|| acceptor(mode));
        let accepting = {
            let (listener, scripts) = (listener.try_clone().unwrap(), Arc::clone(&scripts));
            let shared = Arc::clone(&shared);
            spawn("accept", move || accept_all(&listener, &scripts, &shared, acceptor.as_ref()))
        };
        Server { address, scheme, scripts, shared, listener, accepting: Some(accepting) }
    }

    /// `ws://127.0.0.1:PORT/path` or wss.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.scheme == Scheme::Ws { "ws" } else { "wss" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// `http://127.0.0.1:PORT/path` or https.
    pub fn http_url(&self, path: &str) -> String {
        let scheme = if self.scheme == Scheme::Ws { "http" } else { "https" };
        format!("{scheme}://{}{path}", self.address)
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until a script came to its mark.
    pub fn reached(&self, mark: &str) {
        let reached = self.shared.wait(|state| state.marks.contains(mark));
        assert!(reached, "the server never came to the mark '{mark}'");
    }

    /// Lets scripts go on that wait for `mark`.
    pub fn go(&self, mark: &str) {
        self.shared.update(|state| {
            state.marks.insert(mark.to_string());
        });
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Text messages that came in, in order, and when.
    pub fn texts(&self) -> Vec<(Instant, String)> {
        self.shared.lock().texts.clone()
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    pub fn has_failed(&self) -> bool {
        !self.shared.lock().failures.is_empty()
    }

    /// Waits for the end of all scripts that were begun and says what went wrong: steps that
    /// failed, connections that nobody scripted, scripts that nobody came for.
    pub fn failures(&self) -> Vec<String> {
        let ended = self.shared.wait(|state| state.finished == state.accepted);
        let state = self.shared.lock();
        let mut failures = state.failures.clone();
        if !ended && failures.is_empty() {
            let running = state.accepted - state.finished;
            failures.push(format!("{running} connections didn't come to the end of their script"));
        }
        let once = self.scripts.iter().filter(|script| !script.again).count();
        if state.accepted < once {
            let (accepted, scripts) = (state.accepted, self.scripts.len());
            failures.push(format!("only {accepted} connections of {scripts} came"));
        }
        failures
    }

    /// The scripts, for a test that failed.
    pub fn describe(&self) -> String {
        let mut text = format!("server at {}\n", self.url(""));
        for (at, script) in self.scripts.iter().enumerate() {
            let again = if script.again { " and later ones" } else { "" };
            let _ = writeln!(text, "  connection {}{again}:", at + 1);
            for (number, step) in script.steps.iter().enumerate() {
                let _ = writeln!(text, "    {}. {step:?}", number + 1);
            }
        }
        let state = self.shared.lock();
        let _ = writeln!(text, "  accepted {}, ended {}", state.accepted, state.finished);
        for failure in &state.failures {
            let _ = writeln!(text, "  failure: {failure}");
        }
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.update(|state| state.stopped = true);
        // Wakes the thread out of accept(2); on Linux that then fails with EINVAL.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            // A panic in there has been printed; a second one here would abort.
            let _ = accepting.join();
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_string()).spawn(run).unwrap()
}

fn acceptor(mode: TlsMode) -> SslAcceptor {
    let Pair { cert, key } =
        if mode == TlsMode::OtherHost { &CERTS.other_host } else { &CERTS.server };
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_certificate(cert).unwrap();
    builder.set_private_key(key).unwrap();
    if mode == TlsMode::ClientCert {
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        builder.cert_store_mut().add_cert(CERTS.client_ca.cert.clone()).unwrap();
    }
    builder.build()
}

fn accept_all(
    listener: &TcpListener,
    scripts: &[Script],
    shared: &Arc<Shared>,
    acceptor: Option<&SslAcceptor>,
) {
    let mut threads = Vec::new();
    while let Ok((socket, _)) = listener.accept() {
        let number = shared.lock().accepted;
        let repeated = scripts.last().filter(|script| script.again);
        let Some(script) = scripts.get(number).or(repeated).cloned() else {
            let failure = format!("connection {} is one more than the script has", number + 1);
            shared.update(|state| state.failures.push(failure));
            continue;
        };
        shared.update(|state| state.accepted += 1);
        let (shared, acceptor) = (Arc::clone(shared), acceptor.cloned());
        threads.push(spawn("connection", move || {
            let mut conn = Connection::new(socket, acceptor, Arc::clone(&shared));
            let mut result =
                conn.run(&script).map_err(|e| format!("connection {}, {e}", number + 1));
            if script.may_be_left {
                result = Ok(());
            }
            drop(conn);
            shared.update(|state| {
                state.finished += 1;
                state.failures.extend(result.err());
            });
        }));
    }
    for thread in threads {
        // A panic in there has been printed, and its connection never counts as ended.
        let _ = thread.join();
    }
}
