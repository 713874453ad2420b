//! Feeds: each has a thread that owns one connection at a time.
//!
//! This file owns a feed's options and the handle to its thread; what the thread does is in
//! `run.rs`, what it decides in [`session`], and how messages become blocks of lines in [`lines`].
//! Feeds that are polled by HTTP differ in what their thread does, which is in [`poll`].

pub mod budget;
pub mod connection;
pub mod current;
mod inbox;
pub mod keys;
#[cfg(feature = "leak-on-purpose")]
mod leak;
pub mod lines;
pub mod listen;
pub mod matcher;
pub mod poll;
pub mod proxy;
pub mod reason;
mod redirect;
mod rules;
mod run;
pub mod session;
pub mod socket;
mod stack;
mod stall;
pub mod text;
pub mod tls;
pub mod transport;
mod tunnel;
pub mod upgrade;
pub mod url;
pub mod wait;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use self::inbox::Inbox;
use self::keys::KeyOptions;
use self::lines::Lines;
use self::listen::{Ear, Listener};
use self::matcher::Matchers;
use self::poll::{PollLoop, PollOptions};
use self::run::FeedLoop;
use self::session::{Ask, Rules};
use self::text::Text;
use self::transport::Network;
use self::upgrade::Target;
use self::url::FeedUrl;
use self::wait::Waker;
use crate::stats::FeedStats;
use crate::tape::name::FeedName;
use crate::units::Rate;

/// Commands that wait for a feed; nobody sends many.
const COMMANDS_MAX: usize = 32;
/// OpenSSL's handshake goes deepest; measured below 40 KiB, with name lookups elsewhere.
pub(crate) const STACK_BYTES: usize = 192 << 10;

/// What to do when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStall {
    /// Wait, up to the stall deadline; the venue is held back by TCP.
    Block,
    /// Drop the newest messages, and count them.
    Drop,
}

/// One feed's options.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedOptions {
    /// Its name.
    pub name: FeedName,
    /// Where it connects to.
    pub target: Target,
    /// Texts sent after connecting, each time; shared, for they may be megabytes.
    pub subscriptions: Arc<[Text]>,
    /// Topics asked for, or symbols where there are no topics: a figure to show.
    pub items: usize,
    /// Timeouts and intervals.
    pub rules: Rules,
    /// What is sent at each heartbeat.
    pub heartbeat: Option<Text>,
    /// Messages that mean something to the connection.
    pub matchers: Matchers,
    /// Symbols or topics that are watched by themselves.
    pub keys: Option<KeyOptions>,
    /// Connections to the host of all feeds together.
    pub connect_rate: Option<Rate>,
    /// Record exactly so many messages, then end.
    pub messages_max: Option<u64>,
    /// When the queue is full.
    pub on_stall: OnStall,
    /// `Block` turns into `Drop` after so long.
    pub stall_deadline: Duration,
}

/// A feed as it is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedPlan {
    /// Over a WebSocket; shared by all that run it or compare with it.
    Stream(Arc<FeedOptions>),
    /// Polled by HTTP.
    Poll(Box<PollOptions>),
}

impl FeedPlan {
    /// Its name.
    pub fn name(&self) -> &FeedName {
        match self {
            FeedPlan::Stream(options) => &options.name,
            FeedPlan::Poll(options) => &options.name,
        }
    }

    /// How long it waits when the queue is full.
    pub fn stall_deadline(&self) -> Duration {
        match self {
            FeedPlan::Stream(options) => options.stall_deadline,
            FeedPlan::Poll(options) => options.stall_deadline,
        }
    }

    /// How many messages it records, where that is not for ever.
    pub fn messages_max(&self) -> Option<u64> {
        match self {
            FeedPlan::Stream(options) => options.messages_max,
            FeedPlan::Poll(options) => options.messages_max,
        }
    }

    /// Where it connects to.
    pub fn url(&self) -> &FeedUrl {
        match self {
            FeedPlan::Stream(options) => &options.target.url,
            FeedPlan::Poll(options) => &options.url,
        }
    }
}

/// What a feed's thread is to do.
#[derive(Debug)]
pub enum Task {
    /// Record what comes over a WebSocket.
    Stream(Arc<FeedOptions>),
    /// Poll, and when something is heard too.
    Poll(Box<PollOptions>, Ear),
}

/// What one may tell a feed.
#[derive(Debug, Clone)]
pub enum Command {
    /// For its session.
    Ask(Ask),
    /// Close the segment now.
    Rotate,
    /// Go on with other options, on a new connection. Not for feeds that are polled.
    Options(Arc<FeedOptions>),
    /// Whom to tell what happens from now on.
    Listeners(Vec<Listener>),
}

impl Command {
    /// End for good.
    pub fn stop() -> Command {
        Command::Ask(Ask::Stop)
    }
}

/// Why a feed's thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedEnd {
    /// It was told to stop.
    Stopped,
    /// It has all the messages that were asked for.
    Complete,
    /// The venue refused a subscription, and the feed was to end then.
    Refused,
    /// It panicked outside of what it survives.
    Panicked,
}

/// What a feed's thread does, and all that it does it with.
pub struct Job {
    /// What is to be done.
    pub task: Task,
    /// The way to servers.
    pub network: Arc<Network>,
    /// The way to the tape: it changes hands often, and on stacks it would be copied each time.
    pub lines: Box<Lines>,
    /// Its counters.
    pub stats: Arc<FeedStats>,
    inbox: Inbox,
    waker: Waker,
}

impl Job {
    /// Does it until the feed ends; then the way to the tape comes back.
    pub fn run(self) -> (FeedEnd, Box<Lines>) {
        let Job { task, network, lines, stats, inbox, waker } = self;
        match task {
            Task::Stream(options) => {
                FeedLoop::new(options, network, lines, stats, inbox, waker).run()
            }
            Task::Poll(options, ear) => {
                PollLoop::new(options, network, lines, stats, inbox, ear).run()
            }
        }
    }
}

/// What a feed's thread runs: [`Job::run`].
pub type Work = fn(Job) -> (FeedEnd, Box<Lines>);

/// A running feed.
pub struct Feed {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<Option<Box<Lines>>>,
}

impl Feed {
    /// Starts the thread, which does `work`. `first`: what it is told before anything else.
    /// `on_end` is called on it as the last thing, however it ends.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn start(
        work: Work,
        task: Task,
        network: Arc<Network>,
        lines: Box<Lines>,
        stats: Arc<FeedStats>,
        first: Option<Command>,
        on_end: impl FnOnce(FeedEnd) + Send + 'static,
    ) -> io::Result<Feed> {
        let (commands, inbox) = bounded(COMMANDS_MAX);
        if let Some(first) = first {
            commands.try_send(first).expect("nothing was sent before");
        }
        let (name, waker) = match &task {
            Task::Stream(options) => (&options.name, Waker::new()?),
            Task::Poll(options, ear) => (&options.name, ear.waker.clone()),
        };
        let feed = name.clone();
        let name: String = name.as_str().chars().take(15).collect();
        let job =
            Job { task, network, lines, stats, inbox: Inbox::new(inbox), waker: waker.clone() };
        let thread =
            thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
                current::begin(&feed);
                let run = move || work(job);
                // The panic hook has logged where and why; what the thread held is unsound.
                let (end, lines) = match catch_unwind(AssertUnwindSafe(run)) {
                    Ok((end, lines)) => (end, Some(lines)),
                    Err(_) => (FeedEnd::Panicked, None),
                };
                on_end(end);
                lines
            })?;
        Ok(Feed { commands, waker, thread })
    }

    /// Tells the feed something; it looks at once. A feed that has ended hears nothing.
    pub fn tell(&self, command: Command) {
        // Full or gone: it has more than enough to do, or nothing any more.
        let _ = self.commands.try_send(command);
        self.waker.wake();
    }

    /// Waits for the thread's end. Its end of the way to the tape comes back, for a feed that goes
    /// on where this one ended; `None` after a panic.
    pub fn join(self) -> Option<Box<Lines>> {
        self.thread.join().unwrap_or_default()
    }
}
