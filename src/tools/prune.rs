//! `feedtape prune`: deletes old segments by hand, by the rules of `record --keep`.
//!
//! Owns the options, the lock, and the lines that are printed. What goes and how is the sealer's
//! ([`crate::sealer::retention`]).

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use super::Outcome;
use crate::clock;
use crate::config::KeepArgs;
use crate::recorder::lock;
use crate::sealer::SealEvent;
use crate::sealer::retention::{Chosen, Keep, Plain, Pruned, Rules, prune};
use crate::storage::Disk;
use crate::units::format_size;

/// Deletes the oldest finished segments of a recording that nobody records to; prints each.
///
/// A recorder does the same by itself where it is given --keep or --keep-bytes. A segment that is
/// open or not sealed yet stays, and all after it in its feed; so do *.damaged and *.tail files. A
/// feed's newest segment goes only where .next tells how the numbers go on, as it does after a
/// clean end.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Folder of the recording: the --out of record
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// What is deleted.
    #[command(flatten)]
    pub keep: KeepArgs,

    /// What the recording is sealed with; with none, plain segments are final and may go too
    #[arg(long, value_name = "FORM", default_value = "zstd")]
    #[arg(value_parser = ["zstd", "gzip", "none"])]
    pub compress: String,

    /// Show what would go, and write nothing; also while a recorder runs
    #[arg(long)]
    pub dry_run: bool,
}

impl PruneArgs {
    /// Checks what is to be kept.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check(&self) -> Result<Keep, Vec<String>> {
        let keep = self.keep.check()?;
        if keep.is_all() {
            return Err(vec![
                "nothing to delete by: give --keep, --keep-bytes, or both".to_string(),
            ]);
        }
        Ok(keep)
    }
}

/// Runs the command.
///
/// # Errors
/// A recorder holds the folder, it can't be used, something could not be deleted, or output can't
/// be written (a closed pipe is none).
pub fn run(args: &PruneArgs, keep: Keep, out: &mut dyn Write) -> Result<Outcome> {
    ensure!(args.out.is_dir(), "'{}' is no folder", args.out.display());
    let chosen = if args.dry_run { Chosen::AreShown } else { Chosen::Go };
    let _lock = match chosen {
        Chosen::AreShown => None,
        Chosen::Go => match lock::lock(&args.out)? {
            Some(lock) => Some(lock),
            None => bail!(
                "a recorder is using '{}': give that one --keep or --keep-bytes, or end it first; \
                 --dry-run works in any case",
                args.out.display()
            ),
        },
    };
    let plain = if args.compress == "none" { Plain::IsFinal } else { Plain::WaitsForSeal };
    let rules = Rules { keep, plain, chosen, now: clock::wall_now() };
    let (pruned, written) = prune_and_print(args, &rules, out);
    match written.map_err(anyhow::Error::from) {
        Err(e) if super::is_closed_pipe(&e) => {}
        other => other?,
    }
    if pruned.waiting > 0 {
        log::warn!(
            "{} feeds have plain segments that would go, but are to be sealed first, which the \
             next start does; where the recording is made with --compress none, say so here too",
            pruned.waiting
        );
    }
    ensure!(!pruned.has_failed, "not all could be done, see above");
    Ok(Outcome::Clean)
}

/// A line for each segment, and one for all. Who can't be told any more stops it.
fn prune_and_print(
    args: &PruneArgs,
    rules: &Rules,
    out: &mut dyn Write,
) -> (Pruned, io::Result<()>) {
    let printed = RefCell::new((out, Ok(())));
    let print = |line: &str| {
        let (out, result) = &mut *printed.borrow_mut();
        if result.is_ok() {
            *result = writeln!(out, "{line}");
        }
    };
    let stop = || printed.borrow().1.is_err();
    let pruned = prune(&Disk::new(&args.out), rules, &stop, &mut |event| match event {
        SealEvent::Pruned { path, bytes, reason, .. } => {
            print(&format!("{}  {}  {reason}", path.display(), format_size(bytes)));
        }
        SealEvent::PruneFailed { path, error } => {
            log::error!("'{}': {error}", args.out.join(path).display());
        }
        SealEvent::Sealed { .. }
        | SealEvent::Failed { .. }
        | SealEvent::Unlisted { .. }
        | SealEvent::OverKeep { .. }
        | SealEvent::Left { .. } => {}
    });
    let verb = match rules.chosen {
        Chosen::Go => "deleted",
        Chosen::AreShown => "would delete",
    };
    let segments = if pruned.segments == 1 { "segment" } else { "segments" };
    print(&format!("{verb} {} {segments}, {}", pruned.segments, format_size(pruned.bytes)));
    let (out, result) = printed.into_inner();
    (pruned, result.and_then(|()| out.flush()))
}
