//! What the sealer's thread does: wait, seal, look.
//!
//! Owns the order of its work and its end. Segments from the queue come first; a search of the
//! whole recording follows when the queue is empty and a search is due: at the start, after the
//! queue overflowed, some time after a failure.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError, at, never, select_biased};

use super::compress::Codec;
use super::search::{Found, walk};
use super::{OnEvent, RETRY_AFTER, SealEvent, seal_all, seal_one};
use crate::storage::Storage;
use crate::tape::name::SegmentName;

/// The lowest priority there is (setpriority(2)).
pub(super) const NICE: libc::c_int = 19;

/// The sealer's ends of the channels.
pub(super) struct Inbox {
    pub(super) names: Receiver<SegmentName>,
    pub(super) overflow: Receiver<()>,
}

/// The moment to end, once it is known.
struct Deadline {
    requested: Receiver<Instant>,
    at: Cell<Option<Instant>>,
}

impl Deadline {
    /// Whether the end was asked for.
    fn is_set(&self) -> bool {
        if self.at.get().is_none() {
            match self.requested.try_recv() {
                Ok(at) => self.at.set(Some(at)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.at.set(Some(Instant::now())),
            }
        }
        self.at.get().is_some()
    }

    fn has_passed(&self) -> bool {
        self.is_set() && self.at.get().is_some_and(|at| Instant::now() >= at)
    }
}

/// The thread's state.
pub(super) struct Worker {
    storage: Arc<dyn Storage>,
    codec: Codec,
    on_event: OnEvent,
    inbox: Inbox,
    deadline: Deadline,
    /// When to look for plain segments.
    look_at: Option<Instant>,
}

/// What the thread waits for.
enum Event {
    Segment(SegmentName),
    Look,
    Finish,
}

impl Worker {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        codec: Codec,
        on_event: OnEvent,
        inbox: Inbox,
        requested: Receiver<Instant>,
    ) -> Worker {
        let deadline = Deadline { requested, at: Cell::new(None) };
        Worker { storage, codec, on_event, inbox, deadline, look_at: Some(Instant::now()) }
    }

    /// Returns how many segments stay plain.
    pub(super) fn run(mut self) -> usize {
        loop {
            match self.wait() {
                Event::Segment(name) => self.seal(&name),
                Event::Look => self.look(),
                Event::Finish => break,
            }
        }
        self.drain();
        let segments = self.count_plain();
        (self.on_event)(SealEvent::Left { segments });
        segments
    }

    /// The one place where the thread waits. Without a failure there is no deadline: whoever ends
    /// the sealer sends one, or drops the sender.
    fn wait(&self) -> Event {
        if self.deadline.is_set() {
            return Event::Finish;
        }
        let look = self.look_at.map_or_else(never, at);
        select_biased! {
            recv(self.deadline.requested) -> at => {
                self.deadline.at.set(Some(at.unwrap_or_else(|_| Instant::now())));
                Event::Finish
            }
            recv(self.inbox.names) -> name => name.map_or(Event::Finish, Event::Segment),
            recv(self.inbox.overflow) -> _ => Event::Look,
            recv(look) -> _ => Event::Look,
        }
    }

    /// Seals what was asked for before the end, as far as the deadline lets it.
    fn drain(&mut self) {
        while !self.deadline.has_passed() {
            if let Ok(name) = self.inbox.names.try_recv() {
                self.seal(&name);
            } else if self.inbox.overflow.try_recv().is_ok()
                || self.look_at.is_some_and(|at| at <= Instant::now())
            {
                self.look();
            } else {
                break;
            }
        }
    }

    fn seal(&mut self, name: &SegmentName) {
        let stop = || self.deadline.has_passed();
        if !seal_one(&*self.storage, name, self.codec, &stop, &mut self.on_event) {
            self.look_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
        }
    }

    fn look(&mut self) {
        let stop = || self.deadline.has_passed();
        let all = seal_all(&*self.storage, self.codec, &stop, &mut self.on_event);
        self.look_at = if all { None } else { Some(Instant::now() + RETRY_AFTER) };
    }

    fn count_plain(&mut self) -> usize {
        let mut segments = 0;
        walk(&*self.storage, &mut |found| {
            match found {
                Found::Plain(_) => segments += 1,
                Found::LeftOver(_) => {}
                Found::Unlisted(folder, error) => {
                    (self.on_event)(SealEvent::Unlisted { folder, error });
                }
            }
            ControlFlow::Continue(())
        });
        segments
    }
}

/// Gives the calling thread what the others leave of CPU and disk. Where that is not allowed it
/// works at the priority it has.
pub(super) fn lower_priority() {
    // ioprio_set(2): who is a thread, 0 the calling one; class idle.
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    let tid = nix::unistd::gettid().as_raw().unsigned_abs();
    // SAFETY: plain numbers; on Linux a thread's id means that thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, NICE) } != 0 {
        log::debug!("sealer: can't lower the CPU priority: {}", io::Error::last_os_error());
    }
    // SAFETY: plain numbers.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) } != 0 {
        log::debug!("sealer: can't lower the disk priority: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealer::tests::{PATIENCE, ZSTD, forms, next_sealed, put};
    use crate::sealer::{QUEUE_SEGMENTS_MAX, channels};
    use crate::storage::memory::{Fault, MemoryDisk};
    use crossbeam_channel::bounded;

    /// A worker on this thread, which is asked to end by `deadline` before it begins.
    fn run_until(disk: &MemoryDisk, inbox: Inbox, deadline: Instant) -> usize {
        let (finish, requested) = bounded(1);
        finish.send(deadline).unwrap();
        let codec = ZSTD.codec().unwrap();
        let mut worker =
            Worker::new(Arc::new(disk.clone()), codec, Box::new(|_| {}), inbox, requested);
        worker.look_at = None;
        worker.run()
    }

    #[test]
    fn a_full_queue_loses_no_segment() {
        let disk = MemoryDisk::new();
        let (queue, inbox) = channels();
        for number in 0..QUEUE_SEGMENTS_MAX as u64 + 10 {
            queue.push(put(&disk, "a", number));
        }
        assert_eq!((inbox.names.len(), inbox.overflow.len()), (QUEUE_SEGMENTS_MAX, 1));
        assert_eq!(run_until(&disk, inbox, Instant::now() + PATIENCE), 0);
        assert_eq!(forms(&disk), (0, QUEUE_SEGMENTS_MAX + 10));
    }

    #[test]
    fn what_does_not_fit_before_the_deadline_is_left() {
        let disk = MemoryDisk::new();
        let (queue, inbox) = channels();
        for number in 0..3 {
            queue.push(put(&disk, "a", number));
        }
        assert_eq!(run_until(&disk, inbox, Instant::now()), 3);
        assert_eq!(forms(&disk), (3, 0));
    }

    #[test]
    fn a_failure_stops_nothing_and_is_tried_again() {
        let disk = MemoryDisk::new();
        let (queue, inbox) = channels();
        let names: Vec<_> = (0..3).map(|number| put(&disk, "a", number)).collect();
        names.iter().for_each(|name| queue.push(name.clone()));
        disk.fault_at(3, Fault::Fail(io::ErrorKind::StorageFull));
        let (_finish, requested) = bounded(1);
        let (sender, events) = crossbeam_channel::unbounded();
        let on_event = Box::new(move |event| sender.send(event).unwrap());
        let codec = ZSTD.codec().unwrap();
        let mut worker = Worker::new(Arc::new(disk.clone()), codec, on_event, inbox, requested);
        worker.look_at = None;
        for _ in 0..3 {
            let Event::Segment(name) = worker.wait() else { panic!("the queue holds three") };
            worker.seal(&name);
        }
        let first = events.recv_timeout(PATIENCE).unwrap();
        let SealEvent::Failed { name, error } = first else { panic!("{first:?}") };
        assert_eq!(name, names[0]);
        assert!(error.to_string().starts_with("can't create '"), "{error}");
        assert_eq!(
            (next_sealed(&events), next_sealed(&events)),
            (names[1].clone(), names[2].clone())
        );
        let wait = worker.look_at.unwrap().saturating_duration_since(Instant::now());
        assert!(wait > RETRY_AFTER - PATIENCE && wait <= RETRY_AFTER, "{wait:?}");
        worker.look_at = Some(Instant::now());
        assert!(matches!(worker.wait(), Event::Look));
        worker.look();
        assert_eq!(next_sealed(&events), names[0]);
        assert_eq!(worker.look_at, None);
    }
}
