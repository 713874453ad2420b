//! What only the running program can tell of itself: how large it and its libraries are, and what
//! it has allocated by now.
//!
//! Owns reading `/proc/self/smaps` for the plan. All of it is read before any thread is started and
//! after the options are known, so that `plan` and `record` find the same.

use std::fs;

use crate::memory::mappings::mappings;

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
        for mapping in mappings(smaps) {
            let (size, resident) = (mapping.bytes(), mapping.rss);
            host.vsz_bytes += size;
            match Place::of(mapping.name, program) {
                Place::Program => host.program_bytes += size / 4 * PROGRAM_QUARTERS,
                Place::Tls => {
                    host.program_bytes += resident;
                    host.tls_library_bytes += size.saturating_sub(resident) / 2;
                }
                Place::File => host.program_bytes += resident,
                Place::Anonymous => host.heap_bytes += resident,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let smaps = "\
            55d000000000-55d0000c8000 r-xp 00000000 08:01 17          /usr/bin/feed tape\n\
            Size:               800 kB\nKernelPageSize:        4 kB\nRss:                 300 kB\n\
            55d001000000-55d001021000 rw-p 00000000 00:00 0          [heap]\n\
            Size:               132 kB\nRss:                  40 kB\n\
            7f0000000000-7f000027d000 r-xp 00000000 08:01 18          /usr/lib/libcrypto.so.3\n\
            Size:              2548 kB\nRss:                 192 kB\n\
            7f1000000000-7f1000156000 r-xp 00000000 08:01 19          /usr/lib/libc.so.6\n\
            Size:              1368 kB\nRss:                1136 kB\n\
            7f2000000000-7f2000004000 rw-p 00000000 00:00 0 \n\
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
