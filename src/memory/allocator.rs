//! What the allocator knows of the heap it manages: of this process only, nobody can ask another's.
//!
//! Owns the question to the C library, in one function, so that another allocator is asked here.

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
    /// Of what it holds, what is free at the top of the heap and could go back to the system.
    pub top: u64,
}

/// This process's heap; none where the C library can't tell.
pub fn own() -> Option<Heap> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it takes no arguments, and locks each arena for itself.
        let info = unsafe { libc::mallinfo2() };
        Some(Heap {
            in_use: (info.uordblks + info.hblkhd) as u64,
            held: (info.arena + info.hblkhd) as u64,
            mapped: info.hblkhd as u64,
            top: info.keepcost as u64,
        })
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
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
}
