//! Recovery of a feed whose folder may hold anything: it never panics, leaves no open segment,
//! loses no byte of the lines that are valid, and has nothing left to do the second time. What it
//! makes of a segment that was only cut, `verify` finds nothing wrong with.
//!
//! Input: a byte of choices, a length and that many bytes of `.next`, a length and that many bytes
//! of a finished segment before the open one; then either the open segment's bytes as they are, or
//! orders from which one is written by the format, cut somewhere, and with a byte flipped.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use feedtape::clock::{self, ClockSync};
use feedtape::recovery::{self, Start};
use feedtape::storage::Disk;
use feedtape::tape::event::{Counts, Crc32c, Event};
use feedtape::tape::line::{Encoding, Stamp};
use feedtape::tape::name::{FeedName, Form, SegmentName};
use feedtape::tools::Outcome;
use feedtape::tools::verify::{self, VerifyArgs};
use libfuzzer_sys::fuzz_target;

/// 2025-01-12T11:54:53Z: far from the end of its day.
const TS: u64 = 1_736_682_893_953_758_185;
/// Ten hours later: still the same day.
const TS_MAX: u64 = TS + 36_000_000_000_000;
/// The open segment's number and first index.
const NUMBER: u64 = 1;
const FIRST_INDEX: u64 = 7;

static BOOT_ID: LazyLock<String> = LazyLock::new(clock::boot_id);

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let choices = input.byte();
    let next = input.sized();
    let before = input.sized();
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm can be written to");
    let feed = FeedName::new("f").expect("a valid name");
    let name = |number| SegmentName::new(&feed, number, TS);
    let put = |path: PathBuf, bytes: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("/dev/shm has room");
        fs::write(path, bytes).expect("/dev/shm has room");
    };
    if choices & 1 != 0 {
        put(PathBuf::from("feed=f/.next"), next);
    }
    if choices & 2 != 0 {
        let form = [Form::Plain, Form::Zstd, Form::Gzip, Form::Open][usize::from(choices >> 6)];
        put(name(0).path(form), before);
    }
    let is_same_boot = choices & 4 != 0;
    let open = if choices & 8 != 0 {
        let boot_id = if is_same_boot { &BOOT_ID } else { "another boot" };
        Open::by_orders(&mut input, boot_id, choices & 16 != 0)
    } else {
        Open { bytes: input.0.to_vec(), valid_bytes: 0, is_only_cut: false }
    };
    put(name(NUMBER).path(Form::Open), &open.bytes);
    check(folder.path(), &feed, &name(NUMBER), &open);
});

fn check(root: &Path, feed: &FeedName, name: &SegmentName, open: &Open) {
    let disk = Disk::new(root);
    let Ok(start) = recovery::prepare(&disk, feed) else { panic!("the disk does not fail") };
    let once = files(root);
    let again = recovery::prepare(&disk, feed).expect("the disk does not fail");
    assert_eq!(files(root), once, "a second recovery changes nothing");
    let is_left_open = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(".open"));
    assert!(!once.keys().any(is_left_open), "no segment is left open");
    let was_set_aside = once.keys().any(|path| path.extension().is_some_and(|e| e == "damaged"));
    if !was_set_aside {
        assert_eq!(again, start, "a second recovery finds the same");
    }
    let Some(recovered) = once.get(&name.path(Form::Plain)) else {
        assert_eq!(open.valid_bytes, 0, "valid lines were not recovered");
        return;
    };
    assert!(start.next_number > NUMBER);
    let valid = &open.bytes[..open.valid_bytes];
    let kept = recovered.iter().zip(valid).take_while(|(a, b)| a == b).count();
    assert_eq!(kept, valid.len(), "valid bytes were lost, there are {} in all", recovered.len());
    let args = VerifyArgs { paths: vec![root.join(name.path(Form::Plain))] };
    let verified = verify::run(&args, &mut io::sink()).expect("it can be opened");
    if open.is_only_cut {
        assert_eq!(verified, Outcome::Clean, "{}", recovered.escape_ascii());
        check_start(&start, recovered);
    }
}

fn check_start(start: &Start, recovered: &[u8]) {
    let lines = recovered.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(start.next_index >= FIRST_INDEX + lines);
    assert!(start.last_ts.is_some_and(|ts| ts >= TS));
}

/// All files with their bytes.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(root).expect("it is below").to_path_buf();
                all.insert(relative, fs::read(path).expect("it can be read"));
            }
        }
    }
    all
}

/// Takes the input apart; what is not there is zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn sized(&mut self) -> &'a [u8] {
        let count = self.number();
        self.bytes(count)
    }
}

/// An open segment as a crash may leave it.
struct Open {
    bytes: Vec<u8>,
    /// Up to here its lines are whole and as they were written.
    valid_bytes: usize,
    /// Nothing but its end is missing.
    is_only_cut: bool,
}

impl Open {
    fn by_orders(input: &mut Input<'_>, boot_id: &str, is_flipped: bool) -> Open {
        let cut = input.number();
        let flip = input.number();
        let bit = input.byte() % 8;
        let mut bytes = Written::by_orders(input, boot_id);
        bytes.truncate(bytes.len() - cut % (bytes.len() + 1));
        let mut intact = bytes.len();
        if is_flipped && !bytes.is_empty() {
            // Counted from the end, for that is where crashes do their work.
            intact = bytes.len() - 1 - flip % bytes.len();
            bytes[intact] ^= 1 << bit;
        }
        let valid_bytes = bytes[..intact].iter().rposition(|byte| *byte == b'\n');
        Open { bytes, valid_bytes: valid_bytes.map_or(0, |at| at + 1), is_only_cut: !is_flipped }
    }
}

/// A text. Zeroes side by side are left out: a block full of them counts as a hole in the file.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\0\0", "00")
}

/// A segment as the recorder writes it.
struct Written {
    bytes: Vec<u8>,
    lines: u64,
    ts: u64,
    crc_from: usize,
}

impl Written {
    fn by_orders(input: &mut Input<'_>, boot_id: &str) -> Vec<u8> {
        let mut written = Written { bytes: Vec::new(), lines: 0, ts: TS, crc_from: 0 };
        written.event(&Event::Segment {
            version: feedtape::tape::VERSION,
            feed: "f",
            segment: NUMBER,
            first_index: FIRST_INDEX,
            url: "ws://127.0.0.1:1/x",
            host: "fuzzer",
            boot_id,
            mono_offset_ns: 1,
            clock_sync: ClockSync::Yes,
            clock_error_ns: None,
            conn: None,
            feedtape: "0.1.0",
        });
        while !input.0.is_empty() {
            match input.byte() % 8 {
                0 | 1 => {
                    let text = text(input.sized());
                    written.message(Encoding::of_text(text.as_bytes()));
                }
                2 => written.message(Encoding::of_binary(input.sized())),
                // Longer than what is looked at as a whole.
                3 => {
                    let text = text(input.bytes(9)).repeat(70_000 / 8);
                    written.message(Encoding::of_text(text.as_bytes()));
                }
                // Up to 25 s: a few of them are beyond what is checked after a crash.
                4 => {
                    let later = written.ts + u64::from(input.byte()) * 100_000_000;
                    written.ts = later.min(TS_MAX);
                }
                5 | 6 => {
                    let counts = written.counts();
                    written.crc_from = written.bytes.len();
                    written.event(&Event::Mark(counts));
                }
                _ if input.byte() == 0 => {
                    let counts = written.counts();
                    written.event(&Event::End(counts));
                    break;
                }
                _ => {}
            }
        }
        written.bytes
    }

    fn message(&mut self, encoding: Encoding<'_>) {
        self.bytes.reserve(encoding.line_bytes());
        encoding.append_to(&Stamp::new(self.ts), &mut self.bytes);
        self.lines += 1;
    }

    fn event(&mut self, event: &Event<'_>) {
        // Marks and the end take the stamp of the line before them.
        let is_count = matches!(event, Event::Mark(_) | Event::End(_));
        let ts = if is_count { self.last_ts() } else { self.ts };
        self.bytes.extend_from_slice(&event.to_line(&Stamp::new(ts)));
        self.lines += 1;
    }

    fn last_ts(&self) -> u64 {
        let last = self.bytes[..self.bytes.len() - 1].iter().rposition(|byte| *byte == b'\n');
        let line = &self.bytes[last.map_or(0, |at| at + 1)..];
        let digits = std::str::from_utf8(&line[..19]).expect("a stamp is ASCII");
        digits.parse().expect("a stamp is a number")
    }

    fn counts(&self) -> Counts {
        Counts {
            lines: self.lines,
            bytes: self.bytes.len() as u64,
            crc32c: Crc32c(crc32c::crc32c(&self.bytes[self.crc_from..])),
        }
    }
}
