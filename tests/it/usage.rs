//! What was typed: all mistakes at once, each quoted, before anything is touched; names of feeds;
//! secrets.

use super::program::{FEED, Run, on_both, output};
use super::script::accept;
use super::server::Server;

/// The command line is refused with 2, and the talk quotes all of `words`.
fn check(args: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut all = vec!["record"];
    all.extend(args);
    all.extend(["--out", out.to_str().unwrap()]);
    let output = output(&all);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
    for word in words {
        assert!(said.contains(word), "{args:?}: '{word}' is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(!out.exists(), "{args:?} touched the disk");
}

#[test]
fn values_out_of_bounds_or_senseless() {
    for (option, value) in [
        ("--rotate-every", "7h"),
        ("--rotate-every", "30s"),
        ("--rotate-every", "25h"),
        ("--rotate-bytes", "1KiB"),
        ("--rotate-bytes", "17GiB"),
        ("--rotate-bytes", "many"),
        ("--compress", "lzma"),
        ("--level", "20"),
        ("--level", "0"),
        ("--flush-every", "0"),
        ("--flush-every", "11s"),
        ("--fsync", "2h"),
        ("--fsync", "sometimes"),
        ("--page-cache", "yes"),
        ("--queue-bytes", "255KiB"),
        ("--queue-bytes", "2GiB"),
        ("--on-stall", "panic"),
        ("--stall-deadline", "99ms"),
        ("--stop-timeout", "soon"),
        ("--min-free", "lots"),
        ("--clock", "sun"),
        ("--report-every", "999ms"),
        ("--report-every", "31d"),
        ("--connect-timeout", "99ms"),
        ("--connect-timeout", "6m"),
        ("--backoff-min", "1"),
        ("--ping-every", "x"),
        ("--pong-deadline", "y"),
        ("--stale-after", "-1s"),
        ("--max-message", "1023"),
        ("--max-message", "257MiB"),
        ("--header", "no colon"),
        ("--header", "Bad Name: x"),
        ("--duration", "a while"),
        ("--max-messages", "-3"),
        ("--subscribe-file", "/nonexistent/subscription"),
        ("--cacert", "/nonexistent/ca.pem"),
        ("--bogus", "x"),
    ] {
        check(&["f=wss://127.0.0.1:9/", &format!("{option}={value}")], &[option]);
    }
}

#[test]
fn urls_and_names() {
    check(&[], &["URL"]);
    for url in ["f=tcp://host/", "f=ws://", "f=ws://host:port/", "f=ws://host:99999/", "nonsense"] {
        check(&[url], &[url.trim_start_matches("f=")]);
    }
    check(&["F=ws://127.0.0.1:9/"], &["'F'"]);
    check(&["=ws://127.0.0.1:9/"], &["''"]);
    check(&["a/b=ws://127.0.0.1:9/"], &["a/b"]);
    check(&["a=ws://127.0.0.1:9/", "b=ws://127.0.0.1:9/", "a=ws://127.0.0.1:9/x"], &["'a'"]);
}

#[test]
fn contradictions() {
    check(&["f=ws://h/", "--backoff-min", "10s", "--backoff-max", "5s"], &["10s", "5s"]);
    check(&["f=wss://h/", "--cert", "/dev/null"], &["--key"]);
    check(&["f=wss://h/", "--key", "/dev/null"], &["--cert"]);
    check(&["f=ws://h/", "--compress", "gzip", "--level", "12"], &["12"]);
}

#[test]
fn all_mistakes_at_once() {
    let args = [
        "one=ws://h/",
        "one=ws://h/again",
        "two=tcp://h/",
        "BAD=ws://h/",
        "--rotate-every=7h",
        "--rotate-bytes=many",
        "--header=no colon",
    ];
    check(&args, &["'one'", "tcp", "'BAD'", "7h", "many", "--header"]);
}

#[test]
fn no_out() {
    let output = output(&["record", "f=ws://127.0.0.1:9/"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--out"));
}

#[test]
fn help_and_version() {
    for args in [&["--help"][..], &["record", "--help"], &["--version"]] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

/// Names come from the URLs, are valid and differ, and the talk says which is which.
#[test]
fn names_from_urls() {
    on_both(|scheme| {
        let servers: Vec<Server> =
            (0..3).map(|_| Server::start(scheme, [accept().text("x").expect_bye()])).collect();
        let mut run = Run::new().trusting("ca.pem").args("--max-messages 1");
        for (server, path) in servers.iter().zip(["/Stream", "/Stream", "/other?key=1"]) {
            run = run.typed_feed(&server.url(path));
        }
        let run = run.finish(0);
        let mut feeds: Vec<String> = std::fs::read_dir(run.out())
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.strip_prefix("feed=").map(str::to_string)
            })
            .collect();
        feeds.retain(|feed| !feed.starts_with('_'));
        assert_eq!(feeds.len(), 3, "{feeds:?}");
        for feed in &feeds {
            assert_eq!(run.tape_of(feed).messages().len(), 1);
            assert!(run.stderr().contains(feed.as_str()), "{feed} in {}", run.stderr());
        }
    });
}

/// A password in a URL and the values of headers go to the server and nowhere else.
#[test]
fn secrets_stay_secret() {
    on_both(|scheme| {
        // The first connection fails, so that the talk about failures is looked at too.
        let scripts = [
            super::script::script().refuse("401 Unauthorized", &[]),
            accept().text("x").expect_bye(),
        ];
        let server = Server::start(scheme, scripts);
        let url = server.url("/").replace("://", "://me:hunter2@");
        let run = Run::new()
            .typed_feed(&format!("{FEED}={url}"))
            .option("--header", "X-Token: s3cret-value")
            .trusting("ca.pem")
            .args("--max-messages 1")
            .finish(0);
        let request = &server.requests()[1];
        assert_eq!(request.header("authorization"), ["Basic bWU6aHVudGVyMg=="]);
        assert_eq!(request.header("x-token"), ["s3cret-value"]);
        let tape = run.tape();
        let mut all = run.stderr();
        for file in &tape.files {
            all.push_str(&std::fs::read_to_string(&file.path).unwrap());
        }
        for secret in ["hunter2", "s3cret-value", "bWU6aHVudGVyMg"] {
            assert!(!all.contains(secret), "{secret} is in the log or on the tape: {all}");
        }
        assert!(all.contains("***"), "{all}");
    });
}

/// What `${...}` brought in goes to the server and nowhere else.
#[test]
fn secrets_brought_in() {
    on_both(|scheme| {
        let subscribed = accept().expect_text("{\"auth\":\"s3cret-text\"}").text("x").expect_bye();
        let server = Server::start(scheme, [subscribed]);
        let run = Run::new().trusting("ca.pem");
        std::fs::write(run.path("token"), "s3cret-file\n").unwrap();
        let from_file = format!("X-Token: ${{file:{}}}", run.path("token").display());
        let run = run
            .env("TOKEN", "s3cret-text")
            .env("KEY", "s3cret-key")
            .typed_feed(&format!("{FEED}={}", server.url("/x?key=${KEY}")))
            .option("--subscribe", "{\"auth\":\"${TOKEN}\"}")
            .option("--header", &from_file)
            .args("--max-messages 1")
            .finish(0);
        assert_eq!(server.requests()[0].path, "/x?key=s3cret-key");
        assert_eq!(server.requests()[0].header("x-token"), ["s3cret-file"]);
        let tape = run.tape();
        assert_eq!(tape.events("sent")[0]["text"], "{\"auth\":\"***\"}");
        assert_eq!(tape.events("segment")[0]["url"], server.url("/x?key=***").as_str());
        let all = run.stderr() + &std::fs::read_to_string(&tape.files[0].path).unwrap();
        assert!(!all.contains("s3cret"), "{all}");
    });
}

/// One that is not there is a mistake that names it, and nothing of the others.
#[test]
fn secrets_that_are_missing() {
    check(&["f=ws://h/?key=${NOBODY_SET_THIS}"], &["NOBODY_SET_THIS"]);
    check(&["f=ws://h/", "--subscribe=${file:/nonexistent/token}"], &["/nonexistent/token"]);
}
