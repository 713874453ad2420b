//! Symbols that fall silent on a connection that lives, and how often a host is connected to.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::{FEED, Run, eventually, now_ns};
use super::script::{Script, accept};
use super::server::{Scheme, Server};

const WATCH: &str = r#"--keys-after "s":" --keys-stale-after 300ms"#;

fn trade(symbol: &str) -> String {
    format!(r#"{{"e":"trade","s":"{symbol}","p":1}}"#)
}

fn stop(run: Run) -> Run {
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    run.verify(0);
    run
}

/// Keys of the `stale` events, in order.
fn silent(run: &Run) -> Vec<String> {
    let tape = run.tape();
    let events = tape.events("stale");
    events.iter().map(|event| event["key"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_silent_symbol_is_told() {
    let script = accept().text(&trade("BTC")).text(&trade("ETH")).count_until_close("other");
    let run = Run::serve(Scheme::Ws, [script]).args(WATCH).start();
    run.on_tape(r#""key":"ETH""#);
    run.said("conn 1: nothing for 300ms of 2 symbols: BTC, ETH");
    let run = stop(run);
    assert_eq!(silent(&run), ["BTC", "ETH"], "once each");
    let tape = run.tape();
    let event = tape.events("stale")[0];
    assert_eq!((&event["conn"], &event["after_ms"]), (&Value::from(1), &Value::from(300)));
    assert_eq!(tape.events("disconnected").len(), 1, "the connection is live");
}

/// Only what names the silent one is sent again.
#[test]
fn subscribed_again() {
    let script = accept()
        .expect_text("sub btc")
        .expect_text("sub eth")
        .say_until(&trade("BTC"), "sub eth")
        .text(&trade("ETH"))
        .mark("back")
        .listen_until_close();
    let run = Run::serve(Scheme::Ws, [script])
        .option("--subscribe", "sub {symbol:lower}")
        .args("--symbols BTC,ETH --keys-expect {symbol} --keys-then resubscribe")
        .args(WATCH)
        .start();
    run.server().reached("back");
    let run = stop(run);
    let tape = run.tape();
    let sent: Vec<_> = tape.events("sent").iter().map(|event| event["text"].clone()).collect();
    assert_eq!(sent[..3], ["sub btc", "sub eth", "sub eth"]);
    assert_eq!(silent(&run)[0], "ETH", "expected, and never seen");
}

/// A recording whose first connection is given up for a silent symbol, once there is a second.
fn connects_again(first: Script, options: &str) -> Run {
    let next = accept().text(&trade("BTC")).expect_bye();
    let run = Run::serve(Scheme::Ws, [first, next])
        .args("--keys-then reconnect")
        .args(options)
        .args(WATCH)
        .start();
    run.on_tape(r#""connected","conn":2"#);
    stop(run)
}

#[test]
fn connected_again() {
    let first = accept().text(&trade("BTC")).count_until_close("other");
    let tape = connects_again(first, "").tape();
    let end = tape.events("disconnected")[0];
    assert_eq!(end["reason"], "stale: nothing of 'BTC' for 300ms");
    assert_eq!(end["code"], 1001);
}

/// What was never seen is missed only where it is expected.
#[test]
fn expected_and_never_seen() {
    let run = Run::serve(Scheme::Ws, [accept().count_until_close("other")])
        .args("--keys-expect DOGE --keys-expect PEPE")
        .args(WATCH)
        .start();
    run.said("nothing for 300ms of 2 symbols: DOGE, PEPE");
    let run = stop(run);
    assert_eq!(silent(&run), ["DOGE", "PEPE"]);
}

/// An acknowledgement and a refusal name a symbol too, which made a dead one live.
#[test]
fn only_data_shows_that_a_symbol_lives() {
    let refusals = accept().text(&trade("BTC")).count_until_close(r#"{"error":{"s":"BTC"}}"#);
    let tape = connects_again(refusals, "--refuse-match error").tape();
    assert_eq!(tape.events("disconnected")[0]["reason"], "stale: nothing of 'BTC' for 300ms");
}

/// When connections were asked for, by feed.
fn connecting_at(run: &Run, feed: &str) -> Vec<u64> {
    let tape = run.tape_of(feed);
    tape.events("connecting").iter().map(|event| event["at"].as_u64().unwrap()).collect()
}

#[test]
fn two_feeds_of_one_host_share_its_budget() {
    let serve = || Server::start(Scheme::Ws, [accept().text("x").listen_until_close()]);
    let run = Run::new().feed("f", serve()).feed("g", serve()).args("--connect-rate 1/1s").start();
    run.on_tape_of("f", " x");
    run.on_tape_of("g", " x");
    run.said("127.0.0.1 allows 1/1s: connecting in ");
    let run = stop(run);
    let (f, g) = (connecting_at(&run, "f"), connecting_at(&run, "g"));
    assert_eq!((f.len(), g.len()), (1, 1), "waiting is no attempt");
    assert!(f[0].abs_diff(g[0]) >= 990_000_000, "{f:?} {g:?}");
}

/// A server that ends each connection at once is not asked more often than it allows.
#[test]
fn a_flapping_server() {
    let flapping = Server::start(Scheme::Ws, [Script::reset(accept()).again()]);
    let run = Run::new().feed(FEED, flapping).args("--connect-rate 3/600ms").start();
    eventually("ten connections", || (run.server().accepted() >= 10).then_some(()));
    let ended_ns = now_ns();
    let run = stop(run);
    let at = connecting_at(&run, FEED);
    let window = Duration::from_millis(590).as_nanos() as u64;
    for four in at.windows(4) {
        assert!(four[3] - four[0] >= window, "{at:?}");
    }
    assert!(at[0] < ended_ns);
}
