//! What the demo shows of a recording: the files with their sizes, how a tape begins, and the
//! commands that read it.
//!
//! Reads only, and little of it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::tape::reader::find;
use crate::tools::cat::{self, CatArgs};
use crate::units::format_size;

/// Files and folders listed; a demo has about a dozen.
const ROWS_MAX: usize = 60;
/// Folders within folders that are looked into: feed, date.
const DEPTH_MAX: usize = 3;
/// Lines shown of a tape.
const LINES_SHOWN: usize = 8;
/// Bytes looked at for them.
const LINES_BYTES_MAX: usize = 64 << 10;
/// A public feed, and how to subscribe to it.
const REAL_FEED: &str = "btc=wss://stream.binance.com:9443/ws";
const REAL_SUBSCRIPTION: &str = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}"#;
/// Where the output is no terminal.
const WIDTH_DEFAULT: usize = 100;

/// Columns that lines on stdout may have.
pub(super) fn output_width() -> usize {
    super::terminal_width(io::stdout()).unwrap_or(WIDTH_DEFAULT)
}

/// The program as it was called, for commands to copy.
pub(super) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "feedtape".to_string())
}

/// A word of a command, quoted where a shell would make something else of it.
pub(super) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Lists what is in `folder`, with sizes.
pub(super) fn tree(folder: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut rows = vec![(format!("{}/", folder.display()), None)];
    list(folder, 1, &mut rows).with_context(|| format!("can't list '{}'", folder.display()))?;
    let shown = &rows[..rows.len().min(ROWS_MAX)];
    let files = shown.iter().filter(|(_, bytes)| bytes.is_some());
    let width = files.map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, bytes) in shown {
        match bytes {
            None => writeln!(out, "{name}")?,
            Some(bytes) => writeln!(out, "{name:<width$}  {:>9}", format_size(*bytes))?,
        }
    }
    if rows.len() > ROWS_MAX {
        writeln!(out, "... and {} more", rows.len() - ROWS_MAX)?;
    }
    Ok(())
}

fn list(folder: &Path, depth: usize, rows: &mut Vec<(String, Option<u64>)>) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = format!("{:indent$}{}", "", name.to_string_lossy(), indent = 2 * depth);
        let meta = entry.metadata()?;
        if !meta.is_dir() {
            rows.push((name, Some(meta.len())));
            continue;
        }
        rows.push((name + "/", None));
        if depth < DEPTH_MAX {
            list(&entry.path(), depth + 1, rows)?;
        }
    }
    Ok(())
}

/// The last segment of the tape in `folder`.
pub(super) fn newest_segment(folder: &Path) -> anyhow::Result<PathBuf> {
    let tapes = find(&[folder.to_path_buf()])?;
    let segment = tapes.last().and_then(|tape| tape.segments.last());
    let shown = folder.display();
    Ok(segment.with_context(|| format!("there is no tape in '{shown}'"))?.path())
}

/// Prints the first lines of a segment, cut to `width` columns.
pub(super) fn first_lines(segment: &Path, width: usize, out: &mut dyn Write) -> anyhow::Result<()> {
    let paths = vec![segment.to_path_buf()];
    let mut head = Head(Vec::new());
    cat::run(&CatArgs { paths, feeds: Vec::new(), messages: false, raw_binary: false }, &mut head)?;
    for line in head.0.split(|byte| *byte == b'\n').take(LINES_SHOWN) {
        writeln!(out, "{}", cut(&String::from_utf8_lossy(line), width))?;
    }
    Ok(())
}

/// Takes some bytes, then behaves as `head` does.
struct Head(Vec<u8>);

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LINES_BYTES_MAX - self.0.len();
        if room == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(room);
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of at most `width` columns; one that is cut says so.
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_string();
    }
    let kept = line.chars().take(width.saturating_sub(3));
    kept.chain("...".chars()).take(width).collect()
}

/// Prints what to try with a recording.
pub(super) fn next_commands(
    folder: &Path,
    tape: &Path,
    segment: &Path,
    out: &mut dyn Write,
) -> io::Result<()> {
    let program = shell_word(&program());
    let [folder, tape, segment] =
        [folder, tape, segment].map(|path| shell_word(&path.display().to_string()));
    let commands = [
        ("what was recorded", format!("{program} info {folder}")),
        ("all feeds in the order of their stamps", format!("{program} cat {folder} | less -S")),
        ("messages only, as they came", format!("{program} cat --messages {tape} | tail -n 3")),
        ("without feedtape", format!("zstd -dc {segment} | head -n 5")),
        ("whether all is whole", format!("{program} verify {folder}")),
        (
            "something real; Ctrl-C ends it",
            format!("{program} record --out tapes {REAL_FEED} --subscribe '{REAL_SUBSCRIPTION}'"),
        ),
    ];
    for (what, command) in commands {
        writeln!(out, "  # {what}\n  {command}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::name::Form;
    use crate::tape::reader::testing::{Recording, SegmentBuilder};
    use expect_test::expect;

    #[test]
    fn words_for_a_shell() {
        for (word, expected) in [
            ("target/release/feedtape", "target/release/feedtape"),
            ("ws://h:1/x?a=b", "'ws://h:1/x?a=b'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("a b", "'a b'"),
        ] {
            assert_eq!(shell_word(word), expected);
        }
    }

    #[test]
    fn lines_are_cut_to_the_width() {
        for (line, width, expected) in
            [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abc..."), ("abcdefg", 2, ".."), ("é", 1, "é")]
        {
            assert_eq!(cut(line, width), expected);
        }
    }

    #[test]
    fn files_with_their_sizes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("feed=a/date=b")).unwrap();
        fs::write(dir.path().join("feed=a/date=b/tape"), [0; 2048]).unwrap();
        fs::write(dir.path().join("lock"), "").unwrap();
        let mut out = Vec::new();
        tree(dir.path(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let text = text.replace(dir.path().to_str().unwrap(), "DIR");
        expect![[r#"
            DIR/
              feed=a/
                date=b/
                  tape       2KiB
              lock             0B
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_tape_begins_with_its_header() {
        let recording = Recording::new();
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        for _ in 0..50_000 {
            segment.text(b"{}");
        }
        let path = recording.put(&segment, Form::Zstd);
        assert_eq!(newest_segment(recording.path()).unwrap(), path);
        let mut out = Vec::new();
        first_lines(&path, 40, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), LINES_SHOWN);
        assert!(text.lines().next().unwrap().contains("!{\"event\":\"segm"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 40), "{text}");
    }
}
