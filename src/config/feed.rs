//! Options of feeds: where each connects to, what it sends, and what it waits for.
//!
//! Owns their defaults and bounds, and what makes one or more feeds of them. All mistakes are
//! noted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::read_text;
use super::lists::{Lists, Part};
use super::mistakes::Mistakes;
use super::network;
use super::poll::PollArgs;
use super::recorder::Common;
use super::secrets;
use crate::feed::keys::{KEYS_MAX, KeyOptions, OnSilence};
use crate::feed::matcher::{Matcher, Matchers, Reply};
use crate::feed::session::{OnRefusal, Rules};
use crate::feed::text::Text;
use crate::feed::tls::{TlsMistake, TlsOptions};
use crate::feed::transport::Route;
use crate::feed::upgrade::{Target, check_header};
use crate::feed::url::{FeedUrl, is_http};
use crate::feed::{FeedOptions, FeedPlan};
use crate::tape::MESSAGE_BYTES_MAX;
use crate::tape::name::FeedName;
use crate::units::Rate;

/// Longest text that is sent after connecting, in bytes.
const SUBSCRIPTION_BYTES_MAX: usize = 256 << 10;
/// Largest file of subscriptions, in bytes.
const SUBSCRIPTION_FILE_BYTES_MAX: u64 = 16 << 20;

/// What was typed, or written in tables of a file.
#[derive(Debug, Clone, clap::Args)]
pub struct FeedArgs {
    /// Send this text after connecting, each time. May be given several times; sent in order.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Subscriptions")]
    pub subscribe: Vec<String>,

    /// Send each line of this file that is not empty, after the texts of --subscribe.
    #[arg(long, value_name = "FILE", help_heading = "Subscriptions")]
    pub subscribe_file: Vec<PathBuf>,

    /// Send no more subscriptions than this in a time, such as 5/s. [default: all at once]
    #[arg(long, value_name = "RATE", help_heading = "Subscriptions")]
    pub subscribe_rate: Option<String>,

    /// Symbols, for `{symbol}` (as written), `{SYMBOL}` (upper case) and `{symbol:lower}` in the
    /// URL, in subscriptions and in --topics. A subscription that names one is sent for each;
    /// `{symbols}` (also `{SYMBOLS}`, `{symbols:lower}`) is the whole list.
    #[arg(long, value_name = "SYMBOL", value_delimiter = ',', help_heading = "Subscriptions")]
    pub symbols: Vec<String>,

    /// Topics, for `{topics}` in the URL (joined by `/`) or in subscriptions (as JSON texts,
    /// joined by commas). One with `{symbol}` stands for as many as there are symbols.
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true, help_heading = "Subscriptions")]
    pub topics: Vec<String>,

    /// Split topics (or symbols, where there are no topics) over feeds NAME-1, NAME-2, .. of no
    /// more than N each. [default: one feed for all]
    #[arg(long, value_name = "N", help_heading = "Subscriptions")]
    pub per_connection: Option<String>,

    /// Cut a subscription with `{topics}` or `{symbols}` into messages of no more than N of them.
    #[arg(long, value_name = "N", help_heading = "Subscriptions")]
    pub batch_items: Option<String>,

    /// Cut it into messages of no more than this size. [64B..256KiB]
    #[arg(long, value_name = "SIZE", help_heading = "Subscriptions")]
    pub batch_bytes: Option<String>,

    /// A message that acknowledges a subscription: holds this text, or `/POINTER=VALUE`. The feed
    /// counts as live when all are acknowledged; connect again where that does not happen. It does
    /// not count as data, whenever it comes.
    #[arg(long, value_name = "MATCH", allow_hyphen_values = true, help_heading = "Subscriptions")]
    pub ack_match: Option<String>,

    /// One acknowledgement is expected for each `text` sent, for each `item` (topic or symbol), or
    /// one for the `connection`.
    #[arg(long, value_name = "WHAT", default_value = "text", help_heading = "Subscriptions")]
    pub ack_per: String,

    /// Acknowledgements must come so long after the last subscription. [10ms..5m]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Subscriptions")]
    pub ack_deadline: String,

    /// A message that refuses a subscription: holds this text, or `/POINTER=VALUE`.
    #[arg(long, value_name = "MATCH", allow_hyphen_values = true, help_heading = "Subscriptions")]
    pub refuse_match: Option<String>,

    /// When a subscription is refused: `log` it and go on, `retry` on a new connection, or `stop`
    /// the feed.
    #[arg(long, value_name = "WHAT", default_value = "log", help_heading = "Subscriptions")]
    pub refuse_then: String,

    /// Send this header with the upgrade: 'Name: value'. May be given several times.
    #[arg(long, value_name = "K: V", help_heading = "Feeds")]
    pub header: Vec<String>,

    /// Offer this subprotocol. May be given several times.
    #[arg(long, value_name = "NAME", help_heading = "Feeds")]
    pub subprotocol: Vec<String>,

    /// Limit for name lookup, connecting, proxy, TLS and upgrade together. [100ms..5m]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Feeds")]
    pub connect_timeout: String,

    /// Shortest wait before connecting again. [1ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "1s", help_heading = "Feeds")]
    pub backoff_min: String,

    /// Longest wait before connecting again. [1ms..24h]
    #[arg(long, value_name = "SPAN", default_value = "60s", help_heading = "Feeds")]
    pub backoff_max: String,

    /// No more connections than this to the host, over all feeds, such as 300/5m.
    #[arg(long, value_name = "RATE", help_heading = "Feeds")]
    pub connect_rate: Option<String>,

    /// Send a ping this often; 0 is never. [10ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "20s", help_heading = "Heartbeats")]
    pub ping_every: String,

    /// Connect again where nothing comes in for so long after a ping; 0 is no limit. [10ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "20s", help_heading = "Heartbeats")]
    pub pong_deadline: String,

    /// Send a text this often; 0 is never. [10ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "0", help_heading = "Heartbeats")]
    pub heartbeat_every: String,

    /// The text to send.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Heartbeats")]
    pub heartbeat_send: Option<String>,

    /// Its answer: a message that holds this text, or `/POINTER=VALUE`. It does not count as data.
    #[arg(long, value_name = "MATCH", allow_hyphen_values = true, help_heading = "Heartbeats")]
    pub heartbeat_answer: Option<String>,

    /// Connect again where the answer does not come within this time. [10ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "20s", help_heading = "Heartbeats")]
    pub heartbeat_deadline: String,

    /// Reply to a message: 'MATCH => TEXT', where `{/POINTER}` in the text is what the message has
    /// there. Short gzip messages are looked into. May be given several times.
    #[arg(long, value_name = "RULE", allow_hyphen_values = true, help_heading = "Heartbeats")]
    pub reply: Vec<String>,

    /// A message that is no data, such as a heartbeat of the venue's own: holds this text, or
    /// `/POINTER=VALUE`. It is recorded like all others, and does not show that the feed lives. May
    /// be given several times.
    #[arg(long, value_name = "MATCH", allow_hyphen_values = true, help_heading = "Heartbeats")]
    pub not_data: Vec<String>,

    /// Connect again where no data comes in for so long; pings, acknowledgements, refusals, answers
    /// to heartbeats, what --reply replies to and what --not-data names don't count. 0 is no limit.
    /// [10ms..30d]
    #[arg(long, value_name = "SPAN", default_value = "5m", help_heading = "Feeds")]
    pub stale_after: String,

    /// Watch each symbol or topic by itself. It is found behind this text, as in '"s":"'.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Symbols")]
    pub keys_after: Option<String>,

    /// Symbols or topics that must come even if they never did; `{symbol}` stands for all of
    /// --symbols. May be given several times.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true, help_heading = "Symbols")]
    pub keys_expect: Vec<String>,

    /// One of which no message came for so long is silent. [10ms..30d]
    #[arg(long, value_name = "SPAN", default_value = "5m", help_heading = "Symbols")]
    pub keys_stale_after: String,

    /// When one falls silent: `log` it, `resubscribe`, or `reconnect`.
    #[arg(long, value_name = "WHAT", default_value = "log", help_heading = "Symbols")]
    pub keys_then: String,

    /// Largest message; a larger one is a loss, noted on the tape. [1KiB..256MiB]
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Feeds")]
    pub max_message: String,

    /// Connect through this proxy: `http://[USER:PASSWORD@]HOST:PORT`, or the same with socks5://.
    /// It looks the venue's name up. `none` is to connect directly. [default: what the environment
    /// says in https_proxy (for wss), http_proxy (for ws), all_proxy and no_proxy]
    #[arg(long, value_name = "URL", help_heading = "Feeds")]
    pub proxy: Option<String>,

    /// Connect from this IP address of the machine, and so to addresses of its family only.
    #[arg(long, value_name = "ADDR", help_heading = "Feeds")]
    pub bind: Option<String>,

    /// Connect to addresses of this family only: any, ipv4 or ipv6.
    #[arg(long, value_name = "FAMILY", default_value = "any", help_heading = "Feeds")]
    pub family: String,

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

    /// Options of feeds that are polled.
    #[command(flatten)]
    pub poll: PollArgs,
}

/// One feed, made of a table or of what was typed.
pub(super) struct Made {
    pub(super) plan: FeedPlan,
    /// Those of --symbols that it asks for.
    pub(super) symbols: Vec<String>,
}

/// What all feeds of one table or command line have in common.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    /// Of the first part; name, URL and texts stand in for those of each.
    options: FeedOptions,
    texts: Vec<String>,
    per_connection: Option<usize>,
    batch_items: usize,
    batch_bytes: usize,
    ack_per: AckPer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AckPer {
    Text,
    Item,
    Connection,
}

impl FeedArgs {
    /// Checks all but names and URLs.
    pub(super) fn check(&self, common: Common<'_>, mistakes: &mut Mistakes) -> Checked {
        let ack_per =
            [("text", AckPer::Text), ("item", AckPer::Item), ("connection", AckPer::Connection)];
        let number = |mistakes: &mut Mistakes, option, text: &Option<String>| {
            text.as_ref().map(|text| mistakes.number(option, text, 1, 100_000) as usize)
        };
        let batch_bytes = self.batch_bytes.as_deref().unwrap_or("256KiB");
        Checked {
            texts: self.read_texts(mistakes),
            per_connection: number(mistakes, "--per-connection", &self.per_connection),
            batch_items: number(mistakes, "--batch-items", &self.batch_items).unwrap_or(usize::MAX),
            batch_bytes: mistakes.size("--batch-bytes", batch_bytes, "64B", "256KiB") as usize,
            ack_per: mistakes.word("--ack-per", &self.ack_per, &ack_per),
            options: self.check_options(common, mistakes),
        }
    }

    /// The feeds of one URL: more than one where lists are split. `own`: options that are meant for
    /// it, rather than for several feeds.
    pub(super) fn feeds(
        &self,
        (name, url): (&FeedName, &str),
        checked: &Checked,
        own: &BTreeSet<String>,
        mistakes: &mut Mistakes,
    ) -> Vec<Made> {
        let lists = Lists {
            name,
            url,
            own,
            typed_texts: self.subscribe.len(),
            listens: self.poll.on_feed.is_some(),
            symbols: &self.symbols,
            topics: &self.topics,
            texts: &checked.texts,
            keys: if checked.options.keys.is_some() { &self.keys_expect } else { &[] },
            per_connection: checked.per_connection,
            batch_items: checked.batch_items,
            batch_bytes: checked.batch_bytes,
        };
        lists.check(mistakes);
        let parts = lists.expand(mistakes);
        parts.into_iter().filter_map(|part| self.feed(name, part, checked, mistakes)).collect()
    }

    fn feed(
        &self,
        name: &FeedName,
        part: Part,
        checked: &Checked,
        mistakes: &mut Mistakes,
    ) -> Option<Made> {
        let mut options = checked.options.clone();
        options.name = match &part.suffix {
            None => name.clone(),
            Some(suffix) => match FeedName::new(&format!("{name}-{suffix}")) {
                Ok(name) => name,
                Err(mistake) => {
                    mistakes.about("--per-connection", &mistake);
                    return None;
                }
            },
        };
        options.subscriptions = expand_texts(&part.texts, mistakes).into();
        options.items = part.items;
        options.rules.subscriptions = options.subscriptions.len();
        options.rules.acks = match (&options.matchers.ack, checked.ack_per) {
            (None, _) => 0,
            // Common options may name acknowledgements for a feed that sends nothing.
            (Some(_), _) if options.subscriptions.is_empty() => 0,
            (Some(_), AckPer::Text) => options.subscriptions.len(),
            (Some(_), AckPer::Item) => part.items.max(options.subscriptions.len()),
            (Some(_), AckPer::Connection) => 1,
        };
        if let Some(keys) = &mut options.keys {
            keys.expect = part.keys;
            if keys.expect.len() > KEYS_MAX {
                let what = format!("{} are too many, the limit is {KEYS_MAX}", keys.expect.len());
                mistakes.about("--keys-expect", &what);
            }
        }
        let polled = is_http(&part.url);
        let parse = if polled { FeedUrl::parse_http } else { FeedUrl::parse };
        let made = |plan| Some(Made { plan, symbols: part.symbols });
        let parsed = secrets::expand(&part.url).and_then(|text| Ok((parse(&text)?, text)));
        match parsed {
            Ok((url, text)) if polled => {
                let feed = (options.name.clone(), url, &text);
                made(FeedPlan::Poll(Box::new(self.poll.check(&options, feed, mistakes))))
            }
            Ok((url, _)) => {
                options.target.url = url;
                made(FeedPlan::Stream(Arc::new(options)))
            }
            Err(mistake) => {
                mistakes.about("url", &mistake);
                None
            }
        }
    }

    fn check_options(&self, common: Common<'_>, mistakes: &mut Mistakes) -> FeedOptions {
        let max_message = mistakes.size("--max-message", &self.max_message, "1KiB", "256MiB");
        debug_assert!(max_message <= MESSAGE_BYTES_MAX);
        let rules = self.check_rules(mistakes);
        FeedOptions {
            name: FeedName::derive(""),
            target: Target {
                url: FeedUrl::parse(&Text::plain("ws://localhost/")).expect("this is a URL"),
                headers: self.check_headers(mistakes),
                subprotocols: self.check_subprotocols(mistakes),
                route: Route {
                    tls: self.check_tls(common, mistakes),
                    clock: common.clock,
                    proxies: network::check_proxies(self.proxy.as_deref(), mistakes),
                    from: network::check_origin(self.bind.as_deref(), &self.family, mistakes),
                },
                max_message: max_message as usize,
            },
            subscriptions: Arc::default(),
            items: 0,
            heartbeat: self.check_heartbeat(!rules.heartbeat_every.is_zero(), mistakes),
            rules,
            matchers: self.check_matchers(mistakes),
            keys: self.check_keys(mistakes),
            connect_rate: check_rate("--connect-rate", &self.connect_rate, mistakes),
            messages_max: common.messages_max,
            on_stall: common.on_stall,
            stall_deadline: common.stall_deadline,
        }
    }

    fn check_rules(&self, mistakes: &mut Mistakes) -> Rules {
        let backoff_min = mistakes.span("--backoff-min", &self.backoff_min, "1ms", "1h", false);
        let backoff_max = mistakes.span("--backoff-max", &self.backoff_max, "1ms", "24h", false);
        if backoff_min > backoff_max {
            let what = format!("is less than --backoff-min {}", self.backoff_min);
            mistakes.add("--backoff-max", &self.backoff_max, &what);
        }
        let mut span = |option, text, min, max| mistakes.span(option, text, min, max, true);
        let ping_every = span("--ping-every", &self.ping_every, "10ms", "1h");
        let pong_deadline = span("--pong-deadline", &self.pong_deadline, "10ms", "1h");
        let stale_after = span("--stale-after", &self.stale_after, "10ms", "30d");
        let heartbeat_every = span("--heartbeat-every", &self.heartbeat_every, "10ms", "1h");
        let mut span = |option, text, min, max| mistakes.span(option, text, min, max, false);
        let answer_deadline = span("--heartbeat-deadline", &self.heartbeat_deadline, "10ms", "1h");
        let connect_timeout = span("--connect-timeout", &self.connect_timeout, "100ms", "5m");
        let ack_deadline = span("--ack-deadline", &self.ack_deadline, "10ms", "5m");
        let refusals =
            [("log", OnRefusal::Log), ("retry", OnRefusal::Retry), ("stop", OnRefusal::Stop)];
        Rules {
            connect_timeout,
            backoff_min,
            backoff_max,
            ping_every,
            pong_deadline,
            stale_after,
            subscriptions: 0,
            subscribe_every: check_rate("--subscribe-rate", &self.subscribe_rate, mistakes)
                .map_or(Duration::ZERO, |rate| rate.interval()),
            acks: 0,
            ack_deadline,
            on_refusal: mistakes.word("--refuse-then", &self.refuse_then, &refusals),
            // Common options may say how often, for a feed that sends none.
            heartbeat_every: match self.heartbeat_send {
                Some(_) => heartbeat_every,
                None => Duration::ZERO,
            },
            answer_deadline: match self.heartbeat_answer {
                Some(_) => answer_deadline,
                None => Duration::ZERO,
            },
        }
    }

    fn check_heartbeat(&self, is_on: bool, mistakes: &mut Mistakes) -> Option<Text> {
        match secrets::expand(self.heartbeat_send.as_ref()?) {
            Ok(text) => is_on.then_some(text),
            Err(mistake) => {
                mistakes.about("--heartbeat-send", &mistake);
                None
            }
        }
    }

    fn check_matchers(&self, mistakes: &mut Mistakes) -> Matchers {
        let mut check = |option, text: &Option<String>| match Matcher::parse(text.as_ref()?) {
            Ok(matcher) => Some(matcher),
            Err(mistake) => {
                mistakes.about(option, &mistake);
                None
            }
        };
        let ack = check("--ack-match", &self.ack_match);
        let refusal = check("--refuse-match", &self.refuse_match);
        let answer = check("--heartbeat-answer", &self.heartbeat_answer);
        let mut replies = Vec::new();
        for rule in &self.reply {
            match Reply::parse(rule) {
                Ok(reply) => replies.push(reply),
                Err(mistake) => mistakes.add("--reply", rule, &mistake),
            }
        }
        let mut not_data = Vec::new();
        for pattern in &self.not_data {
            match Matcher::parse(pattern) {
                Ok(matcher) => not_data.push(matcher),
                Err(mistake) => mistakes.about("--not-data", &mistake),
            }
        }
        Matchers { ack, refusal, answer, replies, not_data }
    }

    fn check_keys(&self, mistakes: &mut Mistakes) -> Option<KeyOptions> {
        let words = [
            ("log", OnSilence::Log),
            ("resubscribe", OnSilence::Resubscribe),
            ("reconnect", OnSilence::Reconnect),
        ];
        let then = mistakes.word("--keys-then", &self.keys_then, &words);
        let stale_after =
            mistakes.span("--keys-stale-after", &self.keys_stale_after, "10ms", "30d", false);
        let after = match &self.keys_after {
            Some(after) if !after.is_empty() => after.clone(),
            Some(_) => {
                mistakes.about("--keys-after", "is empty; write what stands before a symbol");
                return None;
            }
            None => return None,
        };
        Some(KeyOptions { after, expect: Vec::new(), stale_after, then })
    }

    fn read_texts(&self, mistakes: &mut Mistakes) -> Vec<String> {
        let mut texts = self.subscribe.clone();
        for path in &self.subscribe_file {
            match read_lines(path) {
                Ok(lines) => texts.extend(lines),
                Err(error) => mistakes.add("--subscribe-file", &path.display().to_string(), &error),
            }
        }
        texts
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
                        Err(mistake) => mistakes.about("--header", &mistake),
                    }
                }
                None => {
                    let chars = header.chars().count();
                    let what = format!("no ':' in its {chars} characters; write 'Name: value'");
                    mistakes.about("--header", &what);
                }
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

    fn check_tls(&self, common: Common<'_>, mistakes: &mut Mistakes) -> TlsOptions {
        let tls = TlsOptions {
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            insecure: self.insecure,
        };
        // The files are read anew when a connector is made; mistakes should show at the start.
        if tls != TlsOptions::default()
            && let Err(mistake) = common.connectors.get(&tls)
        {
            let TlsMistake { option, path, what } = &mistake;
            match path {
                Some(path) => mistakes.add(option, &path.display().to_string(), what),
                None => mistakes.about(option, what),
            }
        }
        tls
    }
}

fn check_rate(option: &str, text: &Option<String>, mistakes: &mut Mistakes) -> Option<Rate> {
    match Rate::parse(text.as_ref()?) {
        Ok(rate) => Some(rate),
        Err(mistake) => {
            mistakes.about(option, &mistake);
            None
        }
    }
}

/// Puts the secrets in.
fn expand_texts(texts: &[String], mistakes: &mut Mistakes) -> Vec<Text> {
    let mut expanded = Vec::new();
    for text in texts {
        match secrets::expand(text) {
            Ok(text) if text.value.len() > SUBSCRIPTION_BYTES_MAX => {
                let bytes = text.value.len();
                let what =
                    format!("a text of {bytes} bytes, the limit is {SUBSCRIPTION_BYTES_MAX}");
                mistakes.about("--subscribe", &what);
            }
            Ok(text) => expanded.push(text),
            Err(mistake) => mistakes.about("--subscribe", &mistake),
        }
    }
    expanded
}

fn read_lines(path: &Path) -> Result<Vec<String>, String> {
    let text = read_text(path, SUBSCRIPTION_FILE_BYTES_MAX)?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect())
}
