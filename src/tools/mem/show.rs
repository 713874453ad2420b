//! The two forms of the output: text in columns, for any width, and JSON.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::facts::Facts;
use super::rows::{Figure, Row, Section};
use crate::printable::printable;
use crate::units::format_size;

/// Columns of a figure's name, and of the figure.
const LABEL: usize = 22;
const FIGURE: usize = 9;
/// Where the sentence begins: the margin, both columns and the gaps.
const INDENT: usize = 2 + LABEL + 1 + FIGURE + 2;

/// Sections of lines `name figure sentence`, the sentences wrapped at `width` columns.
pub(super) fn text(facts: &Facts, sections: &[Section], verdict: &str, width: usize) -> String {
    let what = match &facts.out {
        Some(out) => format!("recorder of {}", out.display()),
        None => "not a recorder, so with less detail".to_string(),
    };
    let mut text = String::new();
    let head = format!("{} {}: {what}", facts.pid, facts.status.name);
    paragraph(&printable(&head), width, "", &mut text);
    for section in sections {
        text.push('\n');
        paragraph(&printable(&section.title), width, "  ", &mut text);
        for row in &section.rows {
            row_text(row, width, &mut text);
        }
    }
    text.push_str("\nVERDICT\n");
    for line in wrapped(&printable(verdict), width - 2) {
        writeln!(text, "  {line}").expect("a string takes everything");
    }
    text
}

fn row_text(row: &Row, width: usize, text: &mut String) {
    let (figure, sentence) = match &row.figure {
        Figure::Bytes(bytes) => (format_size(*bytes), row.sentence.as_str()),
        Figure::Count(count) => (count.to_string(), row.sentence.as_str()),
        Figure::Unknown(why) => ("?".to_string(), why.as_str()),
        Figure::Absent => return,
    };
    let mut lead = format!("  {:<LABEL$} {figure:>FIGURE$}  ", row.label);
    for line in wrapped(&printable(sentence), width - INDENT) {
        writeln!(text, "{lead}{line}").expect("a string takes everything");
        lead = " ".repeat(INDENT);
    }
}

/// A text over as many lines as it needs, all but the first indented.
fn paragraph(words: &str, width: usize, indent: &str, text: &mut String) {
    for (n, line) in wrapped(words, width - indent.len()).iter().enumerate() {
        let indent = if n == 0 { "" } else { indent };
        writeln!(text, "{indent}{line}").expect("a string takes everything");
    }
}

/// The words of a text in lines of at most so many columns; a longer word has a line of its own.
/// At least one line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_string());
        }
    }
    lines
}

/// One object: each figure by its name, `null` where it is not known, and in `unknown` why.
pub(super) fn json(facts: &Facts, sections: &[Section], verdict: &str) -> Value {
    let mut object = Map::new();
    object.insert("pid".to_string(), facts.pid.into());
    object.insert("name".to_string(), facts.status.name.clone().into());
    let out = facts.out.as_ref().map(|out| out.to_string_lossy());
    object.insert("out".to_string(), out.into());
    let version = facts.group.as_ref().ok().map(|within| within.group.version.number());
    object.insert("cgroup_version".to_string(), version.into());
    let folder = facts.group.as_ref().ok().map(|within| within.group.folder.to_string_lossy());
    object.insert("cgroup_folder".to_string(), folder.into());
    let mut unknown = Map::new();
    for row in sections.iter().flat_map(|section| &section.rows) {
        let value = match &row.figure {
            Figure::Bytes(value) | Figure::Count(value) => Value::from(*value),
            Figure::Absent => Value::Null,
            Figure::Unknown(why) => {
                unknown.insert(row.key.to_string(), why.clone().into());
                Value::Null
            }
        };
        object.insert(row.key.to_string(), value);
    }
    object.insert("unknown".to_string(), unknown.into());
    object.insert("verdict".to_string(), verdict.into());
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped() {
        for (text, width, expected) in [
            ("", 5, &[""][..]),
            ("a b c", 5, &["a b c"]),
            ("a b c", 4, &["a b", "c"]),
            ("aaaaaaaa b", 4, &["aaaaaaaa", "b"]),
            ("b  aaaaaaaa", 4, &["b", "aaaaaaaa"]),
        ] {
            assert_eq!(wrapped(text, width), expected, "{text} {width}");
        }
    }
}
