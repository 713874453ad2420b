//! The admin endpoint of the built program: what it tells, what it does when it is told to, and
//! what becomes of clients that mean it harm.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::{FEED, Run, eventually, program};
use super::script::{accept, script};
use super::server::{Scheme, Server};
use super::simulate::Venue;

/// Nobody waits longer for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Of each feed between two pauses.
const LOAD_MESSAGES: u64 = 500;
const TOKEN: &str = "0123456789abcdef-token";

/// The endpoint of a running program.
pub struct Admin {
    address: SocketAddr,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_string(), body: body.to_string() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}{}", self.head, self.body))
    }
}

impl Admin {
    /// That of a running program, which said where it listens.
    pub fn of(run: &Run) -> Admin {
        let address = eventually("the address of the admin endpoint", || {
            let stderr = run.stderr();
            let (_, rest) = stderr.split_once("listening at http://")?;
            let (address, _) = rest.split_once('\n')?;
            address.parse().ok()
        });
        Admin { address }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        stream
    }

    /// Sends these bytes, and reads all that comes until the end.
    fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        // It may have had enough before all is sent.
        let _ = stream.write_all(bytes.as_ref());
        read_all(stream)
    }

    fn ask(&self, line: &str, headers: &str) -> Answer {
        let host = self.address;
        let text = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
        Answer::parse(&self.raw(text))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "")
    }

    fn post(&self, path: &str) -> Answer {
        self.ask(&format!("POST {path}"), "X-Feedtape: 1\r\n")
    }

    fn feed(&self, name: &str) -> Value {
        let answer = self.get("/api/feeds").json();
        let feeds = answer["feeds"].as_array().unwrap();
        feeds.iter().find(|feed| feed["name"] == name).unwrap().clone()
    }

    fn is(&self, feed: &str, state: &str) {
        eventually(&format!("{feed} is {state}"), || {
            (self.feed(feed)["state"] == state).then_some(())
        });
    }
}

fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as its end.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn counting() -> Server {
    Server::start(Scheme::Ws, [accept().count_until_close("m").again()])
}

fn start(run: Run) -> (Run, Admin) {
    let run = run.args("--admin 127.0.0.1:0").start();
    let admin = Admin::of(&run);
    (run, admin)
}

fn stop(run: Run) -> Run {
    run.signal(Signal::SIGTERM);
    run.finish(0)
}

#[test]
fn each_thing_that_can_be_asked() {
    let (run, admin) = start(Run::new().feed(FEED, counting()));
    run.on_tape("m 5");
    let health = admin.get("/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let ready = admin.get("/readyz");
    assert_eq!((ready.status, ready.json()["ready"].clone()), (200, true.into()));
    let feed = admin.feed(FEED);
    assert_eq!((feed["state"].as_str(), feed["kind"].as_str()), (Some("live"), Some("ws")));
    assert!(feed["messages"].as_u64().unwrap() >= 5, "{feed}");
    assert!(feed["last_data_ns"].as_u64().unwrap() >= run.started_ns, "{feed}");
    assert_eq!(feed["url"], run.server().url("/stream"));
    let recorder = admin.get("/api/recorder").json();
    assert_eq!(
        (recorder["pid"].clone(), recorder["paused"].clone()),
        (run.pid().into(), false.into())
    );
    assert!(recorder["started_ns"].as_u64().unwrap() >= run.started_ns);
    let free = eventually("free space", || {
        admin.get("/api/recorder").json()["disk"]["free_bytes"].as_u64()
    });
    assert!(free <= recorder["disk"]["total_bytes"].as_u64().unwrap());
    assert!(recorder["plan"]["idle_bytes"].as_u64().unwrap() > 1 << 20, "{recorder}");
    let memory = admin.get("/api/memory").json();
    let anon = memory["figures"]["rss_anon_bytes"].as_u64().unwrap();
    assert!(anon > 1 << 18, "{memory}");
    assert_eq!(memory["history"].as_array().unwrap().len(), 1);
    let sentences = memory["sentences"].as_array().unwrap();
    let of = |key: &str| sentences.iter().find(|one| one["key"] == key).unwrap();
    assert_eq!(
        (&of("threads")["unit"], &of("threads")["section"]),
        (&"count".into(), &"PROCESS".into())
    );
    for key in ["rss_anon_bytes", "heap_in_use_bytes", "heap_held_bytes"] {
        assert!(
            of(key)["unit"] == "bytes" && of(key)["value"].as_u64() > Some(1 << 16),
            "{memory}"
        );
    }
    assert!(memory["verdict"].as_str().is_some() && memory["leak"].is_null(), "{memory}");
    let profile = admin.get("/debug/pprof/heap");
    assert!(profile.status == 501 && profile.body.contains("heap-profile"), "{}", profile.body);
    let gaps = admin.get("/api/gaps").json();
    assert_eq!(gaps["gaps"], serde_json::json!([]));
    let events = admin.get("/api/events?since=0").json();
    let connected = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["text"].as_str().unwrap().contains("connected to"));
    assert_eq!(connected.unwrap()["feed"], FEED, "{events}");
    for (path, kind) in [("/", "text/html"), ("/app.js", "javascript"), ("/style.css", "text/css")]
    {
        let page = admin.get(path);
        assert!(page.status == 200 && page.head.contains(kind), "{}", page.head);
        assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    }
    let head = admin.ask("HEAD /metrics", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    stop(run);
}

#[test]
fn metrics_in_both_formats() {
    let (run, admin) = start(Run::new().feed(FEED, counting()));
    run.on_tape("m 5");
    eventually("a sync", || {
        let text = admin.get("/metrics").body;
        (!text.contains("feedtape_fsync_seconds_count 0")).then_some(())
    });
    let classic = admin.get("/metrics");
    assert!(classic.head.contains("text/plain; version=0.0.4"), "{}", classic.head);
    assert!(classic.body.contains("# TYPE feedtape_messages_total counter\n"));
    assert!(!classic.body.contains("# EOF"));
    let open = admin.ask("GET /metrics", "Accept: application/openmetrics-text\r\n");
    assert!(open.head.contains("application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.contains("# TYPE feedtape_messages counter\n"));
    assert!(open.body.ends_with("# EOF\n"));
    for name in ["feedtape_receive_lag_seconds_count", "feedtape_flush_seconds_count"] {
        let line = open.body.lines().find(|line| line.starts_with(name)).unwrap();
        assert_ne!(line.split(' ').nth(1), Some("0"), "{line}");
    }
    assert!(open.body.contains("feedtape_feed_live{feed=\"f\"} 1\n"));
    stop(run);
}

#[test]
fn a_feed_pauses_and_goes_on_and_the_tape_tells() {
    let (run, admin) = start(Run::new().feed(FEED, counting()).feed("other", counting()));
    run.on_tape("m 5");
    run.on_tape_of("other", "m 5");
    let paused = admin.post("/api/feeds/f/pause");
    assert_eq!(paused.status, 200, "{}", paused.body);
    assert_eq!(admin.feed(FEED)["state"], "paused");
    assert_eq!(admin.feed("other")["state"], "live");
    let ready = admin.get("/readyz");
    assert_eq!(ready.status, 503);
    let reason = ready.json()["reasons"][0].as_str().unwrap().to_string();
    assert!(reason.starts_with("f: paused since"), "{reason}");
    let open = admin.get("/api/gaps").json()["gaps"][0].clone();
    assert_eq!((open["reason"].as_str(), open["to_ns"].is_null()), (Some("paused"), true));
    assert_eq!(admin.post("/api/feeds/f/reconnect").status, 409);
    assert_eq!(admin.post("/api/feeds/f/resume").status, 200);
    admin.is(FEED, "live");
    eventually("the gap is over", || {
        let gaps = admin.get("/api/gaps").json();
        gaps["gaps"][0]["to_ns"].as_u64()
    });
    assert_eq!(admin.post("/api/feeds/other/reconnect").status, 200);
    run.on_tape_of("other", "\"connected\",\"conn\":2");
    assert_eq!(admin.feed("other")["reconnects"]["asked"], 1);
    assert_eq!(admin.post("/api/feeds/nobody/pause").status, 404);
    assert_eq!(admin.post("/api/reload").status, 409, "there is no file to be read");
    assert_eq!(admin.post("/api/rotate").status, 200);
    eventually("another segment", || {
        let segments = run.out().join("feed=f");
        let days = std::fs::read_dir(segments).ok()?.filter_map(Result::ok);
        let files = days.filter_map(|day| std::fs::read_dir(day.path()).ok()).flatten();
        let tapes = files.filter(|file| {
            file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().contains(".tape"))
        });
        (tapes.count() >= 2).then_some(())
    });
    let run = stop(run);
    let tape = run.tape();
    let gaps = tape.events("gap");
    assert_eq!(gaps[0]["reason"], "paused");
    assert!(gaps[0]["to_ts"].as_u64() > gaps[0]["from_ts"].as_u64());
    assert_eq!(tape.events("paused").len(), 1);
    assert_eq!(tape.events("resumed").len(), 1);
    assert_eq!(run.tape_of("other").events("gap")[0]["reason"], "reconnect");
    run.verify(0);
}

#[test]
fn a_reload_keeps_what_is_paused() {
    let run = Run::new().beside(counting()).beside(counting());
    let text = "[defaults]\nbackoff-min = '10ms'\n[feed.a]\nurl = '{URL0}'\n";
    let (run, admin) = start(run.feeds_file(text));
    run.on_tape_of("a", "m 5");
    assert_eq!(admin.post("/api/pause").status, 200);
    assert_eq!(admin.get("/api/recorder").json()["paused"], true);
    run.write_feeds_file(
        "[defaults]\nbackoff-min = '10ms'\n[feed.a]\nurl = '{URL0}?v=2'\n\
         [feed.b]\nurl = '{URL1}'\n",
    );
    let reloaded = admin.post("/api/reload").json();
    assert_eq!(reloaded["done"], "reloaded: 1 feeds added, 0 removed, 1 changed, 0 as they were");
    admin.is("b", "paused");
    assert_eq!(admin.feed("a")["state"], "paused");
    assert_eq!(run.servers()[1].requests().len(), 0, "a paused feed does not connect");
    run.write_feeds_file("[feed.a]\nurl = 'nonsense'\n");
    let refused = admin.post("/api/reload");
    assert!(refused.status == 409 && refused.body.contains("nonsense"), "{}", refused.body);
    assert_eq!(admin.post("/api/resume").status, 200);
    run.on_tape_of("b", "m 5");
    run.on_tape_of("a", "\"connected\",\"conn\":2");
    let run = stop(run);
    assert_eq!(run.servers()[0].requests()[1].path, "/stream?v=2");
    assert_eq!(run.tape_of("a").events("gap")[0]["reason"], "paused");
    assert_eq!(run.tape_of("b").events("gap")[0]["reason"], "paused");
    run.verify(0);
}

/// The history of memory began anew with each start; and the recorder's own tape, whose last run
/// ends with a gap as all tapes do, was told as a feed without a name.
#[test]
fn a_restart_goes_on_where_the_last_run_ended() {
    let (run, _) = start(Run::new().feed(FEED, counting()).args("--self-every 100ms"));
    run.on_tape("m 5");
    run.on_tape_of("_feedtape", "\"memory\"");
    let run = stop(run).start();
    let admin = Admin::of(&run);
    let gaps = eventually("the gap of the restart", || {
        let gaps = admin.get("/api/gaps").json()["gaps"].as_array().unwrap().clone();
        gaps.iter().any(|gap| gap["feed"] == FEED && gap["to_ns"].is_u64()).then_some(gaps)
    });
    assert!(gaps.iter().all(|gap| gap["feed"] == FEED), "{gaps:?}");
    let memory = admin.get("/api/memory").json();
    let history = memory["history"].as_array().unwrap();
    let times: Vec<u64> = history.iter().map(|one| one["t_ns"].as_u64().unwrap()).collect();
    assert!(times[0] < run.started_ns && times.is_sorted(), "{times:?}");
    assert!(*times.last().unwrap() >= run.started_ns, "{times:?}");
    assert!(history[0]["rss_anon_bytes"].as_u64() > Some(1 << 18), "{memory}");
    stop(run).verify(0);
}

/// As the seed's author did by hand: stop everything, and look what stays.
#[test]
fn twenty_pauses_under_load_leave_no_memory_behind() {
    let venue = Venue::start(&["--rate", "2000"]);
    let name = |n: usize| format!("f{n}");
    let run =
        (0..4).fold(Run::new(), |run, n| run.typed_feed(&format!("{}={}", name(n), venue.urls[0])));
    let (run, admin) = start(run);
    let messages = |n: usize| admin.feed(&name(n))["messages"].as_u64().unwrap();
    let mut before = [0; 4];
    let mut anon_kib = Vec::new();
    for round in 1..=20 {
        for (n, before) in before.iter_mut().enumerate() {
            run.on_tape_of(&name(n), &format!("\"connected\",\"conn\":{round},"));
            admin.is(&name(n), "live");
            // A load that the pause ends, not a first message or two.
            eventually("messages", || (messages(n) >= *before + LOAD_MESSAGES).then_some(()));
        }
        let paused = admin.post("/api/pause");
        assert_eq!(paused.status, 200, "{}", paused.body);
        anon_kib.push(run.status_kib("RssAnon"));
        before = std::array::from_fn(messages);
        assert_eq!(admin.post("/api/resume").status, 200);
    }
    println!("RssAnon after each pause, in KiB: {anon_kib:?}; messages {before:?}");
    let most = anon_kib.iter().max().unwrap();
    assert!(most - anon_kib[0] <= 1024, "RssAnon after each pause, in KiB: {anon_kib:?}");
    let idle = admin.get("/api/recorder").json()["plan"]["idle_bytes"].as_u64().unwrap();
    assert!(most * 1024 <= idle, "{most} KiB are more than the plan's {idle} bytes");
    stop(run).verify(0);
}

#[test]
fn hostile_requests_are_answered() {
    let (run, admin) = start(Run::new().feed(FEED, counting()));
    let host = admin.address;
    let filler = "a".repeat(10_000);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: {host}\r\nX: {filler}\r\n\r\n"), 431),
        (format!("GET /{filler} HTTP/1.1\r\nHost: {host}\r\n\r\n"), 431),
        (format!("BREW / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 405),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            501,
        ),
        (format!("POST /api/pause HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999\r\n\r\n"), 413),
        (format!("POST /api/pause HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\n\r\n"), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".to_string(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_string(), 505),
        // A name that was made to point here.
        ("GET /api/feeds HTTP/1.1\r\nHost: evil.example:9464\r\n\r\n".to_string(), 421),
        // A page of another site.
        (
            format!(
                "POST /api/pause HTTP/1.1\r\nHost: {host}\r\n\
                 Origin: http://evil.example\r\nX-Feedtape: 1\r\n\r\n"
            ),
            403,
        ),
        (
            format!(
                "POST /api/pause HTTP/1.1\r\nHost: {host}\r\n\
                 Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
            ),
            403,
        ),
    ] {
        let with_close = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let answer = Answer::parse(&admin.raw(&with_close));
        assert_eq!(answer.status, status, "{with_close:?}: {}", answer.body);
    }
    assert_eq!(admin.feed(FEED)["state"], "live", "nothing of it was done");
    // One behind the other, all in one piece: answered in order.
    let get = |path: &str, end: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n");
    let together =
        get("/healthz", "") + &get("/nothing", "") + &get("/readyz", "Connection: close\r\n");
    let answers = admin.raw(together);
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|one| &one[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
    // One that has closed its sending side reads on.
    let mut half = admin.connect();
    half.write_all(get("/healthz", "").as_bytes()).unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_all(half).ends_with("ok\n"));
    stop(run);
}

#[test]
fn a_hundred_slow_clients_keep_nobody_out() {
    let (run, admin) = start(Run::new().feed(FEED, counting()));
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = admin.connect();
            // Those that came first may be gone already.
            let _ = stream.write_all(b"GET /healthz HTT");
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(admin.get("/healthz").status, 200);
    }
    let answers: Vec<u16> =
        slow.into_iter().map(|stream| Answer::parse(&read_all(stream)).status).collect();
    assert!(answers.iter().all(|status| [503, 408, 0].contains(status)), "{answers:?}");
    assert!(answers.contains(&503) && answers.contains(&408), "{answers:?}");
    stop(run);
}

#[test]
fn tokens() {
    let run = Run::new().feed(FEED, counting());
    std::fs::write(run.path("token"), format!("{TOKEN}\n")).unwrap();
    let (run, admin) = start(run.file_option("--admin-token-file", "token"));
    run.on_tape("m 5");
    let with = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\nX-Feedtape: 1\r\n");
        admin.ask("GET /api/feeds", &headers).status
    };
    assert_eq!(admin.get("/").status, 200);
    assert_eq!(admin.get("/healthz").status, 200);
    assert_eq!(admin.get("/metrics").status, 401);
    assert_eq!(with(TOKEN), 200);
    for _ in 0..5 {
        assert_eq!(with("wrong"), 401);
    }
    assert_eq!(with("wrong"), 429);
    assert_eq!(with(TOKEN), 200, "it is not locked out by others");
    assert!(!run.stderr().contains(TOKEN));
    stop(run);
}

#[test]
fn other_machines_need_the_token() {
    let run = Run::new().feed(FEED, counting());
    std::fs::write(run.path("token"), format!("{TOKEN}\n")).unwrap();
    let run = run.file_option("--admin-token-file", "token");
    let run = run.args("--admin 0.0.0.0:0 --admin-allow-remote").start();
    let admin = Admin::of(&run);
    assert!(admin.address.ip().is_unspecified(), "{}", admin.address);
    run.on_tape("m 5");
    let ask = |line: &str, host: &str, token: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        let text = format!("{head}X-Feedtape: 1\r\nAuthorization: Bearer {token}\r\n\r\n");
        Answer::parse(&admin.raw(text)).status
    };
    assert_eq!(admin.get("/api/feeds").status, 401);
    assert_eq!(admin.post("/api/pause").status, 401);
    assert_eq!(ask("GET /api/feeds", "10.0.0.7:9464", "wrong"), 401);
    assert_eq!(ask("GET /api/feeds", "10.0.0.7:9464", TOKEN), 200);
    assert_eq!(ask("GET /api/feeds", "evil.example", TOKEN), 421);
    assert_eq!(ask("POST /api/pause", "10.0.0.7:9464", TOKEN), 200);
    assert_eq!(admin.get("/healthz").status, 200);
    stop(run);
}

#[test]
fn what_is_not_listened_at() {
    let check = |args: &str, said: &str| {
        let run = Run::new().typed_feed("f=ws://127.0.0.1:1/");
        std::fs::write(run.path("short"), "short\n").unwrap();
        let args = args.replace("SHORT", run.path("short").to_str().unwrap());
        let run = run.args(&args).start();
        let run = run.finish(2);
        assert!(run.stderr().contains(said), "{args}: {}", run.stderr());
    };
    check("--admin localhost:9464", "--admin 'localhost:9464': must be an address with a port");
    check("--admin 0.0.0.0:0", "other machines can reach it: give an address of this machine");
    check("--admin 0.0.0.0:0 --admin-allow-remote", "--admin-token-file is needed");
    check("--admin 127.0.0.1:0 --admin-token-file /nowhere", "can't read '/nowhere'");
    check("--admin 127.0.0.1:0 --admin-token-file SHORT", "at least 16 characters");
    check("--admin-token-file SHORT", "is for --admin, which is not given");
}

#[test]
fn ctl_speaks_to_it_over_a_unix_socket() {
    let run = Run::new().feed(FEED, counting());
    let socket = run.path("admin.sock");
    let address = format!("unix:{}", socket.display());
    let run = run.option("--admin", &address).start();
    run.on_tape("m 5");
    let ctl = |args: &[&str]| {
        let output =
            program().arg("ctl").args(args).env("FEEDTAPE_ADMIN", &address).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = ctl(&["status"]);
    assert!(code == Some(0) && text.contains("everything is recorded"), "{text}");
    let (code, text) = ctl(&["feeds"]);
    assert!(code == Some(0) && text.contains("FEED") && text.contains("live"), "{text}");
    let (code, text) = ctl(&["pause", FEED]);
    assert!(code == Some(0) && text.contains("1 feeds are paused"), "{text}");
    let (code, text) = ctl(&["gaps"]);
    assert!(code == Some(0) && text.contains("paused"), "{text}");
    let (code, text) = ctl(&["status"]);
    assert!(code == Some(0) && text.contains("f: paused since"), "{text}");
    let (code, text) = ctl(&["feeds", "--json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, json["feeds"][0]["state"].as_str()), (Some(0), Some("paused")));
    assert_eq!(ctl(&["resume"]).0, Some(0));
    let (code, text) = ctl(&["events"]);
    assert!(code == Some(0) && text.contains("admin: ordered to resume all feeds"), "{text}");
    let (code, text) = ctl(&["memory"]);
    assert!(code == Some(0) && text.contains("planned:"), "{text}");
    let line = |label: &str| text.lines().find(|line| line.starts_with(&format!("  {label}  ")));
    let threads: Vec<&str> = line("threads").unwrap().split_whitespace().take(2).collect();
    assert!(threads[1].parse::<u64>().is_ok(), "a count, not bytes: {text}");
    assert!(text.starts_with("PROCESS\n") && text.contains("\nHEAP\n"), "{text}");
    assert!(line("in use").is_some() && text.contains("\nverdict: "), "{text}");
    let (code, text) = ctl(&["pause", "nobody"]);
    assert!(code == Some(1) && text.contains("no feed 'nobody' is recorded"), "{text}");
    let (code, text) = ctl(&["pause", "No Body"]);
    assert!(code == Some(2) && text.contains("No Body"), "{text}");
    let (code, text) = ctl(&["status", "--admin", "nowhere"]);
    assert!(code == Some(2) && text.contains("--admin 'nowhere'"), "{text}");
    // A browser can't reach it; it may be called as anybody likes.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_all(stream).ends_with("ok\n"));
    stop(run);
    assert!(!socket.exists());
    let (code, text) = ctl(&["status"]);
    assert!(code == Some(1) && text.contains("is one running with --admin there?"), "{text}");
}

#[test]
fn ctl_follows_the_log() {
    let (run, admin) = start(Run::new().feed(FEED, counting()));
    let said = run.path("followed.txt");
    let mut follower = program()
        .args(["ctl", "events", "--follow", "--admin", &admin.address.to_string()])
        .stdout(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let times = |text: &str| std::fs::read_to_string(&said).unwrap().matches(text).count();
    let follows = |text: &str| eventually(text, || (times(text) > 0).then_some(()));
    follows("connected to");
    assert_eq!(admin.post("/api/pause").status, 200);
    follows("ordered to pause all feeds");
    assert_eq!(admin.post("/api/resume").status, 200);
    follows("ordered to resume all feeds");
    assert_eq!(times("ordered to pause all feeds"), 1, "no line comes twice");
    follower.kill().unwrap();
    follower.wait().unwrap();
    stop(run);
}

#[test]
fn an_address_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let run = Run::new().feed(FEED, Server::start(Scheme::Ws, [script().may_be_left().again()]));
    let run = run.option("--admin", &address.to_string()).finish(1);
    let said = format!("--admin: can't listen at '{address}'");
    assert!(run.stderr().contains(&said), "{}", run.stderr());
}
