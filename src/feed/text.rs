//! A text that may hold secrets.
//!
//! Owns the pair of what is sent and what may be shown; where secrets come from is not known here.

use std::fmt;

/// What is sent, and how it shows in logs and on tapes.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// With its secrets.
    pub value: String,
    /// With `***` in place of them.
    pub shown: String,
}

impl Text {
    /// A text without secrets.
    pub fn plain(text: &str) -> Text {
        Text { value: text.to_string(), shown: text.to_string() }
    }

    /// The secrets in it: what stands where `***` is shown. Where the text is such that they can't
    /// be told apart from what surrounds them, more of it.
    pub fn secrets(&self) -> Vec<String> {
        if self.value == self.shown {
            return Vec::new();
        }
        let mut secrets = Vec::new();
        let mut pieces = self.shown.split("***");
        let Some(mut rest) = self.value.strip_prefix(pieces.next().unwrap_or_default()) else {
            return vec![self.value.clone()];
        };
        for piece in pieces {
            let at = if piece.is_empty() { Some(rest.len()) } else { rest.find(piece) };
            let at = at.unwrap_or(rest.len());
            secrets.push(rest[..at].to_string());
            rest = rest[at..].strip_prefix(piece).unwrap_or_default();
        }
        secrets.retain(|secret| !secret.is_empty());
        secrets
    }
}

/// Shows no secrets.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_what_is_not_shown() {
        let check = |value: &str, shown: &str, secrets: &[&str]| {
            let text = Text { value: value.to_string(), shown: shown.to_string() };
            assert_eq!(text.secrets(), secrets, "{shown}");
        };
        check("plain", "plain", &[]);
        check("a=s1&b=s2", "a=***&b=***", &["s1", "s2"]);
        check("s1-end", "***-end", &["s1"]);
        check("s1s2", "******", &["s1s2"]);
        check("", "***", &[]);
    }
}
