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
}

/// Shows no secrets.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}
