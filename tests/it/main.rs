//! Tests of the built program: `feedtape` runs as a process against one scripted server.
//!
//! Transport is never faked here: real sockets on loopback, on a port that the kernel picks, plain
//! and with TLS. The tests know the program's command line, what it says and what it leaves on
//! disk; of the library they use `feedtape::tape` only. Nothing here sleeps to be in time: tests
//! wait for a mark of the script, for a condition on disk, or for the program to end, always with
//! a deadline.

// Helpers of tests are tests as well; the lint's own exception knows only `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod certs;
mod conn;
mod program;
mod script;
mod server;
mod tape;
mod wire;

mod admin;
mod check;
mod connection;
mod demo;
mod ending;
mod exact;
mod feedsfile;
mod hard;
mod heartbeats;
mod hostile;
mod manual;
mod mem;
mod memory;
mod own;
mod pagecache;
mod plan;
mod poll;
mod protocol;
mod proxy;
mod readme;
mod recover;
mod redirect;
mod reload;
mod retention;
mod rotation;
mod selftest;
mod service;
mod shipped;
mod simulate;
mod subscriptions;
mod symbols;
mod tidy;
mod tls;
mod usage;
