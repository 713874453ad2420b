//! What was found to go wrong after one failure or crash, each with its story.

use super::*;

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
    // It had its final name, and was taken for whole after a crash of the machine.
    for seed in 0..50 {
        let torn = disk.crash_torn(seed);
        recovery::prepare(&torn, &feed_name(0)).unwrap();
        if !has_damaged(&torn) {
            verify(&torn).unwrap_or_else(|said| panic!("seed {seed}: {said}"));
        }
    }
}

/// `.next` was durable before the segment that it counts: where a crash of the machine took that
/// one, its number was missing for ever.
#[test]
fn a_segment_that_is_lost_whole_leaves_no_hole() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    for step in [messages, Step::Sync, Step::Sync, Step::Rotate { feed: 0 }, messages] {
        rig.step(step, Compression::None);
    }
    for seed in 0..50 {
        let torn = disk.crash_torn(seed);
        let mut again = Rig::new(&torn);
        if has_damaged(&torn) {
            continue;
        }
        again.step(messages, Compression::None);
        again.end(Compression::None);
        verify(&torn).unwrap_or_else(|said| panic!("seed {seed}: {said}"));
    }
}

/// What a flush could not write went to the buffer of a new segment, and stayed there until
/// something else came for any feed.
#[test]
fn what_a_failed_flush_left_is_flushed() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::StorageFull));
    rig.step(messages, Compression::None);
    assert_eq!(messages_on(&disk)[0].len(), 6, "{:?}", disk.log());
}

/// Recovery made the day's folder durable, but not those above, which the run before had made.
#[test]
fn what_was_recovered_survives_a_crash_of_the_machine() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    rig.step(Step::Messages { feed: 0, count: 3, bytes: 40 }, Compression::None);
    recovery::prepare(&disk, &feed_name(0)).unwrap();
    assert_eq!(messages_on(&disk.crash())[0].len(), 3, "{:?}", disk.log());
}

/// A folder that could not be synced once was never synced again: a crash of the machine took the
/// whole segment, however often its bytes had been synced.
#[test]
fn a_folder_that_failed_is_synced_again() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    // The file, then the recording, the feed and the day.
    disk.fault_at(disk.operations() + 3, Fault::Fail(io::ErrorKind::Other));
    rig.step(Step::Sync, Compression::None);
    assert!(disk.log().iter().any(|op| op.starts_with("sync_dir") && op.ends_with("failed")));
    rig.step(messages, Compression::None);
    rig.step(Step::Sync, Compression::None);
    // It counts as a hole, so the rig believes in nothing any more; but all is there.
    assert!(!rig.no_loss());
    rig.synced[0] = 6;
    check_crashed("after a failed sync of a folder", &rig, &disk.crash(), Compression::None);
}

/// A segment that was closed after a failed write got its final name, and was not synced before.
#[test]
fn a_segment_closed_after_a_failed_write_is_synced() {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    rig.step(messages, Compression::None);
    rig.step(Step::Sync, Compression::None);
    disk.fault_at(disk.operations(), Fault::Fail(io::ErrorKind::StorageFull));
    rig.step(messages, Compression::None);
    check_crashed("after a failed write", &rig, &disk.crash(), Compression::None);
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

/// Segments of which the disk had nothing were set aside, and where they had been was a hole in the
/// indices of which nothing told.
#[test]
fn segments_that_came_to_nothing_leave_gaps_in_their_place() {
    let messages = Step::Messages { feed: 0, count: 3, bytes: 40 };
    let cases = [vec![1], vec![1, 2], vec![2, 3, 4], vec![4]];
    for (gone, is_empty) in cases.iter().flat_map(|gone| [(gone, false), (gone, true)]) {
        let is_last_gone = gone.contains(&4);
        if is_empty && is_last_gone {
            // Those at the end never were, for all that anybody knows.
            continue;
        }
        let disk = disk_with_segments(5);
        let before = segments_of_feed_0(&disk);
        for number in gone {
            let name = &before[*number].0;
            let length = disk.contents(name.path(Form::Plain)).unwrap().len();
            let zeroes = vec![0; if is_empty { 0 } else { length }];
            disk.put(name.path(Form::Open), &zeroes);
            disk.remove(&name.path(Form::Plain)).unwrap();
        }
        let start = recovery::prepare(&disk, &feed_name(0)).unwrap();
        let after = segments_of_feed_0(&disk);
        assert_eq!((start.next_number, after.len()), (5, 5), "{gone:?}");
        for (number, (name, text)) in after.iter().enumerate() {
            assert_eq!((name, name.number), (&before[number].0, number as u64));
            if !gone.contains(&number) {
                assert_eq!(text, &before[number].1);
                continue;
            }
            let events = ["segment", "gap", "recovered", "end"];
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), events.len(), "{text}");
            for (line, event) in lines.iter().zip(events) {
                assert!(line.contains(&format!("{{\"event\":\"{event}\"")), "{line}");
            }
            let last = after[number - 1].1.lines().last().unwrap();
            assert!(lines[0][..19] >= last[..19], "{} after {last}", lines[0]);
            let aside = format!("{}.damaged", name.path(Form::Open).display());
            assert!(disk.contents(aside).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)));
        }
        // The next run goes on, and nothing is missing without a word.
        let mut again = Rig::new(&disk);
        again.step(messages, Compression::None);
        again.end(Compression::None);
        verify(&disk).unwrap_or_else(|said| panic!("{gone:?}, empty {is_empty}: {said}"));
    }
}

/// Each operation of putting a new segment in the place of one fails once: the next start does it.
#[test]
fn a_replacement_that_is_cut_off_is_finished() {
    for n in 0.. {
        let disk = disk_with_segments(3);
        let name = segments_of_feed_0(&disk)[1].0.clone();
        disk.put(name.path(Form::Open), &[0; 500]);
        disk.remove(&name.path(Form::Plain)).unwrap();
        disk.fault_at(disk.operations() + n, Fault::Fail(io::ErrorKind::Other));
        let cut_off = recovery::prepare(&disk, &feed_name(0)).is_err();
        let log = disk.log();
        let Some(failed) = log.iter().find(|op| op.ends_with(": failed")) else {
            assert!(n > 20, "all operations: {n}");
            return;
        };
        // What can't be read counts as lost.
        if ["open", "read", "bytes"].iter().any(|reading| failed.starts_with(reading)) {
            continue;
        }
        assert!(cut_off, "operation {n}: {failed}");
        recovery::prepare(&disk, &feed_name(0)).unwrap();
        let open = |path: &PathBuf| path.extension().is_some_and(|end| end == "open");
        assert!(!disk.files().iter().any(open), "operation {n}: {:?}", disk.files());
        verify(&disk).unwrap_or_else(|said| panic!("operation {n}: {said}"));
    }
}

/// A disk after a run that left so many segments of feed 0, three messages in each.
fn disk_with_segments(count: usize) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let mut rig = Rig::new(&disk);
    for _ in 0..count {
        rig.step(Step::Messages { feed: 0, count: 3, bytes: 40 }, Compression::None);
        rig.step(Step::Rotate { feed: 0 }, Compression::None);
    }
    rig.end(Compression::None);
    disk
}

/// Names and texts of the plain segments of feed 0.
fn segments_of_feed_0(disk: &MemoryDisk) -> Vec<(SegmentName, String)> {
    let plain = disk.files().into_iter().filter_map(|path| {
        let (name, form) = SegmentName::parse(path.file_name()?.to_str()?)?;
        let text = String::from_utf8(disk.contents(&path)?).ok()?;
        (form == Form::Plain && name.feed == feed_name(0)).then_some((name, text))
    });
    plain.collect()
}
