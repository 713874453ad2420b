//! What a process has open: its descriptors, and what the kernel holds for its sockets.
//!
//! Owns reading `/proc/PID/fd` and the lists of TCP sockets. What waits in a socket's queues can be
//! told; what the kernel spends on buffers around it is told for the network namespace as a whole
//! only.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use super::files::read_text;
use super::process::Process;

/// Most descriptors that are looked at.
const DESCRIPTORS_MAX: usize = 1 << 20;

/// What a process has open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// All.
    pub all: u64,
    /// Inodes of sockets.
    pub sockets: HashSet<u64>,
    /// Files.
    pub files: Vec<PathBuf>,
}

impl Descriptors {
    /// Reads a process's.
    ///
    /// # Errors
    /// The process is gone, or another user's. Root without `CAP_SYS_PTRACE`, as in a container,
    /// may list those of other users, and not see what they are.
    pub fn of(process: &Process) -> io::Result<Descriptors> {
        let mut open = Descriptors::default();
        for entry in std::fs::read_dir(process.path("fd"))?.take(DESCRIPTORS_MAX) {
            open.add(entry.and_then(|entry| std::fs::read_link(entry.path())))?;
        }
        Ok(open)
    }

    /// Adds one, by what it leads to.
    fn add(&mut self, target: io::Result<PathBuf>) -> io::Result<()> {
        self.all += 1;
        let target = match target {
            Ok(target) => target,
            // One that was closed meanwhile leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match target.to_str().and_then(socket_inode) {
            Some(inode) => drop(self.sockets.insert(inode)),
            None if target.is_absolute() => self.files.push(target),
            None => {}
        }
        Ok(())
    }
}

/// `socket:[17]`.
fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// What waits in the queues of a process's TCP sockets, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queues {
    /// TCP sockets among its own.
    pub sockets: u64,
    /// Received, and not read by the process.
    pub receive: u64,
    /// Sent by the process, and not acknowledged.
    pub send: u64,
}

impl Queues {
    /// Reads those of a process's sockets, IPv4 and IPv6.
    ///
    /// # Errors
    /// The process is gone, or the lists can't be read.
    pub fn of(process: &Process, own: &HashSet<u64>) -> io::Result<Queues> {
        let mut queues = Queues::default();
        queues.add(&read_text(&process.path("net/tcp"))?, own);
        match read_text(&process.path("net/tcp6")) {
            Ok(text) => queues.add(&text, own),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(queues)
    }

    /// Adds those of a list.
    fn add(&mut self, text: &str, own: &HashSet<u64>) {
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, _, _, _, queues, _, _, _, _, inode, ..] = &fields[..] else { continue };
            let Some((send, receive)) = queues.split_once(':') else { continue };
            let hex = |text| u64::from_str_radix(text, 16).unwrap_or_default();
            if inode.parse().is_ok_and(|inode: u64| own.contains(&inode)) {
                self.sockets += 1;
                self.send = self.send.saturating_add(hex(send));
                self.receive = self.receive.saturating_add(hex(receive));
            }
        }
    }
}

/// Memory of all TCP sockets in a process's network namespace, in bytes (`/proc/PID/net/sockstat`;
/// the kernel counts it per machine in pages).
///
/// # Errors
/// The process is gone.
pub fn tcp_memory(process: &Process) -> io::Result<Option<u64>> {
    let page = page_bytes();
    let text = read_text(&process.path("net/sockstat"))?;
    Ok(tcp_pages(&text).map(|pages| pages.saturating_mul(page)))
}

/// Bytes of a page of memory.
pub(super) fn page_bytes() -> u64 {
    // SAFETY: it takes a number and gives one.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096).max(1)
}

/// `TCP: inuse 1 orphan 0 tw 2 alloc 1 mem 242`.
fn tcp_pages(text: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP: "))?.split(' ');
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
        uid  timeout inode\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 \
        00000000     0        0 17 1 0000000000000000 100 0 0 10 0\n   1: 0100007F:1F90 \
        0100007F:A 01 00000010:00000100 00:00000000 00000000     0        0 18 1\n   2: x\n";

    #[test]
    fn queues_of_own_sockets_only() {
        let check = |own: &[u64], expected: (u64, u64, u64)| {
            let mut queues = Queues::default();
            queues.add(TCP, &own.iter().copied().collect());
            assert_eq!((queues.sockets, queues.send, queues.receive), expected, "{own:?}");
        };
        check(&[], (0, 0, 0));
        check(&[18], (1, 16, 256));
        check(&[17, 18, 19], (2, 16, 261));
        for cut in 0..TCP.len() {
            Queues::default().add(&TCP[..cut], &HashSet::from([17, 18]));
        }
    }

    #[test]
    fn lines_of_the_kernel() {
        assert_eq!(socket_inode("socket:[17]"), Some(17));
        for other in ["socket:[]", "pipe:[17]", "/socket:[17]", "socket:[17", "socket:[-1]"] {
            assert_eq!(socket_inode(other), None, "{other}");
        }
        let text = "sockets: used 15\nTCP: inuse 1 orphan 0 tw 2 alloc 1 mem 242\nUDP: mem 9\n";
        assert_eq!(tcp_pages(text), Some(242));
        assert_eq!(tcp_pages("TCP: inuse 1 mem"), None);
        assert_eq!(tcp_pages("UDP: mem 9"), None);
    }

    /// Where none could be read, because it was forbidden, there seemed to be no sockets.
    #[test]
    fn only_what_was_closed_meanwhile_is_left_out() {
        let mut open = Descriptors::default();
        for target in ["socket:[17]", "pipe:[18]", "/tmp/x"] {
            open.add(Ok(PathBuf::from(target))).unwrap();
        }
        open.add(Err(io::ErrorKind::NotFound.into())).unwrap();
        assert_eq!((open.all, open.sockets.len(), open.files.len()), (4, 1, 1));
        let forbidden = open.add(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(forbidden.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_this_process_has_open_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut near, &[7; 1000]).unwrap();
        far.peek(&mut [0; 1000]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let process = Process::own();
        let open = Descriptors::of(&process).unwrap();
        assert!(open.files.iter().any(|path| path == file.path()), "{open:?}");
        let queues = Queues::of(&process, &open.sockets).unwrap();
        assert!(queues.sockets >= 3 && queues.receive >= 1000, "{queues:?}");
        assert!(tcp_memory(&process).unwrap().is_some());
    }
}
