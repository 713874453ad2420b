//! `feedtape mem --history`: what a recorder recorded of itself, drawn and judged.
//!
//! Owns reading the tape `_feedtape`, which figures there are, and the words for the whole. The
//! statistics are in [`crate::memory::verdict`], the drawing in `plot`. A figure takes the same
//! memory whatever the time: the tape is read line by line.
//!
//! Runs are told apart by process and start. All are drawn, by the stamps of their lines; the last
//! one is judged, by its own monotonic time: neither a step of the clock nor a restart counts.

use std::env;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::plot::{Ink, plot, time_axis};
use crate::admin::Sample;
use crate::clock::{self, UnixNs};
use crate::memory::Figures;
use crate::memory::verdict::{Nature, Series, Slope, Verdict};
use crate::printable::printable;
use crate::recorder::own::OwnLine;
use crate::tape::line::{Kind, Line};
use crate::tape::name::{OWN, is_own};
use crate::tape::reader::{Merge, Purpose, Tape, find};
use crate::tools::Outcome;
use crate::units::format_span;

/// Whoever looks at the dashboard of a recorder that was just started waits no longer than this.
const EARLIER_READ_MAX: Duration = Duration::from_secs(2);

/// Which history is wanted.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct HistoryArgs {
    /// Draw what a recorder recorded of itself in this recording (its --out), and judge for each
    /// figure whether it leaks
    #[arg(long, value_name = "OUT", conflicts_with = "pid")]
    pub history: Option<PathBuf>,

    /// With --history: leave out what is before this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", requires = "history")]
    pub from: Option<String>,

    /// With --history: leave out what is from this time on
    #[arg(long, value_name = "TIME", requires = "history")]
    pub to: Option<String>,
}

/// A history to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    out: PathBuf,
    from: UnixNs,
    to: UnixNs,
}

impl HistoryArgs {
    /// The history that is wanted, if one is.
    ///
    /// # Errors
    /// All times that are none.
    pub fn check(&self) -> Result<Option<Wanted>, Vec<String>> {
        let Some(out) = &self.history else { return Ok(None) };
        let mut mistakes = Vec::new();
        let mut time = |option: &str, text: &Option<String>, default: UnixNs| {
            let Some(text) = text else { return default };
            clock::from_rfc3339(text).unwrap_or_else(|mistake| {
                mistakes.push(format!("{option}: {mistake}"));
                default
            })
        };
        let from = time("--from", &self.from, 0);
        let to = time("--to", &self.to, UnixNs::MAX);
        if mistakes.is_empty() {
            Ok(Some(Wanted { out: out.clone(), from, to }))
        } else {
            Err(mistakes)
        }
    }
}

/// Runs the command.
///
/// # Errors
/// There is no such tape, nothing of the time that was asked for, or the output can't be written
/// (a closed pipe is no error).
pub(super) fn run(wanted: &Wanted, as_json: bool, out: &mut dyn Write) -> Result<Outcome> {
    let history = History::read(wanted)?;
    let written = if as_json {
        writeln!(out, "{}", history.to_json())
    } else {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(|name| env::var(name).ok());
        out.write_all(history.to_text(Ink::of_locale(locale)).as_bytes())
    };
    match written.and_then(|()| out.flush()).map_err(anyhow::Error::from) {
        Err(error) if !crate::tools::is_closed_pipe(&error) => Err(error),
        _ => Ok(Outcome::Clean),
    }
}

/// A figure that is drawn.
struct Figure {
    /// For people.
    title: &'static str,
    /// For programs.
    name: &'static str,
    nature: Nature,
    /// Whether it is judged: what goes up and down with the load by its nature is not.
    is_judged: bool,
    value: fn(&OwnLine) -> Option<f64>,
}

/// A figure of the memory, which is judged.
const fn judged(
    title: &'static str,
    name: &'static str,
    nature: Nature,
    value: fn(&OwnLine) -> Option<f64>,
) -> Figure {
    Figure { title, name, nature, is_judged: true, value }
}

const HEAP: usize = 0;
const UNUSED: usize = 1;
const ANON: usize = 2;
const FIGURES: [Figure; 10] = [
    judged("heap in use", "heap_in_use_bytes", Nature::Memory, |line| {
        number(line.memory.heap_in_use_bytes)
    }),
    judged("heap held, not in use", "heap_unused_bytes", Nature::Fragmentation, |line| {
        unused(&line.memory)
    }),
    judged("resident, heap and stacks", "rss_anon_bytes", Nature::Memory, |line| {
        number(line.memory.rss_anon_bytes)
    }),
    judged("resident, program and libraries", "rss_file_bytes", Nature::PageCache, |line| {
        number(line.memory.rss_file_bytes)
    }),
    judged("address space", "vsz_bytes", Nature::AddressSpace, |line| {
        number(line.memory.vsz_bytes)
    }),
    judged("cgroup, page cache", "cgroup_file_bytes", Nature::PageCache, |line| {
        number(line.memory.cgroup_file_bytes)
    }),
    judged("threads", "threads", Nature::Count, |line| number(line.memory.threads)),
    judged("descriptors", "fds", Nature::Count, |line| number(line.memory.fds)),
    Figure {
        title: "on the way to the disk, maximum",
        name: "queue_bytes_max",
        nature: Nature::Memory,
        is_judged: false,
        value: |line| number(Some(line.queue.bytes_max as u64)),
    },
    Figure {
        title: "feeds connected",
        name: "feeds_live",
        nature: Nature::Count,
        is_judged: false,
        value: |line| number(Some(line.feeds_live)),
    },
];

fn number(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn unused(memory: &Figures) -> Option<f64> {
    let (held, in_use) = memory.heap_held_bytes.zip(memory.heap_in_use_bytes)?;
    number(Some(held.saturating_sub(in_use)))
}

/// One figure's values.
#[derive(Default)]
struct Curve {
    /// Over the whole time, by stamps.
    drawn: Series,
    /// Of the last run, by its own time.
    judged: Series,
    last: f64,
}

/// All that was read.
struct History {
    out: PathBuf,
    /// Stamps of the first and the last line, in seconds.
    times: Option<(UnixNs, UnixNs)>,
    runs: u64,
    /// Of the last run.
    line: OwnLine,
    lines: u64,
    curves: Vec<Curve>,
}

impl History {
    fn read(wanted: &Wanted) -> Result<History> {
        let tape = own_tape(&wanted.out)?;
        let mut history = History {
            out: wanted.out.clone(),
            times: None,
            runs: 0,
            line: OwnLine::default(),
            lines: 0,
            curves: FIGURES.iter().map(|_| Curve::default()).collect(),
        };
        each_line(tape, wanted.from..wanted.to, log::Level::Error, |ts, raw| {
            history.take(ts, raw);
            true
        });
        if history.lines == 0 {
            bail!("'{}' holds no figures of that time", wanted.out.display());
        }
        Ok(history)
    }

    fn take(&mut self, ts: UnixNs, raw: &[u8]) {
        let Ok(line) = serde_json::from_slice::<OwnLine>(raw) else {
            log::warn!("a line of {OWN} can't be read; left out");
            return;
        };
        if self.lines == 0 || (line.pid, line.started) != (self.line.pid, self.line.started) {
            self.runs += 1;
            self.curves.iter_mut().for_each(|curve| curve.judged = Series::default());
        }
        let (first, last) = self.times.unwrap_or((ts, ts));
        self.times = Some((first.min(ts), last.max(ts)));
        for (figure, curve) in FIGURES.iter().zip(&mut self.curves) {
            let Some(value) = (figure.value)(&line) else { continue };
            curve.drawn.push(ts as f64 / 1e9, value);
            curve.judged.push(line.uptime_ms as f64 / 1e3, value);
            curve.last = value;
        }
        self.lines += 1;
        self.line = line;
    }

    /// The figures that there are, with the verdict on each that is judged.
    fn verdicts(&self) -> Vec<(&Figure, &Curve, Nature, Option<Verdict>)> {
        let is_there = |curve: &Curve| !curve.judged.buckets().is_empty();
        let judge = |at: usize| self.curves[at].judged.judge(FIGURES[at].nature);
        // Pages that are resident because the allocator holds on to them.
        let is_held = matches!(judge(UNUSED), Verdict::Grows(_))
            && is_there(&self.curves[HEAP])
            && !matches!(judge(HEAP), Verdict::Leaks(_));
        let all = FIGURES.iter().zip(&self.curves).enumerate();
        let there = all.filter(|(_, (_, curve))| is_there(curve));
        let judged = there.map(|(at, (figure, curve))| {
            let nature = if at == ANON && is_held { Nature::Fragmentation } else { figure.nature };
            let verdict = figure.is_judged.then(|| curve.judged.judge(nature));
            (figure, curve, nature, verdict)
        });
        judged.collect()
    }

    fn run_words(&self) -> String {
        let uptime = Duration::from_secs(self.line.uptime_ms / 1000);
        format!(
            "pid {}, feedtape {}, up {} since {}",
            self.line.pid,
            printable(&self.line.feedtape),
            format_span(uptime),
            clock::rfc3339(self.line.started)
        )
    }

    fn to_text(&self, ink: Ink) -> String {
        let (from, to) = self.times.unwrap_or_default();
        let seconds = (from as f64 / 1e9, to as f64 / 1e9);
        let path = self.out.display().to_string();
        let path = printable(&path);
        let runs = if self.runs == 1 { "run" } else { "runs" };
        let mut text = format!("{path}: {} lines of {} {runs}", self.lines, self.runs);
        text += &format!("\nthe last: {}\n", self.run_words());
        let verdicts = self.verdicts();
        for (figure, curve, nature, verdict) in &verdicts {
            let now = nature.show(curve.last);
            text += &format!("\n{}: {now} now", figure.title);
            if let Some(verdict) = verdict {
                text += &format!("; {}", verdict.words(*nature));
                text += &verdict.slope().map(|slope| interval(slope, *nature)).unwrap_or_default();
            }
            text.push('\n');
            text += &plot(curve.drawn.buckets(), seconds, ink, |value| nature.show(value));
        }
        text += &time_axis(&clock::rfc3339(from), &clock::rfc3339(to));
        text += &format!("\nverdict on the last run: {}\n", Overall::of(&verdicts).words);
        text
    }

    fn to_json(&self) -> Value {
        let verdicts = self.verdicts();
        let overall = Overall::of(&verdicts);
        let figures: Vec<Value> = verdicts
            .iter()
            .map(|(figure, curve, nature, verdict)| {
                let buckets = curve.judged.buckets();
                let slope = verdict.as_ref().and_then(Verdict::slope);
                json!({
                    "name": figure.name,
                    "last": curve.last,
                    "min": buckets.iter().map(|bucket| bucket.min).fold(f64::INFINITY, f64::min),
                    "max": buckets.iter().map(|bucket| bucket.max).fold(0.0, f64::max),
                    "verdict": verdict.as_ref().map(Verdict::word),
                    "words": verdict.as_ref().map(|verdict| verdict.words(*nature).to_string()),
                    "per_day": slope.map(|slope| slope.per_day),
                    "per_day_low": slope.map(|slope| slope.low),
                    "per_day_high": slope.map(|slope| slope.high),
                })
            })
            .collect();
        let (from, to) = self.times.unwrap_or_default();
        json!({
            "recording": self.out.display().to_string(),
            "from": from,
            "to": to,
            "lines": self.lines,
            "runs": self.runs,
            "run": {
                "pid": self.line.pid,
                "started": self.line.started,
                "uptime_ms": self.line.uptime_ms,
                "feedtape": self.line.feedtape,
            },
            "figures": figures,
            "verdict": overall.word,
            "words": overall.words,
        })
    }
}

/// What is to be said of the whole.
struct Overall {
    word: &'static str,
    words: String,
}

impl Overall {
    fn of(verdicts: &[(&Figure, &Curve, Nature, Option<Verdict>)]) -> Overall {
        let with = |is_meant: fn(&Verdict) -> bool| -> Vec<String> {
            let judged = verdicts.iter().filter_map(|(figure, _, nature, verdict)| {
                let verdict = verdict.as_ref().filter(|verdict| is_meant(verdict))?;
                Some(format!("{} {}", figure.title, verdict.words(*nature)))
            });
            judged.collect()
        };
        let leaks = with(|verdict| matches!(verdict, Verdict::Leaks(_)));
        let warming =
            with(|verdict| matches!(verdict, Verdict::WarmingUp(_) | Verdict::TooShort { .. }));
        let grows = with(|verdict| matches!(verdict, Verdict::Grows(_)));
        let (word, words) = if !leaks.is_empty() {
            ("leaks", format!("IT LEAKS: {}", leaks.join("; ")))
        } else if !warming.is_empty() {
            ("warming up", "still warming up: ask again later".to_string())
        } else if !grows.is_empty() {
            ("grows", format!("no leak; {}", grows.join("; ")))
        } else {
            ("flat", "flat: no leak".to_string())
        };
        Overall { word, words }
    }
}

fn interval(slope: Slope, nature: Nature) -> String {
    let show = |amount: f64| {
        let sign = if amount > 0.0 { "+" } else { "" };
        format!("{sign}{}", nature.show(amount))
    };
    format!(" ({}/day, {} to {})", show(slope.per_day), show(slope.low), show(slope.high))
}

/// The tape of a recording's own figures.
fn own_tape(out: &Path) -> Result<Tape> {
    let own = out.join(format!("feed={OWN}"));
    let path = if own.is_dir() { &own } else { out };
    let missing = || {
        format!(
            "'{}' holds no figures of a recorder (feed={OWN}): it is written by 'feedtape record' \
             unless --self-every is 0",
            out.display()
        )
    };
    let tapes = find(&[path]).with_context(missing)?;
    let mut tapes = tapes.into_iter().filter(|tape| tape.feed == OWN && is_own(&tape.feed));
    match (tapes.next(), tapes.count()) {
        (None, _) => bail!("{}", missing()),
        (Some(tape), 0) => Ok(tape),
        (Some(_), more) => {
            bail!("'{}' holds {} recordings: give the folder of one", out.display(), more + 1)
        }
    }
}

/// Each line of figures of that time, in order, until `take` says `false`. What can't be read is
/// told at that level of the log, and left out.
fn each_line(
    mut tape: Tape,
    times: Range<UnixNs>,
    trouble: log::Level,
    mut take: impl FnMut(UnixNs, &[u8]) -> bool,
) {
    leave_out_before(&mut tape, times.start);
    let mut merge = Merge::new(vec![tape], Purpose::Read);
    loop {
        match merge.advance() {
            Ok(true) => {
                let piece = merge.piece();
                if !piece.is_whole() {
                    continue;
                }
                let Ok(line) = Line::parse(piece.content()) else { continue };
                let is_wanted = line.kind == Kind::Text && times.contains(&line.ts);
                if is_wanted && !take(line.ts, line.raw) {
                    return;
                }
            }
            Ok(false) => return,
            Err(error) => log::log!(trouble, "{error}; going on after it"),
        }
    }
}

/// What earlier runs of this recording's recorder noted of their memory on its own tape, as far as
/// it can be read within two seconds; nothing where there is none.
pub fn read_earlier(out: &Path, times: Range<UnixNs>, take: &mut dyn FnMut(Sample)) {
    let tape = match own_tape(out) {
        Ok(tape) => tape,
        Err(error) => return log::debug!("the memory of earlier runs is not known: {error:#}"),
    };
    let until = Instant::now() + EARLIER_READ_MAX;
    each_line(tape, times, log::Level::Debug, |ts, raw| {
        if let Ok(OwnLine { memory, .. }) = serde_json::from_slice(raw) {
            take(Sample::of(ts, &memory));
        }
        Instant::now() < until
    });
}

/// Segments that end before a time need not be read: the next one begins before it too.
fn leave_out_before(tape: &mut Tape, from: UnixNs) {
    let began = |at: usize| tape.segments.get(at)?.name()?.began();
    let first = (0..tape.segments.len()).find(|at| began(at + 1).is_none_or(|next| next > from));
    tape.segments.drain(..first.unwrap_or(0));
}
