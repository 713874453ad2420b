//! `feedtape plan`: what a recording will need, before anything runs.
//!
//! Owns how it is shown; the sums are [`crate::plan`]'s. Nothing is written to disk, and nobody is
//! connected to.

use std::io::Write;

use serde::Serialize;

use super::{Outcome, is_closed_pipe};
use crate::config::{RecordArgs, RecorderOptions};
use crate::plan::fit::{Confines, advised_limit};
use crate::plan::host::Host;
use crate::plan::space::{Load, Space};
use crate::plan::{Budget, Line, Needs};
use crate::units::{Rate, format_size, parse_size};

/// Messages of one feed in `--rate`, at most: ten times what one thread can take in, in a second.
const MESSAGES_MAX: u32 = 10_000_000;

/// What was typed after `feedtape plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    /// Messages of each WebSocket feed, for the space on the disk.
    #[arg(
        long,
        value_name = "RATE",
        value_parser = parse_rate,
        default_value = "20/s",
        help_heading = "Planning"
    )]
    pub rate: Rate,

    /// Size of such a message, on average.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "300",
        help_heading = "Planning"
    )]
    pub message_bytes: u64,

    /// Size of what a poll brings, on average.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "64KiB",
        help_heading = "Planning"
    )]
    pub body_bytes: u64,

    /// By how much sealing makes tapes smaller. [default: 5, which JSON reaches]
    #[arg(long, value_name = "FACTOR", value_parser = parse_ratio, help_heading = "Planning")]
    pub ratio: Option<f64>,

    /// Print JSON, with sizes in bytes.
    #[arg(long, help_heading = "Planning")]
    pub json: bool,

    /// What `record` would be given.
    #[command(flatten)]
    pub record: RecordArgs,
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    Rate::parse_up_to(MESSAGES_MAX, text)
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (1.0..=1000.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 1 to 1000".to_string())
}

impl PlanArgs {
    /// Reads the file, if there is one, and checks everything.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check(&self) -> Result<RecorderOptions, Vec<String>> {
        self.record.check_without_out()
    }

    /// What is assumed to come in.
    fn load(&self) -> Load {
        Load {
            rate: self.rate,
            message_bytes: self.message_bytes,
            body_bytes: self.body_bytes,
            ratio: self.ratio,
        }
    }
}

/// All that is printed.
#[derive(Debug, Serialize)]
struct Plan {
    feeds: usize,
    websocket: usize,
    polled: usize,
    tls: usize,
    queue_bytes: usize,
    max_message: usize,
    #[serde(flatten)]
    budget: Budget,
    memory_max: u64,
    cgroup_limit: Option<u64>,
    disk_per_day: Space,
}

/// Prints the plan of a recording, whose memory is settled.
///
/// # Errors
/// The output can't be written.
pub fn run(
    args: &PlanArgs,
    options: &RecorderOptions,
    budget: Budget,
    host: &Host,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let needs = Needs::of(options);
    let load = args.load();
    let confines = Confines::own();
    let plan = Plan {
        feeds: needs.feeds(),
        websocket: needs.streams,
        polled: needs.polls,
        tls: needs.streams_tls + needs.polls_tls,
        queue_bytes: needs.queue_bytes,
        max_message: needs.message_bytes_max,
        memory_max: advised_limit(budget.largest()),
        cgroup_limit: confines.as_ref().map(|confines| confines.bytes),
        disk_per_day: Space::per_day(options, &load),
        budget,
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&plan)? + "\n",
        false => table(&plan, &load, confines.as_ref(), &needs, host),
    };
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written.map_err(anyhow::Error::from) {
        Err(error) if is_closed_pipe(&error) => Ok(Outcome::Clean),
        other => other.map(|()| Outcome::Clean),
    }
}

/// For people, 80 columns wide.
fn table(
    plan: &Plan,
    load: &Load,
    confines: Option<&Confines>,
    needs: &Needs,
    host: &Host,
) -> String {
    let budget = &plan.budget;
    let mut text = format!(
        "{} ({} WebSocket, {} polled, {} TLS), pool {}, --max-message {}\n\n",
        needs.feeds_in_words(),
        plan.websocket,
        plan.polled,
        plan.tls,
        format_size(plan.queue_bytes as u64),
        format_size(plan.max_message as u64),
    );
    heading(&mut text, "resident memory, KiB");
    budget.lines.iter().for_each(|line| row(&mut text, line));
    let sum = Line { what: "together", count: 0, each: 0, rss: budget.rss, vsz: budget.vsz };
    row(&mut text, &sum);
    text.push('\n');
    heading(&mut text, "kernel, for the cgroup, KiB");
    budget.kernel.iter().for_each(|line| row(&mut text, line));
    row(&mut text, &Line { what: "together", count: 0, each: 0, rss: budget.kernel_rss, vsz: 0 });
    text += "page cache of tapes: on top of it; the kernel takes it back when it is wanted\n\n";
    sentences(&mut text, plan, load);
    if let Some(confines) = confines {
        let (limit, name) = (format_size(confines.bytes), confines.name());
        text += &match confines.check(budget, needs, host) {
            Ok(()) => format!("here       the limit of {name} is {limit}: it fits\n"),
            Err(error) => format!("here       record would refuse to start: {error}\n"),
        };
    }
    text
}

fn heading(text: &mut String, what: &str) {
    const COLUMNS: [&str; 6] = ["count", "each", "idle", "full", "large", "VSZ"];
    let [count, each, idle, full, large, vsz] = COLUMNS;
    *text += &format!("{what:<30}{count:>6}{each:>8}{idle:>8}{full:>8}{large:>9}{vsz:>9}\n");
}

fn row(text: &mut String, line: &Line) {
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let few = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let line = format!(
        "{:<30}{:>6}{:>8}{:>8}{:>8}{:>9}{:>9}",
        line.what,
        few(line.count),
        few(kib(line.each)),
        kib(line.rss.idle),
        kib(line.rss.full),
        kib(line.rss.large),
        few(kib(line.vsz)),
    );
    *text += line.trim_end();
    text.push('\n');
}

fn sentences(text: &mut String, plan: &Plan, load: &Load) {
    let Plan { budget, disk_per_day: disk, .. } = plan;
    let message = format_size(plan.max_message as u64);
    let advised = plan.memory_max >> 20;
    *text += &format!(
        "idle       {:>10}  all are connected, nothing flows\n\
         full       {:>10}  the disk takes nothing, the pool is full\n\
         large      {:>10}  and one message of {message}, in its costliest form\n\
         VSZ        {:>10}  {} threads, {} descriptors at most\n\
         MemoryMax= {:>10}  for systemd (docker run -m {advised}m): large, the kernel's\n\
         {:23}part, an eighth more, and page cache to work with\n",
        format_size(budget.rss.idle),
        format_size(budget.rss.full),
        format_size(budget.rss.large),
        format_size(budget.vsz),
        budget.threads,
        budget.descriptors,
        format!("{advised}M"),
        "",
    );
    let polls = match plan.polled {
        0 => String::new(),
        _ => format!(", polls of {}", format_size(load.body_bytes)),
    };
    *text += &format!(
        "disk       {:>10}  a day as it comes: {} of {} each{polls}\n",
        format_size(disk.raw_bytes),
        load.rate,
        format_size(load.message_bytes),
    );
    *text += &format!(
        "           {:>10}  a day as it is kept: --ratio {}\n",
        format_size(disk.sealed_bytes),
        disk.ratio
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(flatten)]
        plan: PlanArgs,
    }

    fn parse(option: &str, value: &str) -> Result<PlanArgs, clap::Error> {
        let words = ["plan", "ws://h/", option, value];
        <Typed as clap::Parser>::try_parse_from(words).map(|typed| typed.plan)
    }

    /// It had the bound of connection budgets, 10,000, which one busy feed is above.
    #[test]
    fn rates_of_messages_have_a_bound_of_their_own() {
        for (rate, count) in [("50000/s", 50_000), ("10000000/s", 10_000_000), ("1/h", 1)] {
            assert_eq!(parse("--rate", rate).unwrap().rate.count, count, "{rate}");
        }
        for wrong in ["10000001/s", "0/s", "5/0s"] {
            let error = parse("--rate", wrong).unwrap_err().to_string();
            assert!(error.contains("write 1..10000000 and a span"), "{error}");
        }
    }

    /// With what a line has beside the message, the largest sizes overflowed.
    #[test]
    fn any_size_of_a_message_can_be_planned_for() {
        let args = parse("--message-bytes", &u64::MAX.to_string()).unwrap();
        let space = Space::per_day(&args.check().unwrap(), &args.load());
        assert_eq!(space.raw_bytes, u64::MAX, "as much as can be said");
    }
}
