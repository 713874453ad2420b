//! A leak that is built in on purpose, for `scripts/leaktest`, which must find it.
//!
//! It is in no build but one with the feature `leak-on-purpose`, which nobody else wants.

/// Leaked for each message, in bytes.
const BYTES_PER_MESSAGE: usize = 64;

/// Leaks for so many messages, with pages that are really used.
pub(super) fn leak(messages: u64) {
    let bytes = usize::try_from(messages).map_or(0, |n| n.saturating_mul(BYTES_PER_MESSAGE));
    std::mem::forget(std::hint::black_box(vec![1u8; bytes]));
}
