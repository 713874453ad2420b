//! Sizes and time spans as people type them: `64MiB`, `1GB`, `250ms`, `1h30m`.
//!
//! Owns the parsing and printing of both. Knows nothing about options or their bounds.

use std::fmt;
use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const SPAN_UNITS: [(&str, u64); 6] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Parses a size in bytes: a whole number with `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB`,
/// or no unit (bytes). Upper and lower case are the same.
///
/// # Errors
/// A sentence that quotes the input and says what would be right.
pub fn parse_size(input: &str) -> Result<u64, String> {
    let text = input.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("'{input}' is not a size: write a number and a unit, like 64MiB or 1GB");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start();
    let factor = if unit.is_empty() {
        1
    } else {
        SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1
    };
    number.checked_mul(factor).ok_or_else(|| format!("'{input}' is too large for a size"))
}

/// Parses a span: one or more of a whole number with `us`, `ms`, `s`, `m`, `h` or `d`, as in
/// `1h30m`; a bare `0` is zero.
///
/// # Errors
/// A sentence that quotes the input and says what would be right.
pub fn parse_span(input: &str) -> Result<Duration, String> {
    let wrong =
        || format!("'{input}' is not a time span: write a number and a unit, like 250ms or 1h30m");
    let mut rest = input.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        let (_, factor) = SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        rest = &rest[letters..];
        nanos = number
            .checked_mul(*factor)
            .and_then(|part| nanos.checked_add(part))
            .ok_or_else(|| format!("'{input}' is too long for a time span"))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// A size for people: exact where it is a whole unit (`64MiB`), else one decimal (`1.5MiB`).
pub fn format_size(bytes: u64) -> String {
    for (name, factor) in &SIZE_UNITS[..4] {
        if bytes >= *factor {
            return if bytes.is_multiple_of(*factor) {
                format!("{}{name}", bytes / factor)
            } else {
                format!("{:.1}{name}", bytes as f64 / *factor as f64)
            };
        }
    }
    format!("{bytes}B")
}

/// A span for people, in the form that [`parse_span`] reads: `1h30m`, `250ms`; below a
/// microsecond it is cut.
pub fn format_span(span: Duration) -> String {
    let mut nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, factor) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000u64),
    ] {
        if nanos >= factor {
            text.push_str(&format!("{}{name}", nanos / factor));
            nanos %= factor;
        }
    }
    if text.is_empty() { "0".to_string() } else { text }
}

/// Nothing that a venue limits is as frequent.
pub const RATE_COUNT_MAX: u32 = 10_000;

/// So many of something in any window of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// The window.
    pub window: Duration,
}

impl Rate {
    /// Reads `300/5m`, or `1/s`, of no more than [`RATE_COUNT_MAX`].
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Rate, String> {
        Rate::parse_up_to(RATE_COUNT_MAX, text)
    }

    /// As [`Rate::parse`], of no more than `count_max`.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse_up_to(count_max: u32, text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!("'{text}' is not a rate; write 1..{count_max} and a span, as in 300/5m or 3/s")
        };
        let (count, window) = text.split_once('/').ok_or_else(wrong)?;
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        let window = window.trim();
        let window = match window.starts_with(|c: char| c.is_ascii_digit()) {
            true => parse_span(window),
            false => parse_span(&format!("1{window}")),
        };
        let window = window.map_err(|_| wrong())?;
        let in_bounds = (1..=count_max).contains(&count) && !window.is_zero();
        in_bounds.then_some(Rate { count, window }).ok_or_else(wrong)
    }

    /// The time from one to the next where they are spread evenly.
    pub fn interval(&self) -> Duration {
        self.window / self.count
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, format_span(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (input, expected) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("64MiB", Some(64 << 20)),
            ("64mib", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("1GB", Some(1_000_000_000)),
            ("256KiB", Some(256 << 10)),
            ("", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("5 apples", None),
            ("99999999999TiB", None),
            ("99999999999999999999", None),
        ] {
            let got = parse_size(input);
            assert_eq!(got.clone().ok(), expected, "{input}: {got:?}");
            if let Err(message) = got {
                assert!(message.contains(input), "{message} quotes {input}");
            }
        }
    }

    #[test]
    fn spans() {
        for (input, expected_ms) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("30d", Some(2_592_000_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("10x", None),
            ("-5s", None),
            ("1h 30m", None),
            ("99999999999d", None),
        ] {
            let got = parse_span(input).map(|span| span.as_millis());
            assert_eq!(got.clone().ok(), expected_ms, "{input}: {got:?}");
        }
    }

    #[test]
    fn printing_reads_back() {
        for text in ["1h30m", "250ms", "10s", "30d", "1d1h1m1s1ms", "0"] {
            assert_eq!(format_span(parse_span(text).unwrap()), text);
        }
        for text in ["64MiB", "1GiB", "17B", "4KiB", "0B"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        assert_eq!(format_size(1_572_864), "1.5MiB");
    }

    #[test]
    fn rates_are_read_and_shown() {
        for (text, shown, interval_ms) in
            [("300/5m", "300/5m", 1000), ("5/s", "5/1s", 200), (" 1 / 4s ", "1/4s", 4000)]
        {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(rate.to_string(), shown);
            assert_eq!(rate.interval(), Duration::from_millis(interval_ms));
        }
        for wrong in ["", "5", "0/s", "5/0s", "x/s", "5/year", "-1/s", "10001/s"] {
            let error = Rate::parse(wrong).unwrap_err();
            assert!(error.contains(&format!("'{wrong}'")), "{error}");
        }
    }
}
