//! Options as they are typed and written.

use super::*;
use crate::feed::FeedOptions;

#[derive(Debug, clap::Parser)]
struct Typed {
    #[command(flatten)]
    record: RecordArgs,
}

pub(super) fn check(typed: &str) -> Result<RecorderOptions, Vec<String>> {
    let words = ["feedtape", "--out", "tapes"].into_iter().chain(typed.split_whitespace());
    checked(words.collect())
}

/// The n-th feed, which is no poll.
pub(super) fn stream(options: &RecorderOptions, n: usize) -> &FeedOptions {
    match &options.feeds[n] {
        FeedPlan::Stream(feed) => feed,
        FeedPlan::Poll(poll) => panic!("{} is polled", poll.name),
    }
}

#[test]
fn names_are_given_or_derived_and_unique() {
    let names = |typed: &str| -> Vec<String> {
        check(typed).unwrap().feeds.iter().map(|feed| feed.name().to_string()).collect()
    };
    assert_eq!(names("btc=ws://h/x?a=b"), ["btc"]);
    assert_eq!(names("ws://h/x?key=secret"), ["h-x"]);
    assert_eq!(names("ws://h:81/ wss://h/"), ["h-81", "h"]);
    assert_eq!(names("ws://h/ ws://h/ h-2=ws://h/"), ["h", "h-3", "h-2"]);
    let long = format!("ws://h/{}", "x".repeat(200));
    let names = names(&format!("{long} {long}"));
    assert_eq!(names[0].len(), 64);
    assert!(names[1].ends_with("-2") && names[1].len() <= 64, "{names:?}");
}

#[test]
fn all_mistakes_are_found_at_once_and_quoted() {
    let mistakes = check(
        "a=ws://h/ a=ws://h/ Bad=ws://h/ http://h/ _own=ws://h/ --rotate-every 7h \
         --rotate-bytes 1KiB --compress lzma --flush-every 0 --fsync sometimes \
         --queue-bytes lots --on-stall panic --clock gps --max-messages 0 \
         --backoff-min 10s --backoff-max 1s --max-message 1GiB --subprotocol a,b \
         --header nocolon --subscribe-file /does/not/exist --cert /does/not/exist",
    )
    .unwrap_err();
    for quoted in [
        "'a'",
        "'Bad'",
        "'http://h/'",
        "'_own'",
        "'7h'",
        "'1KiB'",
        "'lzma'",
        "'0'",
        "'sometimes'",
        "'lots'",
        "'panic'",
        "'gps'",
        "'1s'",
        "'1GiB'",
        "'a,b'",
        "--header",
        "'/does/not/exist'",
        "--cert '/does/not/exist': needs --key",
    ] {
        assert!(mistakes.iter().any(|m| m.contains(quoted)), "{quoted}: {mistakes:#?}");
    }
    assert!(!mistakes.iter().any(|m| m.contains("nocolon")), "it may be a secret");
}

/// `--admin-allow-remote` alone was taken in silence, the token file alone was not.
#[test]
fn options_of_the_endpoint_are_for_where_there_is_one() {
    for option in ["--admin-allow-remote", "--admin-token-file /nowhere"] {
        let mistakes = check(&format!("ws://h/ {option}")).unwrap_err();
        let name = option.split(' ').next().unwrap();
        assert_eq!(mistakes, [format!("{name}: is for --admin, which is not given")]);
    }
    let off = "admin-allow-remote = false\n[feed.a]\nurl = 'ws://h/'\n";
    assert!(check_file(off, "--out o").is_ok());
}

#[test]
fn defaults_are_those_of_the_manual() {
    let options = check("ws://h/").unwrap();
    let feed = stream(&options, 0);
    assert_eq!(options.rotation.every, Duration::from_secs(3600));
    assert_eq!(options.compression, Compression::Zstd { level: 3 });
    assert_eq!(options.fsync, FsyncPolicy::Every(Duration::from_secs(1)));
    assert_eq!(feed.rules.stale_after, Duration::from_secs(300));
    assert_eq!(feed.target.max_message, 16 << 20);
    let off = check("ws://h/ --ping-every 0 --stale-after 0 --min-free 0").unwrap();
    assert!(stream(&off, 0).rules.ping_every.is_zero());
}

/// What a file with this text makes, with what was typed beside it.
pub(super) fn check_file(text: &str, typed: &str) -> Result<RecorderOptions, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("feeds.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let words: Vec<&str> =
        ["feedtape", "--config", &path].into_iter().chain(typed.split_whitespace()).collect();
    let folder = format!("{}/", dir.path().display());
    let strip = |mistakes: Vec<String>| mistakes.iter().map(|m| m.replace(&folder, "")).collect();
    checked(words).map_err(strip)
}

/// A file with this text has mistakes, with all of `words`.
pub(super) fn told(text: &str, words: &[&str]) {
    let mistakes = check_file(text, "").err().unwrap_or_default();
    for word in words {
        let is_told = mistakes.iter().any(|mistake| mistake.contains(word));
        assert!(is_told, "'{word}' is not in {mistakes:#?} of:\n{text}");
    }
}

fn checked(words: Vec<&str>) -> Result<RecorderOptions, Vec<String>> {
    let matches = <Typed as clap::CommandFactory>::command().try_get_matches_from(words).unwrap();
    let mut record = <Typed as clap::FromArgMatches>::from_arg_matches(&matches).unwrap().record;
    record.note_typed(&matches);
    record.check()
}

#[test]
fn a_file_has_defaults_and_feeds_and_what_is_typed_goes_before() {
    let text = r#"
        out = "/var/lib/feedtape"
        rotate-every = "15m"
        level = 7

        [defaults]
        stale-after = "60s"
        headers = { X-A = "1", X-B = "2" }
        insecure = true
        heartbeat = { every = "15s", send = "ping", answer = "pong" }

        [feed.zebra]
        url = "wss://h/ws"
        subscribe = ["a", "b"]

        [feed.ape]
        url = "wss://h/x"
        stale-after = "5s"
        insecure = false
        subscribe = 'c'
        reply = [{ match = "/ping", send = '{"pong":{/ping}}' }]
        ack.match = "/result=null"
    "#;
    let options = check_file(text, "--rotate-every 1h typed=ws://t/ --stale-after 9s").unwrap();
    assert_eq!(options.out, PathBuf::from("/var/lib/feedtape"));
    assert_eq!(options.rotation.every, Duration::from_secs(3600), "typed");
    assert_eq!(options.compression, Compression::Zstd { level: 7 });
    let [typed, zebra, ape] = [0, 1, 2].map(|n| stream(&options, n));
    assert_eq!([typed, zebra, ape].map(|f| f.name.as_str()), ["typed", "zebra", "ape"]);
    assert_eq!(
        [typed, zebra, ape].map(|f| f.rules.stale_after.as_secs()),
        [9, 60, 5],
        "options typed are for feeds typed"
    );
    assert_eq!(*zebra.subscriptions, [Text::plain("a"), Text::plain("b")]);
    assert_eq!(zebra.target.headers.len(), 2);
    assert_eq!(zebra.heartbeat, Some(Text::plain("ping")));
    assert_eq!(zebra.rules.heartbeat_every, Duration::from_secs(15));
    assert!(zebra.target.route.tls.insecure && !ape.target.route.tls.insecure);
    assert_eq!((ape.rules.acks, ape.matchers.replies.len()), (1, 1));
    assert_eq!(zebra.rules.acks, 0);
}

/// A certificate for all of 64 feeds: the system's store was loaded for each of them, which took
/// 9 s at the start, and at each reload on the main thread.
#[test]
fn feeds_with_the_same_tls_options_are_checked_with_one_connector() {
    use crate::feed::tls::BUILT;
    let text = r#"
        [defaults]
        insecure = true
        [feed.a]
        url = "wss://h/a"
        [feed.b]
        url = "wss://h/b"
        [feed.c]
        url = "https://h/c"
        every = "1m"
    "#;
    let before = BUILT.get();
    assert_eq!(check_file(text, "--out o").unwrap().feeds.len(), 3);
    assert_eq!(BUILT.get() - before, 1);
}

#[test]
fn all_mistakes_of_a_file_are_told_with_lines() {
    let text = r#"out = "o"
stale_after = "1s"
rotate-evry = "1h"
min-free = 1.5
[defaults]
stale-after = "soon"
out = "x"
heartbeat = { evry = "1s" }
[feed.a]
url = "ws://h/"
subscribe = [1, 2]
max-message = "9GiB"
insecure = "yes"
[feed.b]
url = "http//h/"
[feed.c]
symbols = ["x"]
[feed.Bad]
url = "ws://h/"
[feed]
d = 1
"#;
    let mistakes = check_file(text, "").unwrap_err();
    expect_test::expect![[r#"
        feeds.toml:2: stale_after: is no option; did you mean 'stale-after'? It belongs under [d
        feeds.toml:3: rotate-evry: is no option; did you mean 'rotate-every'?
        feeds.toml:4: min-free: must be a text, as in "10s", or a whole number
        feeds.toml:7: [defaults] out: belongs at the top of the file: it is for the recorder
        feeds.toml:8: [defaults] heartbeat-evry: is no option; did you mean 'heartbeat-every'?
        feeds.toml:13: [feed.a] insecure: must be true or false
        feeds.toml:16: [feed.c] has no url
        feeds.toml:21: [feed] d: must be a table: [feed.NAME] with its options below
        feeds.toml:12: [feed.a] max-message '9GiB': must be from 1KiB to 256MiB
        feeds.toml:6: [defaults] stale-after: 'soon' is not a time span: write a number and a un
        feeds.toml:15: [feed.b] url: 'http//h/' is not the URL of a feed: it has no scheme; writ
        feeds.toml:19: [feed.Bad] url: 'Bad' can't name a feed: use up to 64 of a-z 0-9 . _ - an
    "#]]
    .assert_eq(&brief(&mistakes));
}

/// Lines that fit the page.
fn brief(mistakes: &[String]) -> String {
    mistakes.iter().map(|mistake| mistake.chars().take(88).collect::<String>() + "\n").collect()
}

#[test]
fn broken_toml_is_told_with_lines() {
    let mistakes = check_file("out = \n[feed.a\nurl = 'x'\nurl = 'y'\n", "").unwrap_err();
    assert!(mistakes.iter().all(|m| m.starts_with("feeds.toml:")), "{mistakes:?}");
    assert!(mistakes.len() >= 2, "{mistakes:?}");
}

/// They stood there without file, line or feed.
#[test]
fn mistakes_of_tls_and_polls_have_lines() {
    let feed = |lines: &str| format!("out = 'o'\n[feed.a]\nurl = 'wss://x/'\n{lines}");
    told(&feed("key = '/k'"), &["feeds.toml:4: [feed.a] key '/k': needs --cert with its cert"]);
    told(&feed("cert = '/k'"), &["feeds.toml:4: [feed.a] cert '/k': needs --key with its priv"]);
    told(&feed("cacert = '/dev/null'"), &["4: [feed.a] cacert '/dev/null': no certificate in PEM"]);
    told(&feed("cacert = '/nowhere'"), &["4: [feed.a] cacert '/nowhere': No such file"]);
    let poll = "out = 'o'\n[feed.b]\nurl = 'http://x/'";
    told(poll, &["feeds.toml:3: [feed.b] url 'http://x/': is polled, and needs --every"]);
    let split = "url = 'ws://x/{symbol}'\nsymbols = ['b']\nper-connection = 1";
    let both = format!("out = 'o'\n[feed.a-b]\nurl = 'ws://x/'\n[feed.a]\n{split}");
    told(&both, &["7: [feed.a] per-connection: there is a feed named 'a-b' already"]);
}

/// None of these was understood, or it was taken for something else.
#[test]
fn slips_of_the_file_are_named() {
    let feed = |lines: &str| format!("out = 'o'\n[feed.a]\n{lines}");
    for slip in ["ulr", "ur", "URL", "urll"] {
        let url = format!("feeds.toml:3: [feed.a] {slip}: is no option; did you mean 'url'?");
        told(&feed(&format!("{slip} = 'ws://x/'")), &[&url]);
    }
    for slip in ["feeds", "fed", "Feed", "efed"] {
        let text = format!("out = 'o'\n[{slip}.a]\nurl = 'ws://x/'");
        told(&text, &[&format!("2: {slip}: is no table of options; did you mean [feed.NAME]?")]);
    }
    for slip in ["default", "defualts"] {
        let text = format!("[{slip}]\nstale-after = '1s'\n{}", feed("url = 'ws://x/'"));
        told(&text, &[&format!("1: {slip}: is no table of options; did you mean [defaults]?")]);
    }
    told("url = 'ws://x/'", &["feeds.toml:1: url: belongs under [feed.NAME]"]);
    told("[defaults]\nurl = 'ws://x/'", &["2: [defaults] url: belongs under [feed.NAME]"]);
    let on = "4: [feed.a] on: must be a table: on = { events = .., feed = .. }, or parts of it";
    told(&feed("url = 'http://x/'\non = 'x'"), &[on]);
    told(&feed("url = 'ws://x/'\nping = '5s'"), &["ping: must be a table: ping = { every = .. }"]);
    told(&feed("url = 'ws://x/'\nkye = 'x'"), &["kye: is no option; did you mean 'key'?"]);
    told(&feed("url = 'ws://x/'\nurl = 'ws://y/'"), &["feeds.toml:4: ", " 'url'"]);
}

/// The manual's example is one that works.
#[test]
fn the_file_in_the_readme_is_right() {
    let readme = include_str!("../../README.md");
    let (_, example) = readme.split_once("```toml\n").expect("an example in TOML");
    let (example, _) = example.split_once("```").expect("its end");
    let options = check_file(&example.replace("${cred:venue-token}", "token"), "").unwrap();
    let names: Vec<&str> = options.feeds.iter().map(|plan| plan.name().as_str()).collect();
    assert_eq!(names, ["trades-1", "book"]);
    let trades = stream(&options, 0);
    let topics = r#""btcusdt@trade","ethusdt@trade","solusdt@trade""#;
    let text = format!(r#"{{"method":"SUBSCRIBE","params":[{topics}],"id":1}}"#);
    assert_eq!(*trades.subscriptions, [Text::plain(&text)]);
    assert_eq!(trades.keys.as_ref().unwrap().expect, ["BTCUSDT", "ETHUSDT", "SOLUSDT"]);
}

/// Each part of a split feed has polls that listen to it; those of its symbols, and no others.
#[test]
fn polls_listen_to_the_parts_that_have_their_symbols() {
    let text = |heard: &str, symbols: &str| {
        format!(
            r#"
            out = "o"
            [feed.book]
            url = "wss://h/"
            symbols = ["a", "b", "c", "d"]
            topics = ["{{symbol}}@x", "{{symbol}}@y"]
            subscribe = "{{topics}}"
            per-connection = 3
            [feed.depth]
            url = "https://h/{{symbol}}"
            symbols = [{symbols}]
            per-connection = 1
            on = {{ feed = "{heard}" }}
            [feed.all]
            url = "https://h/"
            on.feed = "{heard}"
            "#
        )
    };
    let options = check_file(&text("book", r#""a", "b", "c""#), "").unwrap();
    let listening = options.feeds.iter().filter_map(|plan| match plan {
        FeedPlan::Poll(poll) => {
            let names = &poll.on.as_ref().unwrap().0;
            let names: Vec<&str> = names.iter().map(FeedName::as_str).collect();
            Some(format!("{}: {}", poll.name, names.join(" ")))
        }
        FeedPlan::Stream(_) => None,
    });
    assert_eq!(
        listening.collect::<Vec<_>>(),
        [
            "depth-a: book-1",
            "depth-b: book-1 book-2",
            "depth-c: book-2",
            "all: book-1 book-2 book-3"
        ]
    );
    let part = check_file(&text("book-3", r#""d""#), "").unwrap();
    assert_eq!(part.feeds.len(), 5);
    let mistakes = check_file(&text("book", r#""e""#), "").unwrap_err();
    let says = "on-feed 'book': is split, and no part of it has 'e'";
    assert!(mistakes.len() == 1 && mistakes[0].ends_with(says), "{mistakes:?}");
}
