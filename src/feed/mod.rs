//! Feeds: each has a thread that owns one connection at a time.
//!
//! This file owns a feed's options and the handle to its thread; what the thread does is in
//! `run.rs`, what it decides in [`session`], and how messages become blocks of lines in [`lines`].
//! Feeds that are polled by HTTP differ in what their thread does, which is in [`poll`].

pub mod connection;
pub mod lines;
pub mod listen;
pub mod poll;
pub mod reason;
mod run;
pub mod session;
pub mod socket;
pub mod text;
pub mod tls;
pub mod transport;
pub mod upgrade;
pub mod url;
pub mod wait;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use self::lines::Lines;
use self::listen::Ear;
use self::poll::{PollLoop, PollOptions};
use self::run::{FeedLoop, Inbox};
use self::session::{Ask, Rules};
use self::text::Text;
use self::transport::Network;
use self::upgrade::Target;
use self::wait::Waker;
use crate::stats::FeedStats;
use crate::tape::name::FeedName;

/// Commands that wait for a feed; nobody sends many.
const COMMANDS_MAX: usize = 64;
/// OpenSSL's handshake goes deepest; measured below 40 KiB, with name lookups elsewhere.
const STACK_BYTES: usize = 192 << 10;

/// What to do when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStall {
    /// Wait, up to the stall deadline; the venue is held back by TCP.
    Block,
    /// Drop the newest messages, and count them.
    Drop,
}

/// One feed's options.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// Its name.
    pub name: FeedName,
    /// Where it connects to.
    pub target: Target,
    /// Texts sent after connecting, each time.
    pub subscriptions: Vec<Text>,
    /// Timeouts and intervals.
    pub rules: Rules,
    /// Record exactly so many messages, then end.
    pub messages_max: Option<u64>,
    /// When the queue is full.
    pub on_stall: OnStall,
    /// `Block` turns into `Drop` after so long.
    pub stall_deadline: Duration,
}

/// What a feed's thread is to do.
#[derive(Debug)]
pub enum Task {
    /// Record what comes over a WebSocket.
    Stream(FeedOptions),
    /// Poll, and when something is heard too.
    Poll(PollOptions, Ear),
}

/// What one may tell a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// For its session.
    Ask(Ask),
    /// Close the segment now.
    Rotate,
}

/// Why a feed's thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedEnd {
    /// It was told to stop.
    Stopped,
    /// It has all the messages that were asked for.
    Complete,
}

/// A running feed.
pub struct Feed {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<FeedEnd>,
}

impl Feed {
    /// Starts the thread. `on_end` is called on it as the last thing.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn start(
        task: Task,
        network: Arc<Network>,
        lines: Lines,
        stats: Arc<FeedStats>,
        on_end: impl FnOnce(FeedEnd) + Send + 'static,
    ) -> io::Result<Feed> {
        let (commands, inbox) = bounded(COMMANDS_MAX);
        let (name, waker) = match &task {
            Task::Stream(options) => (&options.name, Waker::new()?),
            Task::Poll(options, ear) => (&options.name, ear.waker.clone()),
        };
        let for_thread = waker.clone();
        let name: String = name.as_str().chars().take(15).collect();
        let thread =
            thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
                let inbox = Inbox::new(inbox);
                let end = match task {
                    Task::Stream(options) => {
                        FeedLoop::new(options, network, lines, stats, inbox, for_thread).run()
                    }
                    Task::Poll(options, ear) => {
                        PollLoop::new(options, network, lines, stats, inbox, ear).run()
                    }
                };
                on_end(end);
                end
            })?;
        Ok(Feed { commands, waker, thread })
    }

    /// Tells the feed something; it looks at once. A feed that has ended hears nothing.
    pub fn tell(&self, command: Command) {
        // Full or gone: it has more than enough to do, or nothing any more.
        let _ = self.commands.try_send(command);
        self.waker.wake();
    }

    /// Waits for the thread's end.
    pub fn join(self) -> thread::Result<FeedEnd> {
        self.thread.join()
    }
}
