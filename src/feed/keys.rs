//! Which of a feed's symbols still speak: one that falls silent on a live connection is found.
//!
//! Owns the search for a message's keys (symbols, or topics: one message may have many) and the
//! time each was last seen. A key is found by the bytes before it, with no parsing. Pure: time
//! comes in with each call.

use std::collections::HashMap;
use std::time::Duration;

use memchr::memmem::Finder;

use crate::clock::Mono;

/// Longer is no key.
const KEY_BYTES_MAX: usize = 128;
/// No more keys are watched; those expected come first.
pub const KEYS_MAX: usize = 16 << 10;

/// Keys told at once; when more fall silent the others follow at the next look.
const SILENT_AT_ONCE_MAX: usize = 64;

/// What to do about a silent key, beside writing it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSilence {
    /// Nothing.
    Log,
    /// Send the subscriptions again that name it.
    Resubscribe,
    /// Connect anew.
    Reconnect,
}

/// How keys are found and judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOptions {
    /// What stands before the key, as in `"s":"`.
    pub after: String,
    /// Keys that must come even if they never did.
    pub expect: Vec<String>,
    /// A key is silent when no message with it came for so long.
    pub stale_after: Duration,
    /// What to do then.
    pub then: OnSilence,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Mono,
    is_silent: bool,
}

/// The keys of one feed.
pub struct Keys {
    options: KeyOptions,
    finder: Finder<'static>,
    seen: HashMap<Box<[u8]>, Seen>,
    look_at: Option<Mono>,
}

impl Keys {
    /// Nothing is watched before [`Keys::begin`].
    pub fn new(options: KeyOptions) -> Keys {
        let finder = Finder::new(options.after.as_bytes()).into_owned();
        Keys { options, finder, seen: HashMap::new(), look_at: None }
    }

    /// What to do about a silent key.
    pub fn then(&self) -> OnSilence {
        self.options.then
    }

    /// After how long a key is silent.
    pub fn stale_after(&self) -> Duration {
        self.options.stale_after
    }

    /// The connection is live: from now on every key must come, those of earlier connections too.
    pub fn begin(&mut self, now: Mono) {
        let expected = self.options.expect.iter().map(|key| Box::from(key.as_bytes()));
        for key in expected.take(KEYS_MAX) {
            self.seen.entry(key).or_insert(Seen { at: now, is_silent: false });
        }
        for seen in self.seen.values_mut() {
            *seen = Seen { at: now, is_silent: false };
        }
        self.look_at = Some(now.after(self.options.stale_after));
    }

    /// The connection is gone: nothing can be expected.
    pub fn end(&mut self) {
        self.look_at = None;
    }

    /// A message of data came in. Nothing is allocated for keys that are known.
    pub fn see(&mut self, message: &[u8], now: Mono) {
        let Keys { options, finder, seen: known, .. } = self;
        let seen = Seen { at: now, is_silent: false };
        let mut last: &[u8] = &[];
        for key in keys_of(message, finder, &options.after) {
            // Many trades of one symbol, say: it is looked up once.
            if key == last {
                continue;
            }
            last = key;
            if let Some(place) = known.get_mut(key) {
                *place = seen;
            } else if known.len() < KEYS_MAX {
                known.insert(Box::from(key), seen);
            }
        }
    }

    /// When to look for silent keys.
    pub fn deadline(&self) -> Option<Mono> {
        self.look_at
    }

    /// Keys that have fallen silent since the last look, in order.
    pub fn silent(&mut self, now: Mono) -> Vec<String> {
        if self.look_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let stale_after = self.options.stale_after;
        let mut silent = Vec::new();
        let mut next = now.after(stale_after);
        for (key, seen) in &mut self.seen {
            let by = seen.at.after(stale_after);
            if by > now {
                next = next.min(by);
            } else if !seen.is_silent {
                if silent.len() == SILENT_AT_ONCE_MAX {
                    next = now;
                    continue;
                }
                seen.is_silent = true;
                silent.push(String::from_utf8_lossy(key).into_owned());
            }
        }
        // With many keys one is due all the time: a short wait takes several at once.
        self.look_at = Some(next.max(now.after(stale_after / 16)));
        silent.sort();
        silent
    }
}

/// All keys of a message, in order; no more than are watched.
fn keys_of<'m>(
    message: &'m [u8],
    finder: &Finder<'_>,
    after: &str,
) -> impl Iterator<Item = &'m [u8]> {
    let is_quoted = after.ends_with('"');
    let is_end = move |byte: &u8| match is_quoted {
        true => *byte == b'"',
        false => b",}]\" \n".contains(byte),
    };
    finder.find_iter(message).take(KEYS_MAX).filter_map(move |at| {
        let start = at + after.len();
        let rest = &message[start..message.len().min(start + KEY_BYTES_MAX + 1)];
        let end = rest.iter().position(is_end)?;
        (end > 0).then(|| &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(1_000_000_000_000 + ms * 1_000_000)
    }

    fn keys(after: &str, expect: &[&str]) -> Keys {
        Keys::new(KeyOptions {
            after: after.to_string(),
            expect: expect.iter().map(ToString::to_string).collect(),
            stale_after: Duration::from_secs(10),
            then: OnSilence::Log,
        })
    }

    #[test]
    fn keys_are_found_by_what_stands_before_them() {
        let check = |after: &str, message: &str, expected: &[&str]| {
            let finder = Finder::new(after.as_bytes());
            let found: Vec<&[u8]> = keys_of(message.as_bytes(), &finder, after).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|key| key.as_bytes()).collect();
            assert_eq!(found, expected, "{after} in {message}");
        };
        check(r#""s":""#, r#"{"e":"trade","s":"BTCUSDT","p":"1"}"#, &["BTCUSDT"]);
        check(r#""s":""#, r#"{"e":"trade"}"#, &[]);
        check(r#""s":""#, r#"{"s":""}"#, &[]);
        check(r#""s":""#, r#"{"s":"BTC"#, &[]);
        check(r#""id":"#, r#"{"id":17,"x":1}"#, &["17"]);
        check(r#""s":""#, &format!(r#"{{"s":"{}"}}"#, "x".repeat(129)), &[]);
        check(r#""stream":""#, r#"{"stream":"a@b c","s":1}"#, &["a@b c"]);
        check(r#""s":""#, r#"[{"s":"A"},{"s":""},{"s":"B"},{"s":"A"}]"#, &["A", "B", "A"]);
        let many = r#"{"s":"A"},"#.repeat(KEYS_MAX + 5);
        assert_eq!(
            keys_of(many.as_bytes(), &Finder::new(r#""s":""#), r#""s":""#).count(),
            KEYS_MAX
        );
    }

    /// Of a message with many symbols only the first was seen: the others fell silent, and were
    /// subscribed to again, or the connection given up, for nothing.
    #[test]
    fn a_message_shows_that_all_its_keys_live() {
        let mut keys = keys(r#""s":""#, &["A", "B", "C"]);
        keys.begin(at(0));
        keys.see(br#"{"data":[{"s":"A"},{"s":"A"},{"s":"B"}]}"#, at(5_000));
        assert_eq!(keys.silent(at(10_000)), ["C"]);
    }

    #[test]
    fn a_silent_key_is_told_once_and_again_after_it_spoke() {
        let mut keys = keys(r#""s":""#, &["A", "B"]);
        assert_eq!(keys.deadline(), None);
        keys.begin(at(0));
        keys.see(br#"{"s":"A"}"#, at(5_000));
        keys.see(br#"{"s":"C"}"#, at(6_000));
        assert!(keys.silent(at(9_999)).is_empty());
        assert_eq!(keys.silent(at(10_000)), ["B"]);
        assert!(keys.silent(at(14_000)).is_empty());
        assert_eq!(keys.deadline(), Some(at(15_000)));
        assert_eq!(keys.silent(at(16_000)), ["A", "C"]);
        assert!(keys.silent(at(40_000)).is_empty(), "they are known to be silent");
        keys.see(br#"{"s":"B"}"#, at(41_000));
        assert_eq!(keys.silent(at(60_000)), ["B"]);
        keys.end();
        assert!(keys.silent(at(99_000)).is_empty());
        keys.begin(at(100_000));
        assert_eq!(keys.silent(at(110_000)), ["A", "B", "C"]);
    }

    #[test]
    fn no_more_keys_than_the_limit_are_kept() {
        let mut keys = keys(r#""s":""#, &[]);
        keys.begin(at(0));
        for n in 0..KEYS_MAX + 10 {
            keys.see(format!(r#"{{"s":"{n}"}}"#).as_bytes(), at(1));
        }
        assert_eq!(keys.seen.len(), KEYS_MAX);
    }
}
