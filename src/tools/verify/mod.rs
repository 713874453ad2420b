//! `feedtape verify`: whether tapes are whole and as they were written.
//!
//! Owns the walk over tapes, what must hold between segments, and the report: every finding on a
//! line of its own, then a summary. What must hold within a segment is in `segment.rs`, what the
//! sums say in `sums.rs`. A gap that the recorder wrote down is no finding: the tape is as it was
//! recorded.

mod segment;
mod sums;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Gaps, Outcome};
use crate::printable::printable;
use crate::tape::name::Form;
use crate::tape::reader::{LineReader, OpenSegment, Purpose, SegmentFile, Tape, find};
use crate::units::format_size;
use segment::{Expected, SegmentCheck};
use sums::Sums;

/// Findings printed per file; how many more there are is said after them.
const FINDINGS_MAX: u64 = 100;

/// Checks tapes: every line, count, checksum, index, name and file sum. Prints every finding.
///
/// Exits with 3 where anything is wrong. Open tapes are checked as far as they go; a line that is
/// not finished yet is no finding, and neither are segments missing at the beginning (pruned).
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Recordings (the --out of record), folders of a feed or a day in them, or segment files
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Runs the command; [`Outcome::Loss`] where there is any finding.
///
/// # Errors
/// A path without tapes, output that can't be written (a closed pipe is none), or, after all else
/// was checked, files that could not be opened.
pub fn run(args: &VerifyArgs, out: &mut dyn Write) -> Result<Outcome> {
    let tapes = find(&args.paths)?;
    let mut report = Report::new(out);
    let result = verify(args, &tapes, &mut report);
    let (findings, unreadable) = (report.findings, report.unreadable);
    match result.map_err(anyhow::Error::from) {
        Err(e) if super::is_closed_pipe(&e) => {}
        other => other?,
    }
    ensure!(unreadable == 0, "{unreadable} files could not be opened, see above");
    Ok(if findings == 0 { Outcome::Clean } else { Outcome::Loss })
}

fn verify(args: &VerifyArgs, tapes: &[Tape], report: &mut Report<'_>) -> io::Result<()> {
    let mut all = Totals::default();
    for tape in tapes {
        let totals = verify_tape(args, tape, report)?;
        totals.print(&format!("feed {}", tape.feed), report.out)?;
        all.add(&totals);
    }
    let feeds = if tapes.len() == 1 { "1 feed" } else { &format!("{} feeds", tapes.len()) };
    all.print(feeds, report.out)?;
    report.out.flush()
}

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Whole,
    /// Its content is whole, but its sum is not listed as it is.
    Unlisted,
    /// Its content is damaged; the first finding.
    Damaged(String),
}

/// Checks one segment file, whatever stands beside it.
///
/// # Errors
/// The file can't be opened.
pub(super) fn verify_file(path: &Path) -> Result<Verdict> {
    let mut out = Vec::new();
    let mut report = Report::new(&mut out);
    for segment in find(&[path])?.iter().flat_map(|tape| &tape.segments) {
        let (mut sums, mut totals) = (Sums::default(), Totals::default());
        let open = segment.open(Purpose::Verify)?.context("it is gone")?;
        verify_segment(open, NextIndex::Unknown, &mut sums, &mut totals, &mut report)?;
    }
    let (findings, of_sums) = (report.findings, report.of_sums);
    ensure!(report.unreadable == 0, "it could not be opened, see above");
    if findings == 0 {
        return Ok(Verdict::Whole);
    }
    if findings == of_sums {
        return Ok(Verdict::Unlisted);
    }
    // Those of the sums come first.
    let text = String::from_utf8_lossy(&out);
    let first = text.lines().nth(usize::try_from(of_sums).unwrap_or(0)).unwrap_or_default();
    let shown = format!("{}: ", path.display());
    Ok(Verdict::Damaged(first.strip_prefix(&shown).unwrap_or(first).to_string()))
}

/// Where findings go.
struct Report<'a> {
    out: &'a mut dyn Write,
    findings: u64,
    /// Findings of the current file.
    in_file: u64,
    /// Files that could not be opened.
    unreadable: u64,
    /// Findings about files' sums, among all.
    of_sums: u64,
}

impl<'a> Report<'a> {
    fn new(out: &'a mut dyn Write) -> Report<'a> {
        Report { out, findings: 0, in_file: 0, unreadable: 0, of_sums: 0 }
    }
}

impl Report<'_> {
    fn finding(&mut self, path: &Path, text: &str) -> io::Result<()> {
        self.findings += 1;
        self.in_file += 1;
        if self.in_file <= FINDINGS_MAX {
            writeln!(self.out, "{}", printable(&format!("{}: {text}", path.display())))?;
        }
        Ok(())
    }

    /// All findings of the current file have been made; returns how many.
    fn end_file(&mut self, path: &Path) -> io::Result<u64> {
        let findings = std::mem::take(&mut self.in_file);
        if findings > FINDINGS_MAX {
            let more = findings - FINDINGS_MAX;
            let text = format!("{}: and {more} more findings", path.display());
            writeln!(self.out, "{}", printable(&text))?;
        }
        Ok(findings)
    }
}

/// What was seen, for the summary.
#[derive(Debug, Default)]
struct Totals {
    segments: u64,
    open: u64,
    /// Bytes of unfinished lines in open segments.
    unfinished_bytes: u64,
    lines: u64,
    plain_bytes: u64,
    disk_bytes: u64,
    gaps: Gaps,
    findings: u64,
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.segments += other.segments;
        self.open += other.open;
        self.unfinished_bytes = self.unfinished_bytes.saturating_add(other.unfinished_bytes);
        self.lines += other.lines;
        self.plain_bytes += other.plain_bytes;
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
        self.gaps.add(&other.gaps);
        self.findings += other.findings;
    }

    fn print(&self, what: &str, out: &mut dyn Write) -> io::Result<()> {
        let verdict = match self.findings {
            0 => "ok".to_string(),
            1 => "1 finding".to_string(),
            findings => format!("{findings} findings"),
        };
        let open = match (self.open, self.unfinished_bytes) {
            (0, _) => String::new(),
            (open, 0) => format!(" ({open} still being written)"),
            (open, bytes) => {
                format!(" ({open} still being written, {bytes} bytes of an unfinished line)")
            }
        };
        writeln!(
            out,
            "{}: {verdict}; segments {}{open}, lines {}, tape {}, disk {}, gaps {}",
            printable(what),
            self.segments,
            self.lines,
            format_size(self.plain_bytes),
            format_size(self.disk_bytes),
            self.gaps
        )
    }
}

/// What the index of the next segment's header may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextIndex {
    /// Nothing is known: at the start, and after what is damaged or missing.
    Unknown,
    /// After a finished segment.
    Exactly(u64),
    /// After one that a crash of the machine cut: it says so itself, and what it lost has its
    /// indices still.
    AtLeast(u64),
    /// After one that was left open: the recorder leaves two indices free for what recovery adds.
    OrTwoMore(u64),
}

impl NextIndex {
    /// Words for what is expected, where `found` is not.
    fn refuse(self, found: u64) -> Option<String> {
        match self {
            NextIndex::Unknown => None,
            NextIndex::Exactly(index) => (found != index).then(|| index.to_string()),
            NextIndex::AtLeast(index) => (found < index).then(|| format!("{index} or more")),
            NextIndex::OrTwoMore(index) => (found != index && found != index.saturating_add(2))
                .then(|| format!("{index} or {}", index.saturating_add(2))),
        }
    }
}

fn verify_tape(args: &VerifyArgs, tape: &Tape, report: &mut Report<'_>) -> io::Result<Totals> {
    let before = report.findings;
    let mut totals = Totals::default();
    let mut next = NextIndex::Unknown;
    let mut last: Option<u64> = None;
    let mut first: Option<u64> = None;
    let mut sums = Sums::default();
    for segment in &tape.segments {
        let open = match segment.open(Purpose::Verify) {
            Ok(Some(open)) => Ok(open),
            Ok(None) => {
                // Pruned meanwhile, and with it all before it, those that were not listed too.
                (first, last, next) = (None, None, NextIndex::Unknown);
                continue;
            }
            Err(e) => Err(e),
        };
        if let (Some(last), Some(number)) = (last, segment.number()) {
            if number != last + 1 {
                next = NextIndex::Unknown;
            }
            if number == last {
                let text = format!("segment {number} is there twice, under another name too");
                report.finding(&segment.path(), &text)?;
            }
            if tape.is_whole && number > last + 1 {
                report_hole(tape, last + 1, number - 1, report)?;
            }
        }
        last = segment.number();
        first = first.or(last);
        next = match open {
            Ok(open) => verify_segment(open, next, &mut sums, &mut totals, report)?,
            Err(e) => {
                log::error!("{e}");
                report.unreadable += 1;
                NextIndex::Unknown
            }
        };
    }
    drop(sums);
    let folders: BTreeSet<&Path> = tape.segments.iter().map(SegmentFile::folder).collect();
    for folder in folders.into_iter().filter(|folder| is_given(args, folder)) {
        sums::check_rest(folder, tape, first, report)?;
    }
    totals.findings = report.findings - before;
    Ok(totals)
}

/// Whether all of the folder was asked for, and not only files in it.
fn is_given(args: &VerifyArgs, folder: &Path) -> bool {
    args.paths.iter().any(|path| path.is_dir() && folder.starts_with(path))
}

/// Whether it is the folder of a day in a recording.
fn is_day_folder(absolute: &Path) -> bool {
    absolute.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"date="))
}

fn report_hole(tape: &Tape, first: u64, last: u64, report: &mut Report<'_>) -> io::Result<()> {
    let folder = tape.root.join(format!("feed={}", tape.feed));
    let text = if first == last {
        format!("segment {first} is missing")
    } else {
        format!("segments {first} to {last} are missing")
    };
    report.finding(&folder, &text)?;
    report.end_file(&folder).map(|_| ())
}

fn verify_segment(
    open: OpenSegment,
    next: NextIndex,
    sums: &mut Sums,
    totals: &mut Totals,
    report: &mut Report<'_>,
) -> io::Result<NextIndex> {
    // It may be another form by now.
    let file = open.file().clone();
    let path = file.path();
    // The sum first: what it reads is in the page cache when the lines are read, which drops it.
    let before = report.findings;
    sums.check(&file, report)?;
    report.of_sums += report.findings - before;
    check_folders(&file, report)?;
    totals.segments += 1;
    totals.disk_bytes = totals.disk_bytes.saturating_add(open.source().disk_bytes());

    let name = file.name();
    let mut check = SegmentCheck::new(Expected { name, next_index: next, form: file.form() });
    let mut lines = open.lines();
    let mut is_broken = false;
    loop {
        let result = lines.advance();
        let more = matches!(result, Ok(true));
        match result {
            Ok(true) => check.piece(&lines.piece()),
            Ok(false) => check.finish(lines.offset(), lines.source().source().torn_bytes()),
            Err(e) => {
                check.broken_off(lines.offset(), &e);
                is_broken = true;
            }
        }
        for finding in check.findings.drain(..) {
            report.finding(&path, &finding.to_string())?;
        }
        if !more {
            break;
        }
    }
    if !is_broken {
        check_frames(&mut lines, &path, report)?;
    }
    if file.form() == Form::Open {
        totals.open += 1;
        totals.unfinished_bytes += lines.source().source().torn_bytes();
    }
    totals.lines += check.lines();
    totals.plain_bytes += lines.offset();
    totals.gaps.add(check.gaps());
    let findings = report.end_file(&path)?;
    Ok(match check.next_index() {
        Some(index) if findings == 0 && check.was_recovered() => NextIndex::AtLeast(index),
        Some(index) if findings == 0 && check.has_ended() => NextIndex::Exactly(index),
        Some(index) if findings == 0 => NextIndex::OrTwoMore(index),
        Some(_) | None => NextIndex::Unknown,
    })
}

fn check_frames(
    lines: &mut LineReader<OpenSegment>,
    path: &Path,
    report: &mut Report<'_>,
) -> io::Result<()> {
    if let Some(frames) = lines.source_mut().source_mut().frame_report() {
        for finding in &frames.findings {
            report.finding(path, finding)?;
        }
        report.findings += frames.more;
        report.in_file += frames.more;
    }
    Ok(())
}

/// The folders of a segment must be those that its name tells.
fn check_folders(file: &SegmentFile, report: &mut Report<'_>) -> io::Result<()> {
    let Some(name) = file.name() else { return Ok(()) };
    let Ok(folder) = std::fs::canonicalize(file.folder()) else { return Ok(()) };
    let key = |path: Option<&Path>| {
        path.and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or("").to_string()
    };
    let (date, feed) = (key(Some(&folder)), key(folder.parent()));
    for (found, key, expected) in
        [(date, "date=", name.date_folder()), (feed, "feed=", name.feed.folder())]
    {
        if found.starts_with(key) && found != expected {
            let text = format!("is in the folder {found}, its name says {expected}");
            report.finding(&file.path(), &text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
