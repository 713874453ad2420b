//! Retention: which finished segments go, and the order of the steps in which they go.
//!
//! Owns the rules ([`Keep`]), the choice, which is pure, and the removal. A segment may go when it
//! is sealed, or, where nothing is sealed ([`Plain::IsFinal`]), finished; never while it is open or
//! waits to be sealed. What is `.damaged` or a `.tail` is no segment and stays.
//!
//! Within a feed they go by number, so that what remains is a run without holes up to its newest;
//! one that may not go holds all after it back. Among feeds the one that ended first goes first.
//! When a segment ended is told by names alone: at the latest when the one after it began. Only of
//! the newest segment of a feed the last line is read. A stamp in the future tells nothing: a clock
//! that was wrong for a while neither deletes what is new nor keeps what is old for ever. The
//! newest segment goes only once `.next` holds the number and index after it, which it does after a
//! clean end: else they would be given out twice.
//!
//! The steps, for the segments of one folder that go:
//!
//! ```text
//! remove the oldest -> sync the folder -> remove the next one -> sync the folder -> ..
//!     -> write _SHA256SUMS without them -> sync the folder
//!     or, with the last of the folder: remove _SHA256SUMS, then the folder, sync the feed's
//! ```
//!
//! The files go before the sums, for a disk that is full takes no new sums. A crash in between
//! leaves sums that list segments before the feed's first; `verify` knows them for pruned, and the
//! next pass takes them off: each pass begins with the sums of every feed's first segment, and with
//! folders that have no segment left. Each removal is durable before the next, so that no crash
//! makes a hole.
//!
//! A pass lists the recording, folder by folder; while it runs it holds 24 bytes for each segment
//! there is, and some more for each that goes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SealEvent;
use super::search::{Found, walk};
use super::sums;
use crate::clock::{self, UnixNs};
use crate::recovery::{self, NewestEnd};
use crate::storage::Storage;
use crate::tape::name::{FeedName, Form, SegmentName};
use crate::units::{format_size, format_span};

const SECOND_NS: u64 = 1_000_000_000;
/// A folder without segments may be one that the writer has just made, but not when it is older.
const BARE_AGE_NS: u64 = 86_400 * SECOND_NS;
/// Of so many segments a pass needs 2.4 MB.
const _: () = assert!(size_of::<Segment>() == 24);

/// What is kept; by default all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Segments that ended longer ago go.
    pub age: Option<Duration>,
    /// While all segments together, the open ones too, have more bytes on disk, the oldest goes.
    pub bytes: Option<u64>,
}

impl Keep {
    /// Whether nothing ever goes.
    pub fn is_all(&self) -> bool {
        self.age.is_none() && self.bytes.is_none()
    }
}

/// Why a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneReason {
    /// It is older than this.
    Age(Duration),
    /// There are more bytes than these.
    Bytes(u64),
}

impl fmt::Display for PruneReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PruneReason::Age(age) => write!(f, "older than --keep {}", format_span(*age)),
            PruneReason::Bytes(bytes) => {
                write!(f, "more than --keep-bytes {}", format_size(*bytes))
            }
        }
    }
}

/// What a finished plain segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// As final as a sealed one: recorded with `--compress none`.
    IsFinal,
    /// Not sealed yet.
    WaitsForSeal,
}

/// What a pass does with the segments that it chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// They go.
    Go,
    /// They are told, and nothing is written.
    AreShown,
}

/// All that a pass goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What is kept.
    pub keep: Keep,
    /// What plain segments are.
    pub plain: Plain,
    /// What is done.
    pub chosen: Chosen,
    /// Wall time.
    pub now: UnixNs,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Segments that went (or would go).
    pub segments: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Bytes of the segments that stay; counted only where [`Keep::bytes`] asks for it.
    pub bytes_left: u64,
    /// Feeds with a segment that should go, but has to be sealed first.
    pub waiting: u64,
    /// Whether something could not be done; it was told.
    pub has_failed: bool,
}

/// One pass: chooses, and removes. What goes and what fails is told to `on_event`; `stop` is asked
/// before each removal. Nobody else may remove segments or write sums meanwhile.
pub fn prune(
    storage: &dyn Storage,
    rules: &Rules,
    stop: &dyn Fn() -> bool,
    on_event: &mut dyn FnMut(SealEvent),
) -> Pruned {
    let mut pass = Pass { storage, rules, stop, on_event, done: Pruned::default() };
    let mut recording = pass.look();
    if rules.chosen == Chosen::Go {
        pass.finish_earlier(&recording);
    }
    let newest = |name: &SegmentName, form: Form| recovery::newest_end(storage, name, form);
    let choice = choose(&mut recording, rules, &newest);
    for (path, error) in choice.errors {
        pass.fail(path, error);
    }
    pass.done.waiting = choice.waiting;
    pass.done.bytes_left = recording.bytes;
    // Where one can't go, those after it must not: they would leave a hole.
    let mut is_stuck = vec![false; recording.tapes.len()];
    for run in runs(&recording, &choice.victims) {
        let is_stuck = &mut is_stuck[run.tape];
        *is_stuck = *is_stuck || !pass.remove_run(&recording.tapes[run.tape], &run);
    }
    pass.done
}

/// One segment of a tape, in little memory: there may be very many.
#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    bytes: u64,
    /// Seconds since 1970, as in its name.
    began_s: u32,
    /// A bit for each [`Form`] that there is a file of.
    forms: u8,
}

impl Segment {
    fn began(&self) -> UnixNs {
        u64::from(self.began_s) * SECOND_NS
    }

    fn has(&self, form: Form) -> bool {
        self.forms & bit(form) != 0
    }

    fn forms(self) -> impl Iterator<Item = Form> {
        Form::ALL.into_iter().filter(move |form| self.has(*form))
    }

    /// The form that readers prefer.
    fn best_form(&self) -> Form {
        self.forms().last().expect("a segment was found by a file of it")
    }

    /// Whether it may go, by what became of it.
    fn is_final(&self, plain: Plain) -> bool {
        match plain {
            Plain::IsFinal => !self.has(Form::Open),
            Plain::WaitsForSeal => !self.has(Form::Open) && !self.has(Form::Plain),
        }
    }

    fn name(&self, feed: &FeedName) -> SegmentName {
        SegmentName::new(feed, self.number, self.began())
    }
}

fn bit(form: Form) -> u8 {
    1 << form as u8
}

/// The segments of one feed, by number.
#[derive(Debug)]
struct Tape {
    feed: FeedName,
    segments: Vec<Segment>,
    /// How many of them were chosen: the first.
    chosen: usize,
}

impl Tape {
    /// When the segment had ended at the latest; `None` for the newest one, and where the clock
    /// tells nothing. To the second, rounded up.
    fn ended_by(&self, at: usize, now: UnixNs) -> Option<UnixNs> {
        let mut after = self.segments[at + 1..].iter().map(Segment::began);
        let next = after.find(|began| *began <= now)?;
        let own = Some(self.segments[at].began()).filter(|began| *began <= now);
        Some(next.max(own.unwrap_or(0)) + SECOND_NS)
    }
}

/// What there is.
#[derive(Debug, Default)]
struct Recording {
    tapes: Vec<Tape>,
    /// Folders of days without a segment.
    bare: Vec<(FeedName, PathBuf)>,
    /// Of all segments.
    bytes: u64,
}

/// A segment that goes: place of its tape, its place there, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Victim {
    tape: u32,
    at: u32,
    reason: PruneReason,
}

/// What was chosen.
#[derive(Debug, Default)]
struct Choice {
    /// The one that goes first first.
    victims: Vec<Victim>,
    waiting: u64,
    errors: Vec<(PathBuf, io::Error)>,
}

/// How a feed's newest segment ends.
type Newest<'a> = &'a dyn Fn(&SegmentName, Form) -> io::Result<Option<NewestEnd>>;

/// Chooses what goes, and takes its bytes off the recording's.
fn choose(recording: &mut Recording, rules: &Rules, newest: Newest<'_>) -> Choice {
    let now = rules.now;
    let key = |tape: &Tape, at: usize| {
        // Of the newest one nothing better is known without reading it.
        tape.ended_by(at, now).unwrap_or_else(|| tape.segments[at].began().min(now))
    };
    let mut choice = Choice::default();
    let mut heads = BinaryHeap::with_capacity(recording.tapes.len());
    heads.extend(recording.tapes.iter().enumerate().map(|(n, tape)| Reverse((key(tape, 0), n))));
    while let Some(Reverse((_, n))) = heads.pop() {
        let tape = &mut recording.tapes[n];
        let at = tape.chosen;
        let Some(reason) = reason(tape, recording.bytes, rules, newest, &mut choice) else {
            continue;
        };
        choice.victims.push(Victim { tape: n as u32, at: at as u32, reason });
        recording.bytes -= tape.segments[at].bytes;
        tape.chosen += 1;
        if tape.chosen < tape.segments.len() {
            heads.push(Reverse((key(tape, tape.chosen), n)));
        }
    }
    choice
}

/// Why the tape's first segment goes that was not chosen yet; `None`: it stays.
fn reason(
    tape: &Tape,
    bytes: u64,
    rules: &Rules,
    newest: Newest<'_>,
    choice: &mut Choice,
) -> Option<PruneReason> {
    let segment = &tape.segments[tape.chosen];
    let is_old =
        |age: &Duration, at: UnixNs| u128::from(at) + age.as_nanos() <= u128::from(rules.now);
    let over = rules.keep.bytes.filter(|keep| bytes > *keep);
    let is_newest = tape.chosen + 1 == tape.segments.len();
    // It did not end before it began: a cheap answer for the newest one as well.
    let by = tape.ended_by(tape.chosen, rules.now);
    let by = by.or_else(|| is_newest.then(|| segment.began()));
    let mut old = rules.keep.age.filter(|age| by.is_some_and(|at| is_old(age, at)));
    if old.is_none() && over.is_none() {
        return None;
    }
    if !segment.is_final(rules.plain) {
        choice.waiting += u64::from(!segment.has(Form::Open));
        return None;
    }
    if is_newest {
        let (name, form) = (segment.name(&tape.feed), segment.best_form());
        match newest(&name, form) {
            Ok(Some(end)) if end.is_in_next => {
                let is_known = end.last_ts <= rules.now;
                old = old.filter(|age| is_known && is_old(age, end.last_ts));
            }
            Ok(_) => return None,
            Err(error) => {
                choice.errors.push((name.path(form), error));
                return None;
            }
        }
    }
    old.map(PruneReason::Age).or(over.map(PruneReason::Bytes))
}

/// Segments that go one after the other, of one tape and one folder.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    tape: usize,
    /// Places in the tape, and why they go.
    segments: Vec<(usize, PruneReason)>,
}

/// Puts together what is in one folder; the run with the segment that goes first first.
fn runs(recording: &Recording, victims: &[Victim]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open: Vec<Option<usize>> = vec![None; recording.tapes.len()];
    for victim in victims {
        let (n, at) = (victim.tape as usize, victim.at as usize);
        let tape = &recording.tapes[n];
        let folder = |at: usize| tape.segments[at].name(&tape.feed).date_folder();
        match open[n] {
            Some(run) if folder(at - 1) == folder(at) => {
                runs[run].segments.push((at, victim.reason));
            }
            Some(_) | None => {
                open[n] = Some(runs.len());
                runs.push(Run { tape: n, segments: vec![(at, victim.reason)] });
            }
        }
    }
    runs
}

struct Pass<'a> {
    storage: &'a dyn Storage,
    rules: &'a Rules,
    stop: &'a dyn Fn() -> bool,
    on_event: &'a mut dyn FnMut(SealEvent),
    done: Pruned,
}

impl Pass<'_> {
    fn fail(&mut self, path: PathBuf, error: io::Error) {
        self.done.has_failed = true;
        (self.on_event)(SealEvent::PruneFailed { path, error });
    }

    /// Looks at all there is. A feed of which not all could be seen is left out: the first of what
    /// was seen may not be its first.
    fn look(&mut self) -> Recording {
        let mut recording = Recording::default();
        let mut unlisted: Vec<(PathBuf, io::Error)> = Vec::new();
        walk(self.storage, &mut |found| {
            match found {
                Found::Segment(name, form) => recording.add(&name, form),
                Found::Bare(feed, folder) => recording.bare.push((feed, folder)),
                Found::LeftOver(_) => {}
                Found::Unlisted(folder, error) => unlisted.push((folder, error)),
            }
            if (self.stop)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if (self.stop)() {
            // What was seen may be a part.
            return Recording::default();
        }
        for tape in &mut recording.tapes {
            tape.segments.sort_unstable_by_key(|segment| (segment.number, segment.began_s));
        }
        for (folder, error) in unlisted {
            recording.tapes.retain(|tape| !folder.starts_with(tape.feed.folder()));
            self.fail(folder, error);
        }
        if self.rules.keep.bytes.is_some() {
            self.measure(&mut recording);
        }
        recording
    }

    fn measure(&mut self, recording: &mut Recording) {
        for tape in &mut recording.tapes {
            for segment in &mut tape.segments {
                let name = segment.name(&tape.feed);
                for form in segment.forms() {
                    // One that was renamed just now counts the next time.
                    let bytes = self.storage.bytes_of(&name.path(form)).unwrap_or(0);
                    segment.bytes += bytes;
                    recording.bytes += bytes;
                }
            }
        }
    }

    /// Does what an earlier pass could not: a crash or a full disk came in between.
    fn finish_earlier(&mut self, recording: &Recording) {
        let new = clock::date(self.rules.now.saturating_sub(BARE_AGE_NS));
        let new = OsString::from(format!("date={new}"));
        for (feed, folder) in &recording.bare {
            if folder.file_name().is_some_and(|date| *date < *new) {
                let first = recording.tapes.iter().find(|tape| tape.feed == *feed);
                let first = first.map_or(u64::MAX, |tape| tape.segments[0].number);
                self.clean(feed, folder, first);
            }
        }
        for tape in &recording.tapes {
            let first = &tape.segments[0];
            self.clean_sums(&tape.feed, &first.name(&tape.feed).folder(), first.number);
        }
    }

    /// False: not all are gone.
    fn remove_run(&mut self, tape: &Tape, run: &Run) -> bool {
        let mut first_left = None;
        let mut all = true;
        for (at, reason) in &run.segments {
            if (self.stop)() {
                all = false;
                break;
            }
            let segment = &tape.segments[*at];
            let name = segment.name(&tape.feed);
            let path = name.path(segment.best_form());
            let bytes = match self.rules.keep.bytes {
                Some(_) => segment.bytes,
                None => self.storage.bytes_of(&path).unwrap_or(0),
            };
            if self.rules.chosen == Chosen::Go {
                if let Err((path, error)) = self.remove(&name, segment) {
                    self.fail(path, error);
                    all = false;
                    break;
                }
                first_left = Some(segment.number + 1);
            }
            self.done.segments += 1;
            self.done.bytes += bytes;
            (self.on_event)(SealEvent::Pruned { name, path, bytes, reason: *reason });
        }
        if let Some(first_left) = first_left {
            let (last, _) = run.segments[0];
            let folder = tape.segments[last].name(&tape.feed).folder();
            self.clean(&tape.feed, &folder, first_left);
        }
        all
    }

    /// Removes all files of a segment, and makes that durable.
    fn remove(&self, name: &SegmentName, segment: &Segment) -> Result<(), (PathBuf, io::Error)> {
        for form in segment.forms() {
            let path = name.path(form);
            ignore_gone(self.storage.remove(&path)).map_err(|error| (path, error))?;
        }
        let folder = name.folder();
        ignore_gone(self.storage.sync_dir(&folder)).map_err(|error| (folder, error))
    }

    /// Takes the segments of `feed` before number `first` off the folder's sums, and removes the
    /// folder where it is empty then.
    fn clean(&mut self, feed: &FeedName, folder: &Path, first: u64) {
        if !self.clean_sums(feed, folder, first) {
            return;
        }
        let result = self.storage.list(folder).and_then(|entries| {
            if entries.iter().any(|entry| entry.name != sums::TMP) {
                return Ok(());
            }
            for entry in entries {
                self.storage.remove(&folder.join(entry.name))?;
            }
            self.storage.remove_dir(folder)?;
            self.storage.sync_dir(Path::new(&feed.folder()))
        });
        if let Err(error) = ignore_gone(result) {
            self.fail(folder.to_path_buf(), error);
        }
    }

    /// False where it failed.
    fn clean_sums(&mut self, feed: &FeedName, folder: &Path, first: u64) -> bool {
        let goes = |file: &str| {
            let parsed = SegmentName::parse(file);
            parsed.is_some_and(|(name, _)| name.feed == *feed && name.number < first)
        };
        let result = sums::unlist(self.storage, folder, &goes)
            .and_then(|changed| if changed { self.storage.sync_dir(folder) } else { Ok(()) });
        match ignore_gone(result) {
            Ok(()) => true,
            Err(error) => {
                self.fail(folder.join(sums::FILE), error);
                false
            }
        }
    }
}

impl Recording {
    fn add(&mut self, name: &SegmentName, form: Form) {
        let began_s = name.began().map(|began| began / SECOND_NS).map(u32::try_from);
        // Names that no recorder writes are nobody's to delete.
        let Some(Ok(began_s)) = began_s else { return };
        if self.tapes.last().is_none_or(|tape| tape.feed != name.feed) {
            let feed = name.feed.clone();
            self.tapes.push(Tape { feed, segments: Vec::new(), chosen: 0 });
        }
        let segments = &mut self.tapes.last_mut().expect("it was just put there").segments;
        // The files of one segment stand side by side in their folder.
        match segments.last_mut() {
            Some(last) if (last.number, last.began_s) == (name.number, began_s) => {
                last.forms |= bit(form);
            }
            Some(_) | None => {
                segments.push(Segment { number: name.number, bytes: 0, began_s, forms: bit(form) });
            }
        }
    }
}

/// Somebody removed it already: so be it.
fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::{Fault, MemoryDisk};
    use crate::tape::reader::testing::SegmentBuilder;

    const DAY: Duration = Duration::from_secs(86_400);
    /// 2025-01-12T00:00:00Z.
    const MIDNIGHT: UnixNs = 1_736_640_000 * SECOND_NS;
    const NOW: UnixNs = MIDNIGHT + 100 * 86_400 * SECOND_NS;

    fn rules(days: Option<u32>, bytes: Option<u64>, plain: Plain) -> Rules {
        let keep = Keep { age: days.map(|days| DAY * days), bytes };
        Rules { keep, plain, chosen: Chosen::Go, now: NOW }
    }

    /// Days before now.
    fn ago(days: i64) -> u32 {
        u32::try_from((NOW / SECOND_NS).cast_signed() - days * 86_400).unwrap()
    }

    /// A feed, and days before now and forms of its segments.
    type Typed<'a> = (&'a str, &'a [(i64, &'a [Form])]);

    /// Segments of ten bytes each.
    fn recording(tapes: &[Typed<'_>]) -> Recording {
        let mut recording = Recording::default();
        for (feed, segments) in tapes {
            let segments: Vec<Segment> = segments
                .iter()
                .enumerate()
                .map(|(number, (days, forms))| {
                    let forms = forms.iter().map(|form| bit(*form)).sum();
                    Segment { number: number as u64, bytes: 10, began_s: ago(*days), forms }
                })
                .collect();
            recording.bytes += 10 * segments.len() as u64;
            recording.tapes.push(Tape { feed: FeedName::new(feed).unwrap(), segments, chosen: 0 });
        }
        recording
    }

    const Z: &[Form] = &[Form::Zstd];
    const G: &[Form] = &[Form::Gzip];
    const P: &[Form] = &[Form::Plain];
    const O: &[Form] = &[Form::Open];

    #[test]
    fn what_goes_when() {
        let newest_days = std::cell::Cell::new(0);
        let is_in_next = std::cell::Cell::new(true);
        let newest = |_: &SegmentName, _: Form| {
            let last_ts = u64::from(ago(newest_days.get())) * SECOND_NS;
            Ok(Some(NewestEnd { last_ts, is_in_next: is_in_next.get() }))
        };
        let check = |case: &str, tapes: &[Typed<'_>], rules: &Rules, expected| {
            let mut recording = recording(tapes);
            let bytes = recording.bytes;
            let choice = choose(&mut recording, rules, &newest);
            let went: Vec<String> = choice
                .victims
                .iter()
                .map(|v| format!("{}{}", recording.tapes[v.tape as usize].feed, v.at))
                .collect();
            assert_eq!(went.join(" "), expected, "{case}");
            assert_eq!(recording.bytes, bytes - 10 * went.len() as u64, "{case}");
        };
        let age = |days| rules(Some(days), None, Plain::WaitsForSeal);
        let bytes = |bytes| rules(None, Some(bytes), Plain::WaitsForSeal);
        let both = rules(Some(5), Some(25), Plain::WaitsForSeal);

        let a: &[(i64, &[Form])] = &[(9, Z), (8, G), (7, Z), (1, O)];
        check("all is young", &[("a", a)], &age(9), "");
        check("the first ended with the second", &[("a", a)], &age(7), "a0");
        check("it is the end that counts", &[("a", a)], &age(6), "a0 a1");
        check("until the open one began", &[("a", a)], &age(2), "a0 a1");
        check("never the open one", &[("a", &[(9, O)])], &both, "");
        check("nothing after an open one", &[("a", &[(9, O), (8, Z), (1, O)])], &both, "");
        check("all fits", &[("a", a)], &bytes(40), "");
        check("one too many", &[("a", a)], &bytes(39), "a0");
        check("only the open one is left", &[("a", a)], &bytes(1), "a0 a1 a2");
        check("both rules", &[("a", a), ("b", &[(2, Z), (1, O)])], &both, "a0 a1 a2 b0");
        let b: &[(i64, &[Form])] = &[(10, Z), (6, Z), (1, O)];
        check("who ended first first", &[("a", a), ("b", b)], &bytes(30), "a0 a1 b0 a2");
        check("of whatever feed", &[("b", b), ("a", a)], &bytes(50), "a0 a1");

        let waits: &[(i64, &[Form])] = &[(9, Z), (8, P), (7, Z), (1, O)];
        check("one waits for its seal", &[("a", waits)], &bytes(1), "a0");
        let both_forms: &[(i64, &[Form])] = &[(9, &[Form::Plain, Form::Zstd]), (8, Z), (1, O)];
        check("sealed, but not to the end", &[("a", both_forms)], &bytes(1), "");
        let none = rules(Some(2), Some(1), Plain::IsFinal);
        check("plain is final", &[("a", waits)], &none, "a0 a1 a2");
        check("both forms, plain is final", &[("a", both_forms)], &none, "a0 a1");

        newest_days.set(8);
        check("the newest by its last line", &[("a", &[(9, Z)])], &age(8), "a0");
        check("it began long ago", &[("a", &[(19, Z)])], &age(9), "");
        check("the newest by bytes", &[("a", &[(9, Z), (8, Z)])], &bytes(1), "a0 a1");
        is_in_next.set(false);
        check("its number would be lost", &[("a", &[(9, Z), (9, Z)])], &both, "a0");
        check("or by bytes", &[("a", &[(9, Z)])], &bytes(1), "");
        is_in_next.set(true);

        // Stamps of a clock that was wrong for a while.
        let past: &[(i64, &[Form])] = &[(9, Z), (9000, Z), (8, Z), (1, O)];
        check("not old because of the past", &[("a", past)], &age(10), "");
        check("nor the first of all", &[("a", &[(9000, Z), (1, Z), (0, O)])], &age(2), "");
        let future: &[(i64, &[Form])] = &[(9, Z), (-900, Z), (-800, Z), (8, Z), (3, Z), (1, O)];
        check("not kept for the future", &[("a", future)], &age(7), "a0 a1 a2");
        check("but last of all", &[("a", &[(-9, Z)]), ("b", b)], &bytes(10), "b0 b1 a0");
        newest_days.set(-3);
        check("the newest in the future", &[("a", &[(9, Z)])], &age(2), "");
    }

    #[test]
    fn a_newest_one_that_cannot_be_read_stays_and_is_told() {
        let mut recording = recording(&[("a", &[(9, Z)]), ("b", &[(9, Z), (8, O)])]);
        let rules = rules(Some(1), Some(1), Plain::WaitsForSeal);
        let choice =
            choose(&mut recording, &rules, &|_, _| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(choice.victims.len(), 1);
        assert!(choice.errors[0].0.starts_with("feed=a"), "{:?}", choice.errors);
    }

    #[test]
    fn what_is_in_one_folder_goes_together() {
        let mut recording = recording(&[
            ("a", &[(9, Z), (9, Z), (8, Z), (9, Z), (1, O)]),
            ("b", &[(9, Z), (8, Z), (1, O)]),
        ]);
        let rules = rules(Some(2), None, Plain::WaitsForSeal);
        let choice = choose(&mut recording, &rules, &|_, _| Ok(None));
        let runs: Vec<(usize, Vec<usize>)> = runs(&recording, &choice.victims)
            .into_iter()
            .map(|run| (run.tape, run.segments.iter().map(|(at, _)| *at).collect()))
            .collect();
        assert_eq!(runs, [(0, vec![0, 1]), (0, vec![2]), (1, vec![0])]);
    }

    /// A recording of one feed: three sealed segments on the first day, two on the second, and an
    /// open one on the third; with sums, and with what must stay.
    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        let mut index = 0;
        for number in 0..6_u64 {
            let day = number / 3 + u64::from(number == 5);
            let began = MIDNIGHT + (day * 86_400 + number * 3600) * SECOND_NS;
            let mut segment = SegmentBuilder::new("a", number, index);
            segment.header_ts(began).text(b"x");
            let form = if number == 5 { Form::Open } else { Form::Zstd };
            if number < 5 {
                segment.end();
            }
            index = segment.next_index();
            let path = segment.name().path(form);
            disk.put(&path, &segment.stored(form));
            if form == Form::Zstd {
                let folder = segment.name().folder();
                sums::list(&disk, &folder, &segment.name().file(form), &"0".repeat(64)).unwrap();
                disk.sync_dir(&folder).unwrap();
            }
        }
        disk.put("feed=a/.next", b"{\"segment\":6,\"index\":0}\n");
        disk.clear_log();
        disk
    }

    /// Bytes of the segments from this number on.
    fn bytes_from(disk: &MemoryDisk, number: u64) -> u64 {
        let files = disk.files();
        let segments = files.iter().filter(|path| {
            let name = SegmentName::parse(path.file_name().unwrap().to_str().unwrap());
            name.is_some_and(|(name, _)| name.number >= number)
        });
        segments.map(|path| disk.contents(path).unwrap().len() as u64).sum()
    }

    const FIRST: &str = "feed=a/date=2025-01-12";
    const SECOND: &str = "feed=a/date=2025-01-13";

    fn run(disk: &MemoryDisk, rules: &Rules) -> (Pruned, Vec<SealEvent>) {
        let mut events = Vec::new();
        let pruned = prune(disk, rules, &|| false, &mut |event| events.push(event));
        (pruned, events)
    }

    /// Numbers of the segments that are there.
    fn numbers(disk: &MemoryDisk) -> Vec<u64> {
        let files = disk.files();
        let names = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
        names.filter_map(SegmentName::parse).map(|(name, _)| name.number).collect()
    }

    /// Numbers that the sums of a folder list; `None` without sums.
    fn listed(disk: &MemoryDisk, folder: &str) -> Option<Vec<u64>> {
        let sums = disk.contents(Path::new(folder).join(sums::FILE))?;
        let lines = sums.split(|byte| *byte == b'\n').filter_map(sums::parse);
        Some(lines.map(|(_, name)| SegmentName::parse(name).unwrap().0.number).collect())
    }

    #[test]
    fn the_steps_come_in_order() {
        let disk = disk();
        let (all, rest) = (bytes_from(&disk, 0), bytes_from(&disk, 3));
        let (pruned, events) = run(&disk, &rules(None, Some(rest), Plain::WaitsForSeal));
        assert_eq!((pruned.segments, pruned.has_failed), (3, false));
        assert_eq!((pruned.bytes, pruned.bytes_left), (all - rest, rest));
        assert_eq!(events.len(), 3);
        assert_eq!(numbers(&disk), [3, 4, 5]);
        let steps = disk.log();
        let from = steps.iter().position(|step| step.starts_with("remove ")).unwrap();
        let steps: Vec<String> = steps[from..]
            .iter()
            .map(|step| step.replace(FIRST, "1").replace(".2025", " "))
            .collect();
        let steps: Vec<&str> = steps.iter().map(|step| step.split(' ').next().unwrap()).collect();
        assert_eq!(
            steps,
            [
                "remove",
                "sync_dir",
                "remove",
                "sync_dir",
                "remove",
                "sync_dir",
                "open",
                "read",
                "remove",
                "sync_dir",
                "list",
                "remove_dir",
                "sync_dir"
            ]
        );
        assert_eq!(disk.list(Path::new(FIRST)).unwrap_err().kind(), io::ErrorKind::NotFound);
        // The last one of a feed goes where `.next` says what follows; the feed's folder stays.
        disk.remove(disk.files().last().unwrap()).unwrap();
        let (pruned, _) = run(&disk, &rules(Some(2), None, Plain::WaitsForSeal));
        assert_eq!((pruned.segments, numbers(&disk)), (1, vec![4]), ".next holds index 0");
        disk.put("feed=a/.next", b"{\"segment\":6,\"index\":99}\n");
        run(&disk, &rules(Some(2), None, Plain::WaitsForSeal));
        assert_eq!(disk.files(), [Path::new("feed=a/.next")]);
    }

    #[test]
    fn what_is_shown_stays() {
        let disk = disk();
        let show =
            Rules { chosen: Chosen::AreShown, ..rules(Some(2), Some(1), Plain::WaitsForSeal) };
        let files = disk.files();
        let (pruned, events) = run(&disk, &show);
        assert_eq!((pruned.segments, events.len(), disk.files()), (5, 5, files));
        let writes = ["create", "append", "rename", "replace", "remove", "sync", "truncate"];
        let is_write = |step: &String| writes.iter().any(|write| step.starts_with(write));
        assert!(!disk.log().iter().any(is_write), "{:?}", disk.log());
    }

    #[test]
    fn what_is_set_aside_stays() {
        let disk = disk();
        let tail = format!("{FIRST}/a.20250112T000000Z.000000.tape.tail");
        let damaged = format!("{FIRST}/a.20250112T000000Z.000000.tape.open.damaged");
        let elsewhere = format!("{FIRST}/a.20250113T000000Z.000000.tape.zst");
        let no_time = format!("{FIRST}/a.20250112T990000Z.000000.tape.zst");
        for path in [&tail, &damaged, &elsewhere, &no_time] {
            disk.put(path, b"x");
        }
        let (pruned, _) = run(&disk, &rules(Some(2), None, Plain::WaitsForSeal));
        assert_eq!((pruned.segments, pruned.has_failed), (5, false));
        for path in [&tail, &damaged, &elsewhere, &no_time] {
            assert!(disk.contents(path).is_some(), "{path}");
        }
        assert_eq!(listed(&disk, FIRST), None, "nothing is left to list");
    }

    /// Fails from operation `n` on, or at it only, then goes on: with what is there, with what is
    /// durable, with some of what is not.
    #[test]
    fn failing_anywhere_leaves_a_run_and_is_made_good() {
        let keep = rules(Some(2), None, Plain::WaitsForSeal);
        for n in 0.. {
            let mut tried = 0;
            for once in [false, true] {
                let disk = disk();
                let at = disk.operations() + n;
                match once {
                    true => disk.fault_at(at, Fault::Fail(io::ErrorKind::Other)),
                    false => disk.fail_from(at, io::ErrorKind::Other),
                }
                run(&disk, &keep);
                let was_reached = disk.operations() > at;
                tried += u32::from(was_reached);
                disk.clear_faults();
                let torn = (0..5).map(|seed| disk.crash_torn(seed));
                for (case, after) in torn.chain([disk.crash(), disk.clone()]).enumerate() {
                    let case = format!("operation {n}, once {once}, case {case}");
                    let left = numbers(&after);
                    let first = left[0];
                    assert_eq!(left, (first..6).collect::<Vec<_>>(), "{case}: {:?}", disk.log());
                    for folder in [FIRST, SECOND] {
                        // All that is there is listed; what else is listed was before it.
                        let listed = listed(&after, folder).unwrap_or_default();
                        let day = if folder == FIRST { 0..3 } else { 3..5 };
                        for number in day.filter(|number| *number >= first) {
                            assert!(listed.contains(&number), "{case}: {number} of {listed:?}");
                        }
                    }
                    let (pruned, events) = run(&after, &keep);
                    assert!(!pruned.has_failed, "{case}: {events:?}");
                    assert_eq!(numbers(&after), [5], "{case}");
                    let sums = [listed(&after, FIRST), listed(&after, SECOND)];
                    assert_eq!(sums, [None, None], "{case}: {:?}", after.files());
                }
            }
            if tried == 0 {
                assert!(n > 20, "all operations were tried");
                break;
            }
        }
    }

    #[test]
    fn a_full_disk_is_no_reason_to_delete_nothing() {
        let disk = disk();
        let keep = rules(None, Some(bytes_from(&disk, 2)), Plain::WaitsForSeal);
        // No append takes anything.
        let from = disk.operations();
        for n in from..from + 100 {
            disk.fault_at(n, Fault::Short(0));
        }
        let (pruned, _) = run(&disk, &keep);
        assert_eq!((pruned.segments, pruned.has_failed), (2, true), "{:?}", disk.log());
        assert_eq!((numbers(&disk), listed(&disk, FIRST)), (vec![2, 3, 4, 5], Some(vec![0, 1, 2])));
        disk.clear_faults();
        let (pruned, _) = run(&disk, &keep);
        assert_eq!((pruned.segments, listed(&disk, FIRST)), (0, Some(vec![2])));
    }

    #[test]
    fn a_feed_that_cannot_be_seen_whole_keeps_all() {
        let disk = disk();
        let base = disk.operations();
        // 0 lists the recording, 1 the feed, 2 its first day.
        disk.fault_at(base + 2, Fault::Fail(io::ErrorKind::PermissionDenied));
        let (pruned, events) = run(&disk, &rules(Some(2), None, Plain::WaitsForSeal));
        assert_eq!((pruned.segments, pruned.has_failed, numbers(&disk).len()), (0, true, 6));
        assert!(matches!(&events[..], [SealEvent::PruneFailed { .. }]), "{events:?}");
    }
}
