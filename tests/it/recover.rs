//! Recovery with the built program: after a kill, by hand, and over restarts in which things
//! changed between the runs.

use std::path::{Path, PathBuf};
use std::process::Output;

use nix::sys::signal::Signal;

use super::program::{FEED, Run, output};
use super::script::{Script, accept};
use super::server::{Scheme, Server};
use super::wire::Message;

fn one(text: &str) -> [Script; 1] {
    [accept().text(text).expect_bye()]
}

/// A run that recorded one message and ended.
fn ended_run() -> Run {
    Run::serve(Scheme::Ws, one("one")).args("--max-messages 1").finish(0)
}

/// Kills the program once it has `text` on the tape.
fn kill_after(run: Run, text: &str) -> Run {
    run.on_tape(text);
    run.signal(Signal::SIGKILL);
    run.was_killed()
}

/// The segment files of a feed, by number.
fn segments(run: &Run, feed: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let folder = run.out().join(format!("feed={feed}"));
    for date in std::fs::read_dir(folder).into_iter().flatten() {
        let date = date.unwrap().path();
        if date.is_dir() {
            files.extend(std::fs::read_dir(date).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    files.retain(|path| name(path).contains(".tape"));
    files.sort_by_key(|path| number(path));
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

fn number(path: &Path) -> u64 {
    let name = name(path);
    name.split_once(".tape").unwrap().0.rsplit_once('.').unwrap().1.parse().unwrap()
}

fn recover(args: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = output(&[&["recover"], args].concat());
    let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "recover said: {said}");
    said.into_owned()
}

fn recover_run(run: &Run, code: i32) -> String {
    recover(&[run.out().to_str().unwrap()], code)
}

/// They stayed open for ever once the feed was off the command line.
#[test]
fn a_start_finishes_feeds_that_are_recorded_no_more() {
    let run = Run::serve(Scheme::Ws, one("one")).compress_by_default().start();
    let run = kill_after(run, "one");
    let own = run.out().join("feed=_feedtape/date=2026-01-01");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("_feedtape.20260101T000000Z.000000.tape.open"), "torn").unwrap();
    let run = run
        .instead([("other", Server::start(Scheme::Ws, one("two")))])
        .args("--max-messages 1")
        .finish(0);
    let [sealed] = &segments(&run, FEED)[..] else { panic!("{:?}", segments(&run, FEED)) };
    assert!(name(sealed).ends_with(".tape.zst"), "finished, and sealed in the background");
    assert_eq!(run.tape_of("other").messages(), [Message::text("two")]);
    assert!(own.join("_feedtape.20260101T000000Z.000000.tape.open.damaged").exists());
    run.verify(0);
}

#[test]
fn by_hand_as_a_start_would() {
    let run = Run::serve(Scheme::Ws, one("one")).args("--self-every 0").start();
    run.on_tape("one");
    let said = recover_run(&run, 1);
    assert!(said.contains("stop it first") && said.contains("--into"), "{said}");
    run.signal(Signal::SIGKILL);
    let run = run.was_killed();
    let said = recover_run(&run, 0);
    assert!(said.contains("000000: finished with 6 lines"), "{said}");
    assert!(recover_run(&run, 0).contains("1 whole, 0 finished"));
    run.verify(0);
    let run = run.serve_again(Scheme::Ws, one("two")).args("--max-messages 1").finish(0);
    assert_eq!(run.tape().messages(), ["one", "two"].map(Message::text));
}

/// Frames of a mebibyte as the sealer makes them: one is damaged in the middle.
#[test]
fn a_damaged_frame_costs_its_own_lines() {
    let sent: Vec<Message> = (0..32_000).map(|n| Message::text(format!("{n:0100}"))).collect();
    let run = Run::serve(Scheme::Ws, [accept().messages(&sent).expect_bye()])
        .compress_by_default()
        .args("--max-messages 32000")
        .finish(0);
    let path = segments(&run, FEED).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    run.verify(3);
    let said = recover_run(&run, 3);
    run.verify(0);
    let lost = said.split("lost ").nth(1).unwrap().split(' ').next().unwrap();
    let lost: usize = lost.parse().unwrap();
    // Those of a frame; what a mark within it covers is saved, and where marks stand depends on how
    // the messages came in.
    assert!((1..15_000).contains(&lost), "a mebibyte of them: {said}");
    assert!(said.contains(" lines, index "), "{said}");
    let out = run.out();
    let cat = output(&["cat", "--messages", out.to_str().unwrap()]);
    let kept = String::from_utf8(cat.stdout).unwrap();
    let mut sent = sent.iter();
    for line in kept.lines() {
        let found = sent.any(|message| *message == Message::text(line));
        assert!(found, "{line} was sent, in this order");
    }
    let missing = 32_000 - kept.lines().count();
    // A mark may be among the lines.
    assert!(missing <= lost && lost <= missing + 2, "{missing} of {lost}: {said}");
    assert_eq!(std::fs::read(format!("{}.damaged", path.display())).unwrap(), bytes);
}

#[test]
fn into_another_folder_and_on_from_there() {
    let run = Run::serve(Scheme::Ws, one("one")).start();
    let run = kill_after(run, "one");
    let into = run.path("saved");
    let args = [run.out().to_str().unwrap().to_string(), into.to_str().unwrap().to_string()];
    let before = segments(&run, FEED);
    recover(&[&args[0], "--into", &args[1]], 0);
    assert_eq!(segments(&run, FEED), before, "the source is as it was");
    let verified = output(&["verify", &args[1]]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(recover(&[&args[0], "--into", &args[1]], 1).contains("is there already"));
    assert!(recover(&[&args[0], "--into", &args[0]], 1).contains("give another folder"));
    assert!(recover(&[], 2).contains("PATH"));
}

/// Names only rise, whatever became of the files between two runs.
#[test]
fn numbers_go_on() {
    let check = |story: &str, change: &dyn Fn(&Run, &Path), numbers: &[u64]| {
        let run = ended_run();
        let run = run.serve_again(Scheme::Ws, one("two")).finish(0);
        let files = segments(&run, FEED);
        assert_eq!(files.len(), 2, "two runs within a second may well share it: {files:?}");
        change(&run, &run.out().join(format!("feed={FEED}/.next")));
        let run = run.serve_again(Scheme::Ws, one("three")).finish(0);
        let found: Vec<u64> = segments(&run, FEED).iter().map(|path| number(path)).collect();
        assert_eq!(found, numbers, "{story}");
        let last = std::fs::read(segments(&run, FEED).last().unwrap()).unwrap();
        let first_index = format!("\"first_index\":{},", if numbers == [0, 1] { 6 } else { 13 });
        let header = String::from_utf8_lossy(&last[..300]).into_owned();
        assert!(header.contains(&first_index), "{story}: {header}");
    };
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    check("nothing changed", &|_, _| {}, &[0, 1, 2]);
    check("all moved away", &|run, _| segments(run, FEED).iter().for_each(|p| remove(p)), &[2]);
    check("all but the old one", &|run, _| remove(&segments(run, FEED)[1]), &[0, 2]);
    check("no .next", &|_, next| remove(next), &[0, 1, 2]);
    for torn in ["", "{\"segm", "\0\0\0", "{}"] {
        check(torn, &|_, next| std::fs::write(next, torn).unwrap(), &[0, 1, 2]);
    }
    let lost = |run: &Run, next: &Path| {
        remove(next);
        remove(&segments(run, FEED)[1]);
    };
    check("the newest and .next are gone", &lost, &[0, 1]);
}

/// The name of the newest segment sorts after those that come: its stamp is of the future.
#[test]
fn the_clock_went_back_between_two_runs() {
    let run = ended_run();
    let file = segments(&run, FEED).remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let ts: u64 = text[..19].parse().unwrap();
    // The recording of a machine whose clock was a year ahead.
    let year = 31_536_000_000_000_000_u64;
    let later: String = text
        .lines()
        .map(|line| format!("{}{}\n", line[..19].parse::<u64>().unwrap() + year, &line[19..]))
        .collect();
    assert_eq!(later.len(), text.len());
    let date = |ts: u64| {
        feedtape::tape::name::SegmentName::new(
            &feedtape::tape::name::FeedName::new(FEED).unwrap(),
            0,
            ts,
        )
    };
    let form = feedtape::tape::name::Form::Plain;
    let moved = run.out().join(date(ts + year).path(form));
    std::fs::create_dir_all(moved.parent().unwrap()).unwrap();
    std::fs::rename(&file, &moved).unwrap();
    std::fs::write(&moved, &later).unwrap();
    let run = run.serve_again(Scheme::Ws, one("two")).finish(0);
    let numbers: Vec<u64> = segments(&run, FEED).iter().map(|path| number(path)).collect();
    assert_eq!(numbers, [0, 1]);
    assert!(name(&segments(&run, FEED)[1]) < name(&moved), "the name sorts before");
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), later, "nothing was written over");
}

#[test]
fn another_compression_in_each_run() {
    let mut run = ended_run().args("--self-every 0");
    for (text, compress) in [("two", "zstd"), ("three", "gzip"), ("four", "none")] {
        // The last one counts; what an earlier run left plain is sealed by the next that seals.
        run = run.serve_again(Scheme::Ws, one(text)).option("--compress", compress).finish(0);
    }
    let endings: Vec<String> = segments(&run, FEED)
        .iter()
        .map(|path| name(path).split_once(".tape").unwrap().1.to_string())
        .collect();
    assert_eq!(endings, [".zst", ".zst", ".gz", ""]);
    assert_eq!(run.tape().messages(), ["one", "two", "three", "four"].map(Message::text));
    assert!(recover_run(&run, 0).contains("5 whole"));
    run.verify(0);
}
