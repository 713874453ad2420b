//! Feeds that are polled: what is asked, what comes on the tape, and what goes wrong on the way.

use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::{FEED, Run, on_both};
use super::script::{Script, accept, http_answer, script};
use super::server::{Scheme, Server};
use super::tape::Tape;
use super::wire::Message;

const OK: &str = "200 OK";
/// Polls once at the start and then not again, unless something goes wrong.
const ONCE: &str = "--every 24h --jitter 0 --max-messages 1";
/// Polls often.
const OFTEN: &str = "--every 100ms --jitter 0";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn chunked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {OK}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for piece in pieces.iter().chain([&&b""[..]]) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// When the polls began, as well as the tape tells: never too early.
fn begins(tape: &Tape) -> Vec<u64> {
    let begin =
        |http: &&Value| http["at"].as_u64().unwrap() - http["ms"].as_u64().unwrap() * 1_000_000;
    tape.events("http").iter().map(begin).collect()
}

fn statuses(tape: &Tape) -> Vec<Option<u64>> {
    tape.events("http").iter().map(|http| http["status"].as_u64()).collect()
}

#[test]
fn an_interval_is_aligned_to_the_clock() {
    on_both(|scheme| {
        let answer = script().respond(OK, &["ETag: \"x\"", "X-Other: y"], "{\"bids\":[]}").again();
        let run = Run::serve_polls(scheme, [answer]).args(OFTEN).args("--max-messages 4").finish(0);
        let tape = run.tape();
        assert_eq!(tape.messages(), vec![Message::text("{\"bids\":[]}"); 4]);
        let outline = tape.outline();
        assert_eq!(outline[..3], ["segment 0", "http 200", "text \"{\\\"bids\\\":[]}\""]);
        let http = tape.events("http")[0];
        assert_eq!(http["headers"], serde_json::json!({"etag": "\"x\""}));
        assert!(http["ms"].is_u64(), "{http}");
        let slots: Vec<u64> = begins(&tape).iter().map(|ns| ns / 100_000_000).collect();
        assert!(slots.windows(2).all(|pair| pair[0] < pair[1]), "{slots:?}");
        let request = &run.server().requests()[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/depth?limit=5"));
        assert_eq!(request.header("accept-encoding"), ["gzip"]);
        assert_eq!(request.header("host"), [format!("127.0.0.1:{}", run.server().port())]);
        assert!(request.header("user-agent")[0].starts_with("feedtape/"), "{request:?}");
        run.verify(0);
    });
}

/// The body is a line like any message.
fn check_body(name: &str, answer: Vec<u8>, expected: &Message) {
    on_both(|scheme| {
        let run = Run::serve_polls(scheme, [script().answer(answer.clone())]).args(ONCE).finish(0);
        let tape = run.tape();
        assert_eq!(tape.messages(), std::slice::from_ref(expected), "{name}");
        assert_eq!(statuses(&tape), [Some(200)], "{name}");
        let stamps: Vec<u64> = tape.entries[1..3].iter().map(|entry| entry.ts).collect();
        assert_eq!(stamps[0], stamps[1], "{name}: both take the stamp of the last read");
    });
}

#[test]
fn bodies_of_all_kinds() {
    let whole = |body: &[u8]| http_answer(OK, &[], body);
    check_body("lines", whole(b"a\nb\\n\r\n"), &Message::text("a\nb\\n\r\n"));
    check_body("not UTF-8", whole(b"\xff\0\n"), &Message::binary(*b"\xff\0\n"));
    check_body("empty", whole(b""), &Message::text(""));
    check_body("chunked", chunked(&[b"ab", b"c"]), &Message::text("abc"));
    let until_closed = format!("HTTP/1.1 {OK}\r\n\r\nto the end");
    check_body("until closed", until_closed.into_bytes(), &Message::text("to the end"));
    let large = "0123456789".repeat(50_000);
    check_body("large", whole(large.as_bytes()), &Message::text(large.as_str()));
    let coded = gzip(large.as_bytes());
    let gzipped = http_answer(OK, &["Content-Encoding: gzip"], &coded);
    check_body("gzip", gzipped, &Message::text(large.as_str()));
}

#[test]
fn a_slow_body_is_read_to_its_end() {
    on_both(|scheme| {
        let head = format!("HTTP/1.1 {OK}\r\nContent-Length: 300\r\n\r\n");
        let body = "abc".repeat(100);
        let slow = script().answer(head).send_slowly(body.clone().into_bytes());
        let run = Run::serve_polls(scheme, [slow]).args(ONCE).finish(0);
        assert_eq!(run.tape().messages(), [Message::text(body)]);
    });
}

/// The first poll goes as `first` has it and fails with `status`, the log says one of `words`; the
/// second one brings the body.
fn check_failure(name: &str, first: &Script, status: Option<u64>, words: &[&str]) {
    on_both(|scheme| check_failure_on(scheme, name, first, status, words, ""));
}

fn check_failure_on(
    scheme: Scheme,
    name: &str,
    first: &Script,
    status: Option<u64>,
    words: &[&str],
    args: &str,
) {
    let next = script().respond(OK, &[], "there it is");
    let run = Run::serve_polls(scheme, [first.clone(), next]).args(ONCE).args(args).finish(0);
    let tape = run.tape();
    assert_eq!(statuses(&tape), [status, Some(200)], "{name}");
    assert_eq!(tape.messages(), [Message::text("there it is")], "{name}");
    assert!(tape.events("gap").is_empty(), "{name}");
    let said = run.stderr();
    assert!(words.iter().any(|word| said.contains(word)), "{name}: {said}");
    assert!(said.contains("answered again, after 1 failures"), "{name}: {said}");
}

#[test]
fn what_failed_is_polled_again() {
    let refused = |status: &str| script().respond(status, &[], "no\nsuch symbol");
    check_failure("404", &refused("404 Not Found"), Some(404), &["answered 404: no such symbol"]);
    check_failure("503", &refused("503 Busy"), Some(503), &["answered 503: no such"]);
    check_failure("unmoved", &script().respond("302 Found", &[], ""), Some(302), &["302"]);
    let ends = ["closed", "reset", "ended"];
    check_failure("closed", &script().answer(*b""), None, &ends);
    check_failure("reset", &script().answer(*b"").reset(), None, &ends);
    let half = format!("HTTP/1.1 {OK}\r\nContent-Length: 10\r\n\r\n12345");
    check_failure("half a body", &script().answer(half.clone()), None, &["body"]);
    check_failure("reset in a body", &script().answer(half).reset(), None, &["body"]);
    let endless = format!("HTTP/1.1 {OK}\r\n\r\n12345");
    check_failure("reset, no length", &script().answer(endless).reset(), None, &["body"]);
    let chunk = format!("HTTP/1.1 {OK}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n");
    check_failure("no last chunk", &script().answer(chunk), None, &["body"]);
    let garbage = b"\x16\x03\x01\x02\0\x01garbage\r\n\r\n";
    check_failure("garbage", &script().answer(*garbage), None, &["answer: "]);
    let long = format!("HTTP/1.1 {OK}\r\nX: {}", "x".repeat(60_000));
    let long = script().answer(long).stall();
    check_failure("endless head", &long, None, &["too long"]);
    let mut coded = gzip(&b"0123456789".repeat(1000));
    coded.truncate(coded.len() / 2);
    let torn = script().respond(OK, &["Content-Encoding: gzip"], coded);
    check_failure("torn gzip", &torn, None, &["body"]);
}

#[test]
fn silence_names_the_stage() {
    let check = |name: &str, first: &Script, plain: &str, tls: &str| {
        on_both(|scheme| {
            let stage = if scheme == Scheme::Ws { plain } else { tls };
            let said = format!("timeout: {stage} (2s)");
            check_failure_on(scheme, name, first, None, &[&said], "--timeout 2s");
        });
    };
    check("silent from the start", &script().stall_bare(), "answer", "tls");
    check("silent", &script().stall(), "answer", "answer");
    let half_head = script().answer(format!("HTTP/1.1 {OK}\r\nConte")).stall();
    check("half a head", &half_head, "answer", "answer");
    let half_body = format!("HTTP/1.1 {OK}\r\nContent-Length: 10\r\n\r\n12345");
    check("half a body", &script().answer(half_body).stall(), "body", "body");
}

/// Neither a server that says when to come back nor one that says that it is too much is asked
/// before, whatever the backoff says.
#[test]
fn servers_say_when_to_come_back() {
    let waited = |first: Script, args: &str| {
        let next = script().respond(OK, &[], "x");
        let run = Run::serve_polls(Scheme::Ws, [first, next]).args(ONCE).args(args).finish(0);
        let tape = run.tape();
        let first = tape.events("http")[0];
        let wait = begins(&tape)[1] - first["at"].as_u64().unwrap();
        (first["headers"].clone(), wait)
    };
    let busy = script().respond("429 Too Many Requests", &["Retry-After: 1"], "");
    let (headers, wait) = waited(busy, "");
    assert_eq!(headers, serde_json::json!({"retry-after": "1"}));
    assert!(wait >= 990_000_000, "{wait}");
    let banned = script().respond("418 I'm a teapot", &[], "");
    let (_, wait) = waited(banned, "--backoff-max 400ms");
    assert!(wait >= 390_000_000, "{wait}");
}

/// With room for one poll in each second, two feeds share it.
#[test]
fn polls_of_one_host_share_its_budget() {
    let answer = || script().respond(OK, &["X-Used-Weight: 10"], "x").again();
    let run = Run::new()
        .poll("a", Server::start(Scheme::Ws, [answer()]))
        .poll("b", Server::start(Scheme::Ws, [answer()]))
        .args(OFTEN)
        .args("--max-messages 1 --weight 10 --weight-header X-USED-weight --weight-limit 19")
        .args("--weight-window 1s")
        .finish(0);
    let mut polled = Vec::new();
    for feed in ["a", "b"] {
        let tape = run.tape_of(feed);
        assert_eq!(tape.events("http")[0]["headers"]["x-used-weight"], "10");
        polled.extend(begins(&tape));
    }
    // The second one waits for the window's turn, and then for half a second more.
    assert!(polled.len() == 2 && polled[0].abs_diff(polled[1]) >= 300_000_000, "{polled:?}");
    assert!(run.stderr().contains("the budget of 127.0.0.1 is used up"), "{}", run.stderr());
}

#[test]
fn what_is_not_new_does_not_come_again() {
    on_both(|scheme| {
        let date = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
        let run = Run::serve_polls(
            scheme,
            [
                script().respond(OK, &["ETag: W/\"v1\"", date], "one"),
                script().answer(*b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n"),
                script().respond(OK, &[], "two"),
                script().respond(OK, &[], "three"),
            ],
        )
        .args(OFTEN)
        .args("--max-messages 3")
        .finish(0);
        let words = |n: usize| format!("text \"{}\"", ["one", "two", "three"][n]);
        assert_eq!(
            run.tape().outline()[1..],
            [
                "http 200",
                &words(0),
                "http 304",
                "http 200",
                &words(1),
                "http 200",
                &words(2),
                "end"
            ]
        );
        let requests = run.server().requests();
        for (n, validators) in [0, 1, 1, 0].into_iter().enumerate() {
            let etag = requests[n].header("if-none-match");
            assert_eq!(etag, vec!["W/\"v1\""; validators], "request {n}");
            assert_eq!(requests[n].header("if-modified-since").len(), validators, "request {n}");
        }
    });
}

#[test]
fn a_connection_is_kept_and_may_be_closed_meanwhile() {
    on_both(|scheme| {
        let kept = |body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {OK}\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        // The first is closed between two polls, the second when a request is on its way already.
        let run = Run::serve_polls(
            scheme,
            [
                script().answer(kept("a")).answer(kept("b")),
                script().answer(kept("c")).answer(*b""),
                script().answer(kept("d")),
            ],
        )
        .args(OFTEN)
        .args("--max-messages 4")
        .finish(0);
        assert_eq!(statuses(&run.tape()), [Some(200); 4]);
        assert!(run.stderr().contains("3 connections"), "{}", run.stderr());
    });
}

#[test]
fn redirects_are_followed_and_secrets_stay_behind() {
    on_both(|scheme| {
        let other = Server::start(scheme, [script().respond(OK, &[], "moved")]);
        let away = format!("Location: {}", other.http_url("/new?x"));
        let run = Run::serve_polls(
            scheme,
            [
                script().respond("301 Moved", &["Location: /v2"], "gone"),
                script().respond("307 Moved", &[&away], ""),
            ],
        )
        .beside(other)
        .args(ONCE)
        .option("--header", "X-Key: ${KEY}")
        .env("KEY", "s3cret")
        .finish(0);
        let tape = run.tape();
        assert_eq!(statuses(&tape), [Some(200)], "the last answer is the poll's");
        assert_eq!(tape.messages(), [Message::text("moved")]);
        let here = run.server().requests();
        let keys: Vec<_> = here.iter().map(|request| request.header("x-key")).collect();
        assert_eq!(keys, [["s3cret"], ["s3cret"]]);
        assert_eq!(here[1].path, "/v2");
        let there = run.servers()[1].requests();
        assert_eq!(there[0].path, "/new?x");
        assert!(there[0].header("x-key").is_empty(), "{there:?}");
    });
}

#[test]
fn redirects_that_are_not_followed() {
    let to = |location: &str| script().respond("302 Found", &[location], "");
    let plain = to("Location: http://127.0.0.1:1/?token=s3cret");
    let words = "302; it redirects from https to 'http://127.0.0.1:1/...', which is not encrypted";
    check_failure_on(Scheme::Wss, "to plain", &plain, None, &[words], "");
    let odd = to("Location: ftp://127.0.0.1/");
    check_failure(
        "odd scheme",
        &odd,
        None,
        &["it redirects to 'ftp://127.0.0.1/...', which can't be polled"],
    );
    let mut scripts = vec![to("Location: /again"); 6];
    scripts.push(script().respond(OK, &[], "x"));
    let run = Run::serve_polls(Scheme::Ws, scripts).args(ONCE).finish(0);
    assert_eq!(statuses(&run.tape()), [None, Some(200)]);
    assert!(run.stderr().contains("more than 5 redirects"), "{}", run.stderr());
}

/// A body over the limit is our loss, and not asked for again at once.
fn check_oversized(name: &str, first: Script, bytes: &Value) {
    let next = script().respond(OK, &[], "small");
    let run = Run::serve_polls(Scheme::Ws, [first, next])
        .args(OFTEN)
        .args("--max-messages 1 --max-message 1KiB")
        .finish(3);
    let tape = run.tape();
    let outline = ["http 200", "gap oversized", "http 200", "text \"small\"", "end"];
    assert_eq!(tape.outline()[1..], outline, "{name}");
    let gap = tape.events("gap")[0];
    assert_eq!((&gap["messages"], &gap["bytes"]), (&Value::from(1), bytes), "{name}: {gap}");
    assert!(run.stderr().contains("the limit is 1024"), "{name}: {}", run.stderr());
}

#[test]
fn bodies_that_are_too_large() {
    let announced = format!("HTTP/1.1 {OK}\r\nContent-Length: 99999999999\r\n\r\n");
    check_oversized("announced", script().answer(announced), &Value::from(99_999_999_999u64));
    let unknown = script().answer(chunked(&[&[b'x'; 1000], &[b'x'; 25]]));
    check_oversized("one byte too many", unknown, &Value::Null);
    let bomb = gzip(&vec![0; 64 << 20]);
    let bomb = script().respond(OK, &["Content-Encoding: gzip"], bomb);
    check_oversized("bomb", bomb, &Value::Null);
    let fits = chunked(&[&[b'x'; 1024]]);
    let run = Run::serve_polls(Scheme::Ws, [script().answer(fits)])
        .args(ONCE)
        .args("--max-message 1KiB")
        .finish(0);
    assert_eq!(run.tape().messages(), [Message::text("x".repeat(1024))]);
}

/// Wherever a poll hangs, a stop ends it at once and in order.
#[test]
fn a_stop_interrupts_a_poll() {
    let half = format!("HTTP/1.1 {OK}\r\nContent-Length: 10\r\n\r\n12345");
    for (scheme, hangs) in [
        (Scheme::Wss, script().stall_bare()),
        (Scheme::Ws, script().stall()),
        (Scheme::Wss, script().stall()),
        (Scheme::Wss, script().answer(half).stall()),
    ] {
        let run = Run::serve_polls(scheme, [hangs]).args("--every 1h --timeout 5m").start();
        run.server().reached("silence");
        let asked = Instant::now();
        run.signal(Signal::SIGTERM);
        let run = run.finish(0);
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        let out = run.out();
        assert!(Tape::peek(&out, FEED).is_empty(), "nothing happened that is worth a segment");
    }
}

/// A snapshot for each connection, tried again until it is there.
#[test]
fn a_poll_listens_to_connections_and_gaps() {
    on_both(|scheme| {
        let trades = Server::start(
            scheme,
            [
                accept().text("a").wait_for("a snapshot is there").close(1001, "moving"),
                accept().text("b").expect_bye(),
            ],
        );
        let depth = Server::start(
            scheme,
            [
                script().respond("500 Oops", &[], ""),
                script().respond(OK, &["ETag: \"1\""], "first"),
                script().respond(OK, &[], "second"),
            ],
        );
        let run = Run::new()
            .feed("trades", trades)
            .poll("depth", depth)
            .trusting("ca.pem")
            .args("--on-feed trades --max-messages 2")
            .start();
        run.on_tape_of("depth", " first");
        run.server().go("a snapshot is there");
        let run = run.finish(0);
        let tape = run.tape_of("depth");
        let outline =
            ["http 500", "http 200", "text \"first\"", "http 200", "text \"second\"", "end"];
        assert_eq!(tape.outline()[1..], outline);
        let request = &run.servers()[1].requests()[2];
        assert!(request.header("if-none-match").is_empty(), "a snapshot is wanted: {request:?}");
    });
}

#[test]
fn a_poll_listens_to_gaps_only() {
    let trades = Server::start(
        Scheme::Ws,
        [accept().text("a").close(1001, "moving"), accept().text("b").expect_bye()],
    );
    let depth = Server::start(Scheme::Ws, [script().respond(OK, &[], "x")]);
    let run = Run::new()
        .feed("trades", trades)
        .poll("depth", depth)
        .args("--on-feed trades --on-events gap")
        .start();
    run.on_tape_of("depth", " x");
    run.on_tape_of("trades", " b");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    let polled = run.tape_of("depth").events("http")[0]["at"].as_u64().unwrap();
    let gap = run.tape_of("trades").events("gap")[0]["to_ts"].as_u64().unwrap();
    assert!(polled >= gap, "polled at {polled}, the gap ended at {gap}");
}

/// What `${..}` brought in is sent, and shows nowhere, though the server repeats it.
#[test]
fn a_post_keeps_its_secrets() {
    on_both(|scheme| {
        let repeats = "key s3cret-header, body s3cret-body";
        let header = "ETag: \"s3cret-body\"";
        let run = Run::serve_polls(
            scheme,
            [
                script().respond("401 Unauthorized", &[header], repeats),
                script().respond(OK, &[], "{}"),
            ],
        )
        .args(ONCE)
        .args("-vv")
        .option("--header", "X-Key: ${KEY}")
        .option("--body", "{\"token\":\"${BODY}\"}")
        .env("KEY", "s3cret-header")
        .env("BODY", "s3cret-body")
        .env("RUST_LOG", "trace")
        .finish(0);
        let request = &run.server().requests()[0];
        assert_eq!(request.method, "POST");
        assert_eq!(request.body, "{\"token\":\"s3cret-body\"}");
        assert_eq!(request.header("content-type"), ["application/json"]);
        assert_eq!(request.header("x-key"), ["s3cret-header"]);
        let said = run.stderr();
        assert!(said.contains("answered 401: key ***, body ***"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        let tape = Tape::peek(&run.out(), FEED).join("\n");
        assert!(tape.contains("\"etag\":\"\\\"***\\\"\"") && !tape.contains("s3cret"), "{tape}");
    });
}

#[test]
fn an_outage_is_said_once_on_the_tape() {
    let mut scripts = vec![script().respond("500 Oops", &[], ""); 6];
    scripts.push(script().respond(OK, &[], "x"));
    let run = Run::serve_polls(Scheme::Ws, scripts)
        .args(ONCE)
        .args("--stale-after 10ms --backoff-min 20ms --backoff-max 20ms")
        .finish(0);
    let tape = run.tape();
    assert_eq!(tape.events("stale").len(), 1);
    assert_eq!(tape.events("stale")[0]["after_ms"], 10);
    assert_eq!(run.stderr().matches("answered 500").count(), 1, "{}", run.stderr());
    assert!(run.stderr().contains("answered again, after 6 failures"), "{}", run.stderr());
}

/// Rotation, a restart, and the gap that it leaves.
#[test]
fn a_restart_is_a_gap_before_the_next_body() {
    let answer = || script().respond(OK, &[], "x");
    let run = Run::serve_polls(Scheme::Ws, [answer()]).args(ONCE).finish(0);
    let run = run.poll_again(Scheme::Ws, [answer()]).finish(0);
    let outline = run.tape().outline();
    let second = ["segment 1", "http 200", "gap restart", "text \"x\"", "end"];
    assert_eq!(outline[outline.len() - second.len()..], second);
}
