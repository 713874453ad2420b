//! The program as a service: what it tells systemd, and what its log holds and leaves out.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::conn::STEP_DEADLINE;
use super::program::{FEED, Run};
use super::script::{Script, accept, script};
use super::server::{Scheme, Server};

/// systemd's end of the notify socket.
struct Systemd(UnixDatagram);

impl Systemd {
    /// The run, and who hears what it tells.
    fn of(run: Run) -> (Run, Systemd) {
        let path = run.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(STEP_DEADLINE)).unwrap();
        (run.env("NOTIFY_SOCKET", path.to_str().unwrap()), Systemd(socket))
    }

    /// All that is told up to a message with this line.
    fn until(&self, line: &str) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let mut buf = [0; 4096];
            let bytes = self.0.recv(&mut buf).unwrap_or_else(|e| panic!("{line}: {e}: {told:?}"));
            told.push(String::from_utf8(buf[..bytes].to_vec()).unwrap().trim_end().to_string());
            if told.last().unwrap().lines().any(|told| told == line) {
                return told;
            }
        }
    }
}

#[test]
fn it_is_ready_when_every_feed_has_tried() {
    let limit = Duration::from_millis(700);
    let silent = Server::start(Scheme::Ws, [script().stall_bare().again()]);
    let run = Run::serve(Scheme::Ws, [accept().listen_until_close()]).feed("g", silent);
    let (run, systemd) = Systemd::of(run.args("--connect-timeout 700ms"));
    let begun = Instant::now();
    let run = run.env("WATCHDOG_USEC", "20000000").start();
    let told = systemd.until("READY=1");
    assert!(begun.elapsed() >= limit, "g has not even tried: {told:?}");
    assert!(told[0].starts_with("STATUS=starting: "), "{told:?}");
    let ready = told.last().unwrap();
    assert!(ready.contains("STATUS=1 of 2 feeds live (not: g), 0 messages recorded"), "{ready}");
    systemd.until("WATCHDOG=1");
    run.signal(Signal::SIGHUP);
    let told = systemd.until("RELOADING=1");
    assert!(told.last().unwrap().contains("MONOTONIC_USEC="), "{told:?}");
    let told = systemd.until("READY=1");
    assert!(told.contains(&"WATCHDOG_USEC=600000000\nWATCHDOG=1".to_string()), "{told:?}");
    assert!(told.contains(&"WATCHDOG_USEC=20000000\nWATCHDOG=1".to_string()), "{told:?}");
    run.signal(Signal::SIGTERM);
    systemd.until("STOPPING=1");
    run.finish(0);
}

/// So many attempts fail before one succeeds.
fn fails(times: usize) -> Vec<Script> {
    let mut scripts = vec![script().refuse("503 Service Unavailable", &[]); times];
    scripts.push(accept().text("x").expect_bye());
    scripts
}

/// A venue that was down for a day filled the log with a line a minute.
#[test]
fn attempts_that_fail_again_and_again_are_counted() {
    let run = Run::serve(Scheme::Ws, fails(12)).args("--max-messages 1").finish(0);
    assert_eq!(run.tape().events("disconnected").len(), 13, "the tape has them all");
    let said = run.stderr();
    assert_eq!(said.matches("can't connect: ").count(), 3, "{said}");
    assert_eq!(said.matches(", after 12 failures").count(), 1, "{said}");
}

#[test]
fn rust_log_alone_says_what_is_shown() {
    let check = |rust_log: &str, args: &str, info: bool, debug: bool| {
        let run = Run::serve(Scheme::Ws, fails(4))
            .args("--max-messages 1")
            .args(args)
            .env("RUST_LOG", rust_log)
            .finish(0);
        let said = run.stderr();
        let info_line = format!("INFO  {FEED}: conn 5: connected to");
        let debug_line = format!("DEBUG {FEED}: conn 4: can't connect");
        let shown = (said.contains(&info_line), said.contains(&debug_line));
        assert_eq!(shown, (info, debug), "RUST_LOG='{rust_log}' {args}: {said}");
    };
    check("", "", true, false);
    check("", "-v", true, true);
    check("", "-q", false, false);
    check("debug", "", true, true);
    check("debug", "-q", true, true);
    check("warn", "-v", false, false);
    check("feedtape=info", "", true, false);
    check("feedtape::feed=debug", "", true, true);
    check("off", "", false, false);
}

/// With RUST_LOG=trace, the upgrade was shown with all its headers.
#[test]
fn whoever_asks_for_all_is_shown_no_secret() {
    let run =
        Run::serve(Scheme::Ws, [accept().expect_text("login s3cret-text").text("x").expect_bye()])
            .args("--max-messages 1")
            .option("--header", "Authorization: Bearer ${KEY}")
            .option("--subscribe", "login ${TEXT}")
            .env("KEY", "s3cret-header")
            .env("TEXT", "s3cret-text")
            .env("RUST_LOG", "trace")
            .finish(0);
    let said = run.stderr();
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

const EXAMPLE: &str = include_str!("../../systemd/feeds.toml");

/// What `--help` lists, but for what is no option of a recording.
fn options() -> Vec<String> {
    let output = super::program::output(&["record", "--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    let names = help.lines().filter_map(|line| line.trim_start().split_once("--"));
    let names = names.filter(|(before, _)| before.is_empty() || before.ends_with(", "));
    // A word of a sentence that begins a line, such as `--history`, is none.
    let names = names.filter(|(_, rest)| !rest.split(' ').next().unwrap().contains('`'));
    let name = |text: &str| text.split([' ', '.', '\n']).next().unwrap().to_string();
    let others = ["config", "verbose", "quiet", "help", "version"];
    names.map(|(_, rest)| name(rest)).filter(|name| !others.contains(&name.as_str())).collect()
}

/// Every option is in it, and right where it is switched on.
#[test]
fn the_example_config_has_all_options() {
    let is_off = |line: &&str| {
        line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
    };
    let on: Vec<&str> =
        EXAMPLE.lines().map(|line| if is_off(&line) { &line[1..] } else { line }).collect();
    let options = options();
    assert!(options.len() > 60, "{options:?}");
    let names = [("header", "headers"), ("subprotocol", "subprotocols")];
    for option in &options {
        let other = names.iter().find(|(name, _)| name == option).map_or("", |(_, other)| other);
        let has = |name: &str| on.iter().any(|line| line.starts_with(&format!("{name} = ")));
        assert!(has(option) || has(other), "--{option} is not explained");
    }
    // One of two that exclude each other.
    let together: Vec<&str> = on.into_iter().filter(|line| !line.starts_with("memory")).collect();
    let run = Run::new();
    let token = run.path("admin-token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let proposed = "/run/credentials/feedtape.service/admin-token";
    let text = together.join("\n").replace(proposed, token.to_str().unwrap());
    let run = run.feeds_file(&text);
    std::fs::write(run.path("subscriptions.txt"), "one\ntwo\n").unwrap();
    std::fs::write(run.path("venue-token"), "s3cret\n").unwrap();
    let file = run.path("feeds.toml");
    let mut check = super::program::program();
    check.arg("check").arg("--config").arg(&file);
    let folder = file.parent().unwrap();
    let output = check.env("CREDENTIALS_DIRECTORY", folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let feeds = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(feeds.contains("trades") && feeds.contains("book"), "{feeds}");
    assert!(!feeds.contains("s3cret"), "{feeds}");
}
