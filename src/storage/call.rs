//! Which call to the disk a thread is in, and since when.
//!
//! Owns a note of the thread itself: what its calls are to show in. The disk may hold a thread up
//! for as long as it likes; who watches the thread must be able to tell that from hanging.

use std::cell::RefCell;
use std::sync::Arc;

use crate::stats::Pulse;

thread_local! {
    static PULSE: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// The calling thread's calls to the disk show in its pulse from now on.
pub fn show_in(pulse: Arc<Pulse>) {
    PULSE.with_borrow_mut(|shown| *shown = Some(pulse));
}

/// A call that lasts until this is dropped.
pub(super) struct Call(());

/// A call to the disk begins.
pub(super) fn begin() -> Call {
    PULSE.with_borrow(|pulse| {
        if let Some(pulse) = pulse {
            pulse.call_begins();
        }
    });
    Call(())
}

impl Drop for Call {
    fn drop(&mut self) {
        PULSE.with_borrow(|pulse| {
            if let Some(pulse) = pulse {
                pulse.call_ends();
            }
        });
    }
}
