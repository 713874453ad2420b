//! Limits of the process: open descriptors, how the C library keeps memory, and what stays of the
//! start.
//!
//! Owns raising the one and lowering the others, once, at the start.

/// Descriptors of a feed: socket, wake-up, open segment; and of the rest.
const FDS_PER_FEED: u64 = 3;
const FDS_BASE: u64 = 64;

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
/// feeds at 20 messages a second each, on a busy machine with two cores; resident memory with ws
/// and with wss, the largest address space, and CPU seconds of the same 8 s with ws:
///
/// | allocator | ws | wss | address space | CPU |
/// |---|---|---|---|---|
/// | glibc, one arena | 31 MiB | 48 MiB | 107 MiB | 4.7 s |
/// | glibc, two arenas | 32 MiB | 48 MiB | 158 MiB | 5.1 s |
/// | glibc as it comes | 34 MiB | | 1053 MiB | 8.9 s |
/// | jemalloc 5.3 | 57 MiB | 84 MiB | 274 MiB | 9.8 s |
/// | mimalloc 2.0 | 84 MiB | 132 MiB | 8558 MiB | 7.6 s |
pub fn tame_malloc() {
    // SAFETY: mallopt is called before any other thread starts; the values are in range.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
}

/// Gives back the pages of code that only the start needed: the command line, the configuration,
/// dynamic linking. They stay in the kernel's page cache, and what is needed again comes from
/// there, at the cost of a page fault. Measured on one idle feed: 7.8 MiB of resident code before,
/// 3.9 MiB from then on.
pub(super) fn give_back_code() {
    // SAFETY: the callback does what dl_iterate_phdr asks of it, and keeps nothing it is given.
    unsafe {
        libc::dl_iterate_phdr(Some(give_back_object), std::ptr::null_mut());
    }
}

/// One object's segments that are never written to: code and constants.
unsafe extern "C" fn give_back_object(
    info: *mut libc::dl_phdr_info,
    _bytes: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE_BYTES: usize = 4096;
    // SAFETY: the C library hands over an object that is loaded, with its name and headers.
    let (object, name, headers) = unsafe {
        let object = &*info;
        let name = std::ffi::CStr::from_ptr(object.dlpi_name);
        (object, name, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // The kernel's own object is in memory anyway.
    if name.to_bytes().starts_with(b"linux-vdso") {
        return 0;
    }
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = object.dlpi_addr as usize + header.p_vaddr as usize;
        let from = start / PAGE_BYTES * PAGE_BYTES;
        let bytes = start + header.p_memsz as usize - from;
        // SAFETY: a private mapping of a file which nobody writes to: each page that is touched
        // again is read from the file as it was. Where it fails nothing has changed.
        unsafe {
            libc::madvise(from as *mut libc::c_void, bytes, libc::MADV_DONTNEED);
        }
    }
    0
}
