//! What each path means.
//!
//! Owns the table of paths. No decision whether the client may ask for it.

use super::http::{Method, Request, Wrong};
use super::order::Ask;
use super::page::{self, Page};
use crate::tape::name::FeedName;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A file of the dashboard.
    Page(&'static Page),
    /// Whether the threads live.
    Health,
    /// Whether all feeds are recorded.
    Ready,
    /// Figures for Prometheus.
    Metrics,
    /// The recorder as a whole.
    Recorder,
    /// Each feed.
    Feeds,
    /// Holes that ended after this time, in Unix nanoseconds.
    Gaps(u64),
    /// Memory.
    Memory,
    /// Lines of the log from this number on.
    Events(u64),
    /// An order.
    Order(Ask),
}

impl Route {
    /// Whether everybody may have it, who knows no token: it tells nothing of what is recorded.
    pub fn is_open(&self) -> bool {
        matches!(self, Route::Page(_) | Route::Health)
    }
}

/// What the request asks for.
///
/// # Errors
/// 404 where there is no such path, 405 where it is there for another method.
pub fn route(request: &Request) -> Result<Route, Wrong> {
    let path = request.path.as_str();
    let (order, read) = (order(path)?, read(path, &request.query)?);
    match (request.method, order, read) {
        (Method::Post, Some(ask), _) => Ok(Route::Order(ask)),
        (Method::Get | Method::Head, _, Some(route)) => Ok(route),
        (Method::Post, None, Some(_)) => Err(Wrong::new(405, format!("'{path}' is read by GET"))),
        (Method::Get | Method::Head, Some(_), None) => {
            Err(Wrong::new(405, format!("'{path}' is an order: send a POST")))
        }
        (_, None, None) => Err(Wrong::new(404, format!("there is no '{path}'"))),
    }
}

fn read(path: &str, query: &str) -> Result<Option<Route>, Wrong> {
    Ok(Some(match path {
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        "/api/recorder" => Route::Recorder,
        "/api/feeds" => Route::Feeds,
        "/api/gaps" => Route::Gaps(since(query)?),
        "/api/memory" => Route::Memory,
        "/api/events" => Route::Events(since(query)?),
        _ => return Ok(page::find(path).map(Route::Page)),
    }))
}

fn order(path: &str) -> Result<Option<Ask>, Wrong> {
    Ok(Some(match path {
        "/api/pause" => Ask::Pause(None),
        "/api/resume" => Ask::Resume(None),
        "/api/rotate" => Ask::Rotate,
        "/api/reload" => Ask::Reload,
        _ => {
            let of_feed = path.strip_prefix("/api/feeds/").and_then(|rest| rest.split_once('/'));
            let Some((name, what)) = of_feed else { return Ok(None) };
            let name = FeedName::new(name)
                .map_err(|error| Wrong::new(404, format!("no feed: {error}")))?;
            match what {
                "pause" => Ask::Pause(Some(name)),
                "resume" => Ask::Resume(Some(name)),
                "reconnect" => Ask::Reconnect(name),
                _ => return Ok(None),
            }
        }
    }))
}

/// `since=N`; 0 where it is not there.
fn since(query: &str) -> Result<u64, Wrong> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("since="));
    match value {
        None => Ok(0),
        Some(text) => {
            text.parse().map_err(|_| Wrong::new(400, format!("since='{text}': must be a number")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::http::parse;

    #[test]
    fn paths() {
        let name = |text: &str| FeedName::new(text).unwrap();
        for (line, expected) in [
            ("GET /healthz", Ok(Route::Health)),
            ("HEAD /metrics?x=1", Ok(Route::Metrics)),
            ("GET /api/events", Ok(Route::Events(0))),
            ("GET /api/events?a=b&since=12", Ok(Route::Events(12))),
            ("GET /api/gaps?since=18446744073709551615", Ok(Route::Gaps(u64::MAX))),
            ("GET /api/gaps?since=18446744073709551616", Err(400)),
            ("GET /api/events?since=", Err(400)),
            ("GET /api/events?since=-1", Err(400)),
            ("POST /api/pause", Ok(Route::Order(Ask::Pause(None)))),
            ("POST /api/feeds/btc/pause", Ok(Route::Order(Ask::Pause(Some(name("btc")))))),
            ("POST /api/feeds/btc/reconnect", Ok(Route::Order(Ask::Reconnect(name("btc"))))),
            ("POST /api/feeds/btc/stop", Err(404)),
            ("POST /api/feeds/BTC%2F..%2F/pause", Err(404)),
            ("POST /api/feeds/../pause", Err(404)),
            ("POST /api/feeds//pause", Err(404)),
            ("GET /api/feeds/btc", Err(404)),
            ("GET /api/pause", Err(405)),
            ("POST /metrics", Err(405)),
            ("GET /..", Err(404)),
            ("GET /nothing", Err(404)),
            ("GET //healthz", Err(404)),
        ] {
            let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
            let request = parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(route(&request).map_err(|wrong| wrong.status), expected, "{line}");
        }
    }
}
