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
pub fn tame_malloc() {
    // SAFETY: mallopt is called before any other thread starts; the values are in range.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
}
