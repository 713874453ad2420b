//! What a feed sends after connecting, what it waits for, and what it makes of a venue that refuses
//! or never reads.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::program::{FEED, Run, on_both};
use super::script::{Script, accept};
use super::server::{Scheme, Server};

/// So many texts of this length are more than the kernel keeps for a peer that never reads.
const LONG_TEXT_BYTES: usize = 200_000;
const LONG_TEXTS: usize = 60;

/// The outline of a tape of one connection that ends by SIGTERM.
fn check_outline(run: &Run, middle: &[&str]) {
    let outline = run.tape().outline();
    let ends = ["segment 0", "connecting 1", "connected 1"];
    let expected: Vec<&str> =
        ends.into_iter().chain(middle.iter().copied()).chain(["disconnected 1 1000"]).collect();
    assert_eq!(outline[..outline.len() - 1], expected, "{outline:#?}");
}

fn stop(run: Run, code: i32) -> Run {
    run.signal(Signal::SIGTERM);
    let run = run.finish(code);
    run.verify(0);
    run
}

/// The first reason for which a connection ended.
fn first_reason(run: &Run) -> String {
    run.tape().events("disconnected")[0]["reason"].as_str().unwrap().to_string()
}

#[test]
fn paced() {
    on_both(|scheme| {
        let script = accept().take_texts(4).text("x").expect_bye();
        let run = Run::serve(scheme, [script])
            .args("--subscribe a --subscribe b --subscribe c --subscribe d")
            .args("--subscribe-rate 20/s --max-messages 1")
            .finish(0);
        let texts = run.server().texts();
        assert_eq!(texts.iter().map(|(_, text)| text.as_str()).collect::<String>(), "abcd");
        // Three pauses of 50 ms; the first text may have come in late, the last one can't be early.
        let took = texts[3].0.duration_since(texts[0].0);
        assert!(took >= Duration::from_millis(100), "{took:?}");
    });
}

/// Messages come and are recorded while subscriptions are still being sent.
#[test]
fn messages_between_paced_subscriptions() {
    let script =
        accept().expect_text("a").text("of a").expect_text("b").text("of b").listen_until_close();
    let run = Run::serve(Scheme::Ws, [script])
        .args("--subscribe a --subscribe b --subscribe-rate 10/s --stale-after 5s")
        .start();
    run.on_tape("of b");
    let run = stop(run, 0);
    let lines = ["sent 1 a", "text \"of a\"", "sent 1 b", "text \"of b\""];
    check_outline(&run, &lines);
}

#[test]
fn batches_of_items() {
    let script = accept()
        .expect_text(r#"{"op":"sub","args":["a@t","a@d","b@t"],"id":1}"#)
        .expect_text(r#"{"op":"sub","args":["b@d","c@t","c@d"],"id":2}"#)
        .text("x")
        .expect_bye();
    Run::serve(Scheme::Ws, [script])
        .option("--subscribe", r#"{"op":"sub","args":[{topics}],"id":{id}}"#)
        .args("--symbols a,b,c --topics {symbol}@t --topics {symbol}@d --batch-items 3")
        .args("--max-messages 1")
        .finish(0);
}

#[test]
fn batches_of_bytes() {
    let symbols: Vec<String> = (0..100).map(|n| format!("SYM{n:03}")).collect();
    let run = Run::serve(Scheme::Ws, [accept().take_texts(10).text("x").expect_bye()])
        .option("--subscribe", r#"{"s":[{symbols}]}"#)
        .option("--symbols", &symbols.join(","))
        .args("--batch-bytes 97B --max-messages 1")
        .finish(0);
    let mut got = Vec::new();
    for (_, text) in run.server().texts() {
        assert!(text.len() <= 97, "{} bytes: {text}", text.len());
        let text: serde_json::Value = serde_json::from_str(&text).unwrap();
        got.extend(text["s"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_string()));
    }
    assert_eq!(got, symbols);
}

const ACKS: &str = "--ack-match /result=null --refuse-match /error --ack-deadline 300ms";

#[test]
fn all_acknowledged() {
    on_both(|scheme| {
        let answers = [("a", r#"{"result":null,"id":1}"#), ("b", r#"{"result":null,"id":2}"#)];
        let script = accept().answer_until_close(&answers);
        let run = Run::serve(scheme, [script])
            .args("--subscribe a --subscribe b --ping-every 50ms")
            .args(ACKS)
            .start();
        run.on_tape(r#""id\":2"#);
        let run = stop(run, 0);
        let subscribed: Vec<_> = run.tape().events("subscribed").into_iter().cloned().collect();
        assert_eq!(subscribed.len(), 2);
        assert_eq!(subscribed[1]["text"], answers[1].1);
        assert_eq!(subscribed[1]["conn"], 1);
        assert_eq!(run.tape().messages().len(), 2, "they are messages all the same");
    });
}

#[test]
fn one_acknowledgement_is_missing() {
    let half = accept().expect_text("a").text(r#"{"result":null,"id":1}"#).listen_until_close();
    // No acknowledgement comes there either: on a slow machine a fourth connection follows. The
    // stop may come while the client is still reading the answer to its upgrade.
    let whole = accept().mark("third").listen_until_close().may_be_left().again();
    let run = Run::serve(Scheme::Ws, [half.clone(), half, whole])
        .args("--subscribe a --subscribe b")
        .args(ACKS)
        .args("--ack-per text")
        .start();
    run.server().reached("third");
    run.said_times("timeout: acknowledgement (300ms); 1 of 2 came", 2);
    let run = stop(run, 0);
    assert_eq!(first_reason(&run), "timeout: acknowledgement (300ms); 1 of 2 came");
}

/// Acknowledged by topic, not by text; the hole ends with the last of them.
#[test]
fn acknowledged_by_item_after_a_reconnect() {
    let acks = [r#"{"result":null,"i":1}"#, r#"{"result":null,"i":2}"#];
    let serve = |end: fn(Script) -> Script| {
        end(accept().expect_text(r#"["x","y"]"#).text(acks[0]).text(acks[1]).text("data"))
    };
    let run = Run::serve(Scheme::Ws, [serve(Script::reset), serve(Script::listen_until_close)])
        .option("--subscribe", "[{topics}]")
        .args("--topics x --topics y --ack-per item")
        .args(ACKS)
        .start();
    run.on_tape("\"conn\":2,\"text\":\"{\\\"result\\\":null,\\\"i\\\":2}\"");
    run.on_tape("gap");
    let run = stop(run, 0);
    let outline = run.tape().outline();
    let at = |line: &str| outline.iter().position(|other| other.starts_with(line)).unwrap();
    assert!(at("gap reconnect") > at("connected 2"), "{outline:#?}");
    assert_eq!(run.tape().events("sent").len(), 2, "it subscribed again");
    assert_eq!(run.tape().events("subscribed").len(), 4);
}

const REFUSAL: &str = r#"{"error":"no such symbol"}"#;

#[test]
fn a_refusal_is_logged() {
    let script = accept().expect_text("a").text(REFUSAL).text("data").listen_until_close();
    let run = Run::serve(Scheme::Ws, [script])
        .args("--subscribe a")
        .args(ACKS)
        .args("--refuse-then log --ack-deadline 10s")
        .start();
    run.on_tape(" data");
    run.said("the venue refused: {\"error\":\"no such symbol\"}");
    let run = stop(run, 0);
    let refusal = format!("text \"{}\"", REFUSAL.replace('"', "\\\""));
    let refused = format!("refused 1 {REFUSAL}");
    check_outline(&run, &["sent 1 a", &refusal, &refused, "text \"data\""]);
}

#[test]
fn a_refusal_is_tried_again() {
    let refusing = accept().expect_text("a").text(REFUSAL).expect_bye();
    let script = accept().expect_text("a").text("x").expect_bye();
    let run = Run::serve(Scheme::Ws, [refusing, script])
        .args("--subscribe a --refuse-match /error --refuse-then retry --max-messages 2")
        .finish(0);
    assert_eq!(first_reason(&run), format!("subscription refused: {REFUSAL}"));
    run.verify(0);
}

#[test]
fn all_feeds_end_refused() {
    let refusing = || Server::start(Scheme::Ws, [accept().text(REFUSAL).expect_bye()]);
    let run = Run::new()
        .feed("f", refusing())
        .feed("g", refusing())
        .args("--refuse-match /error --refuse-then stop")
        .finish(1);
    let said = run.stderr();
    assert!(said.contains("f, g gave up: the venue refused"), "{said}");
    assert!(said.contains("f: ended: the venue refused it"), "{said}");
    run.verify(0);
}

#[test]
fn the_other_feed_goes_on() {
    let other = accept().text("before").wait_for("go").text("after").listen_until_close();
    let run = Run::new()
        .feed("f", Server::start(Scheme::Ws, [accept().text(REFUSAL).expect_bye()]))
        .feed("g", Server::start(Scheme::Ws, [other]))
        .args("--refuse-match /error --refuse-then stop")
        .start();
    run.said("f: ended: the venue refused it");
    run.servers()[1].go("go");
    run.on_tape_of("g", " after");
    // Giving up never ends with 0, whatever ends the run.
    let run = stop(run, 1);
    assert!(run.stderr().contains("f gave up: the venue refused"), "{}", run.stderr());
    assert_eq!(run.tape_of("g").events("disconnected").len(), 1);
}

/// A feed that gave up ended with 0 where the time was over before the others ended; and nothing
/// said which feeds had not what they were to record.
#[test]
fn a_run_whose_time_is_over_tells_who_gave_up_and_who_is_short() {
    let short = || Server::start(Scheme::Ws, [accept().text("x").listen_until_close()]);
    let run = Run::new()
        .feed("f", Server::start(Scheme::Ws, [accept().text(REFUSAL).expect_bye()]))
        .feed("g", short())
        .args("--refuse-match /error --refuse-then stop --duration 2s")
        .finish(1);
    assert!(run.stderr().contains("f gave up: the venue refused"), "{}", run.stderr());
    let run = Run::new().feed("g", short()).args("--max-messages 2 --duration 1s").finish(0);
    assert!(run.stderr().contains("g: only 1 of 2 messages"), "{}", run.stderr());
}

/// Subscriptions of 12 MB, more than the kernel keeps for a peer: a venue that reads them slower
/// than they are sent gets all of them, in order. They were queued all at once, and the connection
/// was lost when 1 MiB of them waited.
#[test]
fn a_large_subscription_is_sent_in_pieces() {
    on_both(|scheme| {
        let script = accept().take_texts(LONG_TEXTS).text("x").expect_bye();
        let run = long_subscriptions(scheme, [script]).args("--max-messages 1").finish(0);
        for (n, (_, text)) in run.server().texts().into_iter().enumerate() {
            assert_eq!(text.len(), LONG_TEXT_BYTES, "text {n}");
            assert!(text.starts_with(&format!("{n:04} ")), "text {n}: {}", &text[..9]);
        }
        assert_eq!(run.tape().events("connecting").len(), 1);
        assert_eq!(run.tape().events("sent").len(), LONG_TEXTS);
    });
}

/// It never reads: the deadline of subscribing ends that, and memory stays what it is.
#[test]
fn a_venue_that_never_reads_subscriptions() {
    on_both(|scheme| {
        let run = long_subscriptions(scheme, [accept().deaf().may_be_left().again()])
            .args("--connect-timeout 1s")
            .start();
        run.server().reached("deaf");
        let before_kib = run.status_kib("VmHWM");
        run.said("timeout: subscribe (1s)");
        let peak_kib = run.status_kib("VmHWM");
        run.server().go("listen");
        run.signal(Signal::SIGTERM);
        let run = run.finish(0);
        assert_eq!(first_reason(&run), "timeout: subscribe (1s)");
        assert!(peak_kib - before_kib < 8 << 10, "{before_kib} KiB, then {peak_kib} KiB");
        run.verify(0);
    });
}

fn long_subscriptions(scheme: Scheme, scripts: impl Into<Vec<Script>>) -> Run {
    let run = Run::serve(scheme, scripts);
    let long = |n: usize| format!("{n:04} {}\n", "x".repeat(LONG_TEXT_BYTES - 5));
    std::fs::write(run.path("texts"), (0..LONG_TEXTS).map(long).collect::<String>()).unwrap();
    run.file_option("--subscribe-file", "texts")
}

/// Live, and it does not read what we send: the ping's deadline finds it.
#[test]
fn a_live_venue_that_does_not_read() {
    let run = Run::serve(Scheme::Ws, [accept().deaf(), accept().text("x").listen_until_close()])
        .args("--ping-every 50ms --pong-deadline 200ms")
        .start();
    run.server().reached("deaf");
    run.said("timeout: pong (200ms)");
    run.server().go("listen");
    run.on_tape(" x");
    let run = stop(run, 0);
    assert_eq!(first_reason(&run), "timeout: pong (200ms)");
}

/// Acknowledged, and then nothing: talk is no data.
#[test]
fn silent_after_subscribing() {
    let silent = accept().answer_until_close(&[("a", r#"{"result":null}"#)]);
    let run = Run::serve(Scheme::Ws, [silent, accept().take_texts(1).text("x").expect_bye()])
        .args("--subscribe a --ack-match /result=null --stale-after 200ms --max-messages 2")
        .finish(0);
    assert_eq!(run.tape().events("stale")[0]["after_ms"], 200);
    assert_eq!(first_reason(&run), "stale: no data for 200ms");
    assert_eq!(run.tape_of(FEED).events("subscribed").len(), 1);
}
