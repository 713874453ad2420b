//! The command line: what can be typed, and which code it ends with.
//!
//! Owns the subcommands and the exit codes: 0 clean, 1 failed, 2 usage or configuration, 3 done
//! but something is lost. Results go to stdout, talk to stderr.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};

use crate::admin::Plan as Planned;
use crate::config::{RecordArgs, RecorderOptions};
use crate::logging;
use crate::plan::fit::{self, Confines};
use crate::plan::host::Host;
use crate::plan::{Budget, Needs, Rows};
use crate::printable::printable;
use crate::recorder::{self, Explain, Recorder, signals};
use crate::report::closing_report;
use crate::tools::Outcome;
use crate::tools::cat::{self, CatArgs};
use crate::tools::check::{self, CheckArgs};
use crate::tools::ctl::{self, CtlArgs};
use crate::tools::demo::{self, DemoArgs};
use crate::tools::info::{self, InfoArgs};
use crate::tools::manual::{self, CompletionsArgs, ManArgs};
use crate::tools::mem::{self, MemArgs};
use crate::tools::plan::{self as plan_tool, PlanArgs};
use crate::tools::prune::{self, PruneArgs};
use crate::tools::recover::{self, RecoverArgs};
use crate::tools::simulate::{self, SimulateArgs};
use crate::tools::venues::{self, NewArgs};
use crate::tools::verify::{self, VerifyArgs};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const LOSS: u8 = 3;

#[derive(Debug, clap::Parser)]
#[command(name = "feedtape", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Say more; -vv says all.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Say less; -qq says errors only.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    quiet: u8,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Record feeds until told to stop.
    #[command(args_override_self = true)]
    Record(Box<RecordArgs>),
    /// Check feeds and options without recording: all mistakes, or a line for each feed.
    #[command(args_override_self = true)]
    Check(Box<CheckArgs>),
    /// Show what a recording will need: memory line by line, threads, descriptors, disk.
    #[command(args_override_self = true)]
    Plan(Box<PlanArgs>),
    /// List the venues that `feedtape new` writes feeds files for.
    Venues,
    /// Write a feeds file for a venue to standard output, with comments.
    New(NewArgs),
    /// Print what was recorded, all feeds in the order of their stamps.
    Cat(CatArgs),
    /// Show what a recording holds: times, messages, sizes, connections, gaps.
    Info(InfoArgs),
    /// Check a recording: structure, counts, checksums, numbering.
    Verify(VerifyArgs),
    /// Finish what a crash left open, and save what can be read of damaged segments.
    Recover(RecoverArgs),
    /// Delete the oldest segments of a recording.
    Prune(PruneArgs),
    /// Explain the memory of a running recorder, or of any process.
    Mem(MemArgs),
    /// Look at a running recorder and steer it: status, feeds, pause, resume, reconnect, rotate.
    Ctl(CtlArgs),
    /// Run a venue on this machine, for trying and testing.
    Simulate(SimulateArgs),
    /// See it work: record a simulated venue, check the recording, and show what to do next.
    Demo(DemoArgs),
    /// Print a manual page.
    Man(ManArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

impl Command {
    /// Added to what -v and -q say.
    fn verbosity(&self) -> i8 {
        match self {
            // Its progress display has the terminal.
            Command::Demo(_) => -1,
            // What it prints says what came of each feed.
            Command::Check(_) => -2,
            Command::Record(_)
            | Command::Plan(_)
            | Command::Venues
            | Command::New(_)
            | Command::Cat(_)
            | Command::Info(_)
            | Command::Verify(_)
            | Command::Recover(_)
            | Command::Prune(_)
            | Command::Simulate(_)
            | Command::Man(_)
            | Command::Mem(_)
            | Command::Ctl(_)
            | Command::Completions(_) => 0,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    recorder::tame_malloc();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && !io::stderr().is_terminal() => {
            logging::say_error(&error.render().to_string());
            return ExitCode::from(USAGE);
        }
        Err(error) => {
            // Printing help to a closed pipe is no error worth telling.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let typed = cli.verbose.min(9).cast_signed() - cli.quiet.min(9).cast_signed();
    logging::start(typed + cli.command.verbosity());
    if matches!(cli.command, Command::Record(_)) {
        signals::hold_reloads();
    }
    let result = match &cli.command {
        Command::Record(args) => match args.check().and_then(confine) {
            Ok((options, planned)) => record(options, planned, args),
            Err(mistakes) => return usage("record", &mistakes),
        },
        Command::Prune(args) => match args.check() {
            Ok(keep) => prune::run(args, keep, &mut io::stdout().lock()),
            Err(mistakes) => return usage("prune", &mistakes),
        },
        Command::Check(args) => match args.check().and_then(confine) {
            Ok((options, _)) => check::run(args, options, &mut io::stdout().lock()),
            Err(mistakes) => return usage("check", &mistakes),
        },
        Command::Plan(args) => match args.check().and_then(settle) {
            Ok(Settled { options, budget, host }) => {
                plan_tool::run(args, &options, budget, &host, &mut io::stdout().lock())
            }
            Err(mistakes) => return usage("plan", &mistakes),
        },
        Command::Venues => venues::list(&mut io::stdout().lock()),
        Command::New(args) => match args.text() {
            Ok(text) => venues::print(&text, &mut io::stdout().lock()),
            Err(mistakes) => return usage("new", &mistakes),
        },
        Command::Cat(args) => cat::run(args, &mut io::stdout().lock()),
        Command::Info(args) => info::run(args, &mut io::stdout().lock()),
        Command::Verify(args) => verify::run(args, &mut io::stdout().lock()),
        Command::Recover(args) => recover::run(args, &mut io::stdout().lock()),
        Command::Mem(args) => match args.check() {
            Ok(asked) => mem::run(args, &asked, &mut io::stdout().lock()),
            Err(mistakes) => return usage("mem", &mistakes),
        },
        Command::Ctl(args) => match ctl::check(args) {
            Ok(checked) => ctl::run(&checked, &mut io::stdout().lock()),
            Err(mistakes) => return usage("ctl", &mistakes),
        },
        Command::Simulate(args) => simulate::run(args),
        Command::Demo(args) => demo::run(args, &mut io::stdout().lock()),
        Command::Man(args) => manual::man(args, Cli::command(), &mut io::stdout().lock()),
        Command::Completions(args) => {
            manual::completions(args, Cli::command(), &mut io::stdout().lock())
        }
    };
    match result {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Loss) => ExitCode::from(LOSS),
        Err(error) => {
            logging::say_error(&printable(&format!("error: {error:#}")));
            ExitCode::from(FAILED)
        }
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    match (&mut cli.command, matches.subcommand()) {
        (Command::Record(args), Some((_, matches))) => args.note_typed(matches),
        (Command::Check(args), Some((_, matches))) => args.record.note_typed(matches),
        (Command::Plan(args), Some((_, matches))) => args.record.note_typed(matches),
        _ => {}
    }
    Ok(cli)
}

fn usage(command: &str, mistakes: &[String]) -> ExitCode {
    for mistake in mistakes {
        logging::say_error(&format!("error: {mistake}"));
    }
    logging::say_error(&format!("\nFor more information, try 'feedtape help {command}'."));
    ExitCode::from(USAGE)
}

/// Options with their plan.
struct Settled {
    options: RecorderOptions,
    budget: Budget,
    host: Host,
}

fn settle(mut options: RecorderOptions) -> Result<Settled, Vec<String>> {
    let host = Host::measure();
    let budget = fit::settle(&mut options, &host).map_err(|mistake| vec![mistake])?;
    Ok(Settled { options, budget, host })
}

/// Says what is planned; refuses what would not fit into the cgroup.
fn confine(options: RecorderOptions) -> Result<(RecorderOptions, Planned), Vec<String>> {
    let Settled { options, budget, host } = settle(options)?;
    let needs = Needs::of(&options);
    log::info!("{}", budget.in_short(&needs));
    if let Some(confines) = Confines::own() {
        confines.check(&budget, &needs, &host).map_err(|mistake| vec![mistake])?;
    }
    let Rows { idle, full, large } = budget.rss;
    let planned = Planned { idle_bytes: idle, full_bytes: full, large_bytes: large };
    Ok((options, planned))
}

fn record(
    options: RecorderOptions,
    planned: Planned,
    args: &RecordArgs,
) -> anyhow::Result<Outcome> {
    for feed in &options.feeds {
        log::info!(feed = feed.name().as_str(); "{}: {}", feed.name(), feed.url());
    }
    recorder::release_program_pages();
    let explain = Explain {
        memory: Some(mem::own_explained),
        earlier_memory: Some(mem::history::read_earlier),
        plan: Some(planned),
    };
    let recorder = Recorder::start_explained(options, explain)?;
    let (feeds, stats) = (recorder.views().clone(), recorder.stats());
    let ended = recorder.run(Duration::from_secs(1), &mut |_| {}, &mut || args.reload());
    // However it ended. A closed stderr is no reason to fail after all is done.
    let _ = io::stderr().write_all(closing_report(&feeds.all(), &stats).as_bytes());
    Ok(if ended?.lost { Outcome::Loss } else { Outcome::Clean })
}
