//! What is shown while the demo records: a table that is drawn anew on a terminal, else a line
//! now and then.
//!
//! Owns the figures' history (rates, how long a feed has been silent) and the drawing. On a
//! terminal the cursor waits on an empty row above the table: a line of the log lands there, and
//! the table is drawn again below it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::clock::{Mono, mono_now};
use crate::report::FeedView;
use crate::units::{format_size, format_span};

/// Between two drawings of the table.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Between two lines, where there is no table.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Rates are over so long.
const RATE_OVER: Duration = Duration::from_secs(1);
/// A live feed without a message for so long is called silent.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// Columns of the bar.
const BAR_COLUMNS: usize = 30;
/// Where the terminal doesn't tell.
const WIDTH_DEFAULT: usize = 80;

/// The display, while it is there.
pub(super) struct Progress {
    style: Style,
    duration: Duration,
    started: Mono,
    meters: Vec<Meter>,
    line_at: Mono,
    has_ended: bool,
    /// Rows below the cursor.
    rows: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Table,
    Lines,
}

impl Progress {
    /// A table if stderr is a terminal that can and the log is not chatty.
    pub(super) fn start(duration: Duration) -> Progress {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_quiet = log::max_level() <= log::LevelFilter::Warn;
        let style = match io::stderr().is_terminal() && !is_dumb && is_quiet {
            true => Style::Table,
            false => Style::Lines,
        };
        let started = mono_now();
        let line_at = started.after(LINE_EVERY);
        Progress {
            style,
            duration,
            started,
            meters: Vec::new(),
            line_at,
            has_ended: false,
            rows: 0,
        }
    }

    /// How often [`Progress::look`] wants to be called.
    pub(super) fn look_every(&self) -> Duration {
        match self.style {
            Style::Table => DRAW_EVERY,
            Style::Lines => LINE_EVERY,
        }
    }

    /// Looks at the figures, and shows them if it is time.
    pub(super) fn look(&mut self, feeds: &[FeedView]) {
        let now = mono_now();
        self.measure(now, feeds);
        match self.style {
            Style::Table => self.draw(now, feeds),
            Style::Lines if now >= self.line_at => {
                self.line_at = now.after(LINE_EVERY);
                write(&(self.sentence(now, feeds) + "\n"));
            }
            Style::Lines => {}
        }
    }

    /// The last figures, and the cursor below them.
    pub(super) fn finish(mut self, feeds: &[FeedView]) {
        self.has_ended = true;
        if self.style == Style::Table {
            let now = mono_now();
            self.measure(now, feeds);
            self.draw(now, feeds);
        }
    }

    fn measure(&mut self, now: Mono, feeds: &[FeedView]) {
        self.meters.resize(feeds.len(), Meter::new(self.started));
        for (meter, feed) in self.meters.iter_mut().zip(feeds) {
            meter.look(now, feed.stats.messages.get());
        }
    }

    fn draw(&mut self, now: Mono, feeds: &[FeedView]) {
        let width = super::terminal_width(io::stderr()).unwrap_or(WIDTH_DEFAULT);
        let rows = self.table(now, feeds);
        let mut text = String::from("\r\x1b[J");
        for row in &rows {
            text.push('\n');
            // A full row would move some terminals on to the next one.
            text.extend(row.chars().take(width.saturating_sub(1)));
        }
        text.push_str(&format!("\r\x1b[{}A", rows.len()));
        self.rows = rows.len();
        write(&text);
    }

    fn table(&self, now: Mono, feeds: &[FeedView]) -> Vec<String> {
        let elapsed = now.since(self.started).min(self.duration);
        let share = elapsed.as_secs_f64() / self.duration.as_secs_f64();
        let full = (share * BAR_COLUMNS as f64) as usize;
        let mut rows = vec![
            format!(
                "  [{:<BAR_COLUMNS$}] {:.1} s of {}",
                "#".repeat(full),
                elapsed.as_secs_f64(),
                format_span(self.duration)
            ),
            String::new(),
            row(["FEED", "MESSAGES", "MSG/S", "BYTES", "STATE"]),
        ];
        for (feed, meter) in feeds.iter().zip(&self.meters) {
            rows.push(row([
                feed.name.as_str(),
                &feed.stats.messages.get().to_string(),
                &format!("{:.0}", meter.rate(now)),
                &format_size(feed.stats.bytes.get()),
                &self.state(now, feed, meter),
            ]));
        }
        rows
    }

    fn state(&self, now: Mono, feed: &FeedView, meter: &Meter) -> String {
        let silent = now.since(meter.changed_at);
        match feed.stats.live.get() == 1 {
            _ if self.has_ended => "ended".to_string(),
            false => "not connected".to_string(),
            true if silent >= SILENT_AFTER => format!("silent for {:.1} s", silent.as_secs_f64()),
            true => "live".to_string(),
        }
    }

    fn sentence(&self, now: Mono, feeds: &[FeedView]) -> String {
        let feeds = feeds.iter().zip(&self.meters).map(|(feed, meter)| {
            format!(
                "{} {} messages ({:.0}/s, {})",
                feed.name,
                feed.stats.messages.get(),
                meter.rate(now),
                self.state(now, feed, meter)
            )
        });
        let feeds: Vec<String> = feeds.collect();
        format!("{:.1} s: {}", now.since(self.started).as_secs_f64(), feeds.join(", "))
    }
}

impl Drop for Progress {
    /// Whatever comes next stands below the table.
    fn drop(&mut self) {
        if self.rows > 0 {
            write(&format!("\x1b[{}B\r\n\n", self.rows));
        }
    }
}

/// A display that can't be seen is no reason to fail.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn row([feed, messages, rate, bytes, state]: [&str; 5]) -> String {
    format!("  {feed:<8} {messages:>10} {rate:>8} {bytes:>10}   {state}")
}

/// What a feed's count did so far.
#[derive(Debug, Clone)]
struct Meter {
    messages: u64,
    /// When the count was first seen as it is.
    changed_at: Mono,
    /// Where the present window of the rate began.
    window_at: Mono,
    window_messages: u64,
    /// Per second, over the last whole window.
    last_rate: Option<f64>,
}

impl Meter {
    fn new(now: Mono) -> Meter {
        Meter { messages: 0, changed_at: now, window_at: now, window_messages: 0, last_rate: None }
    }

    fn look(&mut self, now: Mono, messages: u64) {
        if messages != self.messages {
            self.messages = messages;
            self.changed_at = now;
        }
        if now.since(self.window_at) >= RATE_OVER {
            self.last_rate = Some(self.window_rate(now));
            self.window_at = now;
            self.window_messages = messages;
        }
    }

    fn window_rate(&self, now: Mono) -> f64 {
        let seconds = now.since(self.window_at).as_secs_f64();
        let messages = self.messages.saturating_sub(self.window_messages);
        if seconds > 0.0 { messages as f64 / seconds } else { 0.0 }
    }

    fn rate(&self, now: Mono) -> f64 {
        self.last_rate.unwrap_or_else(|| self.window_rate(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::FeedStats;
    use crate::tape::name::FeedName;
    use expect_test::{Expect, expect};
    use std::sync::Arc;

    const START: Mono = Mono(1_000_000_000);

    fn at(ms: u64) -> Mono {
        START.after(Duration::from_millis(ms))
    }

    fn progress() -> Progress {
        Progress {
            style: Style::Lines,
            duration: Duration::from_secs(10),
            started: START,
            meters: Vec::new(),
            line_at: START,
            has_ended: false,
            rows: 0,
        }
    }

    fn feed(name: &str) -> FeedView {
        FeedView { name: FeedName::new(name).unwrap(), stats: Arc::new(FeedStats::default()) }
    }

    fn check(progress: &Progress, ms: u64, feeds: &[FeedView], table: Expect) {
        // What is expected has its least indentation taken away.
        table.assert_eq(&format!("at {ms} ms\n{}", progress.table(at(ms), feeds).join("\n")));
    }

    #[test]
    fn table_and_sentence() {
        let mut progress = progress();
        let feeds = [feed("trades"), feed("book")];
        progress.measure(at(0), &feeds);
        check(
            &progress,
            0,
            &feeds,
            expect![[r#"
                at 0 ms
                  [                              ] 0.0 s of 10s

                  FEED       MESSAGES    MSG/S      BYTES   STATE
                  trades            0        0         0B   not connected
                  book              0        0         0B   not connected"#]],
        );
        feeds[0].stats.live.set(1);
        feeds[1].stats.live.set(1);
        feeds[0].stats.messages.add(300);
        feeds[0].stats.bytes.add(1536);
        progress.measure(at(1500), &feeds);
        check(
            &progress,
            1500,
            &feeds,
            expect![[r#"
                at 1500 ms
                  [####                          ] 1.5 s of 10s

                  FEED       MESSAGES    MSG/S      BYTES   STATE
                  trades          300      200     1.5KiB   live
                  book              0        0         0B   silent for 1.5 s"#]],
        );
        progress.has_ended = true;
        assert!(progress.table(at(1500), &feeds)[4].ends_with("   ended"));
        progress.has_ended = false;
        assert_eq!(
            progress.sentence(at(1600), &feeds),
            "1.6 s: trades 300 messages (200/s, live), book 0 messages (0/s, silent for 1.6 s)"
        );
        check(
            &progress,
            60_000,
            &feeds,
            expect![[r#"
                at 60000 ms
                  [##############################] 10.0 s of 10s

                  FEED       MESSAGES    MSG/S      BYTES   STATE
                  trades          300      200     1.5KiB   silent for 58.5 s
                  book              0        0         0B   silent for 60.0 s"#]],
        );
    }

    #[test]
    fn rates_are_of_the_last_window() {
        let mut meter = Meter::new(START);
        for (ms, messages, rate) in [
            (0, 0, 0.0),
            (100, 10, 100.0),
            (1000, 200, 200.0),
            (1900, 400, 200.0),
            (2000, 600, 400.0),
        ] {
            meter.look(at(ms), messages);
            assert!((meter.rate(at(ms)) - rate).abs() < 1e-6, "{ms}: {}", meter.rate(at(ms)));
        }
    }
}
