//! `feedtape mem` on running processes: a recorder, a child of another kind, none at all; and the
//! line of `--report-every`.
//!
//! What it says of cgroups depends on the machine: here it is checked that it says something, and
//! that figures which belong together fit. The files of both versions are tables beside the code.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::{Run, output};
use super::script::accept;
use super::server::Scheme;

/// A child that waits, and is killed with the test.
struct Waiting(Child);

impl Waiting {
    fn start() -> Waiting {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Once it has spoken it is the shell, and no copy of this test.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Waiting(child)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What `mem PID --json` prints.
fn figures(pid: u32) -> Value {
    let output = output(&["mem", &pid.to_string(), "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks what holds of any process that may be looked at.
fn check_plausible(said: &Value) {
    let bytes = |name: &str| said[name].as_u64().unwrap_or_else(|| panic!("{name} in {said}"));
    let parts = bytes("rss_anon_bytes") + bytes("rss_file_bytes") + bytes("rss_shmem_bytes");
    assert_eq!(bytes("rss_bytes"), parts, "{said}");
    assert!(bytes("rss_anon_bytes") > 0 && bytes("rss_file_bytes") > 0, "{said}");
    assert!(bytes("vsz_bytes") >= bytes("rss_bytes"), "{said}");
    assert!(bytes("vsz_peak_bytes") >= bytes("vsz_bytes"), "{said}");
    assert!(bytes("pss_bytes") > 0, "{said}");
    assert!(bytes("fds") >= 2 && bytes("threads") >= 1, "{said}");
    let mapped: u64 = [
        "stacks_bytes",
        "main_heap_bytes",
        "arenas_bytes",
        "anonymous_bytes",
        "shared_memory_bytes",
        "file_mappings_bytes",
        "reserved_bytes",
    ]
    .into_iter()
    .map(bytes)
    .sum();
    // The kernel's own page for system calls is no part of the size.
    assert!(mapped.abs_diff(bytes("vsz_bytes")) <= 64 << 10, "{mapped} in {said}");
    if said["cgroup_version"].is_u64() {
        assert!(bytes("cgroup_usage_bytes") > 0, "{said}");
        assert!(bytes("docker_bytes") <= bytes("cgroup_usage_bytes"), "{said}");
    } else {
        assert!(said["unknown"]["cgroup_usage_bytes"].is_string(), "{said}");
    }
    assert!(!said["verdict"].as_str().unwrap().is_empty());
}

#[test]
fn a_recorder_is_explained() {
    let script = accept().text("hello").expect_bye();
    let run = Run::serve(Scheme::Ws, [script]).start();
    run.on_tape("hello");
    let said = figures(run.pid());
    check_plausible(&said);
    assert_eq!(said["name"], "feedtape");
    assert_eq!(said["out"], run.out().canonicalize().unwrap().to_str().unwrap());
    assert!(said["tapes_cached_bytes"].as_u64().unwrap() > 0, "{said}");
    assert!(said["sockets"].as_u64().unwrap() >= 1, "{said}");
    let reason = said["unknown"]["heap_in_use_bytes"].as_str();
    assert!(said["heap_in_use_bytes"].is_u64() || reason.unwrap().contains("from outside"));

    let text = output(&["mem", &run.pid().to_string()]).stdout;
    let text = String::from_utf8(text).unwrap();
    for part in ["recorder of ", "RSS, anonymous", "PAGE CACHE OF THE TAPES", "VERDICT"] {
        assert!(text.contains(part), "'{part}' in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    run.signal(Signal::SIGTERM);
    run.finish(0);
}

#[test]
fn any_other_process_is_explained_with_less_detail() {
    let child = Waiting::start();
    let said = figures(child.0.id());
    check_plausible(&said);
    assert!(said["out"].is_null() && said["tapes_cached_bytes"].is_null(), "{said}");
    let reason = said["unknown"]["heap_in_use_bytes"].as_str().unwrap();
    assert!(reason.contains("only the program itself"), "{reason}");
    let text = output(&["mem", &child.0.id().to_string()]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("not a recorder"));
}

#[test]
fn a_process_that_is_gone_and_a_number_that_is_none() {
    let child = Waiting::start();
    let pid = child.0.id().to_string();
    drop(child);
    for (pid, code, words) in
        [(pid.as_str(), 1, "there is no process"), ("soon", 2, "'soon'"), ("0", 2, "'0'")]
    {
        let output = output(&["mem", pid]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{pid}: {said}");
        assert!(output.stdout.is_empty() && said.contains(words), "{pid}: {said}");
    }
}

#[test]
fn without_a_number_a_recorder_is_looked_for() {
    // Other tests run recorders at the same time: it finds one or several.
    let script = accept().text("hello").expect_bye();
    let run = Run::serve(Scheme::Ws, [script]).start();
    run.on_tape("hello");
    let output = output(&["mem", "--json"]);
    match output.status.code() {
        Some(0) => {
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(said["pid"], run.pid());
        }
        Some(2) => {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("recorders are running") && said.contains("write which one"));
            assert!(said.contains(&run.pid().to_string()), "{said}");
        }
        code => panic!("{code:?}: {output:?}"),
    }
    run.signal(Signal::SIGTERM);
    run.finish(0);
}

#[test]
fn the_log_tells_how_things_stand() {
    let script = accept().text("hello").text("there").expect_bye();
    let run = Run::serve(Scheme::Ws, [script]).args("--report-every 1s").start();
    run.said_times("1 of 1 feeds live, 0 gaps, 0 dropped", 2);
    let said = run.stderr();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("feeds live")).collect();
    // On a slow machine the first line may come before them.
    let messages = lines.iter().map(|line| {
        let (before, _) = line.split_once(" messages, ").unwrap();
        before.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    });
    assert_eq!(messages.sum::<u64>(), 2, "each is counted in one line: {said}");
    for part in ["queue ", "memory: anonymous ", "heap ", " descriptors, ", " threads"] {
        assert!(lines.iter().all(|line| line.contains(part)), "{part}: {said}");
    }
    run.signal(Signal::SIGTERM);
    run.finish(0);
}
