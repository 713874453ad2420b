//! What is deleted, by a recorder with `--keep` and by hand, and what readers make of it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::Signal;

use super::program::{FEED, Run, eventually, output, program};
use super::script::accept;
use super::server::Scheme;
use super::wire::Message;

/// So many in a recording; `n` of the last is one less.
const MESSAGES: usize = 10_000;
const LAST: &str = "\"n\":9999";

/// Messages whose lines fill several segments of 64 KiB, and don't compress well.
fn messages() -> Vec<Message> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut pad = || -> String { (0..200).map(|_| random.alphanumeric()).collect() };
    (0..MESSAGES).map(|n| Message::text(format!("{{\"n\":{n},\"pad\":\"{}\"}}", pad()))).collect()
}

/// A finished recording of many segments.
fn recorded(compress: &str) -> Run {
    Run::serve(Scheme::Ws, [accept().messages(&messages()).expect_bye()])
        .option("--compress", compress)
        .args("--rotate-bytes 64KiB --max-messages 10000 --fsync never --stop-timeout 60s")
        // Its own tape would be among what goes.
        .args("--self-every 0")
        .finish(0)
}

/// The segments of the feed, oldest first.
fn segments(run: &Run) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let feed = run.out().join(format!("feed={FEED}"));
    for day in std::fs::read_dir(feed).unwrap() {
        let day = day.unwrap().path();
        let Ok(files) = std::fs::read_dir(day) else { continue };
        let files = files.map(|file| file.unwrap().path());
        found.extend(files.filter(|path| path.to_string_lossy().contains(".tape")));
    }
    found.sort();
    found
}

fn bytes(paths: &[PathBuf]) -> u64 {
    paths.iter().map(|path| path.metadata().unwrap().len()).sum()
}

fn prune(run: &Run, options: &[&str]) -> Output {
    let out = run.out();
    let mut args = vec!["prune", "--out", out.to_str().unwrap()];
    args.extend(options);
    output(&args)
}

/// The lines on stdout of a prune that ends well.
fn pruned(run: &Run, options: &[&str]) -> Vec<String> {
    let output = prune(run, options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{options:?}: {said}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
}

/// What remains is sound for `verify`, `cat`, `info`, and for `sha256sum` where there are sums.
fn check_sound(run: &Run) {
    run.verify(0);
    for command in ["cat", "info"] {
        let output = output(&[command, run.out().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command}: {said}");
    }
    let folder = segments(run)[0].parent().unwrap().to_path_buf();
    if folder.join("_SHA256SUMS").exists() {
        check_sums(&folder);
    }
}

fn check_sums(folder: &Path) {
    let check = std::process::Command::new("sha256sum")
        .args(["--check", "--strict", "_SHA256SUMS"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn by_hand_the_oldest_go() {
    for compress in ["zstd", "gzip", "none"] {
        let run = recorded(compress);
        let all = segments(&run);
        assert!(all.len() > 15, "{compress}: {all:?}");
        let fits = bytes(&all[all.len() - 10..]);
        assert!(fits > 1 << 18, "{compress}: {fits}");
        // The bounds of --keep-bytes are for recordings larger than a test's.
        let keep = (1 << 20).max(fits).to_string();
        let goes = all.len()
            - all
                .iter()
                .rev()
                .scan(0, |sum, path| {
                    *sum += path.metadata().unwrap().len();
                    Some(*sum)
                })
                .take_while(|sum| *sum <= keep.parse().unwrap())
                .count();
        let options = ["--keep-bytes", &keep, "--compress", compress];

        let shown = pruned(&run, &[&options[..], &["--dry-run"]].concat());
        assert_eq!(segments(&run), all, "{compress}: nothing went");
        assert_eq!(shown.len(), goes + 1, "{compress}: {shown:?}");
        assert!(shown[goes].starts_with(&format!("would delete {goes} segments, ")), "{shown:?}");
        let told = pruned(&run, &options);
        assert_eq!(told[..goes], shown[..goes], "{compress}");
        for (line, path) in told[..goes].iter().zip(&all) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(line.contains(name) && line.ends_with("more than --keep-bytes 1MiB"), "{line}");
        }
        assert!(told[goes].starts_with(&format!("deleted {goes} segments, ")), "{told:?}");
        assert_eq!(segments(&run), all[goes..], "{compress}");
        check_sound(&run);
        assert_eq!(pruned(&run, &options), ["deleted 0 segments, 0B"]);
    }
}

#[test]
fn what_is_typed_wrong() {
    let run = Run::new();
    for (options, words) in [
        (&[][..], "give --keep, --keep-bytes, or both"),
        (&["--keep", "0"], "give --keep"),
        (&["--keep", "1s", "--keep-bytes", "1KiB"], "must be from 1m"),
        (&["--keep-bytes", "many"], "'many'"),
        (&["--keep", "1d", "--compress", "lzma"], "lzma"),
    ] {
        let output = prune(&run, options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {said}");
        assert!(said.contains(words), "{options:?}: {said}");
    }
    let output = prune(&run, &["--keep", "1d"]);
    assert_eq!(output.status.code(), Some(1), "there is no such folder");
    assert!(!run.out().exists());
}

/// A recorder holds the folder: only a look is allowed.
#[test]
fn not_beside_a_recorder() {
    let script = accept().text("one").wait_for("go").expect_bye();
    let run = Run::serve(Scheme::Ws, [script]).start();
    run.on_tape("one");
    let output = prune(&run, &["--keep", "1d"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a recorder is using") && said.contains("--dry-run"), "{said}");
    assert_eq!(pruned(&run, &["--keep", "1d", "--dry-run"]), ["would delete 0 segments, 0B"]);
    run.server().go("go");
    run.signal(Signal::SIGTERM);
    run.finish(0);
}

/// With and without a sealer the recorder deletes by itself, while it runs.
#[test]
fn a_recorder_deletes_what_is_not_kept() {
    for compress in ["zstd", "none"] {
        let run = recorded(compress);
        let oldest = segments(&run)[0].clone();
        let script = accept().messages(&messages()).wait_for("go").expect_bye();
        let run = run.serve_again(Scheme::Ws, [script]).args("--keep-bytes 1MiB").start();
        eventually("the oldest segment is gone", || (!oldest.exists()).then_some(()));
        run.on_tape(LAST);
        run.server().go("go");
        let run = run.finish(0);
        check_sound(&run);
        let left = bytes(&segments(&run));
        assert!(left <= 1 << 20, "{compress}: {left} bytes are left");
        let said = run.stderr();
        assert!(said.contains("f: deleted segment 0, "), "{said}");
        assert!(said.contains("more than --keep-bytes 1MiB"), "{said}");
        assert!(said.lines().any(|line| line.starts_with("deleted ")), "the report: {said}");
    }
}

/// The segments of a feed that is recorded no more go as well, down to its last.
#[test]
fn a_feed_that_is_recorded_no_more() {
    let run = recorded("none");
    let files = segments(&run);
    let old = run.out().join("feed=old");
    let day = old.join("date=2020-01-02");
    std::fs::create_dir_all(&day).unwrap();
    for path in &files {
        let (_, number) = path.to_str().unwrap().split_once("Z.").unwrap();
        std::fs::rename(path, day.join(format!("old.20200102T000000Z.{number}"))).unwrap();
    }
    let feed = run.out().join(format!("feed={FEED}"));
    std::fs::rename(feed.join(".next"), old.join(".next")).unwrap();
    std::fs::remove_dir_all(feed).unwrap();
    let script = accept().messages(&messages()).wait_for("go").expect_bye();
    let run = run.serve_again(Scheme::Ws, [script]).args("--keep-bytes 1MiB").start();
    run.on_tape(LAST);
    run.server().go("go");
    let run = run.finish(0);
    let said = run.stderr();
    let last = files.len() - 1;
    assert!(said.contains(&format!("old: deleted segment {last}, ")), "{said}");
    let left: Vec<_> = std::fs::read_dir(&old).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, [".next"], "the day's folder is gone, the feed's is not");
}

/// A file that `cat` has open is read to its end, and one that it had listed is left out.
#[test]
fn cat_goes_on_while_files_go() {
    let long: Vec<Message> = (0..2).flat_map(|_| messages()).collect();
    let run = Run::serve(Scheme::Ws, [accept().messages(&long).expect_bye()])
        .args("--max-messages 20000 --duration 30s --self-every 0")
        .finish(0);
    let short = |run: Run, text| {
        let script = accept().text(text).wait_for("go").expect_bye();
        let run = run.serve_again(Scheme::Ws, [script]).start();
        run.on_tape(text);
        run.server().go("go");
        run.signal(Signal::SIGTERM);
        run.finish(0)
    };
    let run = short(short(run, "the second"), "the third");
    let files = segments(&run);
    assert_eq!(files.len(), 3);
    // More than cat and the pipe hold.
    assert!(bytes(&files[..1]) > 3 << 20, "{}", bytes(&files[..1]));

    let mut cat = program()
        .arg("cat")
        .arg(run.out())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = cat.stdout.take().unwrap();
    let mut text = vec![0; 1000];
    stdout.read_exact(&mut text).unwrap();
    let told = pruned(&run, &["--keep-bytes", "1MiB", "--compress", "none"]);
    assert_eq!((told.len(), files[0].exists()), (2, false), "{told:?}");
    std::fs::remove_file(&files[1]).unwrap();
    stdout.read_to_end(&mut text).unwrap();
    let ended = cat.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.is_empty(), "{said}");
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("{\"n\":").count(), 2 * MESSAGES);
    assert!(!text.contains("the second") && text.contains("the third"));
    run.verify(0);
}

/// By age: what ended long ago goes, whatever feed it is of, and its day's folder with it.
#[test]
fn what_ended_long_ago_goes() {
    let run = recorded("zstd");
    let all = segments(&run);
    let folder = all[0].parent().unwrap();
    // The day is another one: names tell when, and nothing reads the files but the newest one.
    let old = folder.with_file_name("date=2020-01-02");
    std::fs::create_dir(&old).unwrap();
    for path in &all[..5] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (_, number) = name.split_once("Z.").unwrap();
        std::fs::rename(path, old.join(format!("{FEED}.20200102T000000Z.{number}"))).unwrap();
    }
    let told = pruned(&run, &["--keep", "30d"]);
    // When the fifth ended is told by the sixth, which is of today.
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told[0].ends_with("older than --keep 30d"), "{told:?}");
    assert_eq!(std::fs::read_dir(&old).unwrap().count(), 1);
    assert_eq!(segments(&run).len(), all.len() - 4);
}
