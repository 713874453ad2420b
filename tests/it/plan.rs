//! `feedtape plan`: what it prints, and that it is true.
//!
//! The recorder is brought into each of the states that are planned for, with 1, 16 and 256 feeds,
//! and the most that it ever had resident must be at least 60 % of its row and not above it.
//! Whatever takes memory and is in no line of the plan shows here. Run with `--nocapture` it
//! prints what was measured.

use std::io::Write;
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::admin::Admin;
use super::program::{Run, eventually, output, poll_until, program};
use super::script::{Script, accept};
use super::server::{Scheme, Server};
use super::wire::{self, Message, TEXT};

const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A disk with less than that free is written to by nobody.
const NOTHING_IS_WRITTEN: &str = "--min-free 1024TiB --stall-deadline 1h";
const STALLED_BY: Duration = Duration::from_secs(60);
const STALLED: &str = "the queue is full: the disk takes less than the feeds bring; waiting";
/// What a row may be above the truth, in percent of it.
const TRUE_FROM: u64 = 60;

/// Several hundred connections are open at both ends.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// The plan for the same feeds and options.
fn plan_of(run: &Run) -> Value {
    let record = run.command();
    let args = record.get_args().skip(1);
    let output = program().arg("plan").args(args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// As [`Run::said_times`], but with time for hundreds of feeds on a machine that has other work.
fn all_stall(run: &Run, feeds: usize) {
    let stalled = || (run.stderr().matches(STALLED).count() >= feeds).then_some(());
    assert!(poll_until(STALLED_BY, stalled).is_some(), "{feeds} feeds never filled the pool");
}

/// As [`Run::on_tape_of`], with such time too.
fn all_connect(run: &Run, feeds: usize) {
    for n in 0..feeds {
        let feed = format!("f{n}");
        let is_there = || run.is_on_tape_of(&feed, "\"event\":\"connected\"").then_some(());
        assert!(poll_until(STALLED_BY, is_there).is_some(), "{feed} never connected");
    }
}

/// Compares the most that was resident with the row, and ends the recorder.
fn check(what: &str, row: &str, run: Run) {
    let plan = plan_of(&run);
    let kib = |bytes: &Value| bytes.as_u64().unwrap() / 1024;
    let planned = kib(&plan["rss"][row]);
    // What was seen on the tape or in the log may come shortly before the most.
    let is_true = || (run.status_kib("VmHWM") * 100 / planned >= TRUE_FROM).then_some(());
    let is_true = poll_until(STALLED_BY, is_true).is_some();
    let measured = run.status_kib("VmHWM");
    let percent = measured * 100 / planned;
    println!("{what}: {measured} KiB measured, {planned} KiB planned: {percent} %");
    assert!(measured <= planned, "{what}: {measured} KiB, but {planned} KiB are planned");
    assert!(is_true, "{what}: {measured} KiB; {planned} KiB are planned in vain");
    assert!(run.status_kib("VmPeak") <= kib(&plan["vsz"]), "{what}: address space");
    assert!(run.status_kib("Threads") <= plan["threads"].as_u64().unwrap(), "{what}: threads");
    run.signal(Signal::SIGKILL);
    run.was_killed();
}

/// Feeds that all have the same server, with its script.
fn feeds(run: Run, first: usize, feeds: usize, scheme: Scheme, script: Script) -> Run {
    let server = Server::start(scheme, [script.may_be_left().again()]);
    let url = server.url("/stream");
    let run = (first..first + feeds).fold(run, |run, n| run.typed_feed(&format!("f{n}={url}")));
    run.beside(server)
}

/// A recording that compresses, and allows messages of up to [`MESSAGE_BYTES_MAX`].
fn recording(scheme: Scheme) -> Run {
    raise_descriptor_limit();
    let run = Run::new().compress_by_default().args("--max-message 4MiB");
    if scheme == Scheme::Wss { run.trusting("ca.pem") } else { run }
}

/// Something that the sealer finds at its start: a feed that is not recorded any more.
fn leave_a_plain_segment(run: &Run) {
    let messages: Vec<Message> = (0..4000)
        .map(|n| Message::text(format!("{{\"n\":{n},\"of\":\"{:0>500}\"}}", n * 7919)))
        .collect();
    let server = Server::start(Scheme::Ws, [accept().messages(&messages).expect_bye()]);
    let feed = format!("earlier={}", server.url("/"));
    let out = run.out();
    let args = ["record", &feed, "--max-messages", "4000", "--compress", "none", "--out"];
    let output = program().args(args).arg(out).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(server.failures(), [""; 0]);
}

fn flood() -> Script {
    let message = wire::message(&Message::text("x".repeat(1000)));
    accept().flood_until_gone(message.repeat(16))
}

/// Text with many line feeds, each of which takes two bytes of a line; in two frames, so that it
/// has to be put together. All of it line feeds would be costlier still, but takes an unoptimised
/// build half a minute.
fn costly_message() -> Vec<u8> {
    let text = b"1234567\n".repeat(MESSAGE_BYTES_MAX / 8);
    wire::fragments(TEXT, &[&text[..MESSAGE_BYTES_MAX - 1], b"\n"], b"")
}

fn check_idle(count: usize, scheme: Scheme) {
    let run = feeds(recording(scheme), 0, count, scheme, accept().listen_until_close()).start();
    all_connect(&run, count);
    check(&format!("{count} {scheme:?}, idle"), "idle", run);
}

/// With the admin endpoint, and so many clients connected to it that never finish their request.
fn check_admin(count: usize, clients: usize) {
    let run = feeds(recording(Scheme::Ws), 0, count, Scheme::Ws, accept().listen_until_close());
    let run = run.args("--admin 127.0.0.1:0").start();
    let admin = Admin::of(&run);
    all_connect(&run, count);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", run.pid())).unwrap().count();
    let before = open();
    let held: Vec<TcpStream> = (0..clients)
        .map(|_| {
            let mut stream = admin.connect();
            stream.write_all(b"GET /metrics HTT").unwrap();
            stream
        })
        .collect();
    eventually("all clients are there", || (open() >= before + clients).then_some(()));
    check(&format!("{count} Ws, idle, with {clients} clients of --admin"), "idle", run);
    drop(held);
}

fn check_full(count: usize, scheme: Scheme) {
    let run = feeds(recording(scheme), 0, count, scheme, flood()).args(NOTHING_IS_WRITTEN);
    leave_a_plain_segment(&run);
    let run = run.start();
    all_stall(&run, count);
    run.said("earlier: sealed segment");
    check(&format!("{count} {scheme:?}, pool full"), "full", run);
}

fn check_large(count: usize, scheme: Scheme) {
    let large = accept().wait_for("large").raw("costly", costly_message());
    let message = wire::message(&Message::text("x".repeat(1000)));
    let large = large.flood_until_gone(message.repeat(16));
    // A pool that hardly counts beside the message.
    let run = feeds(recording(scheme).args("--queue-bytes 2MiB"), 0, 1, scheme, large);
    let run = if count > 1 { feeds(run, 1, count - 1, scheme, flood()) } else { run };
    let run = run.args(NOTHING_IS_WRITTEN).start();
    all_stall(&run, count - 1);
    run.server().go("large");
    all_stall(&run, count);
    check(&format!("{count} {scheme:?}, with a large message"), "large", run);
}

fn check_all(scheme: Scheme) {
    for count in [1, 16, 256] {
        check_idle(count, scheme);
        check_full(count, scheme);
        check_large(count, scheme);
    }
}

#[test]
fn the_plan_is_true_for_ws() {
    check_all(Scheme::Ws);
}

#[test]
fn the_plan_is_true_for_wss() {
    check_all(Scheme::Wss);
}

#[test]
fn the_plan_is_true_with_the_admin_endpoint() {
    // It costs the same beside more.
    for count in [1, 16] {
        check_admin(count, 0);
        check_admin(count, 64);
    }
}

fn words(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_table_fits_a_terminal() {
    let feeds: Vec<String> = (0..300).map(|n| format!("f{n}=wss://example.invalid/{n}")).collect();
    let polled = "p=https://example.invalid/depth";
    let mut args = vec!["plan", polled, "--every", "1m", "--rate", "1000/s"];
    args.extend(feeds.iter().map(String::as_str));
    let (code, printed, said) = words(&output(&args));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    for line in printed.lines() {
        let is_of_this_place = line.starts_with("here ");
        assert!(line.len() <= 80 || is_of_this_place, "{} columns: {line}", line.len());
        assert_eq!(line, line.trim_end());
    }
    assert!(printed.starts_with("301 feeds (300 WebSocket, 1 polled, 301 TLS)"), "{printed}");
    for part in ["threads: feeds                   301", "poll: buffers", "1000/1s of 300B"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

#[test]
fn memory_sizes_the_pool() {
    let plan = |args: &str| {
        let args: Vec<&str> = ["plan", "ws://example.invalid/", "--json"]
            .into_iter()
            .chain(args.split(' ').filter(|arg| !arg.is_empty()))
            .collect();
        let output = output(&args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(plan("")["queue_bytes"], 4 << 20);
    let given = plan("--memory 200MiB --max-message 1MiB");
    let large = given["rss"]["large"].as_u64().unwrap();
    assert!((190 << 20..=200 << 20).contains(&large), "{given}");
    assert!(given["queue_bytes"].as_u64().unwrap() > 100 << 20, "{given}");
}

#[test]
fn memory_that_cannot_do_is_refused() {
    let refused = |args: &[&str]| {
        let run = Run::new();
        let out = run.out();
        let record = ["record", "ws://example.invalid/", "--out", out.to_str().unwrap()];
        let (code, printed, said) = words(&output(&[&record[..], args].concat()));
        assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
        assert!(!out.exists(), "nothing was begun");
        said
    };
    let said = refused(&["--memory", "10MiB"]);
    assert!(said.contains("--memory '10MiB': is too little for 1 feed: give --memory "), "{said}");
    let said = refused(&["--memory", "100MiB", "--queue-bytes", "8MiB"]);
    assert!(said.contains("give one of them"), "{said}");
}
