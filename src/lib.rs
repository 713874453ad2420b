//! feedtape.
pub mod backoff;
pub mod clock;
pub mod sealer;
pub mod storage;
pub mod tape;
pub mod units;
