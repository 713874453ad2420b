//! `feedtape info`: what is on some tapes, per feed.
//!
//! Owns the counting and the two ways of showing it, a table and JSON. Reads every line, judges
//! none: that is for `verify`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Gaps, Outcome};
use crate::clock::{self, UnixNs};
use crate::printable::printable;
use crate::tape::line::{Kind, Line, TS_DIGITS};
use crate::tape::name::Form;
use crate::tape::reader::{
    OpenSegment, PayloadDecoder, Piece, PieceEnd, Purpose, ReadError, Tape, event_name, find, merge,
};
use crate::units::format_size;

/// Shows what is on tapes: time range, messages, sizes, connections and gaps of each feed.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Recordings (the --out of record), folders of a feed or a day in them, or segment files
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Print one JSON object per feed and line instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// A path without tapes, output that can't be written (a closed pipe is none), or, after all else
/// was printed, segments that could not be read whole.
pub fn run(args: &InfoArgs, out: &mut dyn Write) -> Result<Outcome> {
    match info(args, out) {
        Err(e) if super::is_closed_pipe(&e) => Ok(Outcome::Clean),
        other => other,
    }
}

fn info(args: &InfoArgs, out: &mut dyn Write) -> Result<Outcome> {
    let tapes = find(&args.paths)?;
    let roots: std::collections::BTreeSet<_> = tapes.iter().map(|tape| &tape.root).collect();
    let shows_root = roots.len() > 1;
    let mut rows = vec![HEADINGS.map(str::to_string)];
    let mut wrong = 0;
    for tape in &tapes {
        let feed = FeedInfo::of(tape);
        wrong += feed.unreadable;
        if args.json {
            writeln!(out, "{}", feed.to_json(tape))?;
        } else {
            rows.push(feed.to_row(tape, shows_root));
        }
    }
    if !args.json {
        print_table(&rows, out)?;
    }
    out.flush()?;
    ensure!(wrong == 0, "{wrong} segments could not be read whole: see above, and try verify");
    Ok(Outcome::Clean)
}

/// What is on the tape of one feed.
#[derive(Debug, Default)]
struct FeedInfo {
    open: u64,
    plain: u64,
    gzip: u64,
    zstd: u64,
    times: Option<(UnixNs, UnixNs)>,
    lines: u64,
    messages: u64,
    payload_bytes: u64,
    tape_bytes: u64,
    disk_bytes: u64,
    connections: u64,
    gaps: Gaps,
    /// Lines that are none.
    damaged: u64,
    /// Segments that could not be read whole.
    unreadable: u64,
    /// The long line on its way.
    long: Option<PayloadDecoder>,
    scratch: Vec<u8>,
}

impl FeedInfo {
    fn of(tape: &Tape) -> FeedInfo {
        let mut info = FeedInfo::default();
        for segment in &tape.segments {
            let result = match segment.open(Purpose::Read) {
                Ok(Some(open)) => info.segment(open),
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            if let Err(e) = result {
                log::error!("{e}; going on after it");
                info.unreadable += 1;
            }
        }
        info
    }

    fn segment(&mut self, open: OpenSegment) -> Result<(), ReadError> {
        let path = open.file().path();
        self.disk_bytes = self.disk_bytes.saturating_add(open.source().disk_bytes());
        *match open.file().form() {
            Form::Open => &mut self.open,
            Form::Plain => &mut self.plain,
            Form::Gzip => &mut self.gzip,
            Form::Zstd => &mut self.zstd,
        } += 1;
        let mut lines = open.lines();
        let result = loop {
            match lines.advance() {
                Ok(true) => self.piece(&lines.piece()),
                Ok(false) => break merge::torn_error(lines.source()).map_or(Ok(()), Err),
                Err(e) => break Err(e),
            }
        };
        self.long = None;
        self.tape_bytes += lines.offset();
        result.map_err(|cause| ReadError::at(&path, lines.offset(), cause))
    }

    fn piece(&mut self, piece: &Piece<'_>) {
        let content = piece.content();
        if !piece.is_start {
            self.long_line(content, piece.end);
            return;
        }
        self.lines += 1;
        let Ok(line) = Line::parse(content) else {
            self.damaged += 1;
            return;
        };
        let (first, last) = self.times.unwrap_or((line.ts, line.ts));
        self.times = Some((first.min(line.ts), last.max(line.ts)));
        match line.kind {
            Kind::Event => self.event(line.raw),
            Kind::Text | Kind::EscapedText | Kind::Binary if piece.is_whole() => {
                self.messages += 1;
                self.payload_bytes += line.message_bytes() as u64;
            }
            Kind::Text | Kind::EscapedText | Kind::Binary => {
                self.messages += 1;
                self.long = Some(PayloadDecoder::new(line.kind));
                self.long_line(&content[TS_DIGITS + 1..], piece.end);
            }
        }
    }

    fn long_line(&mut self, raw: &[u8], end: PieceEnd) {
        let Some(decoder) = &mut self.long else { return };
        self.scratch.clear();
        let result = decoder.push(raw, &mut self.scratch);
        self.payload_bytes += self.scratch.len() as u64;
        if result.is_err() {
            self.damaged += 1;
            self.long = None;
        } else if end != PieceEnd::More {
            self.long = None;
        }
    }

    fn event(&mut self, raw: &[u8]) {
        match event_name(raw) {
            Some("connected") => self.connections += 1,
            Some("gap") if !self.gaps.count(raw) => self.damaged += 1,
            Some(_) => {}
            None => self.damaged += 1,
        }
    }

    fn ratio(&self) -> Option<f64> {
        (self.disk_bytes > 0).then(|| self.tape_bytes as f64 / self.disk_bytes as f64)
    }

    fn to_json(&self, tape: &Tape) -> serde_json::Value {
        let gaps: Vec<_> = self
            .gaps
            .iter()
            .map(|(reason, count)| {
                json!({
                    "reason": reason,
                    "gaps": count.gaps,
                    "uncounted": count.uncounted,
                    "messages": count.messages,
                    "bytes": count.bytes,
                })
            })
            .collect();
        json!({
            "feed": tape.feed,
            "root": tape.root.to_string_lossy(),
            "segments": {
                "open": self.open, "plain": self.plain, "gzip": self.gzip, "zstd": self.zstd,
            },
            "first": self.times.map(|(first, _)| clock::rfc3339(first)),
            "last": self.times.map(|(_, last)| clock::rfc3339(last)),
            "first_ts": self.times.map(|(first, _)| first),
            "last_ts": self.times.map(|(_, last)| last),
            "lines": self.lines,
            "messages": self.messages,
            "payload_bytes": self.payload_bytes,
            "tape_bytes": self.tape_bytes,
            "disk_bytes": self.disk_bytes,
            "ratio": self.ratio().map(|ratio| (ratio * 1000.0).round() / 1000.0),
            "connections": self.connections,
            "gaps": gaps,
            "damaged_lines": self.damaged,
        })
    }

    fn to_row(&self, tape: &Tape, shows_root: bool) -> [String; HEADINGS.len()] {
        let root = if shows_root { format!("{}/", tape.root.display()) } else { String::new() };
        let mut segments = Vec::new();
        for (count, form) in
            [(self.open, "open"), (self.plain, "plain"), (self.gzip + self.zstd, "sealed")]
        {
            if count > 0 {
                segments.push(format!("{count} {form}"));
            }
        }
        let time = |ts: Option<UnixNs>| ts.map_or_else(|| "-".to_string(), clock::rfc3339);
        let damaged = match self.damaged {
            0 => String::new(),
            lines => format!("; {lines} damaged lines, see verify"),
        };
        [
            printable(&format!("{root}{}", tape.feed)).into_owned(),
            segments.join(" "),
            time(self.times.map(|(first, _)| first)),
            time(self.times.map(|(_, last)| last)),
            self.messages.to_string(),
            format_size(self.payload_bytes),
            format_size(self.tape_bytes),
            format_size(self.disk_bytes),
            self.ratio().map_or_else(|| "-".to_string(), |ratio| format!("{ratio:.1}")),
            self.connections.to_string(),
            format!("{}{damaged}", self.gaps),
        ]
    }
}

const HEADINGS: [&str; 11] = [
    "FEED",
    "SEGMENTS",
    "FROM",
    "TO",
    "MESSAGES",
    "PAYLOAD",
    "TAPE",
    "DISK",
    "RATIO",
    "CONNECTIONS",
    "GAPS",
];
/// Columns of numbers: right-aligned.
const NUMBERS: std::ops::Range<usize> = 4..10;

fn print_table(rows: &[[String; HEADINGS.len()]], out: &mut dyn Write) -> std::io::Result<()> {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);
    for row in rows {
        let mut text = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if NUMBERS.contains(&column) {
                text.push_str(&format!("{cell:>width$}  "));
            } else {
                text.push_str(&format!("{cell:<width$}  "));
            }
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::event::{Event, GapReason, StampClock};
    use crate::tape::reader::testing::{Recording, SegmentBuilder, TS};
    use expect_test::expect;

    fn recording() -> Recording {
        let recording = Recording::new();
        let mut first = SegmentBuilder::new("btc", 0, 0);
        first.event(&Event::Connected {
            conn: 1,
            peer: "127.0.0.1:9",
            status: 101,
            subprotocol: None,
            clock: StampClock::Kernel,
            at: TS,
        });
        first.text(b"{}").text(b"a\nb").binary(&[1, 2, 3, 4]).mark();
        first.ts(TS + 1_000_000_000).gap(GapReason::Reconnect, None).end();
        let mut second = SegmentBuilder::new("btc", 1, first.next_index());
        second.header_ts(TS + 2_000_000_000).gap(GapReason::Stall, Some(12));
        second.text("\u{20ac}".repeat(50_000).as_bytes()).binary(&[9; 70_000]);
        second.text("\\\n".repeat(40_000).as_bytes());
        recording.put(&first, Form::Zstd);
        recording.put(&second, Form::Open);
        recording
    }

    fn output(args: &InfoArgs) -> String {
        let mut out = Vec::new();
        assert_eq!(run(args, &mut out).unwrap(), Outcome::Clean);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_has_all_that_is_counted() {
        let recording = recording();
        let args = InfoArgs { paths: vec![recording.path().to_path_buf()], json: true };
        let got: serde_json::Value = serde_json::from_str(&output(&args)).unwrap();
        let check = |pointer: &str, expected: serde_json::Value| {
            assert_eq!(got.pointer(pointer), Some(&expected), "{pointer} of {got}");
        };
        check("/feed", json!("btc"));
        check("/segments", json!({"open": 1, "plain": 0, "gzip": 0, "zstd": 1}));
        check("/first", json!("2025-01-12T11:54:53.953Z"));
        check("/first_ts", json!(TS));
        check("/last_ts", json!(TS + 2_000_000_000));
        check("/lines", json!(13));
        check("/messages", json!(6));
        check("/payload_bytes", json!(2 + 3 + 4 + 150_000 + 70_000 + 80_000));
        check("/connections", json!(1));
        check("/damaged_lines", json!(0));
        check(
            "/gaps/0",
            json!({
                "reason": "reconnect", "gaps": 1, "uncounted": 1, "messages": 0, "bytes": 0,
            }),
        );
        check("/gaps/1/messages", json!(12));
        let plain = got["tape_bytes"].as_u64().unwrap();
        let mut cat = Vec::new();
        let paths = vec![recording.path().to_path_buf()];
        let cat_args = super::super::cat::CatArgs {
            paths,
            feeds: Vec::new(),
            messages: false,
            raw_binary: false,
        };
        super::super::cat::run(&cat_args, &mut cat).unwrap();
        assert_eq!(plain, cat.len() as u64);
    }

    #[test]
    fn the_table_lines_up() {
        let recording = Recording::new();
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        segment.text(b"{}").gap(GapReason::Stall, Some(2)).end();
        recording.put(&segment, Form::Plain);
        recording.put(&SegmentBuilder::new("eth", 3, 9), Form::Open);
        let args = InfoArgs { paths: vec![recording.path().to_path_buf()], json: false };
        expect![[r#"
            FEED  SEGMENTS  FROM                      TO                        MESSAGES  PAYLOAD  TAPE  DISK  RATIO  CONNECTIONS  GAPS
            btc   1 plain   2025-01-12T11:54:53.953Z  2025-01-12T11:54:53.953Z         1       2B  458B  458B    1.0            0  stall 1 (2 messages lost)
            eth   1 open    2025-01-12T11:54:53.953Z  2025-01-12T11:54:53.953Z         0       0B  235B  235B    1.0            0  none
        "#]]
        .assert_eq(&output(&args));
    }

    #[test]
    fn damage_is_counted_and_never_panics() {
        let recording = Recording::new();
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        segment.raw(b"nonsense\n").raw(format!("{TS}!{{\"event\":\"gap\"}}\n").as_bytes());
        segment.raw(&[format!("{TS}~").as_bytes(), &[b'*'; 100_000], b"\n"].concat());
        segment.raw(&[&[b'x'; 100_000][..], b"\n"].concat());
        let path = recording.put(&segment, Form::Plain);
        let args = InfoArgs { paths: vec![path], json: true };
        assert!(output(&args).contains("\"damaged_lines\":4"), "{}", output(&args));
    }
}
