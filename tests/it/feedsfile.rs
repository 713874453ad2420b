//! The feeds file: what it says is done, its secrets stay where they are, and its mistakes are told
//! all at once.

use std::fs;
use std::path::Path;
use std::process::Output;

use nix::sys::signal::Signal;

use super::program::{Run, program};
use super::script::{accept, script};
use super::server::{Scheme, Server};

/// What the program makes of a file that it can't use: exit code 2, and nothing touched.
fn refused(folder: &Path, file: &str) -> String {
    let Output { status, stdout, stderr } = program()
        .args(["record", "--config"])
        .arg(folder.join(file))
        .arg("--out")
        .arg(folder.join("out"))
        .output()
        .unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{file}: {said}");
    assert!(stdout.is_empty() && !said.contains("panicked"), "{said}");
    assert!(!folder.join("out").exists(), "{file} touched the disk");
    said
}

/// A file with this text is refused, with all of `words`.
fn check_refused(text: impl AsRef<[u8]>, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("feeds.toml"), text).unwrap();
    let said = refused(dir.path(), "feeds.toml");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

/// The manual's example, with servers for its venues.
#[test]
fn the_example_of_the_manual() {
    let subscription = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}"#;
    let trades =
        accept().expect_text(subscription).text("trade").answer_until_close(&[("ping", "pong")]);
    let depth = script().respond("200 OK", &[], r#"{"bids":[]}"#).again();
    let run = Run::new()
        .beside(Server::start(Scheme::Ws, [trades]))
        .beside(Server::start(Scheme::Ws, [depth]));
    fs::write(run.path("venue-token"), "s3cret-cred\n").unwrap();
    let credentials = run.path("").display().to_string();
    let run = run
        .env("CREDENTIALS_DIRECTORY", &credentials)
        .feeds_file(
            r#"
            rotate-every = "1h"

            [defaults]
            stale-after = "60s"

            [feed.btc-trades]
            url = "{URL0}"
            subscribe = ['{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}']
            headers = { Authorization = "Bearer ${cred:venue-token}" }
            heartbeat = { every = "15s", send = "ping" }

            [feed.btc-depth]                       # an http(s) URL is polled
            url = "{HTTP1}?symbol=BTCUSDT&limit=1000"
            every = "1m"
            on = { feed = "btc-trades", events = ["connected", "gap"] }
            "#,
        )
        .start();
    run.on_tape_of("btc-trades", " trade");
    run.on_tape_of("btc-depth", r#" {"bids":[]}"#);
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    run.verify(0);
    let asked = &run.server().requests()[0];
    assert_eq!(asked.header("authorization"), ["Bearer s3cret-cred"]);
    assert_eq!(run.servers()[1].requests()[0].path, "/depth?symbol=BTCUSDT&limit=1000");
    assert!(!run.stderr().contains("s3cret"), "{}", run.stderr());
}

#[test]
fn secrets_stay_where_they_are() {
    let script = accept().expect_text("login s3cret-var s3cret-file").text("in").expect_bye();
    let run = Run::new().beside(Server::start(Scheme::Ws, [script]));
    fs::write(run.path("token"), "s3cret-file\r\n").unwrap();
    fs::write(run.path("cred"), "s3cret-cred").unwrap();
    let text = r#"
        [feed.f]
        url = "{URL0}?key=${TOKEN}&cred=${cred:cred}"
        headers = { X-Key = "${file:FOLDER/token}" }
        subscribe = "login ${TOKEN} ${file:FOLDER/token}"
        heartbeat = { every = "1h", send = "${TOKEN}" }
    "#;
    let folder = run.path("").display().to_string();
    let run = run
        .env("TOKEN", "s3cret-var")
        .env("CREDENTIALS_DIRECTORY", &folder)
        .feeds_file(&text.replace("FOLDER", folder.trim_end_matches('/')))
        .args("-vv")
        .start();
    run.on_tape(" in");
    let seen = run.command_line_seen();
    assert!(seen.contains("record") && !seen.contains("s3cret"), "{seen}");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    let asked = &run.server().requests()[0];
    assert_eq!(asked.path, "/stream?key=s3cret-var&cred=s3cret-cred");
    assert_eq!(asked.header("x-key"), ["s3cret-file"]);
    assert!(!run.stderr().contains("s3cret"), "{}", run.stderr());
    for file in &run.tape().files {
        let bytes = fs::read(&file.path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("s3cret"), "{}", file.name);
    }
    assert_eq!(run.tape().events("sent")[0]["text"], "login *** ***");
}

#[test]
fn all_mistakes_at_once() {
    check_refused(
        r#"
rotate-evry = "1h"
[defaults]
stale-after = "soon"
level = 3
[feed.a]
url = "wss://h/?k=${NO_SUCH_VARIABLE}"
max-message = "9GiB"
[feed.b]
url = "http//h/"
subscribe-file = "nowhere.txt"
[feed.c]
url = "ws://h/"
refuse-then = "panic"
every = "1m"
"#,
        &[
            "feeds.toml:2: rotate-evry: is no option; did you mean 'rotate-every'?",
            "feeds.toml:4: [defaults] stale-after: 'soon' is not a time span",
            "feeds.toml:5: [defaults] level: belongs at the top of the file",
            "feeds.toml:7: [feed.a] url: '${NO_SUCH_VARIABLE}'",
            "feeds.toml:8: [feed.a] max-message '9GiB': must be from 1KiB to 256MiB",
            "feeds.toml:10: [feed.b] url: 'http//h/'",
            "feeds.toml:11: [feed.b] subscribe-file",
            "nowhere.txt': No such file",
            "feeds.toml:14: [feed.c] refuse-then 'panic': must be log, retry or stop",
            "feeds.toml:15: [feed.c] every: is for feeds that are polled",
        ],
    );
}

#[test]
fn files_that_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    fs::create_dir(folder.join("folder")).unwrap();
    nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let large = fs::File::create(folder.join("large")).unwrap();
    large.set_len(17 << 20).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.join("device")).unwrap();
    fs::write(folder.join("latin"), b"out = 'x'\n# caf\xe9\n").unwrap();
    for (file, words) in [
        ("missing", "missing': No such file"),
        ("folder", "folder': it is a directory"),
        ("fifo", "fifo': it is a FIFO or device"),
        ("device", "device': it is a FIFO or device"),
        ("large", "large': it has 17825792 bytes, the limit is 16777216"),
        ("latin", "latin': line 2 is not UTF-8"),
    ] {
        let said = refused(folder, file);
        assert!(said.contains(words), "{file}: {said}");
    }
    // The same where a file is named in the file: none of them is waited for.
    for (file, words) in [("fifo", "a FIFO or device"), ("device", "a FIFO or device")] {
        let text = format!(
            "[feed.a]\nurl = 'ws://h/'\nsubscribe-file = '{file}'\n\
             headers = {{ A = '${{file:{}}}' }}\n",
            folder.join(file).display()
        );
        fs::write(folder.join("feeds.toml"), text).unwrap();
        let said = refused(folder, "feeds.toml");
        assert_eq!(said.matches(words).count(), 2, "{said}");
    }
}

#[test]
fn files_without_feeds_or_sense() {
    check_refused("", &["has no feed: add a [feed.NAME]"]);
    check_refused("out = \n[feed.a\n", &["feeds.toml:1: ", "feeds.toml:2: "]);
    check_refused("feed = 3\n", &["feeds.toml:1: feed: must be a table"]);
    check_refused("[feed.a]\nurl = 'ws://h/'\nurl = 'ws://g/'\n", &["feeds.toml:3: "]);
    check_refused("[feed.a]\nurl = 'ws://h/'\n[feed.A]\nurl = 'ws://h/'\n", &["[feed.A]"]);
}

/// As editors on Windows write it; paths are from the file's folder.
#[test]
fn byte_order_mark_line_ends_and_relative_paths() {
    let run = Run::new()
        .beside(Server::start(Scheme::Wss, [accept().expect_text("sub").text("x").expect_bye()]));
    fs::write(run.path("texts"), "\u{feff}sub\r\n\r\n").unwrap();
    let text = "\u{feff}[feed.f]\r\nurl = '{URL0}'\r\ncacert = 'ca.pem'\r\n\
                subscribe-file = ['texts']\r\n";
    let run = run.feeds_file(text).args("--max-messages 1").finish(0);
    assert_eq!(run.tape().messages().len(), 1);
}

/// What is typed goes before what is written; `out` too, and it is relative to the file.
#[test]
fn typed_options_go_first() {
    let serve = || Server::start(Scheme::Ws, [accept().text("x").text("y").expect_bye()]);
    let run = Run::new().beside(serve()).beside(serve()).feeds_file(
        "out = 'elsewhere'\nmax-messages = 1\ncompress = 'gzip'\n\
         [defaults]\nstale-after = '1m'\n[feed.w]\nurl = '{URL0}'\n",
    );
    let typed = format!("t={}", run.servers()[1].url("/stream"));
    let run = run.typed_feed(&typed).args("--max-messages 2").finish(0);
    assert!(!run.path("elsewhere").exists());
    assert_eq!(run.tape_of("w").messages().len(), 2);
    assert_eq!(run.tape_of("t").messages().len(), 2);
    assert!(run.tape_of("w").files[0].name.ends_with(".tape"), "--compress none was typed");

    let run = Run::new().beside(serve());
    run.write_feeds_file("out = 'here'\nmax-messages = 1\n[feed.w]\nurl = '{URL0}'\n");
    let file = run.path(super::program::FEEDS_FILE);
    let output = program().args(["record", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(run.path("here/feed=w").is_dir(), "{said}");
}

/// 500 symbols, 200 to a connection: three feeds, whose names and shares stay when one is added.
#[test]
fn symbols_over_connections() {
    let symbols = |n: usize| (0..n).map(|n| format!("'s{n:03}'")).collect::<Vec<_>>().join(",");
    let script = accept().take_texts(1).text("x").listen_until_close().again();
    let run = Run::new().beside(Server::start(Scheme::Ws, [script]));
    let text = format!(
        "[feed.all]\nurl = '{{URL0}}'\nper-connection = 200\nbatch-items = 100\n\
         symbols = [{}]\ntopics = '{{symbol:lower}}@trade'\nsubscribe = '[{{topics}}]'\n",
        symbols(500)
    );
    let run = run.feeds_file(&text).start();
    for feed in ["all-1", "all-2", "all-3"] {
        run.on_tape_of(feed, " x");
    }
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    for (feed, first, texts) in
        [("all-1", "s000@trade", 2), ("all-2", "s200@trade", 2), ("all-3", "s400@trade", 1)]
    {
        let tape = run.tape_of(feed);
        let sent = tape.events("sent");
        assert_eq!(sent.len(), texts, "{feed}");
        let text = sent[0]["text"].as_str().unwrap();
        assert!(text.starts_with(&format!("[\"{first}\"")), "{feed}: {text}");
        assert_eq!(text.matches("@trade").count(), 100, "{feed}");
    }
    assert!(!run.out().join("feed=all-4").exists() && !run.out().join("feed=all").exists());
}
