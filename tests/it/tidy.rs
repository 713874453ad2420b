//! Rules about the source, as tests: layers, module docs, lengths, leftovers, dependencies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The layers of the program: a module uses `crate::` only of its own layer or an earlier one.
const LAYERS: [&[&str]; 5] = [
    &["units", "backoff", "folding", "clock", "printable"],
    &["tape", "block", "stats", "memory", "storage", "heap_profile"],
    &["feed", "writer", "sealer", "syncer", "resolver", "recovery", "admin"],
    &["config", "service", "logging", "recorder", "report", "plan"],
    &["cli", "tools"],
];
/// A file is one noun; longer than this it is two.
const LINES_MAX: usize = 600;
/// A line fits a screen.
const COLUMNS_MAX: usize = 100;
/// An async runtime, or what pulls one in, is none of ours, however far down the tree.
const CRATES_UNWANTED: [&str; 6] =
    ["tokio", "async-std", "smol", "async-io", "futures-executor", "tiny_http"];

/// Each of these crates is used in one file, which hides it from the others.
const CRATES_OF_ONE_FILE: [&str; 4] = ["env_logger", "jiff", "sd_notify", "terminal_size"];

/// A source file with its tests apart.
struct Source {
    /// Relative to the package.
    path: String,
    /// All before the tests at its bottom.
    code: String,
    /// Compiled for tests only.
    is_test: bool,
}

impl Source {
    /// First module of the path under src/: `feed` of src/feed/session.rs.
    fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap();
        inner.split(['/', '.']).next().unwrap()
    }

    /// Lines of code that are no comments, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    rust_files(&root().join(folder), &mut files);
    assert!(!files.is_empty());
    files.sort();
    let codes: Vec<String> =
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let of_tests: BTreeSet<PathBuf> =
        files.iter().zip(&codes).flat_map(|(file, code)| test_modules(file, code)).collect();
    let mut sources = Vec::new();
    for (file, code) in files.iter().zip(codes) {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        let end = tests_begin(&code).unwrap_or(code.len());
        let is_test = of_tests.contains(file) || folder == "tests";
        sources.push(Source { path, code: code[..end].to_string(), is_test });
    }
    sources
}

/// Where the module of tests at the bottom of a file begins.
fn tests_begin(code: &str) -> Option<usize> {
    const ATTRIBUTE: &str = "\n#[cfg(test)]\n";
    let mut places = code.match_indices(ATTRIBUTE).map(|(at, _)| at);
    places.find(|at| {
        let line = code[at + ATTRIBUTE.len()..].lines().next().unwrap_or_default();
        line.contains("mod ") && line.ends_with('{')
    })
}

/// The files of modules that a file declares for tests only.
fn test_modules(file: &Path, code: &str) -> Vec<PathBuf> {
    let folder = match file.file_stem().and_then(std::ffi::OsStr::to_str) {
        Some("mod" | "lib" | "main") => file.parent().unwrap().to_path_buf(),
        _ => file.with_extension(""),
    };
    let declared = code.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let (_, name) = rest.lines().next()?.split_once("mod ")?;
        name.strip_suffix(';')
    });
    declared.map(|name| folder.join(format!("{name}.rs"))).collect()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Fails with all findings, not the first.
fn check(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn modules_use_their_own_layer_or_an_earlier_one() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let module = source.module();
        if source.is_test || matches!(module, "lib" | "main") {
            continue;
        }
        let Some(layer) = layer_of(module) else {
            findings.push(format!("{}: module '{module}' is in no layer", source.path));
            continue;
        };
        for (number, line) in source.lines() {
            for used in line.split("crate::").skip(1) {
                // `use crate::{a, b}` would hide modules from this test.
                let name = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
                match layer_of(name.unwrap_or_default()) {
                    Some(used) if used <= layer => {}
                    Some(used) => findings.push(format!(
                        "{}:{number}: layer {layer} uses {name:?} of layer {used}",
                        source.path
                    )),
                    None => findings.push(format!("{}:{number}: names no module", source.path)),
                }
            }
        }
    }
    check(&findings);
}

#[test]
fn files_begin_with_their_docs_and_end_in_time() {
    let mut findings = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        if !source.code.starts_with("//! ") {
            findings.push(format!("{}: does not begin with //!", source.path));
        }
        let lines = source.code.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines before its tests", source.path));
        }
        for (at, line) in source.code.lines().enumerate() {
            // Tables of docs can't be wrapped.
            let table = line.starts_with("//! |");
            if line.chars().count() > COLUMNS_MAX && !table && !line.contains("!{\"event") {
                findings.push(format!("{}:{}: longer than 100 columns", source.path, at + 1));
            }
        }
    }
    check(&findings);
}

#[test]
fn nothing_is_left_over() {
    // Written so that this file does not find itself.
    let words = ["FIX\u{4d}E", "TO\u{44}O", "XX\u{58}", "todo\u{21}(", "unimplemented\u{21}("];
    let words = words.map(|word| word.to_string());
    let mut findings = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        for (at, line) in source.code.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    check(&findings);
}

#[test]
fn no_unwrap_and_no_ignored_test() {
    let mut findings = Vec::new();
    for source in sources("src").into_iter().filter(|source| !source.is_test) {
        for (number, line) in source.lines() {
            if line.contains(".unwrap()") || line.contains("dbg!(") {
                findings.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    for folder in ["src", "tests"] {
        let mut files = Vec::new();
        rust_files(&root().join(folder), &mut files);
        for file in files {
            let code = std::fs::read_to_string(&file).unwrap();
            if code.lines().any(|line| line.trim_start().starts_with("#[ignore")) {
                findings.push(format!("{}: ignores a test", file.display()));
            }
        }
    }
    check(&findings);
}

#[test]
fn some_crates_are_used_in_one_file() {
    let mut findings = Vec::new();
    let sources = sources("src");
    for name in CRATES_OF_ONE_FILE {
        let path = format!("{name}::");
        let users = sources.iter().filter(|source| !source.is_test);
        let users = users.filter(|source| source.lines().any(|(_, line)| line.contains(&path)));
        let users: Vec<&str> = users.map(|source| source.path.as_str()).collect();
        if users.len() > 1 {
            findings.push(format!("'{name}' is used in {users:?}"));
        }
    }
    check(&findings);
}

#[test]
fn no_async_runtime_in_the_tree() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: BTreeSet<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.contains("tungstenite"), "the lock file was read");
    let unwanted: Vec<&&str> =
        CRATES_UNWANTED.iter().filter(|name| names.contains(**name)).collect();
    assert!(unwanted.is_empty(), "{unwanted:?}");
}
