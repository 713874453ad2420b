//! Talking to systemd: ready, stopping, status, watchdog.
//!
//! Owns the notify socket; without systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The recorder records.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The recorder reads its options again; [`ready`] says that it has.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("no monotonic time for systemd: {error}"),
    }
}

/// The recorder ends.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// The recorder lives.
pub fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] must be called, where systemd asks for it at all.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("can't notify systemd: {error}");
    }
}
