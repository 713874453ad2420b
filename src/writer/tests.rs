//! Every operation of the disk failed and crashed at, in a scripted run of recording, syncing,
//! rotating, sealing and pruning; then recovery, and a look at what is left.
//!
//! All is done on one thread, step by step, so that operation number k is the same one each time.

#[cfg(test)]
mod failures;
#[cfg(test)]
mod random;
#[cfg(test)]
mod syncs;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::block::{PoolPlan, channel};
use crate::feed::lines::{EventStamp, Lines as FeedLines, Rotation};
use crate::recovery;
use crate::sealer::retention::{Chosen, Keep, Plain, Rules, prune};
use crate::sealer::{Compression, seal_all_plain, sums};
use crate::stats::FeedStats;
use crate::storage::PageCache;
use crate::storage::memory::{Fault, MemoryDisk};
use crate::syncer::{FsyncPolicy, SyncItem, Syncer};
use crate::tape::line::{Encoding, Kind, Line};
use crate::tape::name::FeedName;
use crate::tape::name::Form;
use crate::tools::Outcome;
use crate::tools::verify::{self, VerifyArgs};

const FEEDS: usize = 2;
/// Small enough for several segments, large enough for marks.
const ROTATE_BYTES: u64 = 2_500_000;

/// One step of a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many messages of so many bytes on a feed, handed over and flushed.
    Messages { feed: FeedId, count: usize, bytes: usize },
    /// A turn of the syncer.
    Sync,
    /// A new segment on a feed.
    Rotate { feed: FeedId },
    /// Whatever is finished is sealed.
    Seal,
    /// What is not to be kept is deleted.
    Prune { keep: Keep },
}

/// Nothing that may go.
const KEEP_NOTHING: Keep = Keep { age: None, bytes: Some(1) };
/// Nothing that ended more than a minute ago; where pruned, it is an hour later.
const KEEP_A_MINUTE: Keep = Keep { age: Some(Duration::from_secs(60)), bytes: None };

/// Recording in one thread, on a disk in memory.
struct Rig {
    disk: MemoryDisk,
    writer: Writer,
    syncer: Syncer,
    items: Receiver<SyncItem>,
    parcels: Receiver<Parcel>,
    lines: Vec<FeedLines>,
    stats: Vec<Arc<FeedStats>>,
    give_up: Option<Sender<()>>,
    /// What each feed's messages were, in order.
    accepted: Vec<Vec<String>>,
    /// How many of them are durable for sure.
    synced: Vec<usize>,
    /// The number of the next message.
    next_message: Vec<usize>,
    /// The messages before this number were final when something was pruned: they may be gone.
    may_be_gone: Vec<usize>,
    /// How many messages were gone after it.
    pruned: Vec<usize>,
    now: UnixNs,
}

fn feed_name(feed: FeedId) -> FeedName {
    FeedName::new(&format!("f{feed}")).unwrap()
}

impl Rig {
    fn new(disk: &MemoryDisk) -> Rig {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let plan = PoolPlan { block_bytes: 4096, blocks: 64, blocks_per_feed: 32 };
        let pool = Arc::new(Pool::new(plan, FEEDS));
        let (sender, parcels) = channel(plan, FEEDS, FEEDS);
        let (to_syncer, items) = bounded(1000);
        let (give_up, given_up) = bounded(0);
        let rotation = Rotation { every: Duration::from_secs(3600), bytes: ROTATE_BYTES };
        let recorder = Arc::new(RecorderStats::default());
        let (mut tapes, mut lines, mut stats) = (Vec::new(), Vec::new(), Vec::new());
        for feed in 0..FEEDS {
            let start = recovery::prepare(disk, &feed_name(feed)).unwrap();
            let counters = Arc::new(FeedStats::default());
            tapes.push(Tape {
                name: feed_name(feed),
                url: "ws://h/".to_string(),
                next_number: start.next_number,
                next_index: start.next_index,
                stats: counters.clone(),
            });
            let (pool, sender, counters) = (pool.clone(), sender.clone(), counters.clone());
            stats.push(counters.clone());
            let last_ts = start.last_ts;
            let recorder = recorder.clone();
            let feed = FeedLines::new(feed, pool, sender, counters, recorder, rotation, last_ts);
            lines.push(feed);
        }
        let options = WriterOptions {
            flush_every: Duration::from_millis(100),
            rotate_every: rotation.every,
            min_free: 0,
            retry_every: Duration::ZERO,
        };
        let store = storage.clone();
        let mut writer =
            Writer::new(options, store, tapes, pool.clone(), to_syncer, recorder, given_up);
        // The machine is another one after a crash.
        writer.boot_id = "the boot before".to_string();
        let policy = FsyncPolicy::Every(Duration::from_secs(1));
        let syncer = Syncer::new(storage, policy, PageCache::Drop, pool, Box::new(|_| {}));
        Rig {
            disk: disk.clone(),
            writer,
            syncer,
            items,
            parcels,
            lines,
            stats,
            give_up: Some(give_up),
            accepted: vec![Vec::new(); FEEDS],
            synced: vec![0; FEEDS],
            next_message: vec![0; FEEDS],
            may_be_gone: vec![0; FEEDS],
            pruned: vec![0; FEEDS],
            now: 1_700_000_000_000_000_000,
        }
    }

    /// From now on the writer gives up at once where the disk takes nothing.
    fn give_up(&mut self) {
        self.give_up = None;
    }

    fn step(&mut self, step: Step, compression: Compression) {
        match step {
            Step::Messages { feed, count, bytes } => {
                for _ in 0..count {
                    self.message(feed, bytes);
                }
                self.lines[feed].hand_over();
                self.write();
            }
            Step::Sync => {
                let flushed: Vec<usize> = self.accepted.iter().map(Vec::len).collect();
                // After a failed sync nobody knows what of that segment is durable.
                let failed = |op: &String| op.starts_with("sync ") && op.ends_with(": failed");
                let healthy = self.no_loss() && !self.disk.log().iter().any(failed);
                let before = self.disk.log().iter().filter(|op| op.contains(": failed")).count();
                self.syncer.sync_all();
                let after = self.disk.log().iter().filter(|op| op.contains(": failed")).count();
                if healthy && before == after {
                    self.synced = flushed;
                }
            }
            Step::Rotate { feed } => {
                self.lines[feed].rotate();
                self.write();
            }
            Step::Seal => {
                seal_all_plain(&self.disk, compression, &|| false, &mut |_| {});
            }
            Step::Prune { keep } => self.prune(keep, compression),
        }
    }

    fn prune(&mut self, keep: Keep, compression: Compression) {
        let is_final = |segment: &OnDisk| match compression {
            Compression::None => !segment.forms.contains(&Form::Open),
            Compression::Zstd { .. } | Compression::Gzip { .. } => {
                segment.forms.iter().all(|form| matches!(form, Form::Gzip | Form::Zstd))
            }
        };
        for segment in segments_on(&self.disk).iter().filter(|segment| is_final(segment)) {
            let last = segment.messages.last().map_or(0, |message| number_of(message) + 1);
            let may_be_gone = &mut self.may_be_gone[segment.feed];
            *may_be_gone = last.max(*may_be_gone);
        }
        let before = messages_on(&self.disk);
        let now = self.now + 3_600_000_000_000;
        prune_all(&self.disk, keep, compression, now);
        for (feed, left) in messages_on(&self.disk).iter().enumerate() {
            self.pruned[feed] += before[feed].len() - left.len();
        }
    }

    fn no_loss(&self) -> bool {
        self.stats.iter().all(|stats| !stats.gaps.is_our_loss())
    }

    fn message(&mut self, feed: FeedId, bytes: usize) {
        let mut text = format!("{feed} {} ", self.next_message[feed]);
        self.next_message[feed] += 1;
        text.extend(std::iter::repeat_n('x', bytes));
        self.now += 1_000_000;
        while self.lines[feed].message(self.now, &Encoding::of_text(text.as_bytes())).is_err() {
            self.write();
        }
        self.accepted[feed].push(text);
    }

    fn write(&mut self) {
        while let Ok(parcel) = self.parcels.try_recv() {
            self.writer.handle(parcel);
            self.tell_syncer();
        }
        self.writer.flush_all();
        self.tell_syncer();
    }

    fn tell_syncer(&mut self) {
        for item in self.items.try_iter() {
            self.syncer.handle(item);
        }
    }

    fn end(&mut self, compression: Compression) {
        for lines in &mut self.lines {
            lines.end(Duration::ZERO);
        }
        self.write();
        self.writer.close_all();
        self.tell_syncer();
        self.syncer.end();
        seal_all_plain(&self.disk, compression, &|| false, &mut |_| {});
    }
}

fn prune_all(disk: &MemoryDisk, keep: Keep, compression: Compression, now: UnixNs) {
    let plain = match compression {
        Compression::None => Plain::IsFinal,
        Compression::Zstd { .. } | Compression::Gzip { .. } => Plain::WaitsForSeal,
    };
    let rules = Rules { keep, plain, chosen: Chosen::Go, now };
    prune(disk, &rules, &|| false, &mut |_| {});
}

/// The number that is in a message.
fn number_of(message: &str) -> usize {
    message.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Recording on two feeds: small and large messages, syncs, rotations by hand and by size, seals,
/// and pruning.
fn script() -> Vec<Step> {
    let small = |feed| Step::Messages { feed, count: 5, bytes: 40 };
    let large = |feed| Step::Messages { feed, count: 4, bytes: 300_000 };
    vec![
        small(0),
        small(1),
        Step::Sync,
        large(0),
        small(0),
        small(1),
        Step::Sync,
        Step::Rotate { feed: 1 },
        small(1),
        Step::Sync,
        Step::Seal,
        Step::Prune { keep: KEEP_A_MINUTE },
        large(0),
        small(0),
        Step::Rotate { feed: 0 },
        Step::Sync,
        small(0),
        small(1),
        Step::Prune { keep: KEEP_NOTHING },
        Step::Seal,
        Step::Sync,
        Step::Prune { keep: KEEP_NOTHING },
        small(1),
    ]
}

/// A segment as it is on the disk.
struct OnDisk {
    feed: usize,
    forms: BTreeSet<Form>,
    messages: Vec<String>,
}

/// The segments of each feed, in order, as a reader finds them.
fn segments_on(disk: &MemoryDisk) -> Vec<OnDisk> {
    let mut files: BTreeMap<(FeedName, u64), BTreeMap<Form, PathBuf>> = BTreeMap::new();
    for path in disk.files() {
        let file = path.file_name().unwrap().to_str().unwrap();
        if let Some((name, form)) = SegmentName::parse(file) {
            files.entry((name.feed, name.number)).or_default().insert(form, path);
        }
    }
    let mut segments = Vec::new();
    for ((feed, _), forms) in files {
        let (form, path) = forms.last_key_value().unwrap();
        let stored = disk.contents(path).unwrap();
        let mut plain = Vec::new();
        match form {
            Form::Zstd => plain = zstd::decode_all(&stored[..]).unwrap(),
            Form::Gzip => {
                flate2::read::MultiGzDecoder::new(&stored[..]).read_to_end(&mut plain).unwrap();
            }
            Form::Open | Form::Plain => plain = stored,
        }
        let mut messages = Vec::new();
        for line in plain.split_inclusive(|byte| *byte == b'\n') {
            // A line that is not whole yet is none.
            let Some(line) = line.strip_suffix(b"\n") else { continue };
            let line = Line::parse(line).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if line.kind != Kind::Event {
                messages.push(String::from_utf8(line.raw.to_vec()).unwrap());
            }
        }
        let feed = feed.as_str()[1..].parse().unwrap();
        segments.push(OnDisk { feed, forms: forms.into_keys().collect(), messages });
    }
    segments
}

/// The messages of each feed.
fn messages_on(disk: &MemoryDisk) -> Vec<Vec<String>> {
    let mut messages = vec![Vec::new(); FEEDS];
    for segment in segments_on(disk) {
        messages[segment.feed].extend(segment.messages);
    }
    messages
}

/// Whether `verify` has nothing to say about the recording.
fn verify(disk: &MemoryDisk) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let mut any = false;
    for path in disk.files() {
        let to = dir.path().join(&path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(&to, disk.contents(&path).unwrap()).unwrap();
        any |= SegmentName::parse(path.file_name().unwrap().to_str().unwrap()).is_some();
    }
    if !any {
        return Ok(());
    }
    let mut said = Vec::new();
    let args = VerifyArgs { paths: vec![dir.path().to_path_buf()] };
    match verify::run(&args, &mut said) {
        Ok(Outcome::Clean) => Ok(()),
        other => Err(format!("{other:?}: {}", String::from_utf8_lossy(&said))),
    }
}

/// What the next start does, and what is left then: all that was synced and not pruned, in order,
/// and sound. In the end all that may go goes, and the sums know it.
fn check_recovered(context: &str, rig: &Rig, disk: &MemoryDisk, compression: Compression) {
    let show = || format!("{context}\n{}", rig.disk.log().join("\n"));
    for feed in 0..FEEDS {
        recovery::prepare(disk, &feed_name(feed)).unwrap_or_else(|e| panic!("{e}: {}", show()));
    }
    seal_all_plain(disk, compression, &|| false, &mut |_| {});
    for (feed, found) in messages_on(disk).iter().enumerate() {
        let accepted = &rig.accepted[feed];
        let gone = match found.first() {
            Some(first) => accepted.iter().position(|accepted| accepted == first),
            None => Some(accepted.iter().filter(|m| number_of(m) < rig.may_be_gone[feed]).count()),
        };
        let gone = gone.unwrap_or_else(|| panic!("feed {feed} has what never came: {}", show()));
        let last_gone = gone.checked_sub(1).map(|at| number_of(&accepted[at]));
        assert!(
            last_gone.is_none_or(|number| number < rig.may_be_gone[feed]),
            "feed {feed}: message {last_gone:?} must not be gone: {}",
            show()
        );
        let mut rest = accepted.iter();
        assert!(
            found.iter().all(|message| rest.any(|accepted| accepted == message)),
            "feed {feed}: other messages, or in another order: {}",
            show()
        );
        let synced = rig.synced[feed].saturating_sub(gone);
        assert!(
            found.len() >= synced && found[..synced] == accepted[gone..gone + synced],
            "feed {feed}: {gone} are gone, then {} of {synced} are there: {}",
            found.len(),
            show()
        );
    }
    verify(disk).unwrap_or_else(|said| panic!("{said}: {}", show()));
}

/// After a crash: as [`check_recovered`], and nothing is missing in the middle.
fn check_crashed(context: &str, rig: &Rig, disk: &MemoryDisk, compression: Compression) {
    check_recovered(context, rig, disk, compression);
    for (feed, found) in messages_on(disk).iter().enumerate() {
        let numbers: Vec<usize> = found.iter().map(|message| number_of(message)).collect();
        let is_run = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        assert!(is_run, "feed {feed}: {numbers:?}: {context}");
    }
    prune_all(disk, KEEP_NOTHING, compression, rig.now);
    check_sums(context, disk);
}

/// Whether recovery set a segment aside: it was there and is none any more, so `verify` misses it
/// as soon as there is one after it.
fn has_damaged(disk: &MemoryDisk) -> bool {
    disk.files().iter().any(|path| path.to_string_lossy().ends_with(".damaged"))
}

/// The sums list files that are there, and no others.
fn check_sums(context: &str, disk: &MemoryDisk) {
    for path in disk.files().iter().filter(|path| path.ends_with(sums::FILE)) {
        let text = disk.contents(path).unwrap();
        for (_, name) in text.split(|byte| *byte == b'\n').filter_map(sums::parse) {
            let is_there = disk.contents(path.with_file_name(name)).is_some();
            assert!(is_there, "{} lists {name}: {context}", path.display());
        }
    }
}

#[test]
fn an_undisturbed_run_holds_all() {
    for compression in [Compression::None, Compression::Zstd { level: 3 }] {
        let disk = MemoryDisk::new();
        let mut rig = Rig::new(&disk);
        for step in script() {
            rig.step(step, compression);
        }
        rig.end(compression);
        for (feed, found) in messages_on(&disk).iter().enumerate() {
            assert!(found[..] == rig.accepted[feed][rig.pruned[feed]..]);
            assert!(rig.pruned[feed] > 0, "something went");
        }
        verify(&disk).unwrap();
        check_sums("undisturbed", &disk);
        assert!(rig.no_loss());
        // All of it may go now; the numbers go on.
        let start = |feed| recovery::prepare(&disk, &feed_name(feed)).unwrap();
        let before = [start(0), start(1)];
        rig.step(Step::Prune { keep: KEEP_NOTHING }, compression);
        assert!(messages_on(&disk).iter().all(Vec::is_empty), "{:?}", disk.files());
        for (feed, before) in before.iter().enumerate() {
            let after = start(feed);
            let numbers = (after.next_number, after.next_index);
            assert_eq!(numbers, (before.next_number, before.next_index));
        }
        assert!(disk.files().iter().all(|path| path.ends_with(".next")), "{:?}", disk.files());
    }
}

#[test]
fn a_crash_at_every_operation_keeps_what_was_synced() {
    let compression = Compression::Zstd { level: 1 };
    for k in 0.. {
        let disk = MemoryDisk::new();
        let mut rig = Rig::new(&disk);
        // Counted from here: a new recording is prepared without incident.
        let k = disk.operations() + k;
        disk.fail_from(k, io::ErrorKind::Other);
        rig.give_up();
        let mut crashed = false;
        for step in script() {
            rig.step(step, compression);
            crashed = disk.operations() > k;
            if crashed {
                break;
            }
        }
        check_crashed(&format!("crash at {k}"), &rig, &disk.crash(), compression);
        for seed in 0..2 {
            let torn = disk.crash_torn(seed);
            check_crashed(&format!("torn crash at {k}, seed {seed}"), &rig, &torn, compression);
        }
        if !crashed {
            assert!(k > 100, "the script has operations to crash at");
            return;
        }
    }
}

#[test]
fn a_failure_of_every_operation_loses_nothing_unsaid() {
    let compression = Compression::Zstd { level: 1 };
    for fault in [Fault::Fail(io::ErrorKind::StorageFull), Fault::Short(100)] {
        for k in 0.. {
            let disk = MemoryDisk::new();
            let mut rig = Rig::new(&disk);
            let at = disk.operations() + k;
            disk.fault_at(at, fault);
            for step in script() {
                rig.step(step, compression);
            }
            rig.end(compression);
            let context = format!("{fault:?} at {k}:\n{}", disk.log().join("\n"));
            let operations = disk.operations();
            // What stayed open is for the next start.
            disk.clear_faults();
            for feed in 0..FEEDS {
                recovery::prepare(&disk, &feed_name(feed)).unwrap();
            }
            seal_all_plain(&disk, compression, &|| false, &mut |_| {});
            let found = messages_on(&disk);
            for (feed, found) in found.iter().enumerate() {
                let lost: u64 = rig.stats[feed].gaps.figures().iter().map(|g| g.messages).sum();
                assert_eq!(
                    (found.len() + rig.pruned[feed]) as u64 + lost,
                    rig.accepted[feed].len() as u64,
                    "feed {feed}: {context}"
                );
                let mut rest = rig.accepted[feed].iter();
                for message in found {
                    assert!(rest.any(|accepted| accepted == message), "order: {context}");
                }
            }
            verify(&disk).unwrap_or_else(|said| panic!("{said}: {context}"));
            if operations <= at {
                break;
            }
        }
    }
}
