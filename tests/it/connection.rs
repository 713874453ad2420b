//! Connections that end or never begin: the feed comes back for ever, and the tape says why each
//! one ended.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};

use super::program::{FEED, Run, on_both};
use super::script::{Answer, Script, accept, script};
use super::server::{Scheme, Server};
use super::tape::Tape;
use super::wire::{self, CLOSE, FIN, TEXT};

/// The first connection ends as `first` has it, with `code` and a reason that holds one of
/// `words`; the second one records on.
fn check(name: &str, first: &Script, code: Option<u16>, words: &[&str]) {
    on_both(|scheme| check_on(scheme, name, first, code, words));
}

fn check_on(scheme: Scheme, name: &str, first: &Script, code: Option<u16>, words: &[&str]) {
    let next = accept().text("on again").expect_bye();
    let run = Run::serve(scheme, [first.clone(), next])
        .args("--max-messages 1 --connect-timeout 500ms")
        .finish(0);
    let tape = run.tape();
    let first = tape.events("disconnected")[0];
    assert_eq!(first["conn"], 1, "{name}");
    assert_eq!(first["code"].as_u64(), code.map(u64::from), "{name}: {first}");
    let reason = first["reason"].as_str().unwrap().to_lowercase();
    assert!(words.iter().any(|word| reason.contains(word)), "{name}: {reason}");
    let conns = |event: &str| -> Vec<u64> {
        tape.events(event).iter().map(|event| event["conn"].as_u64().unwrap()).collect()
    };
    assert_eq!(conns("connecting"), [1, 2], "{name}");
    assert_eq!(conns("disconnected"), [1, 2], "{name}");
}

#[test]
fn closed_by_the_server() {
    for (code, reason) in [(1000, "done for today"), (1001, "moving"), (1011, "x"), (4000, "limit")]
    {
        check(reason, &accept().close(code, reason), Some(code), &[reason]);
    }
}

#[test]
fn closed_without_a_code() {
    let close = wire::frame(FIN | CLOSE, b"");
    check("no code", &accept().raw("close without a code", close), None, &["closed by server"]);
}

#[test]
fn cut_off() {
    let half = wire::frame(FIN | TEXT, b"never seen whole")[..9].to_vec();
    let ends = ["closed", "reset", "end", "eof", "gone"];
    check("reset", &accept().reset(), None, &["reset"]);
    check("dropped", &accept(), None, &ends);
    check("in a frame", &accept().raw("half a frame", half.clone()), None, &ends);
    check("reset in a frame", &accept().raw("half a frame", half).reset(), None, &["reset"]);
}

#[test]
fn refused_upgrades() {
    for status in ["503 Service Unavailable", "404 Not Found", "200 OK", "401 Unauthorized"] {
        check(status, &script().refuse(status, &[]), None, &[&status[..3]]);
    }
}

/// A server that says when to come back is not asked before.
#[test]
fn retry_after_is_a_lower_bound() {
    on_both(|scheme| {
        let busy = script().refuse("503 Service Unavailable", &["Retry-After: 1"]);
        let run = Run::serve(scheme, [busy, accept().text("x").expect_bye()])
            .args("--max-messages 1")
            .finish(0);
        let tape = run.tape();
        let at = |event: &str, n: usize| tape.events(event)[n]["at"].as_u64().unwrap();
        let waited = at("connecting", 1) - at("disconnected", 0);
        assert!(waited >= 999_000_000, "waited {waited} ns");
    });
}

/// Who asks too often and is not told when to come back waits as long as it ever does; who is told
/// comes back then.
#[test]
fn a_server_that_is_asked_too_often_is_left_alone() {
    for (status, headers, waits_ms) in [
        ("429 Too Many Requests", &[][..], 400..10_000),
        ("418 I'm a teapot", &[], 400..10_000),
        ("429 Too Many Requests", &["Retry-After: 0"], 0..300),
        ("503 Service Unavailable", &[], 0..300),
    ] {
        let busy = script().refuse(status, headers);
        let run = Run::serve(Scheme::Ws, [busy, accept().text("x").expect_bye()])
            .args("--max-messages 1 --backoff-max 400ms")
            .finish(0);
        let tape = run.tape();
        let at = |event: &str, n: usize| tape.events(event)[n]["at"].as_u64().unwrap();
        let waited = (at("connecting", 1) - at("disconnected", 0)) / 1_000_000;
        assert!(waits_ms.contains(&waited), "{status} {headers:?}: waited {waited} ms");
        let said = run.stderr();
        assert!(said.contains(&format!("answered {status}")), "{said}");
        assert!(said.contains("; next attempt in "), "{said}");
    }
}

/// A listener whose queue is full answers nobody.
#[test]
fn an_address_that_does_not_answer() {
    let listener =
        socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &any).unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let bound: SockaddrIn =
        socket::getsockname(std::os::fd::AsRawFd::as_raw_fd(&listener)).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()));
    let short = Duration::from_millis(200);
    let mut queued = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, short) {
        queued.push(socket);
        assert!(queued.len() < 16, "the queue has no end");
    }
    check_attempts(&format!("ws://{address}/"), &["timeout: connect (1s)"]);
}

#[test]
fn local_addresses() {
    let from = |address: &str| accept().expect_peer(address).text("x").expect_bye();
    for (options, address) in
        [("--bind 127.0.0.2", "127.0.0.2"), ("--bind 127.0.0.1 --family ipv4", "127.0.0.1")]
    {
        Run::serve(Scheme::Ws, [from(address)]).args(options).args("--max-messages 1").finish(0);
    }
    for (options, words) in [
        ("--bind 192.0.2.1", "can't connect from 192.0.2.1"),
        ("--bind ::1", "--bind ::1 needs an ipv6 address, and there is only 127.0.0.1"),
        ("--family ipv6", "--family ipv6 needs an ipv6 address, and there is only 127.0.0.1"),
    ] {
        let run = Run::new().typed_feed(&format!("{FEED}=ws://127.0.0.1:9/")).args(options);
        let run = run.start();
        run.on_tape("\"event\":\"disconnected\"");
        run.signal(Signal::SIGTERM);
        let run = run.finish(0);
        let tape = run.tape();
        let reason = tape.events("disconnected")[0]["reason"].as_str().unwrap().to_lowercase();
        assert!(reason.contains(words), "{options}: {reason}");
    }
}

#[test]
fn answers_that_are_no_upgrade() {
    let wrong_key =
        Answer { accept_key: Some("d3Jvbmcga2V5IGluZGVlZCE=".into()), ..Answer::default() };
    check("wrong key", &script().upgrade(wrong_key), None, &["accept", "key"]);
    check("garbage", &script().answer(*b"\x16\x03\x01\x02\0\x01\0garbage\r\n\r\n"), None, &[""]);
    check("nothing", &script().answer(*b""), None, &["closed", "ended", "handshake"]);
    let endless = format!("HTTP/1.1 101 Switching Protocols\r\nX: {}", "x".repeat(1 << 20));
    // The client may leave before it has taken all of it: then the step fails, not the client.
    let endless = script().answer(endless.into_bytes()[..60_000].to_vec()).stall();
    check("endless header", &endless, None, &["header", "long", "large", "many", "upgrade"]);
}

#[test]
fn silence_names_the_stage() {
    check("silent server", &script().stall(), None, &["upgrade"]);
    check_on(Scheme::Ws, "silent from the start", &script().stall_bare(), None, &["upgrade"]);
    check_on(Scheme::Wss, "silent from the start", &script().stall_bare(), None, &["tls"]);
    let half = script().answer(*b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: web").stall();
    check("half an answer", &half, None, &["upgrade"]);
}

/// Records a feed that can't connect until three attempts are on the tape.
fn check_attempts(url: &str, words: &[&str]) {
    let run = Run::new().typed_feed(&format!("{FEED}={url}")).args("--connect-timeout 1s").start();
    run.on_tape("\"event\":\"disconnected\",\"conn\":3");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    let tape = run.tape();
    for (at, (connecting, disconnected)) in
        tape.events("connecting").iter().zip(tape.events("disconnected")).enumerate()
    {
        assert_eq!(connecting["conn"], at + 1);
        assert_eq!(disconnected["conn"], at + 1);
        assert_eq!(disconnected["code"], serde_json::Value::Null);
    }
    for disconnected in &tape.events("disconnected")[..3] {
        let reason = disconnected["reason"].as_str().unwrap().to_lowercase();
        assert!(words.iter().any(|word| reason.contains(word)), "{reason}");
    }
    assert_eq!(tape.events("connecting").len(), tape.events("disconnected").len());
    assert!(tape.events("connected").is_empty() && tape.events("gap").is_empty());
}

#[test]
fn nobody_listens() {
    // Bound but not listening: refused for sure, and nobody else gets the port meanwhile.
    let holder =
        socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&holder), &any).unwrap();
    let bound: SockaddrIn = socket::getsockname(std::os::fd::AsRawFd::as_raw_fd(&holder)).unwrap();
    for scheme in ["ws", "wss"] {
        check_attempts(&format!("{scheme}://127.0.0.1:{}/", bound.port()), &["refused"]);
    }
}

#[test]
fn name_that_nobody_has() {
    check_attempts("ws://nonexistent.invalid/", &["nonexistent.invalid", "lookup"]);
}

#[test]
fn gap_stands_before_the_first_message_after_it() {
    on_both(|scheme| {
        let busy = || script().refuse("503 Busy", &[]);
        let scripts = [
            busy(),
            accept().text("one").reset(),
            busy(),
            accept().close(1000, "said nothing"),
            accept().text("two").text("three").expect_bye(),
        ];
        let run = Run::serve(scheme, scripts).args("--max-messages 3").finish(0);
        let tape = run.tape();
        assert_eq!(
            without_sessions(&tape),
            [
                "segment 0",
                "text \"one\"",
                // One after the reset, one after the connection that brought nothing.
                "gap reconnect",
                "gap reconnect",
                "text \"two\"",
                "text \"three\"",
                "end",
            ]
        );
        let gap = tape.events("gap")[0];
        assert_eq!(gap["messages"], serde_json::Value::Null);
        assert_eq!(gap["bytes"], serde_json::Value::Null);
        let (from, to) = (gap["from_ts"].as_u64().unwrap(), gap["to_ts"].as_u64().unwrap());
        assert!(run.started_ns < from && from <= to && to < run.ended_ns, "{gap}");
    });
}

/// The outline without the events of connections.
fn without_sessions(tape: &Tape) -> Vec<String> {
    let mut outline = tape.outline();
    outline.retain(|line| !line.starts_with("conn") && !line.starts_with("disconnected"));
    outline
}

#[test]
fn subscriptions_are_sent_on_each_connection() {
    on_both(|scheme| {
        let first = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}"#;
        let subscribed = || accept().expect_text(first).expect_text("second").expect_text("third");
        let scripts = [
            subscribed().text("a").close(1012, "restart"),
            script().refuse("502 Bad Gateway", &[]),
            subscribed().text("b").expect_bye(),
        ];
        let run = Run::serve(scheme, scripts);
        std::fs::write(run.path("third.txt"), "third\n").unwrap();
        let run = run
            .option("--subscribe", first)
            .option("--subscribe", "second")
            .file_option("--subscribe-file", "third.txt")
            .args("--max-messages 2")
            .finish(0);
        let sent: Vec<String> =
            run.tape().outline().into_iter().filter(|line| line.starts_with("sent")).collect();
        let expected: Vec<String> = [1, 3]
            .iter()
            .flat_map(|conn| [first, "second", "third"].map(|text| format!("sent {conn} {text}")))
            .collect();
        assert_eq!(sent, expected);
    });
}

/// The server gets all of a long subscription; the event holds its start and says so.
#[test]
fn a_long_subscription() {
    on_both(|scheme| {
        let text = "s".repeat(100_000);
        let run = Run::serve(scheme, [accept().expect_text(&text).text("x").expect_bye()]);
        std::fs::write(run.path("long.txt"), &text).unwrap();
        let run =
            run.file_option("--subscribe-file", "long.txt").args("--max-messages 1").finish(0);
        let tape = run.tape();
        let sent = tape.events("sent")[0];
        assert_eq!(sent["cut"], true);
        assert!(text.starts_with(sent["text"].as_str().unwrap()));
    });
}

#[test]
fn headers_and_subprotocol_reach_the_server() {
    on_both(|scheme| {
        let agreed =
            Answer { headers: vec!["Sec-WebSocket-Protocol: v2.json".into()], ..Answer::default() };
        let run = Run::serve(scheme, [script().upgrade(agreed).text("x").expect_bye()])
            .option("--header", "X-Api-Key: k1")
            .option("--header", "User-Agent: somebody/1.0")
            .args("--subprotocol v2.json --max-messages 1")
            .finish(0);
        let request = run.server().requests().remove(0);
        assert_eq!(request.path, "/stream");
        assert_eq!(request.header("x-api-key"), ["k1"]);
        assert_eq!(request.header("user-agent"), ["somebody/1.0"]);
        assert_eq!(request.header("sec-websocket-protocol"), ["v2.json"]);
        assert_eq!(request.header("host"), [format!("127.0.0.1:{}", run.server().port())]);
        assert_eq!(run.tape().events("connected")[0]["subprotocol"], "v2.json");
    });
}

#[test]
fn path_and_query_reach_the_server() {
    on_both(|scheme| {
        let server = Server::start(scheme, [accept().text("x").expect_bye()]);
        let path = "/ws/btcusdt@trade?a=1&b=%2Fx";
        let run = Run::new()
            .typed_feed(&format!("{FEED}={}", server.url(path)))
            .trusting("ca.pem")
            .args("--max-messages 1")
            .finish(0);
        assert_eq!(server.requests()[0].path, path);
        assert_eq!(run.tape().events("segment")[0]["url"], server.url(path).as_str());
    });
}

/// Pings are answered with their payload, also while data flows and before any did.
#[test]
fn pings_are_answered() {
    on_both(|scheme| {
        let script = accept()
            .ping_pong(b"first")
            .ping_pong(b"\0\xff binary")
            .ping_pong(&[b'x'; 125])
            .text("one")
            .ping_pong(b"between")
            .text("two")
            .expect_bye();
        let run = Run::serve(scheme, [script]).args("--max-messages 2").finish(0);
        assert_eq!(run.tape().messages().len(), 2);
    });
}

#[test]
fn a_server_that_answers_no_ping_is_left() {
    on_both(|scheme| {
        let scripts = [accept().stall(), accept().expect_ping().text("x").expect_bye()];
        let run = Run::serve(scheme, scripts)
            .args("--ping-every 100ms --pong-deadline 200ms --max-messages 1")
            .finish(0);
        let tape = run.tape();
        let first = tape.events("disconnected")[0];
        assert!(first["reason"].as_str().unwrap().contains("pong"), "{first}");
        assert!(first["duration_ms"].as_u64().unwrap() >= 300, "{first}");
    });
}

#[test]
fn pings_off() {
    on_both(|scheme| {
        // With pings every 20 s by default this would hold only by their being late.
        let script = accept().wait_for("quiet").text("x").expect_bye();
        let run = Run::serve(scheme, [script])
            .args("--ping-every 0 --stale-after 0 --max-messages 1")
            .start();
        run.on_tape("connected");
        run.server().go("quiet");
        assert_eq!(run.finish(0).tape().messages().len(), 1);
    });
}

/// Staleness is judged on data: pings, and answers to ours, keep nothing fresh.
#[test]
fn a_server_that_only_pings_is_stale() {
    on_both(|scheme| {
        let scripts = [accept().text("a").ping_until_close(), accept().text("b").expect_bye()];
        let run = Run::serve(scheme, scripts)
            .args("--stale-after 200ms --ping-every 50ms --max-messages 2")
            .finish(0);
        let tape = run.tape();
        let mut outline = tape.outline();
        let code = tape.events("disconnected")[0]["code"].clone();
        outline.retain(|line| !line.starts_with("segment"));
        assert_eq!(
            outline[..7],
            [
                "connecting 1",
                "connected 1",
                "text \"a\"",
                "stale 1",
                &format!("disconnected 1 {code}"),
                "connecting 2",
                "connected 2",
            ]
        );
        assert_eq!(tape.events("stale")[0]["after_ms"], 200);
        assert!(tape.events("disconnected")[0]["reason"].as_str().unwrap().contains("stale"));
    });
}

/// From the moment of connecting: a server that upgrades and says nothing at all.
#[test]
fn a_server_that_says_nothing_is_stale() {
    on_both(|scheme| {
        let scripts = [accept().ping_until_close(), accept().text("b").expect_bye()];
        let run =
            Run::serve(scheme, scripts).args("--stale-after 200ms --max-messages 1").finish(0);
        assert_eq!(run.tape().events("stale").len(), 1);
    });
}
