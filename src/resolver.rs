//! Name lookups, which have no timeout of their own and so must not happen on a feed's thread.
//!
//! Owns a few threads that call getaddrinfo(3). An answer nobody waits for any more is dropped,
//! and so is a question whose deadline passed before its turn came.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::clock::{Mono, mono_now};

/// Lookups under way at once.
const THREADS: usize = 4;
/// Lookups waiting for their turn; each feed has at most one that still counts.
const QUEUE_MAX: usize = 4096;
/// glibc's name service modules are loaded and run on this stack.
const STACK_BYTES: usize = 256 << 10;

/// What becomes of an answer.
pub type Reply = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

struct Question {
    host: String,
    port: u16,
    by: Mono,
    reply: Reply,
}

/// Looks names up. Clones ask the same threads, which end when the last clone is dropped.
#[derive(Clone)]
pub struct Resolver {
    questions: Sender<Question>,
}

impl Resolver {
    /// Starts the threads. They are not joined: a lookup may hang for as long as the system's
    /// resolver likes, and a stop must not wait for it.
    ///
    /// # Errors
    /// No threads to be had.
    pub fn start() -> io::Result<Resolver> {
        let (questions, asked) = bounded::<Question>(QUEUE_MAX);
        for n in 0..THREADS {
            let asked = asked.clone();
            thread::Builder::new().name(format!("resolver-{n}")).stack_size(STACK_BYTES).spawn(
                move || {
                    for question in asked {
                        if mono_now() < question.by {
                            (question.reply)(look_up(&question.host, question.port));
                        }
                    }
                },
            )?;
        }
        Ok(Resolver { questions })
    }

    /// Asks for the addresses of `host`; `reply` is called on another thread, or never where
    /// `by` passes first.
    ///
    /// # Errors
    /// Too many lookups are waiting already.
    pub fn look_up(&self, host: &str, port: u16, by: Mono, reply: Reply) -> io::Result<()> {
        let question = Question { host: host.to_string(), port, by, reply };
        self.questions.try_send(question).map_err(|error| match error {
            TrySendError::Full(_) => io::Error::other("too many name lookups are waiting"),
            TrySendError::Disconnected(_) => io::Error::other("the resolver has ended"),
        })
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(interleave((host, port).to_socket_addrs()?))
}

/// The families by turns, each in the order given, so that a dead family costs one attempt.
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in addresses {
        let same = first.first().is_none_or(|a: &SocketAddr| a.is_ipv4() == address.is_ipv4());
        let family = if same { &mut first } else { &mut second };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    let mut second = second.into_iter();
    for address in first {
        mixed.push(address);
        mixed.extend(second.next());
    }
    mixed.extend(second);
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn families_take_turns() {
        let check = |given: &[&str], expected: &[&str]| {
            let parse = |list: &[&str]| -> Vec<SocketAddr> {
                list.iter().map(|a| a.parse().unwrap()).collect()
            };
            assert_eq!(interleave(parse(given).into_iter()), parse(expected));
        };
        check(&[], &[]);
        check(&["1.1.1.1:1", "1.1.1.1:1"], &["1.1.1.1:1"]);
        check(
            &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"],
            &["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"],
        );
    }

    #[test]
    fn localhost_is_found_and_late_questions_are_dropped() {
        let resolver = Resolver::start().unwrap();
        let (sender, answers) = bounded(2);
        let ask = |by: Mono| {
            let sender = sender.clone();
            let reply: Reply = Box::new(move |answer| sender.send(answer).unwrap());
            resolver.look_up("localhost", 7, by, reply).unwrap();
        };
        ask(mono_now());
        ask(mono_now().after(Duration::from_secs(60)));
        let addresses = answers.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
        assert!(addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 7), "{addresses:?}");
        assert!(answers.try_recv().is_err(), "the question that came too late has no answer");
    }
}
