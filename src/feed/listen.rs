//! One feed listening to another: a poll that is to be made when a connection begins, or when
//! something is missing.
//!
//! Owns what may be heard and the way there: a small queue and the listener's wake-up. Who listens
//! to whom is the options' business, what is done about it is the listener's.

use std::fmt;
use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::wait::Waker;

/// What waits to be heard. More is dropped: who has so much to hear will poll anyway.
const HEARD_MAX: usize = 4;

/// What a feed tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A connection is live: its subscriptions are sent.
    Connected,
    /// A gap was written to its tape.
    Gap,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trigger::Connected => "connected",
            Trigger::Gap => "gap",
        })
    }
}

/// The end of the one who tells.
#[derive(Debug, Clone)]
pub struct Listener {
    wanted: Vec<Trigger>,
    heard: Sender<Trigger>,
    waker: Waker,
}

impl Listener {
    /// Tells, where it is wanted. Never waits.
    pub fn tell(&self, trigger: Trigger) {
        if self.wanted.contains(&trigger) {
            // Full: there is enough to wake up for already. Gone: nobody listens any more.
            let _ = self.heard.try_send(trigger);
            self.waker.wake();
        }
    }

    /// Whether both are the way to one ear.
    pub fn is_same(&self, other: &Listener) -> bool {
        self.heard.same_channel(&other.heard)
    }
}

/// The end of the one who listens.
#[derive(Debug)]
pub struct Ear {
    heard: Receiver<Trigger>,
    pub(super) waker: Waker,
}

impl Ear {
    /// An ear that hears what is `wanted`, and what it hears through.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(wanted: &[Trigger]) -> io::Result<(Listener, Ear)> {
        let (sender, heard) = bounded(HEARD_MAX);
        let waker = Waker::new()?;
        let listener = Listener { wanted: wanted.to_vec(), heard: sender, waker: waker.clone() };
        Ok((listener, Ear { heard, waker }))
    }

    /// The first thing heard since the last call; what came after it asks for the same.
    pub fn take(&self) -> Option<Trigger> {
        let mut heard = self.heard.try_iter();
        let first = heard.next();
        heard.for_each(drop);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_heard_once() {
        let (listener, ear) = Ear::new(&[Trigger::Gap]).unwrap();
        listener.tell(Trigger::Connected);
        assert_eq!(ear.take(), None);
        for _ in 0..2 * HEARD_MAX {
            listener.tell(Trigger::Gap);
        }
        assert_eq!(ear.take(), Some(Trigger::Gap));
        assert_eq!(ear.take(), None);
        drop(ear);
        listener.tell(Trigger::Gap);
    }
}
