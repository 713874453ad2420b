//! `feedtape mem`: what a recorder's memory was over time, and whether it leaks.
//!
//! Owns which of the two is meant.

pub mod history;
mod plot;

use std::io::Write;

use anyhow::Result;

pub use self::history::{HistoryArgs, Wanted};
use super::Outcome;

/// Shows what a recorder recorded of its own memory.
#[derive(Debug, clap::Args)]
pub struct MemArgs {
    /// The process
    #[arg(value_name = "PID")]
    pub pid: Option<String>,

    /// What it was over time.
    #[command(flatten)]
    pub history: HistoryArgs,

    /// Print one JSON object instead; sizes are in bytes, unknown is null
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of [`history::run`].
pub fn run(args: &MemArgs, history: Option<&Wanted>, out: &mut dyn Write) -> Result<Outcome> {
    match history {
        Some(wanted) => history::run(wanted, args.json, out),
        None => anyhow::bail!("give --history OUT"),
    }
}
