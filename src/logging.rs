//! The recorder's log: lines on stderr, or in the journal where stderr leads there.
//!
//! Owns the form of a line and the levels. A message is one line, whatever names it quotes. In the
//! journal each line begins with its priority (`<3>`, see sd-daemon(3)) and has no time, which the
//! journal has itself.

use std::io::Write;
use std::os::fd::AsFd;

use log::{Level, LevelFilter};

use crate::admin::events;
use crate::clock;
use crate::printable::printable;

/// Starts logging. `verbosity`: 0 is info; above it debug and trace, below warn and error.
/// `RUST_LOG` goes before it.
pub fn start(verbosity: i8) {
    let default = match verbosity {
        i8::MIN..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2..=i8::MAX => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    // What the libraries say below a warning is for those who ask for it.
    builder.filter_level(LevelFilter::Warn).filter_module("feedtape", default);
    // It would show whole URLs with their secrets, where RUST_LOG asks for all of everybody.
    builder.filter_module("ureq", LevelFilter::Warn);
    builder.parse_default_env();
    if stderr_is_journal() {
        builder.format(|out, record| {
            let text = record.args().to_string();
            let text = printable(&text);
            events::note(record.level(), &text);
            writeln!(out, "<{}>{text}", priority(record.level()))
        });
    } else {
        builder.format(|out, record| {
            let level = record.level();
            let style = out.default_level_style(level);
            let time = clock::rfc3339(clock::wall_now());
            let text = record.args().to_string();
            let text = printable(&text);
            events::note(level, &text);
            writeln!(out, "{time} {style}{level:<5}{style:#} {text}")
        });
    }
    builder.init();
    log_panics();
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

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no message");
        log::error!("panic in thread '{name}' at {place}: {what}");
    }));
}
