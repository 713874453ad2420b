//! Tapes read back from disk, plainly: whole files in memory, every claim of the format checked.
//!
//! Takes lines apart with the library's `feedtape::tape`; everything above lines (headers, marks,
//! checksums, index, order of segments) is checked here anew, so that writer and reader of the
//! program can't agree on a mistake.

use std::io::Read;
use std::path::{Path, PathBuf};

use feedtape::tape::line::{Kind, Line};
use serde_json::Value;

use super::wire::{Message, brief};

/// One line of a tape.
#[derive(Debug, Clone)]
pub struct Entry {
    pub ts: u64,
    pub what: What,
}

/// What a line holds.
#[derive(Debug, Clone)]
pub enum What {
    Message(Message),
    Event(Value),
}

/// One file of a tape.
#[derive(Debug, Clone)]
pub struct File {
    pub path: PathBuf,
    /// Name of the file without its folders.
    pub name: String,
    pub segment: u64,
}

/// All lines of one feed.
#[derive(Debug)]
pub struct Tape {
    pub files: Vec<File>,
    pub entries: Vec<Entry>,
}

impl Tape {
    /// Reads the finished tape of a feed and checks it.
    pub fn read(out: &Path, feed: &str) -> Tape {
        let files = files(out, feed);
        assert!(!files.is_empty(), "feed {feed} has no files");
        let mut entries = Vec::new();
        for (at, file) in files.iter().enumerate() {
            assert_eq!(file.segment, at as u64, "segments count from 0 without holes");
            assert!(!file.name.ends_with(".open"), "{} was left open", file.name);
            read_segment(file, feed, &mut entries);
        }
        check_next(out, feed, files.len() as u64, entries.len() as u64);
        Tape { files, entries }
    }

    /// The whole lines that an open tape holds so far, unchecked.
    pub fn peek(out: &Path, feed: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for file in files(out, feed) {
            // A file may be sealed away between listing and reading; the next look sees it.
            let Ok(bytes) = std::fs::read(&file.path) else { continue };
            let Ok(bytes) = unpack(&file.name, bytes) else { continue };
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
            lines.extend(text.lines().map(str::to_string));
        }
        lines
    }

    pub fn messages(&self) -> Vec<Message> {
        let messages = self.entries.iter().filter_map(|entry| match &entry.what {
            What::Message(message) => Some(message.clone()),
            What::Event(_) => None,
        });
        messages.collect()
    }

    /// All events of one name, in order.
    pub fn events(&self, name: &str) -> Vec<&Value> {
        let events = self.entries.iter().filter_map(|entry| match &entry.what {
            What::Event(event) if event["event"] == name => Some(event),
            What::Event(_) | What::Message(_) => None,
        });
        events.collect()
    }

    /// The tape in short: one word or two per line, marks left out.
    pub fn outline(&self) -> Vec<String> {
        let events = self.entries.iter().filter_map(|entry| match &entry.what {
            What::Message(message) => Some(format!("{message:?}")),
            What::Event(event) if event["event"] == "mark" => None,
            What::Event(event) => Some(outline_event(event)),
        });
        events.collect()
    }
}

fn outline_event(event: &Value) -> String {
    let name = event["event"].as_str().unwrap();
    let keys: &[&str] = match name {
        "segment" => &["segment"],
        "connecting" | "connected" | "stale" => &["conn"],
        "sent" | "subscribed" | "refused" => &["conn", "text"],
        "disconnected" => &["conn", "code"],
        "gap" => &["reason"],
        "http" => &["status"],
        _ => &[],
    };
    let mut text = name.to_string();
    for key in keys {
        let value = event[key].as_str().map_or_else(|| event[key].to_string(), str::to_string);
        text.push(' ');
        text.push_str(&value);
    }
    text
}

/// The files of a feed, by segment.
fn files(out: &Path, feed: &str) -> Vec<File> {
    let mut files = Vec::new();
    for date in names(&out.join(format!("feed={feed}"))) {
        let folder = out.join(format!("feed={feed}")).join(&date);
        for name in names(&folder).into_iter().filter(|name| name.contains(".tape")) {
            let prefix = format!("{feed}.");
            let rest = name.strip_prefix(&prefix).unwrap_or_else(|| panic!("file name {name}"));
            let (stamp, rest) = rest.split_once('.').unwrap();
            let (number, _) = rest.split_once(".tape").unwrap();
            assert_eq!((stamp.len(), number.len()), (16, 6), "file name {name}");
            let day = format!("date={}-{}-{}", &stamp[..4], &stamp[4..6], &stamp[6..8]);
            assert_eq!(date, day, "{name} is in the folder of its day");
            let segment = number.parse().unwrap();
            files.push(File { path: folder.join(&name), name, segment });
        }
    }
    files.sort_by_key(|file| file.segment);
    files
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The plain bytes of a file, by its ending.
fn unpack(name: &str, bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if name.ends_with(".zst") {
        return zstd::decode_all(&bytes[..]);
    }
    if name.ends_with(".gz") {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain)?;
        return Ok(plain);
    }
    Ok(bytes)
}

fn read_segment(file: &File, feed: &str, entries: &mut Vec<Entry>) {
    let name = &file.name;
    let bytes = unpack(name, std::fs::read(&file.path).unwrap()).unwrap();
    assert_eq!(bytes.last(), Some(&b'\n'), "{name} ends with a whole line");
    let (mut lines, mut at, mut crc_from, mut last_ts) = (0u64, 0usize, 0usize, 0u64);
    let first_index = entries.len() as u64;
    let mut scratch = Vec::new();
    for text in bytes[..bytes.len() - 1].split(|byte| *byte == b'\n') {
        let shown = brief(text);
        let line = Line::parse(text).unwrap_or_else(|e| panic!("{name} at {at}: {e}: {shown}"));
        line.check().unwrap_or_else(|e| panic!("{name} at {at}: {e}: {shown}"));
        assert!(line.ts >= last_ts, "{name} at {at}: stamps decrease: {shown}");
        let ts_before = std::mem::replace(&mut last_ts, line.ts);
        let payload = line.payload(&mut scratch).unwrap().to_vec();
        let what = match line.kind {
            Kind::Text | Kind::EscapedText => {
                What::Message(Message::Text(String::from_utf8(payload).unwrap()))
            }
            Kind::Binary => What::Message(Message::Binary(payload)),
            Kind::Event => What::Event(serde_json::from_slice(&payload).unwrap()),
        };
        if let What::Event(event) = &what {
            match event["event"].as_str().unwrap() {
                "segment" => check_header(event, file, feed, first_index, at),
                "mark" | "end" => {
                    assert_eq!(line.ts, ts_before, "{name} at {at}: the stamp of the line before");
                    assert_eq!(event["lines"], lines, "{name} at {at}: {event}");
                    assert_eq!(event["bytes"], at, "{name} at {at}: {event}");
                    let crc = format!("{:08x}", crc32c::crc32c(&bytes[crc_from..at]));
                    assert_eq!(event["crc32c"], crc.as_str(), "{name} at {at}: {event}");
                    crc_from = at;
                }
                _ => {}
            }
            let is_end = event["event"] == "end";
            let is_last = at + text.len() + 1 == bytes.len();
            assert_eq!(is_end, is_last, "{name}: the last line, and only it, is the end");
        } else {
            assert!(at > 0, "{name} starts with its header");
        }
        entries.push(Entry { ts: line.ts, what });
        lines += 1;
        at += text.len() + 1;
    }
}

fn check_header(event: &Value, file: &File, feed: &str, first_index: u64, at: usize) {
    assert_eq!(at, 0, "{}: a header in the middle", file.name);
    assert_eq!(event["version"], 1, "{event}");
    assert_eq!(event["feed"], feed, "{event}");
    assert_eq!(event["segment"], file.segment, "{event}");
    assert_eq!(event["first_index"], first_index, "{event}");
    assert_eq!(event["feedtape"], env!("CARGO_PKG_VERSION"), "{event}");
    for key in ["url", "host", "boot_id", "clock_sync"] {
        assert!(event[key].as_str().is_some_and(|value| !value.is_empty()), "{key} in {event}");
    }
    assert!(event["mono_offset_ns"].is_i64(), "{event}");
}

/// `.next` says what comes after a clean end.
fn check_next(out: &Path, feed: &str, segment: u64, index: u64) {
    let path = out.join(format!("feed={feed}/.next"));
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, format!("{{\"segment\":{segment},\"index\":{index}}}\n"), ".next of {feed}");
}
