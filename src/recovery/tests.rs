//! Recovery of open segments on the in-memory disk.

use super::*;
use crate::storage::memory::MemoryDisk;
use crate::tape::event::{Counts, Crc32c, Event};
use crate::tape::line::Encoding;
use crate::tape::line::{Stamp, TS_DIGITS};

/// A segment as the writer leaves it: header, messages, marks about every `mark_bytes`.
fn segment(boot_id: &str, messages: u64, mark_bytes: usize) -> Vec<u8> {
    let ts = |n: u64| Stamp::new(1_700_000_000_000_000_000 + n * 1_000_000);
    let header = Event::Segment {
        version: 1,
        feed: "f",
        segment: 0,
        first_index: 100,
        url: "ws://h/",
        host: "h",
        boot_id,
        mono_offset_ns: 0,
        clock_sync: clock::ClockSync::Unknown,
        clock_error_ns: None,
        conn: None,
        feedtape: "0",
    };
    let mut bytes = header.to_line(&ts(0));
    let (mut lines, mut mark_at) = (1, 0);
    for n in 0..messages {
        let text = format!("message {n}");
        let message = Encoding::of_text(text.as_bytes());
        bytes.reserve(message.line_bytes());
        message.append_to(&ts(n), &mut bytes);
        lines += 1;
        if bytes.len() - mark_at >= mark_bytes {
            let crc32c = Crc32c(crc32c::crc32c(&bytes[mark_at..]));
            mark_at = bytes.len();
            let counts = Counts { lines, bytes: mark_at as u64, crc32c };
            bytes.extend(Event::Mark(counts).to_line(&ts(n)));
            lines += 1;
        }
    }
    bytes
}

fn name() -> SegmentName {
    let feed = FeedName::new("f").unwrap();
    SegmentName::new(&feed, 0, 1_700_000_000_000_000_000)
}

struct Recovered {
    start: Start,
    plain: Vec<u8>,
    tail: Option<Vec<u8>>,
}

fn recover(bytes: &[u8]) -> Recovered {
    let disk = MemoryDisk::default();
    disk.put(name().path(Form::Open), bytes);
    let start = prepare(&disk, &name().feed).unwrap();
    let plain = disk.contents(name().path(Form::Plain)).unwrap_or_default();
    let tail = disk.contents(PathBuf::from(format!("{}.tail", name().path(Form::Plain).display())));
    assert_eq!(disk.contents(name().path(Form::Open)), None, "nothing stays open");
    Recovered { start, plain, tail }
}

/// The index after a segment is that of its header and one more for each line.
fn check_ends(recovered: &Recovered) {
    let lines = memchr::memchr_iter(b'\n', &recovered.plain).count() as u64;
    assert_eq!(recovered.start.next_index, 100 + lines);
    assert_eq!(recovered.start.next_number, 1);
    let last = recovered.plain.split(|b| *b == b'\n').rev().nth(1).unwrap();
    assert!(last[TS_DIGITS..].starts_with(b"!{\"event\":\"end\""));
}

#[test]
fn cut_anywhere_after_a_crash_of_the_recorder() {
    let whole = segment(&clock::boot_id(), 60, 500);
    let header = memchr::memchr(b'\n', &whole).unwrap() + 1;
    for cut in header..whole.len() {
        let recovered = recover(&whole[..cut]);
        let kept = memchr::memrchr(b'\n', &whole[..cut]).unwrap() + 1;
        assert_eq!(recovered.plain[..kept], whole[..kept], "cut at {cut}");
        let rest = String::from_utf8_lossy(&recovered.plain[kept..]).into_owned();
        let said = format!("\"bytes_cut\":{},\"bytes_unverified\":0", cut - kept);
        assert!(rest[TS_DIGITS..].starts_with("!{\"event\":\"recovered\"") && rest.contains(&said));
        check_ends(&recovered);
        assert_eq!(recovered.tail, None);
    }
}

#[test]
fn after_a_crash_of_the_machine_marks_tell_what_is_sure() {
    let whole = segment("another boot", 60, 500);
    let marks: Vec<usize> = memchr::memmem::find_iter(&whole, "!{\"event\":\"mark\"")
        .map(|at| at - TS_DIGITS)
        .collect();
    // A page that was never written, in each part between two marks.
    for pair in marks.windows(2) {
        let hole = (pair[0] + pair[1]) / 2;
        let mut torn = whole.clone();
        let end = whole.len().min(hole + 700);
        torn[hole..end].fill(0);
        let recovered = recover(&torn);
        let kept = memchr::memrchr(b'\n', &whole[..hole]).unwrap() + 1;
        assert_eq!(recovered.plain[..kept], whole[..kept]);
        assert!(recovered.tail.as_deref() == Some(&torn[kept..]), "the tail of a hole at {hole}");
        let rest = String::from_utf8_lossy(&recovered.plain[kept..]).into_owned();
        let mark_end = pair[0] + memchr::memchr(b'\n', &whole[pair[0]..]).unwrap() + 1;
        let said = format!("\"bytes_unverified\":{}", kept - mark_end);
        assert!(rest.contains(&said), "{rest} says {said}");
        check_ends(&recovered);
    }
}

/// All lines with a zero in them, and what followed, were taken for a hole, even before a mark.
#[test]
fn zeroes_in_texts_are_no_hole() {
    let mut whole = segment("another boot", 5, 1 << 20);
    let ts = Stamp::new(1_700_000_000_009_000_000);
    for text in
        [&b"MESSAGE\\n\0"[..], &[0; 511], &[b"a".as_slice(), &[0; 511], b"b", &[0; 511]].concat()]
    {
        let message = Encoding::of_text(text);
        whole.reserve(message.line_bytes());
        message.append_to(&ts, &mut whole);
    }
    let recovered = recover(&whole);
    assert!(recovered.plain.starts_with(&whole));
    assert_eq!(recovered.tail, None);
    check_ends(&recovered);
}

/// Marks are what counts are taken from: sums of what they say went over the end of the numbers.
#[test]
fn giant_numbers_are_not_believed() {
    let max = u64::MAX;
    let disk = MemoryDisk::default();
    let next = format!("{{\"segment\":{max},\"index\":{max}}}\n");
    disk.put(Path::new("feed=f/.next"), next.as_bytes());
    let giant = SegmentName::parse(&format!("f.20231114T221320Z.{max}.tape.zst"));
    assert_eq!(giant, None);
    let start = prepare(&disk, &name().feed).unwrap();
    assert_eq!((start.next_number, start.next_index), (0, 0));

    let ended = |first_index: u64, lines: u64| {
        format!(
            "1700000000000000000!{{\"event\":\"segment\",\"first_index\":{first_index}}}\n\
             1700000000000000000!{{\"event\":\"end\",\"lines\":{lines},\"bytes\":1,\
             \"crc32c\":\"00000000\"}}\n"
        )
    };
    for (first_index, lines) in [(max, 1), (0, max), (max, max)] {
        let disk = MemoryDisk::default();
        disk.put(name().path(Form::Plain), ended(first_index, lines).as_bytes());
        let start = prepare(&disk, &name().feed).unwrap();
        assert_eq!((start.next_number, start.next_index), (1, 0));
    }

    // Two marks: the later one's checksum covers the earlier, whose count of lines is a lie.
    let mut open = segment("another boot", 1, 1 << 20);
    let mark_at = open.len();
    let mark = |lines, at: usize, crc| {
        let counts = Counts { lines, bytes: at as u64, crc32c: Crc32c(crc) };
        Event::Mark(counts).to_line(&Stamp::new(1_700_000_000_000_000_000))
    };
    open.extend(mark(max, mark_at, 0));
    let crc = crc32c::crc32c(&open[mark_at..]);
    open.extend(mark(max, open.len(), crc));
    let disk = MemoryDisk::default();
    disk.put(name().path(Form::Open), &open);
    let start = prepare(&disk, &name().feed).unwrap();
    assert_eq!(start.next_index, 104, "header, message, recovered, end");
}

/// A frame was decoded in whatever memory it asked for. (What a seek table claimed was made room
/// for: the process test `the_recorder_starts_on_what_it_finds` has the bound that shows it.)
#[test]
fn a_sealed_file_that_lies_is_gone_on_without() {
    let plain = segment("another boot", 5, 1 << 20);
    let frame = zstd::encode_all(&plain[..], 3).unwrap();
    let footer = [&((1u32 << 27) - 1).to_le_bytes()[..], &[0], &0x8F92_EAB1_u32.to_le_bytes()];
    let footer = [frame, footer.concat()].concat();
    let mut wide = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    io::Write::write_all(&mut wide, &plain).unwrap();
    let wide = wide.finish().unwrap();
    for bytes in [footer, wide] {
        let disk = MemoryDisk::default();
        disk.put(name().path(Form::Zstd), &bytes);
        let start = prepare(&disk, &name().feed).unwrap();
        assert_eq!((start.next_number, start.next_index, start.last_ts), (1, 0, None));
    }
}

#[test]
fn a_flipped_byte_is_never_behind_a_mark() {
    let whole = segment("another boot", 30, 400);
    let header_bytes = memchr::memchr(b'\n', &whole).unwrap() + 1;
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        let recovered = recover(&flipped);
        if at < header_bytes && recovered.plain[..header_bytes] != flipped[..header_bytes] {
            // It has a new header, and all that stood behind the old one.
            let messages = |bytes: &[u8]| -> Vec<Vec<u8>> {
                let lines = bytes.split(|byte| *byte == b'\n');
                lines.filter(|line| line.get(19) == Some(&b' ')).map(<[u8]>::to_vec).collect()
            };
            // Without its line feed the first message is a part of it.
            let lost = usize::from(at + 1 == header_bytes);
            assert!(messages(&recovered.plain) == messages(&whole)[lost..], "flipped at {at}");
            continue;
        }
        let place = memchr::memmem::find(&recovered.plain, b"\"bytes_unverified\":").unwrap();
        let digits = &recovered.plain[place + 19..];
        let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap();
        let unverified: usize = std::str::from_utf8(&digits[..end]).unwrap().parse().unwrap();
        let recovered_line = memchr::memrchr(b'\n', &recovered.plain[..place]).unwrap() + 1;
        let verified = recovered_line - unverified;
        assert!(
            recovered.plain[..verified] == whole[..verified],
            "flipped at {at}: {:?} of {:?}: {:?}",
            verified,
            unverified,
            String::from_utf8_lossy(&recovered.plain[at.saturating_sub(120)..])
        );
    }
}

#[test]
fn what_has_no_header_is_kept_aside_and_its_number_is_not_used_again() {
    let disk = MemoryDisk::default();
    disk.put(name().path(Form::Open), b"garbage");
    let start = prepare(&disk, &name().feed).unwrap();
    assert_eq!((start.next_number, start.next_index, start.last_ts), (1, 0, None));
    let damaged = PathBuf::from(format!("{}.damaged", name().path(Form::Open).display()));
    assert_eq!(disk.contents(&damaged).as_deref(), Some(&b"garbage"[..]));
}

/// verify said that a segment is missing where none had ever held a line.
#[test]
fn an_empty_one_is_removed_and_its_number_is_used() {
    let disk = MemoryDisk::default();
    disk.put(name().path(Form::Open), b"");
    let start = prepare(&disk, &name().feed).unwrap();
    assert_eq!((start.next_number, start.next_index, start.last_ts), (0, 0, None));
    assert_eq!(disk.files(), Vec::<PathBuf>::new());
}

#[test]
fn an_ended_segment_only_lacks_its_name() {
    let mut whole = segment(&clock::boot_id(), 10, 1 << 20);
    let counts =
        Counts { lines: 11, bytes: whole.len() as u64, crc32c: Crc32c(crc32c::crc32c(&whole)) };
    whole.extend(Event::End(counts).to_line(&Stamp::new(1_700_000_000_009_000_000)));
    let recovered = recover(&whole);
    assert_eq!(recovered.plain, whole);
    check_ends(&recovered);
}

#[test]
fn numbers_go_on_where_all_files_were_moved_away() {
    let disk = MemoryDisk::default();
    let feed = FeedName::new("f").unwrap();
    disk.put(Path::new("feed=f/.next"), b"{\"segment\":7,\"index\":1234}\n");
    let start = prepare(&disk, &feed).unwrap();
    assert_eq!((start.next_number, start.next_index), (7, 1234));
    let none = prepare(&MemoryDisk::default(), &feed).unwrap();
    assert_eq!((none.next_number, none.next_index, none.had_tape), (0, 0, false));
}

fn named(feed: &str, number: u64, ts: UnixNs) -> SegmentName {
    SegmentName::new(&FeedName::new(feed).unwrap(), number, ts)
}

const TS: UnixNs = 1_700_000_000_000_000_000;

/// They stayed open for ever once the feed was taken off the command line.
#[test]
fn feeds_that_are_not_recorded_any_more_are_finished_too() {
    let disk = MemoryDisk::default();
    let whole = segment("another boot", 20, 400);
    for feed in ["old", "_feedtape", "mine"] {
        disk.put(named(feed, 0, TS).path(Form::Open), &whole[..whole.len() - 7]);
    }
    disk.put("feed=NO/date=2023-11-14/x.tape.open", b"not ours");
    finish_others(&disk, &[&FeedName::new("mine").unwrap()]);
    for feed in ["old", "_feedtape"] {
        let plain = disk.contents(named(feed, 0, TS).path(Form::Plain)).unwrap();
        let text = String::from_utf8_lossy(&plain);
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(last[0].contains("\"end\"") && last[1].contains("\"recovered\""), "{last:?}");
    }
    assert!(disk.contents(named("mine", 0, TS).path(Form::Open)).is_some());
    assert!(disk.contents("feed=NO/date=2023-11-14/x.tape.open").is_some());
}

/// Each operation fails once: it costs one segment of a foreign feed, and for a feed that is
/// recorded it is an error.
#[test]
fn a_failure_on_a_foreign_feed_stops_nothing() {
    let whole = segment("another boot", 20, 400);
    let foreign = [named("a", 0, TS), named("a", 1, TS), named("b", 0, TS)];
    for n in 0.. {
        let disk = MemoryDisk::default();
        foreign.iter().for_each(|name| disk.put(name.path(Form::Open), &whole));
        disk.fault_at(n, crate::storage::memory::Fault::Fail(io::ErrorKind::PermissionDenied));
        finish_others(&disk, &[]);
        let operations = disk.operations();
        let open = foreign.iter().filter(|name| disk.contents(name.path(Form::Open)).is_some());
        let left = open.count();
        // 0 lists the recording: nothing is known then. Lists of a folder cost that feed.
        assert!(n == 0 || left <= 2, "operation {n}: {left} are left open");
        finish_others(&disk, &[]);
        for name in &foreign {
            assert!(disk.contents(name.path(Form::Open)).is_none(), "operation {n}: {name:?}");
        }
        if n >= operations {
            assert!(n > 20, "all operations were tried");
            break;
        }
    }
    let disk = MemoryDisk::default();
    disk.put(foreign[0].path(Form::Open), &whole);
    disk.fault_at(3, crate::storage::memory::Fault::Fail(io::ErrorKind::PermissionDenied));
    assert!(prepare(&disk, &foreign[0].feed).is_err());
}

/// Lines in the middle that were cut after a crash of the recorder were gone without a trace.
#[test]
fn lines_that_are_cut_are_kept_aside_whatever_crashed() {
    let mut torn = segment(&clock::boot_id(), 60, 500);
    let hole = torn.len() - 200;
    torn[hole] = b'\n';
    let recovered = recover(&torn);
    let tail = recovered.tail.clone().expect("whole lines were cut");
    assert!(memchr::memchr_iter(b'\n', &tail).count() > 1 && torn.ends_with(&tail));
    check_ends(&recovered);
}

#[test]
fn damaged_ones_of_one_name_are_kept_beside_each_other() {
    let disk = MemoryDisk::default();
    for garbage in ["one", "two", "three"] {
        disk.put(name().path(Form::Open), garbage.as_bytes());
        prepare(&disk, &name().feed).unwrap();
    }
    for (ending, garbage) in [("", "one"), ("-2", "two"), ("-3", "three")] {
        let path = format!("{}.damaged{ending}", name().path(Form::Open).display());
        assert_eq!(disk.contents(path).as_deref(), Some(garbage.as_bytes()));
    }
}

/// Numbers only rise, whatever is left of the files and whatever their names say.
#[test]
fn names_are_not_used_again() {
    let mut whole = segment(&clock::boot_id(), 10, 1 << 20);
    let counts =
        Counts { lines: 11, bytes: whole.len() as u64, crc32c: Crc32c(crc32c::crc32c(&whole)) };
    whole.extend(Event::End(counts).to_line(&Stamp::new(TS + 9_000_000)));
    let feed = name().feed;
    let check = |story: &str, files: &[(SegmentName, Form)], next: Option<&str>, expected| {
        let disk = MemoryDisk::default();
        for (name, form) in files {
            disk.put(name.path(*form), &whole);
        }
        if let Some(next) = next {
            disk.put("feed=f/.next", next.as_bytes());
        }
        let start = prepare(&disk, &feed).unwrap();
        assert_eq!((start.next_number, start.next_index), expected, "{story}");
        for (name, form) in files {
            assert!(disk.contents(name.path(*form)).is_some(), "{story}: {name:?} is as it was");
        }
    };
    let day = 86_400_000_000_000;
    let plain = |number, ts| (named("f", number, ts), Form::Plain);
    let next = Some("{\"segment\":8,\"index\":500}\n");
    check("the clock went back", &[plain(7, TS), plain(8, TS - 3 * day)], None, (9, 112));
    check("two in one second", &[plain(4, TS), plain(5, TS)], None, (6, 112));
    check("all were moved away", &[], next, (8, 500));
    check("all but an old one", &[plain(2, TS)], next, (8, 500));
    check("no .next", &[plain(2, TS)], None, (3, 112));
    check("an old .next", &[plain(9, TS)], next, (10, 500));
    for torn in ["", "{\"segment\":8,\"ind", "\0\0\0\0", "{\"segment\":-1,\"index\":0}", "[]"] {
        check(torn, &[plain(2, TS)], Some(torn), (3, 112));
    }
    let long = format!("{{\"segment\":8,\"index\":500}}{}", " ".repeat(1000));
    check("a long .next", &[plain(2, TS)], Some(&long), (8, 500));
}

/// Found by killing the recorder again and again: a run that was killed while it connected began a
/// hole and never closed it, and the next one took its `connecting` for the last line before its
/// own hole. What was lost in between stood in no gap.
#[test]
fn the_hole_of_a_run_that_was_killed_while_connecting_counts_on() {
    const BASE: u64 = 1_700_000_000_000_000_000;
    let check = |case: &str, runs: &[&[&str]], expected: Option<u64>| {
        let disk = MemoryDisk::new();
        let feed = FeedName::new("f").unwrap();
        let mut index = 0;
        for (number, lines) in runs.iter().enumerate() {
            let first = lines[0][..2].parse::<u64>().unwrap();
            let at = |ts: u64| (BASE + ts).to_string();
            let mut text = format!(
                "{}!{{\"event\":\"segment\",\"version\":1,\"feed\":\"f\",\"segment\":{number},\
                 \"first_index\":{index},\"boot_id\":\"{}\"}}\n",
                at(first),
                clock::boot_id()
            );
            for line in *lines {
                let (ts, rest) = line.split_at(2);
                text += &format!("{}{rest}\n", at(ts.parse().unwrap()));
            }
            index += lines.len() as u64 + 3;
            let name = SegmentName::new(&feed, number as u64, BASE + first);
            disk.put(name.path(Form::Open), text.as_bytes());
        }
        let start = prepare(&disk, &feed).unwrap();
        let from = start.last_ts.map(|ts| ts - BASE);
        assert_eq!(from, expected, "{case}: {runs:?}");
    };
    let message = "11 message";
    let connecting = |ts: u8| format!("{ts}!{{\"event\":\"connecting\",\"conn\":1}}");
    let lost = |ts: u8| format!("{ts}!{{\"event\":\"disconnected\",\"conn\":1}}");
    let gap = |ts: u8| format!("{ts}!{{\"event\":\"gap\",\"reason\":\"restart\"}}");
    check("killed while it recorded", &[&[&connecting(10), message]], Some(11));
    check("ended in order", &[&[message, &lost(12)]], Some(12));
    check("killed while connecting", &[&[message], &[&connecting(20)]], Some(11));
    check("twice", &[&[message], &[&connecting(20)], &[&connecting(30)]], Some(11));
    check("an attempt failed", &[&[message], &[&connecting(20), &lost(21)]], Some(11));
    check("in backoff", &[&[message, &lost(12), &connecting(20), &lost(21)]], Some(12));
    check("after its gap", &[&[message], &[&connecting(20), &gap(21)]], Some(21));
    check("never a message", &[&[&connecting(20)]], Some(20));
}
