//! The recorder's memory: what large messages take is given back.

use nix::sys::signal::Signal;

use super::program::{FEED, Run, eventually, on_both};
use super::script::accept;
use super::wire::Message;

/// Beside the large messages, what a run may come to need on the way.
const GROWTH_KIB_MAX: u64 = 1 << 10;

/// The read buffer grew to the largest message, and was used again as it was: one snapshot of
/// 20 MiB at the start kept 20 MiB for as long as the connection lived.
#[test]
fn large_messages_give_their_memory_back() {
    on_both(|scheme| {
        let large: Vec<Message> =
            (0..3).map(|n| Message::text(format!("{n} {}", "x".repeat(20 << 20)))).collect();
        // More than a read buffer: what came first of it may lie behind the last large message.
        let small: Vec<Message> =
            (0..200).map(|n| Message::text(format!("{n} {}", "y".repeat(300)))).collect();
        // Its pong tells that all before the ping was read; to look at the tape takes longer.
        let script = accept()
            .messages(&small)
            .ping_pong(b"1")
            .mark("small read")
            .wait_for("large")
            .messages(&large)
            .ping_pong(b"2")
            .mark("large read")
            .wait_for("small")
            .messages(&small)
            .ping_pong(b"3")
            .mark("all read")
            .expect_bye();
        let run = Run::serve(scheme, [script]).args("--max-message 32MiB").start();
        run.server().reached("small read");
        let before_kib = run.status_kib("RssAnon");
        let settles = |when: &str| {
            eventually(&format!("memory back {when}, from {before_kib} KiB"), || {
                let now_kib = run.status_kib("RssAnon");
                (now_kib <= before_kib + GROWTH_KIB_MAX).then_some(())
            });
        };
        run.server().go("large");
        run.server().reached("large read");
        settles("at once");
        run.server().go("small");
        run.server().reached("all read");
        settles("and the buffer too");
        let virtual_kib = run.status_kib("VmSize");
        assert!(virtual_kib < run.status_kib("VmPeak") - (20 << 10), "{virtual_kib} KiB");
        run.signal(Signal::SIGTERM);
        let run = run.finish(0);
        let messages = run.tape_of(FEED).messages();
        assert_eq!(messages.len(), 2 * small.len() + large.len());
        assert!(large.iter().eq(&messages[small.len()..][..large.len()]), "byte for byte");
    });
}
