//! Where the admin endpoint listens: an address, or a Unix socket.
//!
//! Owns what may be written for it, and the socket's file: made with mode 0660 under another name
//! and moved to its own, so that nobody ever finds it open to all; one that a crash left is
//! replaced, one that somebody answers at is not; ours is removed at the end.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::guard::Peer;

/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Where to listen, or to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `127.0.0.1:9464`, `[::1]:9464` or `unix:/path`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Address::Unix(PathBuf::from(path))),
                false => Err("must name a whole path, as in unix:/run/feedtape/admin.sock".into()),
            };
        }
        text.parse().map(Address::Tcp).map_err(|_| {
            "must be an address with a port, or a Unix socket: write 127.0.0.1:9464, [::1]:9464 or \
             unix:/run/feedtape/admin.sock"
                .to_string()
        })
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that clients connect to.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: SocketFile },
}

/// The file of a Unix socket of ours; removed with it, unless another one stands there by then.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Left behind it is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.dev(), data.ino()))
}

/// One client.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// A sentence that names the address and what is wrong with it.
    pub(super) fn bind(address: &Address) -> Result<Listener, String> {
        let wrong = |error: io::Error| format!("can't listen at '{address}': {error}");
        let listener = match address {
            Address::Tcp(at) => Listener::Tcp(TcpListener::bind(at).map_err(wrong)?),
            Address::Unix(path) => {
                look_for_others(path)?;
                let (listener, file) = bind_unix(path).map_err(wrong)?;
                Listener::Unix { listener, file }
            }
        };
        match &listener {
            Listener::Tcp(tcp) => tcp.set_nonblocking(true),
            Listener::Unix { listener, .. } => listener.set_nonblocking(true),
        }
        .map_err(wrong)?;
        Ok(listener)
    }

    /// Where it listens: with the port that the kernel picked.
    pub(super) fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Listener::Tcp(tcp) => Address::Tcp(tcp.local_addr()?),
            Listener::Unix { file, .. } => Address::Unix(file.path.clone()),
        })
    }

    /// The next client, which never blocks us.
    pub(super) fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Listener::Tcp(tcp) => {
                let (stream, peer) = tcp.accept()?;
                stream.set_nonblocking(true)?;
                // An answer is one write: it need not wait for more.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Peer::of(peer.ip())))
            }
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Stream::Unix(stream), Peer::Local))
            }
        }
    }
}

/// A socket that a crash left is in nobody's way.
fn look_for_others(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(data) if !data.file_type().is_socket() => {
            Err(format!("can't listen at 'unix:{shown}': there is a file that is no socket"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(format!(
                "can't listen at 'unix:{shown}': somebody listens there already; choose another path"
            )),
            Err(_) => Ok(()),
        },
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    let moved = fs::set_permissions(&hidden, fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| inode(&hidden))
        .and_then(|inode| fs::rename(&hidden, path).map(|()| inode));
    match moved {
        Ok(inode) => Ok((listener, SocketFile { path: path.to_path_buf(), inode })),
        Err(error) => {
            // The first error is the one to tell.
            let _ = fs::remove_file(&hidden);
            Err(error)
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(tcp) => tcp.as_fd(),
            Listener::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

impl Stream {
    /// Nothing more will be sent.
    pub(super) fn end_sending(&self) {
        // The other side may have gone.
        let _ = match self {
            Stream::Tcp(tcp) => tcp.shutdown(std::net::Shutdown::Write),
            Stream::Unix(unix) => unix.shutdown(std::net::Shutdown::Write),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(tcp) => tcp.as_fd(),
            Stream::Unix(unix) => unix.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.read(buf),
            Stream::Unix(unix) => unix.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.write(bytes),
            Stream::Unix(unix) => unix.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Neither buffers.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, local) in [
            ("127.0.0.1:9464", true),
            ("127.8.0.1:0", true),
            ("[::1]:9464", true),
            ("[::ffff:127.0.0.1]:9464", true),
            ("0.0.0.0:9464", false),
            ("[::]:9464", false),
            ("192.168.0.1:9464", false),
            ("unix:/run/a.sock", true),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.is_local(), local, "{text}");
            assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
        for text in ["", "9464", ":9464", "localhost:9464", "127.0.0.1", "unix:", "unix:a.sock"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_file_of_a_socket_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let told = Listener::bind(&address).err().unwrap();
        assert!(told.contains("somebody listens there already"), "{told}");
        // As a crash leaves it: nobody listens, and the file stays.
        let Listener::Unix { listener, file } = first else { panic!() };
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists());
        let second = Listener::bind(&address).unwrap();
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let told = Listener::bind(&address).err().unwrap();
        assert!(told.contains("no socket"), "{told}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
