//! The deep end of a thread's stack.
//!
//! Owns giving it back. Making a connection goes deeper than all that follows (names, TLS, the
//! upgrade), and the kernel keeps what a stack has touched as long as its thread lives: with
//! hundreds of feeds that is megabytes which nobody uses until a connection is made again.

use std::ffi::c_void;
use std::ptr;

/// Below our own variables so much is left alone: the rest of the frame, and the call.
const LEFT_BYTES: usize = 1 << 10;
/// The size of pages on what we run on. Where they are larger the kernel refuses other ranges.
const PAGE_BYTES: usize = 4 << 10;

/// Gives back the pages below the caller's frame. It costs a system call, and later a page fault
/// for each page that is needed again.
#[inline(never)]
pub(super) fn release_deep_end() {
    let here = 0_u8;
    let Some(low) = lowest_address() else {
        return;
    };
    let from = low.next_multiple_of(PAGE_BYTES);
    let end = (ptr::addr_of!(here) as usize).saturating_sub(LEFT_BYTES) / PAGE_BYTES * PAGE_BYTES;
    if from < end {
        // SAFETY: the range is this thread's own stack, below all of its frames by more than the
        // red zone; what stands there is of calls that have returned, and is never read again.
        // Signal handlers run on a stack of their own, or begin above what is given back.
        unsafe {
            // Where it fails (pages larger than assumed) it stays as it was.
            libc::madvise(from as *mut c_void, end - from, libc::MADV_DONTNEED);
        }
    }
}

/// Where this thread's stack ends, above the guard; `None` where the C library does not say.
fn lowest_address() -> Option<usize> {
    // SAFETY: an attribute object is plain memory, which the call below fills in.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // SAFETY: the thread is our own, and alive.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) } != 0 {
        return None;
    }
    let (mut low, mut size) = (ptr::null_mut(), 0);
    // SAFETY: it was filled in above, and is destroyed once, after it was read.
    let told = unsafe {
        let told = libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        told
    };
    (told == 0).then_some(low as usize)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::memory::mappings::mappings;

    const DEEP_BYTES: usize = 64 << 10;

    #[inline(never)]
    fn go_deep() -> usize {
        let mut deep = [0_u8; DEEP_BYTES];
        for byte in deep.iter_mut().step_by(PAGE_BYTES) {
            // SAFETY: it is a byte of our own; volatile, so that it is touched in truth.
            unsafe { ptr::write_volatile(byte, 1) };
        }
        deep.iter().map(|byte| usize::from(*byte)).sum()
    }

    /// Bytes that are resident of the mapping which holds this thread's stack.
    fn resident() -> usize {
        let here = 0_u8;
        let here = ptr::addr_of!(here) as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("on Linux");
        let ours = mappings(&maps).find(|mapping| mapping.range().contains(&here));
        ours.expect("it is mapped").rss as usize
    }

    #[test]
    fn what_returned_is_given_back_and_frames_stay() {
        let thread = thread::Builder::new().stack_size(512 << 10).spawn(|| {
            let kept: [u8; 3000] = std::array::from_fn(|at| at as u8);
            let kept = std::hint::black_box(kept);
            assert_eq!(go_deep(), DEEP_BYTES / PAGE_BYTES);
            let before = resident();
            release_deep_end();
            let after = resident();
            assert!(kept.iter().enumerate().all(|(at, byte)| *byte == at as u8));
            (before, after)
        });
        let (before, after) = thread.expect("a thread").join().expect("no panic");
        assert!(before > after + DEEP_BYTES / 2, "{before} before, {after} after");
    }
}
