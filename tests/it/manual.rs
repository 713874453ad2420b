//! Manual pages and completion scripts: one page for each command, scripts that the shell reads.

use std::io::Write;
use std::process::{Command, Stdio};

use super::program::output;

fn stdout(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `feedtape help` lists.
fn commands() -> Vec<String> {
    let help = stdout(&["help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // A name begins after two blanks; what it does goes on in lines that are indented further.
    let names = listed.filter(|line| !line[2..].starts_with(' '));
    names.map(|line| line.split_whitespace().next().unwrap().to_string()).collect()
}

#[test]
fn a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("man/man1");
    stdout(&["man", "--to", to.to_str().unwrap()]);
    let commands = commands();
    assert!(commands.contains(&"record".to_string()), "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        let page = std::fs::read_to_string(to.join(format!("feedtape-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}: {page}");
        assert_eq!(page, stdout(&["man", command]), "the same page is printed");
    }
    let page = std::fs::read_to_string(to.join("feedtape.1")).unwrap();
    assert_eq!(page, stdout(&["man"]));
    for section in ["FILES", "SIGNALS", "EXIT STATUS", "ALERTS", "UPGRADING", "EXAMPLES"] {
        assert!(page.contains(&format!(".SH {section}\n")), "{section}: {page}");
    }
    for part in ["feedtape.rules.yml", "feedtape ctl status"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn a_command_that_is_none() {
    let output = output(&["man", "replace"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("'replace'"));
}

/// bash is on every machine that builds this; it reads the script without running it.
#[test]
fn completions_are_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("--rotate-every") || script.contains("rotate-every"), "{shell}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    let script = stdout(&["completions", "bash"]);
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    assert_eq!(output(&["completions", "tcsh"]).status.code(), Some(2));
}
