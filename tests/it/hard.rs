//! What operators do to a recorder that runs: the folder moved away under it.

use nix::sys::signal::Signal;

use super::program::{Run, on_both};
use super::script::accept;
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
