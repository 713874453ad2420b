//! Limits of the process: open descriptors, and how the C library keeps memory.
//!
//! Owns raising the one and lowering the other, once, at the start.

/// Descriptors of a feed: socket, wake-up, open segment; and of the rest.
pub(crate) const FDS_PER_FEED: u64 = 3;
/// See [`FDS_PER_FEED`].
pub(crate) const FDS_BASE: u64 = 64;

/// Allows as many descriptors as the hard limit does; warns where that may be too few.
pub(super) fn raise_descriptor_limit(feeds: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let needed = FDS_BASE + FDS_PER_FEED * feeds;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < needed => {
            log::warn!(
                "{limit} descriptors may be open, {needed} may be needed: raise LimitNOFILE"
            );
        }
        Ok(_) => {}
        Err(error) => log::warn!("can't raise the limit of open descriptors: {error}"),
    }
}

/// Limits of the C library's memory: one arena for all threads (each further one reserves 64 MiB
/// of address space), and freed large blocks go back to the system at once.
///
/// Nothing is allocated for a message, so threads seldom meet at the one arena. Measured with 256
/// feeds at 20 messages a second each, on a busy machine with two cores: resident memory with ws
/// and with wss, and the largest address space.
///
/// | allocator | ws | wss | address space |
/// |---|---|---|---|
/// | glibc, one arena | 31 MiB | 48 MiB | 107 MiB |
/// | glibc, two arenas | 32 MiB | 48 MiB | 158 MiB |
/// | glibc as it comes | 34 MiB | not comparable | 1053 MiB |
/// | jemalloc 5.3 | 57 MiB | 84 MiB | 274 MiB |
/// | mimalloc 2.0 | 84 MiB | 132 MiB | 8558 MiB |
pub fn tame_malloc() {
    // SAFETY: mallopt is called before any other thread starts; the values are in range.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
}
