//! Events: the lines of a tape that say what happened to the recording itself.
//!
//! Owns their names, keys, the order of the keys, and the limit on their length. Knows nothing of
//! sockets or files.

use std::fmt;

use serde::{Serialize, Serializer};

use super::EVENT_LINE_BYTES_MAX;
use super::line::{Kind, Stamp};
use crate::clock::{ClockSync, StepCause, UnixNs};

/// An event as it is written. Keys stand in this order; unknown values are null.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// The first line of a segment.
    Segment {
        /// [`super::VERSION`].
        version: u32,
        /// The feed's name.
        feed: &'a str,
        /// Number of the segment in its feed, from 0.
        segment: u64,
        /// Index of this line in its feed.
        first_index: u64,
        /// Where the feed connects to, secrets hidden.
        url: &'a str,
        /// The recording machine.
        host: &'a str,
        /// The machine's boot id.
        boot_id: &'a str,
        /// CLOCK_REALTIME minus CLOCK_MONOTONIC.
        mono_offset_ns: i64,
        /// Whether the wall clock is synchronised.
        clock_sync: ClockSync,
        /// Largest error of the wall clock, where known.
        clock_error_ns: Option<u64>,
        /// The connection open at that moment.
        conn: Option<u64>,
        /// Version of the program.
        feedtape: &'a str,
    },
    /// The first line of a segment whose own was lost: recovery knows no more of it.
    #[serde(rename = "segment")]
    NewHeader {
        /// [`super::VERSION`].
        version: u32,
        /// The feed's name.
        feed: &'a str,
        /// Number of the segment in its feed.
        segment: u64,
        /// Index of this line in its feed.
        first_index: u64,
        /// Null.
        url: (),
        /// Null.
        host: (),
        /// Null.
        boot_id: (),
        /// Null.
        mono_offset_ns: (),
        /// Unknown.
        clock_sync: ClockSync,
        /// Null.
        clock_error_ns: (),
        /// Null.
        conn: (),
        /// Version of the program that recovered it.
        feedtape: &'a str,
    },
    /// Stands about every MiB; the fields count all before this line.
    Mark(Counts),
    /// The last line of a finished segment; fields as in a mark.
    End(Counts),
    /// Recovery cut or could not check some bytes at the end of an open segment.
    Recovered {
        /// Bytes that were no whole, valid line.
        bytes_cut: u64,
        /// Bytes after the last mark that checks, kept because they are valid lines.
        bytes_unverified: u64,
        /// When.
        at: UnixNs,
    },
    /// A connection attempt begins.
    Connecting {
        /// Number of the connection in this run of the recorder, from 1.
        conn: u64,
        /// Where to, secrets hidden.
        url: &'a str,
        /// When.
        at: UnixNs,
    },
    /// The upgrade is done.
    Connected {
        /// Number of the connection.
        conn: u64,
        /// The address that answered.
        peer: &'a str,
        /// The HTTP status of the upgrade.
        status: u16,
        /// The subprotocol agreed on.
        subprotocol: Option<&'a str>,
        /// Where the stamps come from.
        clock: StampClock,
        /// When.
        at: UnixNs,
    },
    /// A subscription was sent.
    Sent {
        /// Number of the connection.
        conn: u64,
        /// What was sent, secrets hidden.
        text: &'a str,
        /// True where `text` was cut to fit the line.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
        /// When.
        at: UnixNs,
    },
    /// The venue acknowledged a subscription.
    Subscribed {
        /// Number of the connection.
        conn: u64,
        /// Its words, or their beginning; the whole message stands on the tape as well.
        text: &'a str,
        /// When.
        at: UnixNs,
    },
    /// The venue refused a subscription.
    Refused {
        /// Number of the connection.
        conn: u64,
        /// Its words, or their beginning; the whole message stands on the tape as well.
        text: &'a str,
        /// When.
        at: UnixNs,
    },
    /// A connection, or the attempt at one, ended.
    Disconnected {
        /// Number of the connection.
        conn: u64,
        /// Why, in words.
        reason: &'a str,
        /// Close code: the server's, or the one we sent.
        code: Option<u16>,
        /// Time since `connecting`.
        duration_ms: u64,
        /// Messages recorded on it.
        messages: u64,
        /// Their payload bytes.
        bytes: u64,
        /// When.
        at: UnixNs,
    },
    /// No data for `--stale-after`: the connection is closed because of it. With a key: no data of
    /// this symbol or topic.
    Stale {
        /// Number of the connection.
        conn: u64,
        /// The limit that passed.
        after_ms: u64,
        /// The symbol or topic.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        /// When.
        at: UnixNs,
    },
    /// A poll ended; the body, if there is one to be recorded, is the next message.
    Http {
        /// The HTTP status; null where no answer came.
        status: Option<u16>,
        /// From the name lookup to the end of the body.
        ms: u64,
        /// Some headers of the answer, names in lower case.
        #[serde(serialize_with = "as_object")]
        headers: &'a [(String, String)],
        /// When.
        at: UnixNs,
    },
    /// An operator paused the feed.
    Paused {
        /// When.
        at: UnixNs,
    },
    /// It goes on.
    Resumed {
        /// When.
        at: UnixNs,
    },
    /// The wall clock was stepped, or the machine slept.
    Clock {
        /// How far the wall clock jumped; negative is back.
        step_ns: i64,
        /// Why.
        cause: StepCause,
        /// When, after the step.
        at: UnixNs,
    },
    /// A hole in the tape: stands before the first message after it.
    Gap {
        /// Why.
        reason: GapReason,
        /// Messages lost, where known.
        messages: Option<u64>,
        /// Their payload bytes, where known.
        bytes: Option<u64>,
        /// Stamp of the last line before the hole; null where no line is known.
        from_ts: Option<UnixNs>,
        /// From this moment all is recorded again.
        to_ts: UnixNs,
    },
    /// A hole that recovery found: of it other things are known than of one that is recorded.
    #[serde(rename = "gap")]
    LinesLost {
        /// Why.
        reason: GapReason,
        /// Null: nobody knows which of the lines were messages.
        messages: (),
        /// Null.
        bytes: (),
        /// Stamp of the last line before the hole; null where no line is known.
        from_ts: Option<UnixNs>,
        /// Stamp of the first line after it; null where no line is known.
        to_ts: Option<UnixNs>,
        /// Index that the first of the lost lines had; null where it is not known.
        first_index: Option<u64>,
        /// Lines lost, events among them, where known.
        lines: Option<u64>,
        /// Where their sum only is known: in so many holes, of which this is the first. The others
        /// have no counts of their own.
        #[serde(skip_serializing_if = "Option::is_none")]
        places: Option<u64>,
    },
}

fn as_object<S: Serializer>(headers: &[(String, String)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

/// What a mark or end counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Counts {
    /// Lines before this one in the segment, header, events and marks included.
    pub lines: u64,
    /// Bytes before this line in the segment, LFs included.
    pub bytes: u64,
    /// CRC-32C from the previous mark's line (or the start) up to this line.
    pub crc32c: Crc32c,
}

/// A checksum; eight lower-case hex digits in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32c(pub u32);

impl Serialize for Crc32c {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:08x}", self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Crc32c {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let valid = text.len() == 8
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let value = if valid { u32::from_str_radix(&text, 16).ok() } else { None };
        value.map(Crc32c).ok_or_else(|| serde::de::Error::custom("not eight lower-case hex digits"))
    }
}

/// Where the stamps of a connection come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StampClock {
    /// The kernel, when the bytes came in (SO_TIMESTAMPNS).
    Kernel,
    /// The real-time clock, right after the read.
    User,
}

/// Why there is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// The connection was lost; what the venue sent meanwhile can't be known.
    Reconnect,
    /// The recorder was not running.
    Restart,
    /// The queue was full and messages were dropped.
    Stall,
    /// The disk was full or failed.
    Disk,
    /// A message was larger than `--max-message`.
    Oversized,
    /// An operator paused the feed.
    Paused,
    /// The feed's thread failed.
    Panic,
}

impl GapReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [GapReason; 7] = [
        GapReason::Reconnect,
        GapReason::Restart,
        GapReason::Stall,
        GapReason::Disk,
        GapReason::Oversized,
        GapReason::Paused,
        GapReason::Panic,
    ];

    /// Whether it was we who lost messages, rather than the venue or the operator.
    pub fn is_our_loss(self) -> bool {
        match self {
            GapReason::Stall | GapReason::Disk | GapReason::Oversized | GapReason::Panic => true,
            GapReason::Reconnect | GapReason::Restart | GapReason::Paused => false,
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GapReason::Reconnect => "reconnect",
            GapReason::Restart => "restart",
            GapReason::Stall => "stall",
            GapReason::Disk => "disk",
            GapReason::Oversized => "oversized",
            GapReason::Paused => "paused",
            GapReason::Panic => "panic",
        })
    }
}

impl Event<'_> {
    /// The event's whole line, LF included, at most [`EVENT_LINE_BYTES_MAX`] bytes: a longer text
    /// of a `sent` event is cut and says so.
    pub fn to_line(&self, stamp: &Stamp) -> Vec<u8> {
        let line = self.encode(stamp);
        if line.len() <= EVENT_LINE_BYTES_MAX {
            return line;
        }
        let Event::Sent { conn, text, at, .. } = self else {
            unreachable!("only a sent text can be long: all else is bounded where it comes in");
        };
        let mut keep = text.len();
        loop {
            // JSON escapes make a character six bytes at most, so this ends soon.
            keep = keep.min(EVENT_LINE_BYTES_MAX) * 3 / 4;
            let text = &text[..text.floor_char_boundary(keep)];
            let line = Event::Sent { conn: *conn, text, cut: true, at: *at }.encode(stamp);
            if line.len() <= EVENT_LINE_BYTES_MAX {
                return line;
            }
        }
    }

    fn encode(&self, stamp: &Stamp) -> Vec<u8> {
        let mut line = Vec::with_capacity(256);
        self.append_line(stamp, &mut line).expect("writing to memory does not fail");
        line
    }

    /// Writes the event's line to `out`; allocates nothing itself.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn append_line(&self, stamp: &Stamp, mut out: impl std::io::Write) -> std::io::Result<()> {
        out.write_all(stamp.digits())?;
        out.write_all(&[Kind::Event.byte()])?;
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn line(event: &Event<'_>) -> String {
        String::from_utf8(event.to_line(&Stamp::new(1_736_682_893_953_758_185))).unwrap()
    }

    #[test]
    fn golden_events() {
        let check = |event: Event<'_>, expected: expect_test::Expect| {
            expected.assert_eq(&line(&event));
        };
        let counts = Counts { lines: 3, bytes: 400, crc32c: Crc32c(0xbeef) };
        check(
            Event::End(counts),
            expect![[r#"
                1736682893953758185!{"event":"end","lines":3,"bytes":400,"crc32c":"0000beef"}
            "#]],
        );
        check(
            Event::Segment {
                version: 1,
                feed: "btc",
                segment: 2,
                first_index: 77,
                url: "ws://127.0.0.1/x",
                host: "h",
                boot_id: "b",
                mono_offset_ns: -5,
                clock_sync: ClockSync::Unknown,
                clock_error_ns: None,
                conn: Some(1),
                feedtape: "0.1.0",
            },
            expect![[r#"
                1736682893953758185!{"event":"segment","version":1,"feed":"btc","segment":2,"first_index":77,"url":"ws://127.0.0.1/x","host":"h","boot_id":"b","mono_offset_ns":-5,"clock_sync":"unknown","clock_error_ns":null,"conn":1,"feedtape":"0.1.0"}
            "#]],
        );
        check(
            Event::Gap {
                reason: GapReason::Reconnect,
                messages: None,
                bytes: None,
                from_ts: Some(1),
                to_ts: 2,
            },
            expect![[r#"
                1736682893953758185!{"event":"gap","reason":"reconnect","messages":null,"bytes":null,"from_ts":1,"to_ts":2}
            "#]],
        );
        check(
            Event::LinesLost {
                reason: GapReason::Disk,
                messages: (),
                bytes: (),
                from_ts: None,
                to_ts: Some(2),
                first_index: Some(3),
                lines: Some(4),
                places: None,
            },
            expect![[r#"
                1736682893953758185!{"event":"gap","reason":"disk","messages":null,"bytes":null,"from_ts":null,"to_ts":2,"first_index":3,"lines":4}
            "#]],
        );
        check(
            Event::Connected {
                conn: 1,
                peer: "127.0.0.1:9",
                status: 101,
                subprotocol: None,
                clock: StampClock::Kernel,
                at: 5,
            },
            expect![[r#"
                1736682893953758185!{"event":"connected","conn":1,"peer":"127.0.0.1:9","status":101,"subprotocol":null,"clock":"kernel","at":5}
            "#]],
        );
        let headers = [("etag".to_string(), "\"x\"".to_string()), ("date".into(), "now".into())];
        check(
            Event::Http { status: Some(200), ms: 12, headers: &headers, at: 5 },
            expect![[r#"
                1736682893953758185!{"event":"http","status":200,"ms":12,"headers":{"etag":"\"x\"","date":"now"},"at":5}
            "#]],
        );
        check(
            Event::Http { status: None, ms: 12, headers: &[], at: 5 },
            expect![[r#"
                1736682893953758185!{"event":"http","status":null,"ms":12,"headers":{},"at":5}
            "#]],
        );
        check(
            Event::Sent { conn: 1, text: "a\n\"b\"", cut: false, at: 5 },
            expect![[r#"
                1736682893953758185!{"event":"sent","conn":1,"text":"a\n\"b\"","at":5}
            "#]],
        );
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        for text in ["x".repeat(70_000), "\u{1}".repeat(70_000), "\u{20ac}".repeat(40_000)] {
            let line = line(&Event::Sent { conn: 1, text: &text, cut: false, at: 5 });
            assert!(line.len() <= EVENT_LINE_BYTES_MAX, "{}", line.len());
            let event: serde_json::Value = serde_json::from_str(&line[20..]).unwrap();
            assert_eq!(event["cut"], true);
            assert!(text.starts_with(event["text"].as_str().unwrap()));
        }
    }

    #[test]
    fn counts_read_back() {
        let counts = Counts { lines: 1, bytes: 2, crc32c: Crc32c(0xdead_beef) };
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), counts);
        let upper = json.replace("deadbeef", "DEADBEEF");
        assert!(serde_json::from_str::<Counts>(&upper).is_err());
    }
}
