//! Talk that keeps a connection alive: texts at an interval, their answers, and replies to what
//! venues ask. None of it is data.

use std::io::Write;

use nix::sys::signal::Signal;

use super::program::{Run, on_both};
use super::script::accept;
use super::server::Scheme;
use super::wire::{self, Message};

fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn stop(run: Run) -> Run {
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    run.verify(0);
    run
}

/// Why each connection ended.
fn reasons(run: &Run) -> Vec<String> {
    let tape = run.tape();
    let ends = tape.events("disconnected");
    ends.iter().map(|event| event["reason"].as_str().unwrap().to_string()).collect()
}

const HEARTBEAT: &str = "--heartbeat-every 40ms --heartbeat-send beat --heartbeat-answer pong";

#[test]
fn sent_at_an_interval_and_answered() {
    on_both(|scheme| {
        let script = accept().answer_until_close(&[("beat", "pong")]);
        let run =
            Run::serve(scheme, [script]).args(HEARTBEAT).args("--heartbeat-deadline 2s").start();
        run.on_tape(" pong");
        super::program::eventually("five heartbeats", || {
            (run.server().texts().len() >= 5).then_some(())
        });
        let run = stop(run);
        let times = run.server().texts();
        let took = times[4].0.duration_since(times[0].0);
        assert!(took.as_millis() >= 100, "five within {took:?}");
        assert_eq!(reasons(&run), ["stopped"]);
        assert!(run.tape().messages().contains(&Message::text("pong")), "it is on the tape");
        assert!(run.tape().events("sent").is_empty(), "heartbeats are many, and no event");
    });
}

/// The answers come, and no data: that is stale all the same.
#[test]
fn answers_are_no_data() {
    let script = accept().answer_until_close(&[("beat", "pong")]);
    let run = Run::serve(Scheme::Ws, [script, accept().text("x").listen_until_close()])
        .args(HEARTBEAT)
        .args("--stale-after 300ms --heartbeat-deadline 10s")
        .start();
    run.on_tape(" x");
    let run = stop(run);
    assert_eq!(reasons(&run)[0], "stale: no data for 300ms");
    assert!(run.server().texts().len() >= 2, "{:?}", run.server().texts());
}

/// Messages come, but no answer.
#[test]
fn no_answer() {
    let script = accept().count_until_close("n");
    let run = Run::serve(Scheme::Ws, [script, accept().text("x").listen_until_close()])
        .args(HEARTBEAT)
        .args("--heartbeat-deadline 200ms")
        .start();
    run.on_tape(" x");
    let run = stop(run);
    assert_eq!(reasons(&run)[0], "timeout: answer to a heartbeat (200ms)");
    let code = run.tape().events("disconnected")[0]["code"].as_u64();
    assert_eq!(code, Some(1001));
}

/// Deribit's: a request that names no captured field, and HTX's with the time in it.
#[test]
fn questions_in_text_are_replied_to() {
    on_both(|scheme| {
        let script = accept()
            .text(r#"{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}"#)
            .expect_text(r#"{"method":"public/test","params":{}}"#)
            .text(r#"{"ping":18446744073709551615}"#)
            .expect_text(r#"{"pong":18446744073709551615}"#)
            .text(r#"{"method":"heartbeat","params":{"type":"heartbeat"}}"#)
            .text("data")
            .expect_bye();
        Run::serve(scheme, [script])
            .option(
                "--reply",
                r#"/params/type=test_request => {"method":"public/test","params":{}}"#,
            )
            .option("--reply", r#"/ping => {"pong":{/ping}}"#)
            .args("--max-messages 4")
            .finish(0);
    });
}

/// The bytes on the tape are those that came, and the reply is a text.
#[test]
fn questions_in_gzip_are_replied_to() {
    on_both(|scheme| {
        let (question, data) = (gzip(r#"{"ping":1700000000123}"#), gzip(r#"{"ch":"x","tick":1}"#));
        let sent = [Message::binary(question), Message::binary(data)];
        let script = accept()
            .messages(&sent[..1])
            .expect_text(r#"{"pong":1700000000123}"#)
            .messages(&sent[1..])
            .expect_bye();
        let run = Run::serve(scheme, [script])
            .option("--reply", r#"/ping => {"pong":{/ping}}"#)
            .args("--max-messages 2")
            .finish(0);
        assert_eq!(run.tape().messages(), sent);
        run.verify(0);
    });
}

/// Questions are no data: a venue that only asks is stale.
#[test]
fn questions_are_no_data() {
    let script = accept().count_until_close("question");
    let run = Run::serve(Scheme::Ws, [script, accept().text("x").listen_until_close()])
        .option("--reply", "question => reply")
        .args("--stale-after 300ms")
        .start();
    run.on_tape(" x");
    let run = stop(run);
    assert_eq!(reasons(&run)[0], "stale: no data for 300ms");
    assert!(run.server().texts().iter().any(|(_, text)| text == "reply"));
}

/// A venue whose feed had died still sent `{"channel":"heartbeat"}`: it counted as data, and the
/// connection was kept for ever.
#[test]
fn heartbeats_of_the_venue_are_no_data() {
    let script = accept().text("first").count_until_close(r#"{"channel":"heartbeat"}"#);
    let beat = r#"{"channel":"heartbeat"} 1"#;
    let run = Run::serve(Scheme::Ws, [script, accept().text("x").listen_until_close()])
        .option("--not-data", r#""channel":"heartbeat""#)
        .args("--stale-after 300ms")
        .start();
    run.on_tape(" x");
    let run = stop(run);
    assert_eq!(reasons(&run)[0], "stale: no data for 300ms");
    assert!(run.tape().messages().contains(&Message::text(beat)), "it is on the tape");
}

/// An acknowledgement that comes when the feed is live already is none that is awaited, and was
/// taken for data.
#[test]
fn late_acknowledgements_are_no_data() {
    let script = accept().expect_text("sub").count_until_close("ack");
    let run = Run::serve(Scheme::Ws, [script, accept().take_texts(1).text("x").expect_bye()])
        .args("--subscribe sub --ack-match ack --stale-after 300ms")
        .start();
    run.on_tape(" x");
    let run = stop(run);
    assert_eq!(reasons(&run)[0], "stale: no data for 300ms");
}

/// A venue that asks without end and reads no reply: what waits for it is bounded.
#[test]
fn a_flood_of_questions_that_reads_no_reply() {
    on_both(|scheme| {
        let questions: Vec<u8> = wire::message(&Message::text("question")).repeat(500);
        let next = accept().text("data").listen_until_close();
        let run = Run::serve(scheme, [accept().flood_until_gone(questions), next])
            .option("--reply", &format!("question => {}", "reply".repeat(800)))
            .start();
        run.on_tape(" data");
        let peak_kib = run.status_kib("VmHWM");
        let run = stop(run);
        assert_eq!(reasons(&run)[0], "lost: the server does not read what is sent to it");
        assert!(peak_kib < 40 << 10, "{peak_kib} KiB");
    });
}
