//! How a run ends: signals, limits, exit codes, the closing report.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::program::{FEED, Run, eventually, on_both};
use super::script::{Script, accept, script};
use super::server::Server;
use super::wire::Message;

/// What an orderly end takes at most: a second for the close, and room for a busy machine; less
/// than the stop timeout's default of 10 s.
const ORDERLY: Duration = Duration::from_secs(5);

/// Ends a run that goes on for ever with `signal`, in order.
fn stop(run: Run, signal: Signal) -> Run {
    let asked = Instant::now();
    run.signal(signal);
    let run = run.finish(0);
    assert!(asked.elapsed() < ORDERLY, "{signal} took {:?}", asked.elapsed());
    run
}

#[test]
fn signals_end_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        on_both(|scheme| {
            let run = Run::serve(scheme, [accept().text("one").expect_bye()]).start();
            run.on_tape("one");
            let run = stop(run, signal);
            assert_eq!(
                run.tape().outline(),
                [
                    "segment 0",
                    "connecting 1",
                    "connected 1",
                    "text \"one\"",
                    "disconnected 1 1000",
                    "end",
                ]
            );
        });
    }
}

#[test]
fn a_signal_in_the_middle_of_a_flood() {
    on_both(|scheme| {
        let sent: Vec<Message> = (0..20_000).map(|n| Message::text(format!("n{n:0100}"))).collect();
        let run = Run::serve(scheme, [accept().messages(&sent).expect_bye()]).start();
        run.on_tape("n00");
        let messages = stop(run, Signal::SIGTERM).tape().messages();
        assert!(!messages.is_empty() && messages == sent[..messages.len()], "a prefix is there");
    });
}

#[test]
fn a_close_that_nobody_answers() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().expect_bye_in_vain()]).start();
        run.on_tape("connected");
        let run = stop(run, Signal::SIGTERM);
        assert_eq!(run.tape().events("disconnected").len(), 1);
    });
}

/// The closing handshake never happens: the signal comes before there is a connection.
#[test]
fn signals_before_there_is_a_connection() {
    let check = |name: &str, script: &Script| {
        on_both(|scheme| {
            let run = Run::serve(scheme, [script.clone()]).args("--connect-timeout 5m").start();
            run.server().reached("silence");
            let run = stop(run, Signal::SIGTERM);
            let tape = run.tape();
            // No code: nobody was there to be sent one.
            let last = ["connecting 1", "disconnected 1 null", "end"].map(str::to_string);
            assert!(tape.outline().ends_with(&last), "{name}: {:?}", tape.outline());
        });
    };
    check("waiting for the upgrade", &script().stall());
    check("waiting for TLS", &script().stall_bare());
}

/// From the moment on that it holds the folder it ends in order, and is not just killed.
#[test]
fn a_signal_right_after_the_start() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [script().stall_bare().again()]).start();
        let lock = run.out().join("feedtape.lock");
        eventually("the lock", || lock.exists().then_some(()));
        stop(run, Signal::SIGTERM);
    });
}

#[test]
fn signal_while_waiting_to_connect_again() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().text("one").close(1000, "")])
            .args("--backoff-min 10m --backoff-max 20m")
            .start();
        run.on_tape("disconnected");
        let run = stop(run, Signal::SIGTERM);
        // There is no message that the gap could stand before, but what it tells is true.
        let last = ["text \"one\"", "disconnected 1 1000", "gap reconnect", "end"];
        assert!(run.tape().outline().ends_with(&last.map(str::to_string)));
    });
}

/// The second signal doesn't wait for a server that never answers the close.
#[test]
fn a_second_signal_ends_at_once() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().expect_bye_in_vain()]).start();
        run.on_tape("connected");
        run.signal(Signal::SIGTERM);
        // The silence follows our close frame, and we wait for the answer for a second.
        run.server().reached("silence");
        run.signal(Signal::SIGINT);
        run.ends_in_haste();
    });
}

#[test]
fn after_a_duration() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().text("one").expect_bye()]);
        let run = run.args("--duration 1s").finish(0);
        let took = Duration::from_nanos(run.ended_ns - run.started_ns);
        assert!(took >= Duration::from_secs(1), "{took:?}");
        assert_eq!(run.tape().messages().len(), 1);
    });
}

/// Exactly so many, whatever more is there already; feeds that are done leave, others go on.
#[test]
fn after_a_number_of_messages_from_each_feed() {
    on_both(|scheme| {
        let sent: Vec<Message> = (0..50).map(|n| Message::text(format!("message {n}"))).collect();
        let mut run = Run::new().trusting("ca.pem").args("--max-messages 7");
        for feed in ["a", "b"] {
            let script = accept().messages(&sent).expect_bye();
            run = run.feed(feed, Server::start(scheme, [script]));
        }
        let (first, rest) = sent.split_at(3);
        let late = accept().messages(first).wait_for("late").messages(&rest[..4]).expect_bye();
        let late = Server::start(scheme, [late]);
        let run = run.feed("late", late).start();
        run.on_tape_of("a", "disconnected");
        run.on_tape_of("b", "disconnected");
        run.servers()[2].go("late");
        let run = run.finish(0);
        for feed in ["a", "b", "late"] {
            assert_eq!(run.tape_of(feed).messages(), sent[..7], "{feed}");
        }
    });
}

#[test]
fn the_closing_report_counts() {
    on_both(|scheme| {
        let scripts =
            [accept().text("12345").text("678").close(1000, ""), accept().text("90").expect_bye()];
        let run = Run::new()
            .trusting("ca.pem")
            .args("--max-messages 3")
            .feed("first", Server::start(scheme, scripts.clone()))
            .feed("second", Server::start(scheme, scripts))
            .finish(0);
        let stderr = run.stderr();
        for feed in ["first", "second"] {
            let told = stderr.lines().filter(|line| {
                ["3 messages", "10 bytes", "2 connections", "1 gap"]
                    .iter()
                    .chain([&feed])
                    .all(|part| line.contains(part))
            });
            assert_eq!(told.count(), 1, "one line tells of {feed}:\n{stderr}");
        }
        assert!(std::fs::read_to_string(run.path("stdout.txt")).unwrap().is_empty());
    });
}

#[test]
fn a_folder_that_can_not_be_made() {
    let run = Run::new().typed_feed(&format!("{FEED}=ws://127.0.0.1:9/"));
    std::fs::write(run.out(), "a file").unwrap();
    let run = run.finish(1);
    assert!(run.stderr().contains(run.out().to_str().unwrap()), "{}", run.stderr());
}
