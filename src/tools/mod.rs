//! Commands that read recordings, and those that help trying the recorder.

/// How a command ended that did what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to complain about.
    Clean,
    /// Something is lost, or was found to be wrong.
    Loss,
}
