//! A recorder's answers as text for people.
//!
//! Owns the layout. What is not known is shown as `-`; text from venues may hold anything.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::clock;
use crate::printable::printable;
use crate::units::{format_size, format_span};

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_string(), format_size)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text).into_owned(),
        Value::Null => "-".to_string(),
        other => other.to_string(),
    }
}

/// Time from one moment to another, in whole seconds.
fn span(from_ns: &Value, to_ns: &Value) -> String {
    match (from_ns.as_u64(), to_ns.as_u64()) {
        (Some(from), Some(to)) => seconds(to.saturating_sub(from) / 1_000_000_000),
        _ => "-".to_string(),
    }
}

fn seconds(seconds: u64) -> String {
    format_span(Duration::from_secs(seconds))
}

fn time(ns: &Value) -> String {
    ns.as_u64().map_or_else(|| "-".to_string(), clock::rfc3339)
}

/// Columns as wide as what stands in them; numbers to the right.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([head[at].len()]).max().unwrap_or(0)
        })
        .collect();
    let head: Vec<String> = head.iter().map(|name| name.to_string()).collect();
    let mut out = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for ((at, cell), width) in row.iter().enumerate().zip(&widths) {
            let is_number =
                rows.iter().any(|row| row[at].starts_with(|c: char| c.is_ascii_digit()));
            let cell =
                if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line += &cell;
            line += "  ";
        }
        writeln!(out, "{}", line.trim_end()).expect("a string takes everything");
    }
    out
}

/// The recorder as a whole, and whether all is recorded.
pub(super) fn status(recorder: &Value, ready: &Value, feeds: &Value) -> String {
    let disk = &recorder["disk"];
    let feeds = feeds["feeds"].as_array().map_or(&[][..], Vec::as_slice);
    let live = feeds.iter().filter(|feed| feed["state"] == "live").count();
    let paused = if recorder["paused"] == true { "; PAUSED" } else { "" };
    let mut out = format!(
        "feedtape {} on {}, pid {}, up {}{paused}\n\
         recording to {}\n\
         {live} of {} feeds live\n\
         disk: {} free of {}, {} a day, full in {}\n\
         queue: {} of {}\n",
        text(&recorder["feedtape"]),
        text(&recorder["host"]),
        recorder["pid"],
        span(&recorder["started_ns"], &recorder["now_ns"]),
        text(&recorder["out"]),
        feeds.len(),
        size(&disk["free_bytes"]),
        size(&disk["total_bytes"]),
        size(&disk["written_per_day_bytes"]),
        disk["full_in_s"].as_u64().map_or_else(|| "-".to_string(), seconds),
        size(&recorder["queue"]["bytes"]),
        size(&recorder["queue"]["bytes_max"]),
    );
    match ready["reasons"].as_array() {
        Some(reasons) if !reasons.is_empty() => {
            out += "not everything is recorded:\n";
            reasons.iter().for_each(|reason| out += &format!("  {}\n", text(reason)));
        }
        _ => out += "everything is recorded\n",
    }
    out
}

/// A line for each feed.
pub(super) fn feeds(answer: &Value) -> String {
    let feeds = answer["feeds"].as_array().map_or(&[][..], Vec::as_slice);
    let now = &answer["now_ns"];
    let rows: Vec<Vec<String>> = feeds
        .iter()
        .map(|feed| {
            let sum = |of: &Value, key: Option<&str>| -> u64 {
                let values = of.as_object().into_iter().flat_map(|object| object.values());
                values.filter_map(|value| key.map_or(value, |key| &value[key]).as_u64()).sum()
            };
            vec![
                text(&feed["name"]),
                text(&feed["state"]),
                span(&feed["since_ns"], now),
                text(&feed["messages"]),
                size(&feed["bytes"]),
                span(&feed["last_data_ns"], now),
                sum(&feed["reconnects"], None).to_string(),
                sum(&feed["gaps"], Some("holes")).to_string(),
                sum(&feed["gaps"], Some("messages")).to_string(),
                text(&feed["trouble"]),
            ]
        })
        .collect();
    let head = [
        "FEED",
        "STATE",
        "SINCE",
        "MESSAGES",
        "BYTES",
        "LAST DATA",
        "RECONNECTS",
        "GAPS",
        "LOST",
        "TROUBLE",
    ];
    table(&head, &rows)
}

/// A line for each gap of the last day.
pub(super) fn gaps(answer: &Value) -> String {
    let gaps = answer["gaps"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<Vec<String>> = gaps
        .iter()
        .map(|gap| {
            let (to, lasted) = match gap["to_ns"].is_null() {
                true => ("open".to_string(), "-".to_string()),
                false => (time(&gap["to_ns"]), span(&gap["from_ns"], &gap["to_ns"])),
            };
            let messages = text(&gap["messages"]);
            vec![
                text(&gap["feed"]),
                text(&gap["reason"]),
                time(&gap["from_ns"]),
                to,
                lasted,
                messages,
            ]
        })
        .collect();
    let known = time(&answer["known_since_ns"]);
    match rows.is_empty() {
        true => format!("no gaps since {known}\n"),
        false => {
            let head = ["FEED", "REASON", "FROM", "TO", "LASTED", "LOST"];
            format!("{}since {known}; the tapes hold all\n", table(&head, &rows))
        }
    }
}

/// A line for each figure, by section; then the plan, and what it all comes to.
pub(super) fn memory(answer: &Value) -> String {
    let mut out = String::new();
    let mut section = &Value::Null;
    for sentence in answer["sentences"].as_array().into_iter().flatten() {
        if sentence["section"] != *section {
            section = &sentence["section"];
            let gap = if out.is_empty() { "" } else { "\n" };
            out += &format!("{gap}{}\n", text(section));
        }
        let value = match sentence["unit"] == "count" {
            true => text(&sentence["value"]),
            false => size(&sentence["value"]),
        };
        let (label, words) = (text(&sentence["label"]), text(&sentence["text"]));
        out += &format!("  {label:<22} {value:>9}  {words}\n");
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let plan = &answer["plan"];
    if !plan.is_null() {
        let rows = ["idle_bytes", "full_bytes", "large_bytes"].map(|row| size(&plan[row]));
        out += &format!(
            "planned: {} idle, {} with the queue full, {} with a large message too\n",
            rows[0], rows[1], rows[2]
        );
    }
    for (head, words) in [("verdict", &answer["verdict"]), ("over time", &answer["leak"]["text"])] {
        if !words.is_null() {
            out += &format!("{head}: {}\n", text(words));
        }
    }
    out
}

/// Lines of the log.
pub(super) fn events(answer: &Value) -> String {
    let mut out = String::new();
    if answer["missed"] == true {
        out += "(older lines are gone, or the recorder has started anew)\n";
    }
    for event in answer["events"].as_array().into_iter().flatten() {
        let level = text(&event["level"]).to_uppercase();
        let line = format!("{} {level:<5} {}\n", time(&event["at_ns"]), text(&event["text"]));
        out += &line;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn tables() {
        let feed = |name: &str, state: &str, trouble: Value| {
            json!({
                "name": name, "state": state, "since_ns": 1_000_000_000u64, "messages": 12345,
                "bytes": 2 << 20, "last_data_ns": null, "reconnects": {"lost": 2, "stale": 1},
                "gaps": {"stall": {"holes": 2, "messages": 7, "bytes": 9}}, "trouble": trouble,
            })
        };
        let answer = json!({
            "now_ns": 61_000_000_000u64,
            "feeds": [feed("btc", "live", Value::Null), feed("eth-long", "waiting", json!("a\u{1b}b"))],
        });
        expect![[r#"
            FEED      STATE    SINCE  MESSAGES  BYTES  LAST DATA  RECONNECTS  GAPS  LOST  TROUBLE
            btc       live        1m     12345   2MiB  -                   3     2     7  -
            eth-long  waiting     1m     12345   2MiB  -                   3     2     7  a\u{1b}b
        "#]]
        .assert_eq(&feeds(&answer));
        let answer = json!({
            "known_since_ns": 0,
            "gaps": [
                {"feed": "btc", "reason": "reconnect", "from_ns": 1_000_000_000u64,
                 "to_ns": 5_000_000_000u64, "messages": null},
                {"feed": "btc", "reason": "paused", "from_ns": 9_000_000_000u64, "to_ns": null,
                 "messages": null},
            ],
        });
        expect![[r#"
            FEED  REASON                         FROM                        TO  LASTED  LOST
            btc   reconnect  1970-01-01T00:00:01.000Z  1970-01-01T00:00:05.000Z      4s  -
            btc   paused     1970-01-01T00:00:09.000Z                      open       -  -
            since 1970-01-01T00:00:00.000Z; the tapes hold all
        "#]]
        .assert_eq(&gaps(&answer));
    }

    /// Threads were shown as bytes, and of two rows `arenas` nobody knew which was which.
    #[test]
    fn memory_by_sections() {
        let row = |section: &str, label: &str, unit: &str, value: Value| {
            json!({
                "section": section, "key": "k", "label": label, "unit": unit, "value": value,
                "text": "Words.",
            })
        };
        let answer = json!({
            "sentences": [
                row("PROCESS", "RSS", "bytes", json!(9 << 20)),
                row("PROCESS", "threads", "count", json!(14)),
                row("HEAP", "arenas", "count", json!(2)),
                row("ADDRESS SPACE", "arenas", "bytes", json!(64 << 20)),
            ],
            "plan": {"idle_bytes": 10 << 20, "full_bytes": 20 << 20, "large_bytes": 30 << 20},
            "verdict": "No limit\u{1b} is set.",
            "leak": {"word": "flat", "text": "flat: no leak"},
        });
        expect![[r#"
            PROCESS
              RSS                         9MiB  Words.
              threads                       14  Words.

            HEAP
              arenas                         2  Words.

            ADDRESS SPACE
              arenas                     64MiB  Words.

            planned: 10MiB idle, 20MiB with the queue full, 30MiB with a large message too
            verdict: No limit\u{1b} is set.
            over time: flat: no leak
        "#]]
        .assert_eq(&memory(&answer));
    }

    #[test]
    fn answers_that_lack_everything_are_shown_all_the_same() {
        let nothing = Value::Null;
        for text in [
            status(&nothing, &nothing, &nothing),
            feeds(&nothing),
            gaps(&nothing),
            memory(&nothing),
            events(&nothing),
        ] {
            assert!(!text.contains("null") || text.contains("pid null"), "{text}");
        }
    }
}
