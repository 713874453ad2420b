//! feedtape.
pub mod backoff;
pub mod block;
pub mod clock;
pub mod feed;
pub mod recovery;
pub mod resolver;
pub mod stats;
pub mod storage;
pub mod syncer;
pub mod tape;
pub mod units;
pub mod writer;
