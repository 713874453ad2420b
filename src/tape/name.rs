//! Names: of feeds, and of the files and folders of a recording.
//!
//! Owns how a segment's name is built and read. Does no I/O.

use std::fmt;
use std::path::PathBuf;

use super::COUNT_MAX;
use crate::clock::{self, UnixNs};

/// Longest name of a feed.
pub const FEED_NAME_BYTES_MAX: usize = 64;

/// Name of the tape on which the recorder records itself.
pub const OWN: &str = "_feedtape";

/// A feed's name: `[a-z0-9][a-z0-9._-]{0,63}`, or the same after a leading `_` for the recorder's
/// own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedName(String);

impl FeedName {
    /// Checks `name`.
    ///
    /// # Errors
    /// A sentence that quotes the name and says what would be right.
    pub fn new(name: &str) -> Result<FeedName, String> {
        let own = name.strip_prefix('_').unwrap_or(name);
        let valid = !own.is_empty()
            && name.len() <= FEED_NAME_BYTES_MAX
            && own.as_bytes()[0].is_ascii_alphanumeric()
            && own.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            });
        if valid {
            return Ok(FeedName(name.to_string()));
        }
        Err(format!(
            "'{name}' can't name a feed: use up to {FEED_NAME_BYTES_MAX} of a-z 0-9 . _ - and \
             start with a letter or digit"
        ))
    }

    /// That of the tape on which the recorder records itself.
    pub fn own() -> FeedName {
        FeedName(OWN.to_string())
    }

    /// Whether it is one of the recorder's own, which no feed of a user's can have.
    pub fn is_own(&self) -> bool {
        is_own(&self.0)
    }

    /// A valid name as near to `text` as can be: lower case, runs of anything else become `-`.
    pub fn derive(text: &str) -> FeedName {
        let mut name = String::new();
        for c in text.chars() {
            let c = c.to_ascii_lowercase();
            if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') {
                name.push(c);
            } else if !name.ends_with('-') {
                name.push('-');
            }
        }
        let start = name.trim_start_matches(['-', '.', '_']);
        let cut = start.len().min(FEED_NAME_BYTES_MAX);
        let name = start[..cut].trim_end_matches(['-', '.', '_']);
        FeedName(if name.is_empty() { "feed".to_string() } else { name.to_string() })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Folder of the feed in a recording: `feed=<name>`.
    pub fn folder(&self) -> String {
        format!("feed={}", self.0)
    }
}

/// Whether a feed of this name is one of the recorder's own.
pub fn is_own(feed: &str) -> bool {
    feed.starts_with('_')
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What has become of a segment, as its file's ending tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// `.tape.open`: being written, or left so by a crash.
    Open,
    /// `.tape`: finished, plain.
    Plain,
    /// `.tape.gz`: sealed with gzip.
    Gzip,
    /// `.tape.zst`: sealed with zstd.
    Zstd,
}

impl Form {
    /// All forms, the one that readers prefer last.
    pub const ALL: [Form; 4] = [Form::Open, Form::Plain, Form::Gzip, Form::Zstd];

    /// Ending after `.tape`.
    pub fn ending(self) -> &'static str {
        match self {
            Form::Open => ".open",
            Form::Plain => "",
            Form::Gzip => ".gz",
            Form::Zstd => ".zst",
        }
    }
}

/// The name of one segment, without its form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The feed.
    pub feed: FeedName,
    /// Number of the segment in its feed, from 0.
    pub number: u64,
    /// `YYYYMMDDThhmmssZ` of the first line.
    stamp: String,
}

impl SegmentName {
    /// The name of segment `number` of `feed`, whose first line has the stamp `first_ts`.
    pub fn new(feed: &FeedName, number: u64, first_ts: UnixNs) -> SegmentName {
        SegmentName { feed: feed.clone(), number, stamp: clock::compact(first_ts) }
    }

    /// Stamp of the first line, to the second; `None` where the name holds no time of a day, which
    /// no recorder writes.
    pub fn began(&self) -> Option<UnixNs> {
        clock::from_compact(&self.stamp).filter(|ts| clock::compact(*ts) == self.stamp)
    }

    /// File name in the given form.
    pub fn file(&self, form: Form) -> String {
        format!("{}.{}.{:06}.tape{}", self.feed, self.stamp, self.number, form.ending())
    }

    /// Folder of the day, as in `date=2026-01-31`.
    pub fn date_folder(&self) -> String {
        let s = &self.stamp;
        format!("date={}-{}-{}", &s[..4], &s[4..6], &s[6..8])
    }

    /// Folder of the segment, relative to the recording.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(self.feed.folder()).join(self.date_folder())
    }

    /// Path of the file, relative to the recording.
    pub fn path(&self, form: Form) -> PathBuf {
        self.folder().join(self.file(form))
    }

    /// The second of the segment's first line; `None` where there is no such day or time.
    pub fn first_second(&self) -> Option<UnixNs> {
        clock::from_compact(&self.stamp)
    }

    /// Reads a file's name; `None` where it is not a segment's.
    pub fn parse(file: &str) -> Option<(SegmentName, Form)> {
        let (form, rest) = Form::ALL.into_iter().find_map(|form| {
            let rest = file.strip_suffix(form.ending())?.strip_suffix(".tape")?;
            Some((form, rest))
        })?;
        let (rest, number) = rest.rsplit_once('.')?;
        let (feed, stamp) = rest.rsplit_once('.')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if number.len() < 6 || !digits(number) || (number.len() > 6 && number.starts_with('0')) {
            return None;
        }
        let stamp_valid = stamp.len() == 16
            && stamp.is_ascii()
            && digits(&stamp[..8])
            && &stamp[8..9] == "T"
            && digits(&stamp[9..15])
            && stamp.ends_with('Z');
        if !stamp_valid {
            return None;
        }
        let name = SegmentName {
            feed: FeedName::new(feed).ok()?,
            number: number.parse().ok().filter(|number| *number <= COUNT_MAX)?,
            stamp: stamp.to_string(),
        };
        Some((name, form))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TS: UnixNs = 1_736_682_893_953_758_185;

    #[test]
    fn feed_names() {
        for (name, valid) in [
            ("btc", true),
            ("0", true),
            ("btc-usdt.trade_1", true),
            ("_feedtape", true),
            ("", false),
            ("_", false),
            ("Btc", false),
            ("-btc", false),
            (".btc", false),
            ("b/c", false),
            ("b c", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(FeedName::new(name).is_ok(), valid, "{name}");
        }
        assert!(FeedName::new(&"x".repeat(64)).is_ok());
        assert!(FeedName::new(&"x".repeat(65)).is_err());
    }

    #[test]
    fn derived_names_are_valid() {
        for (text, expected) in [
            ("stream.example.com/ws/BTCUSDT@trade", "stream.example.com-ws-btcusdt-trade"),
            ("", "feed"),
            ("///", "feed"),
            ("-x-", "x"),
            ("\u{e9}\u{e9}a", "a"),
        ] {
            let name = FeedName::derive(text);
            assert_eq!(name.as_str(), expected);
            assert!(FeedName::new(name.as_str()).is_ok());
        }
        let long = FeedName::derive(&"ab-".repeat(60));
        assert!(FeedName::new(long.as_str()).is_ok(), "{long}");
    }

    #[test]
    fn segment_names_read_back() {
        let feed = FeedName::new("a.b-c").unwrap();
        for number in [0, 7, 999_999, 1_000_000] {
            let name = SegmentName::new(&feed, number, TS);
            for form in Form::ALL {
                assert_eq!(SegmentName::parse(&name.file(form)), Some((name.clone(), form)));
            }
        }
        let name = SegmentName::new(&feed, 42, TS);
        assert_eq!(name.began(), Some(TS / 1_000_000_000 * 1_000_000_000));
        assert_eq!(
            name.path(Form::Zstd).to_str().unwrap(),
            "feed=a.b-c/date=2025-01-12/a.b-c.20250112T115453Z.000042.tape.zst"
        );
    }

    #[test]
    fn other_files_are_not_segments() {
        for file in [
            "",
            ".tape",
            "_SHA256SUMS",
            "a.20250112T115453Z.000042.tape.zst.tmp",
            "a.20250112T115453Z.000042.tape.tail",
            "a.20250112T115453Z.00042.tape",
            "a.20250112T115453Z.0000042.tape",
            "a.20250112T115453Z.1152921504606846977.tape",
            "a.20250112T115453Z.18446744073709551615.tape",
            "a.20250112T115453Z.99999999999999999999.tape",
            "a.20250112115453Z.000042.tape",
            "A.20250112T115453Z.000042.tape",
            "a.20250112T11545\u{e9}.000042.tape",
        ] {
            assert_eq!(SegmentName::parse(file), None, "{file}");
        }
    }
}
