//! Clients with scripted sockets: what they send in which pieces, how much they take, and when.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::admin::http::TEXT;

/// What a scripted socket does next when it is read.
enum Piece {
    Bytes(Vec<u8>),
    End,
}

#[derive(Default)]
struct Script {
    pieces: VecDeque<Piece>,
    taken: Vec<u8>,
    /// Bytes that it still takes.
    room: usize,
    ended: bool,
}

#[derive(Clone, Default)]
struct Socket(Rc<RefCell<Script>>);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        match script.pieces.pop_front() {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Piece::End) => Ok(0),
            Some(Piece::Bytes(bytes)) => {
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                if n < bytes.len() {
                    script.pieces.push_front(Piece::Bytes(bytes[n..].to_vec()));
                }
                Ok(n)
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        let n = bytes.len().min(script.room);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        script.room -= n;
        script.taken.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl EndSending for Socket {
    fn end_sending(&self) {
        self.0.borrow_mut().ended = true;
    }
}

struct Rig {
    socket: Socket,
    connection: Connection<Socket>,
    served: Vec<String>,
}

fn at(ms: u64) -> Mono {
    Mono(1 + ms * 1_000_000)
}

impl Rig {
    fn new() -> Rig {
        let socket = Socket::default();
        socket.0.borrow_mut().room = usize::MAX;
        let connection = Connection::new(socket.clone(), Peer::Local, at(0));
        Rig { socket, connection, served: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Rig {
        let piece = Piece::Bytes(bytes.as_ref().to_vec());
        self.socket.0.borrow_mut().pieces.push_back(piece);
        self
    }

    fn go_on(&mut self, ms: u64) -> &mut Rig {
        let served = &mut self.served;
        self.connection.go_on(at(ms), &mut |_, request| {
            served.push(request.path.clone());
            Served::Now(Response::new(200, TEXT, request.path.clone()))
        });
        self
    }

    /// Statuses of the answers so far.
    fn statuses(&self) -> Vec<String> {
        let text = String::from_utf8(self.socket.0.borrow().taken.clone()).unwrap();
        text.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].to_string()).collect()
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn requests_behind_each_other_are_answered_in_order() {
    let mut rig = Rig::new();
    rig.send(get("/1") + &get("/2") + "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    rig.go_on(1);
    assert_eq!(rig.served, ["/1", "/2"]);
    rig.send("{}").send(get("/4")).go_on(2);
    assert_eq!(rig.served, ["/1", "/2", "/3", "/4"]);
    assert_eq!(rig.statuses(), ["200"; 4]);
    assert!(!rig.connection.is_gone());
    assert_eq!(rig.connection.deadline(), Some(at(60_002)));
    rig.go_on(60_002);
    assert!(rig.connection.is_gone());
    assert_eq!(rig.statuses().len(), 4, "an idle one is closed without a word");
}

#[test]
fn a_request_byte_by_byte_has_five_seconds_in_all() {
    let mut rig = Rig::new();
    for (n, byte) in get("/slow").bytes().enumerate() {
        rig.send([byte]).go_on(n as u64 * 100);
    }
    assert_eq!(rig.served, ["/slow"]);
    for (n, byte) in get("/slower").bytes().enumerate() {
        rig.send([byte]).go_on(10_000 + n as u64 * 1000);
    }
    assert_eq!(rig.served, ["/slow"]);
    assert_eq!(rig.statuses(), ["200", "408"]);
    assert!(rig.socket.0.borrow().ended);
}

#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let mut rig = Rig::new();
    rig.socket.0.borrow_mut().room = 10;
    rig.send(get("/")).send(get("/next")).go_on(0);
    assert_eq!(rig.connection.interest(), Some(Interest::Write));
    assert!(rig.connection.answer_bytes() > 10);
    assert_eq!(rig.connection.dispensable(), None);
    rig.go_on(9_999);
    assert!(!rig.connection.is_gone());
    rig.go_on(10_000);
    assert!(rig.connection.is_gone());
    assert_eq!(rig.served, ["/"], "the next one was not even read");
}

#[test]
fn after_a_wrong_request_it_listens_for_a_moment() {
    let mut rig = Rig::new();
    rig.send("BREW / HTTP/1.1\r\nHost: a\r\n\r\n").send(get("/")).go_on(0);
    assert_eq!(rig.statuses(), ["405"]);
    assert_eq!(rig.connection.interest(), Some(Interest::Read));
    rig.send(get("/")).go_on(500);
    assert!(rig.served.is_empty() && !rig.connection.is_gone());
    rig.go_on(1000);
    assert!(rig.connection.is_gone());
    // One that never stops sending does not stay either.
    let mut rig = Rig::new();
    rig.send(vec![b'A'; HEAD_BYTES_MAX + LINGER_BYTES_MAX + READ_BYTES]).go_on(0);
    assert_eq!(rig.statuses(), ["431"]);
    assert!(rig.connection.is_gone());
}

#[test]
fn one_that_closes_is_gone() {
    let mut rig = Rig::new();
    rig.send("GET / HT").go_on(0);
    rig.socket.0.borrow_mut().pieces.push_back(Piece::End);
    rig.go_on(1);
    assert!(rig.connection.is_gone());
    // One that closed its sending side only gets its answer.
    let mut rig = Rig::new();
    rig.send(get("/"));
    rig.socket.0.borrow_mut().pieces.push_back(Piece::End);
    rig.go_on(0);
    assert_eq!(rig.statuses(), ["200"]);
}

#[test]
fn orders_are_answered_by_another_or_not_at_all() {
    let order = |done: Option<Result<String, Refusal>>, ms| {
        let mut rig = Rig::new();
        rig.send("POST /api/pause HTTP/1.1\r\nHost: a\r\n\r\n");
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let mut answer = Some(receiver);
        rig.connection.go_on(at(0), &mut |_, _| Served::Ordered(answer.take().unwrap()));
        assert_eq!(rig.connection.interest(), None);
        if let Some(done) = done {
            sender.send(done).unwrap();
        }
        rig.go_on(ms);
        rig.statuses()
    };
    let text = || "because".to_string();
    assert_eq!(order(Some(Ok(text())), 1), ["200"]);
    assert_eq!(order(Some(Err(Refusal::NotFound(text()))), 1), ["404"]);
    assert_eq!(order(Some(Err(Refusal::Conflict(text()))), 1), ["409"]);
    assert_eq!(order(Some(Err(Refusal::Unavailable(text()))), 1), ["503"]);
    assert!(order(None, 9_999).is_empty());
    assert_eq!(order(None, 10_000), ["503"]);
}

#[test]
fn one_that_asks_without_end_lets_others_have_their_turn() {
    let mut rig = Rig::new();
    rig.send(get("/").repeat(100)).go_on(0);
    let first = rig.served.len();
    assert!(first > 0 && first < 20, "{first}");
    assert_eq!(rig.connection.deadline(), Some(Mono(0)));
    while rig.connection.deadline() == Some(Mono(0)) {
        rig.go_on(0);
    }
    assert_eq!(rig.served.len(), 100);
}
