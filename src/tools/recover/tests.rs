//! Damage of every kind to one segment of a recording: `recover`, and then `verify` is content,
//! what is there was recorded, and what is not there is told.

#[cfg(test)]
mod neighbours;

use super::super::verify::{self, VerifyArgs};
use super::*;
use crate::storage::memory::MemoryDisk;
use crate::tape::reader::testing::{Recording, SegmentBuilder, TS};
use crate::tape::reader::{OwnedLine, read_all};

/// Three segments; the second, which is damaged, has a mark after every eighth message.
struct Before {
    segments: [SegmentBuilder; 3],
    /// Messages of all of them.
    messages: Vec<Vec<u8>>,
}

fn before() -> Before {
    let mut index = 0;
    let mut messages = Vec::new();
    let segments = std::array::from_fn(|number| {
        let mut segment = SegmentBuilder::new("btc", number as u64, index);
        let hour = TS + number as u64 * 3_600_000_000_000;
        segment.header_ts(hour);
        for n in 0..if number == 1 { 40 } else { 4 } {
            let text = format!("{{\"segment\":{number},\"message\":{n:04}}}");
            segment.ts(hour + n * 1_000_000).text(text.as_bytes());
            messages.push(text.into_bytes());
            if n % 8 == 7 {
                segment.mark();
            }
        }
        segment.end();
        index = segment.next_index();
        segment
    });
    Before { segments, messages }
}

/// What `recover` left and said.
struct After {
    recording: Recording,
    outcome: Outcome,
    said: String,
    lines: Vec<OwnedLine>,
}

impl After {
    fn messages(&self) -> Vec<Vec<u8>> {
        let messages = self.lines.iter().filter(|line| line.bytes[19] == b' ');
        messages.map(|line| line.bytes[20..].to_vec()).collect()
    }

    fn events(&self, name: &str) -> Vec<serde_json::Value> {
        let start = format!("!{{\"event\":\"{name}\"");
        let events =
            self.lines.iter().filter(|line| line.bytes[19..].starts_with(start.as_bytes()));
        events.map(|line| serde_json::from_slice(&line.bytes[20..]).unwrap()).collect()
    }
}

fn recover(paths: &[&Path], into: Option<&Path>) -> (Outcome, String) {
    let args = RecoverArgs {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        into: into.map(Path::to_path_buf),
    };
    let mut out = Vec::new();
    let outcome = run(&args, &mut out).unwrap_or_else(|error| panic!("{error:#}"));
    (outcome, String::from_utf8(out).unwrap())
}

fn verified(path: &Path) -> (Outcome, String) {
    let mut out = Vec::new();
    let outcome = verify::run(&VerifyArgs { paths: vec![path.to_path_buf()] }, &mut out).unwrap();
    (outcome, String::from_utf8(out).unwrap())
}

/// Recovers the recording with `stored` in the place of the second segment, and checks what must
/// hold whatever the damage is.
fn mend(before: &Before, form: Form, stored: &[u8], case: &str) -> After {
    let recording = Recording::new();
    before.segments.iter().for_each(|segment| drop(recording.put(segment, form)));
    let path = recording.path().join(before.segments[1].name().path(form));
    std::fs::write(&path, stored).unwrap();
    let (outcome, said) = recover(&[recording.path()], None);
    let (verdict, findings) = verified(recording.path());
    assert_eq!(verdict, Outcome::Clean, "{case}: {said}\n{findings}");
    if std::fs::read(&path).unwrap() != stored {
        let aside = std::fs::read(format!("{}.damaged", path.display())).unwrap();
        assert!(aside == stored, "{case}: the damaged one is kept");
    }
    let lines = read_all(recording.path()).unwrap();
    let after = After { recording, outcome, said, lines };
    check_told(before, &after, case);
    let (again, _) = recover(&[after.recording.path()], None);
    assert_eq!(again, Outcome::Clean, "{case}: nothing is left to be done");
    after
}

/// What is there was recorded, in this order; what is lost is told in gap, report and exit code.
fn check_told(before: &Before, after: &After, case: &str) {
    let said = &after.said;
    let is_unverified = said.contains("no checksum covers");
    let mut recorded = before.messages.iter();
    let messages = after.messages();
    for message in &messages {
        let text = String::from_utf8_lossy(message);
        let is_there = recorded.clone().any(|other| other == message);
        if is_there {
            recorded.find(|other| *other == message);
        }
        assert!(is_there || is_unverified, "{case}: {text} was not recorded: {said}");
    }
    let missing = before.messages.len() - messages.len();
    let lost: usize = said
        .split("lost ")
        .skip(1)
        .filter_map(|text| text.split(' ').next()?.parse::<usize>().ok())
        .sum();
    assert!(lost >= missing, "{case}: {missing} are lost: {said}");
    assert!(missing == 0 || !after.events("gap").is_empty(), "{case}: {said}");
    let is_loss = lost > 0 || is_unverified;
    assert_eq!(after.outcome == Outcome::Loss, is_loss, "{case}: {said}");
}

#[test]
fn what_is_whole_is_left_alone() {
    let before = before();
    for form in [Form::Plain, Form::Gzip, Form::Zstd] {
        let after = mend(&before, form, &before.segments[1].stored(form), "whole");
        assert_eq!(
            (after.outcome, after.said.as_str()),
            (Outcome::Clean, "3 whole, 0 finished, 0 repaired\n")
        );
        assert_eq!(after.messages(), before.messages);
    }
}

#[test]
fn a_flipped_bit_anywhere() {
    let before = before();
    for form in [Form::Zstd, Form::Gzip, Form::Plain] {
        let stored = before.segments[1].stored(form);
        for at in (0..stored.len()).step_by(31) {
            let mut flipped = stored.clone();
            flipped[at] ^= 1 << (at % 8);
            let after = mend(&before, form, &flipped, &format!("{form:?}, byte {at}"));
            // A line is none any more, or two are one.
            let missing = before.messages.len() - after.messages().len();
            assert!(form != Form::Plain || missing <= 1, "byte {at}: {missing}: {}", after.said);
        }
    }
}

#[test]
fn cut_anywhere() {
    let before = before();
    for form in [Form::Zstd, Form::Gzip, Form::Plain] {
        let stored = before.segments[1].stored(form);
        for at in (0..stored.len()).step_by(97) {
            mend(&before, form, &stored[..at], &format!("{form:?}, cut at {at}"));
        }
    }
}

#[test]
fn pages_of_zeroes() {
    let before = before();
    for form in [Form::Zstd, Form::Plain] {
        let stored = before.segments[1].stored(form);
        for at in (0..stored.len() - 100).step_by(150) {
            let mut torn = stored.clone();
            torn[at..at + 100].fill(0);
            mend(&before, form, &torn, &format!("{form:?}, zeroes at {at}"));
        }
    }
}

/// Where each frame begins, and the end of the last.
fn frames(stored: &[u8]) -> Vec<usize> {
    let mut starts: Vec<usize> =
        memchr::memmem::find_iter(stored, &[0x28, 0xb5, 0x2f, 0xfd]).collect();
    starts.push(memchr::memmem::rfind(stored, &0x184D_2A5E_u32.to_le_bytes()).unwrap());
    starts
}

#[test]
fn a_frame_in_the_middle() {
    let before = before();
    let mut stored = before.segments[1].stored(Form::Zstd);
    let starts = frames(&stored);
    assert!(starts.len() >= 5, "{starts:?}");
    stored[starts[1] + 20] ^= 1;
    let after = mend(&before, Form::Zstd, &stored, "the second frame");
    let first_index = before.segments[0].next_index();
    assert!(after.said.contains(" lines, index "), "{}", after.said);
    // The frames are cut at line ends: the first line lost follows those of the first frame.
    let plain = before.segments[1].plain();
    let kept = memchr::memchr_iter(b'\n', &plain[..frame_end(plain, 0)]).count() as u64;
    let gone = memchr::memchr_iter(b'\n', &plain[frame_end(plain, 0)..frame_end(plain, 1)]).count();
    let (from, to) = (first_index + kept, first_index + kept + gone as u64 - 1);
    let told = format!("btc 000001: lost {gone} lines, index {from} to {to}\n");
    assert!(after.said.contains(&told), "{told} in {}", after.said);
    let gap = &after.events("gap")[0];
    assert_eq!(gap["reason"], "disk");
    assert_eq!(gap["messages"], serde_json::Value::Null);
    assert!(gap["from_ts"].as_u64() < gap["to_ts"].as_u64(), "{gap}");
    assert_eq!((&gap["first_index"], &gap["lines"]), (&from.into(), &gone.into()), "{gap}");
}

/// It cost all lines up to the next mark, as if nothing could be read there.
#[test]
fn one_wrong_byte_in_a_plain_segment_costs_its_own_line() {
    let before = before();
    let stored = before.segments[1].stored(Form::Plain);
    // The eleventh message, in the second interval of marks: header, eight messages, a mark, two.
    let line = memchr::memmem::find(&stored, b"\"message\":0010").unwrap();
    let start = memchr::memrchr(b'\n', &stored[..line]).unwrap() + 1;
    let index = before.segments[0].next_index() + 12;
    for (case, at, byte) in [
        ("no stamp", start + 18, b'x'),
        ("no kind", start + 19, b'#'),
        ("a stamp of the past", start + 3, b'0'),
        ("a stamp of the future", start, b'9'),
        ("not UTF-8", line, 0xff),
        ("a zero", line, 0),
    ] {
        let mut flipped = stored.clone();
        assert_ne!(std::mem::replace(&mut flipped[at], byte), byte, "{case}");
        let after = mend(&before, Form::Plain, &flipped, case);
        assert_eq!(after.messages().len(), before.messages.len() - 1, "{case}: {}", after.said);
        let told = format!("btc 000001: lost 1 line, index {index}\n");
        assert!(after.said.contains(&told), "{case}: {}", after.said);
        let gaps = after.events("gap");
        let [gap] = &gaps[..] else { panic!("{case}: {gaps:?}") };
        assert_eq!((&gap["first_index"], &gap["lines"]), (&index.into(), &1.into()), "{case}");
        let recovered = after.events("recovered");
        let unverified: u64 =
            recovered.iter().filter_map(|event| event["bytes_unverified"].as_u64()).sum();
        assert!((300..1000).contains(&unverified), "{case}: the interval's others: {unverified}");
    }
    // Two lines of one interval: their sum stands in the first gap.
    let mut flipped = stored;
    flipped[start] = b'x';
    let third = memchr::memmem::find(&flipped, b"\"message\":0012").unwrap();
    flipped[third] = 0xff;
    let after = mend(&before, Form::Plain, &flipped, "two");
    let gaps = after.events("gap");
    assert_eq!(gaps.len(), 2, "{}", after.said);
    let told = |gap: &serde_json::Value| {
        [&gap["first_index"], &gap["lines"], &gap["places"]].map(serde_json::Value::as_u64)
    };
    assert_eq!(told(&gaps[0]), [Some(index), Some(2), Some(2)]);
    assert_eq!(told(&gaps[1]), [None, None, None]);
}

/// Plain bytes up to the end of frame `number`, as `testing::seal` cuts them.
fn frame_end(plain: &[u8], number: usize) -> usize {
    (0..=number).fold(0, |at, _| {
        let from = at + 599;
        from + memchr::memchr(b'\n', &plain[from..]).unwrap() + 1
    })
}

#[test]
fn the_first_frame_and_every_frame() {
    let before = before();
    let stored = before.segments[1].stored(Form::Zstd);
    let starts = frames(&stored);
    let mut first = stored.clone();
    first[starts[0]] ^= 1;
    let after = mend(&before, Form::Zstd, &first, "the first frame");
    let header = &after.events("segment")[1];
    assert_eq!(header["first_index"], before.segments[0].next_index());
    assert_eq!(
        (header["segment"].as_u64(), &header["boot_id"]),
        (Some(1), &serde_json::Value::Null)
    );
    assert!(after.said.contains("its header was lost"), "{}", after.said);
    let mut every = stored;
    starts.iter().take(starts.len() - 1).for_each(|start| every[*start] ^= 1);
    let after = mend(&before, Form::Zstd, &every, "every frame");
    assert_eq!(after.messages().len(), 8);
    assert_eq!(after.events("gap").len(), 1);
}

/// The segments beside it tell where it began; alone it can't be known.
#[test]
fn a_header_that_nothing_helps_to_make_anew() {
    let before = before();
    let mut stored = before.segments[1].stored(Form::Zstd);
    stored[0] ^= 1;
    let lone = |with: &[usize]| {
        let recording = Recording::new();
        for number in with {
            recording.put(&before.segments[*number], Form::Zstd);
        }
        let path = recording.path().join(before.segments[1].name().path(Form::Zstd));
        std::fs::write(&path, &stored).unwrap();
        let (outcome, said) = recover(&[&path], None);
        assert_eq!(outcome, Outcome::Loss, "{said}");
        (said, read_all(recording.path()), std::fs::read(&path).unwrap() == stored)
    };
    let (said, _, is_left) = lone(&[1]);
    assert!(said.contains("left as it is: its header is lost") && is_left, "{said}");
    for beside in [[0, 1], [2, 1]] {
        let (said, lines, _) = lone(&beside);
        let lines = lines.unwrap_or_else(|error| panic!("{error}"));
        let of_middle = lines.iter().find(|line| line.segment == 1).unwrap();
        assert_eq!(of_middle.index, before.segments[0].next_index(), "beside {beside:?}: {said}");
    }
}

#[test]
fn a_damaged_seek_table_costs_nothing() {
    let before = before();
    let mut stored = before.segments[1].stored(Form::Zstd);
    let table = *frames(&stored).last().unwrap();
    for byte in &mut stored[table..] {
        *byte = !*byte;
    }
    let after = mend(&before, Form::Zstd, &stored, "seek table");
    assert!(after.said.contains("none is lost"), "{}", after.said);
    assert_eq!(after.messages(), before.messages);
    assert_eq!(after.events("gap").len(), 0);
}

#[test]
fn a_wrong_sum_is_listed_anew() {
    let before = before();
    let recording = Recording::new();
    before.segments.iter().for_each(|segment| drop(recording.put(segment, Form::Zstd)));
    let folder = before.segments[1].name().folder();
    let sums = recording.path().join(&folder).join("_SHA256SUMS");
    let text = std::fs::read_to_string(&sums).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&sums, format!("{}\n{}\n", lines[0], lines[2].replacen('a', "b", 1))).unwrap();
    let (outcome, said) = recover(&[recording.path()], None);
    assert_eq!(outcome, Outcome::Clean, "{said}");
    assert_eq!(said.matches("is listed anew").count(), 2, "{said}");
    assert_eq!(std::fs::read_to_string(&sums).unwrap(), text);
    assert_eq!(verified(recording.path()).0, Outcome::Clean);
}

#[test]
fn into_another_folder() {
    let before = before();
    let recording = Recording::new();
    recording.put(&before.segments[0], Form::Gzip);
    let path = recording.path().join(before.segments[1].name().path(Form::Zstd));
    let mut stored = before.segments[1].stored(Form::Zstd);
    let starts = frames(&stored);
    stored[starts[1] + 20] ^= 1;
    std::fs::write(&path, &stored).unwrap();
    let open = before.segments[2].plain();
    let last = recording.path().join(before.segments[2].name().path(Form::Open));
    std::fs::write(&last, &open[..open.len() - 90]).unwrap();
    let tree = |path: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let folder = path.join(before.segments[0].name().folder());
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    let untouched = tree(recording.path());
    let into = tempfile::tempdir().unwrap();
    let (outcome, said) = recover(&[recording.path()], Some(into.path()));
    assert_eq!(outcome, Outcome::Loss, "{said}");
    assert!(tree(recording.path()) == untouched, "the source is only read");
    let names: Vec<String> = tree(into.path())
        .iter()
        .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_string())
        .collect();
    let name = |number: usize, form: Form| before.segments[number].name().file(form);
    let mut expected = vec![
        "_SHA256SUMS".to_string(),
        name(0, Form::Gzip),
        name(1, Form::Zstd),
        name(2, Form::Plain),
    ];
    let tail = format!("{}.tail", name(2, Form::Plain));
    expected.extend(names.contains(&tail).then_some(tail));
    assert_eq!(names, expected, "{said}");
    let (verdict, findings) = verified(into.path());
    assert_eq!(verdict, Outcome::Clean, "{findings}");
    // What is there is not written over.
    let args = RecoverArgs {
        paths: vec![recording.path().to_path_buf()],
        into: Some(into.path().to_path_buf()),
    };
    let there = tree(into.path());
    assert!(run(&args, &mut Vec::new()).is_err());
    assert!(tree(into.path()) == there);
    // A file from anywhere, without its neighbours.
    let (alone, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stray = alone.path().join(name(1, Form::Zstd));
    std::fs::write(&stray, &stored).unwrap();
    recover(&[&stray], Some(again.path()));
    assert_eq!(verified(again.path()).0, Outcome::Clean);
}

#[test]
fn what_is_no_segment_is_refused_or_left_alone() {
    let before = before();
    let recording = Recording::new();
    let path = recording.put(&before.segments[1], Form::Zstd);
    let refused = |path: &Path| {
        let args = RecoverArgs { paths: vec![path.to_path_buf()], into: None };
        format!("{:#}", run(&args, &mut Vec::new()).unwrap_err())
    };
    for ending in [".damaged", ".damaged-2", ".tail", ".open.damaged", ".tmp"] {
        let aside = path.with_file_name(before.segments[1].name().file(Form::Plain) + ending);
        std::fs::write(&aside, b"x").unwrap();
        assert!(refused(&aside).contains("is not a segment"), "{ending}");
    }
    let stray = recording.path().join(path.file_name().unwrap());
    std::fs::copy(&path, &stray).unwrap();
    assert!(refused(&stray).contains("could not be recovered"));
    std::fs::remove_file(&stray).unwrap();
    let beside = |number: u64, form| {
        let name = SegmentName::new(&FeedName::new("btc").unwrap(), number, TS);
        recording.path().join(name.path(form))
    };
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(elsewhere.path(), b"not ours").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), beside(2, Form::Open)).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), beside(3, Form::Zstd)).unwrap();
    nix::unistd::mkfifo(&beside(4, Form::Open), nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&beside(5, Form::Plain), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (outcome, said) = recover(&[recording.path()], None);
    assert_eq!((outcome, said.as_str()), (Outcome::Clean, "1 whole, 0 finished, 0 repaired\n"));
    assert_eq!(std::fs::read(elsewhere.path()).unwrap(), b"not ours");
}

/// The same steps, interrupted at each of them: the segment is whole in the end.
#[test]
fn interrupted_between_two_names() {
    let before = before();
    let name = before.segments[1].name();
    for form in [Form::Plain, Form::Zstd] {
        for n in 0.. {
            let disk = MemoryDisk::new();
            let mut stored = before.segments[1].stored(form);
            stored[700] ^= 1;
            disk.put(name.path(form), &stored);
            let tmp = PathBuf::from(format!("{}.tmp", name.path(Form::Plain).display()));
            disk.put(&tmp, b"new");
            disk.fail_from(n, io::ErrorKind::Other);
            let done = repair::take_place(&disk, &name, form, &tmp);
            disk.clear_faults();
            repair::finish_interrupted(&disk, &name.feed).unwrap();
            let has = |form| disk.contents(name.path(form)).is_some();
            assert!(has(Form::Plain) || has(form), "{form:?}, operation {n}: {:?}", disk.files());
            if done.is_ok() {
                assert!(n > 1, "all operations were tried");
                break;
            }
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let before = before();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..20 {
        for form in [Form::Zstd, Form::Gzip, Form::Plain] {
            let mut stored = before.segments[1].stored(form);
            for _ in 0..random.usize(1..40) {
                let at = random.usize(..stored.len());
                match random.u8(0..4) {
                    0 => stored[at] = random.u8(..),
                    1 => stored.truncate(at.max(1)),
                    2 => drop(stored.splice(at..at, std::iter::repeat_n(b'\n', 3))),
                    _ => drop(stored.drain(at..(at + 30).min(stored.len()))),
                }
                if stored.is_empty() {
                    break;
                }
            }
            let recording = Recording::new();
            before.segments.iter().for_each(|segment| drop(recording.put(segment, form)));
            let path = recording.path().join(before.segments[1].name().path(form));
            std::fs::write(&path, &stored).unwrap();
            let (_, said) = recover(&[recording.path()], None);
            assert!(said.contains("whole"), "seed {seed}, round {round}, {form:?}: {said}");
        }
    }
}

/// A line of megabytes goes through in pieces, and its damage is found all the same.
#[test]
fn long_lines() {
    let mut segment = SegmentBuilder::new("btc", 0, 0);
    segment.text(b"one").text("x".repeat(300_000).as_bytes()).mark();
    segment.binary(&vec![7; 200_000]).text(b"two").end();
    let plain = segment.plain().to_vec();
    let check = |at: usize, kept: usize, case: &str| {
        let recording = Recording::new();
        let path = recording.put(&segment, Form::Plain);
        let mut flipped = plain.clone();
        flipped[at] = 0xff;
        std::fs::write(&path, &flipped).unwrap();
        let (outcome, said) = recover(&[recording.path()], None);
        assert_eq!(outcome, Outcome::Loss, "{case}: {said}");
        let (verdict, findings) = verified(recording.path());
        assert_eq!(verdict, Outcome::Clean, "{case}: {said}\n{findings}");
        let lines = read_all(recording.path()).unwrap();
        let messages = lines.iter().filter(|line| matches!(line.bytes[19], b' ' | b'~')).count();
        assert_eq!(messages, kept, "{case}: {said}");
    };
    let binary = memchr::memmem::find(&plain, b"~Bw").unwrap();
    check(150_000, 3, "the long text: it is lost");
    check(binary + 100_000, 3, "the long binary: it is lost");
}
