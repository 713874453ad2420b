//! What the allocator knows of the heap it manages: of this process only, nobody can ask another's.
//!
//! Owns the question to the C library, in one function, so that another allocator is asked here.

use std::ffi::c_char;

use serde::{Deserialize, Serialize};

/// Figures of the heap, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heap {
    /// What the program has allocated and not freed, large blocks included.
    pub in_use: u64,
    /// What the allocator holds of the system: in use, and free for the next allocation.
    pub held: u64,
    /// Of what it holds, large blocks which have mappings of their own; freed, they go back at
    /// once.
    pub mapped: u64,
    /// Each of its arenas, between which threads are divided.
    pub arenas: Vec<Arena>,
}

/// One arena, without the large blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// Allocated and not freed.
    pub in_use_bytes: u64,
    /// What it holds of the system.
    pub held_bytes: u64,
}

/// This process's heap; none where the C library can't tell.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn own() -> Option<Heap> {
    // SAFETY: it takes no arguments, and locks each arena for itself.
    let info = unsafe { libc::mallinfo2() };
    Some(Heap {
        in_use: (info.uordblks + info.hblkhd) as u64,
        held: (info.arena + info.hblkhd) as u64,
        mapped: info.hblkhd as u64,
        arenas: parse_arenas(&malloc_info().unwrap_or_default()),
    })
}

/// This process's heap; none where the C library can't tell.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn own() -> Option<Heap> {
    None
}

/// Gives the system back what the allocator holds and nobody uses, as far as it can.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: it takes a number of bytes to keep, and locks each arena for itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives the system back what the allocator holds and nobody uses, as far as it can.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

/// What malloc_info(3) writes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn malloc_info() -> Option<String> {
    let mut text: *mut c_char = std::ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: the stream writes to memory of its own, whose place and size are valid once it is
    // closed; the memory is freed once, after it was copied.
    unsafe {
        let stream = libc::open_memstream(&raw mut text, &raw mut bytes);
        if stream.is_null() {
            return None;
        }
        let result = libc::malloc_info(0, stream);
        let closed = libc::fclose(stream);
        if text.is_null() {
            return None;
        }
        let copy = std::slice::from_raw_parts(text.cast::<u8>(), bytes).to_vec();
        libc::free(text.cast());
        let is_whole = result == 0 && closed == 0;
        String::from_utf8(copy).ok().filter(|_| is_whole)
    }
}

/// The arenas of malloc_info's XML, which is one element a line.
fn parse_arenas(xml: &str) -> Vec<Arena> {
    let mut arenas = Vec::new();
    // After the last arena come the sums of all of them, under the same names.
    let (mut is_in_heap, mut free) = (false, 0u64);
    for line in xml.lines().map(str::trim) {
        if line.starts_with("<heap ") {
            (is_in_heap, free) = (true, 0);
        } else if !is_in_heap {
            continue;
        } else if line.starts_with("<total type=\"fast\"")
            || line.starts_with("<total type=\"rest\"")
        {
            free = free.saturating_add(size_attribute(line).unwrap_or_default());
        } else if line.starts_with("<system type=\"current\"") {
            let Some(held_bytes) = size_attribute(line) else { continue };
            arenas.push(Arena { in_use_bytes: held_bytes.saturating_sub(free), held_bytes });
        } else if line == "</heap>" {
            is_in_heap = false;
        }
    }
    arenas
}

fn size_attribute(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("size=\"")?;
    rest.split_once('"')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_block_is_seen() {
        let before = own().unwrap();
        // Other tests allocate at the same time, but none so much.
        let block = std::hint::black_box(vec![1u8; 256 << 20]);
        let with = own().unwrap();
        assert!(with.mapped >= before.mapped + (128 << 20), "{before:?} {with:?}");
        assert!(with.in_use >= before.in_use + (128 << 20), "{before:?} {with:?}");
        assert!(with.held >= with.in_use && with.held >= with.mapped);
        drop(block);
        let after = own().unwrap();
        assert!(after.mapped + (128 << 20) <= with.mapped, "{with:?} {after:?}");
    }

    #[test]
    fn arenas_are_read_from_xml() {
        let xml = "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n\
            <size from=\"33\" to=\"48\" total=\"96\" count=\"2\"/>\n</sizes>\n\
            <total type=\"fast\" count=\"2\" size=\"100\"/>\n\
            <total type=\"rest\" count=\"1\" size=\"900\"/>\n\
            <system type=\"current\" size=\"5000\"/>\n<system type=\"max\" size=\"6000\"/>\n\
            <aspace type=\"total\" size=\"5000\"/>\n</heap>\n<heap nr=\"1\">\n\
            <total type=\"rest\" count=\"1\" size=\"99999\"/>\n\
            <system type=\"current\" size=\"7000\"/>\n</heap>\n\
            <total type=\"mmap\" count=\"1\" size=\"8\"/>\n<system type=\"current\" size=\"9\"/>\n\
            </malloc>\n";
        let arenas = [
            Arena { in_use_bytes: 4000, held_bytes: 5000 },
            Arena { in_use_bytes: 0, held_bytes: 7000 },
        ];
        assert_eq!(parse_arenas(xml), arenas);
        for cut in 0..xml.len() {
            assert!(parse_arenas(&xml[..cut]).len() <= 2);
        }
        assert!(!own().unwrap().arenas.is_empty());
    }
}
