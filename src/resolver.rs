//! Name lookups, which have no timeout of their own and so must not happen on a feed's thread.
//!
//! Owns a few threads that call getaddrinfo(3). There is at most one lookup of a host under way;
//! who asks meanwhile waits for its answer, so that a host whose lookups hang holds one thread, not
//! all. A lookup that hangs ends when the system's resolver gives up (with glibc's defaults after
//! 10 s for each name server). An answer nobody waits for any more is dropped, and so is a question
//! whose deadline passed before its turn came.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::clock::{Mono, mono_now};

/// Lookups under way at once.
pub const THREADS: usize = 4;
/// Hosts waiting for their turn, and questions waiting for one host; each feed has at most one
/// question that still counts.
const QUEUE_MAX: usize = 4096;
/// glibc's name service modules are loaded and run on this stack.
pub(crate) const STACK_BYTES: usize = 256 << 10;

/// What becomes of an answer.
pub type Reply = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

struct Question {
    port: u16,
    by: Mono,
    reply: Reply,
}

/// Questions by host, from being asked until the answer is there.
type Open = Mutex<HashMap<String, Vec<Question>>>;

/// Looks names up. Clones ask the same threads, which end when the last clone is dropped.
#[derive(Clone)]
pub struct Resolver {
    open: Arc<Open>,
    hosts: Sender<String>,
}

impl Resolver {
    /// Starts the threads. They are not joined: a lookup may hang for as long as the system's
    /// resolver likes, and a stop must not wait for it.
    ///
    /// # Errors
    /// No threads to be had.
    pub fn start() -> io::Result<Resolver> {
        Resolver::start_with(look_up)
    }

    fn start_with(
        look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Clone + Send + 'static,
    ) -> io::Result<Resolver> {
        let (hosts, asked) = bounded::<String>(QUEUE_MAX);
        let open = Arc::new(Open::default());
        for n in 0..THREADS {
            let (open, asked, look_up) = (Arc::clone(&open), asked.clone(), look_up.clone());
            thread::Builder::new()
                .name(format!("resolver-{n}"))
                .stack_size(STACK_BYTES)
                .spawn(move || answer_all(&open, &asked, look_up))?;
        }
        Ok(Resolver { open, hosts })
    }

    /// Asks for the addresses of `host`; `reply` is called on another thread, or never where
    /// `by` passes first.
    ///
    /// # Errors
    /// Too many lookups are waiting already.
    pub fn look_up(&self, host: &str, port: u16, by: Mono, reply: Reply) -> io::Result<()> {
        let too_many = || io::Error::other("too many name lookups are waiting");
        let question = Question { port, by, reply };
        let mut open = lock(&self.open);
        if let Some(questions) = open.get_mut(host) {
            // Those are of attempts that have ended: while a lookup hangs they would add up.
            let now = mono_now();
            questions.retain(|question| question.by > now);
            if questions.len() == QUEUE_MAX {
                return Err(too_many());
            }
            questions.push(question);
            return Ok(());
        }
        self.hosts.try_send(host.to_string()).map_err(|error| match error {
            TrySendError::Full(_) => too_many(),
            TrySendError::Disconnected(_) => io::Error::other("the resolver has ended"),
        })?;
        // The lock is still held: no thread has come for the questions yet.
        open.insert(host.to_string(), vec![question]);
        Ok(())
    }
}

fn lock(open: &Open) -> MutexGuard<'_, HashMap<String, Vec<Question>>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer_all(
    open: &Open,
    asked: &Receiver<String>,
    look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>>,
) {
    for host in asked {
        if !is_wanted(open, &host) {
            continue;
        }
        let answer = look_up(&host);
        let questions = lock(open).remove(&host).unwrap_or_default();
        let now = mono_now();
        for question in questions.into_iter().filter(|question| question.by > now) {
            (question.reply)(copy_for(&answer, question.port));
        }
    }
}

/// Whether anybody still waits for the host's addresses; where not, it is open no longer.
fn is_wanted(open: &Open, host: &str) -> bool {
    let mut open = lock(open);
    let now = mono_now();
    let wanted = open.get(host).is_some_and(|asked| asked.iter().any(|one| one.by > now));
    if !wanted {
        open.remove(host);
    }
    wanted
}

/// The answer for one who asked: all get the same, and each wants a port of its own.
fn copy_for(answer: &io::Result<Vec<SocketAddr>>, port: u16) -> io::Result<Vec<SocketAddr>> {
    match answer {
        Ok(addresses) => Ok(addresses
            .iter()
            .map(|address| {
                let mut address = *address;
                address.set_port(port);
                address
            })
            .collect()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(interleave((host, 0).to_socket_addrs()?))
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

    /// Twelve questions for one host hang, and another host is still looked up.
    #[test]
    fn a_host_that_hangs_holds_one_thread() {
        let (release, released) = bounded::<()>(0);
        let (began, begun) = bounded(100);
        let resolver = Resolver::start_with(move |host: &str| {
            began.send(host.to_string()).unwrap();
            if host == "hangs" {
                // Ends with an error when the test lets go.
                let _ = released.recv();
            }
            Ok(vec!["192.0.2.1:0".parse().unwrap()])
        })
        .unwrap();
        let (sender, answers) = bounded(100);
        let ask = |host: &'static str, port: u16| {
            let sender = sender.clone();
            let reply: Reply =
                Box::new(move |answer| sender.send((host, answer.unwrap())).unwrap());
            resolver.look_up(host, port, mono_now().after(Duration::from_secs(60)), reply).unwrap();
        };
        (1..=12).for_each(|port| ask("hangs", port));
        ask("answers", 7);
        let first = answers.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(first, ("answers", vec!["192.0.2.1:7".parse().unwrap()]));
        drop(release);
        let ports: Vec<u16> = (1..=12)
            .map(|_| answers.recv_timeout(Duration::from_secs(30)).unwrap().1[0].port())
            .collect();
        assert_eq!(ports, (1..=12).collect::<Vec<u16>>(), "each gets its own port, in order");
        assert_eq!(begun.try_iter().filter(|host| host == "hangs").count(), 1);
    }
}
