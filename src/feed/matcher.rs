//! Which messages of the venue's mean something to the connection: acknowledgements, refusals,
//! answers to heartbeats, questions that want a reply, and talk that is no data.
//!
//! Owns the patterns and what is cut out of a message for a reply. A message is looked at only
//! where there is a pattern, and never changed. A feed without patterns pays nothing.

use std::fmt;
use std::io::Read;

use memchr::memmem::Finder;
use serde_json::Value;

/// A longer message is none of those that patterns look for.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// A compressed message is looked into only where it is no longer than this.
const COMPRESSED_BYTES_MAX: usize = 4 << 10;
/// Longest reply, in bytes.
const REPLY_BYTES_MAX: usize = 4 << 10;
/// RFC 1952 section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A pattern: a text that the message holds, or what stands at a JSON pointer (RFC 6901).
#[derive(Clone)]
pub struct Matcher {
    /// As it was written.
    written: String,
    /// What a message that matches holds, to pass by the others quickly.
    hint: Box<Finder<'static>>,
    at: Option<At>,
}

#[derive(Debug, Clone)]
struct At {
    pointer: String,
    /// Anything, where there is none.
    equals: Option<Value>,
}

impl Matcher {
    /// Reads a pattern: `/POINTER` (is there), `/POINTER=VALUE` (equals it), else a text.
    ///
    /// # Errors
    /// A sentence that says what is wrong and right, without quoting.
    pub fn parse(written: &str) -> Result<Matcher, String> {
        if written.is_empty() {
            return Err("is empty; write a text, /POINTER or /POINTER=VALUE".to_string());
        }
        let new = |hint: &str, at| Matcher {
            written: written.to_string(),
            hint: Box::new(Finder::new(hint.as_bytes()).into_owned()),
            at,
        };
        if !written.starts_with('/') {
            return Ok(new(written, None));
        }
        let (pointer, equals) = match written.split_once('=') {
            Some((pointer, value)) => (pointer, Some(value_of(value))),
            None => (written, None),
        };
        let key = pointer.rsplit('/').find(|key| !is_number(key)).unwrap_or_default();
        let plain = |text: &str| !text.is_empty() && !text.contains(['~', '"', '\\', '/']);
        let hint = match &equals {
            // A word in the message is rarer than a key, which every message may have. JSON may
            // write a slash as two characters.
            Some(Value::String(text)) if plain(text) && text.is_ascii() => text.clone(),
            _ if plain(key) && key.is_ascii() => format!("\"{key}\""),
            _ => String::new(),
        };
        Ok(new(&hint, Some(At { pointer: pointer.to_string(), equals })))
    }

    /// Whether the message is one of those.
    pub fn matches(&self, message: &[u8]) -> bool {
        if self.hint.find(message).is_none() {
            return false;
        }
        let Some(at) = &self.at else { return true };
        let Ok(json) = serde_json::from_slice::<Value>(message) else { return false };
        match (json.pointer(&at.pointer), &at.equals) {
            (Some(_), None) => true,
            (Some(found), Some(wanted)) => found == wanted,
            (None, _) => false,
        }
    }
}

/// `null`, `true` and numbers are what they look like; all else is a text.
fn value_of(written: &str) -> Value {
    serde_json::from_str(written).unwrap_or_else(|_| Value::String(written.to_string()))
}

fn is_number(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_digit())
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Matcher) -> bool {
        self.written == other.written
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.written)
    }
}

/// What to answer to some messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// To which.
    matcher: Matcher,
    /// Texts and, between them, JSON pointers to what is put there.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Pointer(String),
}

impl Reply {
    /// Reads `MATCH => TEXT`; in the text `{/POINTER}` stands for what the message has there.
    /// Spaces around both are not theirs; line ends are, as some venues want them.
    ///
    /// # Errors
    /// A sentence that says what is wrong and right.
    pub fn parse(written: &str) -> Result<Reply, String> {
        let (matcher, text) = written
            .split_once("=>")
            .ok_or("has no '=>'; write 'MATCH => TEXT', as in '/ping => {\"pong\":{/ping}}'")?;
        let matcher = Matcher::parse(matcher.trim_matches(' '))?;
        let mut pieces = Vec::new();
        let mut rest = text.trim_matches(' ');
        if rest.is_empty() || rest.len() > REPLY_BYTES_MAX {
            return Err(format!("needs a reply of 1 to {REPLY_BYTES_MAX} bytes after '=>'"));
        }
        while let Some(start) = rest.find("{/") {
            let end = rest[start..].find('}').ok_or("has a '{/' with no '}' after it")? + start;
            pieces.push(Piece::Text(rest[..start].to_string()));
            pieces.push(Piece::Pointer(rest[start + 1..end].to_string()));
            rest = &rest[end + 1..];
        }
        pieces.push(Piece::Text(rest.to_string()));
        Ok(Reply { matcher, pieces })
    }

    /// The reply to this message; `None` where it is none to answer, or lacks what the reply needs.
    fn to(&self, message: &[u8]) -> Option<String> {
        if !self.matcher.matches(message) {
            return None;
        }
        let mut reply = String::new();
        let mut json = None;
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => reply.push_str(text),
                Piece::Pointer(pointer) => {
                    if json.is_none() {
                        json = Some(serde_json::from_slice::<Value>(message).ok()?);
                    }
                    reply.push_str(&json.as_ref()?.pointer(pointer)?.to_string());
                }
            }
        }
        (reply.len() <= REPLY_BYTES_MAX).then_some(reply)
    }
}

/// All patterns of a feed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matchers {
    /// A subscription is acknowledged.
    pub ack: Option<Matcher>,
    /// A subscription is refused.
    pub refusal: Option<Matcher>,
    /// A heartbeat is answered.
    pub answer: Option<Matcher>,
    /// What wants a reply.
    pub replies: Vec<Reply>,
    /// What is no data, such as the venue's own heartbeats.
    pub not_data: Vec<Matcher>,
}

/// What a message is to the connection. It is recorded all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing but data.
    Data,
    /// No data, and nothing to do about it.
    Talk,
    /// An acknowledgement: its text.
    Ack(String),
    /// A refusal: its text.
    Refusal(String),
    /// The answer to a heartbeat.
    Answer,
    /// It wants this reply.
    Question(String),
}

impl Matchers {
    /// Whether there is anything to look for.
    pub fn is_empty(&self) -> bool {
        let Matchers { ack, refusal, answer, replies, not_data } = self;
        let is_none = ack.is_none() && refusal.is_none() && answer.is_none();
        is_none && replies.is_empty() && not_data.is_empty()
    }

    /// What the message means. Acknowledgements count only while some are `awaited`; one that
    /// comes later is talk: a venue that only acknowledges brings no data.
    pub fn meaning(&self, message: &[u8], is_binary: bool, awaited: bool) -> Meaning {
        if is_binary && message.starts_with(&GZIP_MAGIC) {
            return match inflate(message) {
                Some(text) => self.meaning(&text, false, awaited),
                None => Meaning::Data,
            };
        }
        if message.len() > MESSAGE_BYTES_MAX {
            return Meaning::Data;
        }
        let is = |matcher: &Option<Matcher>| matcher.as_ref().is_some_and(|m| m.matches(message));
        let text = || String::from_utf8_lossy(message).into_owned();
        if is(&self.refusal) {
            return Meaning::Refusal(text());
        }
        if is(&self.ack) {
            return if awaited { Meaning::Ack(text()) } else { Meaning::Talk };
        }
        if is(&self.answer) {
            return Meaning::Answer;
        }
        if let Some(reply) = self.replies.iter().find_map(|reply| reply.to(message)) {
            return Meaning::Question(reply);
        }
        match self.not_data.iter().any(|matcher| matcher.matches(message)) {
            true => Meaning::Talk,
            false => Meaning::Data,
        }
    }
}

/// A short gzip'd message, inflated; `None` where it is not short or no gzip.
fn inflate(message: &[u8]) -> Option<Vec<u8>> {
    if message.len() > COMPRESSED_BYTES_MAX {
        return None;
    }
    let mut text = Vec::new();
    let limit = MESSAGE_BYTES_MAX as u64 + 1;
    flate2::read::GzDecoder::new(message).take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn patterns_match_texts_and_json() {
        for (pattern, message, expected) in [
            ("pong", "pong", true),
            ("pong", "ping", false),
            ("/event=error", r#"{"event":"error","msg":"x"}"#, true),
            ("/event=error", r#"{"event":"subscribe","error":1}"#, false),
            ("/result=null", r#"{"result":null,"id":1}"#, true),
            ("/result=null", r#"{"id":1}"#, false),
            ("/id=7", r#"{"id":7}"#, true),
            ("/id=7", r#"{"id":"7"}"#, false),
            ("/success=false", r#"{"success":false}"#, true),
            ("/params/type=test_request", r#"{"params":{"type":"test_request"}}"#, true),
            ("/ping", r#"{"ping":12345}"#, true),
            ("/ping", "not json \"ping\"", false),
            ("/a/0/b", r#"{"a":[{"b":1}]}"#, true),
            ("/a~1b=x", r#"{"a/b":"x"}"#, true),
            ("/=x", r#"{"":"x"}"#, true),
            ("/ch=a/b", r#"{"ch":"a\/b"}"#, true),
        ] {
            let matcher = Matcher::parse(pattern).unwrap();
            assert_eq!(matcher.matches(message.as_bytes()), expected, "{pattern}: {message}");
        }
        assert!(Matcher::parse("").is_err());
    }

    #[test]
    fn replies_put_in_what_the_message_has() {
        for (rule, message, expected) in [
            (r#"/ping => {"pong":{/ping}}"#, r#"{"ping":18446744073709551615}"#, {
                Some(r#"{"pong":18446744073709551615}"#)
            }),
            (r#"/op=ping => {"op":"pong","ts":{/ts}}"#, r#"{"op":"ping","ts":"a\"b"}"#, {
                Some(r#"{"op":"pong","ts":"a\"b"}"#)
            }),
            (r#"/op=ping => {/ts}"#, r#"{"op":"ping"}"#, None),
            ("ping=>pong", "ping", Some("pong")),
            ("ping=>pong", "other", None),
            // NATS takes a line for whole only with its end.
            ("PING => PONG\r\n", "PING\r\n", Some("PONG\r\n")),
            ("\n => x ", "a\nb", Some("x")),
        ] {
            let reply = Reply::parse(rule).unwrap();
            assert_eq!(reply.to(message.as_bytes()).as_deref(), expected, "{rule}");
        }
        for wrong in ["", "ping", "=> x", "ping =>", "ping =>  ", "ping => {/x"] {
            assert!(Reply::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn short_gzip_is_looked_into_and_bombs_are_not() {
        let replies = vec![Reply::parse(r#"/ping => {"pong":{/ping}}"#).unwrap()];
        let matchers = Matchers { replies, ..Matchers::default() };
        let question = Meaning::Question(r#"{"pong":7}"#.to_string());
        assert_eq!(matchers.meaning(&gzip(br#"{"ping":7}"#), true, false), question);
        // As a text it is none.
        assert_eq!(matchers.meaning(&gzip(br#"{"ping":7}"#), false, false), Meaning::Data);
        let mut bomb = br#"{"ping":7,"x":""#.to_vec();
        bomb.resize(200 << 10, b'x');
        bomb.extend_from_slice(b"\"}");
        let bomb = gzip(&bomb);
        assert!(bomb.len() <= COMPRESSED_BYTES_MAX, "{} bytes would not be tried", bomb.len());
        assert_eq!(matchers.meaning(&bomb, true, false), Meaning::Data);
        assert_eq!(matchers.meaning(&GZIP_MAGIC, true, false), Meaning::Data);
    }

    #[test]
    fn acks_count_only_while_awaited() {
        let matcher = |text| Some(Matcher::parse(text).unwrap());
        let matchers = Matchers {
            ack: matcher("/result=null"),
            refusal: matcher("/error"),
            answer: matcher("pong"),
            ..Matchers::default()
        };
        let ack = br#"{"result":null}"#;
        let text = String::from_utf8(ack.to_vec()).unwrap();
        assert_eq!(matchers.meaning(ack, false, true), Meaning::Ack(text));
        assert_eq!(matchers.meaning(ack, false, false), Meaning::Talk, "a late one is no data");
        assert_eq!(matchers.meaning(b"pong", false, false), Meaning::Answer);
        let refused = matchers.meaning(br#"{"error":1}"#, false, false);
        assert_eq!(refused, Meaning::Refusal(r#"{"error":1}"#.to_string()));
    }

    #[test]
    fn what_is_named_so_is_no_data_and_questions_are_replied_to_all_the_same() {
        let patterns = ["/channel=heartbeat", "/method=heartbeat"];
        let matchers = Matchers {
            replies: vec![Reply::parse("/type=test => yes").unwrap()],
            not_data: patterns.map(|pattern| Matcher::parse(pattern).unwrap()).to_vec(),
            ..Matchers::default()
        };
        assert!(!matchers.is_empty());
        let check = |message: &str, meaning: Meaning| {
            assert_eq!(matchers.meaning(message.as_bytes(), false, false), meaning, "{message}");
        };
        check(r#"{"channel":"heartbeat"}"#, Meaning::Talk);
        check(r#"{"method":"heartbeat","type":"beat"}"#, Meaning::Talk);
        check(r#"{"method":"heartbeat","type":"test"}"#, Meaning::Question("yes".to_string()));
        check(r#"{"channel":"trade"}"#, Meaning::Data);
        let beat = gzip(br#"{"channel":"heartbeat"}"#);
        assert_eq!(matchers.meaning(&beat, true, false), Meaning::Talk);
    }
}
