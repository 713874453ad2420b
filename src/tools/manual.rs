//! `feedtape man` and `feedtape completions`: what the command line says of itself, for man and
//! for shells.
//!
//! Owns the pages' form. Commands and options come from the command line's own definition; what
//! is not about a single option (operating, alerts, durability, upgrading) is written in
//! `manual/operating.roff` and ends the page of the program.

use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Outcome, is_closed_pipe};

/// What ends the page of the program.
const OPERATING: &str = include_str!("manual/operating.roff");

/// Print a manual page, or write all of them into a folder.
///
/// To read one: feedtape man record | man -l -
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The command whose page it is; without one, the page of the program
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,

    /// Write the pages of all commands into this folder, which is made where it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub to: Option<PathBuf>,
}

/// Print a script that completes the command line in a shell.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Writes the page that was asked for to `out`, or all pages to their folder.
///
/// # Errors
/// There is no such command, or a page can't be written.
pub fn man(args: &ManArgs, cli: Command, out: &mut impl Write) -> Result<Outcome> {
    let pages = pages(cli);
    if let Some(folder) = &args.to {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .with_context(|| format!("'{}' can't be made", folder.display()))?;
        for page in &pages {
            let path = folder.join(page.get_filename());
            write_page(page, &path).with_context(|| format!("'{}'", path.display()))?;
        }
        return Ok(Outcome::Clean);
    }
    let name = match &args.command {
        Some(command) => format!("feedtape-{command}.1"),
        None => "feedtape.1".to_string(),
    };
    let Some(page) = pages.iter().find(|page| page.get_filename() == name) else {
        let command = args.command.as_deref().unwrap_or_default();
        bail!("there is no command '{command}'; `feedtape help` lists them");
    };
    closed_pipe_is_fine(render(page, out))
}

/// Writes the completion script to `out`.
///
/// # Errors
/// It can't be written.
pub fn completions(
    args: &CompletionsArgs,
    mut cli: Command,
    out: &mut impl Write,
) -> Result<Outcome> {
    // The generator panics where its output can't be written; memory can.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "feedtape", &mut script);
    closed_pipe_is_fine(out.write_all(&script))
}

fn closed_pipe_is_fine(written: io::Result<()>) -> Result<Outcome> {
    match written.map_err(anyhow::Error::from) {
        Err(error) if !is_closed_pipe(&error) => Err(error),
        _ => Ok(Outcome::Clean),
    }
}

/// The program's page, and one for each command.
fn pages(cli: Command) -> Vec<Man> {
    let mut cli = cli.disable_help_subcommand(true);
    cli.build();
    let commands = cli.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let commands: Vec<Command> = commands.collect();
    std::iter::once(cli).chain(commands).map(|page| Man::new(page).manual("feedtape")).collect()
}

fn write_page(page: &Man, path: &std::path::Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    render(page, &mut file)?;
    file.flush()
}

fn render(page: &Man, out: &mut impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    out.write_all(&text)?;
    if page.get_filename() == "feedtape.1" {
        out.write_all(OPERATING.as_bytes())?;
    }
    Ok(())
}
