//! Every operation of the disk failed and crashed at, in a scripted run of recording, syncing,
//! rotating and sealing; then recovery, and a look at what is left.
//!
//! All is done on one thread, step by step, so that operation number k is the same one each time.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;

use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::block::{PoolPlan, channel};
use crate::feed::lines::{EventStamp, Lines as FeedLines, Rotation};
use crate::recovery;
use crate::sealer::{Compression, seal_all_plain};
use crate::stats::FeedStats;
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
}

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
        let mut writer =
            Writer::new(options, storage.clone(), tapes, pool, to_syncer, recorder, given_up);
        // The machine is another one after a crash.
        writer.boot_id = "the boot before".to_string();
        let policy = FsyncPolicy::Every(Duration::from_secs(1));
        let syncer = Syncer::new(storage, policy, Box::new(|_| {}));
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
                let healthy = self.no_loss();
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
        }
    }

    fn no_loss(&self) -> bool {
        self.stats.iter().all(|stats| !stats.gaps.is_our_loss())
    }

    fn message(&mut self, feed: FeedId, bytes: usize) {
        let mut text = format!("{feed} {} ", self.accepted[feed].len());
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

/// Recording on two feeds: small and large messages, syncs, rotations by hand and by size, seals.
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
        large(0),
        small(0),
        Step::Rotate { feed: 0 },
        Step::Sync,
        small(0),
        small(1),
        Step::Seal,
        Step::Sync,
        small(1),
    ]
}

/// The messages of each feed, in the order of their segments, as a reader finds them.
fn messages_on(disk: &MemoryDisk) -> Vec<Vec<String>> {
    let mut best: HashMap<(String, u64), (Form, PathBuf)> = HashMap::new();
    for path in disk.files() {
        let file = path.file_name().unwrap().to_str().unwrap();
        if let Some((name, form)) = SegmentName::parse(file) {
            let entry = best
                .entry((name.feed.to_string(), name.number))
                .or_insert_with(|| (form, path.clone()));
            if form > entry.0 {
                *entry = (form, path);
            }
        }
    }
    let mut segments: Vec<_> = best.into_iter().collect();
    segments.sort();
    let mut messages = vec![Vec::new(); FEEDS];
    for ((feed, _), (form, path)) in segments {
        let stored = disk.contents(&path).unwrap();
        let mut plain = Vec::new();
        match form {
            Form::Zstd => plain = zstd::decode_all(&stored[..]).unwrap(),
            Form::Gzip => {
                flate2::read::MultiGzDecoder::new(&stored[..]).read_to_end(&mut plain).unwrap();
            }
            Form::Open | Form::Plain => plain = stored,
        }
        let feed: usize = feed[1..].parse().unwrap();
        for line in plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = Line::parse(line).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if line.kind != Kind::Event {
                messages[feed].push(String::from_utf8(line.raw.to_vec()).unwrap());
            }
        }
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

/// After a crash: recovers, and compares with what was accepted and synced.
fn check_crashed(context: &str, rig: &Rig, disk: &MemoryDisk, compression: Compression) {
    let show = || format!("{context}\n{}", rig.disk.log().join("\n"));
    for feed in 0..FEEDS {
        recovery::prepare(disk, &feed_name(feed)).unwrap_or_else(|e| panic!("{e}: {}", show()));
    }
    seal_all_plain(disk, compression, &|| false, &mut |_| {});
    for (feed, found) in messages_on(disk).iter().enumerate() {
        let accepted = &rig.accepted[feed];
        assert!(found.len() <= accepted.len(), "feed {feed} has too many: {}", show());
        for (n, (found, accepted)) in found.iter().zip(accepted).enumerate() {
            assert!(found == accepted, "feed {feed}, message {n} differs: {}", show());
        }
        let synced = rig.synced[feed];
        assert!(found.len() >= synced, "feed {feed}: {} of {synced}: {}", found.len(), show());
    }
    verify(disk).unwrap_or_else(|said| panic!("{said}: {}", show()));
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
        assert_eq!(messages_on(&disk), rig.accepted);
        verify(&disk).unwrap();
        assert!(rig.no_loss());
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
                    found.len() as u64 + lost,
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

#[test]
fn a_failed_sync_is_said_on_the_next_segment() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::Other));
    rig.step(Step::Sync, Compression::None);
    rig.step(messages, Compression::None);
    rig.end(Compression::None);
    assert_eq!(messages_on(&disk)[0].len(), 6, "{:?}", disk.log());
    let second = disk.files().into_iter().find(|path| path.to_string_lossy().contains("000001"));
    let text = disk.contents(second.expect("a second segment")).unwrap();
    let gap = text.split(|byte| *byte == b'\n').nth(1).unwrap();
    let said = String::from_utf8_lossy(gap);
    assert!(said.contains("\"reason\":\"disk\",\"messages\":null"), "{said}");
    assert!(!rig.no_loss(), "the exit code tells");
    verify(&disk).unwrap();
}

/// The first lines of feed 0's segment of this number; `None` where it is not there.
fn head_of(disk: &MemoryDisk, number: u64) -> Option<String> {
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        SegmentName::parse(file)
            .is_some_and(|(name, _)| name.feed == feed_name(0) && name.number == number)
    };
    let text = disk.contents(disk.files().into_iter().find(is_it)?).unwrap();
    Some(String::from_utf8(text).unwrap().lines().take(2).collect())
}

const DISK_GAP: &str = "\"reason\":\"disk\",\"messages\":null";

/// The syncer looked only at what was open: where the sync that fails is the last one of a
/// segment, which comes after its end, no gap told of it.
#[test]
fn a_failed_last_sync_of_a_segment_is_said_on_the_next() {
    // The syncer comes to it before the next segment is opened, or after it.
    for is_late in [false, true] {
        let disk = MemoryDisk::new();
        let mut rig = Rig::new(&disk);
        let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
        rig.step(messages, Compression::None);
        rig.lines[0].rotate();
        rig.message(0, 40);
        rig.lines[0].hand_over();
        if is_late {
            rig.parcels.try_iter().for_each(|parcel| rig.writer.handle(parcel));
            rig.writer.flush_all();
        } else {
            rig.writer.handle(rig.parcels.try_recv().unwrap());
        }
        disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::Other));
        rig.tell_syncer();
        assert!(disk.log().iter().any(|op| op.starts_with("sync") && op.ends_with("failed")));
        rig.step(messages, Compression::None);
        rig.end(Compression::None);
        let said = head_of(&disk, if is_late { 2 } else { 1 }).expect("a segment with the gap");
        assert!(said.contains(DISK_GAP), "late {is_late}: {said}");
        assert_eq!(messages_on(&disk)[0].len(), 7);
        let holes: Vec<_> = rig.stats[0].gaps.figures().iter().map(|gap| gap.holes).collect();
        assert_eq!(holes, [1], "late {is_late}");
        verify(&disk).unwrap();
    }
}

#[test]
fn a_failed_last_sync_of_the_run_is_counted() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    rig.step(Step::Messages { feed: 0, count: 3, bytes: 40 }, Compression::None);
    // The end is appended, then synced.
    disk.fault_at(disk.operations() + 1, Fault::Fail(io::ErrorKind::Other));
    rig.end(Compression::None);
    let failed: Vec<_> = disk.log().into_iter().filter(|op| op.ends_with(": failed")).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("sync feed=f0/"), "{failed:?}");
    assert!(rig.stats[0].gaps.is_our_loss(), "the exit code tells");
    assert!(!rig.stats[1].gaps.is_our_loss());
    assert_eq!(messages_on(&disk)[0].len(), 3);
}

#[test]
fn a_folder_that_cannot_be_synced_is_a_hole_once_and_tried_again() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    // The segment is synced, then the folders; that of the feed, the first one, fails twice.
    let failed = "sync_dir feed=f0: failed".to_string();
    for (at, times) in [(1, 1), (0, 2)] {
        disk.fault_at(disk.operations() + at, Fault::Fail(io::ErrorKind::Other));
        rig.step(Step::Sync, Compression::None);
        assert_eq!(disk.log().iter().filter(|op| **op == failed).count(), times);
        assert_eq!(rig.stats[0].gaps.figures()[0].holes, 1);
    }
    rig.step(Step::Sync, Compression::None);
    assert_eq!(disk.log().last().map(String::as_str), Some("sync_dir feed=f0"));
    rig.step(messages, Compression::None);
    rig.end(Compression::None);
    assert!(head_of(&disk, 1).is_some_and(|said| said.contains(DISK_GAP)));
    assert_eq!(messages_on(&disk)[0].len(), 6);
    verify(&disk).unwrap();
}

/// A segment whose final name the disk refused kept the ending `.open` until the next start,
/// months later.
#[test]
fn a_refused_name_is_tried_again() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    // The end is appended and synced, then the name follows.
    disk.fault_at(disk.operations() + 2, Fault::Fail(io::ErrorKind::ReadOnlyFilesystem));
    rig.step(Step::Rotate { feed: 0 }, Compression::None);
    assert!(disk.log().iter().any(|op| op.starts_with("rename") && op.ends_with("failed")));
    let is_open = |disk: &MemoryDisk| {
        disk.files().iter().any(|path| path.extension().is_some_and(|end| end == "open"))
    };
    assert!(is_open(&disk));
    rig.step(messages, Compression::None);
    rig.end(Compression::None);
    assert!(!is_open(&disk), "{:?}", disk.files());
    assert!(rig.no_loss());
    verify(&disk).unwrap();
}

/// A segment given up on a full disk stayed open until the next start, because the disk that
/// refused the lines refused the `end` too, and it was tried once only.
#[test]
fn a_segment_given_up_gets_its_end_once_the_disk_takes_it() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    // The append of the lines, then (one reads back) the cut, a read, and the append of the end.
    let at = disk.operations();
    for n in [0, 4] {
        disk.fault_at(at + n, Fault::Fail(io::ErrorKind::StorageFull));
    }
    rig.step(messages, Compression::None);
    let failed: Vec<_> = disk.log().into_iter().filter(|op| op.ends_with(": failed")).collect();
    assert!(failed.len() == 2 && failed.iter().all(|op| op.starts_with("append")), "{failed:?}");
    rig.end(Compression::None);
    let open = |path: &&PathBuf| path.extension().is_some_and(|end| end == "open");
    assert_eq!(disk.files().iter().find(open), None);
    assert_eq!(messages_on(&disk)[0].len(), 6);
    verify(&disk).unwrap();
}

/// Where nothing can be synced each new segment was closed for the failed sync of the one before:
/// a disk that failed for a second left dozens of segments.
#[test]
fn failed_syncs_of_others_close_no_new_segment() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    rig.writer.options.retry_every = Duration::from_secs(3600);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    for _ in 0..5 {
        rig.stats[0].sync_failed();
        rig.step(messages, Compression::None);
    }
    assert_eq!(rig.stats[0].segments.get(), 1);
    rig.end(Compression::None);
    assert_eq!(rig.stats[0].gaps.figures()[0].holes, 1);
}

#[test]
fn events_keep_their_place_when_the_disk_fails() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    rig.step(Step::Messages { feed: 0, count: 1, bytes: 5 }, Compression::None);
    disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::StorageFull));
    rig.lines[0]
        .event(EventStamp::Previous, &Event::Stale { conn: 1, after_ms: 7, key: None, at: 8 });
    rig.step(Step::Messages { feed: 0, count: 1, bytes: 5 }, Compression::None);
    rig.end(Compression::None);
    assert_eq!(messages_on(&disk)[0].len(), 2);
    let all: String = disk
        .files()
        .iter()
        .filter(|path| path.starts_with("feed=f0"))
        .map(|path| String::from_utf8_lossy(&disk.contents(path).unwrap()).into_owned())
        .collect();
    assert_eq!(all.matches("\"stale\"").count(), 1, "{all}");
    verify(&disk).unwrap();
}
