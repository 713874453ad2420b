//! Options of a recording: what was typed, checked and turned into what is used.
//!
//! Owns defaults, bounds and contradictions, each written once. All mistakes are found at once,
//! each with the option, the value and what would be right. No side effects but reading the files
//! that options name.

mod keep;
mod secrets;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::keep::KeepArgs;

use crate::feed::lines::Rotation;
use crate::feed::session::Rules;
use crate::feed::text::Text;
use crate::feed::tls::TlsOptions;
use crate::feed::transport::{Target, check_header};
use crate::feed::url::FeedUrl;
use crate::feed::{FeedOptions, OnStall};
use crate::sealer::Compression;
use crate::sealer::retention::Keep;
use crate::syncer::FsyncPolicy;
use crate::tape::MESSAGE_BYTES_MAX;
use crate::tape::event::StampClock;
use crate::tape::name::FeedName;
use crate::units::{format_size, format_span, parse_size, parse_span};

/// Longest text that is sent after connecting, in bytes.
const SUBSCRIPTION_BYTES_MAX: usize = 256 << 10;
/// Largest file of subscriptions, in bytes.
const SUBSCRIPTION_FILE_BYTES_MAX: u64 = 16 << 20;

/// What was typed after `feedtape record`.
#[derive(Debug, Clone, clap::Args)]
pub struct RecordArgs {
    /// Feeds to record: ws:// or wss:// URLs, each with a name of its own if you like. Without a
    /// name one is made from the URL and shown.
    #[arg(value_name = "[NAME=]URL", required = true)]
    pub feeds: Vec<String>,

    /// Folder for the tapes. It is made if it is not there; one recorder at a time may use it.
    #[arg(long, value_name = "DIR", help_heading = "Recording")]
    pub out: PathBuf,

    /// End after this time, such as 10s or 8h.
    #[arg(long, value_name = "SPAN", help_heading = "Recording")]
    pub duration: Option<String>,

    /// Record exactly N messages of each feed, then end.
    #[arg(long, value_name = "N", help_heading = "Recording")]
    pub max_messages: Option<String>,

    /// Begin a new segment at multiples of this time of day (UTC). It must divide 24 h.
    /// [1m..24h]
    #[arg(long, value_name = "SPAN", default_value = "1h", help_heading = "Recording")]
    pub rotate_every: String,

    /// Begin a new segment before the open one grows past this size. [64KiB..16GiB]
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Recording")]
    pub rotate_bytes: String,

    /// What finished segments are sealed with: zstd, gzip, or none. None is the cheapest to
    /// record, and the largest on disk.
    #[arg(long, value_name = "FORM", default_value = "zstd", help_heading = "Recording")]
    pub compress: String,

    /// Compression level: 1..19 for zstd, 1..9 for gzip. [default: zstd 3, gzip 6]
    #[arg(long, value_name = "N", help_heading = "Recording")]
    pub level: Option<String>,

    /// What was received is in the file after this time at the latest: it survives a crash of the
    /// recorder. [1ms..10s]
    #[arg(long, value_name = "SPAN", default_value = "100ms", help_heading = "Recording")]
    pub flush_every: String,

    /// What was received is on the disk after this time: it survives a power cut. Or `segment`
    /// (when a segment is finished), or `never`. [100ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "1s", help_heading = "Recording")]
    pub fsync: String,

    /// Memory for messages on their way to the disk, over all feeds. [256KiB..1GiB]
    #[arg(long, value_name = "SIZE", default_value = "4MiB", help_heading = "Recording")]
    pub queue_bytes: String,

    /// When that memory is full: `block` waits (the venue is held back by TCP), `drop` drops and
    /// counts the newest messages.
    #[arg(long, value_name = "WHAT", default_value = "block", help_heading = "Recording")]
    pub on_stall: String,

    /// With `block`: begin to drop after waiting so long. [100ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Recording")]
    pub stall_deadline: String,

    /// Time to end in order after SIGTERM or SIGINT; what is not sealed by then is sealed at the
    /// next start. [1s..1h]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Recording")]
    pub stop_timeout: String,

    /// Stop writing while less than this is free on the disk; 0 is no limit.
    #[arg(long, value_name = "SIZE", default_value = "128MiB", help_heading = "Recording")]
    pub min_free: String,

    /// What is deleted, and when.
    #[command(flatten, next_help_heading = "Recording")]
    pub keep: KeepArgs,

    /// Where stamps come from: `kernel` (when the bytes came in) or `user` (when they were read).
    #[arg(long, value_name = "CLOCK", default_value = "kernel", help_heading = "Recording")]
    pub clock: String,

    /// Send this text after connecting, each time. May be given several times; sent in order.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Feeds")]
    pub subscribe: Vec<String>,

    /// Send each line of this file that is not empty, after the texts of --subscribe.
    #[arg(long, value_name = "FILE", help_heading = "Feeds")]
    pub subscribe_file: Vec<PathBuf>,

    /// Send this header with the upgrade: 'Name: value'. May be given several times.
    #[arg(long, value_name = "K: V", help_heading = "Feeds")]
    pub header: Vec<String>,

    /// Offer this subprotocol. May be given several times.
    #[arg(long, value_name = "NAME", help_heading = "Feeds")]
    pub subprotocol: Vec<String>,

    /// Limit for name lookup, connecting, TLS and upgrade together. [100ms..5m]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Feeds")]
    pub connect_timeout: String,

    /// Shortest wait before connecting again. [1ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "1s", help_heading = "Feeds")]
    pub backoff_min: String,

    /// Longest wait before connecting again. [1ms..24h]
    #[arg(long, value_name = "SPAN", default_value = "60s", help_heading = "Feeds")]
    pub backoff_max: String,

    /// Send a ping this often; 0 is never. [10ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "20s", help_heading = "Feeds")]
    pub ping_every: String,

    /// Connect again where nothing comes in for so long after a ping; 0 is no limit. [10ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "20s", help_heading = "Feeds")]
    pub pong_deadline: String,

    /// Connect again where no message comes in for so long; pings don't count. 0 is no limit.
    /// [10ms..30d]
    #[arg(long, value_name = "SPAN", default_value = "5m", help_heading = "Feeds")]
    pub stale_after: String,

    /// Largest message; a larger one is a loss, noted on the tape. [1KiB..256MiB]
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Feeds")]
    pub max_message: String,

    /// Trust the CA certificates in this PEM file too.
    #[arg(long, value_name = "FILE", help_heading = "Feeds")]
    pub cacert: Option<PathBuf>,

    /// Client certificate (and chain), PEM.
    #[arg(long, value_name = "FILE", help_heading = "Feeds")]
    pub cert: Option<PathBuf>,

    /// Private key of the client certificate: PKCS#8, PEM.
    #[arg(long, value_name = "FILE", help_heading = "Feeds")]
    pub key: Option<PathBuf>,

    /// Don't verify the server's certificate. Anybody on the way can then read and change what
    /// is recorded.
    #[arg(long, help_heading = "Feeds")]
    pub insecure: bool,
}

/// A whole recording, checked.
#[derive(Debug, Clone)]
pub struct RecorderOptions {
    /// Folder for the tapes.
    pub out: PathBuf,
    /// The feeds, with different names.
    pub feeds: Vec<FeedOptions>,
    /// End after this time.
    pub duration: Option<Duration>,
    /// When segments begin.
    pub rotation: Rotation,
    /// How they are sealed.
    pub compression: Compression,
    /// Bytes are with the kernel after this at the latest.
    pub flush_every: Duration,
    /// When they are on the disk.
    pub fsync: FsyncPolicy,
    /// Memory for what is in flight.
    pub queue_bytes: usize,
    /// Time to end in order.
    pub stop_timeout: Duration,
    /// Nothing is written while less is free.
    pub min_free: u64,
    /// What is not deleted.
    pub keep: Keep,
}

impl RecordArgs {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check(&self) -> Result<RecorderOptions, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let feeds = self.check_feeds(&mut mistakes);
        let options = RecorderOptions {
            out: self.out.clone(),
            feeds,
            duration: self
                .duration
                .as_ref()
                .map(|text| mistakes.span("--duration", text, "1ms", "3650d", false)),
            rotation: self.check_rotation(&mut mistakes),
            compression: self.check_compression(&mut mistakes),
            flush_every: mistakes.span("--flush-every", &self.flush_every, "1ms", "10s", false),
            fsync: self.check_fsync(&mut mistakes),
            queue_bytes: mistakes.size("--queue-bytes", &self.queue_bytes, "256KiB", "1GiB")
                as usize,
            stop_timeout: mistakes.span("--stop-timeout", &self.stop_timeout, "1s", "1h", false),
            min_free: mistakes.size("--min-free", &self.min_free, "0", "1024TiB"),
            keep: self.keep.check_into(&mut mistakes),
        };
        if mistakes.0.is_empty() { Ok(options) } else { Err(mistakes.0) }
    }

    fn check_rotation(&self, mistakes: &mut Mistakes) -> Rotation {
        let every = mistakes.span("--rotate-every", &self.rotate_every, "1m", "24h", false);
        let day = Duration::from_secs(86_400).as_nanos();
        if every.as_nanos() > 0 && !day.is_multiple_of(every.as_nanos()) {
            mistakes.add(
                "--rotate-every",
                &self.rotate_every,
                "does not divide 24 h; write for example 15m, 1h or 6h",
            );
        }
        let bytes = mistakes.size("--rotate-bytes", &self.rotate_bytes, "64KiB", "16GiB");
        Rotation { every, bytes }
    }

    fn check_compression(&self, mistakes: &mut Mistakes) -> Compression {
        let mut level = |default: i32, max: i32| {
            let Some(text) = &self.level else {
                return default;
            };
            match text.parse::<i32>() {
                Ok(level) if (1..=max).contains(&level) => level,
                _ => {
                    let what = format!("must be 1..{max} with --compress {}", self.compress);
                    mistakes.add("--level", text, &what);
                    default
                }
            }
        };
        match self.compress.as_str() {
            "zstd" => Compression::Zstd { level: level(3, 19) },
            "gzip" => Compression::Gzip { level: level(6, 9).unsigned_abs() },
            "none" => Compression::None,
            other => {
                mistakes.add("--compress", other, "must be zstd, gzip or none");
                Compression::None
            }
        }
    }

    fn check_fsync(&self, mistakes: &mut Mistakes) -> FsyncPolicy {
        match self.fsync.as_str() {
            "never" => FsyncPolicy::Never,
            "segment" => FsyncPolicy::Segment,
            span => FsyncPolicy::Every(mistakes.span("--fsync", span, "100ms", "1h", false)),
        }
    }

    fn check_feeds(&self, mistakes: &mut Mistakes) -> Vec<FeedOptions> {
        let common = self.check_common(mistakes);
        let mut names = HashSet::new();
        let parsed: Vec<_> = self.feeds.iter().map(|feed| parse_feed(feed)).collect();
        // Names that were given come first: derived ones make way for them.
        for (feed, parsed) in self.feeds.iter().zip(&parsed) {
            if let Ok((Some(name), _)) = parsed
                && !names.insert(name.clone())
            {
                mistakes.0.push(format!("'{feed}': there is a feed named '{name}' already"));
            }
        }
        let mut feeds = Vec::new();
        for parsed in parsed {
            match parsed {
                Err(mistake) => mistakes.0.push(mistake),
                Ok((name, url)) => {
                    let name = name.unwrap_or_else(|| derive_name(&url, &mut names));
                    let target = Target { url, ..common.target.clone() };
                    feeds.push(FeedOptions { name, target, ..common.clone() });
                }
            }
        }
        feeds
    }

    /// What all feeds of the command line have in common; name and URL stand in for theirs.
    fn check_common(&self, mistakes: &mut Mistakes) -> FeedOptions {
        let subscriptions = self.check_subscriptions(mistakes);
        let backoff_min = mistakes.span("--backoff-min", &self.backoff_min, "1ms", "1h", false);
        let backoff_max = mistakes.span("--backoff-max", &self.backoff_max, "1ms", "24h", false);
        if backoff_min > backoff_max {
            mistakes.add(
                "--backoff-max",
                &self.backoff_max,
                &format!("is less than --backoff-min {}", self.backoff_min),
            );
        }
        let connect_timeout =
            mistakes.span("--connect-timeout", &self.connect_timeout, "100ms", "5m", false);
        let rules = Rules {
            connect_timeout,
            backoff_min,
            backoff_max,
            ping_every: mistakes.span("--ping-every", &self.ping_every, "10ms", "1h", true),
            pong_deadline: mistakes.span(
                "--pong-deadline",
                &self.pong_deadline,
                "10ms",
                "1h",
                true,
            ),
            stale_after: mistakes.span("--stale-after", &self.stale_after, "10ms", "30d", true),
            subscriptions: subscriptions.len(),
        };
        let clock = match self.clock.as_str() {
            "kernel" => StampClock::Kernel,
            "user" => StampClock::User,
            other => {
                mistakes.add("--clock", other, "must be kernel or user");
                StampClock::Kernel
            }
        };
        let on_stall = match self.on_stall.as_str() {
            "block" => OnStall::Block,
            "drop" => OnStall::Drop,
            other => {
                mistakes.add("--on-stall", other, "must be block or drop");
                OnStall::Block
            }
        };
        let max_message = mistakes.size("--max-message", &self.max_message, "1KiB", "256MiB");
        debug_assert!(max_message <= MESSAGE_BYTES_MAX);
        FeedOptions {
            name: FeedName::derive(""),
            target: Target {
                url: FeedUrl::parse(&Text::plain("ws://localhost/")).expect("this is a URL"),
                headers: self.check_headers(mistakes),
                subprotocols: self.check_subprotocols(mistakes),
                tls: self.check_tls(mistakes),
                max_message: max_message as usize,
                clock,
            },
            subscriptions,
            rules,
            messages_max: self.max_messages.as_ref().map(|text| {
                text.parse().ok().filter(|n| *n > 0).unwrap_or_else(|| {
                    mistakes.add("--max-messages", text, "must be a whole number from 1");
                    1
                })
            }),
            on_stall,
            stall_deadline: mistakes.span(
                "--stall-deadline",
                &self.stall_deadline,
                "100ms",
                "1h",
                false,
            ),
        }
    }

    fn check_subscriptions(&self, mistakes: &mut Mistakes) -> Vec<Text> {
        let mut texts = self.subscribe.clone();
        for path in &self.subscribe_file {
            match read_lines(path) {
                Ok(lines) => texts.extend(lines),
                Err(error) => mistakes.add("--subscribe-file", &path.display().to_string(), &error),
            }
        }
        let mut expanded = Vec::new();
        for text in texts {
            match secrets::expand(&text) {
                Ok(text) if text.value.len() > SUBSCRIPTION_BYTES_MAX => mistakes.0.push(format!(
                    "a subscription of {} bytes is too long, the limit is {SUBSCRIPTION_BYTES_MAX}",
                    text.value.len()
                )),
                Ok(text) => expanded.push(text),
                Err(mistake) => mistakes.0.push(format!("--subscribe: {mistake}")),
            }
        }
        expanded
    }

    fn check_headers(&self, mistakes: &mut Mistakes) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for header in &self.header {
            // The value may be a secret: it is not quoted.
            match header.split_once(':') {
                Some((name, value)) => {
                    let name = name.trim();
                    let checked = secrets::expand(value.trim())
                        .and_then(|value| check_header(name, &value.value).map(|()| value.value));
                    match checked {
                        Ok(value) => headers.push((name.to_string(), value)),
                        Err(mistake) => mistakes.0.push(format!("--header: {mistake}")),
                    }
                }
                None => mistakes.0.push(format!(
                    "--header: no ':' in its {} characters; write 'Name: value'",
                    header.chars().count()
                )),
            }
        }
        headers
    }

    fn check_subprotocols(&self, mistakes: &mut Mistakes) -> Vec<String> {
        for name in &self.subprotocol {
            let valid = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b));
            if !valid {
                mistakes.add("--subprotocol", name, "is not a token as RFC 6455 asks for");
            }
        }
        self.subprotocol.clone()
    }

    fn check_tls(&self, mistakes: &mut Mistakes) -> TlsOptions {
        let tls = TlsOptions {
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            insecure: self.insecure,
        };
        // The files are read anew when a connector is made; mistakes should show at the start.
        if tls != TlsOptions::default()
            && let Err(mistake) = crate::feed::tls::TlsConnectors::default().get(&tls)
        {
            mistakes.0.push(mistake);
        }
        tls
    }
}

/// `[NAME=]URL`.
fn parse_feed(text: &str) -> Result<(Option<FeedName>, FeedUrl), String> {
    let (name, url) = match text.split_once('=') {
        // An '=' after the scheme belongs to the URL's query.
        Some((name, url)) if !name.contains("://") => (Some(name), url),
        _ => (None, text),
    };
    let url = FeedUrl::parse(&secrets::expand(url)?)?;
    let name = name.map(FeedName::new).transpose()?;
    if let Some(name) = &name
        && name.as_str().starts_with('_')
    {
        return Err(format!("'{name}' can't name a feed: a leading _ is for the recorder's own"));
    }
    Ok((name, url))
}

/// A name from host and path that no other feed has. The query is left out: keys stand in it.
fn derive_name(url: &FeedUrl, taken: &mut HashSet<FeedName>) -> FeedName {
    let default_port = if url.tls { 443 } else { 80 };
    let port = if url.port == default_port { String::new() } else { format!("-{}", url.port) };
    let path = url.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    let base = FeedName::derive(&format!("{}{port}{path}", url.host));
    let mut name = base.clone();
    let mut n = 1;
    while !taken.insert(name.clone()) {
        n += 1;
        let suffix = format!("-{n}");
        let room = crate::tape::name::FEED_NAME_BYTES_MAX - suffix.len();
        let cut = base.as_str().len().min(room);
        name = FeedName::derive(&format!("{}{suffix}", &base.as_str()[..cut]));
    }
    name
}

fn read_lines(path: &Path) -> Result<Vec<String>, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > SUBSCRIPTION_FILE_BYTES_MAX {
        return Err(format!("is too large: {bytes} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect())
}

/// Mistakes found so far, each a sentence.
#[derive(Debug, Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn add(&mut self, option: &str, value: &str, what: &str) {
        self.0.push(format!("{option} '{value}': {what}"));
    }

    fn span(
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
                self.0.push(format!("{option}: {error}"));
                bound(max)
            }
        }
    }

    fn size(&mut self, option: &str, text: &str, min: &str, max: &str) -> u64 {
        let bound = |text| parse_size(text).expect("bounds are sizes");
        match parse_size(text) {
            Ok(size) if size < bound(min) || size > bound(max) => {
                let range = format!("{} to {}", format_size(bound(min)), format_size(bound(max)));
                self.add(option, text, &format!("must be from {range}"));
                bound(max)
            }
            Ok(size) => size,
            Err(error) => {
                self.0.push(format!("{option}: {error}"));
                bound(max)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(flatten)]
        record: RecordArgs,
    }

    fn check(typed: &str) -> Result<RecorderOptions, Vec<String>> {
        let words = ["feedtape", "--out", "tapes"].into_iter().chain(typed.split_whitespace());
        Typed::try_parse_from(words).unwrap().record.check()
    }

    #[test]
    fn names_are_given_or_derived_and_unique() {
        let names = |typed: &str| -> Vec<String> {
            check(typed).unwrap().feeds.iter().map(|feed| feed.name.to_string()).collect()
        };
        assert_eq!(names("btc=ws://h/x?a=b"), ["btc"]);
        assert_eq!(names("ws://h/x?key=secret"), ["h-x"]);
        assert_eq!(names("ws://h:81/ wss://h/"), ["h-81", "h"]);
        assert_eq!(names("ws://h/ ws://h/ h-2=ws://h/"), ["h", "h-3", "h-2"]);
        let long = format!("ws://h/{}", "x".repeat(200));
        let names = names(&format!("{long} {long}"));
        assert_eq!(names[0].len(), 64);
        assert!(names[1].ends_with("-2") && names[1].len() <= 64, "{names:?}");
    }

    #[test]
    fn all_mistakes_are_found_at_once_and_quoted() {
        let mistakes = check(
            "a=ws://h/ a=ws://h/ Bad=ws://h/ http://h/ _own=ws://h/ --rotate-every 7h \
             --rotate-bytes 1KiB --compress lzma --flush-every 0 --fsync sometimes \
             --queue-bytes lots --on-stall panic --clock gps --max-messages 0 \
             --backoff-min 10s --backoff-max 1s --max-message 1GiB --subprotocol a,b \
             --header nocolon --subscribe-file /does/not/exist --cert /does/not/exist",
        )
        .unwrap_err();
        for quoted in [
            "'a'",
            "'Bad'",
            "'http://h/'",
            "'_own'",
            "'7h'",
            "'1KiB'",
            "'lzma'",
            "'0'",
            "'sometimes'",
            "'lots'",
            "'panic'",
            "'gps'",
            "'1s'",
            "'1GiB'",
            "'a,b'",
            "--header",
            "'/does/not/exist'",
            "--cert needs --key",
        ] {
            assert!(mistakes.iter().any(|m| m.contains(quoted)), "{quoted}: {mistakes:#?}");
        }
        assert!(!mistakes.iter().any(|m| m.contains("nocolon")), "it may be a secret");
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let options = check("ws://h/").unwrap();
        let feed = &options.feeds[0];
        assert_eq!(options.rotation.every, Duration::from_secs(3600));
        assert_eq!(options.compression, Compression::Zstd { level: 3 });
        assert_eq!(options.fsync, FsyncPolicy::Every(Duration::from_secs(1)));
        assert_eq!(feed.rules.stale_after, Duration::from_secs(300));
        assert_eq!(feed.target.max_message, 16 << 20);
        let off = check("ws://h/ --ping-every 0 --stale-after 0 --min-free 0").unwrap();
        assert!(off.feeds[0].rules.ping_every.is_zero());
    }
}
