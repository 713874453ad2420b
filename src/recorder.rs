//! The recorder: starts the threads, watches them, and ends them in order.
//!
//! Owns the main thread's loop: signals, the end of feeds, the death of threads, systemd. Threads
//! end from the source on: feeds, writer, syncer, sealer; each closes the channel to the next.
//! Prints nothing: figures are for who started it to show.

pub mod lock;

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::block::{Parcel, Pool, PoolPlan, channel};
use crate::config::RecorderOptions;
use crate::feed::lines::Lines;
use crate::feed::session::Ask;
use crate::feed::tls::TlsConnectors;
use crate::feed::transport::Network;
use crate::feed::{Command, Feed, FeedEnd};
use crate::recovery;
use crate::report::FeedView;
use crate::resolver::Resolver;
use crate::sealer::{self, SealEvent, SealQueue, Sealer};
use crate::service;
use crate::stats::RecorderStats;
use crate::storage::{Disk, Storage};
use crate::syncer;
use crate::units::format_size;
use crate::writer::{self, Tape, WriterOptions};

/// The main thread looks around at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While ending, it looks this often whether a thread has ended.
const ENDING_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Feeds close within a second; who takes longer is left behind.
const FEEDS_END_MAX: Duration = Duration::from_secs(4);
/// After a failed write the writer tries again this often.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Descriptors of a feed: socket, wake-up, open segment; and of the rest.
const FDS_PER_FEED: u64 = 3;
const FDS_BASE: u64 = 64;

/// What the main thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A signal.
    Signal(i32),
    /// A feed's thread ended.
    FeedEnded(FeedEnd),
    /// Somebody wants the recorder to end.
    Stop,
}

/// How a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whether we lost messages ourselves.
    pub lost: bool,
}

/// A running recorder.
pub struct Recorder {
    feeds: Vec<Option<Feed>>,
    views: Vec<FeedView>,
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
    feeds_ended: usize,
    options: RecorderOptions,
    /// Holds the lock on the folder.
    lock: std::fs::File,
}

impl Recorder {
    /// Locks the folder, recovers what an earlier run left, and starts all threads.
    ///
    /// # Errors
    /// The folder can't be used, or no threads are to be had.
    pub fn start(options: RecorderOptions) -> anyhow::Result<Recorder> {
        // Before anything that a signal could leave half done.
        let (send_event, events) = bounded(options.feeds.len() + 16);
        let signals = SignalThread::start(send_event.clone())?;
        let lock = lock::lock_or_make(&options.out)?;
        raise_descriptor_limit(options.feeds.len() as u64);
        let storage: Arc<dyn Storage> = Arc::new(Disk::new(&options.out));
        let stats = Arc::new(RecorderStats::default());
        let (tapes, starts) = prepare_tapes(&*storage, &options)?;
        let views: Vec<FeedView> = tapes
            .iter()
            .map(|tape| FeedView { name: tape.name.clone(), stats: tape.stats.clone() })
            .collect();

        let sealer = start_sealer(&storage, &options, &views, &stats)?;
        let queue = sealer.sender();
        let (sync_items, syncer) =
            syncer::spawn(storage.clone(), options.fsync, tapes.len(), on_finished(queue))
                .context("can't start the syncer")?;

        let plan = PoolPlan::new(options.queue_bytes, tapes.len());
        if plan.bytes() > options.queue_bytes {
            log::info!(
                "{} feeds need {} of memory in flight, more than --queue-bytes",
                tapes.len(),
                format_size(plan.bytes() as u64)
            );
        }
        let pool = Arc::new(Pool::new(plan, tapes.len()));
        let (parcels, received) = channel(plan, tapes.len());
        let (give_up, given_up) = bounded(0);
        let writer_options = WriterOptions {
            flush_every: options.flush_every,
            rotate_every: options.rotation.every,
            min_free: options.min_free,
            retry_every: RETRY_EVERY,
        };
        let writer = writer::spawn(
            writer_options,
            storage,
            tapes,
            received,
            pool.clone(),
            sync_items,
            stats.clone(),
            given_up,
        )
        .context("can't start the writer")?;

        let network = Arc::new(Network {
            resolver: Resolver::start().context("can't start the resolver")?,
            connectors: TlsConnectors::default(),
        });
        let mut feeds = Vec::new();
        for (id, feed) in options.feeds.iter().enumerate() {
            let view = &views[id];
            let lines = Lines::new(
                id,
                pool.clone(),
                parcels.clone(),
                view.stats.clone(),
                stats.clone(),
                options.rotation,
                starts[id].last_ts,
            );
            let send_event = send_event.clone();
            let on_end = move |end| {
                // The main thread takes events until all feeds have ended.
                let _ = send_event.send(Event::FeedEnded(end));
            };
            let feed =
                Feed::start(feed.clone(), network.clone(), lines, view.stats.clone(), on_end)
                    .with_context(|| format!("can't start the feed {}", view.name))?;
            feeds.push(Some(feed));
        }
        Ok(Recorder {
            feeds,
            views,
            stats,
            writer,
            syncer,
            sealer,
            give_up,
            parcels,
            events,
            send_event,
            signals,
            feeds_ended: 0,
            options,
            lock,
        })
    }

    /// The feeds' figures.
    pub fn views(&self) -> &[FeedView] {
        &self.views
    }

    /// The recorder's own figures.
    pub fn stats(&self) -> Arc<RecorderStats> {
        self.stats.clone()
    }

    /// Where to send [`Event::Stop`] to.
    pub fn events(&self) -> Sender<Event> {
        self.send_event.clone()
    }

    /// Runs until a signal, the duration, or the end of all feeds ends it. `look` is called at
    /// least every `look_every`.
    ///
    /// # Errors
    /// A thread died that must not die, or something could not be ended.
    pub fn run(
        mut self,
        look_every: Duration,
        look: &mut dyn FnMut(&[FeedView]),
    ) -> anyhow::Result<Ended> {
        let started = Instant::now();
        let until = self.options.duration.map(|duration| started + duration);
        let watchdog = service::watchdog_interval().map(|interval| interval / 2);
        let look_every = watchdog.map_or(look_every, |at| at.min(look_every)).min(LOOK_EVERY);
        service::ready(&self.status());
        let result = loop {
            let now = Instant::now();
            let left = until.map_or(look_every, |until| until.saturating_duration_since(now));
            let event = self.events.recv_timeout(left.min(look_every)).ok();
            look(&self.views);
            if let Some(dead) = self.dead_thread() {
                break Err(anyhow!("the {dead} has ended unasked; see the log above"));
            }
            if let Err(error) = self.check_folder() {
                break Err(error);
            }
            if self.is_to_end(event) || until.is_some_and(|until| Instant::now() >= until) {
                break Ok(());
            }
            service::watchdog();
            service::status(&self.status());
        };
        service::stopping();
        let ended = self.end();
        result.and(ended)
    }

    /// One line: what `systemctl status` shows.
    fn status(&self) -> String {
        let live: u64 = self.views.iter().map(|view| view.stats.live.get()).sum();
        let messages: u64 = self.views.iter().map(|view| view.stats.messages.get()).sum();
        let stalled =
            if self.stats.disk_stalled.get() == 1 { "; THE DISK TAKES NOTHING" } else { "" };
        format!("{live} of {} feeds live, {messages} messages recorded{stalled}", self.views.len())
    }

    /// What is written to a folder that was moved or deleted is found by nobody.
    fn check_folder(&self) -> anyhow::Result<()> {
        let path = self.options.out.join(lock::NAME);
        let ours = self.lock.metadata().context("can't look at the lock")?;
        let gone = match std::fs::metadata(&path) {
            Ok(there) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if gone {
            bail!(
                "'{}' is not the file that was locked at the start: the folder was moved or \
                 deleted while it was recorded to; put it back, or start again",
                path.display()
            );
        }
        Ok(())
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

    fn is_to_end(&mut self, event: Option<Event>) -> bool {
        match event {
            None => false,
            Some(Event::Stop) => true,
            Some(Event::FeedEnded(end)) => {
                self.feeds_ended += 1;
                debug_assert_eq!(end, FeedEnd::Complete, "nobody told it to stop");
                self.feeds_ended == self.views.len()
            }
            Some(Event::Signal(SIGUSR1)) => {
                log::info!("SIGUSR1: every feed begins a new segment");
                self.tell_all(Command::Rotate);
                false
            }
            Some(Event::Signal(SIGHUP)) => {
                log::info!("SIGHUP: options of the command line can't be reloaded");
                false
            }
            Some(Event::Signal(signal)) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
                log::info!("{name}: stopping");
                true
            }
        }
    }

    fn tell_all(&self, command: Command) {
        for feed in self.feeds.iter().flatten() {
            feed.tell(command);
        }
    }

    /// Ends everything in order, within the stop timeout.
    fn end(mut self) -> anyhow::Result<Ended> {
        let deadline = Instant::now() + self.options.stop_timeout;
        self.tell_all(Command::Ask(Ask::Stop));
        let feeds_deadline = (Instant::now() + FEEDS_END_MAX).min(deadline);
        while self.feeds_ended < self.views.len() && Instant::now() < feeds_deadline {
            let event = self.events.recv_deadline(feeds_deadline);
            match event {
                Ok(Event::FeedEnded(_)) => self.feeds_ended += 1,
                Ok(event) => end_at_once_if_asked_twice(event),
                Err(_) => break,
            }
        }
        let mut trouble = Vec::new();
        if self.feeds_ended < self.views.len() {
            trouble.push(format!("{} feeds did not end", self.views.len() - self.feeds_ended));
        } else {
            for feed in self.feeds.drain(..).flatten() {
                if feed.join().is_err() {
                    trouble.push("a feed's thread panicked".to_string());
                }
            }
        }
        // The writer ends by itself; one that can't write is told to give up near the deadline.
        let Recorder {
            writer,
            syncer,
            sealer,
            give_up,
            parcels,
            events,
            views,
            signals,
            lock: _lock,
            ..
        } = self;
        drop(parcels);
        let give_up_at = deadline - self.options.stop_timeout / 4;
        if !wait_for(&writer, give_up_at, &events) {
            drop(give_up);
        }
        for (name, thread) in [("writer", writer), ("syncer", syncer)] {
            if !wait_for(&thread, deadline + LOOK_EVERY, &events) {
                trouble.push(format!("the {name} did not end in time"));
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
            Err(error) => trouble.push(format!("the sealer failed: {error}")),
        }
        signals.end();
        if !trouble.is_empty() {
            bail!("not ended in order: {}", trouble.join("; "));
        }
        Ok(Ended { lost: views.iter().any(|view| view.stats.gaps.is_our_loss()) })
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

fn end_at_once_if_asked_twice(event: Event) {
    if let Event::Signal(SIGTERM | SIGINT) = event {
        log::error!("asked a second time: ending at once; the next start recovers the rest");
        std::process::exit(1);
    }
}

fn raise_descriptor_limit(feeds: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let needed = FDS_BASE + FDS_PER_FEED * feeds;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < needed => {
            log::warn!(
                "{limit} descriptors may be open, {needed} may be needed: raise LimitNOFILE"
            );
        }
        Ok(_) => {}
        Err(error) => log::warn!("can't raise the limit of open descriptors: {error}"),
    }
}

fn prepare_tapes(
    storage: &dyn Storage,
    options: &RecorderOptions,
) -> anyhow::Result<(Vec<Tape>, Vec<recovery::Start>)> {
    let names: HashSet<_> = options.feeds.iter().map(|feed| &feed.name).collect();
    assert_eq!(names.len(), options.feeds.len(), "names were checked to be different");
    let (mut tapes, mut starts) = (Vec::new(), Vec::new());
    for feed in &options.feeds {
        let start = recovery::prepare(storage, &feed.name).map_err(anyhow::Error::msg)?;
        tapes.push(Tape {
            name: feed.name.clone(),
            url: feed.target.url.to_string(),
            next_number: start.next_number,
            next_index: start.next_index,
            stats: Arc::default(),
        });
        starts.push(start);
    }
    Ok((tapes, starts))
}

fn on_finished(queue: SealQueue) -> Box<dyn FnMut(crate::tape::name::SegmentName) + Send> {
    Box::new(move |name| queue.push(name))
}

fn start_sealer(
    storage: &Arc<dyn Storage>,
    options: &RecorderOptions,
    views: &[FeedView],
    stats: &Arc<RecorderStats>,
) -> anyhow::Result<Sealer> {
    let views = views.to_vec();
    let stats = stats.clone();
    let on_event = Box::new(move |event: SealEvent| match event {
        SealEvent::Sealed { name, raw_bytes, sealed_bytes, elapsed } => {
            if let Some(view) = views.iter().find(|view| view.name == name.feed) {
                view.stats.sealed_raw_bytes.add(raw_bytes);
                view.stats.sealed_bytes.add(sealed_bytes);
            }
            log::info!(
                "{}: sealed segment {}: {} to {} in {} ms",
                name.feed,
                name.number,
                format_size(raw_bytes),
                format_size(sealed_bytes),
                elapsed.as_millis()
            );
        }
        SealEvent::Failed { name, error } => {
            stats.seal_failures.add(1);
            log::error!("{}: can't seal segment {}: {error}", name.feed, name.number);
        }
        SealEvent::Unlisted { folder, error } => {
            log::error!("can't list '{}' for segments to seal: {error}", folder.display());
        }
        SealEvent::Pruned { name, bytes, reason, .. } => {
            stats.pruned_segments.add(1);
            stats.pruned_bytes.add(bytes);
            let size = format_size(bytes);
            log::info!("{}: deleted segment {}, {size}: {reason}", name.feed, name.number);
        }
        SealEvent::PruneFailed { path, error } => {
            log::error!("can't delete old segments: '{}': {error}", path.display());
        }
        SealEvent::OverKeep { bytes, keep_bytes } => log::warn!(
            "{} are on disk, more than --keep-bytes {}, and none of it may go: it is open, not \
             sealed yet, or the newest of its feed",
            format_size(bytes),
            format_size(keep_bytes)
        ),
        SealEvent::Left { .. } => {}
    });
    sealer::spawn(storage.clone(), options.compression, options.keep, on_event)
        .context("can't start the sealer")
}

/// Turns signals into events, on a thread of its own.
struct SignalThread {
    handle: signal_hook::iterator::Handle,
    thread: JoinHandle<()>,
}

impl SignalThread {
    fn start(events: Sender<Event>) -> anyhow::Result<SignalThread> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
            .context("can't install signal handlers")?;
        let handle = signals.handle();
        let thread = thread::Builder::new()
            .name("signals".to_string())
            .stack_size(64 << 10)
            .spawn(move || {
                for signal in signals.forever() {
                    // Full: the main thread has enough signals to look at.
                    let _ = events.try_send(Event::Signal(signal));
                }
            })
            .context("can't start the signal thread")?;
        Ok(SignalThread { handle, thread })
    }

    fn end(self) {
        self.handle.close();
        if self.thread.join().is_err() {
            log::warn!("the signal thread panicked");
        }
    }
}

/// Limits of the C library's memory: one arena for all threads (each further one reserves 64 MiB
/// of address space), and freed large blocks go back to the system at once.
pub fn tame_malloc() {
    // SAFETY: mallopt is called before any other thread starts; the values are in range.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
}

/// For callers that print errors of I/O themselves.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests;
