//! Servers that break RFC 6455 are told so with the right close code; the feed goes on.

use nix::sys::signal::Signal;

use super::program::{Run, on_both};
use super::script::accept;
use super::wire::{self, BINARY, CLOSE, CONTINUATION, FIN, Message, PING, TEXT};

/// Sends `wire` between two messages, on two connections, and wants the connection failed with
/// `code` and for a reason that names one of `words`.
fn check(name: &'static str, wire: &[u8], code: u16, words: &[&str]) {
    on_both(|scheme| {
        let broken = accept().text("before").raw(name, wire.to_vec()).expect_close(code);
        let next = accept().text("after").expect_bye();
        let run = Run::serve(scheme, [broken, next]).args("--max-messages 2").finish(0);
        let tape = run.tape();
        assert_eq!(
            tape.outline(),
            [
                "segment 0",
                "connecting 1",
                "connected 1",
                "text \"before\"",
                &format!("disconnected 1 {code}"),
                "connecting 2",
                "connected 2",
                "gap reconnect",
                "text \"after\"",
                "disconnected 2 1000",
                "end",
            ],
            "{name}"
        );
        let reason = tape.events("disconnected")[0]["reason"].as_str().unwrap().to_lowercase();
        assert!(words.iter().any(|word| reason.contains(word)), "{name}: {reason}");
        assert_eq!(tape.events("gap")[0]["messages"], serde_json::Value::Null);
    });
}

#[test]
fn invalid_utf8() {
    check("invalid UTF-8", &wire::frame(FIN | TEXT, b"a\xff\xfeb"), 1007, &["utf-8"]);
}

#[test]
fn utf8_cut_off() {
    let pieces: [&[u8]; 2] = [b"ab", b"\xe2\x82"];
    check("half a character", &wire::fragments(TEXT, &pieces, b""), 1007, &["utf-8"]);
}

#[test]
fn masked_frame() {
    check("masked frame", &wire::masked_frame(FIN | TEXT, b"masked"), 1002, &["mask"]);
}

#[test]
fn reserved_bits() {
    for bit in [0x40, 0x20, 0x10] {
        check("reserved bit", &wire::frame(FIN | bit | TEXT, b"x"), 1002, &["reserved"]);
    }
}

#[test]
fn unknown_opcode() {
    check("opcode 3", &wire::frame(FIN | 0x3, b"x"), 1002, &["opcode", "frame type", "reserved"]);
    check("opcode 11", &wire::frame(FIN | 0xb, b""), 1002, &["opcode", "frame type", "reserved"]);
}

#[test]
fn fragmented_control_frame() {
    check("fragmented ping", &wire::frame(PING, b"x"), 1002, &["fragment"]);
}

#[test]
fn long_control_frame() {
    check("ping of 126 bytes", &wire::frame(FIN | PING, &[b'x'; 126]), 1002, &["control"]);
}

#[test]
fn continuation_of_nothing() {
    check("continuation", &wire::frame(FIN | CONTINUATION, b"x"), 1002, &["continu"]);
}

#[test]
fn message_inside_a_message() {
    let mut wire = wire::frame(TEXT, b"begun");
    wire.extend(wire::frame(FIN | BINARY, b"other"));
    check("two at once", &wire, 1002, &["fragment", "continu"]);
}

#[test]
fn wrong_close_frames() {
    check("close of one byte", &wire::frame(FIN | CLOSE, b"x"), 1002, &["close"]);
    let not_utf8 = wire::frame(FIN | CLOSE, b"\x03\xe8\xff\xff");
    check("close reason that is no text", &not_utf8, 1007, &["utf-8"]);
}

/// A message of exactly the limit is recorded; one byte more is a loss of ours that is written
/// down, and the run ends with 3.
#[test]
fn oversized() {
    let right = Message::text("x".repeat(1024));
    let whole = wire::frame(FIN | TEXT, &[b'x'; 1025]);
    let announced = wire::frame_header(FIN | BINARY, u64::MAX >> 1);
    let pieces = wire::fragments(TEXT, &[&[b'x'; 600], &[b'x'; 600]], b"");
    for (name, wire) in [("whole", whole), ("announced", announced), ("in pieces", pieces)] {
        on_both(|scheme| {
            let large = accept().messages(std::slice::from_ref(&right));
            let large = large.raw(name, wire.clone()).expect_close(1009);
            let next = accept().text("after").expect_bye();
            let run = Run::serve(scheme, [large, next])
                .args("--max-message 1KiB --max-messages 2")
                .finish(3);
            let tape = run.tape();
            assert_eq!(tape.messages(), [right.clone(), Message::text("after")], "{name}");
            let gaps = tape.events("gap");
            assert!(gaps.iter().any(|gap| gap["reason"] == "oversized"), "{name}: {gaps:?}");
            let outline = tape.outline();
            let gap = outline.iter().position(|line| line == "gap oversized").unwrap();
            let after = outline.iter().position(|line| line == "text \"after\"").unwrap();
            assert!(gap < after, "{name}: {outline:?}");
            assert_eq!(tape.events("disconnected")[0]["code"], 1009);
            assert!(run.stderr().contains("oversized"), "{name}: the report says so");
        });
    }
}

/// A loss of ours right before the end is told all the same: there is no message after the hole
/// that the gap could stand before.
#[test]
fn oversized_and_nothing_after_it() {
    on_both(|scheme| {
        let large = wire::frame(FIN | TEXT, &[b'x'; 1025]);
        let script = accept().text("before").raw("too large", large).expect_close(1009);
        let run = Run::serve(scheme, [script])
            .args("--max-message 1KiB --backoff-min 10m --backoff-max 20m")
            .start();
        run.on_tape("disconnected");
        run.signal(Signal::SIGTERM);
        let run = run.finish(3);
        assert_eq!(run.tape().events("gap")[0]["reason"], "oversized");
    });
}
