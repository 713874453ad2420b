//! `feedtape simulate` as a process: how it begins and ends, and that the recorder gets all it
//! sends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::program::{output, program};

/// A running venue; killed if the test forgets it.
pub struct Venue {
    child: Child,
    said: BufReader<ChildStdout>,
    /// As printed: trades, book, ticker, and the one without streams.
    pub urls: Vec<String>,
}

impl Venue {
    pub fn start(args: &[&str]) -> Venue {
        let mut command = program();
        command.args(["simulate", "--listen", "127.0.0.1:0"]).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let urls = (0..4).map(|_| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            line.trim_end().to_string()
        });
        let urls = urls.collect();
        Venue { child, said, urls }
    }

    /// Waits for the end with exit code 0; returns what it said last.
    fn end(mut self) -> String {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{rest}");
        rest
    }
}

impl Drop for Venue {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signals_end_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let venue = Venue::start(&[]);
        assert!(venue.urls[0].contains("/trades?symbols="), "{:?}", venue.urls);
        kill(Pid::from_raw(venue.child.id() as i32), signal).unwrap();
        assert!(venue.end().starts_with("sent 0 messages"));
    }
}

#[test]
fn a_duration_ends_it() {
    let started = Instant::now();
    let venue = Venue::start(&["--duration", "300ms"]);
    assert!(venue.end().contains("0 connections"));
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
}

/// What the venue says it sent is what the recorder has, over plain and encrypted connections.
#[test]
fn the_recorder_gets_all_it_sends() {
    for security in [&[][..], &["--tls"]] {
        let dir = tempfile::tempdir().unwrap();
        let [out, cert] = ["out", "cert.pem"].map(|name| dir.path().join(name));
        let mut args = vec!["--rate", "2000"];
        args.extend(security);
        if !security.is_empty() {
            args.extend(["--cert-out", cert.to_str().unwrap()]);
        }
        let venue = Venue::start(&args);
        let mut record = vec!["record", "--duration", "1s", "--out", out.to_str().unwrap()];
        if !security.is_empty() {
            record.extend(["--cacert", cert.to_str().unwrap()]);
        }
        let trades = format!("trades={}", venue.urls[0]);
        record.push(&trades);
        let recorded = output(&record);
        assert_eq!(recorded.status.code(), Some(0), "{recorded:?}");
        let said = String::from_utf8(recorded.stderr).unwrap();
        let report = said.lines().last().unwrap();
        let (messages, _) = report["trades: ".len()..].split_once(" messages").unwrap();
        assert!(messages.parse::<u64>().unwrap() > 100, "{report}");

        kill(Pid::from_raw(venue.child.id() as i32), Signal::SIGTERM).unwrap();
        let total = venue.end();
        let total = total.lines().last().unwrap();
        assert!(total.starts_with(&format!("sent {messages} messages")), "{total}; {report}");
    }
}
