//! Feeds whose threads fail, with threads that do what the tests want.

use clap::Parser;
use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::block::{PoolPlan, channel};
use crate::config::{RecordArgs, RecorderOptions};
use crate::feed::budget::ConnectBudgets;
use crate::feed::poll::budget::Budgets;
use crate::feed::tls::TlsConnectors;
use crate::feed::{Job, Work};
use crate::resolver::Resolver;
use crate::storage::memory::MemoryDisk;
use crate::tape::line::Encoding;

const FEEDS_MAX: usize = 4;

#[derive(Debug, clap::Parser)]
struct Typed {
    #[command(flatten)]
    record: RecordArgs,
}

fn options(feeds: &[&str]) -> RecorderOptions {
    let words = ["feedtape", "--out", "tapes"].into_iter().chain(feeds.iter().copied());
    Typed::try_parse_from(words).unwrap().record.check().unwrap()
}

struct Rig {
    feeds: Feeds,
    events: Receiver<Event>,
    parcels: Receiver<Parcel>,
}

fn rig(work: Work, feeds: &[&str]) -> Rig {
    let options = options(feeds);
    let plan = PoolPlan::new(options.queue_bytes, feeds.len());
    let (parcels, received) = channel(plan, feeds.len(), FEEDS_MAX);
    let (send_event, events) = bounded(FEEDS_MAX);
    let shop = Workshop {
        storage: Arc::new(MemoryDisk::new()),
        pool: Arc::new(Pool::new(plan, feeds.len())),
        parcels,
        network: Arc::new(Network {
            resolver: Resolver::start().unwrap(),
            connectors: TlsConnectors::default(),
            connects: ConnectBudgets::default(),
            budgets: Budgets::default(),
        }),
        stats: Arc::default(),
        rotation: options.rotation,
        events: send_event,
        first_id: 0,
        feeds_max: FEEDS_MAX,
        work,
    };
    let views = Views::default();
    let mut starts = Vec::new();
    for plan in &options.feeds {
        views.push(FeedView { name: plan.name().clone(), stats: Arc::default() });
        starts.push(recovery::prepare(&*shop.storage, plan.name()).unwrap());
    }
    let feeds = Feeds::start(shop, views, options.feeds, &starts).unwrap();
    Rig { feeds, events, parcels: received }
}

impl Rig {
    /// Takes the end of a feed's thread, as the main thread does.
    fn take_end(&mut self) -> (FeedId, FeedEnd) {
        let event = self.events.recv_timeout(Duration::from_secs(10)).unwrap();
        let Event::FeedEnded(id, end) = event else { panic!("{event:?}") };
        self.feeds.ended(id, end);
        (id, end)
    }

    /// How long a feed whose thread failed still waits.
    fn waits(&self, id: FeedId) -> Duration {
        match &self.feeds.slots[id].state {
            State::Failed { restart_at, .. } => restart_at.duration_since(Instant::now()),
            State::Running { .. } | State::Ended { .. } => panic!("it did not fail"),
        }
    }

    fn restart(&mut self) {
        self.feeds.restart_failed(Instant::now() + RESTART_MAX);
    }

    /// The lines that went to the writer, without their stamps.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for parcel in self.parcels.try_iter() {
            if let Parcel::Lines(block) = parcel {
                let text = String::from_utf8(block.bytes().to_vec()).unwrap();
                lines.extend(text.lines().map(|line| line[19..].to_string()));
                self.feeds.shop.pool.give_back(block);
            }
        }
        lines
    }
}

fn record(job: &mut Job, text: &str) {
    job.lines.message(100, &Encoding::of_text(text.as_bytes())).unwrap();
}

/// Panics with a line half handed over, and does its work when it is started again.
fn panics_once(mut job: Job) -> (FeedEnd, Box<Lines>) {
    if job.stats.last_conn.get() == 0 {
        job.stats.last_conn.set(1);
        job.stats.live.set(1);
        record(&mut job, "handed over");
        job.lines.hand_over();
        record(&mut job, "in its block");
        panic!("a test wants it so");
    }
    record(&mut job, "again");
    job.lines.end(Duration::ZERO);
    (FeedEnd::Complete, job.lines)
}

fn panics(_: Job) -> (FeedEnd, Box<Lines>) {
    panic!("a test wants it so");
}

#[test]
fn a_feed_whose_thread_fails_is_started_again() {
    let mut rig = rig(panics_once, &["f=ws://h/"]);
    assert_eq!(rig.take_end(), (0, FeedEnd::Panicked));
    assert_eq!((rig.feeds.running(), rig.feeds.wanted()), (0, 1));
    assert!(!rig.feeds.have_ended(), "it is not over");
    assert_eq!(rig.feeds.slots[0].view.stats.live.get(), 0);
    rig.feeds.restart_failed(Instant::now());
    assert_eq!(rig.feeds.running(), 0, "not before its time");
    assert_eq!(rig.lines(), [" handed over"]);

    rig.restart();
    assert_eq!(rig.take_end(), (0, FeedEnd::Complete));
    assert!(rig.feeds.have_ended() && rig.feeds.given_up().is_empty());
    let lines = rig.lines();
    assert!(lines[0].starts_with("!{\"event\":\"gap\",\"reason\":\"panic\""), "{lines:?}");
    assert_eq!(lines[1..], [" again"]);
}

#[test]
fn waits_grow_and_begin_anew_after_a_long_run() {
    let mut rig = rig(panics, &["f=ws://h/"]);
    for n in 0..8u32 {
        rig.take_end();
        let wait = rig.waits(0);
        let most = RESTART_MAX.min(RESTART_MIN * 2u32.pow(n));
        assert!(wait <= most, "wait {n}: {wait:?}");
        rig.restart();
    }
    assert_eq!(rig.feeds.slots[0].restarts.attempts(), 8);
    rig.feeds.slots[0].started -= RESTART_MAX;
    rig.take_end();
    assert!(rig.waits(0) <= RESTART_MIN);
}

#[test]
fn a_failed_feed_that_is_not_wanted_stays_away_until_it_is() {
    let mut rig = rig(panics_once, &["f=ws://h/", "g=ws://h/"]);
    rig.take_end();
    rig.take_end();
    let changes = rig.feeds.change(options(&["g=ws://h/"]).feeds).unwrap();
    assert_eq!((changes.removed, changes.added, changes.unchanged), (1, 0, 1));
    // A reload is a word of the operator's: what failed is started at once.
    assert_eq!(rig.take_end(), (1, FeedEnd::Complete));
    rig.restart();
    assert_eq!(rig.feeds.running(), 0, "f is not wanted");
    assert!(rig.feeds.have_ended() && rig.feeds.given_up().is_empty());

    let changes = rig.feeds.change(options(&["f=ws://h/", "g=ws://h/"]).feeds).unwrap();
    assert_eq!((changes.removed, changes.added, changes.unchanged), (0, 1, 1));
    assert_eq!(rig.take_end(), (0, FeedEnd::Complete), "and g, which is complete, stays so");
    assert_eq!(rig.feeds.running(), 0);
}

#[test]
fn too_many_feeds_change_nothing() {
    let mut rig = rig(panics_once, &["f=ws://h/"]);
    rig.take_end();
    let names = ["a=ws://h/", "b=ws://h/", "c=ws://h/", "d=ws://h/"];
    let error = rig.feeds.change(options(&names).feeds).unwrap_err().to_string();
    assert!(error.contains("4 new feeds are too many: memory is reserved for 4"), "{error}");
    assert_eq!((rig.feeds.wanted(), rig.feeds.slots.len()), (1, 1));
    assert!(rig.feeds.slots[0].wanted.is_some());
}
