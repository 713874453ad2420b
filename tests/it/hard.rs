//! What operators and venues do to a recorder that runs: the folder moved away under it, large
//! messages on all feeds at once.

use nix::sys::signal::Signal;

use super::program::{Run, on_both};
use super::script::accept;
use super::server::{Scheme, Server};
use super::wire::Message;

/// It went on writing to a folder that nobody could find any more, and ended with 0.
#[test]
fn a_folder_that_was_moved_away_ends_it() {
    on_both(|scheme| {
        let script = |text| accept().text(text).expect_bye();
        let run = Run::serve(scheme, [script("one")]).start();
        run.on_tape("one");
        let moved = run.path("moved");
        std::fs::rename(run.out(), &moved).unwrap();
        let run = run.finish(1);
        let stderr = run.stderr();
        assert!(stderr.contains("the folder was moved or deleted"), "{stderr}");
        // Put back, it goes on, and what was recorded until then is there.
        std::fs::rename(&moved, run.out()).unwrap();
        let run = run.serve_again(scheme, [script("two")]).start();
        run.on_tape("two");
        run.signal(Signal::SIGTERM);
        let run = run.finish(0);
        assert_eq!(run.tape().messages(), ["one", "two"].map(Message::text));
    });
}

/// Messages larger than a block share one permit. With `--on-stall drop` a feed that found it taken
/// for a moment dropped its message, on a disk that had nothing to do.
#[test]
fn large_messages_of_several_feeds_are_no_stall() {
    let large: Vec<Message> =
        (0..30).map(|n| Message::text(format!("{n} {}", "x".repeat(100_000)))).collect();
    let script =
        || accept().mark("connected").wait_for("go").messages(&large).text("last").expect_bye();
    let feeds = ["a", "b", "c"];
    let mut run = Run::new();
    for feed in feeds {
        run = run.feed(feed, Server::start(Scheme::Ws, [script()]));
    }
    let run = run.args("--on-stall drop").start();
    for server in run.servers() {
        server.reached("connected");
    }
    for server in run.servers() {
        server.go("go");
    }
    for feed in feeds {
        run.on_tape_of(feed, "last");
    }
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    for feed in feeds {
        assert_eq!(run.tape_of(feed).messages().len(), large.len() + 1, "{feed}");
    }
}
