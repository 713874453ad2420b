//! The recorder's feeds: which are wanted, which run, and what becomes of one that ends.
//!
//! Owns a slot for every feed that there was in this run. A feed keeps its slot, its number and its
//! way to the tape while others come and go, and gets them back when it comes again, so that its
//! tape goes on without looking at the disk. A feed whose thread failed is started again, with
//! backoff; the others don't notice. What an operator asks of them is in `feeds/steer.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam_channel::Sender;

mod steer;

use super::Event;
use super::life::{HangWatch, News, seconds};
use crate::backoff::Backoff;
use crate::block::{FeedId, Parcel, Pool, Tape};
use crate::clock::mono_now;
use crate::feed::lines::{Lines, Rotation};
use crate::feed::listen::{Ear, Listener};
use crate::feed::session::Ask;
use crate::feed::transport::Network;
use crate::feed::{Command, Feed, FeedEnd, FeedPlan, Task, Work};
use crate::folding::Folding;
use crate::recovery;
use crate::report::{FeedView, Views};
use crate::stats::{Phase, RecorderStats};
use crate::storage::Storage;
use crate::tape::event::GapReason;
use crate::tape::name::FeedName;

/// Waits before a feed whose thread failed is started again.
const RESTART_MIN: Duration = Duration::from_secs(1);
/// See [`RESTART_MIN`].
const RESTART_MAX: Duration = Duration::from_secs(60);

/// Of failures in a row so many are logged one by one.
const FAILURES_LOGGED_SINGLY: u64 = 3;

/// What feeds are made with.
pub(super) struct Workshop {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) pool: Arc<Pool>,
    pub(super) parcels: Sender<Parcel>,
    pub(super) network: Arc<Network>,
    pub(super) stats: Arc<RecorderStats>,
    pub(super) rotation: Rotation,
    pub(super) events: Sender<Event>,
    /// Number of the first feed for pool and writer: the recorder's own tape may come before it.
    pub(super) first_id: FeedId,
    /// No more feeds than this: channels and pool were made for so many.
    pub(super) feeds_max: usize,
    /// What their threads do.
    pub(super) work: Work,
}

/// All feeds of this run.
pub(super) struct Feeds {
    shop: Workshop,
    views: Views,
    slots: Vec<Slot>,
    /// An operator paused all of them: those that come later too.
    all_paused: bool,
}

struct Slot {
    view: FeedView,
    /// None: it was removed.
    wanted: Option<FeedPlan>,
    state: State,
    /// An operator paused it; it stays so through reloads, and where its thread fails.
    paused: bool,
    /// Where a poll hears.
    listener: Option<Listener>,
    restarts: Backoff,
    watch: HangWatch,
    /// Failures of its threads, for the log.
    failures: Folding,
    /// When its thread was started last.
    started: Instant,
}

enum State {
    Running {
        feed: Feed,
        /// As it runs: may be another one than is wanted, until it has ended.
        plan: Box<FeedPlan>,
    },
    /// It ended in order.
    Ended { lines: Box<Lines>, end: FeedEnd },
    /// Its thread failed, or could not be started. What is missing since is a hole of this reason.
    Failed { restart_at: Instant, hole: GapReason },
}

impl Slot {
    /// Whether it has ended for good.
    fn has_ended(&self) -> bool {
        match &self.state {
            State::Ended { end, .. } => matches!(end, FeedEnd::Complete | FeedEnd::Refused),
            State::Running { .. } | State::Failed { .. } => false,
        }
    }

    fn is_poll(&self) -> bool {
        matches!(self.wanted, Some(FeedPlan::Poll(_)))
    }
}

/// What a change of options did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) changed: usize,
    pub(super) unchanged: usize,
}

impl Feeds {
    /// Starts the first feeds, whose tapes the writer knows already.
    ///
    /// # Errors
    /// No threads or descriptors to be had.
    pub(super) fn start(
        shop: Workshop,
        views: Views,
        plans: Vec<FeedPlan>,
        starts: &[recovery::Start],
    ) -> anyhow::Result<Feeds> {
        let mut feeds = Feeds { shop, views, slots: Vec::new(), all_paused: false };
        for ((plan, start), view) in plans.into_iter().zip(starts).zip(feeds.views.all()) {
            feeds.add_slot(plan, view, start);
        }
        // Who listens comes first: what is told before that is heard by nobody.
        let (polls, streams): (Vec<FeedId>, Vec<FeedId>) =
            (0..feeds.slots.len()).partition(|id| feeds.slots[*id].is_poll());
        for id in polls.into_iter().chain(streams) {
            feeds.run(id)?;
        }
        Ok(feeds)
    }

    fn add_slot(&mut self, plan: FeedPlan, view: FeedView, start: &recovery::Start) {
        let lines = self.lines(self.slots.len(), &view, start.last_ts);
        let state = State::Ended { lines, end: FeedEnd::Stopped };
        let restarts = Backoff::new(RESTART_MIN, RESTART_MAX, fastrand::u64(..));
        view.stats.number.set(self.slots.len() as u64 + 1);
        view.stats.wanted.raise();
        view.stats.phase.set(Phase::Waiting);
        self.slots.push(Slot {
            view,
            wanted: Some(plan),
            state,
            paused: self.all_paused,
            listener: None,
            restarts,
            watch: HangWatch::default(),
            failures: Folding::new(FAILURES_LOGGED_SINGLY),
            started: Instant::now(),
        });
    }

    fn lines(&self, id: FeedId, view: &FeedView, last_ts: Option<u64>) -> Box<Lines> {
        let Workshop { pool, parcels, stats, rotation, first_id, .. } = &self.shop;
        let (pool, parcels) = (pool.clone(), parcels.clone());
        Box::new(Lines::new(
            first_id + id,
            pool,
            parcels,
            view.stats.clone(),
            stats.clone(),
            *rotation,
            last_ts,
        ))
    }

    /// Starts the thread of a wanted feed that has none.
    fn run(&mut self, id: FeedId) -> anyhow::Result<()> {
        let Some(plan) = self.slots[id].wanted.clone() else { return Ok(()) };
        let name = plan.name().clone();
        let mut lines = match std::mem::replace(
            &mut self.slots[id].state,
            State::Failed { restart_at: Instant::now(), hole: GapReason::Restart },
        ) {
            State::Ended { mut lines, .. } => {
                lines.resume();
                lines
            }
            State::Failed { hole, .. } => {
                let mut lines = self.lines(id, &self.slots[id].view, None);
                lines.hole_begins(hole);
                lines
            }
            running @ State::Running { .. } => {
                self.slots[id].state = running;
                return Ok(());
            }
        };
        lines.set_listeners(self.listeners_of(id));
        let url = plan.url().to_string();
        self.slots[id].view.stats.url.set(&url);
        lines.set_url(url);
        let task = match &plan {
            FeedPlan::Stream(options) => {
                self.slots[id].view.stats.is_poll.lower();
                Task::Stream(options.clone())
            }
            FeedPlan::Poll(options) => {
                let wanted = options.on.as_ref().map_or(&[][..], |(_, wanted)| wanted);
                let (listener, ear) = Ear::new(wanted).context("can't make a wake-up")?;
                self.slots[id].view.stats.is_poll.raise();
                self.slots[id].listener = Some(listener);
                Task::Poll(options.clone(), ear)
            }
        };
        let events = self.shop.events.clone();
        let on_end = move |end| {
            // The main thread takes events until all feeds have ended.
            let _ = events.send(Event::FeedEnded(id, end));
        };
        let slot = &mut self.slots[id];
        let (network, stats) = (self.shop.network.clone(), slot.view.stats.clone());
        let first = slot.paused.then_some(Command::Ask(Ask::Pause));
        let feed = Feed::start(self.shop.work, task, network, lines, stats, first, on_end)
            .with_context(|| format!("can't start the feed {name}"))?;
        slot.state = State::Running { feed, plan: Box::new(plan) };
        slot.started = Instant::now();
        Ok(())
    }

    /// Those that listen to the feed.
    fn listeners_of(&self, id: FeedId) -> Vec<Listener> {
        let name = &self.slots[id].view.name;
        let hears = |slot: &&Slot| match &slot.wanted {
            Some(FeedPlan::Poll(poll)) => {
                poll.on.as_ref().is_some_and(|(heard, _)| heard.contains(name))
            }
            Some(FeedPlan::Stream(_)) | None => false,
        };
        self.slots.iter().filter(hears).filter_map(|slot| slot.listener.clone()).collect()
    }

    /// Tells all feeds who listens to them.
    fn introduce(&self) {
        for (id, slot) in self.slots.iter().enumerate() {
            if let State::Running { feed, .. } = &slot.state {
                feed.tell(Command::Listeners(self.listeners_of(id)));
            }
        }
    }

    /// Makes these the wanted feeds. One that stays as it is does not notice.
    ///
    /// # Errors
    /// Too many feeds, or the disk can't be read: then nothing has changed.
    pub(super) fn change(&mut self, plans: Vec<FeedPlan>) -> anyhow::Result<Changes> {
        let is_new = |plan: &&FeedPlan| self.find(plan).is_none();
        let new = plans.iter().filter(is_new).count();
        ensure!(
            self.slots.len() + new <= self.shop.feeds_max,
            "{new} new feeds are too many: memory is reserved for {} at the start, and there were \
             {} in this run; restart to record them",
            self.shop.feeds_max,
            self.slots.len()
        );
        let added: Vec<_> = plans.iter().filter(is_new).map(FeedPlan::name).collect();
        let starts = recovery::prepare_all(&*self.shop.storage, &added);
        let starts: Vec<_> =
            starts.into_iter().collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
        let mut changes = Changes::default();
        let names: Vec<_> = plans.iter().map(|plan| plan.name().clone()).collect();
        for id in 0..self.slots.len() {
            if self.slots[id].wanted.is_some() && !names.contains(&self.slots[id].view.name) {
                changes.removed += 1;
                self.slots[id].wanted = None;
                self.slots[id].view.stats.wanted.lower();
                self.tell(id, Command::stop());
            }
        }
        let mut starts = starts.into_iter();
        let plans = plans.into_iter().map(|plan| {
            let start = self.find(&plan).is_none().then(|| starts.next());
            (plan, start.flatten())
        });
        // Who listens comes first: what is told before that is heard by nobody.
        let (polls, streams): (Vec<_>, Vec<_>) =
            plans.partition(|(plan, _)| matches!(plan, FeedPlan::Poll(_)));
        for (plan, start) in polls.into_iter().chain(streams) {
            match (self.find(&plan), start) {
                (Some(id), _) => self.want(id, plan, &mut changes),
                (None, start) => {
                    let start = start.expect("one was made for each new feed");
                    changes.added += 1;
                    self.add(plan, &start);
                }
            }
        }
        self.introduce();
        Ok(changes)
    }

    fn find(&self, plan: &FeedPlan) -> Option<FeedId> {
        self.slots.iter().position(|slot| slot.view.name == *plan.name())
    }

    fn tell(&self, id: FeedId, command: Command) {
        if let State::Running { feed, .. } = &self.slots[id].state {
            feed.tell(command);
        }
    }

    /// A feed that has a slot gets a plan, which may be the one it has.
    fn want(&mut self, id: FeedId, plan: FeedPlan, changes: &mut Changes) {
        let slot = &mut self.slots[id];
        let before = slot.wanted.replace(plan.clone());
        slot.view.stats.wanted.raise();
        match &before {
            None => changes.added += 1,
            Some(before) if *before == plan => changes.unchanged += 1,
            Some(_) => changes.changed += 1,
        }
        match &mut slot.state {
            State::Running { feed, plan: running } => match (&**running, &plan) {
                // Told to stop before: it runs again once it has ended.
                _ if before.is_none() => {}
                (running, wanted) if running == wanted => {}
                (FeedPlan::Stream(_), FeedPlan::Stream(options)) => {
                    slot.view.stats.url.set(&plan.url().to_string());
                    feed.tell(Command::Options(options.clone()));
                    **running = plan;
                }
                (FeedPlan::Stream(_) | FeedPlan::Poll(_), _) => feed.tell(Command::stop()),
            },
            // What ended because it was complete stays so while nothing changes.
            State::Ended { end: FeedEnd::Complete, .. } if before.as_ref() == Some(&plan) => {}
            State::Ended { .. } | State::Failed { .. } => self.run_or_retry(id),
        }
    }

    fn add(&mut self, plan: FeedPlan, start: &recovery::Start) {
        let view = FeedView { name: plan.name().clone(), stats: Arc::default() };
        let tape = Tape {
            name: view.name.clone(),
            url: plan.url().to_string(),
            next_number: start.next_number,
            next_index: start.next_index,
            stats: view.stats.clone(),
        };
        self.shop.pool.add_feed();
        if self.shop.parcels.send(Parcel::Tape(Box::new(tape))).is_err() {
            // The recorder ends with an error because of it.
            let feed = view.name.as_str();
            log::error!(feed; "{}: the writer has ended: the feed can't be recorded", view.name);
        }
        self.views.push(view.clone());
        log::info!(feed = view.name.as_str(); "{}: {}", view.name, plan.url());
        self.add_slot(plan, view, start);
        self.run_or_retry(self.slots.len() - 1);
    }

    fn run_or_retry(&mut self, id: FeedId) {
        if let Err(error) = self.run(id) {
            let slot = &mut self.slots[id];
            let wait = slot.restarts.next_wait(Duration::ZERO);
            let feed = slot.view.name.as_str();
            if let Some(untold) = slot.failures.worse(mono_now(), &error.to_string()) {
                let s = wait.as_secs();
                log::error!(feed; "{error:#}; tried again in {s} s{untold}");
            }
            let hole = match slot.state {
                State::Failed { hole, .. } => hole,
                State::Running { .. } | State::Ended { .. } => GapReason::Restart,
            };
            slot.view.stats.phase.set(Phase::Failed);
            slot.state = State::Failed { restart_at: Instant::now() + wait, hole };
        }
    }

    /// A feed's thread has ended.
    pub(super) fn ended(&mut self, id: FeedId, end: FeedEnd) {
        let slot = &mut self.slots[id];
        let failed = State::Failed { restart_at: Instant::now(), hole: GapReason::Panic };
        let State::Running { feed, plan } = std::mem::replace(&mut slot.state, failed) else {
            unreachable!("only a thread that runs can end");
        };
        let name = &slot.view.name;
        match feed.join() {
            Some(lines) => {
                slot.state = State::Ended { lines, end };
                slot.restarts.reset();
                slot.failures.over();
                slot.view.stats.phase.set(match end {
                    FeedEnd::Refused => Phase::Refused,
                    FeedEnd::Stopped | FeedEnd::Complete | FeedEnd::Panicked => Phase::Ended,
                });
            }
            None => {
                // One that ran for long is not one that always fails.
                if slot.started.elapsed() >= RESTART_MAX {
                    slot.restarts.reset();
                    slot.failures.over();
                }
                let wait = slot.restarts.next_wait(Duration::ZERO);
                let ms = wait.as_millis();
                let feed = name.as_str();
                if let Some(untold) = slot.failures.worse(mono_now(), "") {
                    log::error!(
                        feed; "{name}: its thread failed; started again in {ms} ms{untold}"
                    );
                }
                slot.view.stats.live.set(0);
                slot.view.stats.phase.set(Phase::Failed);
                slot.state =
                    State::Failed { restart_at: Instant::now() + wait, hole: GapReason::Panic };
                return;
            }
        }
        if end == FeedEnd::Refused {
            let feed = name.as_str();
            log::error!(feed; "{name}: ended: the venue refused it; change its options and reload");
        }
        let is_other = slot.wanted.as_ref().is_some_and(|wanted| *wanted != *plan);
        if is_other || (end == FeedEnd::Stopped && slot.wanted.is_some()) {
            self.run_or_retry(id);
            self.introduce();
        }
    }

    /// Starts feeds again whose time has come.
    pub(super) fn restart_failed(&mut self, now: Instant) {
        for id in 0..self.slots.len() {
            let is_due = match &self.slots[id].state {
                State::Failed { restart_at, .. } => now >= *restart_at,
                State::Running { .. } | State::Ended { .. } => false,
            };
            if is_due && self.slots[id].wanted.is_some() {
                self.run_or_retry(id);
                self.introduce();
            }
        }
    }

    /// Tells all that run.
    pub(super) fn tell_all(&self, command: &Command) {
        for id in 0..self.slots.len() {
            self.tell(id, command.clone());
        }
    }

    /// Nothing is wanted any more; all are told to stop.
    pub(super) fn stop(&mut self) {
        for slot in &mut self.slots {
            slot.wanted = None;
        }
        self.tell_all(&Command::stop());
    }

    /// Feeds whose threads run.
    pub(super) fn running(&self) -> usize {
        let runs = |slot: &&Slot| matches!(slot.state, State::Running { .. });
        self.slots.iter().filter(runs).count()
    }

    /// Looks whether the feeds' threads go on, and tells what is new. One that hangs is left as it
    /// is: nobody can end it, and the others don't need it.
    pub(super) fn look_for_hangs(&mut self) {
        let now = mono_now();
        for slot in &mut self.slots {
            let pulse = &slot.view.stats.pulse;
            let due = pulse.due().filter(|_| matches!(slot.state, State::Running { .. }));
            let feed = slot.view.name.as_str();
            match slot.watch.look(now, due, None, Duration::ZERO) {
                None => {}
                Some(News::Hangs { lasted, .. }) => log::error!(
                    feed;
                    "{feed}: hangs: it should have been heard of {} ago; the others go on; restart \
                     to record it again",
                    seconds(lasted)
                ),
                Some(News::GoesOn { lasted }) => {
                    log::warn!(feed; "{feed}: goes on, after {}", seconds(lasted));
                }
            }
        }
    }

    /// Names of feeds that hang.
    pub(super) fn hanging(&self) -> Vec<&FeedName> {
        let hanging = self.slots.iter().filter(|slot| slot.watch.hangs());
        hanging.map(|slot| &slot.view.name).collect()
    }

    /// Names of wanted feeds that are not live.
    pub(super) fn down(&self) -> Vec<&FeedName> {
        let is_down = |slot: &&Slot| slot.wanted.is_some() && slot.view.stats.live.get() == 0;
        self.slots.iter().filter(is_down).map(|slot| &slot.view.name).collect()
    }

    /// Wanted feeds that have tried to connect, or to poll, or have ended.
    pub(super) fn tried(&self) -> usize {
        let has_tried = |slot: &&Slot| {
            let runs = matches!(slot.state, State::Running { .. });
            slot.wanted.is_some() && (!runs || slot.view.stats.has_tried())
        };
        self.slots.iter().filter(has_tried).count()
    }

    /// Feeds that are wanted.
    pub(super) fn wanted(&self) -> usize {
        self.slots.iter().filter(|slot| slot.wanted.is_some()).count()
    }

    /// Whether every wanted feed has ended for good.
    pub(super) fn have_ended(&self) -> bool {
        self.slots.iter().filter(|slot| slot.wanted.is_some()).all(Slot::has_ended)
    }

    /// Names of wanted feeds that have given up.
    pub(super) fn given_up(&self) -> Vec<&FeedName> {
        let gave_up = |slot: &&Slot| {
            let is_refused = matches!(slot.state, State::Ended { end: FeedEnd::Refused, .. });
            slot.wanted.is_some() && is_refused
        };
        self.slots.iter().filter(gave_up).map(|slot| &slot.view.name).collect()
    }

    /// Wanted feeds that still want messages, and how many they want in all.
    pub(super) fn unfinished(&self) -> Vec<(FeedView, u64)> {
        let slots = self.slots.iter().filter(|slot| !slot.has_ended());
        let wanted = slots.filter_map(|slot| {
            let wanted = slot.wanted.as_ref()?.messages_max()?;
            Some((slot.view.clone(), wanted))
        });
        wanted.collect()
    }
}

#[cfg(test)]
mod tests;
