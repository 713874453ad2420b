//! What leaves the page cache, and when.

use super::*;
use crate::block::PoolPlan;
use crate::stats::SegmentProgress;
use crate::storage::memory::Advice::{DropCache, StartWriting};
use crate::storage::memory::{Advice, Fault, MemoryDisk};

const EVERY: FsyncPolicy = FsyncPolicy::Every(Duration::from_secs(1));
const FEED: FeedId = 0;
/// The end of the segment's path while it is open.
const OPEN: &str = ".tape.open";

struct Rig {
    disk: MemoryDisk,
    syncer: Syncer,
    file: Arc<dyn StorageFile>,
    progress: Arc<SegmentProgress>,
}

/// A syncer with one open segment.
fn rig(policy: FsyncPolicy, page_cache: PageCache) -> Rig {
    let disk = MemoryDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let name = SegmentName::new(&FeedName::new("f").unwrap(), 0, 1_736_682_893_953_758_185);
    storage.create_dirs(&name.folder()).unwrap();
    let file = storage.create(&name.path(Form::Open)).unwrap();
    let progress: Arc<SegmentProgress> = Arc::default();
    let pool = Arc::new(Pool::new(PoolPlan::new(1 << 20, 1), 1));
    let mut syncer = Syncer::new(storage, policy, page_cache, pool, Box::new(|_| {}));
    let segment = SegmentFile { name, file: file.clone(), progress: progress.clone() };
    let stats = Arc::new(FeedStats::default());
    syncer.handle(SyncItem::Opened { feed: FEED, segment, first_index: 0, stats });
    disk.clear_log();
    Rig { disk, syncer, file, progress }
}

impl Rig {
    /// The writer hands the kernel more, up to so many bytes.
    fn write_to(&self, bytes: u64) {
        let more = bytes - self.progress.written();
        self.file.append(&vec![b'x'; more as usize]).unwrap();
        self.progress.set_written(bytes);
    }

    fn say_grown(&mut self) {
        self.syncer.handle(SyncItem::Grown { feed: FEED });
    }

    fn finish(&mut self) {
        self.syncer.handle(SyncItem::Finished { feed: FEED, next_index: 9 });
    }

    /// How many times it was synced since this was asked the last time, and the advice.
    fn done(&self) -> (usize, Vec<(Advice, u64, u64)>) {
        let is_sync = |op: &&String| op.starts_with("sync ") && op.ends_with(OPEN);
        let done = (self.disk.log().iter().filter(is_sync).count(), self.disk.advice(OPEN));
        self.disk.clear_log();
        done
    }
}

/// A sync that ended within a page left that page in the cache for good: the next one began to
/// forget behind it.
#[test]
fn what_is_synced_leaves_the_cache_from_the_start_on() {
    let mut rig = rig(EVERY, PageCache::Drop);
    for bytes in [100, 5000] {
        rig.write_to(bytes);
        assert_eq!(rig.done(), (0, vec![]), "nothing before the sync");
        rig.syncer.sync_all();
        assert_eq!(rig.done(), (1, vec![(DropCache, 0, bytes)]));
    }
    rig.syncer.sync_all();
    assert_eq!(rig.done(), (0, vec![]), "nothing new");
    rig.write_to(5001);
    rig.finish();
    assert_eq!(rig.done(), (1, vec![(DropCache, 0, 5001)]));
}

#[test]
fn what_could_not_be_synced_stays_in_the_cache() {
    let mut rig = rig(EVERY, PageCache::Drop);
    rig.write_to(100);
    rig.disk.fault_at(rig.disk.operations(), Fault::Fail(io::ErrorKind::Other));
    rig.syncer.sync_all();
    assert!(rig.progress.failed());
    rig.write_to(200);
    rig.syncer.sync_all();
    rig.finish();
    assert_eq!(rig.done(), (0, vec![]), "and its sync is not repeated");
}

/// The kernel wrote, failed, and forgot: the next sync would have told of it, too late.
#[test]
fn an_error_of_writing_behind_is_one_of_syncing() {
    let mut rig = rig(FsyncPolicy::Segment, PageCache::Drop);
    rig.write_to(GROWN_BYTES);
    rig.say_grown();
    rig.done();
    rig.write_to(2 * GROWN_BYTES);
    rig.disk.fault_at(rig.disk.operations(), Fault::Fail(io::ErrorKind::Other));
    rig.say_grown();
    assert!(rig.progress.failed());
    assert_eq!(rig.done(), (0, vec![]), "nothing is forgotten");
    rig.say_grown();
    rig.syncer.write_behind_all();
    assert_eq!(rig.done(), (0, vec![]), "later neither");
}

#[test]
fn a_segment_that_grows_fast_is_synced_before_it_is_time() {
    let mut rig = rig(EVERY, PageCache::Drop);
    rig.write_to(GROWN_BYTES);
    rig.say_grown();
    assert_eq!(rig.done(), (1, vec![(DropCache, 0, GROWN_BYTES)]));
    // It was said again while that sync was under way.
    rig.write_to(2 * GROWN_BYTES - 1);
    rig.say_grown();
    assert_eq!(rig.done(), (0, vec![]));
    rig.finish();
    rig.say_grown();
    assert_eq!(rig.done().0, 1, "of one that is finished nothing is to be said");
}

#[test]
fn without_syncs_the_kernel_writes_first_and_forgets_with_the_next_step() {
    for policy in [FsyncPolicy::Segment, FsyncPolicy::Never] {
        let mut rig = rig(policy, PageCache::Drop);
        const G: u64 = GROWN_BYTES;
        rig.write_to(G);
        rig.say_grown();
        assert_eq!(rig.done(), (0, vec![(StartWriting, 0, G)]));
        rig.write_to(2 * G + 7);
        rig.say_grown();
        assert_eq!(rig.done(), (0, vec![(DropCache, 0, G), (StartWriting, G, G + 7)]));
        // In time, without being told.
        rig.syncer.write_behind_all();
        assert_eq!(rig.done(), (0, vec![(DropCache, 0, 2 * G + 7)]));
        rig.write_to(2 * G + 9);
        rig.finish();
        let all = 2 * G + 9;
        if policy == FsyncPolicy::Segment {
            assert_eq!(rig.done(), (1, vec![(DropCache, 0, all)]));
        } else {
            let last = vec![(DropCache, 0, all - 2), (StartWriting, all - 2, 2)];
            assert_eq!(rig.done(), (0, last));
            // By now that is written.
            rig.syncer.write_behind_all();
            assert_eq!(rig.done(), (0, vec![(DropCache, 0, 0)]));
        }
        rig.syncer.write_behind_all();
        assert_eq!(rig.done(), (0, vec![]));
    }
}

/// The real disk's files forget nothing then; here it is about syncs and asking to write.
#[test]
fn a_cache_that_is_kept_changes_no_sync() {
    for (policy, syncs) in [(EVERY, 1), (FsyncPolicy::Segment, 1), (FsyncPolicy::Never, 0)] {
        let mut rig = rig(policy, PageCache::Keep);
        rig.write_to(GROWN_BYTES);
        rig.say_grown();
        rig.syncer.write_behind_all();
        assert_eq!(rig.done(), (0, vec![]), "{policy:?}");
        rig.finish();
        let (synced, advice) = rig.done();
        assert_eq!(synced, syncs, "{policy:?}");
        assert!(advice.iter().all(|(advice, ..)| *advice == DropCache), "{advice:?}");
    }
}
