//! The README's examples, as they stand there: each command is run, each feeds file checked.
//!
//! They run by bash, in a folder with a recording of the demo, a feeds file, and a credential.
//! What would reach out of this machine, or waits for somebody, is changed by [`tamed`] first.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::program::program;

fn readme() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap()
}

/// The commands of the README: they stand in indented blocks, some after a `$`. What continues a
/// line is part of it.
fn commands(readme: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    let mut is_fenced = false;
    for line in readme.lines() {
        is_fenced ^= line.starts_with("```");
        let Some(text) = line.strip_prefix("    ").filter(|_| !is_fenced) else {
            goes_on = false;
            continue;
        };
        let text = text.strip_prefix("$ ").unwrap_or(text);
        let is_command = ["feedtape ", "zstd ", "cd "].iter().any(|word| text.starts_with(word));
        if goes_on {
            let command = commands.last_mut().unwrap();
            command.push('\n');
            command.push_str(text);
        } else if is_command {
            commands.push(text.to_string());
        } else {
            continue;
        }
        goes_on = text.ends_with('\\');
    }
    commands
}

/// The command as it can be run anywhere: what records is checked only, and nothing connects.
fn tamed(command: &str) -> String {
    let checked = match command.strip_prefix("feedtape record ") {
        Some(args) => format!("feedtape check {args}"),
        None => command.to_string(),
    };
    // Of the shell that runs it: how many recorders run on this machine is not known.
    let checked = match checked.strip_prefix("feedtape mem ") {
        Some(args) if !args.contains("--history") => format!("feedtape mem $$ {args}"),
        _ => checked,
    };
    checked.replace(" --connect", "").replace("less -S", "cat").replace(" | head", " | cat")
}

/// The feeds file of the README: its one block of TOML.
fn feeds_file(readme: &str) -> &str {
    let blocks: Vec<&str> = readme.split("```toml\n").skip(1).collect();
    blocks[0].split("```").next().unwrap()
}

fn prepare(folder: &Path) {
    let demo = program().current_dir(folder).args(["demo", "--duration", "1s"]).output().unwrap();
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    let mut copy = Command::new("cp");
    let copied = copy.args(["-a", "demo-recording", "tapes"]).current_dir(folder).status();
    assert!(copied.unwrap().success());
    fs::write(folder.join("venue-token"), "token").unwrap();
}

#[test]
fn every_command_works() {
    let readme = readme();
    let commands = commands(&readme);
    for part in ["record --config", "verify", "recover", "prune", "new okx", "sha256sum"] {
        assert!(commands.iter().any(|command| command.contains(part)), "{part}: {commands:#?}");
    }
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let bin = Path::new(env!("CARGO_BIN_EXE_feedtape")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for command in &commands {
        // One of them writes a file of its own there.
        fs::write(folder.path().join("feeds.toml"), feeds_file(&readme)).unwrap();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &tamed(command)])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", &path)
            .env("CREDENTIALS_DIRECTORY", folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}\n{}\n{said}", tamed(command));
    }
}
