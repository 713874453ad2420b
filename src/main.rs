//! The program `feedtape`.

fn main() -> std::process::ExitCode {
    feedtape::cli::main()
}
