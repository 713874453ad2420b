//! Feeds files for a venue: its facts as options, each with what it is for and who says so.
//!
//! Owns the form of the text, and the check of symbols. What the options mean is checked by those
//! who read the file.

use std::collections::BTreeSet;

use super::{Channel, Fact, Value, Venue, unknown};

/// Longer lines are broken, where they can be.
const COLUMNS_MAX: usize = 100;
/// No symbol is longer, in bytes.
const SYMBOL_BYTES_MAX: usize = 64;

/// The file for these symbols and channels; without channels for those that are the venue's
/// default.
///
/// # Errors
/// All mistakes, a sentence each.
pub(super) fn text(
    venue: &Venue,
    symbols: &[String],
    channels: &[String],
) -> Result<String, Vec<String>> {
    let mut mistakes = Vec::new();
    let symbols = check_symbols(venue, symbols, &mut mistakes);
    let channels = check_channels(venue, channels, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut text = head(venue);
    text += "out = \"tapes\"\n\n[defaults]\n";
    for fact in &venue.facts {
        text += &option(fact);
    }
    text += &list_of(&symbols);
    for channel in channels {
        text += &format!("\n# {}.\n[feed.{}-{}]\n", channel.what, venue.name, channel.name);
        for fact in &channel.facts {
            text += &option(fact);
        }
    }
    Ok(text)
}

fn check_symbols(venue: &Venue, symbols: &[String], mistakes: &mut Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut checked = Vec::new();
    for typed in symbols {
        let is_odd = |c: &char| !c.is_ascii_alphanumeric() && !"-_./:@".contains(*c);
        let symbol = venue.symbol_case.apply(typed);
        if let Some(odd) = typed.chars().find(is_odd) {
            mistakes.push(format!(
                "symbol '{}': {odd:?} is odd in a symbol of {}; write one such as {}",
                typed.escape_debug(),
                venue.name,
                venue.example
            ));
        } else if typed.is_empty() || typed.len() > SYMBOL_BYTES_MAX {
            mistakes
                .push(format!("symbol '{typed}': must have 1 to {SYMBOL_BYTES_MAX} characters"));
        } else if !seen.insert(symbol.clone()) {
            mistakes.push(format!("symbol '{typed}': stands there twice"));
        } else {
            checked.push(symbol);
        }
    }
    checked
}

/// Those that are named, and those they need, in the order of the venue.
fn check_channels<'v>(
    venue: &'v Venue,
    named: &[String],
    mistakes: &mut Vec<String>,
) -> Vec<&'v Channel> {
    let names: Vec<&str> = venue.channels.iter().map(|channel| channel.name.as_str()).collect();
    for name in named.iter().filter(|name| !names.contains(&name.as_str())) {
        mistakes.push(unknown(&format!("channel of {}", venue.name), name, &names));
    }
    let is_named = |channel: &&Channel| match named.is_empty() {
        true => channel.default,
        false => named.contains(&channel.name),
    };
    let wanted: Vec<&Channel> = venue.channels.iter().filter(is_named).collect();
    let is_needed = |channel: &&Channel| {
        let name = &channel.name;
        wanted.iter().any(|other| other.name == *name || other.needs.contains(name))
    };
    venue.channels.iter().filter(is_needed).collect()
}

/// What the file is, and what there is to know that is no option.
fn head(venue: &Venue) -> String {
    let mut text = format!(
        "# {}. {}: made of what public code and documents say.\n\
         # Try it, with this file's name:  feedtape check --connect --config FILE\n",
        venue.what,
        capitalised(&venue.checked)
    );
    for fact in venue.facts.iter().filter(|fact| fact.key.is_none()) {
        text += &format!("# - {}\n", comment(fact));
    }
    text + "\n"
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_ascii_uppercase().to_string())
        + chars.as_str()
}

/// What it is for, and who says so.
fn comment(fact: &Fact) -> String {
    match &fact.why {
        Some(why) => format!("{why} ({})", fact.source),
        None => fact.source.clone(),
    }
}

/// An option's line; its comment stands above where both together are too long.
fn option(fact: &Fact) -> String {
    let (Some(key), Some(value)) = (&fact.key, &fact.value) else { return String::new() };
    let value = match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => quoted(text),
        Value::Texts(texts) => {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
    };
    let (line, comment) = (format!("{key} = {value}"), comment(fact));
    match line.len() + comment.len() + 4 <= COLUMNS_MAX {
        true => format!("{line}  # {comment}\n"),
        false => format!("# {comment}\n{line}\n"),
    }
}

/// A string of TOML: a literal one where that saves escapes.
fn quoted(text: &str) -> String {
    let is_literal = text.contains(['"', '\\']) && !text.contains('\'');
    match is_literal && !text.chars().any(char::is_control) {
        true => format!("'{text}'"),
        // JSON's escapes are TOML's too.
        false => serde_json::Value::from(text).to_string(),
    }
}

/// The list of symbols, as many on a line as fit.
fn list_of(symbols: &[String]) -> String {
    let mut text = "symbols = [".to_string();
    let mut line = String::new();
    for symbol in symbols {
        let item = format!("{}, ", quoted(symbol));
        if 4 + line.len() + item.len() > COLUMNS_MAX {
            text += &format!("\n    {}", line.trim_end());
            line.clear();
        }
        line += &item;
    }
    text + &format!("\n    {}\n]\n", line.trim_end())
}
