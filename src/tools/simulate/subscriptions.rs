//! The streams of one connection: which are subscribed, and when the next message of each is due.
//!
//! Pure: time comes in as nanoseconds on the connection's own time line, which starts at 0 and
//! stands still while the client is too slow. Message k of a stream is due at its first one's
//! time plus k / rate, computed anew each time, so the rate is exact over any length of time. No
//! message is ever left out: a late one is sent late.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::market::{Market, StreamName};

/// Streams per connection.
pub(super) const STREAMS_MAX: usize = 256;
/// How much of a client's text an error quotes, in characters.
const QUOTE_CHARS_MAX: usize = 64;

/// How many messages each stream sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As many as the client takes.
    Unlimited,
    /// So many per second, above 0 and at most a million; 0.1 is one in ten seconds.
    PerSecond(f64),
}

impl Default for Rate {
    fn default() -> Rate {
        Rate::PerSecond(100.0)
    }
}

/// The form that [`Rate::parse`] reads.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Unlimited => f.write_str("0"),
            Rate::PerSecond(rate) => write!(f, "{rate}"),
        }
    }
}

impl Rate {
    /// Parses messages per second; `0` is [`Rate::Unlimited`].
    ///
    /// # Errors
    /// A sentence that quotes the input and says what would be right.
    pub fn parse(input: &str) -> Result<Rate, String> {
        match input.trim().parse::<f64>() {
            Ok(0.0) => Ok(Rate::Unlimited),
            Ok(rate) if (0.001..=1_000_000.0).contains(&rate) => Ok(Rate::PerSecond(rate)),
            _ => Err(format!(
                "'{input}' is not a rate: write messages per second, 0.001 to 1000000, \
                 or 0 for as many as the client takes"
            )),
        }
    }
}

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Subscriptions {
    seed: u64,
    rate: Rate,
    streams: Vec<Stream>,
    /// Streams ever subscribed on this connection.
    opened: u32,
    /// Messages made on this connection.
    seq: u64,
}

#[derive(Debug)]
struct Stream {
    market: Market,
    first_due: u64,
    sent: u64,
    due: u64,
}

#[derive(Debug, Deserialize)]
struct Request {
    method: String,
    #[serde(default)]
    params: Vec<String>,
    #[serde(default)]
    id: Value,
}

/// Why a client's text was refused; the numbers are part of the venue's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Malformed = 1,
    UnknownMethod = 2,
    UnknownStream = 3,
    TooManyStreams = 4,
}

impl Subscriptions {
    pub(super) fn new(seed: u64, rate: Rate) -> Subscriptions {
        Subscriptions { seed, rate, streams: Vec::new(), opened: 0, seq: 0 }
    }

    /// Starts the stream `name` at `now`, with its first message; one that runs goes on as it
    /// was. False where the connection has its full number of streams.
    pub(super) fn subscribe(&mut self, name: StreamName, now: u64) -> bool {
        if self.streams.iter().any(|stream| *stream.market.name() == name) {
            return true;
        }
        if self.streams.len() >= STREAMS_MAX {
            return false;
        }
        let first_due = match self.rate {
            Rate::Unlimited => self.next_due().unwrap_or(0),
            Rate::PerSecond(rate) => {
                // Streams that start together are spread over the period: by steps of the golden
                // ratio no two fall close together, however many there are.
                let part = (f64::from(self.opened) * 0.618_033_988_749_895).fract();
                now + (part * 1e9 / rate) as u64
            }
        };
        self.opened += 1;
        let market = Market::new(self.seed, name);
        self.streams.push(Stream { market, first_due, sent: 0, due: first_due });
        true
    }

    /// When the next message of any stream is due; `None` without streams.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.streams.iter().map(|stream| stream.due).min()
    }

    /// How long before `now` the next message was due; zero where it is not, or where there is
    /// no rate to keep.
    pub(super) fn late(&self, now: u64) -> Duration {
        match self.rate {
            Rate::Unlimited => Duration::ZERO,
            Rate::PerSecond(_) => {
                let due = self.next_due().unwrap_or(now);
                Duration::from_nanos(now.saturating_sub(due))
            }
        }
    }

    /// True where a message can be made at `now`.
    pub(super) fn is_due(&self, now: u64) -> bool {
        match self.rate {
            Rate::Unlimited => !self.streams.is_empty(),
            Rate::PerSecond(_) => self.next_due().is_some_and(|due| due <= now),
        }
    }

    /// The next message, where one is due at `now`; `time_ms` is the wall time for it.
    pub(super) fn next_message(&mut self, now: u64, time_ms: u64) -> Option<String> {
        if !self.is_due(now) {
            return None;
        }
        // The first of several that are due at the same time: the order is always the same.
        let stream = self.streams.iter_mut().min_by_key(|stream| stream.due)?;
        self.seq += 1;
        stream.sent += 1;
        stream.due = stream.first_due
            + match self.rate {
                // No time here, only turns.
                Rate::Unlimited => stream.sent,
                Rate::PerSecond(rate) => (stream.sent as f64 * 1e9 / rate) as u64,
            };
        Some(stream.market.next_message(self.seq, time_ms))
    }

    /// Does what a client's text asks for, and returns the reply to it.
    pub(super) fn answer(&mut self, text: &str, now: u64) -> String {
        let request: Request = match serde_json::from_str(text) {
            Ok(request) => request,
            Err(_) => {
                let what = "is not a request: send {\"method\":\"SUBSCRIBE\",\"params\":[..],\
                            \"id\":1}";
                let message = format!("'{}' {what}", quote(text));
                return refusal(Code::Malformed, &message, &Value::Null);
            }
        };
        // An id is echoed, so only short kinds are.
        let id = match request.id {
            Value::Number(_) => request.id,
            Value::String(ref text) if text.len() <= QUOTE_CHARS_MAX => request.id,
            _ => Value::Null,
        };
        match self.carry_out(&request.method, &request.params, now) {
            Ok(()) => json!({"result": null, "id": id}).to_string(),
            Err((code, message)) => refusal(code, &message, &id),
        }
    }

    /// All of it or nothing.
    fn carry_out(
        &mut self,
        method: &str,
        params: &[String],
        now: u64,
    ) -> Result<(), (Code, String)> {
        let subscribe = match method {
            "SUBSCRIBE" => true,
            "UNSUBSCRIBE" => false,
            _ => {
                let message =
                    format!("unknown method '{}': use SUBSCRIBE or UNSUBSCRIBE", quote(method));
                return Err((Code::UnknownMethod, message));
            }
        };
        if params.is_empty() {
            return Err((Code::Malformed, format!("{method} names no stream in params")));
        }
        let mut names: Vec<StreamName> = Vec::new();
        for param in params {
            let Some(name) = StreamName::parse(param) else {
                let message = format!(
                    "unknown stream '{}': use symbol@trade, symbol@book or symbol@ticker",
                    quote(param)
                );
                return Err((Code::UnknownStream, message));
            };
            let known = self.streams.iter().any(|stream| *stream.market.name() == name);
            if known != subscribe && !names.contains(&name) {
                names.push(name);
            }
            if subscribe && self.streams.len() + names.len() > STREAMS_MAX {
                let message = format!("too many streams: at most {STREAMS_MAX} per connection");
                return Err((Code::TooManyStreams, message));
            }
        }
        if subscribe {
            for name in names {
                let room = self.subscribe(name, now);
                assert!(room, "the number of streams was checked above");
            }
        } else {
            self.streams.retain(|stream| !names.contains(stream.market.name()));
        }
        Ok(())
    }
}

fn refusal(code: Code, message: &str, id: &Value) -> String {
    json!({"error": {"code": code as u8, "msg": message}, "id": id}).to_string()
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn subscribed(rate: Rate, names: &[&str]) -> Subscriptions {
        let mut streams = Subscriptions::new(1, rate);
        for name in names {
            assert!(streams.subscribe(StreamName::parse(name).unwrap(), 0));
        }
        streams
    }

    #[test]
    fn rates_are_exact_over_any_time() {
        for (rate, seconds, expected) in [(100.0, 10, 1_000), (3.0, 1_000, 3_000), (0.1, 100, 10)] {
            let mut streams = subscribed(Rate::PerSecond(rate), &["btcusdt@trade"]);
            let mut count = 0;
            // Asked at odd times only, as a busy machine would.
            for now in (0..seconds * SECOND).step_by(7_654_321) {
                while streams.next_message(now, 0).is_some() {
                    count += 1;
                }
            }
            assert_eq!(count, expected, "{rate} messages per second for {seconds} s");
        }
    }

    #[test]
    fn streams_take_turns_and_seq_has_no_hole() {
        for rate in [Rate::Unlimited, Rate::PerSecond(50.0)] {
            let names = ["btcusdt@trade", "ethusdt@trade", "btcusdt@book"];
            let mut streams = subscribed(rate, &names);
            let mut counts = [0; 3];
            for k in 1..=300 {
                let text = streams.next_message(100 * SECOND, 5).unwrap();
                let value: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(value["seq"], k, "{text}");
                let at = names.iter().position(|name| value["stream"] == *name).unwrap();
                counts[at] += 1;
                assert_eq!(value["id"], counts[at], "{text}");
            }
            assert_eq!(counts, [100; 3], "{rate:?}");
        }
    }

    #[test]
    fn lateness() {
        let mut streams = subscribed(Rate::PerSecond(1.0), &["btcusdt@trade"]);
        assert_eq!(streams.late(0), Duration::ZERO);
        assert_eq!(streams.late(3 * SECOND), Duration::from_secs(3));
        assert!(streams.next_message(3 * SECOND, 0).is_some());
        assert_eq!(streams.late(3 * SECOND), Duration::from_secs(2));
        assert!(!streams.is_due(SECOND - 1) && streams.is_due(SECOND));
        assert_eq!(subscribed(Rate::PerSecond(1.0), &[]).late(SECOND), Duration::ZERO);
        assert_eq!(subscribed(Rate::Unlimited, &["a@book"]).late(SECOND), Duration::ZERO);
    }

    #[test]
    fn answers() {
        let mut streams = Subscriptions::new(1, Rate::PerSecond(1.0));
        let mut check = |text: &str, expected: &str, count: usize| {
            let got = streams.answer(text, 0);
            assert!(got.starts_with(expected), "{text}\n got {got}\nwant {expected}");
            assert!(serde_json::from_str::<Value>(&got).is_ok(), "{got}");
            assert_eq!(streams.streams.len(), count, "{text}");
        };
        let ack = r#"{"id":1,"result":null}"#;
        let params = r#""params":["btcusdt@trade","btcusdt@book"]"#;
        check(&format!(r#"{{"method":"SUBSCRIBE",{params},"id":1}}"#), ack, 2);
        check(&format!(r#"{{"method":"SUBSCRIBE",{params},"id":1}}"#), ack, 2);
        check(r#"{"method":"UNSUBSCRIBE","params":["btcusdt@book"],"id":1}"#, ack, 1);
        check(r#"{"method":"UNSUBSCRIBE","params":["btcusdt@book"],"id":1}"#, ack, 1);
        let named = r#"{"id":"x","result":null}"#;
        check(r#"{"method":"SUBSCRIBE","params":["a@book","a@book"],"id":"x"}"#, named, 2);
        check("nonsense", r#"{"error":{"code":1,"msg":"'nonsense' is not"#, 2);
        check("", r#"{"error":{"code":1,"#, 2);
        check(r#"{"method":"SUBSCRIBE","id":2}"#, r#"{"error":{"code":1,"#, 2);
        check(r#"{"method":"LIST","id":3}"#, r#"{"error":{"code":2,"msg":"unknown method"#, 2);
        let unknown = r#"{"error":{"code":3,"msg":"unknown stream 'b'"#;
        check(r#"{"method":"SUBSCRIBE","params":["c@book","b"],"id":4}"#, unknown, 2);
        let many: Vec<String> = (0..255).map(|k| format!("s{k}@trade")).collect();
        let request = json!({"method": "SUBSCRIBE", "params": many, "id": 1}).to_string();
        check(&request, r#"{"error":{"code":4,"#, 2);
        let request = json!({"method": "SUBSCRIBE", "params": many[1..], "id": 1}).to_string();
        check(&request, ack, 256);
    }

    #[test]
    fn rates_as_typed() {
        for (input, expected) in [
            ("100", Some(Rate::PerSecond(100.0))),
            ("0.5", Some(Rate::PerSecond(0.5))),
            ("0", Some(Rate::Unlimited)),
            ("-1", None),
            ("inf", None),
            ("NaN", None),
            ("2000000", None),
            ("fast", None),
        ] {
            let got = Rate::parse(input);
            assert_eq!(got.clone().ok(), expected, "{input}: {got:?}");
            if let Ok(rate) = got {
                assert_eq!(rate.to_string(), input);
            }
        }
    }
}
