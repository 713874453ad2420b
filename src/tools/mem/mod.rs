//! `feedtape mem`: what each memory figure of a running process is, and whether to worry.
//!
//! Owns which process is meant. Where its figures come from is in `facts`, what they are in `rows`,
//! what they come to in `verdict`, and how that is laid out in `show`. Works on any process; of a
//! recorder it knows more.

mod facts;
mod rows;
mod show;
mod verdict;

use std::io::{self, Write};

use anyhow::{Result, bail};

use self::facts::Facts;
use self::rows::Figure;
use super::{Outcome, is_closed_pipe};
use crate::admin::Sentence;
use crate::memory::process::{self, Process};

/// Where the output is no terminal.
const WIDTH_DEFAULT: usize = 100;
/// Lines longer than this are hard to read.
const WIDTH_MAX: usize = 120;
/// The layout needs so many columns.
const WIDTH_MIN: usize = 60;

/// Explains the memory of a running process: each figure, with a sentence on what it is.
#[derive(Debug, clap::Args)]
pub struct MemArgs {
    /// The process; without it, the one recorder that is running
    #[arg(value_name = "PID")]
    pub pid: Option<String>,

    /// Print one JSON object instead; sizes are in bytes, unknown is null
    #[arg(long)]
    pub json: bool,
}

impl MemArgs {
    /// The process that is meant; none where no recorder is running.
    ///
    /// # Errors
    /// What was typed is no number, or more than one recorder is running.
    pub fn check(&self) -> Result<Option<Process>, Vec<String>> {
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

/// A sentence on each figure of this process's memory; none where /proc can't be read.
pub fn own_sentences() -> Vec<Sentence> {
    let Ok(facts) = Facts::gather(&Process::own()) else { return Vec::new() };
    let rows = rows::sections(&facts).into_iter().flat_map(|section| section.rows);
    let told = rows.filter_map(|row| {
        let bytes = match row.figure {
            Figure::Bytes(value) | Figure::Count(value) => value,
            Figure::Unknown(_) | Figure::Absent => return None,
        };
        Some(Sentence { key: row.key, label: row.label, bytes: Some(bytes), text: row.sentence })
    });
    told.collect()
}

/// Runs the command.
///
/// # Errors
/// The process is not there, or the output can't be written (a closed pipe is no error).
pub fn run(args: &MemArgs, process: Option<&Process>, out: &mut dyn Write) -> Result<Outcome> {
    let Some(process) = process else {
        bail!("no recorder is running here (a process named feedtape); give a PID");
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

    #[test]
    fn a_pid_is_a_number() {
        let check = |pid: &str| MemArgs { pid: Some(pid.to_string()), json: false }.check();
        assert_eq!(check("17"), Ok(Some(Process::of(17))));
        for wrong in ["", "0", "-1", "x", "1 2", "99999999999"] {
            let mistakes = check(wrong).unwrap_err();
            assert!(mistakes[0].contains(&format!("'{wrong}'")), "{mistakes:?}");
        }
    }
}
