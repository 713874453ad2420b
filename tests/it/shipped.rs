//! What ships beside the program: the example of a feeds file, the Dockerfile, the alerts. What
//! they tell users to type works, and the figures in them are those that the program gives.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

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

/// The Dockerfile said 64m, with which the recorder refuses to start, and the README 96m.
#[test]
fn a_container_gets_the_memory_that_the_plan_asks_for() {
    let plan: Value = serde_json::from_str(&of_the_example(&["plan", "--json"])).unwrap();
    let needed = plan["memory_max"].as_u64().unwrap().div_ceil(1 << 20);
    for path in ["README.md", "scripts/package.d/Dockerfile"] {
        let text = fs::read_to_string(shipped(path)).unwrap();
        let given: Vec<u64> = ["--memory ", "--memory-swap "]
            .iter()
            .flat_map(|option| text.split(option).skip(1))
            .filter_map(|rest| rest.split_once('m')?.0.parse().ok())
            .collect();
        assert_eq!(given, [128, 128], "{path}: one figure everywhere");
        assert!((needed..2 * needed).contains(&given[0]), "{path}: {needed}m are needed");
    }
}

/// The README comes with the package, and links files of the source tree: those that are of use
/// to who has the package only must be in it, too.
#[test]
fn what_the_readme_links_is_in_the_package() {
    let manifest = fs::read_to_string(shipped("Cargo.toml")).unwrap();
    let readme = fs::read_to_string(shipped("README.md")).unwrap();
    let links = readme.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let files: Vec<&str> = links.filter(|link| shipped(link).is_file()).collect();
    assert!(files.contains(&"scripts/prometheus.d/feedtape.rules.yml"), "{files:?}");
    for file in files.iter().filter(|file| **file != "LICENSE") {
        let asset = format!("[\"{file}\", \"usr/share/doc/feedtape/");
        assert!(manifest.contains(&asset), "{file} is not among the assets");
    }
}
