//! feedtape.
pub mod backoff;
pub mod clock;
pub mod storage;
pub mod tape;
pub mod tools;
pub mod units;
