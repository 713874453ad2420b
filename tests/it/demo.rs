//! `feedtape demo`: the recording is whole and left alone by the next demo, with a terminal and
//! without one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output};

use nix::pty::{Winsize, openpty};

use super::program::program;

const FEEDS: [&str; 3] = ["trades", "book", "ticker"];
const COLUMNS: u16 = 72;

fn demo(folder: &Path) -> Command {
    let mut command = program();
    command.args(["demo", "--duration", "1s"]).current_dir(folder);
    command
}

/// The recording in `folder` holds something of each feed, sealed, and verify has no finding.
fn check_recording(folder: &Path) {
    for feed in FEEDS {
        let days = std::fs::read_dir(folder.join(format!("feed={feed}"))).unwrap();
        let days = days.map(|day| day.unwrap().path()).filter(|day| day.is_dir());
        let files: Vec<String> = days
            .flat_map(|day| std::fs::read_dir(day).unwrap())
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(files.iter().any(|name| name.ends_with(".tape.zst")), "{feed}: {files:?}");
        assert!(!files.iter().any(|name| name.ends_with(".open")), "{feed}: {files:?}");
    }
    let output = program().arg("verify").arg(folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn check_output(output: &Output, folder: &str) {
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{shown}");
    for words in ["3 feeds: ok", "{\"event\":\"segment\"", &format!("cat {folder} ")] {
        assert!(shown.contains(words), "'{words}' is not in: {shown}");
    }
    assert!(said.contains("all of them are on the tapes"), "{said}");
    for text in [&shown, &said] {
        assert!(!text.contains('\x1b'), "this is no terminal: {text}");
    }
    let too_long = shown.lines().find(|line| line.contains("{\"") && line.starts_with('1'));
    assert!(too_long.is_some_and(|line| line.len() <= 100), "{shown}");
}

#[test]
fn without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    check_output(&demo(dir.path()).output().unwrap(), "demo-recording");
    let first = dir.path().join("demo-recording");
    check_recording(&first);
    let before = std::fs::metadata(first.join("feed=trades/.next")).unwrap().modified().unwrap();

    // Nobody can be asked: the recording that is there stays as it is.
    check_output(&demo(dir.path()).output().unwrap(), "demo-recording-2");
    check_recording(&dir.path().join("demo-recording-2"));
    let after = std::fs::metadata(first.join("feed=trades/.next")).unwrap().modified().unwrap();
    assert_eq!(before, after);
}

/// Runs the demo on a terminal where `typed` was typed; returns what the terminal showed.
fn on_terminal(folder: &Path, typed: &str) -> String {
    let size = Winsize { ws_row: 40, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let slave = |fd: &OwnedFd| fd.try_clone().unwrap();
    let mut command = demo(folder);
    command.env("TERM", "xterm");
    command.stdin(slave(&pty.slave)).stdout(slave(&pty.slave)).stderr(pty.slave);
    let mut child = command.spawn().unwrap();
    // It holds the terminal too, which would never end.
    drop(command);
    let mut master = File::from(pty.master);
    master.write_all(typed.as_bytes()).unwrap();
    let mut shown = Vec::new();
    // At the end: EIO, once the other side is closed.
    let ended = master.read_to_end(&mut shown);
    assert!(ended.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EIO)));
    let shown = String::from_utf8(shown).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{shown}");
    shown
}

#[test]
fn on_a_terminal_it_draws_and_asks() {
    let dir = tempfile::tempdir().unwrap();
    let shown = on_terminal(dir.path(), "");
    assert!(!shown.contains("[y/N"), "{shown}");
    check_recording(&dir.path().join("demo-recording"));

    let mut tables = 0;
    for table in shown.split("\r\x1b[J").skip(1) {
        let (table, _) = table.split_once("\x1b[").unwrap();
        assert!(FEEDS.iter().all(|feed| table.contains(feed)), "{table}");
        assert!(table.lines().all(|row| row.trim_end().len() < COLUMNS.into()), "{table}");
        tables += 1;
    }
    assert!(tables >= 3, "{shown}");
    let lines = shown.lines().filter(|line| line.contains("{\"seq\":"));
    assert!(lines.clone().count() > 0);
    assert!(lines.into_iter().all(|line| line.trim_end().len() <= COLUMNS.into()), "{shown}");

    for (typed, adds) in [("\n", false), ("y\n", true)] {
        let shown = on_terminal(dir.path(), typed);
        assert!(shown.contains("[y/N"), "{shown}");
        let days = std::fs::read_dir(dir.path().join("demo-recording/feed=book")).unwrap();
        let files = days.map(|day| day.unwrap().path()).filter(|day| day.is_dir());
        let tapes = files.flat_map(|day| std::fs::read_dir(day).unwrap());
        let tapes = tapes.filter(|file| {
            file.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".tape.zst")
        });
        assert_eq!(tapes.count() > 1, adds, "after typing {typed:?}");
    }
    check_recording(&dir.path().join("demo-recording-2"));
    check_recording(&dir.path().join("demo-recording"));
}

#[test]
fn durations_out_of_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        program().args(["demo", "--duration", "0s"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!dir.path().join("demo-recording").exists());
}
