//! SIGHUP: feeds come, change and go while others are recorded.

use nix::sys::signal::Signal;

use super::program::{Run, eventually};
use super::script::{Script, accept, script};
use super::server::{Scheme, Server};
use super::tape::Tape;
use super::wire::Message;

const DEFAULTS: &str = "[defaults]\nbackoff-min = '10ms'\nbackoff-max = '50ms'\n";

/// Reads the file again, and waits for what comes of it.
fn reload(run: &Run, text: &str, said: &str) {
    let times = run.stderr().matches(said).count() + 1;
    run.write_feeds_file(&format!("{DEFAULTS}{text}"));
    run.signal(Signal::SIGHUP);
    run.said_times(said, times);
}

fn start(run: Run, text: &str) -> Run {
    run.feeds_file(&format!("{DEFAULTS}{text}")).start()
}

fn stop(run: Run) -> Run {
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    run.verify(0);
    run
}

fn serve(script: Script) -> Server {
    Server::start(Scheme::Ws, [script.again()])
}

fn counting(name: &str) -> Server {
    serve(accept().count_until_close(name))
}

/// Waits until the tape has so many messages.
fn has_messages(run: &Run, feed: &str, count: usize) {
    eventually(&format!("{count} messages of {feed}"), || {
        let lines = Tape::peek(&run.out(), feed);
        let messages = lines.iter().filter(|line| line.as_bytes().get(19) == Some(&b' '));
        (messages.count() >= count).then_some(())
    });
}

fn conns(tape: &Tape, event: &str) -> Vec<u64> {
    tape.events(event).iter().map(|event| event["conn"].as_u64().unwrap()).collect()
}

/// Messages of one connection count from 1 with none missing.
fn check_whole(tape: &Tape, name: &str) {
    let messages = tape.messages();
    for (n, message) in messages.iter().enumerate() {
        assert_eq!(*message, Message::text(format!("{name} {}", n + 1)));
    }
}

#[test]
fn one_removed_one_changed_one_added_one_as_it_was() {
    let run = Run::new()
        .beside(counting("keep"))
        .beside(counting("gone"))
        .beside(counting("new"))
        .beside(counting("other"));
    let keep = "[feed.keep]\nurl = '{URL0}'\n";
    let run = start(
        run,
        &format!("{keep}[feed.gone]\nurl = '{{URL1}}'\n[feed.other]\nurl = '{{URL3}}'\n"),
    );
    for feed in ["keep", "gone", "other"] {
        has_messages(&run, feed, 5);
    }
    reload(
        &run,
        &format!(
            "{keep}[feed.other]\nurl = '{{URL3}}?v=2'\nheaders = {{ X-New = 'yes' }}\n\
             [feed.new]\nurl = '{{URL2}}'\n"
        ),
        "reloaded: 1 feeds added, 1 removed, 1 changed, 1 as they were",
    );
    run.on_tape_of("other", "\"connected\",\"conn\":2");
    has_messages(&run, "new", 5);
    let so_far = Tape::peek(&run.out(), "keep").len();
    has_messages(&run, "keep", so_far + 5);
    let run = stop(run);

    let keep = run.tape_of("keep");
    assert_eq!((conns(&keep, "connected"), keep.events("gap").len()), (vec![1], 0));
    check_whole(&keep, "keep");
    let gone = run.tape_of("gone");
    assert_eq!(gone.events("disconnected")[0]["reason"], "stopped");
    assert_eq!(gone.outline().last().unwrap(), "end");
    check_whole(&gone, "gone");
    let other = run.tape_of("other");
    assert_eq!(other.events("disconnected")[0]["reason"], "its options changed");
    assert_eq!((conns(&other, "connected"), other.events("gap").len()), (vec![1, 2], 1));
    let asked = run.servers()[3].requests();
    assert_eq!((asked.len(), asked[1].path.as_str()), (2, "/stream?v=2"));
    assert_eq!(asked[1].header("x-new"), ["yes"]);
    check_whole(&run.tape_of("new"), "new");
}

/// Its segments and indices go on where they ended, and so do its connections; what it missed is a
/// gap, which it was not: the tape looked as if nothing had been missed.
#[test]
fn a_feed_that_comes_again_goes_on() {
    let run = Run::new().beside(counting("keep")).beside(counting("again"));
    let keep = "[feed.keep]\nurl = '{URL0}'\n";
    let both = format!("{keep}[feed.again]\nurl = '{{URL1}}'\n");
    let run = start(run, &both);
    has_messages(&run, "again", 3);
    reload(&run, keep, "reloaded: 0 feeds added, 1 removed, 0 changed, 1 as they were");
    run.on_tape_of("again", "\"reason\":\"stopped\"");
    reload(&run, &both, "reloaded: 1 feeds added, 0 removed, 0 changed, 1 as they were");
    run.on_tape_of("again", "\"connected\",\"conn\":2");
    run.on_tape_of("again", "\"reason\":\"restart\"");
    let run = stop(run);
    // Reading it checks that segments and indices go on.
    let tape = run.tape_of("again");
    assert_eq!(tape.files.len(), 2);
    assert_eq!(conns(&tape, "connected"), [1, 2]);
    let gaps = tape.events("gap");
    assert_eq!((gaps.len(), &gaps[0]["reason"]), (1, &"restart".into()));
    let first_ends = tape.events("disconnected")[0]["at"].as_u64().unwrap();
    assert!(gaps[0]["from_ts"].as_u64().unwrap() <= first_ends, "{} {first_ends}", gaps[0]);
}

#[test]
fn mistakes_change_nothing() {
    let run = Run::new().beside(counting("f")).beside(counting("g"));
    let good = "[feed.f]\nurl = '{URL0}'\n";
    let run = start(run, good);
    has_messages(&run, "f", 3);
    let not = "not reloaded, all goes on as it was: ";
    reload(&run, "[feed.f]\nurl = 'nonsense'\nbogus = 1\nstale-after = 'soon'\n", not);
    let said = run.stderr();
    for word in ["[feed.f] url: 'nonsense'", "[feed.f] bogus", "'soon'", "3 mistakes"] {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    reload(&run, "[feed.f\n", not);
    std::fs::remove_file(run.path(super::program::FEEDS_FILE)).unwrap();
    run.signal(Signal::SIGHUP);
    run.said("feeds.toml': No such file");
    let next = format!("{good}[feed.g]\nurl = '{{URL1}}'\n");
    reload(&run, &next, "reloaded: 1 feeds added, 0 removed, 0 changed, 1 as they were");
    has_messages(&run, "g", 3);
    let run = stop(run);
    check_whole(&run.tape_of("f"), "f");
}

/// A feed that waits before it connects again does so at once when its options change.
#[test]
fn while_a_feed_waits_to_connect_again() {
    let refusing = script().refuse("404 Not Found", &["Retry-After: 3600"]);
    let run = Run::new()
        .beside(Server::start(Scheme::Ws, [refusing, accept().text("x").listen_until_close()]));
    let run = start(run, "[feed.f]\nurl = '{URL0}'\nbackoff-max = '1h'\nbackoff-min = '1h'\n");
    run.said("; next attempt in ");
    reload(&run, "[feed.f]\nurl = '{URL0}'\n", "0 removed, 1 changed");
    run.on_tape_of("f", " x");
    stop(run);
}

/// A server that takes the connection and says nothing does not hold the change up.
#[test]
fn while_a_feed_connects_to_a_stalled_server() {
    let run = Run::new().beside(serve(script().stall())).beside(counting("f"));
    let run = start(run, "[feed.f]\nurl = '{URL0}'\nconnect-timeout = '5m'\n");
    run.server().reached("silence");
    reload(&run, "[feed.f]\nurl = '{URL1}'\n", "0 removed, 1 changed");
    has_messages(&run, "f", 3);
    let run = stop(run);
    let tape = run.tape_of("f");
    assert_eq!(tape.events("disconnected")[0]["reason"], "its options changed");
    check_whole(&tape, "f");
}

/// Many in a row: the last one counts, and the other feed does not notice. A reload does not wait
/// for the close handshake of the one before it, so that the server is left at any step.
#[test]
fn many_in_a_row() {
    let left = serve(accept().count_until_close("f").may_be_left());
    let run = Run::new().beside(counting("keep")).beside(left);
    let text = |n: usize| match n % 3 {
        0 => "[feed.keep]\nurl = '{URL0}'\n".to_string(),
        _ => format!(
            "[feed.keep]\nurl = '{{URL0}}'\n[feed.f]\nurl = '{{URL1}}'\nstale-after = '{n}m'\n"
        ),
    };
    let run = start(run, &text(1));
    has_messages(&run, "f", 1);
    for n in 2..=10 {
        reload(&run, &text(n), "reloaded: ");
    }
    for _ in 0..20 {
        run.signal(Signal::SIGHUP);
    }
    let lines = Tape::peek(&run.out(), "f").len();
    has_messages(&run, "f", lines);
    let run = stop(run);
    check_whole(&run.tape_of("keep"), "keep");
    assert_eq!(conns(&run.tape_of("keep"), "connected"), [1]);
    let tape = run.tape_of("f");
    let connecting = conns(&tape, "connecting");
    assert!(connecting.is_sorted_by(|a, b| a < b), "{connecting:?}");
}

/// Memory is reserved at the start.
#[test]
fn too_many_new_feeds() {
    let run = Run::new().beside(counting("f"));
    let feed = "[feed.f]\nurl = '{URL0}'\n";
    let run = start(run, feed);
    has_messages(&run, "f", 3);
    let many: String = (0..66).map(|n| format!("[feed.n{n}]\nurl = '{{URL0}}'\n")).collect();
    reload(&run, &format!("{feed}{many}"), "66 new feeds are too many: memory is reserved for 66");
    has_messages(&run, "f", 10);
    let run = stop(run);
    check_whole(&run.tape_of("f"), "f");
    assert!(!run.out().join("feed=n0").exists());
}

#[test]
fn options_of_the_recorder_wait_for_the_next_start() {
    let run = Run::new().beside(counting("f"));
    let feed = "[feed.f]\nurl = '{URL0}'\n";
    let run = start(run, feed);
    has_messages(&run, "f", 3);
    run.write_feeds_file(&format!("rotate-every = '15m'\n{DEFAULTS}{feed}"));
    run.signal(Signal::SIGHUP);
    run.said("options of the recorder itself have changed too: they count from the next start");
    run.said("reloaded: 0 feeds added, 0 removed, 0 changed, 1 as they were");
    let run = stop(run);
    check_whole(&run.tape_of("f"), "f");
}

/// A feed that is polled ends and begins again with its new options.
#[test]
fn a_poll_changes() {
    let depth = script().respond("200 OK", &[], "depth").again();
    let run = Run::new().beside(Server::start(Scheme::Ws, [depth]));
    let run = start(run, "[feed.p]\nurl = '{HTTP0}'\nevery = '1h'\n");
    has_messages(&run, "p", 1);
    reload(&run, "[feed.p]\nurl = '{HTTP0}?v=2'\nevery = '1h'\n", "0 removed, 1 changed");
    has_messages(&run, "p", 2);
    let run = stop(run);
    let asked = run.server().requests();
    assert_eq!(asked.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(), ["/depth", "/depth?v=2"]);
}

/// A poll that listens to a feed which is connected already makes its snapshot at once. It waited
/// for the next connection, at a start too where the feed was connected before the poll's thread
/// was there.
#[test]
fn a_poll_that_listens_comes_later() {
    let depth = script().respond("200 OK", &[], "depth").again();
    let run = Run::new().beside(counting("f")).beside(Server::start(Scheme::Ws, [depth]));
    let feed = "[feed.f]\nurl = '{URL0}'\n";
    let run = start(run, feed);
    has_messages(&run, "f", 3);
    let poll = format!("{feed}[feed.p]\nurl = '{{HTTP1}}'\non = {{ feed = 'f' }}\n");
    reload(&run, &poll, "reloaded: 1 feeds added, 0 removed, 0 changed, 1 as they were");
    has_messages(&run, "p", 1);
    reload(&run, &poll, "reloaded: 0 feeds added, 0 removed, 0 changed, 2 as they were");
    let run = stop(run);
    assert_eq!(run.servers()[1].requests().len(), 1, "once for a connection");
    check_whole(&run.tape_of("f"), "f");
}

/// A feed that a venue refused is tried again with its new options.
#[test]
fn a_refused_feed_asks_for_something_else() {
    let refusing = accept().expect_text("bad").text("no").expect_bye();
    let other = accept().expect_text("good").text("x").listen_until_close();
    let run =
        Run::new().beside(Server::start(Scheme::Ws, [refusing, other])).beside(counting("keep"));
    let keep = "[feed.keep]\nurl = '{URL1}'\n";
    let feed = |subscribe: &str| {
        format!(
            "{keep}[feed.f]\nurl = '{{URL0}}'\nsubscribe = '{subscribe}'\n\
             refuse = {{ match = 'no', then = 'stop' }}\n"
        )
    };
    let run = start(run, &feed("bad"));
    run.said("f: ended: the venue refused it; change its options and reload");
    reload(&run, &feed("good"), "0 removed, 1 changed, 1 as they were");
    run.on_tape_of("f", " x");
    stop(run);
}
