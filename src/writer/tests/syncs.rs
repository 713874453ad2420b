//! Syncs, names and ends that the disk refused: told once, tried again, and counted.

use super::*;

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

/// The stamps of all lines on the tape of feed 0, in order.
fn stamps_on(disk: &MemoryDisk) -> Vec<String> {
    let of_feed = |path: &PathBuf| path.starts_with("feed=f0") && !path.ends_with(".next");
    let files = disk.files().into_iter().filter(of_feed);
    let text: Vec<u8> = files.flat_map(|path| disk.contents(path).unwrap()).collect();
    let text = String::from_utf8(text).unwrap();
    text.lines().map(|line| line[..19].to_string()).collect()
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
    // The segment is synced, then the folders; that of the feed, the second one, fails twice.
    let failed = "sync_dir feed=f0: failed".to_string();
    for (at, times) in [(2, 1), (0, 2)] {
        disk.fault_at(disk.operations() + at, Fault::Fail(io::ErrorKind::Other));
        rig.step(Step::Sync, Compression::None);
        assert_eq!(disk.log().iter().filter(|op| **op == failed).count(), times);
        assert_eq!(rig.stats[0].gaps.figures()[0].holes, 1);
    }
    let before = disk.log().len();
    rig.step(Step::Sync, Compression::None);
    assert_eq!(disk.log()[before], "sync_dir feed=f0");
    rig.step(messages, Compression::None);
    rig.end(Compression::None);
    assert!(head_of(&disk, 1).is_some_and(|said| said.contains(DISK_GAP)));
    assert_eq!(messages_on(&disk)[0].len(), 6);
    verify(&disk).unwrap();
}

/// What could not be synced was in the page cache only, for as long as the kernel liked: minutes
/// later lines in the middle of a segment were gone.
#[test]
fn what_could_not_be_synced_is_saved_once_the_disk_takes_it() {
    // The sync of the open segment fails, or that and those of the copies made of it then.
    for failures in [1, 2, 3] {
        let disk = MemoryDisk::new();
        let mut rig = Rig::new(&disk);
        let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
        rig.step(messages, Compression::None);
        rig.step(Step::Sync, Compression::None);
        let synced = stamps_on(&disk);
        rig.step(messages, Compression::None);
        disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::Other));
        rig.step(Step::Sync, Compression::None);
        if failures > 1 {
            disk.fail_syncs(failures - 1);
        }
        rig.step(messages, Compression::None);
        if failures > 1 {
            // Not even then is anything lost.
            disk.forget_cache();
        }
        rig.tell_syncer();
        for _ in 1..failures {
            rig.syncer.save_unsynced();
        }
        let failed = disk.log().iter().filter(|op| op.ends_with(": failed")).count();
        assert_eq!(failed, failures, "{:?}", disk.log());
        rig.end(Compression::None);
        for disk in [disk.crash(), disk] {
            disk.forget_cache();
            assert_eq!(messages_on(&disk)[0].len(), 9, "{:?}", disk.log());
            let is_open = |path: &PathBuf| path.extension().is_some_and(|end| end == "open");
            assert!(!disk.files().iter().any(is_open), "{:?}", disk.files());
            let said = head_of(&disk, 1).expect("a second segment");
            let from = format!("\"from_ts\":{}", synced.last().unwrap());
            assert!(said.contains(DISK_GAP) && said.contains(&from), "{said}, not {from}");
            verify(&disk).unwrap();
        }
    }
}

/// A run that ends before the disk heals leaves the segment open; the next one on the same boot
/// found all of it in the page cache, said that it was whole, and the kernel forgot it.
#[test]
fn what_a_run_could_not_save_the_next_one_does() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    rig.writer.boot_id = crate::clock::boot_id();
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::Other));
    rig.step(Step::Sync, Compression::None);
    disk.fail_syncs(usize::MAX);
    rig.step(messages, Compression::None);
    rig.end(Compression::None);
    disk.fail_syncs(0);
    let open = disk.files().into_iter().filter(|path| path.starts_with("feed=f0"));
    let open: Vec<_> = open.filter(|path| path.to_string_lossy().ends_with(".open")).collect();
    assert_eq!(open.len(), 2, "{open:?}");
    recovery::prepare(&disk, &feed_name(0)).unwrap();
    disk.forget_cache();
    assert_eq!(messages_on(&disk)[0].len(), 6, "{:?}", disk.log());
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
        rig.stats[0].sync_failed(None);
        rig.step(messages, Compression::None);
    }
    assert_eq!(rig.stats[0].segments.get(), 1);
    rig.end(Compression::None);
    assert_eq!(rig.stats[0].gaps.figures()[0].holes, 1);
}
