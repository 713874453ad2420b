//! `feedtape check`: whether feeds are configured as `record` wants them and, on request, whether
//! they answer.
//!
//! Owns what is printed of each feed. The options are checked by the code that `record` uses;
//! trying a feed is in `trial.rs`. Nothing is written to disk.

mod trial;

use std::io::Write;
use std::time::Duration;

use anyhow::ensure;

use self::trial::try_all;
use super::{Outcome, is_closed_pipe};
use crate::config::{RecordArgs, RecorderOptions};
use crate::feed::poll::PollOptions;
use crate::feed::{FeedOptions, FeedPlan};
use crate::printable::printable;
use crate::units::{format_span, parse_span};

/// What was typed after `feedtape check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Try each feed once: connect, subscribe, and wait for the first message; of an http:// or
    /// https:// URL, for an answer. Nothing is recorded.
    #[arg(long, help_heading = "Checking")]
    pub connect: bool,

    /// With --connect: a feed that has brought nothing after this time has failed. [100ms..1h]
    #[arg(
        long,
        value_name = "SPAN",
        value_parser = parse_wait,
        default_value = "30s",
        help_heading = "Checking"
    )]
    pub wait: Duration,

    /// What `record` would be given.
    #[command(flatten)]
    pub record: RecordArgs,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    let span = parse_span(text)?;
    let is_within = (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&span);
    is_within.then_some(span).ok_or_else(|| "must be from 100ms to 1h".to_string())
}

impl CheckArgs {
    /// Reads the file, if there is one, and checks everything.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check(&self) -> Result<RecorderOptions, Vec<String>> {
        self.record.check_without_out()
    }
}

/// Prints the feeds, or tries them and prints what came of it: a line each.
///
/// # Errors
/// A feed that was tried failed, or the output can't be written.
pub fn run(
    args: &CheckArgs,
    options: RecorderOptions,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let result = if args.connect { connect(args, options, out) } else { list(&options, out) };
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(Outcome::Clean),
        other => other.map(|()| Outcome::Clean),
    }
}

fn list(options: &RecorderOptions, out: &mut dyn Write) -> anyhow::Result<()> {
    for plan in &options.feeds {
        writeln!(out, "{}", printable(&describe(plan)))?;
    }
    out.flush()?;
    Ok(())
}

fn connect(args: &CheckArgs, options: RecorderOptions, out: &mut dyn Write) -> anyhow::Result<()> {
    let all = options.feeds.len();
    let mut failed = 0;
    try_all(options, args.wait, &mut |name, result| {
        match result {
            Ok(words) => writeln!(out, "{name}: ok: {}", printable(&words))?,
            Err(words) => {
                failed += 1;
                writeln!(out, "{name}: FAILED: {}", printable(&words))?;
            }
        }
        out.flush()?;
        Ok(())
    })?;
    ensure!(failed == 0, "{failed} of {} failed", count(all, "feed"));
    Ok(())
}

/// One feed, on a line.
fn describe(plan: &FeedPlan) -> String {
    let what = match plan {
        FeedPlan::Stream(options) => describe_stream(options),
        FeedPlan::Poll(options) => describe_poll(options),
    };
    let kind = match plan {
        FeedPlan::Stream(_) => "websocket",
        FeedPlan::Poll(_) => "polled",
    };
    format!("{}: {kind} {}: {what}", plan.name(), plan.url())
}

fn describe_stream(options: &FeedOptions) -> String {
    let mut parts = vec![count(options.subscriptions.len(), "subscription")];
    if options.items > 0 {
        parts.push(format!("{} symbols or topics", options.items));
    }
    if options.rules.acks > 0 {
        parts.push(format!("{} awaited", count(options.rules.acks, "acknowledgement")));
    }
    parts.join(", ")
}

fn describe_poll(options: &PollOptions) -> String {
    let every = options.timing.every.map(|every| format!("every {}", format_span(every)));
    let on = options.on.as_ref().map(|(heard, triggers)| {
        let heard: Vec<&str> = heard.iter().map(|name| name.as_str()).collect();
        let triggers: Vec<String> = triggers.iter().map(ToString::to_string).collect();
        format!("on {} of {}", triggers.join(" and "), heard.join(", "))
    });
    every.into_iter().chain(on).collect::<Vec<_>>().join(", ")
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
