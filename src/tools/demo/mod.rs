//! `feedtape demo`: all of it at once, with nothing but this machine.
//!
//! A simulated venue in this process, the real recorder beside it for some seconds, then a look at
//! what is on disk: checked, shown, and with the commands that read it. Owns the order of things
//! and the folder's name; what is shown meanwhile is in `progress.rs`, what is shown afterwards in
//! `disk.rs`. Results go to stdout, talk and progress to stderr. Deletes nothing: a recording that
//! is there is added to, and only where somebody said so.

mod disk;
mod progress;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;

use self::progress::Progress;
use super::simulate::{self, Rate, Sent, Venue};
use super::verify::{self, VerifyArgs};
use super::{Outcome, is_closed_pipe};
use crate::config::{RecordArgs, RecorderOptions};
use crate::recorder::Recorder;
use crate::report::closing_report;
use crate::units::{format_span, parse_span};

/// Feeds of the demo: each is a path of the venue too.
const FEEDS: [&str; 3] = ["trades", "book", "ticker"];
const SYMBOLS: &str = "btcusdt,ethusdt";
const FOLDER: &str = "demo-recording";
/// Folders tried before it is time to tidy up.
const FOLDERS_MAX: u32 = 1000;
const DURATION_MIN: Duration = Duration::from_millis(100);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// See it work: record a simulated venue, check the recording, and show what there is to do next.
///
/// Needs nothing but this machine. The recording is left in ./demo-recording.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Record for this long; Ctrl-C ends it in order before. [100ms..1d]
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,

    /// Messages per second and stream that the venue sends, from 0.001 to 1000000; 0 is as many
    /// as it can. There are two streams to a feed.
    #[arg(long, value_name = "R", value_parser = Rate::parse, default_value_t)]
    pub rate: Rate,
}

fn parse_duration(input: &str) -> Result<Duration, String> {
    let span = parse_span(input)?;
    if (DURATION_MIN..=DURATION_MAX).contains(&span) {
        return Ok(span);
    }
    Err(format!("must be from {} to {}", format_span(DURATION_MIN), format_span(DURATION_MAX)))
}

/// Runs the demo; [`Outcome::Loss`] where something was lost or verify finds anything.
///
/// # Errors
/// No folder to record to, venue or recorder fail, or output that can't be written (a closed pipe
/// is none).
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let folder = choose_folder()?;
    let recorded = record(args, &folder)?;
    let shown = show(&folder, out);
    let verified = match shown {
        Err(error) if is_closed_pipe(&error) => Outcome::Clean,
        other => other?,
    };
    Ok(if recorded == Outcome::Clean { verified } else { recorded })
}

/// Makes a folder of its own for the recording, or takes the one that is there if told so.
fn choose_folder() -> anyhow::Result<PathBuf> {
    for number in 1..=FOLDERS_MAX {
        let folder = folder_name(number);
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let shown = folder.display();
                return Err(error).with_context(|| format!("can't make the folder '{shown}'"));
            }
        }
        if number == 1 && folder.is_dir() && asked_to_add(&folder)? {
            return Ok(folder);
        }
    }
    let last = folder_name(FOLDERS_MAX);
    bail!("'{FOLDER}' to '{}' are all there: delete some", last.display())
}

fn folder_name(number: u32) -> PathBuf {
    match number {
        1 => PathBuf::from(FOLDER),
        _ => PathBuf::from(format!("{FOLDER}-{number}")),
    }
}

/// Asks on a terminal; without one nobody said yes.
fn asked_to_add(folder: &Path) -> anyhow::Result<bool> {
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Ok(false);
    }
    let shown = folder.display();
    write!(stderr, "There is a '{shown}' already. Add to it? [y/N; N takes a new folder] ")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("standard input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn record(args: &DemoArgs, folder: &Path) -> anyhow::Result<Outcome> {
    let venue = simulate::start(simulate::Options { rate: args.rate, ..Default::default() })?;
    let words = record_command(args, folder, &venue);
    say(&format!("A simulated venue is at {}. Recording it as this would:\n", venue.url("")));
    let typed: Vec<String> = words.iter().map(|word| disk::shell_word(word)).collect();
    say(&format!("  {}\n", typed.join(" ")));

    let recorder = Recorder::start(recorder_options(&words)?)?;
    let (feeds, stats) = (recorder.views().clone(), recorder.stats());
    let mut progress = Progress::start(args.duration);
    let ended =
        recorder.run(progress.look_every(), &mut |feeds| progress.look(feeds), &mut || None);
    let feeds = feeds.all();
    progress.finish(&feeds);
    say(&closing_report(&feeds, &stats));
    let ended = ended?;

    let recorded: u64 = feeds.iter().map(|feed| feed.stats.messages.get()).sum();
    say(&balance(venue.stop(), recorded));
    ensure!(recorded > 0, "nothing was recorded; see the log above");
    Ok(if ended.lost { Outcome::Loss } else { Outcome::Clean })
}

fn balance(sent: Sent, recorded: u64) -> String {
    let sent = sent.messages;
    let verdict = match recorded.cmp(&sent) {
        std::cmp::Ordering::Equal => "all of them".to_string(),
        std::cmp::Ordering::Less | std::cmp::Ordering::Greater => recorded.to_string(),
    };
    format!("The venue sent {sent} messages; {verdict} are on the tapes.\n")
}

/// The command line that does the same.
fn record_command(args: &DemoArgs, folder: &Path, venue: &Venue) -> Vec<String> {
    let mut words = vec![disk::program(), "record".to_string()];
    for feed in FEEDS {
        words.push(format!("{feed}={}", venue.url(&format!("/{feed}?symbols={SYMBOLS}"))));
    }
    words.extend(["--duration".to_string(), format_span(args.duration)]);
    words.extend(["--out".to_string(), folder.display().to_string()]);
    words
}

fn recorder_options(words: &[String]) -> anyhow::Result<RecorderOptions> {
    #[derive(clap::Parser)]
    #[command(no_binary_name = true)]
    struct Typed {
        #[command(flatten)]
        record: RecordArgs,
    }
    let typed = Typed::try_parse_from(&words[2..])?;
    let options = typed.record.check();
    let options = options.map_err(|mistakes| anyhow::anyhow!(mistakes.join("; ")))?;
    // What is shown is the venue's; ten seconds say nothing of the recorder.
    Ok(RecorderOptions { self_every: None, ..options })
}

/// Checks the recording and shows it.
fn show(folder: &Path, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let program = disk::shell_word(&disk::program());
    let shown = disk::shell_word(&folder.display().to_string());
    writeln!(out, "\n$ {program} verify {shown}")?;
    let verified = verify::run(&VerifyArgs { paths: vec![folder.to_path_buf()] }, out)?;

    writeln!(out, "\nOn disk:\n")?;
    disk::tree(folder, out)?;

    let tape = folder.join(format!("feed={}", FEEDS[0]));
    let segment = disk::newest_segment(&tape)?;
    writeln!(out, "\nA tape begins like this ({}):\n", segment.display())?;
    disk::first_lines(&segment, disk::output_width(), out)?;

    writeln!(out, "\nTry next:\n")?;
    disk::next_commands(folder, &tape, &segment, out)?;
    out.flush()?;
    Ok(verified)
}

/// Columns of the terminal that it leads to, if any.
pub(super) fn terminal_width(stream: impl AsFd) -> Option<usize> {
    terminal_size::terminal_size_of(stream).map(|(width, _)| usize::from(width.0))
}

/// Talk. That nobody listens is no reason to fail.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_is_shown_is_the_one_that_runs() {
        let args = DemoArgs { duration: Duration::from_millis(1500), rate: Rate::default() };
        let venue = simulate::start(simulate::Options::default()).unwrap();
        let words = record_command(&args, Path::new("some folder"), &venue);
        let options = recorder_options(&words).unwrap();
        assert_eq!(options.out, Path::new("some folder"));
        assert_eq!(options.duration, Some(args.duration));
        let names: Vec<&str> = options.feeds.iter().map(|feed| feed.name().as_str()).collect();
        assert_eq!(names, FEEDS);
    }

    #[test]
    fn durations_have_bounds() {
        for (input, valid) in
            [("99ms", false), ("100ms", true), ("1d", true), ("2d", false), ("soon", false)]
        {
            assert_eq!(parse_duration(input).is_ok(), valid, "{input}");
        }
    }

    #[test]
    fn the_balance_tells_what_is_missing() {
        for (sent, recorded, words) in [(5, 5, "all of them are"), (5, 4, "5 messages; 4 are")] {
            let sent = Sent { messages: sent, ..Sent::default() };
            let text = balance(sent, recorded);
            assert!(text.contains(words), "{text}");
        }
    }
}
