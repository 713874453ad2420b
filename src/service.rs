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

/// [`watchdog`] comes no later than this from now on, where systemd watches at all.
pub fn watchdog_within(limit: Duration) {
    if watchdog_interval().is_some() {
        let limit = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        notify(&[NotifyState::WatchdogUsec(limit), NotifyState::Watchdog]);
    }
}

/// [`watchdog`] comes as often again as systemd asked for at the start.
pub fn watchdog_as_before() {
    if let Some(interval) = watchdog_interval() {
        watchdog_within(interval);
    }
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
