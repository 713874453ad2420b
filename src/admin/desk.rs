//! Where requests are answered: who may ask, what for, and what the answer is.
//!
//! Owns the answers in JSON; `metrics.rs` has those for Prometheus. It looks, and hands orders on;
//! it changes nothing itself.

use std::io;

use serde_json::{Map, Value, json};

use super::connection::Served;
use super::events;
use super::guard::{Guard, Peer};
use super::http::{Request, Response, TEXT, Wrong};
use super::metrics;
use super::order::{Ask, Order, Reply};
use super::overview::Overview;
use super::route::{Route, route};
use super::samples::Samples;
use crate::block::Asker;
use crate::clock::{self, Mono, mono_now};
use crate::feed::wait::Waker;
use crate::heap_profile;
use crate::stats::{FeedView, GapNote};
use crate::tape::event::GapReason;

/// Answers on their way to clients, in bytes; with more of them the next one is refused, unless it
/// is the only one.
pub(super) const ANSWERS_BYTES_MAX: usize = 4 << 20;
/// Gaps in one answer; the newest ones.
const GAPS_MAX: usize = 2000;

/// Hands an order to the main thread; `false` where too many wait.
pub type Send = Box<dyn Fn(Order) -> bool + std::marker::Send>;

pub(super) struct Desk {
    overview: Overview,
    guard: Guard,
    samples: Samples,
    send: Send,
    waker: Waker,
}

impl Desk {
    pub(super) fn new(overview: Overview, guard: Guard, send: Send, waker: Waker) -> Desk {
        Desk { overview, guard, samples: Samples::new(mono_now()), send, waker }
    }

    /// When [`Desk::tick`] is to be called.
    pub(super) fn next_tick(&self) -> Mono {
        self.samples.next()
    }

    /// Does what is to be done from time to time.
    pub(super) fn tick(&mut self, now: Mono) {
        if let Some(read) = self.overview.earlier_memory.take() {
            self.samples.read_earlier(&self.overview.out, self.overview.started_ns, read);
        }
        self.samples.tick(now);
    }

    /// Answers a request. `under_way`: bytes of other answers that are not sent yet.
    pub(super) fn serve(
        &mut self,
        now: Mono,
        peer: Peer,
        request: &Request,
        under_way: usize,
    ) -> Served {
        let route = route(request);
        // Before it is told what there is.
        let is_open = route.as_ref().is_ok_and(Route::is_open);
        let answered =
            self.guard.check(now, peer, request, is_open).and(route).and_then(
                |route| match route {
                    Route::Order(ask) => self.order(ask),
                    route => Ok(Served::Now(self.look(now, &route, request.wants_openmetrics))),
                },
            );
        let wrong = match answered {
            Ok(Served::Now(response)) => {
                if under_way == 0 || under_way + response.body.len() <= ANSWERS_BYTES_MAX {
                    return Served::Now(response);
                }
                let why = "too many answers are on their way; try again";
                Wrong { retry_after_s: Some(1), ..Wrong::new(503, why) }
            }
            Ok(ordered) => return ordered,
            Err(wrong) => wrong,
        };
        Served::Now(Response::of(&wrong))
    }

    fn order(&self, ask: Ask) -> Result<Served, Wrong> {
        let (reply, answer) = Reply::new(self.waker.clone());
        match (self.send)(Order { ask, reply }) {
            true => Ok(Served::Ordered(answer)),
            false => Err(Wrong::new(503, "the recorder is busy with other orders; try again")),
        }
    }

    fn look(&mut self, now: Mono, route: &Route, openmetrics: bool) -> Response {
        match route {
            Route::Page(page) => page.response(),
            Route::Health => match self.overview.ills(now) {
                ills if ills.is_empty() => Response::new(200, TEXT, "ok\n"),
                ills => Response::new(503, TEXT, ills.join("\n") + "\n"),
            },
            Route::Ready => {
                let reasons = self.overview.reasons(now, clock::wall_now());
                let ready = reasons.is_empty();
                let status = if ready { 200 } else { 503 };
                Response::json(status, &json!({ "ready": ready, "reasons": reasons }))
            }
            Route::Metrics => self.metrics(now, openmetrics),
            Route::Recorder => Response::json(200, &self.recorder(now)),
            Route::Feeds => Response::json(200, &self.feeds(now)),
            Route::Gaps(since) => Response::json(200, &self.gaps(*since)),
            Route::Memory => Response::json(200, &self.memory(now)),
            Route::Events(since) => Response::json(200, &self.events(*since)),
            Route::HeapProfile => match heap_profile() {
                Ok(text) => Response::new(200, TEXT, text),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    Response::of(&Wrong::new(501, error.to_string()))
                }
                Err(error) => Response::of(&Wrong::new(503, error.to_string())),
            },
            Route::Order(_) => unreachable!("orders are handed on"),
        }
    }

    fn metrics(&mut self, now: Mono, openmetrics: bool) -> Response {
        let scrape = metrics::Now {
            mono: now,
            wall_ns: clock::wall_now(),
            figures: self.samples.figures(now),
            depth: self.overview.pool.take_depth(Asker::Admin),
            pool: self.overview.pool.plan(),
        };
        let text = metrics::render(&self.overview, &scrape, openmetrics);
        let content_type = if openmetrics { metrics::OPENMETRICS } else { metrics::CLASSIC };
        Response::new(200, content_type, text)
    }

    fn recorder(&self, now: Mono) -> Value {
        let overview = &self.overview;
        let pool = overview.pool.plan();
        let depth = overview.pool.depth();
        json!({
            "feedtape": env!("CARGO_PKG_VERSION"),
            "host": overview.host,
            "pid": std::process::id(),
            "started_ns": overview.started_ns,
            "now_ns": clock::wall_now(),
            "out": overview.out.display().to_string(),
            "paused": overview.stats.paused.get() == 1,
            "disk": overview.disk(now),
            "queue": {
                "bytes": depth.bytes,
                "bytes_max": pool.bytes(),
                "blocks_out": depth.blocks,
                "blocks": pool.blocks,
            },
            "plan": overview.plan,
        })
    }

    fn feeds(&self, now: Mono) -> Value {
        let now_ns = clock::wall_now();
        let feeds: Vec<Value> =
            self.overview.feeds().iter().map(|view| feed(view, now, now_ns)).collect();
        json!({ "now_ns": now_ns, "feeds": feeds })
    }

    fn gaps(&self, since: u64) -> Value {
        let (mut forgotten_to, mut ended) = self.overview.stats.gap_log.since(since);
        let left_out = ended.drain(..ended.len().saturating_sub(GAPS_MAX));
        left_out.for_each(|gap| forgotten_to = forgotten_to.max(gap.to_ts));
        let views = self.overview.views.all();
        let name = |number: u64| Some(views.get(number.checked_sub(1)? as usize)?.name.as_str());
        let mut gaps: Vec<Value> = ended
            .iter()
            .map(|gap| {
                let GapNote { feed, reason, from_ts, to_ts, messages } = *gap;
                json!({
                    "feed": name(feed), "reason": reason, "from_ns": from_ts.unwrap_or(to_ts),
                    "to_ns": to_ts, "messages": messages,
                })
            })
            .collect();
        gaps.extend(self.overview.feeds().iter().filter_map(|view| {
            let from_ns = view.stats.hole_since.get();
            let reason = GapReason::ALL.get(view.stats.hole_reason.get() as usize)?;
            (from_ns > 0).then(|| {
                json!({
                    "feed": view.name.as_str(), "reason": reason, "from_ns": from_ns,
                    "to_ns": null, "messages": null,
                })
            })
        }));
        let known_since_ns = self.overview.started_ns.max(forgotten_to);
        json!({ "known_since_ns": known_since_ns, "gaps": gaps })
    }

    fn memory(&mut self, now: Mono) -> Value {
        let figures = self.samples.figures(now).clone();
        let words = self.samples.words(now, self.overview.explain).clone();
        json!({
            "now_ns": clock::wall_now(),
            "figures": figures,
            "sentences": words.explained.sentences,
            "verdict": words.explained.verdict,
            "leak": words.leak,
            "plan": self.overview.plan,
            "history": self.samples.all(),
        })
    }

    fn events(&self, since: u64) -> Value {
        let found = events::since(since);
        let views = self.overview.views.all();
        let events: Vec<Value> = found
            .lines
            .iter()
            .map(|line| {
                let feed = line.text.split_once(": ").map(|(name, _)| name);
                let feed = feed.filter(|name| views.iter().any(|view| view.name.as_str() == *name));
                json!({
                    "seq": line.seq, "at_ns": line.at_ns, "feed": feed, "text": line.text,
                    "level": line.level.as_str().to_ascii_lowercase(),
                })
            })
            .collect();
        json!({ "next": found.next, "missed": found.missed, "events": events })
    }
}

/// A heap profile in the text that pprof reads.
fn heap_profile() -> io::Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    heap_profile::write(folder.path()).and_then(std::fs::read)
}

fn feed(view: &FeedView, now: Mono, now_ns: u64) -> Value {
    let FeedView { name, stats } = view;
    let reconnects: Map<String, Value> =
        stats.causes.figures().map(|(cause, n)| (cause.word().to_string(), n.into())).collect();
    let gaps: Map<String, Value> = stats
        .gaps
        .figures()
        .iter()
        .map(|gap| {
            let figures =
                json!({ "holes": gap.holes, "messages": gap.messages, "bytes": gap.bytes });
            (gap.reason.to_string(), figures)
        })
        .collect();
    let trouble = Some(stats.trouble.get()).filter(|words| !words.is_empty());
    json!({
        "name": name.as_str(),
        "url": stats.url.get(),
        "kind": if stats.is_poll.is_up() { "http" } else { "ws" },
        "state": stats.phase.get().word(),
        "since_ns": stats.phase.since(),
        "conn": stats.last_conn.get(),
        "messages": stats.messages.get(),
        "bytes": stats.bytes.get(),
        "wire_bytes": stats.wire_bytes.get(),
        "last_data_ns": metrics::last_data_ns(view, now, now_ns),
        "connections": stats.connections.get(),
        "connect_failures": stats.connect_failures.get(),
        "reconnects": reconnects,
        "gaps": gaps,
        "trouble": trouble,
        "refusals": stats.refusals.get(),
        "silent_keys": stats.silent_keys.get(),
        "tape_bytes": stats.tape_bytes.get(),
        "sealed_bytes": stats.sealed_bytes.get(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::guard::Hosts;
    use crate::admin::testing::overview;

    fn desk(feeds: &[&str]) -> Desk {
        let guard = Guard::new(None, Hosts::Any);
        Desk::new(overview(feeds), guard, Box::new(|_| true), Waker::new().unwrap())
    }

    fn note(desk: &Desk, feed: u64, to_ts: u64) {
        let reason = GapReason::Stall;
        let gap = GapNote { feed, reason, from_ts: None, to_ts, messages: None };
        desk.overview.stats.gap_log.note(gap);
    }

    /// After each restart it was listed as a feed without a name.
    #[test]
    fn the_recorders_own_tape_is_no_feed_with_gaps() {
        let desk = desk(&["btc"]);
        let started = desk.overview.started_ns;
        note(&desk, 0, started + 1);
        note(&desk, 1, started + 2);
        let answer = desk.gaps(0);
        assert_eq!(answer["known_since_ns"], started);
        let names: Vec<_> =
            answer["gaps"].as_array().unwrap().iter().map(|gap| &gap["feed"]).collect();
        assert_eq!(names, ["btc"]);
    }

    /// The time of what did not fit was told as if all of it were known.
    #[test]
    fn of_the_time_of_gaps_that_do_not_fit_nothing_is_known() {
        let desk = desk(&["btc"]);
        let started = desk.overview.started_ns;
        (1..=GAPS_MAX as u64 + 3).for_each(|n| note(&desk, 1, started + n));
        let answer = desk.gaps(0);
        assert_eq!(answer["gaps"].as_array().unwrap().len(), GAPS_MAX);
        assert_eq!(answer["gaps"][0]["to_ns"], started + 4);
        assert_eq!(answer["known_since_ns"], started + 3);
        assert_eq!(desk.gaps(started + 3)["known_since_ns"], started, "all that was asked for");
    }
}
