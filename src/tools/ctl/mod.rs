//! `feedtape ctl`: what a running recorder says of itself, and orders to it, over its admin
//! endpoint.
//!
//! Owns what may be typed and where the recorder is found; `client` asks it, `show` lays the
//! answers out.

mod client;
mod show;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use self::client::{Answer, Client, usual_address};
use super::{Outcome, is_closed_pipe};
use crate::admin::listen::Address;
use crate::config::read_token;
use crate::tape::name::FeedName;

/// With `--follow`, the log is asked for this often.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Looks at a running recorder and steers it, by its admin endpoint.
#[derive(Debug, clap::Args)]
pub struct CtlArgs {
    /// Where the recorder listens, as its --admin says: 127.0.0.1:9464 or unix:/path
    /// [default: $FEEDTAPE_ADMIN, else unix:/run/feedtape/admin.sock, else 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR", global = true)]
    pub admin: Option<String>,

    /// The token that the recorder wants to know
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,

    /// Print the answer as it comes, in JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// What is wanted.
    #[command(subcommand)]
    pub what: What,
}

/// What may be asked for and ordered.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// How things stand, and what is not recorded
    Status,
    /// A line for each feed: state, messages, reconnects, gaps
    Feeds,
    /// The gaps of the last day
    Gaps,
    /// The memory of the recorder, with a sentence on each figure
    Memory,
    /// The last lines of its log
    Events {
        /// Go on with the lines that come
        #[arg(short, long)]
        follow: bool,
    },
    /// Close a feed's connection and wait, or all of them; what is missed is a gap on the tape
    Pause {
        /// The feed; without it, all
        feed: Option<String>,
    },
    /// Let a paused feed go on, or all of them
    Resume {
        /// The feed; without it, all
        feed: Option<String>,
    },
    /// Close a feed's connection and connect anew
    Reconnect {
        /// The feed
        feed: String,
    },
    /// Begin a new segment of every feed
    Rotate,
    /// Read the feeds file again
    Reload,
}

impl CtlArgs {
    /// Where the recorder is, and the path of an order.
    fn check(&self) -> Result<Client, Vec<String>> {
        let mut mistakes = Vec::new();
        let from_env = std::env::var("FEEDTAPE_ADMIN").ok().filter(|text| !text.is_empty());
        let (name, text) = match (&self.admin, from_env) {
            (Some(text), _) => ("--admin", Some(text.clone())),
            (None, from_env) => ("$FEEDTAPE_ADMIN", from_env),
        };
        let address = match text.map(|text| Address::parse(&text).map_err(|what| (text, what))) {
            None => Some(usual_address()),
            Some(Ok(address)) => Some(address),
            Some(Err((text, what))) => {
                mistakes.push(format!("{name} '{text}': {what}"));
                None
            }
        };
        let token = self.token_file.as_ref().and_then(|path| {
            let read = read_token(path);
            read.map_err(|what| mistakes.push(format!("--token-file: {what}"))).ok()
        });
        if let Some(feed) = self.what.feed()
            && let Err(error) = FeedName::new(feed)
        {
            mistakes.push(error);
        }
        match address {
            Some(address) if mistakes.is_empty() => Ok(Client { address, token }),
            _ => Err(mistakes),
        }
    }
}

impl What {
    fn feed(&self) -> Option<&str> {
        match self {
            What::Pause { feed } | What::Resume { feed } => feed.as_deref(),
            What::Reconnect { feed } => Some(feed),
            What::Status
            | What::Feeds
            | What::Gaps
            | What::Memory
            | What::Events { .. }
            | What::Rotate
            | What::Reload => None,
        }
    }
}

/// What was typed, checked.
pub struct Checked<'a> {
    args: &'a CtlArgs,
    client: Client,
}

/// Checks what was typed.
///
/// # Errors
/// All mistakes, a sentence each.
pub fn check(args: &CtlArgs) -> Result<Checked<'_>, Vec<String>> {
    Ok(Checked { args, client: args.check()? })
}

/// Runs the command.
///
/// # Errors
/// No recorder answers, it refuses, or the output can't be written (a closed pipe is no error).
pub fn run(checked: &Checked<'_>, out: &mut dyn Write) -> Result<Outcome> {
    match answer(checked, out) {
        Err(error) if is_closed_pipe(&error) => Ok(Outcome::Clean),
        result => result,
    }
}

fn answer(Checked { args, client }: &Checked<'_>, out: &mut dyn Write) -> Result<Outcome> {
    match &args.what {
        What::Status => return status(client, args.json, out),
        What::Feeds => look(client, "/api/feeds", show::feeds, args.json, out)?,
        What::Gaps => look(client, "/api/gaps", show::gaps, args.json, out)?,
        What::Memory => look(client, "/api/memory", show::memory, args.json, out)?,
        What::Events { follow } => return events(client, *follow, args.json, out),
        What::Pause { feed } => order(client, feed.as_deref(), "pause", args.json, out)?,
        What::Resume { feed } => order(client, feed.as_deref(), "resume", args.json, out)?,
        What::Reconnect { feed } => order(client, Some(feed), "reconnect", args.json, out)?,
        What::Rotate => order(client, None, "rotate", args.json, out)?,
        What::Reload => order(client, None, "reload", args.json, out)?,
    }
    Ok(Outcome::Clean)
}

/// How things stand: not all recorded is no failure of this command, but what it tells.
fn status(client: &Client, json: bool, out: &mut dyn Write) -> Result<Outcome> {
    let recorder = known(client.get("/api/recorder")?)?;
    let feeds = known(client.get("/api/feeds")?)?;
    let Answer { status, body: ready } = client.get("/readyz")?;
    if status != 200 && ready["reasons"].is_null() {
        return known(Answer { status, body: ready }).map(|_| Outcome::Clean);
    }
    match json {
        true => print(&serde_json::json!({ "recorder": recorder, "ready": ready }), out)?,
        false => write(out, &show::status(&recorder, &ready, &feeds))?,
    }
    Ok(Outcome::Clean)
}

fn look(
    client: &Client,
    path: &str,
    show: fn(&Value) -> String,
    json: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let body = known(client.get(path)?)?;
    if json { print(&body, out) } else { write(out, &show(&body)) }
}

/// Prints the lines that there are; with `follow`, those that come too, until it is ended.
fn events(client: &Client, follow: bool, json: bool, out: &mut dyn Write) -> Result<Outcome> {
    let mut next = 0;
    loop {
        let body = known(client.get(&format!("/api/events?since={next}"))?)?;
        next = body["next"].as_u64().unwrap_or(0);
        let any = body["events"].as_array().is_some_and(|events| !events.is_empty());
        match json {
            true if any || !follow => print(&body, out)?,
            true => {}
            false => write(out, &show::events(&body))?,
        }
        if !follow {
            return Ok(Outcome::Clean);
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

fn order(
    client: &Client,
    feed: Option<&str>,
    what: &str,
    json: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let path = match feed {
        Some(feed) => format!("/api/feeds/{feed}/{what}"),
        None => format!("/api/{what}"),
    };
    let body = known(client.post(&path)?)?;
    match json {
        true => print(&body, out),
        false => write(out, &format!("{}\n", body["done"].as_str().unwrap_or("done"))),
    }
}

/// The answer's body, where it is not a refusal.
fn known(answer: Answer) -> Result<Value> {
    match answer.status {
        200 => Ok(answer.body),
        status => match answer.body["error"].as_str() {
            Some(error) if status == 401 => bail!("{error}; give its file with --token-file"),
            Some(error) => bail!("{error}"),
            None => bail!("the recorder answers with status {status}"),
        },
    }
}

fn print(value: &Value, out: &mut dyn Write) -> Result<()> {
    write(out, &format!("{value}\n"))
}

fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    let written: io::Result<()> = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(written?)
}
