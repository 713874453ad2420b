//! Figures for people: the closing report of a recording.
//!
//! Owns how counters read as a sentence. One line a feed, so that grep and the journal like it.
//! Where it is shown is its caller's choice.

use crate::stats::RecorderStats;
pub use crate::stats::{FeedView, Views};
use crate::units::format_size;

/// A line for each feed: messages, bytes, connections, gaps and losses by cause, size of the tape
/// as it came and as it was sealed. And one for what was deleted, where anything was: it may be of
/// feeds that are not recorded any more.
pub fn closing_report(views: &[FeedView], stats: &RecorderStats) -> String {
    let mut report: String = views.iter().map(|view| line(view) + "\n").collect();
    let deleted = stats.pruned_segments.get();
    if deleted > 0 {
        let size = format_size(stats.pruned_bytes.get());
        report += &format!("deleted {}, {size}\n", count(deleted, "old segment"));
    }
    report
}

fn line(FeedView { name, stats }: &FeedView) -> String {
    let figures = stats.gaps.figures();
    let holes: u64 = figures.iter().map(|gap| gap.holes).sum();
    let lost: u64 = figures.iter().map(|gap| gap.messages).sum();
    let causes: Vec<String> = figures
        .iter()
        .map(|gap| match gap.messages {
            0 => format!("{} {}", gap.holes, gap.reason),
            messages => format!("{} {}, {} lost", gap.holes, gap.reason, messages),
        })
        .collect();
    let causes = match causes.is_empty() {
        true => String::new(),
        false => format!(" ({})", causes.join("; ")),
    };
    let (raw, sealed) = (stats.sealed_raw_bytes.get(), stats.sealed_bytes.get());
    let sealed = match sealed {
        0 => String::new(),
        _ => format!(
            ", {} of it sealed to {} ({:.1}x)",
            format_size(raw),
            format_size(sealed),
            raw as f64 / sealed as f64
        ),
    };
    format!(
        "{name}: {}, {}, {}, {}{causes}, {} dropped; tape {}{sealed}",
        count(stats.messages.get(), "message"),
        count(stats.bytes.get(), "byte"),
        count(stats.connections.get(), "connection"),
        count(holes, "gap"),
        lost,
        format_size(stats.tape_bytes.get()),
    )
}

fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::FeedStats;
    use crate::tape::event::GapReason;
    use crate::tape::name::FeedName;
    use expect_test::expect;
    use std::sync::Arc;

    #[test]
    fn a_report_tells_all_causes() {
        let stats = Arc::new(FeedStats::default());
        let view = FeedView { name: FeedName::new("btc").unwrap(), stats: stats.clone() };
        let recorder = RecorderStats::default();
        stats.connections.add(1);
        expect![[r#"
            btc: 0 messages, 0 bytes, 1 connection, 0 gaps, 0 dropped; tape 0B
        "#]]
        .assert_eq(&closing_report(std::slice::from_ref(&view), &recorder));
        stats.messages.add(2);
        stats.bytes.add(1);
        stats.gaps.count(GapReason::Reconnect, 0, 0);
        stats.gaps.count(GapReason::Stall, 5, 99);
        stats.tape_bytes.add(3 << 20);
        stats.sealed_raw_bytes.add(2 << 20);
        stats.sealed_bytes.add(1 << 19);
        recorder.pruned_segments.add(3);
        recorder.pruned_bytes.add(3 << 19);
        expect![[r#"
            btc: 2 messages, 1 byte, 1 connection, 2 gaps (1 reconnect; 1 stall, 5 lost), 5 dropped; tape 3MiB, 2MiB of it sealed to 512KiB (4.0x)
            deleted 3 old segments, 1.5MiB
        "#]]
        .assert_eq(&closing_report(&[view], &recorder));
    }
}
