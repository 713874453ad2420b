//! The recorder's own tape: what is on it, who sees it, and what is made of it.

use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::{FEED, Run, eventually, output};
use super::script::accept;
use super::server::{Scheme, Server};
use super::tape::Tape;
use super::wire::Message;

/// The recorder's own feed.
const OWN: &str = "_feedtape";
/// So long a clean recorder runs under load before it is judged.
const LOAD: Duration = Duration::from_secs(5);

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn history(run: &Run, more: &[&str]) -> Output {
    let out = run.out();
    output(&[&["mem", "--history", out.to_str().unwrap()], more].concat())
}

fn lines_of(run: &Run) -> Vec<Value> {
    let tape = Tape::peek(&run.out(), OWN);
    let texts = tape.iter().filter(|line| line.as_bytes().get(19) == Some(&b' '));
    texts.map(|line| serde_json::from_str(&line[20..]).unwrap()).collect()
}

#[test]
fn a_clean_recorder_records_itself_and_is_not_accused() {
    let sent: Vec<Message> = (0..50_000).map(|n| Message::text(format!("n{n:0100}"))).collect();
    let run = Run::serve(Scheme::Ws, [accept().messages(&sent).expect_bye()])
        .args("--self-every 100ms")
        .start();
    run.on_tape(&format!("n{:0100}", 49_999));
    let begun = Instant::now();
    eventually("some seconds of load", || (begun.elapsed() > LOAD).then_some(()));
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);

    let own = lines_of(&run);
    assert!(own.len() >= 10, "{}", own.len());
    let (first, last) = (&own[0], own.last().unwrap());
    assert_eq!(
        (first["pid"].clone(), first["started"].clone()),
        (last["pid"].clone(), last["started"].clone())
    );
    assert_eq!(last["messages"], run.tape().messages().len() as u64, "it comes after all feeds");
    assert_eq!((last["feeds"].as_u64(), last["gaps"].as_u64()), (Some(1), Some(0)));
    assert!(own.iter().any(|line| line["feeds_live"] == 1));
    assert!(own.iter().all(|line| line["memory"]["rss_bytes"].as_u64() > Some(1 << 20)));
    let outline = run.tape_of(OWN).outline();
    let events = outline.iter().filter(|line| !line.starts_with("text "));
    assert_eq!(events.collect::<Vec<_>>(), ["segment 0", "end"], "nothing but its lines");
    assert!(!run.stderr().contains(OWN), "no talk of it: {}", run.stderr());
    run.verify(0);

    let out = run.out();
    let out = out.to_str().unwrap();
    let (all, own) =
        (text(&output(&["cat", out])).0, text(&output(&["cat", out, "--feed", OWN])).0);
    assert!(!all.contains(OWN) && all.contains("n00"));
    assert!(own.contains("\"uptime_ms\"") && !own.contains("n00"));
    assert_eq!(own, text(&output(&["cat", &format!("{out}/feed={OWN}")])).0);
    assert!(text(&output(&["info", out])).0.contains(OWN), "what takes room is shown");
    let wrong = output(&["cat", out, "--feed", "x"]);
    assert_eq!(wrong.status.code(), Some(1));

    let (shown, said) = text(&history(&run, &[]));
    assert!(shown.contains("heap in use: ") && shown.contains("verdict on the last run: still"));
    assert!(said.is_empty() && shown.is_ascii(), "{said}{shown}");
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
    let json: Value = serde_json::from_str(&text(&history(&run, &["--json"])).0).unwrap();
    assert_eq!((&json["verdict"], json["runs"].as_u64()), (&Value::from("warming up"), Some(1)));
}

/// A restart begins another run, whose figures are judged alone.
#[test]
fn runs_are_told_apart() {
    let scripts = [accept().text("one").expect_bye()];
    let run = Run::serve(Scheme::Ws, scripts.clone()).args("--self-every 100ms").start();
    run.on_tape("one");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0).serve_again(Scheme::Ws, scripts).args("--max-messages 1").finish(0);
    let json: Value = serde_json::from_str(&text(&history(&run, &["--json"])).0).unwrap();
    assert_eq!(json["runs"], 2);
    let own = lines_of(&run);
    assert_eq!(json["run"]["started"], own.last().unwrap()["started"]);
    let none = history(&run, &["--to", "2026-01-01T00:00:00Z"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).1.contains("no figures of that time"), "{none:?}");
    run.verify(0);
}

#[test]
fn without_it_there_is_no_history() {
    let run = Run::new()
        .feed(FEED, Server::start(Scheme::Ws, [accept().text("one").expect_bye()]))
        .args("--self-every 0 --max-messages 1")
        .finish(0);
    assert!(!run.out().join(format!("feed={OWN}")).exists());
    let none = history(&run, &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).1.contains("--self-every"), "{none:?}");
    let wrong = history(&run, &["--from", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
