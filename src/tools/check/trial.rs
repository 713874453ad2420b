//! Trying feeds: each runs as it would when recorded, until it has brought something or failed.
//!
//! Owns the verdict, and the limit on how many are tried at once. The feeds are the recorder's; in
//! the writer's place stands a loop that throws their blocks away.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, bounded, select};

use crate::block::{Parcel, Pool, PoolPlan, channel};
use crate::clock::{Mono, mono_now};
use crate::config::RecorderOptions;
use crate::feed::lines::{Lines, Rotation};
use crate::feed::listen::Ear;
use crate::feed::transport::Network;
use crate::feed::{Command, Feed, FeedPlan, Job, Task};
use crate::stats::FeedStats;
use crate::tape::name::FeedName;
use crate::units::format_span;

/// Feeds that are tried at once.
const TRIALS_MAX: usize = 32;
/// Blocks of one feed, in bytes: at most 8 MiB for all that are tried at once.
const QUEUE_BYTES: usize = 256 << 10;
/// What a feed tells by its counters alone is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How it went, in words.
pub(super) type Verdict = Result<String, String>;

/// Tries all feeds, some at once, each for up to `wait`; `told` gets the verdicts as they come.
///
/// # Errors
/// No threads to be had, or `told` failed: then no further feed is tried.
pub(super) fn try_all(
    options: RecorderOptions,
    wait: Duration,
    told: &mut dyn FnMut(&FeedName, Verdict) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let network = Arc::new(Network::start().context("can't start the resolver")?);
    let all = options.feeds.len();
    let (plans, waiting) = bounded(all);
    let (verdicts, finished) = bounded(all);
    for plan in options.feeds {
        plans.send(plan).expect("there is room for all");
    }
    drop(plans);
    thread::scope(|scope| {
        for _ in 0..TRIALS_MAX.min(all) {
            let (network, waiting, verdicts) = (network.clone(), waiting.clone(), verdicts.clone());
            let work = move || {
                while let Ok(plan) = waiting.recv() {
                    let name = plan.name().clone();
                    let verdict = try_feed(plan, &network, options.rotation, wait);
                    verdicts.send((name, verdict)).expect("there is room for all");
                }
            };
            let thread = thread::Builder::new().name("trial".to_string());
            thread.spawn_scoped(scope, work).context("can't start a thread")?;
        }
        drop(verdicts);
        let mut count = 0;
        let result = finished.iter().try_for_each(|(name, verdict)| {
            count += 1;
            told(&name, verdict)
        });
        // Where it failed nobody wants to know about the others.
        waiting.try_iter().for_each(drop);
        result?;
        ensure!(count == all, "{} feeds were not tried to the end: see above", all - count);
        Ok(())
    })
}

/// A feed under trial.
struct Trial {
    is_poll: bool,
    stats: Arc<FeedStats>,
    begun: Mono,
}

fn try_feed(plan: FeedPlan, network: &Arc<Network>, rotation: Rotation, wait: Duration) -> Verdict {
    let pool_plan = PoolPlan::new(QUEUE_BYTES, 1);
    let pool = Arc::new(Pool::new(pool_plan, 1));
    let (parcels, received) = channel(pool_plan, 1, 1);
    let stats = Arc::<FeedStats>::default();
    let is_poll = matches!(plan, FeedPlan::Poll(_));
    let lines = Lines::new(0, pool.clone(), parcels, stats.clone(), Arc::default(), rotation, None);
    let lines = Box::new(lines);
    let (end, ended) = bounded(1);
    let trial = Trial { is_poll, stats: stats.clone(), begun: mono_now() };
    let started = task(plan).and_then(|task| {
        let on_end = move |_| {
            // The place is free: a feed ends once.
            let _ = end.try_send(());
        };
        Feed::start(Job::run, task, network.clone(), lines, stats, None, on_end)
    });
    let feed = started.map_err(|error| format!("can't start it: {error}"))?;
    let verdict = trial.watch(&pool, &received, &ended, wait);
    feed.tell(Command::stop());
    // Closing takes a second at most; until then it may want blocks.
    while !take(&pool, &received, &ended) {}
    feed.join();
    verdict
}

/// As the feed is to be recorded, but at once, and with no end of its own.
fn task(plan: FeedPlan) -> io::Result<Task> {
    Ok(match plan {
        FeedPlan::Stream(mut options) => {
            Arc::make_mut(&mut options).messages_max = None;
            Task::Stream(options)
        }
        FeedPlan::Poll(mut options) => {
            options.messages_max = None;
            options.timing.at_start = true;
            let (_, ear) = Ear::new(&[])?;
            Task::Poll(options, ear)
        }
    })
}

/// Throws away what comes from the feed, for a moment; `true` once the feed has ended.
fn take(pool: &Pool, received: &Receiver<Parcel>, ended: &Receiver<()>) -> bool {
    select! {
        recv(received) -> parcel => {
            match parcel {
                Ok(Parcel::Lines(block)) => pool.give_back(block),
                Ok(Parcel::CloseSegment(_) | Parcel::Url(..) | Parcel::Tape(_)) | Err(_) => {}
            }
            false
        }
        recv(ended) -> _ => true,
        default(LOOK_EVERY) => false,
    }
}

impl Trial {
    /// Waits for a verdict.
    fn watch(
        &self,
        pool: &Pool,
        received: &Receiver<Parcel>,
        ended: &Receiver<()>,
        wait: Duration,
    ) -> Verdict {
        let by = self.begun.after(wait);
        loop {
            let has_ended = take(pool, received, ended);
            if let Some(verdict) = self.look() {
                return verdict;
            }
            if has_ended {
                return Err("its thread failed: see above".to_string());
            }
            if mono_now() >= by {
                return Err(self.too_late(wait));
            }
        }
    }

    /// The verdict, where there is one already.
    fn look(&self) -> Option<Verdict> {
        let stats = &self.stats;
        let trouble = stats.trouble.get();
        let has_failed = match self.is_poll {
            // One that its host's budget puts off is in trouble, but has not failed.
            true => stats.connect_failures.get() > 0 || stats.gaps.is_our_loss(),
            false => !trouble.is_empty(),
        };
        if has_failed {
            return Some(Err(trouble));
        }
        let data_at = Mono(stats.data_at.get());
        match (data_at.0 > 0, self.is_poll) {
            (true, true) => Some(Ok(format!("answered after {}", ms(data_at.since(self.begun))))),
            (true, false) if stats.live.get() == 1 => {
                let after = ms(data_at.since(Mono(stats.connected_at.get())));
                Some(Ok(format!("{}, first message after {after}", self.connected()?)))
            }
            (true | false, _) => None,
        }
    }

    /// As in `connected in 12 ms`.
    fn connected(&self) -> Option<String> {
        let at = self.stats.connected_at.get();
        (at > 0).then(|| format!("connected in {}", ms(Mono(at).since(self.begun))))
    }

    fn too_late(&self, wait: Duration) -> String {
        let wait = format_span(wait);
        let trouble = self.stats.trouble.get();
        match (self.connected(), trouble.is_empty()) {
            (_, true) if self.is_poll => format!("no answer within {wait}"),
            (_, false) => format!("no answer within {wait}: {trouble}"),
            (None, true) => format!("not connected within {wait}"),
            (Some(connected), true) if self.stats.data_at.get() > 0 => {
                format!("{connected}, but not all is acknowledged within {wait}")
            }
            (Some(connected), true) => format!("{connected}, but no message within {wait}"),
        }
    }
}

fn ms(span: Duration) -> String {
    format!("{} ms", span.as_millis())
}
