//! The journal's native protocol: a datagram for each line, with fields beside its text.
//!
//! Owns the socket and the form of a datagram (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//! What is said, and how, is its caller's.
//!
//! A journal that takes nothing must not hold a feed up: a line waits [`SEND_WAIT_MAX`] for it, and
//! the lines after that one not at all, until one gets through; what is lost is counted and told
//! then. So this is not the crate systemd-journal-logger, which waits for as long as the journal
//! likes.

use std::fmt::{Display, Write};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, UnixAddr, sendto};

use crate::stats::Counter;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// As the unit would name it: what `journalctl -t` looks for.
const IDENTIFIER: &str = "feedtape";
/// A longer text is cut: so much the journal takes of a line of stderr too (LineMax=). A datagram
/// of it always fits into the kernel's default buffer (208 KiB).
const TEXT_BYTES_MAX: usize = 48 << 10;
/// A line waits so long for a journal that takes nothing.
const SEND_WAIT_MAX: Duration = Duration::from_millis(200);

/// One line for the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Of syslog(3).
    pub(super) priority: u8,
    /// Without control characters.
    pub(super) text: &'a str,
    /// Whom it is about.
    pub(super) feed: Option<&'a str>,
    /// Which of its connections.
    pub(super) conn: Option<u64>,
    /// Where in the source it was said.
    pub(super) file: Option<&'a str>,
    /// See `file`.
    pub(super) line: Option<u32>,
    /// The module that said it.
    pub(super) target: &'a str,
}

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    address: UnixAddr,
    /// Lines that did not get through, since the start.
    lost: Counter,
    /// Those of them that were told.
    told: Counter,
}

impl Journal {
    /// The journal that listens at `path`.
    ///
    /// # Errors
    /// No socket to be had, or nobody listens there.
    pub(super) fn new(path: &str) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_WAIT_MAX))?;
        let journal = Journal {
            socket,
            address: UnixAddr::new(path)?,
            lost: Counter::default(),
            told: Counter::default(),
        };
        // The journal passes an empty datagram over.
        journal.send_bytes(&[], MsgFlags::MSG_DONTWAIT)?;
        Ok(journal)
    }

    /// Sends a line; `false`: nobody is there to take it, say it elsewhere.
    pub(super) fn send(&self, line: &Line<'_>) -> bool {
        let untold = self.lost.get() - self.told.get();
        let wait = if untold > 0 { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        match self.send_bytes(&datagram(line), wait) {
            Ok(()) if untold > 0 => {
                self.told.add(untold);
                let text = format!("{untold} lines of the log are lost: the journal took none");
                let about = Line { priority: 4, text: &text, feed: None, conn: None, ..*line };
                // The next line tells whether the journal goes on taking them.
                let _ = self.send_bytes(&datagram(&about), MsgFlags::MSG_DONTWAIT);
                true
            }
            Ok(()) => true,
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => {
                self.lost.add(1);
                true
            }
            Err(_) => false,
        }
    }

    fn send_bytes(&self, bytes: &[u8], flags: MsgFlags) -> Result<(), Errno> {
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        sendto(self.socket.as_raw_fd(), bytes, &self.address, flags).map(drop)
    }
}

fn datagram(line: &Line<'_>) -> Vec<u8> {
    let text = &line.text[..line.text.floor_char_boundary(TEXT_BYTES_MAX)];
    let mut fields = String::with_capacity(text.len() + 256);
    let mut put = |name: &str, value: &dyn Display| {
        let at = fields.len();
        writeln!(fields, "{name}={value}").expect("a string takes everything");
        // It would begin another field. Texts come without control characters.
        assert_eq!(memchr::memchr_iter(b'\n', &fields.as_bytes()[at..]).count(), 1);
    };
    put("MESSAGE", &text);
    put("PRIORITY", &line.priority);
    put("SYSLOG_IDENTIFIER", &IDENTIFIER);
    if let Some(feed) = line.feed {
        put("FEEDTAPE_FEED", &feed);
    }
    if let Some(conn) = line.conn {
        put("FEEDTAPE_CONN", &conn);
    }
    if let Some(file) = line.file {
        put("CODE_FILE", &file);
    }
    if let Some(number) = line.line {
        put("CODE_LINE", &number);
    }
    put("CODE_MODULE", &line.target);
    fields.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal in a folder of its own.
    struct Rig {
        _dir: tempfile::TempDir,
        there: UnixDatagram,
        journal: Journal,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let there = UnixDatagram::bind(&path).unwrap();
        there.set_nonblocking(true).unwrap();
        let journal = Journal::new(path.to_str().unwrap()).unwrap();
        let rig = Rig { _dir: dir, there, journal };
        assert_eq!(rig.next().as_deref(), Some(""), "whether it is there");
        rig
    }

    impl Rig {
        fn next(&self) -> Option<String> {
            let mut buf = vec![0; 1 << 20];
            let bytes = self.there.recv(&mut buf).ok()?;
            Some(String::from_utf8(buf[..bytes].to_vec()).unwrap())
        }
    }

    const LINE: Line<'static> = Line {
        priority: 6,
        text: "btc: conn 2: connected",
        feed: Some("btc"),
        conn: Some(2),
        file: Some("src/feed/run.rs"),
        line: Some(7),
        target: "feedtape::feed",
    };

    #[test]
    fn a_line_has_its_fields() {
        let rig = rig();
        assert!(rig.journal.send(&LINE));
        assert_eq!(
            rig.next().unwrap(),
            "MESSAGE=btc: conn 2: connected\nPRIORITY=6\nSYSLOG_IDENTIFIER=feedtape\n\
             FEEDTAPE_FEED=btc\nFEEDTAPE_CONN=2\nCODE_FILE=src/feed/run.rs\nCODE_LINE=7\n\
             CODE_MODULE=feedtape::feed\n"
        );
        let bare = Line { feed: None, conn: None, file: None, line: None, ..LINE };
        assert!(rig.journal.send(&bare));
        assert_eq!(
            rig.next().unwrap(),
            "MESSAGE=btc: conn 2: connected\nPRIORITY=6\nSYSLOG_IDENTIFIER=feedtape\n\
             CODE_MODULE=feedtape::feed\n"
        );
    }

    #[test]
    fn a_text_without_end_is_cut_at_a_character() {
        let rig = rig();
        let text = "\u{20ac}".repeat(TEXT_BYTES_MAX);
        assert!(rig.journal.send(&Line { text: &text, ..LINE }));
        let sent = rig.next().unwrap();
        let shown = sent.lines().next().unwrap().strip_prefix("MESSAGE=").unwrap();
        assert_eq!(shown.len(), TEXT_BYTES_MAX / 3 * 3);
    }

    /// A journal that hangs held up every feed that had something to say.
    #[test]
    fn a_journal_that_takes_nothing_costs_lines_and_no_time() {
        let rig = rig();
        let begun = std::time::Instant::now();
        let sent = 4_000;
        for _ in 0..sent {
            assert!(rig.journal.send(&LINE), "it is there");
        }
        let lost = rig.journal.lost.get();
        assert!(lost > 0, "its queue is finite");
        // One line waits, not each of them.
        assert!(begun.elapsed() < SEND_WAIT_MAX * 50, "{:?}", begun.elapsed());
        let mut taken = 0;
        while rig.next().is_some() {
            taken += 1;
        }
        assert_eq!(taken + lost, sent);
        assert!(rig.journal.send(&LINE));
        assert!(rig.next().unwrap().starts_with("MESSAGE=btc: conn 2"));
        let told = rig.next().unwrap();
        let expected = format!("MESSAGE={lost} lines of the log are lost: the journal took none\n");
        assert!(told.starts_with(&expected) && told.contains("PRIORITY=4\n"), "{told}");
        assert!(!told.contains("FEEDTAPE_"), "{told}");
        assert!(rig.journal.send(&LINE));
        assert!(rig.next().is_some() && rig.next().is_none(), "told once");
    }

    #[test]
    fn without_a_journal_the_line_is_said_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Journal::new(dir.path().join("none").to_str().unwrap()).is_err());
        let rig = rig();
        drop(rig.there);
        assert!(!rig.journal.send(&LINE));
    }
}
