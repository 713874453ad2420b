//! Mistakes in options, all of them, each a sentence that says where, what, and what is right.
//!
//! Owns how they read, and the checks that many options share. Where an option was written decides
//! how it is named: `--stale-after` on the command line, `feeds.toml:7: [defaults] stale-after` in
//! a file.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::units::{format_size, format_span, parse_size, parse_span};

/// Where the options that are looked at now were written.
#[derive(Debug, Clone, Default)]
pub(super) enum Place {
    /// Typed.
    #[default]
    CommandLine,
    /// In a table of a file; each option that was written there, as in `stale-after`, with where.
    File {
        /// The file and the table: what is said of options that were not written anywhere.
        table: String,
        /// As in `feeds.toml:7: [defaults] stale-after`.
        written: BTreeMap<String, String>,
    },
}

/// Mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    found: Vec<String>,
    place: Place,
}

impl Mistakes {
    /// From now on options of another place are looked at.
    pub(super) fn at(&mut self, place: Place) {
        self.place = place;
    }

    /// None, or all there are.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, Vec<String>> {
        if self.found.is_empty() { Ok(value) } else { Err(self.found) }
    }

    /// A whole sentence. What several feeds take from one line is one mistake.
    pub(super) fn say(&mut self, sentence: String) {
        if !self.found.contains(&sentence) {
            self.found.push(sentence);
        }
    }

    /// About an option; its value is not quoted: it may be a secret, or long.
    pub(super) fn about(&mut self, option: &str, what: &str) {
        let sentence = format!("{}: {what}", self.name(option));
        self.say(sentence);
    }

    /// About an option's value.
    pub(super) fn add(&mut self, option: &str, value: &str, what: &str) {
        let sentence = format!("{} '{value}': {what}", self.name(option));
        self.say(sentence);
    }

    /// How the option is called where it was written.
    fn name(&self, option: &str) -> String {
        match &self.place {
            Place::CommandLine => option.to_string(),
            Place::File { table, written } => {
                let key = option.trim_start_matches("--");
                written.get(key).cloned().unwrap_or_else(|| format!("{table} {key}"))
            }
        }
    }

    /// A span within bounds; where it is none, the mistake is noted and the upper bound returned.
    pub(super) fn span(
        &mut self,
        option: &str,
        text: &str,
        min: &str,
        max: &str,
        zero_is_off: bool,
    ) -> Duration {
        let bound = |text| parse_span(text).expect("bounds are spans");
        match parse_span(text) {
            Ok(span) if span.is_zero() && zero_is_off => span,
            Ok(span) if span < bound(min) || span > bound(max) => {
                let off = if zero_is_off { ", or 0 for off" } else { "" };
                let range = format!("{} to {}", format_span(bound(min)), format_span(bound(max)));
                self.add(option, text, &format!("must be from {range}{off}"));
                bound(max)
            }
            Ok(span) => span,
            Err(error) => {
                self.about(option, &error);
                bound(max)
            }
        }
    }

    /// A size within bounds; else as [`Mistakes::span`].
    pub(super) fn size(&mut self, option: &str, text: &str, min: &str, max: &str) -> u64 {
        let bound = |text| parse_size(text).expect("bounds are sizes");
        match parse_size(text) {
            Ok(size) if size < bound(min) || size > bound(max) => {
                let range = format!("{} to {}", format_size(bound(min)), format_size(bound(max)));
                self.add(option, text, &format!("must be from {range}"));
                bound(max)
            }
            Ok(size) => size,
            Err(error) => {
                self.about(option, &error);
                bound(max)
            }
        }
    }

    /// A whole number within bounds; else the lower bound.
    pub(super) fn number(&mut self, option: &str, text: &str, min: u64, max: u64) -> u64 {
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => number,
            _ => {
                let what = match max {
                    u64::MAX => format!("must be a whole number from {min}"),
                    _ => format!("must be a whole number from {min} to {max}"),
                };
                self.add(option, text, &what);
                min
            }
        }
    }

    /// One of some words; else the first.
    pub(super) fn word<T: Copy>(&mut self, option: &str, text: &str, words: &[(&str, T)]) -> T {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let (last, others) = words.split_last().expect("there are words to choose from");
        let others: Vec<&str> = others.iter().map(|(word, _)| *word).collect();
        self.add(option, text, &format!("must be {} or {}", others.join(", "), last.0));
        words[0].1
    }
}
