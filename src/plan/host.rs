//! What only the running program can tell of itself: how large it and its libraries are, and what
//! it has allocated by now.
//!
//! Owns reading `/proc/self/smaps` for the plan. All of it is read before any thread is started and
//! after the options are known, so that `plan` and `record` find the same.

use std::fs;

/// Where /proc can't be read: what a release build with OpenSSL came to, rounded up.
const PROGRAM_BYTES_UNKNOWN: u64 = 14 << 20;
/// See [`PROGRAM_BYTES_UNKNOWN`].
const HEAP_BYTES_UNKNOWN: u64 = 1 << 20;
/// The kernel's default, where it does not say.
const TCP_RECEIVE_BYTES_UNKNOWN: u64 = 128 << 10;

/// Quarters of the program that recording comes to; the rest is for other commands, and for the
/// start, whose pages are let go.
const PROGRAM_QUARTERS: u64 = 3;

/// What is known before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Three quarters of what is mapped of the program's own file; libraries as far as they are
    /// resident by now.
    pub program_bytes: u64,
    /// What a TLS connection makes resident of the libraries beside that: half of what is left of
    /// OpenSSL's.
    pub tls_library_bytes: u64,
    /// Heap and main stack by now: options, texts, lists of feeds.
    pub heap_bytes: u64,
    /// Address space by now.
    pub vsz_bytes: u64,
    /// What the kernel takes in for a socket that is not read, to begin with.
    pub tcp_receive_bytes: u64,
}

impl Host {
    /// Looks.
    pub fn measure() -> Host {
        let receive = fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap_or_default();
        let receive = receive.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok());
        let mut host = Host::of(
            &fs::read_to_string("/proc/self/smaps").unwrap_or_default(),
            &fs::read_link("/proc/self/exe").unwrap_or_default().to_string_lossy(),
        );
        host.tcp_receive_bytes = receive.unwrap_or(TCP_RECEIVE_BYTES_UNKNOWN);
        host
    }

    /// By the text of smaps; `program` is the path of our own file in it.
    fn of(smaps: &str, program: &str) -> Host {
        let mut host = Host {
            program_bytes: 0,
            tls_library_bytes: 0,
            heap_bytes: 0,
            vsz_bytes: 0,
            tcp_receive_bytes: TCP_RECEIVE_BYTES_UNKNOWN,
        };
        let mut place = Place::Anonymous;
        let mut size = 0;
        for line in smaps.lines() {
            if let Some(bytes) = kib(line, "Size:") {
                size = bytes;
                host.vsz_bytes += bytes;
            } else if let Some(resident) = kib(line, "Rss:") {
                match place {
                    Place::Program => host.program_bytes += size / 4 * PROGRAM_QUARTERS,
                    Place::Tls => {
                        host.program_bytes += resident;
                        host.tls_library_bytes += size.saturating_sub(resident) / 2;
                    }
                    Place::File => host.program_bytes += resident,
                    Place::Anonymous => host.heap_bytes += resident,
                }
            } else if let Some(path) = mapping(line) {
                place = Place::of(path, program);
            }
        }
        if host.program_bytes == 0 {
            host.program_bytes = PROGRAM_BYTES_UNKNOWN;
            host.heap_bytes = HEAP_BYTES_UNKNOWN;
            host.vsz_bytes = 2 * PROGRAM_BYTES_UNKNOWN;
        }
        host
    }
}

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Program,
    /// OpenSSL's libraries, of which little is used where there is no TLS.
    Tls,
    File,
    Anonymous,
}

impl Place {
    fn of(path: &str, program: &str) -> Place {
        let name = path.rsplit('/').next().unwrap_or_default();
        if !path.starts_with('/') {
            Place::Anonymous
        } else if path == program {
            Place::Program
        } else if name.starts_with("libcrypto") || name.starts_with("libssl") {
            Place::Tls
        } else {
            Place::File
        }
    }
}

/// Of a mapping's first line, what is mapped there: a path, a name like `[heap]`, or nothing.
fn mapping(line: &str) -> Option<&str> {
    let first = line.split(' ').next()?;
    let (start, end) = first.split_once('-')?;
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hex(start) || !is_hex(end) {
        return None;
    }
    // Range, permissions, offset, device, inode; then blanks up to the path, which may hold some.
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    Some(rest.trim_start())
}

/// Bytes of a line `NAME    12 kB`.
fn kib(line: &str, name: &str) -> Option<u64> {
    let number = line.strip_prefix(name)?.trim().strip_suffix("kB")?;
    number.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let smaps = "\
            55d0-55d8 r-xp 00000000 08:01 17                         /usr/bin/feed tape\n\
            Size:               800 kB\nKernelPageSize:        4 kB\nRss:                 300 kB\n\
            55d8-55da rw-p 00000000 00:00 0                          [heap]\n\
            Size:               132 kB\nRss:                  40 kB\n\
            7f00-7f10 r-xp 00000000 08:01 18                         /usr/lib/libcrypto.so.3\n\
            Size:              2548 kB\nRss:                 192 kB\n\
            7f10-7f20 r-xp 00000000 08:01 19                         /usr/lib/libc.so.6\n\
            Size:              1368 kB\nRss:                1136 kB\n\
            7f20-7f24 rw-p 00000000 00:00 0 \n\
            Size:                16 kB\nRss:                   8 kB\nVmFlags: rd wr\n";
        let host = Host::of(smaps, "/usr/bin/feed tape");
        let expected = Host {
            program_bytes: (600 + 192 + 1136) << 10,
            tls_library_bytes: ((2548 - 192) / 2) << 10,
            heap_bytes: 48 << 10,
            vsz_bytes: (800 + 132 + 2548 + 1368 + 16) << 10,
            tcp_receive_bytes: TCP_RECEIVE_BYTES_UNKNOWN,
        };
        assert_eq!(host, expected);
        assert_eq!(Host::of("", "").program_bytes, PROGRAM_BYTES_UNKNOWN);
    }

    #[test]
    fn this_program_is_seen() {
        let host = Host::measure();
        assert!(host.program_bytes > 1 << 20, "{host:?}");
        assert!(host.vsz_bytes > host.program_bytes, "{host:?}");
        assert!(host.heap_bytes > 0, "{host:?}");
    }
}
