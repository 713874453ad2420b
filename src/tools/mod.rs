//! The commands beside `record`, one module each. Holds only what they share: how they end.

pub mod simulate;

/// How a command ended that did its work; the exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing lost: exit code 0.
    Clean,
    /// Done, but something was lost, or a loss was found: exit code 3.
    Loss,
}
