//! Options that do nothing without another, or because of what another says.
//!
//! Owns the tables of both, and what is to be said of them. What counts is what was written, never
//! a default: `[defaults]` may hold options that a single feed has no use for.

use std::ffi::OsString;

use super::mistakes::Mistakes;
use super::typed::Options;
use crate::units::parse_span;

/// An option, those of which it needs one, and what for.
type Need = (&'static str, &'static [&'static str], &'static str);
/// An option, another, and the value of that with which the first does nothing.
type Conflict = (&'static str, &'static str, &'static str);

const TEXTS: &[&str] = &["subscribe", "subscribe-file"];

const NEEDS: [Need; 14] = [
    ("ack-match", TEXTS, "nothing is sent to acknowledge"),
    ("ack-per", &["ack-match"], "no message acknowledges"),
    ("ack-deadline", &["ack-match"], "no message acknowledges"),
    ("refuse-then", &["refuse-match"], "no message refuses"),
    ("subscribe-rate", TEXTS, "nothing is sent"),
    ("heartbeat-every", &["heartbeat-send"], "nothing is sent"),
    ("heartbeat-send", &["heartbeat-every"], "it is never sent"),
    ("heartbeat-answer", &["heartbeat-every"], "nothing is sent to answer"),
    ("heartbeat-deadline", &["heartbeat-answer"], "no answer is waited for"),
    ("keys-expect", &["keys-after"], "no key is looked for"),
    ("keys-stale-after", &["keys-after"], "no key is looked for"),
    ("keys-then", &["keys-after"], "no key is looked for"),
    ("batch-items", TEXTS, "nothing is sent"),
    ("batch-bytes", TEXTS, "nothing is sent"),
];

const CONFLICTS: [Conflict; 4] = [
    ("pong-deadline", "ping-every", "0"),
    ("cacert", "insecure", ""),
    ("level", "compress", "none"),
    ("stall-deadline", "on-stall", "drop"),
];

/// Values of these may be secrets: they are not quoted.
const NOT_QUOTED: [&str; 1] = ["heartbeat-send"];

/// Notes what of `written` does nothing, given all options that count.
pub(super) fn check<'o>(
    written: impl Iterator<Item = &'o String>,
    all: &Options,
    mistakes: &mut Mistakes,
) {
    for option in written.filter(|option| is_on(all, option)) {
        for (_, needs, why) in NEEDS.iter().filter(|(name, _, _)| name == option) {
            if !needs.iter().any(|need| is_on(all, need)) {
                let needs: Vec<String> = needs.iter().map(|need| format!("--{need}")).collect();
                let what = format!("needs {}: {why} without it", needs.join(" or "));
                say(option, all, &what, mistakes);
            }
        }
        for (_, other, value) in CONFLICTS.iter().filter(|(name, _, _)| name == option) {
            if all.get(*other).is_some_and(|values| is_value(values, value)) {
                let space = if value.is_empty() { "" } else { " " };
                let what = format!("does nothing with --{other}{space}{value}: leave one out");
                say(option, all, &what, mistakes);
            }
        }
    }
}

fn say(option: &str, all: &Options, what: &str, mistakes: &mut Mistakes) {
    let dashed = format!("--{option}");
    if NOT_QUOTED.contains(&option) {
        return mistakes.about(&dashed, what);
    }
    let values = all.get(option).into_iter().flatten();
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    mistakes.add(&dashed, &values.join(","), what);
}

/// Whether it was written, and is not switched off.
fn is_on(all: &Options, option: &str) -> bool {
    all.get(option).is_some_and(|values| !values.is_empty() && !is_value(values, "0"))
}

/// `0` is any way to write that span; an empty value is a flag's.
fn is_value(values: &[OsString], value: &str) -> bool {
    let [only] = values else { return false };
    let is_zero = || parse_span(&only.to_string_lossy()).is_ok_and(|span| span.is_zero());
    only == value || (value == "0" && is_zero())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_file, told};

    /// Each of these was taken and did nothing.
    #[test]
    fn options_that_do_nothing_are_told_with_their_lines() {
        let feed = |lines: &str| format!("out = 'o'\n[feed.a]\nurl = 'wss://x/'\n{lines}");
        for (line, what) in [
            ("ack-match = 'x'", "ack-match 'x': needs --subscribe or --subscribe-file: nothing"),
            ("ack-per = 'item'", "ack-per 'item': needs --ack-match: no message acknowledges"),
            ("ack-deadline = '1s'", "ack-deadline '1s': needs --ack-match"),
            ("refuse.then = 'stop'", "refuse-then 'stop': needs --refuse-match: no message"),
            ("subscribe-rate = '5/s'", "subscribe-rate '5/s': needs --subscribe or"),
            ("batch-items = 5", "batch-items '5': needs --subscribe or"),
            ("heartbeat-every = '1s'", "heartbeat-every '1s': needs --heartbeat-send"),
            ("heartbeat-send = 'secret'", "heartbeat-send: needs --heartbeat-every"),
            ("heartbeat-answer = 'x'", "heartbeat-answer 'x': needs --heartbeat-every"),
            ("heartbeat-deadline = '1s'", "heartbeat-deadline '1s': needs --heartbeat-answer"),
            ("keys-expect = ['k', 'l']", "keys-expect 'k,l': needs --keys-after"),
            ("keys-stale-after = '1s'", "keys-stale-after '1s': needs --keys-after"),
            ("keys-then = 'reconnect'", "keys-then 'reconnect': needs --keys-after"),
        ] {
            told(&feed(line), &[&format!("feeds.toml:4: [feed.a] {what}")]);
        }
        let pong = "pong-deadline '5s': does nothing with --ping-every 0: leave one out";
        told(&feed("pong-deadline = '5s'\nping-every = '0s'"), &[pong]);
        let recorder = "on-stall = 'drop'\nstall-deadline = '5s'\ncompress = 'none'\nlevel = 3\n";
        told(
            &(recorder.to_string() + &feed("")),
            &[
                "feeds.toml:2: stall-deadline '5s': does nothing with --on-stall drop",
                "feeds.toml:4: level '3': does nothing with --compress none",
            ],
        );
        let typed = check("wss://x/ --refuse-then stop --level 3 --compress none").unwrap_err();
        assert!(
            typed[0].starts_with("--level '3': does nothing with --compress none"),
            "{typed:?}"
        );
        assert!(typed[1].starts_with("--refuse-then 'stop': needs --refuse-match"), "{typed:?}");
        let cacert = feed("insecure = true\ncacert = '/nowhere.pem'");
        told(&cacert, &["5: [feed.a] cacert '/nowhere.pem': does nothing with --insecure"]);
    }

    /// What stands under `[defaults]` is for those feeds which have a use for it; and a feed may
    /// switch off a part of it.
    #[test]
    fn defaults_may_hold_what_a_feed_has_no_use_for() {
        let text = "out = 'o'\n[defaults]\nack-match = 'x'\nack-per = 'connection'\n\
                    keys-then = 'log'\nsubscribe-rate = '5/s'\npong-deadline = '5s'\n\
                    per-connection = 5\nheartbeat = { every = '1s', send = 'x', answer = 'y' }\n\
                    [feed.a]\nurl = 'ws://x/'\nheartbeat-every = '0'\nping-every = '0'\n\
                    insecure = false\n";
        let options = check_file(text, "--level 3").unwrap();
        let feed = super::super::tests::stream(&options, 0);
        assert_eq!(
            (feed.rules.acks, &feed.heartbeat),
            (0, &None),
            "nothing is sent to acknowledge"
        );
        check_file(&format!("level = 3\n{text}"), "--compress none").unwrap();
    }
}
