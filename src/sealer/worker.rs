//! What the sealer's thread does: wait, seal, look, prune.
//!
//! Owns the order of its work and its end. Segments from the queue come first; a search of the
//! whole recording follows when the queue is empty and a search is due: at the start, after the
//! queue overflowed, some time after a failure. Then comes pruning, where not all is kept: at the
//! start, after segments were finished, and every minute; it rests longer where a pass takes long.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, at, never, select_biased};

use super::compress::Codec;
use super::retention::{Chosen, Keep, Plain, Rules, prune};
use super::search::{Found, walk};
use super::{OnEvent, RETRY_AFTER, SealEvent, seal_all, seal_one};
use crate::clock::{self, mono_now};
use crate::stats::Pulse;
use crate::storage::Storage;
use crate::tape::name::{Form, SegmentName};

/// The lowest priority there is (setpriority(2)).
pub(super) const NICE: libc::c_int = 19;

/// A pass of pruning comes at least this often.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Between two passes there is at least this, and so many times what the last one took: pruning
/// takes 2 % of a CPU at most, however large the recording is.
const PRUNE_REST_MIN: Duration = Duration::from_secs(1);
const PRUNE_REST_FACTOR: u32 = 50;

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

/// When to prune.
struct Pruning {
    keep: Keep,
    /// When the next pass is due.
    at: Instant,
    /// It does not come before.
    rests_until: Instant,
    /// Whether more than what is kept was left the last time.
    is_over: bool,
}

impl Pruning {
    /// Something has changed: a pass is due as soon as may be.
    fn is_due_soon(&mut self) {
        self.at = self.at.min(self.rests_until);
    }

    fn has_run(&mut self, took: Duration) {
        let now = Instant::now();
        self.at = now + PRUNE_EVERY;
        self.rests_until = now + (took * PRUNE_REST_FACTOR).clamp(PRUNE_REST_MIN, PRUNE_EVERY);
    }
}

/// The thread's state.
pub(super) struct Worker {
    storage: Arc<dyn Storage>,
    /// None: finished segments stay as they are.
    codec: Option<Codec>,
    on_event: OnEvent,
    inbox: Inbox,
    deadline: Deadline,
    /// When to look for plain segments.
    look_at: Option<Instant>,
    /// None: all is kept.
    pruning: Option<Pruning>,
    pulse: Arc<Pulse>,
}

/// What the thread waits for.
enum Event {
    Segment(SegmentName),
    Look,
    Prune,
    Finish,
}

impl Worker {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        codec: Option<Codec>,
        keep: Keep,
        on_event: OnEvent,
        inbox: Inbox,
        requested: Receiver<Instant>,
        pulse: Arc<Pulse>,
    ) -> Worker {
        let deadline = Deadline { requested, at: Cell::new(None) };
        let now = Instant::now();
        let pruning = Pruning { keep, at: now, rests_until: now, is_over: false };
        let pruning = Some(pruning).filter(|_| !keep.is_all());
        Worker { storage, codec, on_event, inbox, deadline, look_at: Some(now), pruning, pulse }
    }

    /// Returns how many segments stay plain.
    pub(super) fn run(mut self) -> usize {
        loop {
            let due = [self.look_at, self.pruning.as_ref().map(|pruning| pruning.at)];
            let wait = due.into_iter().flatten().min();
            let wait = wait.map(|at| at.saturating_duration_since(Instant::now()));
            self.pulse.waits_until(wait.map(|wait| mono_now().after(wait)));
            let event = self.wait();
            self.pulse.works();
            match event {
                Event::Segment(name) => self.seal(&name),
                Event::Look => self.look(),
                Event::Prune => self.prune(),
                Event::Finish => break,
            }
        }
        self.drain();
        let segments = self.count_plain();
        (self.on_event)(SealEvent::Left { segments });
        self.pulse.waits_until(None);
        segments
    }

    /// The one place where the thread waits. Without a failure there is no deadline: whoever ends
    /// the sealer sends one, or drops the sender.
    fn wait(&self) -> Event {
        if self.deadline.is_set() {
            return Event::Finish;
        }
        let look = self.look_at.map_or_else(never, at);
        let prune = self.pruning.as_ref().map_or_else(never, |pruning| at(pruning.at));
        select_biased! {
            recv(self.deadline.requested) -> at => {
                self.deadline.at.set(Some(at.unwrap_or_else(|_| Instant::now())));
                Event::Finish
            }
            recv(self.inbox.names) -> name => name.map_or(Event::Finish, Event::Segment),
            recv(self.inbox.overflow) -> _ => Event::Look,
            recv(look) -> _ => Event::Look,
            recv(prune) -> _ => Event::Prune,
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
                // The last segments count too; who ends does not rest.
                self.prune();
                break;
            }
        }
    }

    fn seal(&mut self, name: &SegmentName) {
        if let Some(pruning) = &mut self.pruning {
            pruning.is_due_soon();
        }
        let Some(codec) = self.codec else { return };
        let stop = || self.deadline.has_passed();
        if !seal_one(&*self.storage, name, codec, &stop, &mut self.on_event) {
            self.look_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
        }
    }

    fn look(&mut self) {
        self.look_at = None;
        let Some(codec) = self.codec else { return };
        let stop = || self.deadline.has_passed();
        if !seal_all(&*self.storage, codec, &stop, &mut self.on_event) {
            self.look_at = Some(Instant::now() + RETRY_AFTER);
        }
    }

    fn prune(&mut self) {
        let Some(pruning) = &mut self.pruning else { return };
        let started = Instant::now();
        let plain = if self.codec.is_some() { Plain::WaitsForSeal } else { Plain::IsFinal };
        let rules = Rules { keep: pruning.keep, plain, chosen: Chosen::Go, now: clock::wall_now() };
        let stop = || self.deadline.has_passed();
        let pruned = prune(&*self.storage, &rules, &stop, &mut self.on_event);
        if let Some(keep_bytes) = pruning.keep.bytes {
            let bytes = pruned.bytes_left;
            let was_over = std::mem::replace(&mut pruning.is_over, bytes > keep_bytes);
            if pruning.is_over && !was_over {
                (self.on_event)(SealEvent::OverKeep { bytes, keep_bytes });
            }
        }
        pruning.has_run(started.elapsed());
    }

    /// None where nothing is to be sealed.
    fn count_plain(&mut self) -> usize {
        let mut segments = 0;
        if self.codec.is_none() {
            return segments;
        }
        walk(&*self.storage, &mut |found| {
            match found {
                Found::Segment(_, Form::Plain) => segments += 1,
                Found::Segment(_, Form::Open | Form::Gzip | Form::Zstd)
                | Found::Bare(..)
                | Found::LeftOver(_) => {}
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

    fn worker(
        disk: &MemoryDisk,
        on_event: OnEvent,
        inbox: Inbox,
        requested: Receiver<Instant>,
    ) -> Worker {
        let storage = Arc::new(disk.clone());
        Worker::new(
            storage,
            ZSTD.codec(),
            Keep::default(),
            on_event,
            inbox,
            requested,
            Arc::default(),
        )
    }

    /// A worker on this thread, which is asked to end by `deadline` before it begins.
    fn run_until(disk: &MemoryDisk, inbox: Inbox, deadline: Instant) -> usize {
        let (finish, requested) = bounded(1);
        finish.send(deadline).unwrap();
        let mut worker = worker(disk, Box::new(|_| {}), inbox, requested);
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
        let mut worker = worker(&disk, on_event, inbox, requested);
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
