//! One poll: a request, up to its answer's whole body.
//!
//! Owns what is sent and what an answer means: redirects, gzip, conditional requests, the limit on
//! a body. When to poll is [`super::schedule`]'s, the streams below are [`super::wire`]'s.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use ureq::http::{HeaderMap, Method as HttpMethod, Request, Response};
use ureq::{Agent, Body};

use super::super::reason::{Reason, Stage};
use super::super::redirect;
use super::super::transport::{ConnectError, printable};
use super::super::upgrade::{USER_AGENT, retry_after};
use super::super::url::FeedUrl;
use super::wire::{HEAD_BYTES_MAX, Link, NoLookups, Opener};
use super::{Method, PollOptions};
use crate::clock::{Mono, UnixNs};

/// Redirects followed in one poll.
const REDIRECTS_MAX: u32 = 5;
/// A connection is kept for the next poll where that comes within this time; most servers keep
/// theirs for longer, and it costs memory on both sides.
pub(super) const KEEP_ALIVE_MAX: Duration = Duration::from_secs(15);
/// What is read at once of a body.
const PIECE_BYTES: usize = 16 << 10;
/// Of a body that is not recorded, so much is read for the log.
const COMPLAINT_BYTES_MAX: u64 = 2 << 10;
/// Shorter values are not worth hiding, and would hide too much.
const SECRET_BYTES_MIN: usize = 4;

/// What a poll brought.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status of the last answer, after redirects.
    pub(super) status: u16,
    /// The headers that are wanted on the tape, secrets hidden.
    pub(super) headers: Vec<(String, String)>,
    /// When the last bytes came in.
    pub(super) stamp: UnixNs,
    /// When to come back, at the earliest.
    pub(super) retry_after: Option<Duration>,
    /// What the header of the budget says.
    pub(super) used: Option<u64>,
    pub(super) content: Content,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Content {
    /// It is to be recorded. The validators come with the next request once it is.
    Message(Vec<u8>, Validators),
    /// There is none, and nothing is wrong with that.
    Nothing,
    /// It is larger than allowed; of so many bytes, where known.
    TooLarge(Option<u64>),
    /// The server did not do what was asked; what it says, printable, secrets hidden.
    Complaint(String),
}

/// By which a server knows what we have (RFC 9110 section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Validators {
    etag: Option<String>,
    last_modified: Option<String>,
}

/// Polls one URL.
pub(super) struct Client {
    agent: Agent,
    link: Arc<Link>,
    keeps_alive: bool,
    validators: Validators,
}

/// Where a request goes on its way through redirects, and how.
struct Hop {
    url: FeedUrl,
    method: Method,
}

impl Client {
    pub(super) fn new(link: Arc<Link>, every: Option<Duration>) -> Client {
        let keeps_alive = every.is_some_and(|every| every <= KEEP_ALIVE_MAX);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(HEAD_BYTES_MAX)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(2 * KEEP_ALIVE_MAX)
            .build();
        let agent = Agent::with_parts(config, Opener(link.clone()), NoLookups);
        Client { agent, link, keeps_alive, validators: Validators::default() }
    }

    /// What was recorded last: nothing that is the same need come again.
    pub(super) fn keep(&mut self, validators: Validators) {
        self.validators = validators;
    }

    /// Polls, to be done `by` then. `whole`: a body is wanted though it may be the same as before.
    ///
    /// # Errors
    /// The stage that failed, or that the deadline passed in; or what interrupted it.
    pub(super) fn call(
        &mut self,
        options: &PollOptions,
        by: Mono,
        whole: bool,
    ) -> Result<Answer, ConnectError> {
        self.link.begin(by, options.timing.timeout);
        let mut hop = Hop { url: options.url.clone(), method: options.method.clone() };
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(options, &hop, whole)?;
            match next_hop(options, &hop, &response) {
                Some(Ok(next)) => hop = next,
                Some(Err(cause)) => {
                    let status = response.status().as_u16();
                    let cause = format!("the server answered {status}; {cause}");
                    return Err(ConnectError::at(Stage::Answer, cause));
                }
                None => return self.receive(options, response),
            }
        }
        let cause = format!("more than {REDIRECTS_MAX} redirects, the last one to {}", hop.url);
        Err(ConnectError::at(Stage::Answer, cause))
    }

    /// Sends the request of a hop; a connection that was kept and is found closed by the server
    /// does not count.
    fn send(
        &self,
        options: &PollOptions,
        hop: &Hop,
        whole: bool,
    ) -> Result<Response<Body>, ConnectError> {
        let run = || match &hop.method {
            Method::Get => self.agent.run(self.request(options, hop, whole, ())),
            Method::Post(body) => {
                self.agent.run(self.request(options, hop, whole, body.value.as_bytes()))
            }
        };
        let result = match run() {
            Err(_) if self.keeps_alive && self.link.met_closed_connection() => {
                // It has been dropped, and there was only the one.
                self.link.take_failure();
                run()
            }
            result => result,
        };
        result.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &ureq::Error) -> ConnectError {
        let cause = match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the server closed the connection".to_string()
            }
            ureq::Error::LargeResponseHeader(..) => {
                "the head of the server's answer is too long".to_string()
            }
            other => other.to_string(),
        };
        self.link.take_failure().unwrap_or_else(|| ConnectError::at(self.link.stage(), cause))
    }

    fn request<B>(&self, options: &PollOptions, hop: &Hop, whole: bool, body: B) -> Request<B> {
        let mut request = Request::builder().method(match hop.method {
            Method::Get => HttpMethod::GET,
            Method::Post(_) => HttpMethod::POST,
        });
        request = request.uri(hop.url.request_uri());
        // What the options say is for the server they name, and nobody else.
        let is_ours = redirect::same_origin(&hop.url, &options.url);
        let own = if is_ours { options.headers.as_slice() } else { &[] };
        let has = |name: &str| own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        for (name, value) in own {
            request = request.header(name, value);
        }
        let mut or_else = |name: &str, value: Option<&str>| {
            if let Some(value) = value.filter(|_| !has(name)) {
                let given = std::mem::take(&mut request);
                request = given.header(name, value);
            }
        };
        or_else("user-agent", Some(USER_AGENT));
        or_else("accept-encoding", Some("gzip"));
        or_else("connection", if self.keeps_alive { None } else { Some("close") });
        if matches!(hop.method, Method::Post(_)) {
            or_else("content-type", Some("application/json"));
        }
        if let Some(credentials) = options.url.credentials.as_ref().filter(|_| is_ours) {
            or_else("authorization", Some(&basic(credentials)));
        }
        if options.conditional && !whole && matches!(hop.method, Method::Get) {
            or_else("if-none-match", self.validators.etag.as_deref());
            or_else("if-modified-since", self.validators.last_modified.as_deref());
        }
        request.body(body).expect("URL and headers were checked, validators were headers")
    }

    fn receive(
        &self,
        options: &PollOptions,
        response: Response<Body>,
    ) -> Result<Answer, ConnectError> {
        self.link.set_stage(Stage::Body);
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        let headers = &parts.headers;
        let used = options.weights.as_ref().and_then(|weights| {
            text(headers, &weights.header).and_then(|used| used.trim().parse().ok())
        });
        let content = match status {
            204 | 205 | 304 => Content::Nothing,
            200..=299 => self.message(options, headers, body)?,
            _ => Content::Complaint(self.complaint(options, headers, body)),
        };
        Ok(Answer {
            status,
            headers: kept(options, headers),
            stamp: self.link.stamp(),
            retry_after: text(headers, "retry-after").and_then(|value| retry_after(&value)),
            used,
            content,
        })
    }

    fn message(
        &self,
        options: &PollOptions,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Content, ConnectError> {
        let limit = options.max_message;
        let announced = body.content_length();
        let is_coded = is_gzip(headers);
        if !is_coded && announced.is_some_and(|bytes| bytes > limit as u64) {
            return Ok(Content::TooLarge(announced));
        }
        // One byte more tells a body that is too large from one that is just as large.
        let bytes = read(decoded(headers, body), limit as u64 + 1)
            .map_err(|error| self.body_failure(&error))?;
        if bytes.len() > limit {
            return Ok(Content::TooLarge(announced.filter(|_| !is_coded)));
        }
        let validators = Validators {
            etag: text(headers, "etag"),
            last_modified: text(headers, "last-modified"),
        };
        Ok(Content::Message(bytes, validators))
    }

    fn body_failure(&self, error: &io::Error) -> ConnectError {
        self.link.take_failure().unwrap_or_else(|| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                ConnectError::at(Stage::Body, "the server closed the connection before its end")
            }
            _ => ConnectError::at(Stage::Body, error),
        })
    }

    /// What the server says about it; nothing where that can't be read, which is no other error.
    fn complaint(&self, options: &PollOptions, headers: &HeaderMap, body: Body) -> String {
        let bytes = read(decoded(headers, body), COMPLAINT_BYTES_MAX).unwrap_or_default();
        self.link.take_failure();
        printable(hide(options, &String::from_utf8_lossy(&bytes)).trim())
    }
}

/// Where the server sends us to; `None` where it doesn't, an error where we don't go there.
fn next_hop(
    options: &PollOptions,
    hop: &Hop,
    response: &Response<Body>,
) -> Option<Result<Hop, String>> {
    let status = response.status().as_u16();
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = text(response.headers(), "location")?;
    let url = match redirect::resolve(&hop.url, &location) {
        Ok(url) => url,
        Err(why) => return Some(Err(format!("it redirects {why}"))),
    };
    let method = match (&hop.method, status) {
        // RFC 9110 section 15.4: only these two keep the method.
        (Method::Post(body), 307 | 308) if redirect::same_origin(&url, &options.url) => {
            Method::Post(body.clone())
        }
        (Method::Post(_), 307 | 308) => {
            return Some(Err(format!("it leads to {url}, which is not told what we send")));
        }
        (Method::Get | Method::Post(_), _) => Method::Get,
    };
    Some(Ok(Hop { url, method }))
}

fn basic(credentials: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
    format!("Basic {encoded}")
}

/// All values of a header, as one.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn kept(options: &PollOptions, headers: &HeaderMap) -> Vec<(String, String)> {
    let kept = options.keep_headers.iter().filter_map(|name| {
        let value = text(headers, name)?;
        Some((name.clone(), printable(&hide(options, &value))))
    });
    kept.collect()
}

/// A server may repeat what it was sent.
fn hide(options: &PollOptions, text: &str) -> String {
    let mut text = text.to_string();
    for secret in options.secrets.iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN) {
        text = text.replace(secret.as_str(), "***");
    }
    text
}

fn is_gzip(headers: &HeaderMap) -> bool {
    text(headers, "content-encoding").is_some_and(|coding| {
        let coding = coding.trim();
        coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip")
    })
}

/// The body as it was before it was coded for the way here.
fn decoded(headers: &HeaderMap, body: Body) -> Box<dyn Read> {
    let reader = body.into_reader();
    if is_gzip(headers) { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) }
}

/// Reads to the end, or `limit` bytes.
fn read(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let (mut bytes, mut reader) = (Vec::new(), reader.take(limit));
    let mut piece = [0; PIECE_BYTES];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the failure says that the server does not like how much we ask.
pub(super) fn is_throttling(status: u16) -> bool {
    matches!(status, 418 | 429)
}

/// How a status that is no success reads in the log.
pub(super) fn refusal(answer: &Answer, complaint: &str) -> Reason {
    let mut cause = format!("the server answered {}", answer.status);
    if let Some(wait) = answer.retry_after {
        cause += &format!("; it says to come back in {} s", wait.as_secs());
    }
    if !complaint.is_empty() {
        cause += &format!(": {complaint}");
    }
    Reason::Failed { stage: Stage::Answer, cause }
}
