//! Signals as events of the main thread.
//!
//! Owns the thread that waits for them, and what a second one means while the recorder ends.

use std::thread::{self, JoinHandle};

use anyhow::Context;
use crossbeam_channel::Sender;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::Event;

/// Bytes. It hands numbers on, and nothing else.
pub(crate) const STACK_BYTES: usize = 64 << 10;

/// Has orders to reload wait until the recorder can take them: they would end the process. For the
/// main thread, before it reads its options and before there are others.
pub fn hold_reloads() {
    if let Err(error) = SigSet::from(Signal::SIGHUP).thread_block() {
        log::warn!("a SIGHUP during the start will end it: {error}");
    }
}

/// Turns signals into events, on a thread of its own.
pub(super) struct SignalThread {
    handle: signal_hook::iterator::Handle,
    thread: JoinHandle<()>,
}

impl SignalThread {
    pub(super) fn start(events: Sender<Event>) -> anyhow::Result<SignalThread> {
        let wanted = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];
        let mut signals = Signals::new(wanted).context("can't install signal handlers")?;
        let handle = signals.handle();
        SigSet::from(Signal::SIGHUP).thread_unblock().context("can't unblock SIGHUP")?;
        let thread = thread::Builder::new()
            .name("signals".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                for signal in signals.forever() {
                    // Full: the main thread has enough signals to look at.
                    let _ = events.try_send(Event::Signal(signal));
                }
            })
            .context("can't start the signal thread")?;
        Ok(SignalThread { handle, thread })
    }

    pub(super) fn end(self) {
        self.handle.close();
        if self.thread.join().is_err() {
            log::warn!("the signal thread panicked");
        }
    }
}

/// A second order to end does not wait for anything.
pub(super) fn end_at_once_if_asked_twice(event: Event) {
    if let Event::Signal(SIGTERM | SIGINT) = event {
        log::error!("asked a second time: ending at once; the next start recovers the rest");
        std::process::exit(1);
    }
}
