//! The two clocks: wall time (Unix nanoseconds) and monotonic time, and how they differ.
//!
//! Owns reading them, the machine's boot id and the state of its synchronisation, dates in UTC,
//! and the watch for steps. Never sets a clock, never sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Wall time: nanoseconds since 1970-01-01T00:00:00Z. Nineteen digits from 2001 to 2262.
pub type UnixNs = u64;

/// A moment on the monotonic clock (CLOCK_MONOTONIC), in nanoseconds since some start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// The moment `span` later; stays at the end of time rather than wrap.
    pub fn after(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall time now.
pub fn wall_now() -> UnixNs {
    read(ClockId::CLOCK_REALTIME)
}

/// Monotonic time now.
pub fn mono_now() -> Mono {
    Mono(read(ClockId::CLOCK_MONOTONIC))
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("the kernel always has these clocks");
    let (secs, nanos) = (time.tv_sec().max(0), time.tv_nsec().max(0));
    secs as u64 * 1_000_000_000 + nanos as u64
}

/// CLOCK_REALTIME minus CLOCK_MONOTONIC now, in nanoseconds.
pub fn mono_offset_ns() -> i64 {
    Reading::now().offset_ns()
}

/// This boot's id, as the kernel gives it; empty where it can't be read.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_string())
        .unwrap_or_default()
}

/// Whether the kernel says that the wall clock is synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockSync {
    /// A time service keeps it.
    Yes,
    /// Nobody does.
    No,
    /// The kernel would not say.
    Unknown,
}

/// The state of the wall clock's synchronisation and its largest error in nanoseconds, where
/// known (adjtimex(2): STA_UNSYNC and maxerror).
pub fn sync_state() -> (ClockSync, Option<u64>) {
    // SAFETY: timex is plain data for which all zeroes is valid; modes 0 only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed timex.
    if unsafe { libc::adjtimex(&mut timex) } < 0 {
        return (ClockSync::Unknown, None);
    }
    if timex.status & libc::STA_UNSYNC != 0 {
        return (ClockSync::No, None);
    }
    (ClockSync::Yes, u64::try_from(timex.maxerror).ok().map(|us| us.saturating_mul(1000)))
}

/// The machine's name; `unknown` where it has none that is UTF-8.
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_string())
}

fn zoned(ts: UnixNs) -> jiff::Zoned {
    let ts = i128::from(ts);
    jiff::Timestamp::from_nanosecond(ts)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_zoned(jiff::tz::TimeZone::UTC)
}

/// `YYYY-MM-DD` in UTC.
pub fn date(ts: UnixNs) -> String {
    zoned(ts).strftime("%Y-%m-%d").to_string()
}

/// `YYYYMMDDThhmmssZ`, as in the names of segments.
pub fn compact(ts: UnixNs) -> String {
    zoned(ts).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The time that [`compact`] wrote; `None` where there is no such day or time.
pub fn from_compact(text: &str) -> Option<UnixNs> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    u64::try_from(zoned.timestamp().as_nanosecond()).ok()
}

/// RFC 3339 in UTC with milliseconds, for people.
pub fn rfc3339(ts: UnixNs) -> String {
    zoned(ts).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A time as in RFC 3339, with a zone: `2026-01-31T12:00:00Z`.
///
/// # Errors
/// A sentence that quotes the text and says what would be right.
pub fn from_rfc3339(text: &str) -> Result<UnixNs, String> {
    let time: Option<jiff::Timestamp> = text.parse().ok();
    let ns = time.and_then(|time| UnixNs::try_from(time.as_nanosecond()).ok());
    ns.ok_or_else(|| format!("'{text}' is no time: write it as in 2026-01-31T12:00:00Z"))
}

/// How long until an HTTP date (RFC 9110 section 5.6.7); zero where it is past, `None` where it
/// is no date.
pub fn until_http_date(text: &str) -> Option<Duration> {
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_nanosecond();
    let wait = at.saturating_sub(i128::from(wall_now())).max(0);
    Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
}

/// The clocks are read again where that took longer, but no more often than [`READS_MAX`] times.
const WIDTH_MAX: Duration = Duration::from_micros(100);
const READS_MAX: u32 = 3;

/// Both clocks and the suspended time, read so close together that being preempted between the
/// reads shows: monotonic, wall, monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Monotonic time before the wall clock was read.
    pub mono_before: Mono,
    /// The wall clock.
    pub wall: UnixNs,
    /// Monotonic time after it.
    pub mono_after: Mono,
    /// CLOCK_BOOTTIME, which goes on while the machine is suspended.
    pub boot: u64,
}

impl Reading {
    /// Reads the clocks; again where it was preempted in between, which may hide a step.
    pub fn now() -> Reading {
        let mut best = Reading::once();
        for _ in 1..READS_MAX {
            if best.width() <= WIDTH_MAX {
                break;
            }
            let again = Reading::once();
            if again.width() < best.width() {
                best = again;
            }
        }
        best
    }

    fn width(&self) -> Duration {
        self.mono_after.since(self.mono_before)
    }

    fn once() -> Reading {
        let mono_before = mono_now();
        let wall = wall_now();
        let mono_after = mono_now();
        Reading { mono_before, wall, mono_after, boot: read(ClockId::CLOCK_BOOTTIME) }
    }

    /// Wall minus monotonic, with the middle of the two monotonic reads.
    pub fn offset_ns(&self) -> i64 {
        let middle = self.mono_before.0 + (self.mono_after.0 - self.mono_before.0) / 2;
        self.wall as i64 - middle as i64
    }
}

/// Why wall and monotonic time went apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepCause {
    /// Somebody set the wall clock.
    Step,
    /// The machine slept; the monotonic clock stood still.
    Suspend,
}

/// A step of the wall clock against the monotonic one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How far the wall clock jumped; negative is back.
    pub step_ns: i64,
    /// Why.
    pub cause: StepCause,
}

/// A step is reported from here on.
const STEP_NS_MIN: i64 = 1_000_000;
/// How fast the kernel may slew the clock at most: 500 ppm (adjtimex), no step.
const SLEW_PER_MILLION: u64 = 500;

/// Watches for steps between two readings.
#[derive(Debug, Clone)]
pub struct ClockWatch {
    last: Reading,
}

impl ClockWatch {
    /// Starts from `first`.
    pub fn new(first: Reading) -> Self {
        ClockWatch { last: first }
    }

    /// When the clocks were last compared.
    pub fn checked_at(&self) -> Mono {
        self.last.mono_after
    }

    /// Compares with the reading before; `Some` where the wall clock was stepped by more than
    /// 1 ms (beyond what slewing may explain) or the machine slept.
    pub fn check(&mut self, now: Reading) -> Option<Step> {
        let last = std::mem::replace(&mut self.last, now);
        // How far apart the offsets may seem because a read was preempted.
        let doubt = (now.width() + last.width()).as_nanos() as i64;
        let elapsed = now.mono_before.0.saturating_sub(last.mono_after.0);
        let slew = (elapsed / 1_000_000 * SLEW_PER_MILLION) as i64;
        let step_ns = now.offset_ns() - last.offset_ns();
        if step_ns.abs() <= STEP_NS_MIN + doubt + slew {
            return None;
        }
        let slept = (now.boot as i64 - now.mono_after.0 as i64)
            - (last.boot as i64 - last.mono_after.0 as i64);
        let suspended = slept > STEP_NS_MIN + doubt && (step_ns - slept).abs() < slept / 2;
        let cause = if suspended { StepCause::Suspend } else { StepCause::Step };
        Some(Step { step_ns, cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1_000_000_000)),
            ("1970-01-01T01:00:00.5+01:00", Some(500_000_000)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-01-31", None),
            ("", None),
        ] {
            let read = from_rfc3339(text);
            assert_eq!(read.clone().ok(), expected, "{text}");
            assert!(read.is_ok() || read.unwrap_err().contains(&format!("'{text}'")));
        }
    }

    const MS: u64 = 1_000_000;
    const START: u64 = 1_700_000_000_000_000_000;

    fn reading(mono_ms: u64, offset_ms: i64, slept_ms: u64, width_ms: u64) -> Reading {
        let mono = mono_ms * MS;
        let wall =
            (START as i64 + (mono + width_ms * MS / 2) as i64 + offset_ms * MS as i64) as u64;
        let mono_after = mono + width_ms * MS;
        Reading {
            mono_before: Mono(mono),
            wall,
            mono_after: Mono(mono_after),
            boot: mono_after + slept_ms * MS,
        }
    }

    #[test]
    fn steps_are_told_from_noise() {
        let check = |name: &str, second: Reading, expected: Option<(i64, StepCause)>| {
            let mut watch = ClockWatch::new(reading(1_000, 0, 0, 0));
            let got = watch.check(second).map(|s| (s.step_ns / MS as i64, s.cause));
            assert_eq!(got, expected, "{name}");
        };
        check("quiet", reading(2_000, 0, 0, 0), None);
        check("one ms", reading(2_000, 1, 0, 0), None);
        check("forward", reading(2_000, 5, 0, 0), Some((5, StepCause::Step)));
        check("back", reading(2_000, -3_600_000, 0, 0), Some((-3_600_000, StepCause::Step)));
        check("preempted while reading", reading(2_000, 20, 0, 50), None);
        check("slewed over a minute", reading(61_000, 29, 0, 0), None);
        check("slept", reading(2_000, 60_000, 60_000, 0), Some((60_000, StepCause::Suspend)));
    }

    #[test]
    fn dates_are_utc() {
        let ts = 1_736_682_893_953_758_185;
        assert_eq!(date(ts), "2025-01-12");
        assert_eq!(compact(ts), "20250112T115453Z");
        assert_eq!(from_compact("20250112T115453Z"), Some(ts / 1_000_000_000 * 1_000_000_000));
        for wrong in ["", "20250112T115453", "20251312T115453Z", "20250112T255453Z", "x"] {
            assert_eq!(from_compact(wrong), None, "{wrong}");
        }
        assert_eq!(rfc3339(ts), "2025-01-12T11:54:53.953Z");
        assert_eq!(date(u64::MAX).len(), 10);
    }
}
