//! Tests of `verify`, on recordings written by hand.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::tape::event::{Event, GapReason};
use crate::tape::reader::testing::{Recording, SegmentBuilder, TS, seal};

fn verify_paths(paths: &[&Path]) -> (Outcome, String) {
    let args = VerifyArgs { paths: paths.iter().map(|path| path.to_path_buf()).collect() };
    let mut out = Vec::new();
    let outcome = run(&args, &mut out).unwrap();
    (outcome, String::from_utf8(out).unwrap())
}

/// The findings, without the summary.
fn findings(path: &Path) -> Vec<String> {
    let (outcome, text) = verify_paths(&[path]);
    let is_summary = |line: &str| line.contains("; segments ");
    let findings: Vec<String> =
        text.lines().filter(|line| !is_summary(line)).map(str::to_string).collect();
    let expected = if findings.is_empty() { Outcome::Clean } else { Outcome::Loss };
    assert_eq!(outcome, expected, "{text}");
    findings
}

fn check(path: &Path, expected: &[&str]) {
    let found = findings(path);
    assert_eq!(found.len(), expected.len(), "{found:#?}, expected {expected:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "'{found}' should say '{expected}'");
    }
}

/// Writes a new file: thousands of times, so it must not wait for the disk, as overwriting does on
/// some file systems.
fn replace(path: &Path, bytes: &[u8]) {
    // The first time there is none.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

fn small(number: u64, first_index: u64) -> SegmentBuilder {
    let mut segment = SegmentBuilder::new("btc", number, first_index);
    segment.text(b"{\"a\":1}").mark().text(b"two\nlines").binary(b"\x00\xff").end();
    segment
}

#[test]
fn sound_tapes_have_no_findings() {
    for form in Form::ALL {
        let recording = Recording::new();
        let first = small(3, 70);
        let mut second = SegmentBuilder::new("btc", 4, first.next_index());
        second.text("x".repeat(150_000).as_bytes()).mark().binary(&[1; 100_000]);
        second.text("\u{20ac}\n".repeat(40_000).as_bytes()).gap(GapReason::Stall, Some(7));
        second.ts(TS + 9).text(b"").end();
        recording.put(&first, form);
        recording.put(&second, form);
        let other = Recording::at(recording.path());
        other.put(SegmentBuilder::new("eth", 0, 0).ts(TS + 5).text(b"{}"), Form::Open);
        let (outcome, text) = verify_paths(&[recording.path()]);
        assert_eq!(outcome, Outcome::Clean, "{form:?}: {text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("feed btc: ok; segments 2"), "{text}");
        assert!(text.contains("gaps stall 1 (7 messages lost)"), "{text}");
        assert!(text.contains("feed eth: ok; segments 1 (1 still being written)"), "{text}");
        assert!(text.contains("2 feeds: ok; segments 3"), "{text}");
        // A segment on its own, away from the others and from the sums.
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join(format!("copy.tape{}", form.ending()));
        fs::write(&path, small(3, 70).stored(form)).unwrap();
        check(&path, &[]);
    }
}

#[test]
fn every_flip_in_a_finished_plain_segment_is_found() {
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Plain);
    let plain = small(0, 0).plain().to_vec();
    for at in 0..plain.len() {
        for bit in 0..8 {
            let mut flipped = plain.clone();
            flipped[at] ^= 1 << bit;
            replace(&path, &flipped);
            assert_ne!(findings(&path), [""; 0], "byte {at} bit {bit}");
        }
    }
}

#[test]
fn every_flip_in_a_sealed_segment_is_found() {
    for form in [Form::Zstd, Form::Gzip] {
        let recording = Recording::new();
        let path = recording.put(&small(0, 0), form);
        let stored = small(0, 0).stored(form);
        for at in 0..stored.len() {
            for bit in 0..8 {
                let mut flipped = stored.clone();
                flipped[at] ^= 1 << bit;
                replace(&path, &flipped);
                assert_ne!(findings(&path), [""; 0], "{form:?} byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn every_flip_of_content_is_found_without_the_sums() {
    // The sums would find them all; here the checksums of the frames and of the tape must do.
    // What they can't tell are flips in the frames' headers that leave the content as it is.
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Zstd);
    let stored = small(0, 0).stored(Form::Zstd);
    let name = path.with_file_name("a-copy.tape.zst");
    let mut unfound = 0;
    for at in 0..stored.len() {
        for bit in 0..8 {
            let mut flipped = stored.clone();
            flipped[at] ^= 1 << bit;
            replace(&name, &flipped);
            if findings(&name).is_empty() {
                unfound += 1;
                let mut plain = Vec::new();
                let paths = vec![name.clone()];
                let args = super::super::cat::CatArgs {
                    paths,
                    feeds: Vec::new(),
                    messages: false,
                    raw_binary: false,
                };
                super::super::cat::run(&args, &mut plain).unwrap();
                assert_eq!(plain, small(0, 0).plain(), "byte {at} bit {bit}");
            }
        }
    }
    assert!(unfound < 64, "{unfound}");
}

#[test]
fn every_cut_of_a_finished_segment_is_found() {
    for form in [Form::Plain, Form::Zstd, Form::Gzip] {
        let recording = Recording::new();
        let path = recording.put(&small(0, 0), form);
        let stored = small(0, 0).stored(form);
        for cut in 0..stored.len() {
            replace(&path, &stored[..cut]);
            assert_ne!(findings(&path), [""; 0], "{form:?} cut at {cut}");
        }
        // And cut before it was sealed.
        let plain = small(0, 0).plain().to_vec();
        for cut in 0..plain.len() {
            replace(&path, &seal(&plain[..cut], form, 600));
            recording.list_sums(path.parent().unwrap());
            assert_ne!(findings(&path), [""; 0], "{form:?} cut at {cut} when plain");
        }
    }
}

#[test]
fn an_open_segment_cut_anywhere_is_only_unfinished() {
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Open);
    let plain = small(0, 0).plain().to_vec();
    for cut in 0..=plain.len() {
        replace(&path, &plain[..cut]);
        check(&path, &[]);
    }
    fs::write(&path, &plain[..plain.len() - 5]).unwrap();
    let (_, text) = verify_paths(&[&path]);
    assert!(text.contains("bytes of an unfinished line"), "{text}");
    for at in 0..plain.len() {
        let mut flipped = plain.clone();
        flipped[at] ^= 1;
        replace(&path, &flipped);
        // Past the last mark a flip in a payload can't be told yet; it must only not panic.
        findings(&path);
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    type Build<'a> = &'a dyn Fn(&mut SegmentBuilder) -> &mut SegmentBuilder;
    let check_segment = |build: Build<'_>, expected: &[&str]| {
        let recording = Recording::new();
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        build(&mut segment);
        recording.put(&segment, Form::Plain);
        check(recording.path(), expected);
    };
    let line = |kind_and_payload: &str| format!("{TS}{kind_and_payload}\n").into_bytes();
    check_segment(&|s| s.text(b"a"), &["line 3 (byte 257): no end event"]);
    check_segment(&|s| s.end().end(), &["line 3 (byte 313): a line after the end event"]);
    check_segment(
        &|s| s.ts(TS - 1).text(b"a").end(),
        &["line 2 (byte 235): the stamp 1736682893953758184 is before that of the line before, \
         1736682893953758185"],
    );
    check_segment(&|s| s.raw(b"abc\n").end(), &["line 2 (byte 235): shorter than a stamp"]);
    check_segment(&|s| s.raw(&line("?")).end(), &["unknown kind '?': \"17366"]);
    check_segment(&|s| s.raw(&line("~AA=")).end(), &["not base64"]);
    check_segment(
        &|s| s.raw(&line(&format!("~{}", "A".repeat(100_001)))).end(),
        &["line 2 (byte 235): the binary message is not base64"],
    );
    check_segment(&|s| s.raw(&line("!{\"event\":1}")).end(), &["not a JSON object"]);
    check_segment(&|s| s.raw(&line("!{\"event\":\"gap\"}")).end(), &["gap can't be read"]);
    check_segment(
        &|s| {
            let long = format!("!{{\"event\":\"sent\",\"text\":\"{}\"}}", "x".repeat(70_000));
            s.raw(&line(&long)).end()
        },
        &["an event longer than 65536 bytes"],
    );
    check_segment(
        &|s| {
            let header = s.plain().to_vec();
            s.raw(&header).end()
        },
        &["line 2 (byte 235): a second header"],
    );
    check_segment(
        &|s| s.ts(TS + 86_400_000_000_000).text(b"a").end(),
        &["a message of 2025-01-13 is in a segment of the day before"],
    );
    check_segment(&|s| s.raw(&line("!{\"event\":\"end\"}")), &["the counts can't be read"]);
}

#[test]
fn counts_are_checked_one_by_one() {
    type Spoil = fn(&mut crate::tape::event::Counts);
    let check_counts = |spoil: Spoil, expected: &[&str]| {
        let recording = Recording::new();
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        segment.text(b"a");
        let mut counts = segment.counts();
        spoil(&mut counts);
        segment.event(&Event::End(counts));
        recording.put(&segment, Form::Plain);
        check(recording.path(), expected);
    };
    check_counts(|_| {}, &[]);
    check_counts(|c| c.lines += 1, &["line 3 (byte 257): says 3 lines, expected 2"]);
    check_counts(|c| c.bytes = 0, &["line 3 (byte 257): says 0 bytes, expected 257"]);
    check_counts(|c| c.crc32c.0 = 1, &["says crc32c 00000001 of the bytes since the mark before"]);
    check_counts(
        |c| {
            c.lines = 0;
            c.bytes = u64::MAX;
        },
        &["says 0 lines", "says 18446744073709551615 bytes"],
    );
}

#[test]
fn one_lost_line_is_one_loss_and_not_one_per_mark() {
    let recording = Recording::new();
    let mut segment = SegmentBuilder::new("btc", 0, 0);
    segment.text(b"kept").text(b"lost").mark().text(b"b").mark().text(b"c").end();
    let path = recording.put(&segment, Form::Plain);
    let text = String::from_utf8(segment.plain().to_vec()).unwrap();
    fs::write(&path, text.replace(&format!("{TS} lost\n"), "")).unwrap();
    check(&path, &["says 3 lines, expected 2", "bytes, expected", "says crc32c"]);
}

#[test]
fn marks_and_end_take_the_stamp_before_them() {
    let recording = Recording::new();
    let mut segment = SegmentBuilder::new("btc", 0, 0);
    segment.text(b"a").ts(TS + 1).end();
    recording.put(&segment, Form::Plain);
    check(
        recording.path(),
        &["its stamp is 1736682893953758186, expected that of the line before"],
    );
}

#[test]
fn names_folders_and_headers_agree() {
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Plain);
    let text = fs::read_to_string(&path).unwrap();
    let folder = path.parent().unwrap();
    let other_name = folder.join("btc.20250112T115453Z.000007.tape");
    fs::rename(&path, &other_name).unwrap();
    check(&other_name, &["the file's name says btc.20250112T115453Z.000007.tape, the header btc"]);
    let other_day = folder.with_file_name("date=2025-01-13");
    fs::create_dir(&other_day).unwrap();
    let moved = other_day.join(path.file_name().unwrap());
    fs::rename(&other_name, &moved).unwrap();
    check(&moved, &["in the folder date=2025-01-13, its name says date=2025-01-12"]);
    let other_feed = recording.path().join("feed=eth/date=2025-01-12");
    fs::create_dir_all(&other_feed).unwrap();
    let moved_again = other_feed.join(path.file_name().unwrap());
    fs::rename(&moved, &moved_again).unwrap();
    check(&moved_again, &["in the folder feed=eth, its name says feed=btc"]);

    let dir = tempfile::tempdir().unwrap();
    let spoilt = dir.path().join("spoilt.tape");
    fs::write(&spoilt, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    check(&spoilt, &["format version 2, expected 1", "crc32c"]);
    fs::write(&spoilt, text.replacen("\"feed\":\"btc\"", "\"feed\":\"BTC\"", 1)).unwrap();
    check(&spoilt, &["'BTC' can't name a feed", "crc32c"]);
}

#[test]
fn the_index_goes_on_over_segments() {
    let next_of = |segment: &SegmentBuilder| segment.next_index();
    let check_pair = |first: Form, jump: u64, expected: &[&str]| {
        let recording = Recording::new();
        let mut one = SegmentBuilder::new("btc", 5, 100);
        one.text(b"a");
        if first != Form::Open {
            one.end();
        }
        recording.put(&one, first);
        recording.put(&small(6, next_of(&one) + jump), Form::Plain);
        check(recording.path(), expected);
    };
    check_pair(Form::Plain, 0, &[]);
    check_pair(Form::Plain, 1, &["first_index is 104, expected 103"]);
    check_pair(Form::Zstd, 2, &["first_index is 105, expected 103"]);
    // What was left open gets two more lines by recovery.
    check_pair(Form::Open, 0, &[]);
    check_pair(Form::Open, 2, &[]);
    check_pair(Form::Open, 1, &["first_index is 103, expected 102 or 104"]);
}

#[test]
fn a_hole_between_segments_is_found_but_not_a_pruned_head() {
    let recording = Recording::new();
    recording.put(&small(5, 100), Form::Zstd);
    let day = recording.put(&small(9, 300), Form::Plain);
    check(recording.path(), &["feed=btc: segments 6 to 8 are missing"]);
    check(day.parent().unwrap(), &[]);
    recording.put(&small(6, small(5, 100).next_index()), Form::Zstd);
    recording.put(&small(8, 200), Form::Zstd);
    check(recording.path(), &["feed=btc: segment 7 is missing", "first_index is 300"]);
}

/// What is deleted from the beginning on is no loss, whatever was seen of it: all, a part of its
/// files while they went, or only its line in the sums, after a crash.
#[test]
fn a_pruned_head_is_no_finding() {
    let recording = Recording::new();
    let mut paths = Vec::new();
    let mut index = 0;
    for number in 0..5 {
        let segment = small(number, index);
        index = segment.next_index();
        paths.push(recording.put(&segment, Form::Zstd));
    }
    let tapes = find(&[recording.path()]).unwrap();
    let args = VerifyArgs { paths: vec![recording.path().to_path_buf()] };
    // Segment 1 went while its folder was read: it was not listed.
    let mut torn = tapes.clone();
    torn[0].segments.remove(1);
    for path in &paths[..3] {
        fs::remove_file(path).unwrap();
    }
    for (case, tapes) in [("as they were", tapes), ("seen in part", torn)] {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out);
        verify(&args, &tapes, &mut report).unwrap();
        assert_eq!((report.findings, report.unreadable), (0, 0), "{case}");
    }
    // The sums list all five still.
    check(recording.path(), &[]);
    recording.list_sums(paths[0].parent().unwrap());
    check(recording.path(), &[]);
    // One that is missing further on is a loss.
    fs::remove_file(&paths[4]).unwrap();
    check(recording.path(), &["lists btc.20250112T115453Z.000004.tape.zst, which is missing"]);
}

#[test]
fn the_same_number_twice_is_found() {
    let recording = Recording::new();
    recording.put(&small(0, 0), Form::Plain);
    let mut again = SegmentBuilder::new("btc", 0, 0);
    again.header_ts(TS + 2_000_000_000).end();
    recording.put(&again, Form::Plain);
    check(recording.path(), &["segment 0 is there twice"]);
}

#[test]
fn the_sums_are_checked() {
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Zstd);
    let folder = path.parent().unwrap();
    let sums = folder.join("_SHA256SUMS");
    let good = fs::read_to_string(&sums).unwrap();

    fs::write(&sums, "").unwrap();
    check(recording.path(), &["sealed, but not listed in _SHA256SUMS"]);
    fs::remove_file(&sums).unwrap();
    check(recording.path(), &["sealed, but not listed in _SHA256SUMS"]);
    // Between sealing and deleting the plain file that is as it should be.
    recording.put(&small(0, 0), Form::Plain);
    fs::remove_file(&sums).unwrap();
    check(recording.path(), &[]);
    fs::remove_file(path.with_extension("")).unwrap();

    let digit = if good.starts_with('0') { "1" } else { "0" };
    fs::write(&sums, format!("{digit}{}", &good[1..])).unwrap();
    check(recording.path(), &["sha256 is "]);
    fs::write(&sums, format!("{good}{}", good.replace("000000", "000009"))).unwrap();
    check(
        recording.path(),
        &["line 2: lists btc.20250112T115453Z.000009.tape.zst, which is missing"],
    );
    check(&path, &[]);
    fs::write(&sums, format!("{good}{good}")).unwrap();
    check(recording.path(), &["line 2: lists btc.20250112T115453Z.000000.tape.zst twice"]);
    for wrong in ["nonsense\n", "00  x\n", "\u{ff}\n", "no line feed", "\n"] {
        fs::write(&sums, format!("{good}{wrong}")).unwrap();
        check(recording.path(), &["line 2: "]);
    }
    // Somebody's own file may be listed too.
    fs::write(folder.join("notes"), "x").unwrap();
    fs::write(&sums, format!("{good}{}  notes\n", "0".repeat(64))).unwrap();
    check(recording.path(), &["notes: sha256 is 2d711642b726b044"]);
}

#[test]
fn garbage_is_told_a_hundred_times_per_file() {
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Plain);
    fs::write(&path, "garbage\n".repeat(1000)).unwrap();
    let found = findings(recording.path());
    assert_eq!(found.len(), 101);
    // Each line, the header and the end.
    assert!(found[100].ends_with("and 902 more findings"), "{}", found[100]);
    let (_, text) = verify_paths(&[recording.path()]);
    assert!(text.ends_with('\n') && text.contains("1 feed: 1002 findings"), "{text}");
}

#[test]
fn a_closed_pipe_does_not_hide_what_was_found() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let recording = Recording::new();
    let path = recording.put(&small(0, 0), Form::Plain);
    let args = VerifyArgs { paths: vec![path.clone()] };
    assert_eq!(run(&args, &mut Closed).unwrap(), Outcome::Clean);
    fs::write(&path, "garbage\n").unwrap();
    assert_eq!(run(&args, &mut Closed).unwrap(), Outcome::Loss);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..500),
        flips in proptest::collection::vec((0usize..600, any::<u8>()), 0..5),
    ) {
        for form in Form::ALL {
            let recording = Recording::new();
            let path = recording.put(&small(0, 0), form);
            fs::write(&path, &bytes).unwrap();
            findings(&path);
            let mut stored = small(0, 0).stored(form);
            for (at, byte) in &flips {
                let bytes = stored.len();
                stored[at % bytes] = *byte;
            }
            fs::write(&path, &stored).unwrap();
            findings(&path);
        }
    }
}
