//! Text from elsewhere, fit for a terminal and for a log of lines.
//!
//! Names of files, of feeds in headers, and what servers say may hold anything: escape sequences
//! that rewrite a terminal, line feeds that forge a line of the log. Owns what is shown instead.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with control characters, and those that turn the direction of writing, as escapes
/// (`\n`, `\u{1b}`).
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unfit) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unfit(c) {
            write!(shown, "{}", c.escape_debug()).expect("a string takes everything");
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn is_unfit(c: char) -> bool {
    // The last ones: marks, separators and overrides of bidirectional text.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        for (text, shown) in [
            ("", ""),
            ("'a b'\\\u{e9}", "'a b'\\\u{e9}"),
            ("a\nb\t\r", "a\\nb\\t\\r"),
            ("\u{1b}[2J\0\u{7f}", "\\u{1b}[2J\\0\\u{7f}"),
            ("\u{9b}1m", "\\u{9b}1m"),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}"),
        ] {
            assert_eq!(printable(text), shown);
            assert!(!printable(text).chars().any(is_unfit));
        }
    }
}
