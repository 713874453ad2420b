//! Segments: one after the other, over restarts, sealed in each form; and the lock.

use std::path::Path;

use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use super::program::{FEED, Run, on_both};
use super::script::{Script, accept};
use super::wire::Message;

/// Messages whose lines fill several segments of 64 KiB.
fn several_segments() -> Vec<Message> {
    (0..3000).map(|n| Message::text(format!("{{\"n\":{n},\"pad\":\"{n:080}\"}}"))).collect()
}

fn several_segments_script() -> Script {
    accept().messages(&several_segments()).expect_bye()
}

#[test]
fn rotation_by_size() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [several_segments_script()])
            .args("--rotate-bytes 64KiB --max-messages 3000")
            .finish(0);
        let tape = run.tape();
        assert!(tape.files.len() >= 4, "{:?}", tape.files);
        assert!(tape.messages() == several_segments());
        for file in &tape.files {
            assert!(file.name.ends_with(".tape"), "{}", file.name);
            let bytes = file.path.metadata().unwrap().len();
            assert!(bytes <= (64 << 10) + 1024, "{} has {bytes} bytes", file.name);
        }
        let headers = tape.events("segment");
        assert_eq!(headers[0]["conn"], serde_json::Value::Null);
        assert!(headers[1..].iter().all(|header| header["conn"] == 1), "{headers:?}");
        run.verify(0);
    });
}

#[test]
fn a_restart_goes_on() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().text("one").expect_bye()])
            .args("--max-messages 1")
            .finish(0);
        let before = run.tape();
        let bytes_before = std::fs::read(&before.files[0].path).unwrap();
        let run = run.serve_again(scheme, [accept().text("two").expect_bye()]).finish(0);
        let tape = run.tape();
        assert_eq!(
            tape.outline(),
            [
                "segment 0",
                "connecting 1",
                "connected 1",
                "text \"one\"",
                "disconnected 1 1000",
                "end",
                "segment 1",
                "connecting 1",
                "connected 1",
                "gap restart",
                "text \"two\"",
                "disconnected 1 1000",
                "end",
            ]
        );
        assert_eq!(std::fs::read(&tape.files[0].path).unwrap(), bytes_before);
        let gap = tape.events("gap")[0];
        assert_eq!(gap["messages"], serde_json::Value::Null);
        let last_before = before.entries.iter().map(|entry| entry.ts).max().unwrap();
        assert_eq!(gap["from_ts"], last_before);
        run.verify(0);
    });
}

/// The numbers go on even where all files were moved away.
#[test]
fn a_restart_without_the_old_files() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().text("one").expect_bye()])
            .args("--max-messages 1")
            .finish(0);
        let before = run.tape();
        std::fs::remove_file(&before.files[0].path).unwrap();
        let run = run.serve_again(scheme, [accept().text("two").expect_bye()]).finish(0);
        let feed = run.out().join(format!("feed={FEED}"));
        let next = std::fs::read_to_string(feed.join(".next")).unwrap();
        let next: serde_json::Value = serde_json::from_str(&next).unwrap();
        assert_eq!(next["segment"], 2);
        assert!(next["index"].as_u64().unwrap() > 2 * before.entries.len() as u64 - 1, "{next}");
        let lines = super::tape::Tape::peek(&run.out(), FEED);
        let header = format!("\"segment\":1,\"first_index\":{}", before.entries.len());
        assert!(lines[0].contains(&header), "{}", lines[0]);
    });
}

#[test]
fn a_second_recorder_is_kept_out() {
    on_both(|scheme| {
        let run = Run::serve(scheme, [accept().text("one").wait_for("go").expect_bye()]).start();
        run.on_tape("one");
        let second = run.command().output().unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("in use by another recorder"), "{said}");
        run.server().go("go");
        run.signal(Signal::SIGTERM);
        assert_eq!(run.finish(0).tape().messages().len(), 1);
    });
}

#[test]
fn sealed_in_each_form() {
    for (how, ending) in [("zstd", ".tape.zst"), ("gzip", ".tape.gz"), ("none", ".tape")] {
        on_both(|scheme| {
            let run = Run::serve(scheme, [several_segments_script()])
                .option("--compress", how)
                .args("--rotate-bytes 64KiB --max-messages 3000")
                .finish(0);
            let tape = run.tape();
            assert!(tape.messages() == several_segments(), "{how}");
            assert!(tape.files.len() >= 4, "{how}: {:?}", tape.files);
            for file in &tape.files {
                assert!(file.name.ends_with(ending), "{how}: {}", file.name);
            }
            let folder = tape.files[0].path.parent().unwrap();
            let mut names: Vec<String> = tape.files.iter().map(|file| file.name.clone()).collect();
            if how != "none" {
                check_sums(folder, &names);
                names.push("_SHA256SUMS".to_string());
            }
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            names.sort();
            assert_eq!(found, names, "{how}: nothing is left over");
            run.verify(0);
        });
    }
}

/// The sums file lists exactly these files, as `sha256sum` would.
fn check_sums(folder: &Path, names: &[String]) {
    let sums = std::fs::read_to_string(folder.join("_SHA256SUMS")).unwrap();
    let mut listed: Vec<&str> = sums.lines().collect();
    listed.sort_unstable_by_key(|line| &line[64..]);
    let mut expected: Vec<String> = Vec::new();
    for name in names {
        let digest = Sha256::digest(std::fs::read(folder.join(name)).unwrap());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        expected.push(format!("{hex}  {name}"));
    }
    expected.sort_unstable_by(|a, b| a[64..].cmp(&b[64..]));
    assert_eq!(listed, expected);
}

/// The default is zstd, and what it writes ends with the seekable format's seek table.
#[test]
fn the_default_is_seekable_zstd() {
    const SEEKABLE_MAGIC: [u8; 4] = 0x8F92_EAB1_u32.to_le_bytes();
    on_both(|scheme| {
        let run = Run::serve(scheme, [several_segments_script()])
            .compress_by_default()
            .args("--max-messages 3000")
            .finish(0);
        let tape = run.tape();
        assert_eq!(tape.files.len(), 1);
        assert!(tape.messages() == several_segments());
        let bytes = std::fs::read(&tape.files[0].path).unwrap();
        assert!(bytes.ends_with(&SEEKABLE_MAGIC));
    });
}
