//! The recorder's log: lines on stderr, or entries of the journal where stderr leads there.
//!
//! Owns the form of a line and the levels. A message is one line, whatever names it quotes. On a
//! terminal or in a file it has its time; the journal has that itself, and gets the priority, and
//! the feed and connection it is about as fields, by its native protocol (`journal.rs`). Where the
//! journal can't be spoken to, each line on stderr begins with its priority (`<3>`, see
//! sd-daemon(3)).
//!
//! Whom a line is about: the `feed` and `conn` that were given with it
//! (`log::warn!(feed = name; ..)`), else those of the thread that says it.

use std::io::Write;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;

use log::{Level, LevelFilter, Record};

use self::journal::Journal;
use crate::admin::events;
use crate::clock;
use crate::feed::current;
use crate::printable::printable;

mod journal;

/// Libraries that show whole requests, and so secrets, below these levels: not even for those who
/// ask for all of everybody.
const TALKATIVE: [(&str, LevelFilter); 2] =
    [("ureq", LevelFilter::Warn), ("tungstenite", LevelFilter::Debug)];

/// Starts logging. `verbosity`: 0 is info; above it debug and trace, below warn and error.
/// `RUST_LOG` goes before it: where it is set, it alone says what is shown.
pub fn start(verbosity: i8) {
    let default = match verbosity {
        i8::MIN..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2..=i8::MAX => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    if std::env::var_os("RUST_LOG").is_none_or(|said| said.is_empty()) {
        // What the libraries say below a warning is for those who ask for it.
        builder.filter_level(LevelFilter::Warn).filter_module("feedtape", default);
    }
    builder.parse_default_env();
    let is_journal = stderr_is_journal();
    // Where nobody listens, in a container for instance, stderr serves as well.
    let journal = is_journal.then(|| Journal::new(journal::SOCKET).ok()).flatten();
    builder.format(move |out, record| {
        let text = record.args().to_string();
        let text = printable(&text);
        let level = record.level();
        if !shows_secrets(record) {
            events::note(level, &text);
        }
        if shows_secrets(record) || journal.as_ref().is_some_and(|to| enter(to, record, &text)) {
            Ok(())
        } else if is_journal {
            writeln!(out, "<{}>{text}", priority(level))
        } else {
            let style = out.default_level_style(level);
            let time = clock::rfc3339(clock::wall_now());
            writeln!(out, "{time} {style}{level:<5}{style:#} {text}")
        }
    });
    builder.init();
    std::panic::set_hook(Box::new(log_panic));
}

/// Says why the program ends, in one or more lines; for what comes before the log is started, and
/// for those who turned the log off.
pub fn say_error(text: &str) {
    let prefix = match stderr_is_journal() {
        true => format!("<{}>", priority(Level::Error)),
        false => String::new(),
    };
    let lines: String = text.lines().map(|line| format!("{prefix}{line}\n")).collect();
    // Nobody is left to tell if that fails; the exit code still says it.
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

/// Puts a line into the journal; `false` where it does not go there.
fn enter(journal: &Journal, record: &Record<'_>, text: &str) -> bool {
    let given = |key: &str| record.key_values().get(key.into());
    let (feed, conn) = match given("feed") {
        Some(feed) => (Some(feed.to_string()), given("conn").and_then(|conn| conn.to_u64())),
        None => match current::of_this_thread() {
            Some(current) => (Some(current.feed.to_string()), current.conn),
            None => (None, None),
        },
    };
    journal.send(&journal::Line {
        priority: priority(record.level()),
        text,
        feed: feed.as_deref(),
        conn,
        file: record.file(),
        line: record.line(),
        target: record.target(),
    })
}

fn shows_secrets(record: &Record<'_>) -> bool {
    TALKATIVE
        .iter()
        .any(|(library, level)| record.target().starts_with(library) && record.level() > *level)
}

/// Priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// systemd sets JOURNAL_STREAM to the device and inode of the stream it connected; a child whose
/// stderr was redirected since must not believe it.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Says which thread panicked, where, and for whom it worked. The entry's place in the source is
/// that of the panic.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let what = panic.payload_as_str().unwrap_or("no message");
    let whose = match current::of_this_thread() {
        None => String::new(),
        Some(current::Current { feed, conn: None }) => format!("{feed}: "),
        Some(current::Current { feed, conn: Some(conn) }) => format!("{feed}: conn {conn}: "),
    };
    log::logger().log(
        &Record::builder()
            .level(Level::Error)
            .target(module_path!())
            .file(panic.location().map(std::panic::Location::file))
            .line(panic.location().map(std::panic::Location::line))
            .args(format_args!("{whose}panic in thread '{name}' at {place}: {what}"))
            .build(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With RUST_LOG=trace, tungstenite showed the upgrade with its Authorization header.
    #[test]
    fn requests_of_libraries_are_never_shown() {
        for (target, level, hidden) in [
            ("ureq::run", Level::Warn, false),
            ("ureq::run", Level::Info, true),
            ("ureq_proto::client", Level::Debug, true),
            ("tungstenite::protocol", Level::Debug, false),
            ("tungstenite::handshake::client", Level::Trace, true),
            ("feedtape::feed::run", Level::Trace, false),
        ] {
            let record = Record::builder().target(target).level(level).build();
            assert_eq!(shows_secrets(&record), hidden, "{target} {level}");
        }
    }
}
