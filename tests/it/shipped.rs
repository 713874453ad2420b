//! What ships beside the program: the example of a feeds file, the Dockerfile, the alerts. What
//! they tell users to type works, and the figures in them are those that the program gives.

use std::path::{Path, PathBuf};

use super::program::program;

/// A file of the source tree.
fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a command prints of the example as it is.
fn of_the_example(command: &[&str]) -> String {
    let example = shipped("systemd/feeds.toml");
    let mut run = program();
    run.arg(command[0]).arg("--config").arg(example).args(&command[1..]);
    let output = run.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The unit gives `--out` itself, so the example does not: `check` and `plan` wanted it all the
/// same, and the commands that the unit, the example and the drop-ins tell to type failed.
#[test]
fn the_example_is_checked_and_planned_without_a_folder() {
    let listed = of_the_example(&["check"]);
    assert!(listed.starts_with("trades: websocket wss://"), "{listed}");
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(of_the_example(&["plan"]).contains("MemoryMax="));
}
