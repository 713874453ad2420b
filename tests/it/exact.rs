//! What the venue sends is what stands on the tape: every message byte for byte, in order.

use super::program::{Run, on_both};
use super::script::{Answer, Script, accept, ping, script};
use super::wire::{self, BINARY, FIN, Message, PONG, TEXT};

/// The server follows `script`, then is left in peace; the tape holds exactly `expected`.
fn check(args: &str, script: &Script, expected: &[Message]) {
    on_both(|scheme| {
        let run = Run::serve(scheme, [script.clone().expect_bye()])
            .args(&format!("--max-messages {} {args}", expected.len()))
            .finish(0);
        let tape = run.tape();
        let messages = tape.messages();
        assert_eq!(messages.len(), expected.len(), "{:?}", tape.outline());
        for (at, (got, expected)) in messages.iter().zip(expected).enumerate() {
            assert!(got == expected, "message {at} is {got:?}, not {expected:?}");
        }
        for entry in &tape.entries {
            assert!((run.started_ns..=run.ended_ns).contains(&entry.ts), "{entry:?}");
        }
    });
}

fn texts(texts: &[&str]) -> Vec<Message> {
    texts.iter().map(|text| Message::text(*text)).collect()
}

/// Text that shows where it was cut or doubled.
fn long_text(bytes: usize) -> String {
    let mut text: String = (0..bytes / 8 + 1).map(|n| format!("{n:07} ")).collect();
    text.truncate(bytes);
    text
}

fn long_binary(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

#[test]
fn texts_of_all_kinds() {
    let messages = texts(&[
        r#"{"e":"trade","p":"65000.10"}"#,
        "",
        "x",
        "\n",
        "two\nlines",
        "a backslash \\ alone",
        "\\n",
        "a backslash \\ and\na line feed \\n",
        "\\",
        "\r\n\t\0",
        "größer €uro 漢字 \u{1f600}",
        " leading and trailing blanks ",
        "!{\"event\":\"end\"}",
        "1736682893953758185 looks like a line",
    ]);
    check("", &accept().messages(&messages), &messages);
}

#[test]
fn binaries_of_all_kinds() {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let messages =
        [&b""[..], b"\0", b"ab", b"abc", b"\n\n\n", b"\xff\xfe", &all_bytes].map(Message::binary);
    check("", &accept().messages(&messages), &messages);
}

/// 125 | 126 and 65535 | 65536 are where the length takes another form (section 5.2).
#[test]
fn lengths_around_the_forms_of_a_frame() {
    let lengths = [1, 125, 126, 127, 4095, 4096, 65_535, 65_536, 65_537, 200_000];
    let messages: Vec<Message> = lengths
        .iter()
        .flat_map(|n| [Message::text(long_text(*n)), Message::binary(long_binary(*n))])
        .collect();
    check("", &accept().messages(&messages), &messages);
}

#[test]
fn twenty_mib() {
    const BYTES: usize = 20 << 20;
    let mut text = long_text(BYTES);
    text.replace_range(BYTES - 1.., "\n");
    let messages = [
        Message::text("small before"),
        Message::Text(text),
        Message::Binary(long_binary(BYTES)),
        Message::text("small after"),
    ];
    check("--max-message 32MiB", &accept().messages(&messages), &messages);
}

/// As many messages as make several marks, with pings in the middle of them.
#[test]
fn a_burst_with_pings_in_it() {
    let messages: Vec<Message> =
        (0..20_000).map(|n| Message::text(format!("{{\"n\":{n},\"pad\":\"{n:080}\"}}"))).collect();
    let mut bytes = Vec::new();
    let (last, rest) = messages.split_last().unwrap();
    for (at, message) in rest.iter().enumerate() {
        bytes.extend(wire::message(message));
        if at % 1000 == 7 {
            bytes.extend(ping(b"burst"));
        }
    }
    let script = accept().raw("texts and pings", bytes).ping_pong(b"last of all");
    let script = script.messages(std::slice::from_ref(last));
    check("", &script, &messages);
}

#[test]
fn fragmented_messages() {
    let bytes = "in many pieces: €".as_bytes();
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let big = long_binary(150_000);
    let pieces: Vec<&[u8]> = big.chunks(1000).collect();
    let mut wire = wire::fragments(TEXT, &single, b"");
    wire.extend(wire::fragments(BINARY, &pieces, b""));
    wire.extend(wire::fragments(TEXT, &[b"", b"", b"x", b""], b""));
    wire.extend(wire::fragments(BINARY, &[b"", b""], b""));
    let expected = [
        Message::text("in many pieces: €"),
        Message::Binary(big.clone()),
        Message::text("x"),
        Message::binary(b""),
    ];
    check("", &accept().raw("fragments", wire), &expected);
}

/// Control frames may stand between the pieces of a message (section 5.4).
#[test]
fn fragments_with_pings_and_pongs_between() {
    let mut between = ping(b"between");
    between.extend(wire::frame(FIN | PONG, b"nobody asked"));
    let wire = wire::fragments(TEXT, &[b"one ", b"two ", b"three"], &between);
    let script = accept().raw("fragments and pings", wire).text("whole");
    check("", &script, &texts(&["one two three", "whole"]));
}

/// What came with the upgrade's answer was already read when the first message is looked for.
#[test]
fn frames_behind_the_upgrade() {
    let glued = texts(&["first", "second"]);
    let mut bytes: Vec<u8> = glued.iter().flat_map(wire::message).collect();
    let third = wire::message(&Message::text("third, of which only half is there yet"));
    let (half, rest) = third.split_at(third.len() / 2);
    bytes.extend(half);
    let expected = [glued, texts(&["third, of which only half is there yet"])].concat();
    check("", &script().accept_glued(bytes.clone()).raw("the rest", rest.to_vec()), &expected);
    // Nothing follows that would wake up a reader which waits for the socket first.
    check("", &script().accept_glued(bytes), &texts(&["first", "second"]));
}

#[test]
fn one_byte_at_a_time() {
    let messages = texts(&["slow", "and steady"]);
    let bytes: Vec<u8> = messages.iter().flat_map(wire::message).collect();
    let slow = Answer { slowly: true, ..Answer::default() };
    check("", &script().upgrade(slow).send_slowly(bytes), &messages);
}

#[test]
fn stamps_of_the_user_clock() {
    let messages = texts(&["a", "b"]);
    check("--clock user", &accept().messages(&messages), &messages);
}

/// The queue is a fraction of what comes, so that blocks are used again and again.
#[test]
fn more_than_the_queue_holds() {
    let messages: Vec<Message> = (0..40).map(|_| Message::text(long_text(100_000))).collect();
    check("--queue-bytes 256KiB", &accept().messages(&messages), &messages);
}

#[test]
fn the_order_of_a_tape() {
    on_both(|scheme| {
        let script = accept().messages(&texts(&["one", "two"])).expect_bye();
        let run = Run::serve(scheme, [script]).args("--max-messages 2").finish(0);
        let tape = run.tape();
        assert_eq!(
            tape.outline(),
            [
                "segment 0",
                "connecting 1",
                "connected 1",
                "text \"one\"",
                "text \"two\"",
                "disconnected 1 1000",
                "end",
            ]
        );
        let url = run.server().url("/stream");
        assert_eq!(tape.events("segment")[0]["url"], url.as_str());
        assert_eq!(tape.events("connecting")[0]["url"], url.as_str());
        let connected = tape.events("connected")[0];
        assert_eq!(connected["peer"], format!("127.0.0.1:{}", run.server().port()));
        assert_eq!(connected["status"], 101);
        assert_eq!(connected["subprotocol"], serde_json::Value::Null);
        assert_eq!(connected["clock"], "kernel");
        let disconnected = tape.events("disconnected")[0];
        assert_eq!((&disconnected["messages"], &disconnected["bytes"]), (&2.into(), &6.into()));
    });
}
