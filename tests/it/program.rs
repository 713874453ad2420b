//! Running the built program, in folders that go away, against scripted servers.
//!
//! A [`Run`] owns the folder, the servers and the process. A test that fails prints all that is
//! needed to repeat it: command line, scripts with what failed in them, the program's words, the
//! tree of files and the tapes' events.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::certs::CERTS;
use super::script::Script;
use super::server::{Scheme, Server, TlsMode};
use super::tape::Tape;

/// What runs are given that do not say it otherwise: short backoffs, so that tests are short, and
/// tapes that can be read without much ado.
const DEFAULTS: [(&str, &str); 3] =
    [("--backoff-min", "10ms"), ("--backoff-max", "50ms"), ("--compress", "none")];
/// The feed of tests that have only one.
pub const FEED: &str = "f";
/// Where tests of feeds files have theirs, in the run's folder.
pub const FEEDS_FILE: &str = "feeds.toml";
/// A program that has not ended by then never will.
const RUN_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a condition that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The test, once plain and once with TLS, at the same time.
pub fn on_both(test: impl Fn(Scheme) + Sync) {
    std::thread::scope(|scope| {
        let runs = [Scheme::Ws, Scheme::Wss].map(|scheme| {
            scope.spawn({
                let test = &test;
                move || test(scheme)
            })
        });
        let results = runs.map(std::thread::ScopedJoinHandle::join);
        if let Some(panic) = results.into_iter().find_map(Result::err) {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Looks until `probe` finds something or the time is over: the only place that pauses.
pub fn poll_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `probe` finds something; the test fails if it never does.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    poll_until(super::conn::STEP_DEADLINE, probe).unwrap_or_else(|| panic!("never: {what}"))
}

/// Wall time now, as tapes tell it.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The built program with a bare environment: nothing of the machine's proxies or locale.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_feedtape"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs the program to its end; for commands that end by themselves.
pub fn output(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

/// One recording: its folder, its servers, and the program while it runs.
pub struct Run {
    dir: tempfile::TempDir,
    servers: Vec<Server>,
    feeds: Vec<String>,
    args: Vec<String>,
    defaults: Vec<(&'static str, &'static str)>,
    env: Vec<(String, String)>,
    child: Option<Child>,
    /// When the program was started last.
    pub started_ns: u64,
    /// When it was seen to have ended.
    pub ended_ns: u64,
}

impl Run {
    /// A run without feeds.
    pub fn new() -> Run {
        let dir = tempfile::tempdir().unwrap();
        let run = Run {
            dir,
            servers: Vec::new(),
            feeds: Vec::new(),
            args: Vec::new(),
            defaults: DEFAULTS.to_vec(),
            env: Vec::new(),
            child: None,
            started_ns: 0,
            ended_ns: 0,
        };
        for (name, bytes) in [
            ("ca.pem", CERTS.server_ca.cert_pem()),
            ("other-ca.pem", CERTS.client_ca.cert_pem()),
            ("client.pem", CERTS.client.cert_pem()),
            ("client.key", CERTS.client.key_pem()),
        ] {
            std::fs::write(run.path(name), bytes).unwrap();
        }
        run
    }

    /// One feed, named [`FEED`], whose server follows the scripts; its certificate is trusted.
    pub fn serve(scheme: Scheme, scripts: impl Into<Vec<Script>>) -> Run {
        let run = Run::new().feed(FEED, Server::start(scheme, scripts));
        if scheme == Scheme::Wss { run.trusting("ca.pem") } else { run }
    }

    /// The same with another certificate or demand; trust is up to the test.
    pub fn serve_tls(mode: TlsMode, scripts: impl Into<Vec<Script>>) -> Run {
        Run::new().feed(FEED, Server::start_tls(Scheme::Wss, mode, scripts))
    }

    /// One more feed with a server of its own.
    pub fn feed(mut self, name: &str, server: Server) -> Run {
        self.feeds.push(format!("{name}={}", server.url("/stream")));
        self.servers.push(server);
        self
    }

    /// One more feed that polls a server of its own.
    pub fn poll(mut self, name: &str, server: Server) -> Run {
        self.feeds.push(format!("{name}={}", server.http_url("/depth?limit=5")));
        self.servers.push(server);
        self
    }

    /// The feed [`FEED`] polls a server that follows the scripts; its certificate is trusted.
    pub fn serve_polls(scheme: Scheme, scripts: impl Into<Vec<Script>>) -> Run {
        let run = Run::new().poll(FEED, Server::start(scheme, scripts));
        if scheme == Scheme::Wss { run.trusting("ca.pem") } else { run }
    }

    /// A server that no feed names: a proxy, or where redirects lead.
    pub fn beside(mut self, server: Server) -> Run {
        self.servers.push(server);
        self
    }

    /// A feed as typed.
    pub fn typed_feed(mut self, feed: &str) -> Run {
        self.feeds.push(feed.to_string());
        self
    }

    /// Other servers for the same feeds: the next start finds them in place of the old ones.
    pub fn serve_again(mut self, scheme: Scheme, scripts: impl Into<Vec<Script>>) -> Run {
        self.servers.clear();
        self.feeds.clear();
        self.feed(FEED, Server::start(scheme, scripts))
    }

    /// The same for a feed that polls.
    pub fn poll_again(mut self, scheme: Scheme, scripts: impl Into<Vec<Script>>) -> Run {
        self.servers.clear();
        self.feeds.clear();
        self.poll(FEED, Server::start(scheme, scripts))
    }

    /// Other feeds in the place of all: the next start knows only them.
    pub fn instead<const N: usize>(mut self, feeds: [(&str, Server); N]) -> Run {
        self.servers.clear();
        self.feeds.clear();
        feeds.into_iter().fold(self, |run, (name, server)| run.feed(name, server))
    }

    /// Options without blanks in them, in one string.
    pub fn args(mut self, args: &str) -> Run {
        self.args.extend(args.split_whitespace().map(str::to_string));
        self
    }

    /// An option and its value, which may hold blanks.
    pub fn option(mut self, option: &str, value: &str) -> Run {
        self.args.extend([option.to_string(), value.to_string()]);
        self
    }

    /// An option whose value is a file of the run's folder.
    pub fn file_option(self, option: &str, file: &str) -> Run {
        let path = self.path(file).to_str().unwrap().to_string();
        self.option(option, &path)
    }

    pub fn trusting(self, ca: &str) -> Run {
        self.file_option("--cacert", ca)
    }

    /// Leaves the form of sealed segments to the program.
    pub fn compress_by_default(mut self) -> Run {
        self.defaults.retain(|(option, _)| *option != "--compress");
        self
    }

    /// Feeds come from a file with this text, in which `{URL0}` is the address of the first server,
    /// and so on. What is typed goes before a file: of the defaults only those of the recorder are
    /// given.
    pub fn feeds_file(mut self, text: &str) -> Run {
        self.defaults.retain(|(option, _)| !option.starts_with("--backoff"));
        self.write_feeds_file(text);
        self.file_option("--config", FEEDS_FILE)
    }

    /// Another text in the place of the file's.
    pub fn write_feeds_file(&self, text: &str) {
        let mut text = text.to_string();
        for (n, server) in self.servers.iter().enumerate() {
            text = text.replace(&format!("{{URL{n}}}"), &server.url("/stream"));
            text = text.replace(&format!("{{HTTP{n}}}"), &server.http_url("/depth"));
        }
        std::fs::write(self.path(FEEDS_FILE), text).unwrap();
    }

    /// Leaves all options of feeds to a feeds file.
    pub fn without_feed_defaults(mut self) -> Run {
        self.defaults.retain(|(option, _)| !option.starts_with("--backoff"));
        self
    }

    /// A variable of the environment, which is bare otherwise.
    pub fn env(mut self, name: &str, value: &str) -> Run {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// A path in the run's folder, beside the recording.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The recording's folder.
    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// The recorder's command line, as the run would start it.
    pub fn command(&self) -> Command {
        let mut command = program();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("record").args(&self.feeds).arg("--out").arg(self.out()).args(&self.args);
        for (option, value) in &self.defaults {
            if !self.args.iter().any(|arg| arg == option) {
                command.args([option, value]);
            }
        }
        command
    }

    /// Starts the program.
    pub fn start(mut self) -> Run {
        assert!(self.child.is_none(), "the program runs already");
        let mut command = self.command();
        command.stdout(File::create(self.path("stdout.txt")).unwrap());
        command.stderr(File::create(self.path("stderr.txt")).unwrap());
        self.started_ns = now_ns();
        self.child = Some(command.spawn().unwrap());
        self
    }

    /// The only server, or the first.
    pub fn server(&self) -> &Server {
        &self.servers[0]
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the program was started");
        nix::sys::signal::kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    }

    /// The number of the running program.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the program was started").id()
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Waits until a line of the tape of [`FEED`] holds `text`.
    pub fn on_tape(&self, text: &str) {
        self.on_tape_of(FEED, text);
    }

    pub fn on_tape_of(&self, feed: &str, text: &str) {
        let what = format!("'{text}' on the tape of {feed}");
        eventually(&what, || self.is_on_tape_of(feed, text).then_some(()));
    }

    /// Whether a line of a feed's tape has `text`, as far as it is written.
    pub fn is_on_tape_of(&self, feed: &str, text: &str) -> bool {
        Tape::peek(&self.out(), feed).iter().any(|line| line.contains(text))
    }

    pub fn stderr(&self) -> String {
        let bytes = std::fs::read(self.path("stderr.txt")).unwrap_or_default();
        String::from_utf8(bytes).expect("talk is UTF-8")
    }

    /// Waits until the program has said `text` so many times.
    pub fn said_times(&self, text: &str, times: usize) {
        let what = format!("'{text}' in the log {times} times");
        eventually(&what, || (self.stderr().matches(text).count() >= times).then_some(()));
    }

    /// Waits until the program has said `text`.
    pub fn said(&self, text: &str) {
        self.said_times(text, 1);
    }

    /// A line of `/proc/PID/status`, in KiB.
    pub fn status_kib(&self, name: &str) -> u64 {
        let id = self.child.as_ref().expect("the program was started").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap()
    }

    /// What everybody on the machine can read of the program.
    pub fn command_line_seen(&self) -> String {
        let id = self.child.as_ref().expect("the program was started").id();
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap();
        String::from_utf8_lossy(&line).replace('\0', " ")
    }

    /// Starts the program unless it runs, waits for its end, and checks the exit code and that
    /// all scripts came to their end.
    pub fn finish(self, code: i32) -> Run {
        let run = if self.child.is_none() { self.start() } else { self };
        run.wait(code)
    }

    fn wait(mut self, code: i32) -> Run {
        let status = self.exit_status();
        let failures: Vec<String> = self.servers.iter().flat_map(Server::failures).collect();
        assert!(failures.is_empty(), "scripts: {failures:#?}");
        assert_eq!(status.code(), Some(code), "exit code of the program ({status})");
        self
    }

    /// Waits for the program's end, whatever became of scripts and tapes; it must not say that
    /// all went well.
    pub fn ends_in_haste(mut self) {
        let status = self.exit_status();
        assert!(!status.success(), "{status}");
    }

    /// Waits for the end of a program that was killed.
    pub fn was_killed(mut self) -> Run {
        let mut child = self.child.take().expect("the program was started");
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "{status}");
        self
    }

    fn exit_status(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the program was started");
        let servers = &self.servers;
        let status = poll_until(RUN_DEADLINE, || {
            let ended = child.try_wait().unwrap();
            if ended.is_none() && servers.iter().any(Server::has_failed) {
                kill(&mut child);
                panic!("a script failed while the program ran");
            }
            ended
        });
        self.ended_ns = now_ns();
        status.unwrap_or_else(|| {
            kill(&mut child);
            panic!("the program did not end within {RUN_DEADLINE:?}");
        })
    }

    /// The tape of [`FEED`], every line of it checked.
    pub fn tape(&self) -> Tape {
        Tape::read(&self.out(), FEED)
    }

    pub fn tape_of(&self, feed: &str) -> Tape {
        Tape::read(&self.out(), feed)
    }

    /// The program's own opinion of the recording.
    pub fn verify(&self, code: i32) {
        let output = program().arg("verify").arg(self.out()).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "verify said: {said}");
    }

    fn report(&self) -> String {
        let mut text = format!("--- {:?}\n--- stderr:\n{}", self.command(), self.stderr());
        for server in &self.servers {
            text.push_str("--- ");
            text.push_str(&server.describe());
        }
        text.push_str("--- files:\n");
        tree(self.dir.path(), "  ", &mut text);
        text
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill(child);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

fn kill(child: &mut Child) {
    // It may have ended by itself just now.
    let _ = child.kill();
    let _ = child.wait();
}

/// All files with their sizes; of tapes that can be read also the events and short messages.
fn tree(folder: &Path, indent: &str, text: &mut String) {
    const LINES_SHOWN: usize = 60;
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = entry.metadata().map_or(0, |data| data.len());
        text.push_str(&format!("{indent}{name} ({bytes})\n"));
        if entry.path().is_dir() {
            tree(&entry.path(), &format!("{indent}  "), text);
        } else if name.ends_with(".tape") || name.ends_with(".open") {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            for line in String::from_utf8_lossy(&bytes).lines().take(LINES_SHOWN) {
                let shown: String = line.chars().take(300).collect();
                text.push_str(&format!("{indent}  | {shown}\n"));
            }
        }
    }
}
