//! What a process's address space is made of: `/proc/PID/smaps`, sorted into kinds.
//!
//! Owns reading that text, and how stacks, arenas and the rest are told apart, which the kernel
//! does not say: a stack of a thread is anonymous memory right above a small area that nobody may
//! touch; an arena of malloc begins at a multiple of 64 MiB. It is a sorting, not a proof.

use std::io;
use std::iter;
use std::ops::Range;

use super::files::{read_text, size};
use super::process::Process;

/// Arenas of malloc are as large, and begin at multiples of it.
const ARENA_BYTES: u64 = 64 << 20;
/// Where Go's runtime asks for its heap on 64-bit machines.
const GO_HEAP: u64 = 0xc0_0000_0000;
/// No larger area below a stack is a guard.
const GUARD_BYTES_MAX: u64 = 1 << 20;

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Program and libraries, and mapped files.
    File,
    /// The main heap.
    Heap,
    /// Areas of 64 MiB that malloc makes for further threads; Go's heap looks the same.
    Arena,
    /// Stacks of threads, with that of the main thread.
    Stack,
    /// Memory that processes share.
    Shared,
    /// Other anonymous memory: large blocks, and what a runtime maps for itself.
    Anonymous,
    /// Areas that nobody may touch: guards of stacks, and room for arenas to grow.
    Reserved,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] = [
        Kind::File,
        Kind::Heap,
        Kind::Arena,
        Kind::Stack,
        Kind::Shared,
        Kind::Anonymous,
        Kind::Reserved,
    ];
}

/// All mappings of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub mappings: u64,
    /// Address space, in bytes.
    pub bytes: u64,
    /// Of it, what is resident, in bytes.
    pub rss: u64,
}

/// The address space by kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mappings {
    sums: [Sum; Kind::ALL.len()],
    seems_go: bool,
}

impl Mappings {
    /// Reads a process's.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn of(process: &Process) -> io::Result<Mappings> {
        read_text(&process.path("smaps")).map(|text| Mappings::parse(&text))
    }

    /// Sorts the text of `smaps`. Lines that are none of the kernel's are passed over.
    pub fn parse(text: &str) -> Mappings {
        let mut sums = Mappings::default();
        let mut before: Option<Mapping<'_>> = None;
        for mapping in mappings(text) {
            let sum = &mut sums.sums[mapping.kind(before.as_ref()) as usize];
            sum.mappings += 1;
            sum.bytes = sum.bytes.saturating_add(mapping.bytes());
            sum.rss = sum.rss.saturating_add(mapping.rss);
            sums.seems_go |= mapping.start == GO_HEAP && mapping.is_anonymous;
            before = Some(mapping);
        }
        sums
    }

    /// Whether something is where the heap of a Go program begins.
    pub fn seems_go(&self) -> bool {
        self.seems_go
    }

    /// The mappings of a kind.
    pub fn of_kind(&self, kind: Kind) -> Sum {
        self.sums[kind as usize]
    }
}

/// The mappings in the text of `smaps`, in its order. Lines that are none of the kernel's are
/// passed over.
pub fn mappings(text: &str) -> impl Iterator<Item = Mapping<'_>> {
    let mut lines = text.lines().peekable();
    iter::from_fn(move || {
        let mut mapping = lines.find_map(Mapping::parse)?;
        while let Some(line) = lines.next_if(|line| Mapping::parse(line).is_none()) {
            match line.split_once(':') {
                Some(("Rss", value)) => mapping.rss = size(value).unwrap_or(mapping.rss),
                Some(("Anonymous", value)) => mapping.own = size(value),
                _ => {}
            }
        }
        Some(mapping)
    })
}

/// One mapping.
pub struct Mapping<'t> {
    start: u64,
    end: u64,
    permissions: &'t str,
    is_anonymous: bool,
    /// What is mapped: a path, a name like `[heap]`, or nothing.
    pub name: &'t str,
    /// What is resident of it, in bytes.
    pub rss: u64,
    /// Of it, pages of the process's own, in bytes: of a file, those that were written to. None
    /// where the kernel does not tell.
    own: Option<u64>,
}

impl<'t> Mapping<'t> {
    /// `START-END PERMISSIONS OFFSET DEVICE INODE  NAME`, its first line.
    fn parse(line: &'t str) -> Option<Mapping<'t>> {
        let mut parts = line.splitn(6, ' ');
        let (start, end) = parts.next()?.split_once('-')?;
        let (start, end) =
            (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let permissions = parts.next()?;
        let is_anonymous = parts.nth(2)? == "0";
        let name = parts.next().unwrap_or_default().trim();
        let (rss, own) = (0, None);
        (start < end).then_some(Mapping { start, end, permissions, is_anonymous, name, rss, own })
    }

    /// Address space, in bytes.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Its addresses, as of this process.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Whether each page can be read from a file again, as it is: nobody can write to it, and no
    /// page is the process's own.
    pub fn is_as_its_file(&self) -> bool {
        let is_fixed = matches!(self.permissions, "r-xp" | "r--p");
        is_fixed && self.name.starts_with('/') && self.own == Some(0)
    }

    fn is_untouchable(&self) -> bool {
        self.permissions.starts_with("---")
    }

    fn is_shared(&self) -> bool {
        self.permissions.ends_with('s')
    }

    fn kind(&self, before: Option<&Mapping<'_>>) -> Kind {
        let name = self.name;
        let is_guarded = before.is_some_and(|below| {
            below.end == self.start && below.is_untouchable() && below.bytes() <= GUARD_BYTES_MAX
        });
        let is_of_memory = ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero"];
        if name == "[heap]" {
            Kind::Heap
        } else if name == "[stack]" || name.contains("pthread stack") {
            Kind::Stack
        } else if self.is_shared() && is_of_memory.iter().any(|start| name.starts_with(start)) {
            Kind::Shared
        } else if !self.is_anonymous {
            Kind::File
        } else if self.is_untouchable() {
            Kind::Reserved
        } else if name.contains("malloc arena") || self.start.is_multiple_of(ARENA_BYTES) {
            Kind::Arena
        } else if is_guarded {
            Kind::Stack
        } else {
            Kind::Anonymous
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0100000 r-xp 00001000 08:01 42          /usr/bin/feed tape
Size:               1024 kB
Rss:                 800 kB
VmFlags: rd ex mr mw me
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0           [heap]
Rss:                 100 kB
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
Rss:                   8 kB
7f0000021000-7f0004000000 ---p 00000000 00:00 0
Rss:                   0 kB
7f1000001000-7f1000002000 ---p 00000000 00:00 0
Rss:                   0 kB
7f1000002000-7f1000022000 rw-p 00000000 00:00 0
Rss:                  12 kB
7f1000022000-7f1000023000 ---p 00000000 00:00 0
Rss:                   0 kB
7f1000023000-7f1000043000 rw-p 00000000 00:00 0
Rss:                  16 kB
7f2000001000-7f2000101000 rw-p 00000000 00:00 0
Rss:                1024 kB
7f3000001000-7f3000002000 rw-s 00000000 00:01 9           /memfd:x (deleted)
Rss:                   4 kB
7f4000001000-7f4000005000 r--p 00000000 00:00 0           [vvar]
Rss:                   0 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0           [stack]
Rss:                  20 kB
";

    fn sum(mappings: u64, kib: u64, rss_kib: u64) -> Sum {
        Sum { mappings, bytes: kib << 10, rss: rss_kib << 10 }
    }

    #[test]
    fn an_address_space_is_sorted() {
        let sums = Mappings::parse(SMAPS);
        for (kind, expected) in [
            (Kind::File, sum(1, 1024, 800)),
            (Kind::Heap, sum(1, 132, 100)),
            (Kind::Arena, sum(1, 132, 8)),
            (Kind::Stack, sum(3, 128 + 128 + 132, 12 + 16 + 20)),
            (Kind::Shared, sum(1, 4, 4)),
            (Kind::Anonymous, sum(2, 1024 + 16, 1024)),
            (Kind::Reserved, sum(3, (64 << 10) - 132 + 4 + 4, 0)),
        ] {
            assert_eq!(sums.of_kind(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn only_what_is_as_the_file_is() {
        let mapping = |range: &str, access: &str, path: &str, own: u32| {
            format!("{range} {access} 00000000 fe:00 77   {path}\nRss: 8 kB\nAnonymous: {own} kB\n")
        };
        let maps = [
            mapping("1000-3000", "r--p", "/usr/bin/feed tape", 0),
            mapping("3000-4000", "r-xp", "/usr/bin/feed tape", 0),
            mapping("4000-5000", "r--p", "/usr/bin/feed tape", 4),
            mapping("5000-6000", "rw-p", "/usr/bin/feed tape", 0),
            mapping("6000-7000", "r--s", "/usr/lib/locale", 0),
            mapping("7000-8000", "r--p", "", 0),
            mapping("8000-9000", "r-xp", "[vdso]", 0),
            mapping("9000-a000", "r-xp", "/lib/libc.so.6", 0),
            "a000-b000 r-xp 00000000 fe:00 77   /told/nothing/of\n".to_string(),
        ];
        let maps = maps.concat();
        let found: Vec<_> =
            mappings(&maps).filter(Mapping::is_as_its_file).map(|one| one.range()).collect();
        assert_eq!(found, [0x1000..0x3000, 0x3000..0x4000, 0x9000..0xa000]);
    }

    #[test]
    fn broken_text_is_passed_over() {
        for cut in 0..SMAPS.len() {
            Mappings::parse(&SMAPS[..cut]);
        }
        let hostile = "Rss: 5 kB\nffffffffffffffff-0 rw-p 0 0 0\n-\nx-y\n1-2\n1-2 r\n\
            0-ffffffffffffffff rw-p 0 0:0 0\nRss: 18014398509481983 kB\n\
            0-ffffffffffffffff rw-p 0 0:0 0\nRss: 18014398509481983 kB\n";
        let sums = Mappings::parse(hostile);
        let arenas = Sum { mappings: 2, bytes: u64::MAX, rss: u64::MAX };
        assert_eq!(sums.of_kind(Kind::Arena), arenas);
        assert!(!sums.seems_go());
        assert!(Mappings::parse("c000000000-c004000000 rw-p 00000000 00:00 0 \n").seems_go());
    }

    #[test]
    fn the_kinds_of_this_process_add_up() {
        let sums = Mappings::of(&Process::own()).unwrap();
        let bytes: u64 = Kind::ALL.iter().map(|kind| sums.of_kind(*kind).bytes).sum();
        let vsz = Process::own().status().unwrap().vsz.unwrap();
        // Other tests map and unmap meanwhile.
        assert!(bytes.abs_diff(vsz) < vsz / 2 + (1 << 30), "{bytes} {vsz}");
        // One for each thread: this one, and the main thread's.
        assert!(sums.of_kind(Kind::Stack).mappings >= 2, "{sums:?}");
        assert!(sums.of_kind(Kind::File).rss > 0);
    }
}
