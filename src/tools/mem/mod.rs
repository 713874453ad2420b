//! `feedtape mem`: what each memory figure of a running process is, and whether to worry; or what a
//! recorder's memory was over time, and whether it leaks.
//!
//! Owns which of the two, and which process, is meant. Where its figures come from is in `facts`,
//! what they are in `rows`, what they come to in `verdict`, and how that is laid out in `show`. The
//! past is in `history`, drawn by `plot`. Works on any process; of a recorder it knows more.

mod facts;
pub mod history;
mod plot;
mod rows;
mod show;
mod verdict;

use std::io::{self, Write};

use anyhow::{Result, bail};

use self::facts::Facts;
pub use self::history::{HistoryArgs, Wanted};
use self::rows::Figure;
use super::{Outcome, is_closed_pipe};
use crate::admin::{Explained, Sentence, Unit};
use crate::memory::process::{self, Process};

/// Where the output is no terminal.
const WIDTH_DEFAULT: usize = 100;
/// Lines longer than this are hard to read.
const WIDTH_MAX: usize = 120;
/// The layout needs so many columns.
const WIDTH_MIN: usize = 60;

/// Explain the memory of a running process: each figure, with a sentence on what it is. Or draw
/// what a recorder's was over time, and judge whether it leaks.
#[derive(Debug, clap::Args)]
pub struct MemArgs {
    /// The process; without it, the one recorder that is running
    #[arg(value_name = "PID")]
    pub pid: Option<String>,

    /// What it was over time.
    #[command(flatten)]
    pub history: HistoryArgs,

    /// Print one JSON object instead; sizes are in bytes, unknown is null
    #[arg(long)]
    pub json: bool,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A process now; none where no recorder is running.
    Now(Option<Process>),
    /// The past of a recording.
    History(Wanted),
}

impl MemArgs {
    /// What is meant.
    ///
    /// # Errors
    /// All times that are none; a PID that is no number; more than one recorder is running.
    pub fn check(&self) -> Result<Asked, Vec<String>> {
        match self.history.check()? {
            Some(wanted) => Ok(Asked::History(wanted)),
            None => self.check_process().map(Asked::Now),
        }
    }

    fn check_process(&self) -> Result<Option<Process>, Vec<String>> {
        if let Some(text) = &self.pid {
            return match text.parse() {
                Ok(pid) if pid > 0 => Ok(Some(Process::of(pid))),
                Ok(_) | Err(_) => {
                    Err(vec![format!("'{text}' is no PID: write the number of a process")])
                }
            };
        }
        let running = process::find(is_recorder);
        match &running[..] {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            _ => {
                let pids: Vec<String> = running.iter().map(|one| one.pid.to_string()).collect();
                let first = &pids[0];
                Err(vec![format!(
                    "{} recorders are running: {}; write which one, as in 'feedtape mem {first}'",
                    pids.len(),
                    pids.join(", ")
                )])
            }
        }
    }
}

/// Whether that is the command line of a recorder.
fn is_recorder(name: &str, arguments: &[&str]) -> bool {
    let command = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
    name == "feedtape" && command == Some(&"record")
}

/// This process's memory, a sentence on each figure; nothing where /proc can't be read.
pub fn own_explained() -> Explained {
    let Ok(facts) = Facts::gather(&Process::own()) else { return Explained::default() };
    let mut sentences = Vec::new();
    for section in rows::sections(&facts) {
        let told = section.rows.into_iter().filter_map(|row| {
            let (unit, value, text) = match row.figure {
                Figure::Bytes(value) => (Unit::Bytes, Some(value), row.sentence),
                Figure::Count(value) => (Unit::Count, Some(value), row.sentence),
                Figure::Unknown(why) => (Unit::Bytes, None, why),
                Figure::Absent => return None,
            };
            let section = section.title.clone();
            Some(Sentence { section, key: row.key, label: row.label, unit, value, text })
        });
        sentences.extend(told);
    }
    Explained { sentences, verdict: Some(verdict::verdict(&facts)) }
}

/// Runs the command.
///
/// # Errors
/// The process or the history is not there, or the output can't be written (a closed pipe is no
/// error).
pub fn run(args: &MemArgs, asked: &Asked, out: &mut dyn Write) -> Result<Outcome> {
    let process = match asked {
        Asked::History(wanted) => return history::run(wanted, args.json, out),
        Asked::Now(Some(process)) => process,
        Asked::Now(None) => {
            bail!("no recorder is running here (a process named feedtape); give a PID")
        }
    };
    let facts = Facts::gather(process)?;
    let sections = rows::sections(&facts);
    let verdict = verdict::verdict(&facts);
    let text = if args.json {
        format!("{}\n", show::json(&facts, &sections, &verdict))
    } else {
        let width = super::demo::terminal_width(io::stdout()).unwrap_or(WIDTH_DEFAULT);
        show::text(&facts, &sections, &verdict, width.clamp(WIDTH_MIN, WIDTH_MAX))
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if !is_closed_pipe(&anyhow::Error::from(io::Error::from(error.kind()))) => {
            Err(error.into())
        }
        _ => Ok(Outcome::Clean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recorder_is_one() {
        for (name, arguments, expected) in [
            ("feedtape", &["/usr/bin/feedtape", "record", "ws://x"][..], true),
            ("feedtape", &["feedtape", "-v", "record", "ws://x"], true),
            ("feedtape", &["feedtape", "mem", "record"], false),
            ("feedtape", &["feedtape"], false),
            ("feedtape", &[], false),
            ("recorder", &["recorder", "record"], false),
        ] {
            assert_eq!(is_recorder(name, arguments), expected, "{name} {arguments:?}");
        }
    }

    /// Threads were told as bytes, and the heap, which the process knows best, not at all.
    #[test]
    fn this_process_explained() {
        let Explained { sentences, verdict } = own_explained();
        let find = |key: &str| sentences.iter().find(|one| one.key == key).unwrap();
        assert_eq!(find("rss_bytes").unit, Unit::Bytes);
        assert_eq!((find("threads").unit, &find("threads").section[..]), (Unit::Count, "PROCESS"));
        let [in_use, held] = ["heap_in_use_bytes", "heap_held_bytes"].map(find);
        assert_eq!((&in_use.section[..], &held.section[..]), ("HEAP", "HEAP"));
        assert!(in_use.value > Some(0) && in_use.value <= held.value, "{in_use:?} {held:?}");
        let heads: Vec<&str> = sentences.iter().map(|one| &one.section[..]).collect();
        let changes = heads.windows(2).filter(|pair| pair[0] != pair[1]).count() + 1;
        let different: std::collections::BTreeSet<_> = heads.iter().collect();
        assert_eq!(changes, different.len(), "those of a section stand together: {heads:?}");
        assert!(verdict.is_some_and(|verdict| verdict.ends_with('.')));
    }

    #[test]
    fn a_pid_is_a_number() {
        let check = |pid: &str| {
            let history = HistoryArgs::default();
            MemArgs { pid: Some(pid.to_string()), history, json: false }.check()
        };
        assert_eq!(check("17"), Ok(Asked::Now(Some(Process::of(17)))));
        for wrong in ["", "0", "-1", "x", "1 2", "99999999999"] {
            let mistakes = check(wrong).unwrap_err();
            assert!(mistakes[0].contains(&format!("'{wrong}'")), "{mistakes:?}");
        }
    }
}
