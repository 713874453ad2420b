//! The recorder: starts the threads, watches them, and ends them in order.
//!
//! Owns the main thread's loop: signals, the end of feeds, the death of threads, systemd. Threads
//! end from the source on: feeds, writer, syncer, sealer; each closes the channel to the next.
//! Prints nothing: figures are for who started it to show.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};

use crate::admin::Admin;
use crate::block::{FeedId, Parcel, Pool, PoolPlan, Tape, channel};
use crate::clock::{self, ClockWatch, Mono, Reading, mono_now};
use crate::config::RecorderOptions;
use crate::feed::transport::Network;
use crate::feed::{FeedEnd, FeedPlan, Job};
use crate::heap_profile;
use crate::report::{FeedView, Views};
use crate::sealer::Sealer;
use crate::service;
use crate::stats::RecorderStats;
use crate::storage::{Disk, Storage};
use crate::syncer;
use crate::units::format_size;
use crate::writer::{self, WriterOptions};

mod feeds;
pub(crate) mod folder;
mod life;
pub(crate) mod limits;
pub mod lock;
mod orders;
mod overview;
pub mod own;
mod program_pages;
mod reload;
mod sealing;
pub mod signals;
mod status;
mod summary;
mod tapes;
mod watch;

use self::feeds::{Feeds, Workshop};
use self::folder::FolderLock;
use self::life::Watched;
use self::limits::raise_descriptor_limit;
pub use self::limits::tame_malloc;
use self::orders::Orders;
pub use self::overview::Explain;
use self::overview::start_admin;
use self::own::{OwnTape, Sources};
pub use self::program_pages::release_program_pages;
use self::sealing::{on_finished, start_sealer};
use self::signals::{SignalThread, end_at_once_if_asked_twice};
use self::status::names;
use self::summary::Summary;
use self::tapes::{Prepared, prepare_tapes};
use self::watch::{DiskNews, DiskWatch, StepLog};

/// Feeds that a reload may add, beside as many again as there were at the start.
const FEEDS_ADDED_MAX: usize = 64;
/// The main thread looks around at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Until every feed has tried, the main thread looks this often.
const STARTING_LOOK_EVERY: Duration = Duration::from_millis(50);
/// While ending, it looks this often whether a thread has ended.
const ENDING_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Feeds close within a second; who takes longer is left behind.
const FEEDS_END_MAX: Duration = Duration::from_secs(4);
/// After a failed write the writer tries again this often.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// A writer that is inside one call to the disk for so long, beyond the longest time for which a
/// feed is ready to wait, counts as dead; so do syncer and sealer. Until then the disk may still
/// come back, and all that the pool holds with it.
const WRITER_CALL_MAX: Duration = Duration::from_mins(10);

/// What the main thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A signal.
    Signal(i32),
    /// A feed's thread ended.
    FeedEnded(FeedId, FeedEnd),
    /// The recording's folder was moved or deleted under us.
    FolderGone,
    /// Somebody wants the recorder to end.
    Stop,
    /// An operator ordered something.
    Ordered,
}

/// How a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whether we lost messages ourselves.
    pub lost: bool,
}

/// Reads the options again: `None` where there is nothing to be read, else all that is wrong.
pub type Reload<'a> = dyn FnMut() -> Option<Result<RecorderOptions, Vec<String>>> + 'a;

/// A running recorder.
pub struct Recorder {
    feeds: Feeds,
    /// The tape of its own, where it has one.
    own: Option<OwnTape>,
    views: Views,
    stats: Arc<RecorderStats>,
    writer: JoinHandle<()>,
    syncer: JoinHandle<()>,
    sealer: Sealer,
    give_up: Sender<()>,
    /// Keeps the writer from ending before it is told to.
    parcels: Sender<Parcel>,
    events: Receiver<Event>,
    send_event: Sender<Event>,
    signals: SignalThread,
    options: RecorderOptions,
    network: Arc<Network>,
    started: Mono,
    /// Whether systemd knows that it records.
    is_ready: bool,
    /// Who must go on for the watchdog to be fed.
    threads: [Watched; 3],
    disk: DiskWatch,
    clocks: ClockWatch,
    steps: StepLog,
    summary: Summary,
    pool: Arc<Pool>,
    orders: Orders,
    admin: Option<Admin>,
    /// Holds the lock on the folder.
    lock: FolderLock,
}

impl Recorder {
    /// Locks the folder, recovers what an earlier run left, and starts all threads.
    ///
    /// # Errors
    /// The folder can't be used, or no threads are to be had.
    pub fn start(options: RecorderOptions) -> anyhow::Result<Recorder> {
        Recorder::start_explained(options, Explain::default())
    }

    /// The same, with what the admin endpoint tells of the recorder's memory.
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub fn start_explained(options: RecorderOptions, explain: Explain) -> anyhow::Result<Recorder> {
        // Before anything that a signal could leave half done.
        let feeds_max = feeds_max(&options);
        let (send_event, events) = bounded(feeds_max + 16);
        let signals = SignalThread::start(send_event.clone())?;
        let lock = FolderLock::take(&options.out)?;
        let to_main = send_event.clone();
        lock.watch(move || {
            // Nobody takes it any more where the recorder ends.
            let _ = to_main.send(Event::FolderGone);
        })?;
        raise_descriptor_limit(options.feeds.len() as u64);
        let disk = Disk::new(&options.out).with_page_cache(options.page_cache);
        let storage: Arc<dyn Storage> = Arc::new(disk);
        let stats = Arc::new(RecorderStats::default());
        stats.feeds.set(options.feeds.len() as u64);
        let Prepared { own, tapes, starts } = prepare_tapes(&*storage, &options)?;
        let views = Views::default();
        for tape in &tapes {
            views.push(FeedView { name: tape.name.clone(), stats: tape.stats.clone() });
        }

        let sealer = start_sealer(&storage, &options, &views, &stats)?;
        let queue = sealer.sender();
        // The recorder's own comes first: feeds that are added later get the numbers behind all.
        let first_id = usize::from(own.is_some());
        let tapes_max = first_id + feeds_max;
        let mut plan = PoolPlan::new(options.queue_bytes, tapes.len());
        if plan.bytes() > options.queue_bytes {
            log::info!(
                "{} feeds need {} of memory in flight, more than --queue-bytes",
                tapes.len(),
                format_size(plan.bytes() as u64)
            );
        }
        if own.is_some() {
            plan = plan.with_own_tape(tapes.len());
        }
        let tapes: Vec<Tape> = own.iter().map(|own| own.tape.clone()).chain(tapes).collect();
        let pool = Arc::new(Pool::new(plan, tapes.len()));
        let (sync_items, syncer) = syncer::spawn(
            storage.clone(),
            options.fsync,
            options.page_cache,
            pool.clone(),
            tapes_max,
            stats.syncer.clone(),
            on_finished(queue),
        )
        .context("can't start the syncer")?;
        let (parcels, received) = channel(plan, tapes.len(), tapes_max);
        let (give_up, given_up) = bounded(0);
        let writer_options = WriterOptions {
            flush_every: options.flush_every,
            rotate_every: options.rotation.every,
            min_free: options.min_free,
            retry_every: RETRY_EVERY,
        };
        let writer = writer::spawn(
            writer_options,
            storage.clone(),
            tapes,
            received,
            pool.clone(),
            sync_items,
            stats.clone(),
            given_up,
        )
        .context("can't start the writer")?;

        let own = own.and_then(|own| {
            let sources =
                Sources { views: views.clone(), stats: stats.clone(), pool: pool.clone() };
            own.start(sources, parcels.clone(), options.rotation)
        });
        let network = Arc::new(Network::start().context("can't start the resolver")?);
        let shop = Workshop {
            storage,
            pool: pool.clone(),
            parcels: parcels.clone(),
            network: network.clone(),
            stats: stats.clone(),
            rotation: options.rotation,
            events: send_event.clone(),
            first_id,
            feeds_max,
            work: Job::run,
        };
        let (orders, send_order) = Orders::new(send_event.clone());
        // Before the feeds: what is wrong with its address ends the start.
        let admin =
            start_admin(&options, &views, &stats, &pool, sealer.pulse(), explain, send_order)?;
        let summary = Summary::new(options.report_every, pool.clone(), Instant::now());
        let feeds = Feeds::start(shop, views.clone(), options.feeds.clone(), &starts)?;
        let threads = [
            Watched::new("writer", stats.writer.clone()),
            Watched::new("syncer", stats.syncer.clone()),
            Watched::new("sealer", sealer.pulse()),
        ];
        Ok(Recorder {
            feeds,
            own,
            views,
            stats,
            started: mono_now(),
            is_ready: false,
            threads,
            writer,
            syncer,
            sealer,
            give_up,
            parcels,
            events,
            send_event,
            signals,
            options,
            network,
            disk: DiskWatch::default(),
            clocks: ClockWatch::new(Reading::now()),
            steps: StepLog::default(),
            summary,
            pool,
            orders,
            admin,
            lock,
        })
    }

    /// The feeds' figures.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// The figures of the whole.
    pub fn stats(&self) -> Arc<RecorderStats> {
        self.stats.clone()
    }

    /// Where to send [`Event::Stop`] to.
    pub fn events(&self) -> Sender<Event> {
        self.send_event.clone()
    }

    /// Runs until a signal, the duration, or the end of all feeds ends it. `look` is called at
    /// least every `look_every`; `reload` reads the options again at SIGHUP.
    ///
    /// # Errors
    /// A thread died that must not die, something could not be ended, or feeds were given up.
    pub fn run(
        mut self,
        look_every: Duration,
        look: &mut dyn FnMut(&[FeedView]),
        reload: &mut Reload<'_>,
    ) -> anyhow::Result<Ended> {
        let started = Instant::now();
        let until = self.options.duration.map(|duration| started + duration);
        let watchdog = service::watchdog_interval().map(|interval| interval / 2);
        let look_every = watchdog.map_or(look_every, |at| at.min(look_every)).min(LOOK_EVERY);
        let result = loop {
            self.tell_systemd();
            let now = Instant::now();
            let look_every = match self.is_ready {
                true => look_every,
                false => look_every.min(STARTING_LOOK_EVERY),
            };
            let left = until.map_or(look_every, |until| until.saturating_duration_since(now));
            let left = self.orders.look_every().map_or(left, |soon| left.min(soon));
            let event = self.events.recv_timeout(left.min(look_every)).ok();
            self.stats.main_at.set(mono_now().0);
            look(&self.views.all());
            match self.look_around(event, reload) {
                Ok(false) if until.is_none_or(|until| Instant::now() < until) => {}
                ended => break ended.map(drop),
            }
        };
        service::stopping();
        let given_up = names(&self.feeds.given_up());
        let unfinished = self.feeds.unfinished();
        let ended = self.end();
        for (FeedView { name, stats }, wanted) in unfinished {
            let recorded = stats.messages.get();
            if recorded < wanted {
                log::warn!(feed = name.as_str(); "{name}: only {recorded} of {wanted} messages");
            }
        }
        let ended = result.and(ended)?;
        ensure!(
            given_up.is_empty(),
            "{given_up} gave up: the venue refused what was asked for; see the log above"
        );
        Ok(ended)
    }

    /// Whether it is time to end.
    fn look_around(
        &mut self,
        event: Option<Event>,
        reload: &mut Reload<'_>,
    ) -> anyhow::Result<bool> {
        if let Some(dead) = self.dead_thread() {
            bail!("the {dead} has ended unasked; see the log above");
        }
        if event == Some(Event::FolderGone) {
            return Err(self.lock.gone());
        }
        self.look_at_disk()?;
        self.look_at_threads()?;
        self.look_at_clocks();
        let wanted = self.feeds.wanted();
        self.stats.feeds.set(wanted as u64);
        if let Some(line) = self.summary.look(Instant::now(), &self.views.all(), wanted) {
            log::info!("{line}");
        }
        self.look_at_own_tape();
        self.feeds.restart_failed(Instant::now());
        self.follow_orders(reload);
        self.is_to_end(event, reload)
    }

    /// Tells when threads hang and when they go on. Who watches over the process ends it then, and
    /// keeps where the thread hung; where nobody does, it ends itself.
    fn look_at_threads(&mut self) -> anyhow::Result<()> {
        self.feeds.look_for_hangs();
        let call_max = self.call_max();
        self.threads.iter_mut().for_each(|thread| thread.look(call_max));
        match self.threads.iter().find_map(Watched::hanging) {
            Some(name) if service::watchdog_interval().is_none() => bail!("the {name} hangs"),
            _ => Ok(()),
        }
    }

    /// How long one call to the disk may last.
    fn call_max(&self) -> Duration {
        let patience = self.options.feeds.iter().map(FeedPlan::stall_deadline).max();
        patience.unwrap_or_default() + WRITER_CALL_MAX
    }

    /// Tells when the disk begins to hold the writer up, and when it ends.
    fn look_at_disk(&mut self) -> anyhow::Result<()> {
        let now = mono_now();
        match self.disk.look(now, self.stats.writer.call_since()) {
            None => {}
            Some(DiskNews::Stalls { lasted, untold }) => {
                let since = clock::wall_now().saturating_sub(lasted.as_nanos() as u64);
                let before = match untold {
                    0 => String::new(),
                    n => format!(" ({n} shorter stalls before)"),
                };
                log::error!(
                    "the disk stalls: a call to it that began at {} has not returned{before}; \
                     feeds go on until the queue is full, then wait or drop as --on-stall says",
                    clock::rfc3339(since)
                );
            }
            Some(DiskNews::Recovered { lasted }) => {
                log::warn!("the disk takes data again after {:.1} s", lasted.as_secs_f64());
            }
        }
        match self.disk.stalled_for(now) {
            Some(span) if span > self.call_max() => {
                bail!("the writer is inside one call to the disk for {} s", span.as_secs())
            }
            _ => Ok(()),
        }
    }

    /// Without it all else goes on.
    fn look_at_own_tape(&mut self) {
        if self.own.take_if(|own| own.is_dead()).is_some() {
            log::error!("the recorder's own tape ends here: its thread failed");
        }
    }

    fn look_at_clocks(&mut self) {
        let step_ns = self.clocks.check(Reading::now()).map(|step| step.step_ns);
        if let Some(steps) = self.steps.look(mono_now(), step_ns) {
            log::warn!("the wall clock was stepped {steps}");
        }
    }

    fn dead_thread(&self) -> Option<&'static str> {
        if self.writer.is_finished() {
            Some("writer")
        } else if self.syncer.is_finished() {
            Some("syncer")
        } else if !self.sealer.is_alive() {
            Some("sealer")
        } else {
            None
        }
    }

    fn is_to_end(&mut self, event: Option<Event>, reload: &mut Reload<'_>) -> anyhow::Result<bool> {
        match event {
            // Orders were looked at already.
            None | Some(Event::Ordered) => {}
            Some(Event::Stop | Event::FolderGone) => return Ok(true),
            Some(Event::FeedEnded(id, end)) => {
                self.feeds.ended(id, end);
                return Ok(self.feeds.have_ended());
            }
            Some(Event::Signal(SIGUSR1)) => {
                log::info!("SIGUSR1: every feed begins a new segment");
                self.rotate();
            }
            Some(Event::Signal(SIGUSR2)) => write_heap_profile(&self.options.out),
            Some(Event::Signal(SIGHUP)) => {
                // It has logged how that went.
                let _ = self.reload(reload);
            }
            Some(Event::Signal(signal)) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
                log::info!("{name}: stopping");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends everything in order, within the stop timeout.
    fn end(mut self) -> anyhow::Result<Ended> {
        let deadline = Instant::now() + self.options.stop_timeout;
        self.look_at_clocks();
        if let Some(steps) = self.steps.take_untold() {
            log::warn!("the wall clock was stepped {steps}");
        }
        // First: nothing is ordered of a recorder that ends.
        drop(self.admin.take());
        self.feeds.stop();
        let feeds_deadline = (Instant::now() + FEEDS_END_MAX).min(deadline);
        while self.feeds.running() > 0 && Instant::now() < feeds_deadline {
            let event = self.events.recv_deadline(feeds_deadline);
            match event {
                Ok(Event::FeedEnded(id, end)) => self.feeds.ended(id, end),
                Ok(event) => end_at_once_if_asked_twice(event),
                Err(_) => break,
            }
        }
        let mut trouble = Vec::new();
        if self.feeds.running() > 0 {
            trouble.push(format!("{} feeds did not end", self.feeds.running()));
        }
        // After the feeds: its last line is to tell all that they did.
        if self.own.take().is_some_and(|own| !own.end()) {
            trouble.push("the recorder's own tape did not end".to_string());
        }
        // The writer ends by itself; one that can't write is told to give up near the deadline.
        let Recorder {
            feeds,
            writer,
            syncer,
            sealer,
            give_up,
            parcels,
            events,
            views,
            signals,
            stats,
            options,
            lock: _lock,
            ..
        } = self;
        // With them their ways to the writer go.
        drop((feeds, parcels));
        let give_up_at = deadline - options.stop_timeout / 4;
        if !wait_for(&writer, give_up_at, &events) {
            drop(give_up);
        }
        for (name, thread) in [("writer", writer), ("syncer", syncer)] {
            if !wait_for(&thread, deadline + LOOK_EVERY, &events) {
                trouble.push(format!("the {name} did not end in time"));
                if let Some(since) = stats.writer.call_since() {
                    trouble.push(format!(
                        "it waits for the disk for {} s; up to {} of lines in flight are lost",
                        mono_now().since(since).as_secs(),
                        format_size(options.queue_bytes as u64)
                    ));
                }
                break;
            }
            if thread.join().is_err() {
                trouble.push(format!("the {name} panicked"));
            }
        }
        let sealed_until = if trouble.is_empty() { deadline } else { Instant::now() };
        match sealer.finish(sealed_until) {
            Ok(0) => {}
            Ok(left) => log::info!("{left} segments are left to be sealed at the next start"),
            // It is in the middle of one, which the next start takes up again: nothing is lost.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                log::info!("a segment is left half sealed; the next start seals it");
            }
            Err(error) => trouble.push(format!("the sealer failed: {error}")),
        }
        signals.end();
        if !trouble.is_empty() {
            bail!("not ended in order: {}", trouble.join("; "));
        }
        Ok(Ended { lost: views.all().iter().any(|view| view.stats.gaps.is_our_loss()) })
    }
}

/// So many feeds there may be, with those that reloads add.
pub(crate) fn feeds_max(options: &RecorderOptions) -> usize {
    match options.can_reload {
        true => 2 * options.feeds.len() + FEEDS_ADDED_MAX,
        false => options.feeds.len(),
    }
}

fn write_heap_profile(folder: &Path) {
    match heap_profile::write(folder) {
        Ok(path) => log::info!(
            "SIGUSR2: wrote a heap profile; read it with: go tool pprof -top -cum -lines {} '{}'",
            heap_profile::program(),
            path.display()
        ),
        Err(error) => log::warn!("SIGUSR2: no heap profile was written: {error}"),
    }
}

/// Waits for a thread's end, looking at signals too.
fn wait_for(thread: &JoinHandle<()>, deadline: Instant, events: &Receiver<Event>) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        if let Ok(event) = events.recv_timeout(ENDING_LOOK_EVERY) {
            end_at_once_if_asked_twice(event);
        }
    }
    true
}

#[cfg(test)]
mod tests;
