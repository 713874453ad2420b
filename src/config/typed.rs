//! Options by name, as they were written: on the command line or in a file.
//!
//! Owns the way between names and the argument structs: which options those have, and making one
//! of them from names and values. It is clap's own parser that does it, so that an option means
//! the same wherever it was written.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Values by the option's name without its dashes; a flag's is empty.
pub(super) type Options = BTreeMap<String, Vec<OsString>>;

/// How a name must resemble another to be taken for a slip (Jaro-Winkler, 1 is equal).
const NEAR: f64 = 0.85;
/// How near a name is from which one letter differs, or two are swapped, at least.
const SLIP: f64 = 0.9;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Flag,
    /// One value.
    One,
    /// Any number of values.
    Many,
}

/// The options of an argument struct.
pub(super) struct Known(BTreeMap<String, Kind>);

impl Known {
    /// All options of `A`.
    pub(super) fn of<A: Args>() -> Known {
        let command = command::<A>();
        let options = command.get_arguments().filter_map(|arg| {
            let kind = match arg.get_action() {
                ArgAction::SetTrue => Kind::Flag,
                ArgAction::Append => Kind::Many,
                _ => Kind::One,
            };
            Some((arg.get_long()?.to_string(), kind))
        });
        Known(options.collect())
    }

    pub(super) fn kind(&self, name: &str) -> Option<Kind> {
        self.0.get(name).copied()
    }

    /// Whether some options begin with `name-`.
    pub(super) fn has_group(&self, name: &str) -> bool {
        self.group(name).next().is_some()
    }

    /// What follows `name-` in those options.
    pub(super) fn group<'k>(&'k self, name: &str) -> impl Iterator<Item = &'k str> {
        self.0.keys().filter_map(move |option| option.strip_prefix(name)?.strip_prefix('-'))
    }

    /// The option, or other key, that was meant, perhaps, and how near it is.
    pub(super) fn nearest<'k>(
        &'k self,
        others: &[&'k str],
        written: &str,
    ) -> Option<(f64, &'k str)> {
        nearest(self.0.keys().map(String::as_str).chain(others.iter().copied()), written)
    }
}

/// Which of these was meant, perhaps, and how near it is.
pub(super) fn nearest<'k>(
    names: impl Iterator<Item = &'k str>,
    written: &str,
) -> Option<(f64, &'k str)> {
    let written = written.to_lowercase().replace('_', "-");
    let near = names.map(|name| {
        // Of a short word that has one slip little is like it.
        let is_slip = written.len() > 1 && strsim::osa_distance(name, &written) <= 1;
        let score = strsim::jaro_winkler(name, &written);
        (if is_slip { score.max(SLIP) } else { score }, name)
    });
    near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score >= NEAR)
}

/// What was typed for options of `A`; defaults are left out.
pub(super) fn typed<A: Args>(matches: &ArgMatches) -> Options {
    let command = command::<A>();
    let mut options = Options::new();
    for arg in command.get_arguments() {
        let (id, Some(name)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        if matches.value_source(id) == Some(ValueSource::CommandLine) {
            let values = match arg.get_action() {
                ArgAction::SetTrue => vec![OsString::new()],
                _ => matches.get_raw(id).into_iter().flatten().map(OsString::from).collect(),
            };
            options.insert(name.to_string(), values);
        }
    }
    options
}

/// Makes an `A` of options that it has; all others have their defaults.
///
/// # Errors
/// A value that clap itself refuses: its sentence.
pub(super) fn make<A: Args + FromArgMatches>(options: &Options) -> Result<A, String> {
    let known = Known::of::<A>();
    let mut words = Vec::new();
    for (name, values) in options {
        for value in values {
            let mut word = OsString::from(format!("--{name}"));
            if known.kind(name) != Some(Kind::Flag) {
                word.push("=");
                word.push(value);
            }
            words.push(word);
        }
    }
    let matches = command::<A>().try_get_matches_from(words);
    let made = matches.and_then(|matches| A::from_arg_matches(&matches));
    made.map_err(|error| error.to_string().trim().to_string())
}

fn command<A: Args>() -> Command {
    A::augment_args(Command::new("options").no_binary_name(true).disable_help_flag(true))
}
