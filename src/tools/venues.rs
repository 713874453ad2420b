//! `feedtape venues` and `feedtape new`: what is known of venues, and feeds files made of it.
//!
//! Venues are data, all of it in `venues.toml`. This file owns what that file may say, the list of
//! it, and finding a venue by its name; `feeds_file.rs` writes feeds files. Nothing here knows any
//! venue.

mod feeds_file;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::Write;

use serde::Deserialize;

use super::{Outcome, is_closed_pipe};

const BOOK: &str = include_str!("venues/venues.toml");
/// How a name must resemble another to be taken for a slip (Jaro-Winkler, 1 is equal).
const NEAR: f64 = 0.8;

/// What was typed after `feedtape new`.
#[derive(Debug, Clone, clap::Args)]
pub struct NewArgs {
    /// Which venue; `feedtape venues` has them all.
    #[arg(value_name = "VENUE")]
    pub venue: String,

    /// Symbols as the venue writes them, but for upper and lower case.
    #[arg(value_name = "SYMBOL", required = true, value_delimiter = ',')]
    pub symbols: Vec<String>,

    /// What to record of each, such as trades,book. [default: those which `feedtape venues` marks]
    #[arg(long, value_name = "CHANNEL", value_delimiter = ',')]
    pub channels: Vec<String>,
}

/// All venues.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    #[serde(rename = "venue")]
    venues: Vec<Venue>,
}

/// One venue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Venue {
    name: String,
    /// In a few words.
    what: String,
    /// Whether, and how, all this was tried.
    checked: String,
    symbol_case: SymbolCase,
    /// One of its symbols.
    example: String,
    facts: Vec<Fact>,
    #[serde(rename = "channel")]
    channels: Vec<Channel>,
}

/// What may be subscribed to; a feed of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Channel {
    name: String,
    /// In a few words.
    what: String,
    /// Whether it is recorded where nobody says what is to be.
    #[serde(default)]
    default: bool,
    /// Channels it makes no sense without.
    #[serde(default)]
    needs: Vec<String>,
    facts: Vec<Fact>,
}

/// Something to know about a venue; with a key and a value an option of a feeds file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fact {
    key: Option<String>,
    value: Option<Value>,
    why: Option<String>,
    /// Who says so; several with `, ` between.
    source: String,
}

/// The value of an option.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
    Texts(Vec<String>),
}

/// How a venue writes its symbols.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SymbolCase {
    Lower,
    Upper,
    AsIs,
}

impl SymbolCase {
    fn apply(self, symbol: &str) -> String {
        match self {
            SymbolCase::Lower => symbol.to_ascii_lowercase(),
            SymbolCase::Upper => symbol.to_ascii_uppercase(),
            SymbolCase::AsIs => symbol.to_string(),
        }
    }
}

impl Book {
    fn read() -> Book {
        toml::from_str(BOOK).expect("a test reads it")
    }

    /// The venue of this name.
    ///
    /// # Errors
    /// A sentence that names the one which was meant, perhaps, and all there are.
    fn find(&self, name: &str) -> Result<&Venue, String> {
        if let Some(venue) = self.venues.iter().find(|venue| venue.name == name) {
            return Ok(venue);
        }
        let names: Vec<&str> = self.venues.iter().map(|venue| venue.name.as_str()).collect();
        Err(unknown("venue", name, &names))
    }
}

/// What is to be said of a name that is none of these.
fn unknown(noun: &str, name: &str, names: &[&str]) -> String {
    let written = name.to_lowercase();
    let near = names.iter().map(|known| (strsim::jaro_winkler(known, &written), known));
    let meant = match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, known)) if score >= NEAR => format!("; did you mean '{known}'?"),
        Some(_) | None => "; ".to_string(),
    };
    let space = if meant.ends_with('?') { " There" } else { "there" };
    format!("'{name}' is no {noun}{meant}{space} are: {}", names.join(", "))
}

impl NewArgs {
    /// The feeds file.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn text(&self) -> Result<String, Vec<String>> {
        let book = Book::read();
        let venue = book.find(&self.venue).map_err(|mistake| vec![mistake])?;
        feeds_file::text(venue, &self.symbols, &self.channels)
    }
}

/// Prints a feeds file.
///
/// # Errors
/// The output can't be written.
pub fn print(text: &str, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Into::into) {
        Err(error) if is_closed_pipe(&error) => Ok(Outcome::Clean),
        result => result.map(|()| Outcome::Clean),
    }
}

/// Prints what is known of all venues.
///
/// # Errors
/// The output can't be written.
pub fn list(out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let venues = Book::read().venues;
    let texts: Vec<String> = venues.iter().map(describe).collect();
    let marks = "\n* is recorded where `feedtape new` is given no --channels.\n";
    print(&(texts.join("\n") + marks), out)
}

fn describe(venue: &Venue) -> String {
    let Venue { name, what, checked, example, .. } = venue;
    let mut text = format!("{name}: {what} ({checked})\n  symbols   such as {example}\n");
    for (n, channel) in venue.channels.iter().enumerate() {
        let label = if n == 0 { "channels" } else { "" };
        let mark = if channel.default { "*" } else { " " };
        text += &format!("  {label:<8} {mark}{}: {}\n", channel.name, channel.what);
    }
    let told = venue.facts.iter().filter_map(|fact| Some((fact.why.as_ref()?, &fact.source)));
    for (n, (why, source)) in told.enumerate() {
        let label = if n == 0 { "limits" } else { "" };
        text += &format!("  {label:<8}  {why} ({source})\n");
    }
    text + &format!("  sources   {}\n", sources(venue).join(", "))
}

fn sources(venue: &Venue) -> Vec<&str> {
    let facts = venue.channels.iter().flat_map(|channel| &channel.facts).chain(&venue.facts);
    let all: BTreeSet<&str> = facts.flat_map(|fact| fact.source.split(", ")).collect();
    all.into_iter().collect()
}
