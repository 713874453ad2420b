//! Options of a recording: what was typed or written in a feeds file, checked and turned into what
//! is used.
//!
//! Owns what belongs to the whole: where feeds come from, their names, and which options count.
//! Defaults and bounds are in `recorder` and `feed`, each written once; lists of symbols in
//! `lists`, the file in `file`. All mistakes are found at once, each with the option, the value and
//! what would be right. No side effects but reading the files that options name.

mod feed;
mod file;
mod keep;
mod lists;
mod mistakes;
mod needs;
mod network;
mod placeholders;
mod poll;
mod recorder;
mod secrets;
mod typed;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

pub use self::feed::FeedArgs;
use self::feed::Made;
use self::file::{FeedTable, Schema};
pub use self::keep::KeepArgs;
use self::mistakes::{Mistakes, Place};
pub use self::poll::PollArgs;
use self::recorder::Common;
pub use self::recorder::{QUEUE_BYTES, RecorderArgs, read_token};
use self::typed::{Known, Options};
use crate::admin::AdminOptions;
use crate::feed::FeedPlan;
use crate::feed::lines::Rotation;
use crate::feed::poll::PollOptions;
use crate::feed::text::Text;
use crate::feed::tls::TlsConnectors;
use crate::feed::url::{FeedUrl, is_http};
use crate::sealer::Compression;
use crate::sealer::retention::Keep;
use crate::storage::PageCache;
use crate::syncer::FsyncPolicy;
use crate::tape::name::FeedName;

/// Where feeds come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FeedSources {
    /// Feeds to record: ws:// or wss:// URLs, or http:// or https:// URLs to be polled, each with
    /// a name of its own if you like. Without a name one is made from the URL and shown.
    #[arg(value_name = "[NAME=]URL", required_unless_present = "config")]
    pub feeds: Vec<String>,

    /// Feeds and options from this TOML file. What is typed goes before what is written there;
    /// SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What was typed after `feedtape record`.
#[derive(Debug, Clone, clap::Args)]
pub struct RecordArgs {
    /// Where feeds come from.
    #[command(flatten)]
    pub sources: FeedSources,
    /// Options of the recorder.
    #[command(flatten)]
    pub recorder: RecorderArgs,
    /// Options of the feeds that were typed.
    #[command(flatten)]
    pub feed: FeedArgs,
    #[arg(skip)]
    typed: Typed,
}

/// A feed, and where its options were written.
struct Planned {
    plan: FeedPlan,
    /// Those of --symbols that it asks for.
    symbols: Vec<String>,
    /// The feed as it was written, which may be split into several.
    table: FeedName,
    place: Place,
}

/// What options are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To record by them: there must be a folder for the tapes.
    Record,
    /// To look at them only.
    Look,
}

/// Options that were typed, rather than left at their defaults.
#[derive(Debug, Clone, Default)]
struct Typed {
    recorder: Options,
    feed: Options,
}

/// A whole recording, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RecorderOptions {
    /// Folder for the tapes.
    pub out: PathBuf,
    /// Whether they can be read again: then feeds may come that are not there yet.
    pub can_reload: bool,
    /// The feeds, with different names.
    pub feeds: Vec<FeedPlan>,
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
    /// What becomes of the page cache of what was written.
    pub page_cache: PageCache,
    /// Memory for what is in flight; with `memory` it is settled by the plan.
    pub queue_bytes: usize,
    /// Memory for all, which then decides on `queue_bytes`.
    pub memory: Option<u64>,
    /// Time to end in order.
    pub stop_timeout: Duration,
    /// Nothing is written while less is free.
    pub min_free: u64,
    /// What is not deleted.
    pub keep: Keep,
    /// The log tells so often how things stand; zero is never.
    pub report_every: Duration,
    /// How often the recorder records its own figures; `None`: it doesn't.
    pub self_every: Option<Duration>,
    /// Where to listen for who looks and steers; none is off.
    pub admin: Option<AdminOptions>,
}

impl RecordArgs {
    /// Notes which options were typed: they go before those of a file.
    pub fn note_typed(&mut self, matches: &clap::ArgMatches) {
        self.typed = Typed {
            recorder: typed::typed::<RecorderArgs>(matches),
            feed: typed::typed::<FeedArgs>(matches),
        };
    }

    /// Reads the file again; `None` where there is none.
    pub fn reload(&self) -> Option<Result<RecorderOptions, Vec<String>>> {
        self.sources.config.is_some().then(|| self.check())
    }

    /// As [`RecordArgs::check`], for commands that record nothing: there need be no folder for
    /// tapes.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check_without_out(&self) -> Result<RecorderOptions, Vec<String>> {
        self.check_for(Purpose::Look)
    }

    /// Reads the file, if there is one, and checks everything.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check(&self) -> Result<RecorderOptions, Vec<String>> {
        self.check_for(Purpose::Record)
    }

    fn check_for(&self, purpose: Purpose) -> Result<RecorderOptions, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let mut tables = Vec::new();
        let mut recorder = self.recorder.clone();
        let mut place = Place::CommandLine;
        if let Some(path) = &self.sources.config {
            let schema =
                Schema { recorder: Known::of::<RecorderArgs>(), feed: Known::of::<FeedArgs>() };
            let Some(file) = file::read(path, &schema, &mut mistakes) else {
                return mistakes.into_result(()).and(Err(Vec::new()));
            };
            let mut written = file.recorder;
            mistakes.at(file.place.clone());
            needs::check(written.keys(), &written, &mut mistakes);
            written.extend(self.typed.recorder.clone());
            mistakes.at(Place::CommandLine);
            needs::check(self.typed.recorder.keys(), &written, &mut mistakes);
            match typed::make(&written) {
                Ok(args) => (recorder, place) = (args, file.place),
                Err(mistake) => mistakes.say(format!("{}: {mistake}", path.display())),
            }
            tables = file.feeds;
            if tables.is_empty() && self.sources.feeds.is_empty() {
                mistakes.say(format!("'{}' has no feed: add a [feed.NAME]", path.display()));
            }
            if self.sources.feeds.is_empty() {
                for option in self.typed.feed.keys() {
                    mistakes.say(format!(
                        "--{option} is for feeds that are typed, and there are none: write it \
                         under [defaults] or [feed.NAME] of '{}'",
                        path.display()
                    ));
                }
            }
        }
        if self.sources.config.is_none() {
            let typed = &self.typed.recorder;
            needs::check(typed.keys(), typed, &mut mistakes);
        }
        mistakes.at(place);
        let mut options = recorder.check(purpose, &mut mistakes);
        options.can_reload = self.sources.config.is_some();
        let connectors = TlsConnectors::default();
        let common = recorder.common(&connectors, &mut mistakes);
        let mut names = HashSet::new();
        let mut planned = self.typed_feeds(common, &mut names, &mut mistakes);
        for table in tables {
            planned.extend(written_feeds(table, common, &mut names, &mut mistakes));
        }
        resolve_listening(&mut planned, &mut mistakes);
        options.feeds = planned.into_iter().map(|planned| planned.plan).collect();
        mistakes.into_result(options)
    }

    fn typed_feeds(
        &self,
        common: Common<'_>,
        names: &mut HashSet<FeedName>,
        mistakes: &mut Mistakes,
    ) -> Vec<Planned> {
        mistakes.at(Place::CommandLine);
        let typed = &self.sources.feeds;
        if typed.is_empty() && self.sources.config.is_some() {
            return Vec::new();
        }
        let kinds = typed.iter().map(|text| Kind::of(split_name(text).1));
        let kinds: Vec<Kind> = kinds.collect();
        Kind::check_all(&kinds, self.typed.feed.keys(), mistakes);
        if kinds.contains(&Kind::Stream) {
            needs::check(self.typed.feed.keys(), &self.typed.feed, mistakes);
        }
        // What several feeds share, one of them may have no use for.
        let own = match typed.len() {
            1 => self.typed.feed.keys().cloned().collect(),
            _ => BTreeSet::new(),
        };
        let checked = self.feed.check(common, mistakes);
        // Names that were given come first: derived ones make way for them.
        let mut given = Vec::new();
        for text in typed {
            let name = match split_name(text) {
                (None, _) => None,
                (Some(name), _) => match check_name(name, names) {
                    Ok(name) => Some(name),
                    Err(mistake) => {
                        mistakes.say(format!("'{text}': {mistake}"));
                        continue;
                    }
                },
            };
            given.push((name, split_name(text).1));
        }
        let mut feeds = Vec::new();
        for (name, url) in given {
            let name = match name {
                Some(name) => name,
                None => match derive_name(url, names) {
                    Ok(name) => name,
                    Err(mistake) => {
                        mistakes.say(mistake);
                        continue;
                    }
                },
            };
            let parts = self.feed.feeds((&name, url), &checked, &own, mistakes);
            feeds.extend(unique(parts, &name, &Place::CommandLine, names, mistakes));
        }
        feeds
    }
}

/// The feeds of one table.
fn written_feeds(
    table: FeedTable,
    common: Common<'_>,
    names: &mut HashSet<FeedName>,
    mistakes: &mut Mistakes,
) -> Vec<Planned> {
    mistakes.at(table.place.clone());
    let args: FeedArgs = match typed::make(&table.options) {
        Ok(args) => args,
        Err(mistake) => {
            mistakes.about("url", &mistake);
            return Vec::new();
        }
    };
    let checked = args.check(common, mistakes);
    let name = match check_name(&table.name, names) {
        Ok(name) => name,
        Err(mistake) => {
            mistakes.about("url", &mistake);
            return Vec::new();
        }
    };
    let Some(url) = &table.url else { return Vec::new() };
    let kind = Kind::of(url);
    Kind::check_all(&[kind], table.own.iter(), mistakes);
    if kind == Kind::Stream {
        needs::check(table.own.iter(), &table.options, mistakes);
    }
    let parts = args.feeds((&name, url), &checked, &table.own, mistakes);
    unique(parts, &name, &table.place, names, mistakes)
}

/// The parts of one feed, if none of their names is taken.
fn unique(
    parts: Vec<Made>,
    name: &FeedName,
    place: &Place,
    names: &mut HashSet<FeedName>,
    mistakes: &mut Mistakes,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    for Made { plan, symbols } in parts {
        if plan.name() != name && !names.insert(plan.name().clone()) {
            let what = format!("there is a feed named '{}' already", plan.name());
            mistakes.about("--per-connection", &what);
        }
        planned.push(Planned { plan, symbols, table: name.clone(), place: place.clone() });
    }
    planned
}

/// Whom polls listen to, which is known once all feeds are: of a feed that is split, the parts
/// which have the poll's symbols; all, where it has none.
fn resolve_listening(planned: &mut [Planned], mistakes: &mut Mistakes) {
    let mut heard_by = Vec::new();
    for (at, Planned { plan, symbols, place, .. }) in planned.iter().enumerate() {
        let FeedPlan::Poll(poll) = plan else { continue };
        let Some(([wanted], _)) = poll.on.as_ref().map(|(names, on)| (&names[..], on)) else {
            continue;
        };
        mistakes.at(place.clone());
        let is_heard = |other: &&Planned| match &other.plan {
            FeedPlan::Stream(options) => options.name == *wanted || other.table == *wanted,
            FeedPlan::Poll(_) => false,
        };
        let all: Vec<&Planned> = planned.iter().filter(is_heard).collect();
        let has_symbol = |part: &&&Planned| {
            symbols.is_empty() || symbols.iter().any(|symbol| part.symbols.contains(symbol))
        };
        let heard: Vec<FeedName> = match &all[..] {
            [only] => vec![only.plan.name().clone()],
            parts => parts.iter().filter(has_symbol).map(|p| p.plan.name().clone()).collect(),
        };
        if heard.is_empty() && !all.is_empty() {
            let what = format!("is split, and no part of it has '{}'", symbols.join(","));
            mistakes.add("--on-feed", wanted.as_str(), &what);
        } else if heard.is_empty() {
            mistakes.add("--on-feed", wanted.as_str(), &no_such_stream(wanted, poll, planned));
        }
        heard_by.push((at, heard));
    }
    for (at, heard) in heard_by {
        if let FeedPlan::Poll(poll) = &mut planned[at].plan
            && let Some((names, _)) = &mut poll.on
        {
            *names = heard;
        }
    }
}

/// What is to be said of a feed that can't be listened to.
fn no_such_stream(wanted: &FeedName, poll: &PollOptions, planned: &[Planned]) -> String {
    let streams = planned.iter().filter(|planned| matches!(planned.plan, FeedPlan::Stream(_)));
    let mut names: Vec<&str> = streams.map(|planned| planned.plan.name().as_str()).collect();
    if *wanted == poll.name {
        "is this feed itself; name a feed of a ws:// or wss:// URL".to_string()
    } else if planned.iter().any(|other| other.plan.name() == wanted) {
        "is polled itself; name a feed of a ws:// or wss:// URL".to_string()
    } else if names.is_empty() {
        "is not the name of a feed; there is no ws:// or wss:// feed".to_string()
    } else {
        let more = if names.len() > 10 { ", .." } else { "" };
        names.truncate(10);
        format!("is not the name of a feed; there are: {}{more}", names.join(", "))
    }
}

/// The two kinds of feeds, by their URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    Poll,
}

/// Options that mean nothing to a feed that is polled.
const STREAM_ONLY: [&str; 26] = [
    "subscribe",
    "subscribe-file",
    "subscribe-rate",
    "batch-items",
    "batch-bytes",
    "ack-match",
    "ack-per",
    "ack-deadline",
    "refuse-match",
    "refuse-then",
    "subprotocol",
    "connect-timeout",
    "connect-rate",
    "ping-every",
    "pong-deadline",
    "heartbeat-every",
    "heartbeat-send",
    "heartbeat-answer",
    "heartbeat-deadline",
    "reply",
    "not-data",
    "keys-after",
    "keys-expect",
    "keys-stale-after",
    "keys-then",
    "topics",
];

impl Kind {
    fn of(url: &str) -> Kind {
        if is_http(url) { Kind::Poll } else { Kind::Stream }
    }

    /// Options that were given for feeds of these kinds and mean nothing to any of them.
    fn check_all<'o>(
        kinds: &[Kind],
        given: impl Iterator<Item = &'o String>,
        mistakes: &mut Mistakes,
    ) {
        let of_polls = Known::of::<PollArgs>();
        for option in given {
            let (name, dashed) = (option.as_str(), format!("--{option}"));
            if of_polls.kind(name).is_some() && !kinds.contains(&Kind::Poll) {
                let what = "is for feeds that are polled, and no URL is http:// or https://";
                mistakes.about(&dashed, what);
            } else if STREAM_ONLY.contains(&name) && !kinds.contains(&Kind::Stream) {
                let what = "is for WebSocket feeds, and no URL is ws:// or wss://";
                mistakes.about(&dashed, what);
            }
        }
    }
}

/// `[NAME=]URL`.
fn split_name(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        // An '=' after the scheme belongs to the URL's query.
        Some((name, url)) if !name.contains("://") => (Some(name), url),
        _ => (None, text),
    }
}

fn check_name(name: &str, names: &mut HashSet<FeedName>) -> Result<FeedName, String> {
    let name = FeedName::new(name)?;
    if name.is_own() {
        return Err(format!("'{name}' can't name a feed: a leading _ is for the recorder's own"));
    }
    if !names.insert(name.clone()) {
        return Err(format!("there is a feed named '{name}' already"));
    }
    Ok(name)
}

/// A name from host and path that no other feed has. The query is left out: keys stand in it.
fn derive_name(url: &str, taken: &mut HashSet<FeedName>) -> Result<FeedName, String> {
    let url = secrets::expand(url)?;
    let end = url.value.find(['{', '?']).unwrap_or(url.value.len());
    let plain = Text { value: url.value[..end].to_string(), shown: url.shown };
    let parse = if is_http(&plain.value) { FeedUrl::parse_http } else { FeedUrl::parse };
    let url = parse(&plain)?;
    let default_port = if url.tls { 443 } else { 80 };
    let port = if url.port == default_port { String::new() } else { format!("-{}", url.port) };
    let path = url.path.trim_end_matches('/');
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
    Ok(name)
}
