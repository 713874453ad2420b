//! Commands to a feed, in the order they came.
//!
//! Owns the look ahead: what ends an attempt to connect or a wait for room is seen at once, and
//! still done in its turn.

use std::collections::VecDeque;

use crossbeam_channel::Receiver;

use super::Command;
use super::session::Ask;

/// The receiving end.
pub(super) struct Inbox {
    received: Receiver<Command>,
    taken: VecDeque<Command>,
}

impl Inbox {
    pub(super) fn new(received: Receiver<Command>) -> Inbox {
        Inbox { received, taken: VecDeque::new() }
    }

    pub(super) fn next(&mut self) -> Option<Command> {
        self.taken.pop_front().or_else(|| self.received.try_recv().ok())
    }

    /// Whether something came that ends an attempt to connect.
    pub(super) fn is_urgent(&mut self) -> bool {
        self.taken.extend(self.received.try_iter());
        self.taken.iter().any(|command| match command {
            Command::Ask(Ask::Resume) | Command::Rotate | Command::Listeners(_) => false,
            Command::Ask(Ask::Stop | Ask::Complete | Ask::Pause | Ask::Reconnect | Ask::Reload)
            | Command::Options(_) => true,
        })
    }

    pub(super) fn is_stop(&mut self) -> bool {
        self.taken.extend(self.received.try_iter());
        self.taken.iter().any(|command| matches!(command, Command::Ask(Ask::Stop)))
    }
}
