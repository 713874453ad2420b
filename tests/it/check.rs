//! `feedtape check`, `venues` and `new`: what they say of feeds, with and without trying them.

use std::process::Output;

use super::program::{Run, output, program};
use super::script::{Script, accept, script};
use super::server::{Scheme, Server};
use super::wire::Message;

const OK: &str = "200 OK";

/// A feeds file in a folder that goes away.
struct File {
    dir: tempfile::TempDir,
    servers: Vec<Server>,
}

impl File {
    fn new(text: &str) -> File {
        let file = File { dir: tempfile::tempdir().unwrap(), servers: Vec::new() };
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> String {
        self.dir.path().join("feeds.toml").display().to_string()
    }

    /// `feedtape check`, with its exit code, what it printed, and what it said.
    fn check(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = program().args(["check", "--config", &self.path()]).args(args).output();
        let result = words(output.unwrap());
        let failures: Vec<String> = self.servers.iter().flat_map(Server::failures).collect();
        assert!(failures.is_empty(), "{failures:#?}\n{result:?}");
        let files = std::fs::read_dir(self.dir.path()).unwrap().count();
        assert_eq!(files, 1, "it wrote nothing");
        result
    }
}

fn words(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// With every number of milliseconds as `N ms`.
fn without_times(text: &str) -> String {
    let word = |line: &str| {
        let mut words: Vec<&str> = line.split(' ').collect();
        for at in 1..words.len() {
            if words[at].trim_end_matches(',') == "ms" {
                words[at - 1] = "N";
            }
        }
        words.join(" ")
    };
    text.lines().map(|line| word(line) + "\n").collect()
}

#[test]
fn a_right_file_is_listed() {
    let file = File::new(
        r#"
        out = "never-made"
        [feed.trades]
        url = "wss://example.invalid/ws?key=${KEY}"
        symbols = ["a", "b", "c"]
        topics = ["{symbol}@trade"]
        subscribe = '{"params":[{topics}]}'
        per-connection = 2
        ack.match = "/result=null"
        [feed.depth]
        url = "https://example.invalid/depth"
        every = "1m"
        on = { feed = "trades" }
        "#,
    );
    let output = program().args(["check", "--config", &file.path()]).env("KEY", "s3cret").output();
    let (code, printed, said) = words(output.unwrap());
    expect_test::expect![[r#"
        trades-1:
            websocket wss://example.invalid/ws?key=***:
            1 subscription, 2 symbols or topics, 1 acknowledgement awaited
        trades-2:
            websocket wss://example.invalid/ws?key=***:
            1 subscription, 1 symbols or topics, 1 acknowledgement awaited
        depth:
            polled https://example.invalid/depth:
            every 1m, on connected and gap of trades-1, trades-2
    "#]]
    .assert_eq(&printed.replace(": ", ":\n    "));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(!file.dir.path().join("never-made").exists());
}

#[test]
fn mistakes_are_those_of_record() {
    let file = File::new("rotate-every = \"7h\"\n[feed.a]\nurl = \"ws://h/\"\nsubscrbe = 'x'\n");
    let (code, printed, said) = file.check(&["--connect"]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    for words in ["7h", "feeds.toml:4", "did you mean 'subscribe'?", "help check"] {
        assert!(said.contains(words), "'{words}' is not in: {said}");
    }
    let (code, _, said) = words(output(&["check", "x=tcp://h/"]));
    assert!(code == Some(2) && said.contains("tcp"), "{said}");
    let (code, _, said) = words(output(&["check", "ws://h/", "--wait", "1ms"]));
    assert!(code == Some(2) && said.contains("from 100ms to 1h"), "{said}");
}

/// A pool that has no room within --memory was found by the start only.
#[test]
fn memory_that_is_too_little_is_a_mistake() {
    let (code, printed, said) = words(output(&["check", "ws://h/", "--memory", "2MiB"]));
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("--memory '2MiB': is too little for 1 feed: give --memory "), "{said}");
}

/// What is typed after `record` can be checked too, and needs no folder.
#[test]
fn typed_feeds() {
    let args = ["check", "t=ws://h/x", "--subscribe", "a", "--stale-after", "5s"];
    let (code, printed, _) = words(output(&args));
    assert_eq!((code, printed.as_str()), (Some(0), "t: websocket ws://h/x: 1 subscription\n"));
}

/// One feed is tried against a server; `expected` is its line, without times.
fn check_connect(script: Script, options: &str, args: &[&str], code: i32, expected: &str) {
    let is_poll = options.contains("every");
    let server = Server::start(Scheme::Ws, [script]);
    let url = if is_poll { server.http_url("/depth") } else { server.url("/ws") };
    let text = format!("out = \"never-made\"\n[feed.f]\nurl = \"{url}\"\n{options}\n");
    let mut file = File::new(&text);
    file.servers.push(server);
    let (ended, printed, said) = file.check(&[&["--connect"], args].concat());
    assert_eq!(without_times(&printed), format!("{expected}\n"), "{said}");
    assert_eq!(ended, Some(code), "{said}");
    assert_eq!(said.contains("error: 1 of 1 feed failed"), code == 1, "{said}");
}

#[test]
fn feeds_that_answer() {
    let ok = "f: ok: connected in N ms, first message after N ms";
    check_connect(accept().text("x").expect_bye(), "", &[], 0, ok);
    let acked = "subscribe = ['a', 'b']\nack-match = 'ack'\nmax-message = \"1KiB\"";
    let script = accept().text("x").expect_text("a").expect_text("b").text("ack 1");
    check_connect(script.text("ack 2").expect_bye(), acked, &[], 0, ok);
    let poll = script_of(&[(OK, "{}")]);
    check_connect(poll, "every = \"24h\"", &[], 0, "f: ok: answered after N ms");
}

fn script_of(answers: &[(&str, &str)]) -> Script {
    answers.iter().fold(script(), |script, (status, body)| script.respond(status, &[], body))
}

#[test]
fn feeds_that_do_not() {
    let refused = script().refuse("403 Forbidden", &[]);
    check_connect(refused, "", &[], 1, "f: FAILED: upgrade: the server answered 403 Forbidden");
    let wait = &["--wait", "300ms"];
    let quiet = "f: FAILED: connected in N ms, but no message within 300ms";
    check_connect(accept().expect_bye(), "", wait, 1, quiet);
    // An acknowledgement is no data.
    let acked = "subscribe = 'a'\nack-match = 'ack'";
    let script = accept().expect_text("a").text("ack").expect_bye();
    check_connect(script, acked, wait, 1, quiet);
    let script = accept().expect_text("a").text("x").expect_bye();
    let unacked = "f: FAILED: connected in N ms, but not all is acknowledged within 300ms";
    check_connect(script, acked, wait, 1, unacked);
    let refusing = "subscribe = 'a'\nrefuse-match = 'no'";
    let script = accept().expect_text("a").text("no such symbol").expect_bye();
    let says = "f: FAILED: the venue refused: no such symbol";
    check_connect(script, refusing, &[], 1, says);
    let gone = "f: FAILED: closed by server: 1001 'maintenance'";
    check_connect(accept().close(1001, "maintenance"), "", &[], 1, gone);
    let says = "f: FAILED: answer: the server answered 404: no such symbol";
    let missing = script_of(&[("404 Not Found", "no such symbol")]);
    check_connect(missing, "every = \"24h\"", &[], 1, says);
    let large = script_of(&[(OK, &"x".repeat(1025))]);
    let options = "every = \"24h\"\nmax-message = \"1KiB\"";
    let says = "f: FAILED: oversized: message of 1025 bytes or more, the limit is 1024";
    check_connect(large, options, &[], 1, says);
}

/// More feeds than are tried at once, one of which can't be reached.
#[test]
fn all_are_tried_and_the_failed_counted() {
    let server = Server::start(Scheme::Ws, [accept().text("x").expect_bye().again()]);
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut text = format!("out = \"o\"\n[feed.bad]\nurl = \"ws://{gone}/\"\n");
    for n in 0..70 {
        text += &format!("[feed.f{n}]\nurl = \"{}\"\n", server.url("/"));
    }
    let mut file = File::new(&text);
    file.servers.push(server);
    let (code, printed, said) = file.check(&["--connect"]);
    assert_eq!(printed.lines().count(), 71, "{printed}");
    let failed: Vec<&str> = printed.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("bad: FAILED: "), "{failed:?}");
    assert!(failed[0].contains("refused"), "{failed:?}");
    assert_eq!(code, Some(1));
    assert!(said.contains("error: 1 of 71 feeds failed"), "{said}");
}

/// Polls that wait for their host's budget have not failed, but bring nothing in time either.
#[test]
fn a_budget_that_is_used_up_is_told() {
    let server = Server::start(Scheme::Ws, [script_of(&[(OK, "{}")])]);
    let text = format!(
        "out = \"o\"\n[defaults]\nevery = \"24h\"\nweight-header = \"x-w\"\nweight-limit = 1\n\
         weight-window = \"24h\"\n[feed.a]\nurl = \"{0}\"\n[feed.b]\nurl = \"{0}\"\n",
        server.http_url("/")
    );
    let mut file = File::new(&text);
    file.servers.push(server);
    let (code, printed, _) = file.check(&["--connect", "--wait", "500ms"]);
    let late = "FAILED: no answer within 500ms: the budget of 127.0.0.1 is used up";
    assert!(printed.contains(": ok: answered") && printed.contains(late), "{printed}");
    assert_eq!(code, Some(1));
}

/// What `new` writes for every venue that `venues` lists passes `check`.
#[test]
fn new_files_pass_the_check() {
    let (code, listed, said) = words(output(&["venues"]));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let is_name = |line: &&str| !line.starts_with([' ', '*']) && !line.is_empty();
    let venues = listed.lines().filter(is_name);
    let names: Vec<&str> = venues.map(|line| line.split(':').next().unwrap()).collect();
    assert!(names.len() >= 8, "{listed}");
    assert_eq!(listed.matches("(not checked live)").count(), names.len(), "{listed}");
    for name in names {
        let (code, text, said) = words(output(&["new", name, "BTC-USDT,ETH-USDT", "SOL-USDT"]));
        assert_eq!(code, Some(0), "{said}");
        assert!(text.contains("Not checked live"), "{text}");
        let (code, printed, said) = File::new(&text).check(&[]);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(printed.lines().count() >= 2, "{name}: {printed}");
    }
    let (code, printed, said) = words(output(&["new", "okex", "BTC-USDT"]));
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(said.contains("'okex' is no venue; did you mean 'okx'?"), "{said}");
}

/// A long text without its line breaks.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect()
}

/// Records what `new` writes for one channel of a venue, at a scripted server in the venue's place.
fn record_venue(args: &[&str], host: &str, changes: &[(&str, &str)], script: Script) -> Run {
    let (code, mut text, said) = words(output(&[&["new"], args].concat()));
    assert_eq!(code, Some(0), "{said}");
    let server = Server::start(Scheme::Ws, [script]);
    let place = server.url("");
    for (from, to) in changes.iter().chain(&[(host, place.as_str())]) {
        assert!(text.contains(from), "'{from}' is not in: {text}");
        text = text.replace(from, to);
    }
    let run = Run::new().beside(server);
    std::fs::write(run.path("feeds.toml"), text).unwrap();
    let file = run.path("feeds.toml").display().to_string();
    run.option("--config", &file).args("--max-messages 4").without_feed_defaults().finish(0)
}

#[test]
fn okx_is_pinged_with_its_text() {
    let subscribe = one_line(
        r#"{"op":"subscribe","args":[{"channel":"trades","instId":"BTC-USDT"},
        {"channel":"trades","instId":"ETH-USDT"}]}"#,
    );
    let ack = r#"{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"}}"#;
    let data = r#"{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[]}"#;
    let script = accept().expect_text(&subscribe).text(ack).text(ack).expect_text("ping");
    let script = script.text("pong").text(data).expect_bye();
    let run = record_venue(
        &["okx", "btc-usdt", "ETH-USDT", "--channels", "trades"],
        "wss://ws.okx.com:8443",
        &[("heartbeat-every = \"16s\"", "heartbeat-every = \"50ms\"")],
        script,
    );
    let tape = run.tape_of("okx-trades");
    assert_eq!(tape.events("subscribed").len(), 2);
    let sent = [ack, ack, "pong", data].map(Message::text);
    assert_eq!(tape.messages(), sent);
}

#[test]
fn deribit_has_its_test_answered() {
    let heartbeat =
        r#"{"jsonrpc":"2.0","id":1,"method":"public/set_heartbeat","params":{"interval":30}}"#;
    let subscribe = one_line(
        r#"{"jsonrpc":"2.0","id":2,"method":"public/subscribe",
        "params":{"channels":["trades.BTC-PERPETUAL.100ms"]}}"#,
    );
    let test = r#"{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}"#;
    let script = accept()
        .expect_text(heartbeat)
        .text(r#"{"jsonrpc":"2.0","id":1,"result":"ok"}"#)
        .expect_text(&subscribe)
        .text(r#"{"jsonrpc":"2.0","id":2,"result":["trades.BTC-PERPETUAL.100ms"]}"#)
        .text(test)
        .expect_text(r#"{"jsonrpc":"2.0","id":0,"method":"public/test"}"#)
        .text("data")
        .expect_bye();
    let args = ["deribit", "BTC-PERPETUAL", "--channels", "trades"];
    let run = record_venue(&args, "wss://www.deribit.com", &[], script);
    let tape = run.tape_of("deribit-trades");
    assert_eq!(tape.events("subscribed").len(), 2);
    assert_eq!(tape.messages()[2], Message::text(test));
}
