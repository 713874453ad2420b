//! Options of feeds that are polled: what was typed, checked.
//!
//! Owns their defaults, bounds and contradictions. What they have in common with all feeds
//! (headers, certificates, backoff, limits) is checked in [`super`], once.

use std::collections::HashSet;
use std::time::Duration;

use super::mistakes::Mistakes;
use super::secrets;
use crate::feed::FeedOptions;
use crate::feed::listen::Trigger;
use crate::feed::poll::budget::Weights;
use crate::feed::poll::schedule::Timing;
use crate::feed::poll::{KEPT_HEADERS, KEPT_HEADERS_MAX, Method, PollOptions};
use crate::feed::text::Text;
use crate::feed::url::FeedUrl;
use crate::tape::name::FeedName;

/// Jitter that nobody asked for: a tenth of the interval, up to this.
const JITTER_MAX: Duration = Duration::from_secs(5);
/// Largest body that is sent, in bytes.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Options of feeds that are polled, as typed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PollArgs {
    /// Poll at multiples of this time on the clock: with 1m when each minute begins. And once at
    /// the start, or when the feed of --on-feed is connected. [100ms..24h]
    #[arg(long, value_name = "SPAN", help_heading = "Polling (http and https)")]
    pub every: Option<String>,

    /// Poll when something happens to this feed, until a body is recorded: a snapshot for each
    /// connection, say. Of a feed that --per-connection splits, only the parts count that have
    /// the poll's --symbols.
    #[arg(long, value_name = "NAME", help_heading = "Polling (http and https)")]
    pub on_feed: Option<String>,

    /// What must happen to it: connected (and subscribed), gap. [default: connected,gap]
    #[arg(
        long,
        value_name = "EVENT",
        value_delimiter = ',',
        help_heading = "Polling (http and https)"
    )]
    pub on_events: Vec<String>,

    /// Poll later than --every says, by chance, by up to so much: many recorders don't ask at the
    /// same moment. [0..1h, less than --every] [default: a tenth of --every, 5s at most]
    #[arg(long, value_name = "SPAN", help_heading = "Polling (http and https)")]
    pub jitter: Option<String>,

    /// Limit for all of a poll, from the name lookup to the end of the body. [100ms..5m]
    /// [default: 10s]
    #[arg(long, value_name = "SPAN", help_heading = "Polling (http and https)")]
    pub timeout: Option<String>,

    /// GET or POST. [default: GET; POST where there is a --body]
    #[arg(long, value_name = "METHOD", help_heading = "Polling (http and https)")]
    pub method: Option<String>,

    /// Send this body, as application/json unless a --header says otherwise.
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        help_heading = "Polling (http and https)"
    )]
    pub body: Option<String>,

    /// Put this header of the answers on the tape. May be given several times. [default:
    /// content-type, date, etag, last-modified, retry-after; that of --weight-header always]
    #[arg(long, value_name = "NAME", help_heading = "Polling (http and https)")]
    pub keep_header: Vec<String>,

    /// Have every poll bring a body, even if it is the same as before; else a server that gives an
    /// ETag or a date may answer that nothing is new.
    #[arg(long, help_heading = "Polling (http and https)")]
    pub unconditional: bool,

    /// What a poll costs of --weight-limit. [default: 1]
    #[arg(long, value_name = "N", help_heading = "Polling (http and https)")]
    pub weight: Option<String>,

    /// The header by which a host says how much of its limit is used, such as
    /// X-MBX-USED-WEIGHT-1M.
    #[arg(long, value_name = "NAME", help_heading = "Polling (http and https)")]
    pub weight_header: Option<String>,

    /// No poll that would use more of it: the polls of the host wait until the window turns.
    #[arg(long, value_name = "N", help_heading = "Polling (http and https)")]
    pub weight_limit: Option<String>,

    /// After what time a host forgets what was used, at multiples of it on the clock. [1s..24h]
    /// [default: 1m]
    #[arg(long, value_name = "SPAN", help_heading = "Polling (http and https)")]
    pub weight_window: Option<String>,
}

impl PollArgs {
    /// The options of one feed that is polled; `common` is what it shares with all feeds. Whether
    /// there is a feed to listen to is for the caller to see.
    pub(super) fn check(
        &self,
        common: &FeedOptions,
        (name, url, text): (FeedName, FeedUrl, &Text),
        mistakes: &mut Mistakes,
    ) -> PollOptions {
        if self.every.is_none() && self.on_feed.is_none() {
            let what = "is polled, and needs --every or --on-feed to say when";
            mistakes.add("url", &url.to_string(), what);
        }
        for (name, _) in &common.target.headers {
            let ours = ["content-length", "transfer-encoding"];
            if ours.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
                mistakes.about("--header", &format!("'{name}' is set by the request itself"));
            }
        }
        let on = self.check_on(mistakes);
        let weights = self.check_weights(mistakes);
        let method = self.check_method(mistakes);
        PollOptions {
            name,
            secrets: all_secrets(text, &url, &method, &common.target.headers),
            url,
            method,
            headers: common.target.headers.clone(),
            route: common.target.route.clone(),
            timing: self.check_timing(mistakes, common, on.as_ref()),
            on,
            max_message: common.target.max_message,
            keep_headers: self.check_keep_headers(mistakes, weights.as_ref()),
            conditional: !self.unconditional,
            weights,
            messages_max: common.messages_max,
            on_stall: common.on_stall,
            stall_deadline: common.stall_deadline,
        }
    }

    fn check_on(&self, mistakes: &mut Mistakes) -> Option<(Vec<FeedName>, Vec<Trigger>)> {
        let events = self.check_events(mistakes);
        let Some(typed) = &self.on_feed else {
            if !self.on_events.is_empty() {
                let what = "needs --on-feed to say of which feed";
                mistakes.add("--on-events", &self.on_events.join(","), what);
            }
            return None;
        };
        match FeedName::new(typed) {
            Ok(name) => Some((vec![name], events)),
            Err(mistake) => {
                mistakes.about("--on-feed", &mistake);
                None
            }
        }
    }

    fn check_events(&self, mistakes: &mut Mistakes) -> Vec<Trigger> {
        let known = [Trigger::Connected, Trigger::Gap];
        if self.on_events.is_empty() {
            return known.to_vec();
        }
        let words = known.map(|trigger| (trigger.to_string(), trigger));
        let words = [(words[0].0.as_str(), words[0].1), (words[1].0.as_str(), words[1].1)];
        self.on_events.iter().map(|word| mistakes.word("--on-events", word, &words)).collect()
    }

    fn check_timing(
        &self,
        mistakes: &mut Mistakes,
        common: &FeedOptions,
        on: Option<&(Vec<FeedName>, Vec<Trigger>)>,
    ) -> Timing {
        let every =
            self.every.as_ref().map(|text| mistakes.span("--every", text, "100ms", "24h", false));
        let jitter = match (&self.jitter, every) {
            (None, every) => every.map_or(Duration::ZERO, |every| (every / 10).min(JITTER_MAX)),
            (Some(text), None) => {
                mistakes.add("--jitter", text, "needs --every, which it makes less regular");
                Duration::ZERO
            }
            (Some(text), Some(every)) => {
                let jitter = mistakes.span("--jitter", text, "1ms", "1h", true);
                if jitter >= every {
                    mistakes.add("--jitter", text, "must be less than --every");
                }
                jitter
            }
        };
        let timeout = self.timeout.as_deref().unwrap_or("10s");
        // What the other feed tells when it connects comes soon enough.
        let waits_for_start = on.is_some_and(|(_, wanted)| wanted.contains(&Trigger::Connected));
        Timing {
            every,
            jitter,
            at_start: every.is_some() && !waits_for_start,
            timeout: mistakes.span("--timeout", timeout, "100ms", "5m", false),
            backoff_min: common.rules.backoff_min,
            backoff_max: common.rules.backoff_max,
            stale_after: common.rules.stale_after,
        }
    }

    fn check_method(&self, mistakes: &mut Mistakes) -> Method {
        let body = match self.body.as_deref().map(secrets::expand) {
            None => None,
            Some(Ok(body)) if body.value.len() > BODY_BYTES_MAX => {
                let bytes = body.value.len();
                let what = format!("{bytes} bytes are too many, the limit is {BODY_BYTES_MAX}");
                mistakes.about("--body", &what);
                None
            }
            Some(Ok(body)) => Some(body),
            Some(Err(mistake)) => {
                mistakes.about("--body", &mistake);
                None
            }
        };
        let method = self.method.as_deref().map(str::to_ascii_uppercase);
        match (method.as_deref(), body) {
            (None | Some("GET"), None) => Method::Get,
            (Some("GET"), Some(_)) => {
                mistakes.about("--body", "GET has no body; leave --method out");
                Method::Get
            }
            (None | Some("POST"), Some(body)) => Method::Post(body),
            (Some("POST"), None) => Method::Post(Text::plain("")),
            (Some(_), _) => {
                let typed = self.method.as_deref().unwrap_or_default();
                mistakes.add("--method", typed, "must be GET or POST");
                Method::Get
            }
        }
    }

    fn check_keep_headers(
        &self,
        mistakes: &mut Mistakes,
        weights: Option<&Weights>,
    ) -> Vec<String> {
        let mut names: Vec<String> = match self.keep_header.is_empty() {
            true => KEPT_HEADERS.map(str::to_string).to_vec(),
            false => self.keep_header.iter().map(|name| name.to_ascii_lowercase()).collect(),
        };
        names.extend(weights.map(|weights| weights.header.clone()));
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        for name in names.iter().filter(|name| !is_header_name(name)) {
            mistakes.add("--keep-header", name, "is not a header's name");
        }
        if names.len() > KEPT_HEADERS_MAX {
            let what = format!("{} are too many, the limit is {KEPT_HEADERS_MAX}", names.len());
            mistakes.about("--keep-header", &what);
        }
        names
    }

    fn check_weights(&self, mistakes: &mut Mistakes) -> Option<Weights> {
        let mut number = |option: &str, text: &Option<String>| {
            text.as_ref().map(|text| mistakes.number(option, text, 1, u64::MAX))
        };
        let cost = number("--weight", &self.weight).unwrap_or(1);
        let limit = number("--weight-limit", &self.weight_limit).unwrap_or(u64::MAX);
        let window = self.weight_window.as_deref().unwrap_or("1m");
        let window = mistakes.span("--weight-window", window, "1s", "24h", false);
        let has_limit = self.weight_limit.is_some();
        let Some(header) = &self.weight_header else {
            let others = [&self.weight, &self.weight_limit, &self.weight_window];
            if others.iter().any(|other| other.is_some()) {
                let what = "needs --weight-header to say how much is used; so do --weight and \
                            --weight-window";
                mistakes.about("--weight-limit", what);
            }
            return None;
        };
        if !is_header_name(header) {
            mistakes.add("--weight-header", header, "is not a header's name");
        }
        if !has_limit {
            mistakes.add("--weight-header", header, "needs --weight-limit");
        }
        if cost > limit {
            let what = format!("is more than --weight-limit {limit}: no poll could be made");
            mistakes.add("--weight", &cost.to_string(), &what);
        }
        Some(Weights { header: header.to_ascii_lowercase(), limit, window, cost })
    }
}

/// RFC 9110 section 5.1: a token.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What a server may repeat in an answer and must not show: what `${..}` brought in, a password,
/// and the values of headers, of which nobody says whether they are secret.
fn all_secrets(
    typed: &Text,
    url: &FeedUrl,
    method: &Method,
    headers: &[(String, String)],
) -> Vec<String> {
    let mut secrets = typed.secrets();
    let password = url.credentials.as_ref().and_then(|both| both.split_once(':'));
    secrets.extend(password.map(|(_, password)| password.to_string()));
    if let Method::Post(body) = method {
        secrets.extend(body.secrets());
    }
    secrets.extend(headers.iter().map(|(_, value)| value.clone()));
    secrets
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::feed::FeedPlan;

    fn poll(typed: &str) -> PollOptions {
        let feeds = check(typed).unwrap().feeds;
        let polls = feeds.into_iter().filter_map(|plan| match plan {
            FeedPlan::Poll(poll) => Some(poll),
            FeedPlan::Stream(_) => None,
        });
        *{ polls }.next().unwrap()
    }

    #[test]
    fn http_urls_are_polled_and_others_are_not() {
        let options = check("t=ws://h/ d=https://h:8/depth?a=b HTTP://h/x --every 1m").unwrap();
        let feeds = options.feeds.iter();
        let names: Vec<_> =
            feeds.clone().map(|plan| format!("{} {}", plan.name(), plan.url())).collect();
        assert_eq!(names, ["t ws://h/", "d https://h:8/depth?a=b", "h-x HTTP://h/x"]);
        assert_eq!(feeds.filter(|plan| matches!(plan, FeedPlan::Poll(_))).count(), 2);
    }

    #[test]
    fn defaults() {
        let every = poll("http://h/ --every 1m");
        assert_eq!(every.timing.jitter, Duration::from_secs(5));
        assert!(every.timing.at_start && every.conditional);
        assert_eq!(every.method, Method::Get);
        assert_eq!(every.keep_headers, KEPT_HEADERS);
        assert_eq!(poll("http://h/ --every 1s").timing.jitter, Duration::from_millis(100));
        let on = poll("t=ws://h/ http://h/ --every 1m --on-feed t");
        assert!(!on.timing.at_start, "the feed's first connection comes soon");
        assert_eq!(on.on.unwrap().1, [Trigger::Connected, Trigger::Gap]);
        let gap = poll("t=ws://h/ http://h/ --on-feed t --on-events gap");
        assert_eq!(gap.on.unwrap().1, [Trigger::Gap]);
        assert_eq!(gap.timing.every, None);
        let post = poll("http://h/ --every 1m --body {} --keep-header X-A");
        assert_eq!(post.method, Method::Post(Text::plain("{}")));
        assert_eq!(post.keep_headers, ["x-a"]);
        let limit = "--weight-header X-W --weight-limit 100 --weight 20";
        let weighed = poll(&format!("http://h/ --every 1m {limit}"));
        assert_eq!(weighed.keep_headers.last().unwrap(), "x-w");
        let window = Duration::from_secs(60);
        let weights = Weights { header: "x-w".into(), limit: 100, window, cost: 20 };
        assert_eq!(weighed.weights, Some(weights));
    }

    #[test]
    fn secrets_are_collected() {
        let poll = poll(
            "http://u:pass@h/?k=${CARGO_PKG_NAME} --every 1m --body ${CARGO_PKG_NAME}1 \
             --header X:token",
        );
        assert_eq!(poll.secrets, ["feedtape", "pass", "feedtape", "token"]);
        assert!(!poll.url.to_string().contains("feedtape"));
    }

    #[test]
    fn mistakes() {
        let says = |typed: &str, words: &[&str]| {
            let mistakes = check(typed).expect_err(typed);
            for word in words {
                assert!(mistakes.iter().any(|m| m.contains(word)), "{typed}: {mistakes:#?}");
            }
        };
        says("http://h/", &["url 'http://h/': is polled, and needs --every or --on-feed"]);
        says("ws://h/ --every 1m --weight 2", &["--every: is for feeds", "--weight: is for"]);
        says("a=ws://h/ http://h/ --on-feed b", &["'b'", "there are: a"]);
        says("http://h/ --on-feed b", &["there is no ws"]);
        says("p=http://h/ --on-feed p", &["is this feed itself"]);
        says("p=http://h/ q=http://h/ --on-feed p", &["'p': is polled itself"]);
        says("a=ws://h/ http://h/ --on-feed a --on-events up", &["'up': must be connected or gap"]);
        says("http://h/ --every 1m --on-events gap", &["needs --on-feed"]);
        says("http://h/ --every 50ms --timeout 1h", &["'50ms'", "'1h'"]);
        says("http://h/ --every 1s --jitter 2s", &["'2s': must be less"]);
        says("http://h/ --every 1s --method PUT", &["'PUT': must be GET or POST"]);
        says("http://h/ --every 1s --method get --body x", &["GET has no body"]);
        says("http://h/ --every 1s --weight 2", &["needs --weight-header to say"]);
        says("http://h/ --every 1s --weight-header a", &["needs --weight-limit"]);
        says(
            "http://h/ --every 1s --weight-header a --weight-limit 3 --weight 4",
            &["'4': is more than"],
        );
        says("http://h/ --every 1s --keep-header a:b", &["'a:b'"]);
        says("http://h/ --every 1s --header Content-Length:3", &["'Content-Length'"]);
        says("a=http://h/ a=ws://h/ --every 1s", &["named 'a' already"]);
    }
}
