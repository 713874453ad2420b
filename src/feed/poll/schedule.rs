//! When a feed is polled, as a pure state machine.
//!
//! ```text
//!            due, or heard of            its time has come
//!   Idle -------------------------> Owed -----------------> Polling
//!    ^                               ^  failed, put off        |
//!    |                               +-------------------------+
//!    +---------------------------------------------------------+
//!                          answered                                Paused, Stopped from anywhere
//! ```
//!
//! A poll that is owed stays owed until it is answered: it is tried again after waits that grow,
//! and never before a server's Retry-After. What becomes due meanwhile is the same poll. One that
//! an event asked for wants a body, whether or not it is the same as before.
//!
//! Owns all times and all decisions about them. No clock, socket, sleep or log in here: both
//! clocks come in with each input, and what to do goes out as actions. Intervals are aligned to
//! the wall clock, waits are measured on the monotonic one.

use std::time::Duration;

use super::super::session::Ask;
use crate::backoff::Backoff;
use crate::clock::{Mono, UnixNs};

/// A connection that begins and the gap before it are told one after the other: what happens
/// within this time is answered by one poll.
const SETTLE: Duration = Duration::from_millis(20);
/// The wall clock is looked at no less often than this: somebody may have set it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// When to poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// At multiples of this time, on the wall clock.
    pub every: Option<Duration>,
    /// Later than that by chance, by up to so much.
    pub jitter: Duration,
    /// Once at the start, too.
    pub at_start: bool,
    /// Limit from the name lookup to the end of the body.
    pub timeout: Duration,
    /// Shortest and longest wait after a poll that failed.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// A poll that is owed for so long is a reason to say so; zero is never.
    pub stale_after: Duration,
}

/// The two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Mono,
    /// The wall clock.
    pub wall: UnixNs,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Time passed; nothing else did.
    Tick,
    /// The feed that is listened to told something.
    Heard,
    /// The poll brought what it was to bring, or there was nothing new.
    Answered,
    /// It did not.
    Failed {
        /// When the server said to come back.
        retry_after: Option<Duration>,
        /// It said that we ask too much.
        throttled: bool,
    },
    /// It was not made: the budget of its host is used up for so long.
    PutOff {
        /// How long.
        wait: Duration,
    },
    /// It was given up because of a command, which comes next.
    Interrupted,
    /// An operator, the recorder, or the feed's own limit asks; to connect again is to poll now.
    Asked(Ask),
}

/// What to do about it. Results come back as inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Poll.
    Poll {
        /// The deadline for all of it.
        by: Mono,
        /// A body is wanted though it may be the same as before.
        whole: bool,
    },
    /// Write down that no poll was answered for so long.
    NoteStale(Duration),
    /// Write down that the feed is paused.
    NotePaused,
    /// Write down that it goes on.
    NoteResumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { due: Option<UnixNs> },
    Owed { at: Mono },
    Polling,
    Paused,
    Stopped,
}

/// The machine of one feed that is polled.
#[derive(Debug)]
pub struct Schedule {
    timing: Timing,
    backoff: Backoff,
    random: fastrand::Rng,
    state: State,
    /// Since when a poll is owed.
    owed_since: Option<Mono>,
    /// Whether somebody was told that it is owed for too long.
    stale_noted: bool,
    /// The poll that is owed must bring a body.
    whole: bool,
    /// Something was heard while polling: what comes in may be older.
    heard: bool,
    /// A server said not to come back before.
    not_before: Mono,
}

impl Schedule {
    /// Starts; `seed` is for the jitter.
    pub fn new(timing: Timing, seed: u64, now: Now) -> Schedule {
        let backoff = Backoff::new(timing.backoff_min, timing.backoff_max, seed);
        let mut schedule = Schedule {
            backoff,
            random: fastrand::Rng::with_seed(seed),
            state: State::Idle { due: None },
            owed_since: None,
            stale_noted: false,
            whole: false,
            heard: false,
            not_before: now.mono,
            timing,
        };
        if schedule.timing.at_start {
            schedule.owe(now, now.mono);
        } else {
            schedule.rest(now);
        }
        schedule
    }

    /// Whether it has ended for good.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// By when `handle` wants to be called with a Tick; `None` is never.
    pub fn deadline(&self, now: Now) -> Option<Mono> {
        let next = match self.state {
            State::Idle { due } => due.map(|due| {
                let wait = Duration::from_nanos(due.saturating_sub(now.wall));
                now.mono.after(wait.min(LOOK_EVERY))
            }),
            State::Owed { at } => Some(at),
            State::Polling | State::Paused | State::Stopped => None,
        };
        [next, self.stale_at()].into_iter().flatten().min()
    }

    /// Takes an input; what to do about it is put to `actions`.
    pub fn handle(&mut self, now: Now, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Tick => self.tick(now, actions),
            Input::Heard => self.heard(now),
            Input::Answered if self.state == State::Polling => self.answered(now),
            Input::Failed { retry_after, throttled } if self.state == State::Polling => {
                self.failed(now, retry_after, throttled);
            }
            Input::PutOff { wait } if self.state == State::Polling => {
                self.note_heard();
                self.state = State::Owed { at: now.mono.after(wait) };
            }
            Input::Interrupted if self.state == State::Polling => {
                self.note_heard();
                self.state = State::Owed { at: now.mono };
            }
            Input::Answered | Input::Failed { .. } | Input::PutOff { .. } | Input::Interrupted => {}
            Input::Asked(ask) => self.asked(now, ask, actions),
        }
    }

    fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        if let State::Idle { due: Some(due) } = self.state {
            if now.wall >= due {
                self.owe(now, now.mono);
            } else if due > self.latest_due(now) {
                // The clock was set back.
                self.rest(now);
            }
        }
        if self.stale_at().is_some_and(|at| now.mono >= at) {
            self.stale_noted = true;
            actions.push(Action::NoteStale(self.timing.stale_after));
        }
        if let State::Owed { at } = self.state
            && now.mono >= at
        {
            self.state = State::Polling;
            let by = now.mono.after(self.timing.timeout);
            actions.push(Action::Poll { by, whole: self.whole });
        }
    }

    fn heard(&mut self, now: Now) {
        match self.state {
            State::Idle { .. } => {
                self.whole = true;
                self.owe(now, now.mono.after(SETTLE));
            }
            // The waits after a failure and a server's wish hold for what is heard too.
            State::Owed { .. } => self.whole = true,
            State::Polling => self.heard = true,
            // What goes on after a pause begins with a poll.
            State::Paused | State::Stopped => {}
        }
    }

    fn answered(&mut self, now: Now) {
        self.backoff.reset();
        (self.owed_since, self.stale_noted, self.whole) = (None, false, false);
        if self.heard {
            self.note_heard();
            self.owe(now, now.mono);
        } else {
            self.rest(now);
        }
    }

    fn failed(&mut self, now: Now, retry_after: Option<Duration>, throttled: bool) {
        self.note_heard();
        let least = if throttled { self.timing.backoff_max } else { Duration::ZERO };
        let floor = retry_after.unwrap_or_default().max(least);
        let wait = self.backoff.next_wait(floor);
        self.not_before = now.mono.after(floor);
        self.state = State::Owed { at: now.mono.after(wait) };
    }

    fn asked(&mut self, now: Now, ask: Ask, actions: &mut Vec<Action>) {
        match (ask, self.state) {
            (_, State::Stopped) => {}
            (Ask::Stop | Ask::Complete, _) => self.state = State::Stopped,
            (Ask::Pause, State::Paused) => {}
            (Ask::Pause, _) => {
                actions.push(Action::NotePaused);
                (self.owed_since, self.stale_noted) = (None, false);
                self.state = State::Paused;
            }
            (Ask::Resume, State::Paused) => {
                actions.push(Action::NoteResumed);
                self.ask_now(now);
            }
            // A paused feed stays paused until somebody resumes or stops it.
            (Ask::Reconnect | Ask::Reload, State::Paused) => {}
            (Ask::Reconnect | Ask::Reload, _) => self.ask_now(now),
            (Ask::Resume, _) => {}
        }
    }

    /// What an operator asks for waits for nothing.
    fn ask_now(&mut self, now: Now) {
        self.not_before = now.mono;
        self.whole = true;
        self.owe(now, now.mono);
    }

    fn owe(&mut self, now: Now, at: Mono) {
        self.owed_since.get_or_insert(now.mono);
        self.state = State::Owed { at: at.max(self.not_before) };
    }

    /// Nothing is owed until the next time that is due.
    fn rest(&mut self, now: Now) {
        let due = self.next_slot(now).map(|slot| {
            let jitter = nanos(self.timing.jitter);
            slot.saturating_add(self.random.u64(0..=jitter))
        });
        self.state = State::Idle { due };
    }

    fn next_slot(&self, now: Now) -> Option<UnixNs> {
        let every = nanos(self.timing.every?).max(1);
        Some((now.wall / every).saturating_add(1).saturating_mul(every))
    }

    fn latest_due(&self, now: Now) -> UnixNs {
        let slot = self.next_slot(now).unwrap_or(UnixNs::MAX);
        slot.saturating_add(nanos(self.timing.jitter))
    }

    fn note_heard(&mut self) {
        self.whole |= std::mem::take(&mut self.heard);
    }

    fn stale_at(&self) -> Option<Mono> {
        let limit = self.timing.stale_after;
        let since = self.owed_since.filter(|_| !limit.is_zero() && !self.stale_noted)?;
        Some(since.after(limit))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const START: u64 = 1_000_000_000_000;
    /// 2025-01-12T11:54:53.000Z: seven seconds before a minute begins.
    const WALL: UnixNs = 1_736_682_893_000_000_000;
    const MINUTE: Duration = Duration::from_secs(60);

    fn timing() -> Timing {
        Timing {
            every: Some(MINUTE),
            jitter: Duration::ZERO,
            at_start: false,
            timeout: Duration::from_secs(10),
            // Equal bounds make waits lie between half and the whole of it.
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(1),
            stale_after: Duration::ZERO,
        }
    }

    fn listening() -> Timing {
        Timing { every: None, ..timing() }
    }

    fn at(ms: u64) -> Now {
        let ns = ms * 1_000_000;
        Now { mono: Mono(START + ns), wall: WALL + ns }
    }

    fn failed() -> Input {
        Input::Failed { retry_after: None, throttled: false }
    }

    fn describe(action: Action) -> String {
        match action {
            Action::Poll { by, whole } => {
                let whole = if whole { ", whole" } else { "" };
                format!("Poll(by {}{whole})", (by.0 - START) / 1_000_000)
            }
            other => format!("{other:?}"),
        }
    }

    fn state(schedule: &Schedule, now: Now) -> String {
        let until = |mono: Mono| (mono.0 - START) / 1_000_000;
        match schedule.state {
            State::Idle { due: None } => "Idle".to_string(),
            State::Idle { due: Some(due) } => format!("Idle(due {})", (due - WALL) / 1_000_000),
            State::Owed { at } if at <= now.mono => "Owed(now)".to_string(),
            State::Owed { at } => format!("Owed(at {})", until(at)),
            other => format!("{other:?}"),
        }
    }

    /// Plays `(ms, input)` pairs and compares the trace: time, input, actions, the state after.
    fn check(timing: Timing, script: &[(u64, Input)], expected: Expect) {
        let mut schedule = Schedule::new(timing, 1, at(0));
        let mut trace = format!("0: {}\n", state(&schedule, at(0)));
        for (ms, input) in script {
            let mut actions = Vec::new();
            schedule.handle(at(*ms), *input, &mut actions);
            let actions: String =
                actions.into_iter().map(|action| format!(" {}", describe(action))).collect();
            let state = state(&schedule, at(*ms));
            trace.push_str(&format!("{ms} {input:?}:{actions} -> {state}\n"));
        }
        expected.assert_eq(&trace);
    }

    #[test]
    fn polls_are_aligned_to_the_clock_and_missed_ones_are_not_made_up_for() {
        use Input::{Answered, Tick};
        check(
            timing(),
            &[
                (6_999, Tick),
                (7_000, Tick),
                (7_300, Answered),
                (67_000, Tick),
                (67_000, Tick),
                (130_000, Answered),
            ],
            expect![[r#"
                0: Idle(due 7000)
                6999 Tick: -> Idle(due 7000)
                7000 Tick: Poll(by 17000) -> Polling
                7300 Answered: -> Idle(due 67000)
                67000 Tick: Poll(by 77000) -> Polling
                67000 Tick: -> Polling
                130000 Answered: -> Idle(due 187000)
            "#]],
        );
        check(
            Timing { at_start: true, ..timing() },
            &[(0, Tick), (100, Answered)],
            expect![[r#"
                0: Owed(now)
                0 Tick: Poll(by 10000) -> Polling
                100 Answered: -> Idle(due 7000)
            "#]],
        );
    }

    #[test]
    fn what_failed_is_owed_until_it_is_answered() {
        use Input::{Answered, Interrupted, PutOff, Tick};
        check(
            timing(),
            &[
                (7_000, Tick),
                (7_100, failed()),
                (8_100, Tick),
                (8_200, failed()),
                (9_300, Tick),
                (9_400, PutOff { wait: MINUTE }),
                (69_399, Tick),
                (69_400, Tick),
                (69_500, Interrupted),
                (69_500, Tick),
                (69_600, Answered),
            ],
            expect![[r#"
                0: Idle(due 7000)
                7000 Tick: Poll(by 17000) -> Polling
                7100 Failed { retry_after: None, throttled: false }: -> Owed(at 7928)
                8100 Tick: Poll(by 18100) -> Polling
                8200 Failed { retry_after: None, throttled: false }: -> Owed(at 8967)
                9300 Tick: Poll(by 19300) -> Polling
                9400 PutOff { wait: 60s }: -> Owed(at 69400)
                69399 Tick: -> Owed(at 69400)
                69400 Tick: Poll(by 79400) -> Polling
                69500 Interrupted: -> Owed(now)
                69500 Tick: Poll(by 79500) -> Polling
                69600 Answered: -> Idle(due 127000)
            "#]],
        );
    }

    #[test]
    fn servers_are_obeyed_but_operators_go_before_them() {
        use Input::{Asked, Heard, Tick};
        let after =
            |s| Input::Failed { retry_after: Some(Duration::from_secs(s)), throttled: true };
        check(
            listening(),
            &[
                (0, Heard),
                (20, Tick),
                (100, after(120)),
                (200, Heard),
                (120_099, Tick),
                (125_100, Tick),
                (125_200, after(0)),
                (125_300, Asked(Ask::Reconnect)),
                (125_300, Tick),
            ],
            expect![[r#"
                0: Idle
                0 Heard: -> Owed(at 20)
                20 Tick: Poll(by 10020, whole) -> Polling
                100 Failed { retry_after: Some(120s), throttled: true }: -> Owed(at 122773)
                200 Heard: -> Owed(at 122773)
                120099 Tick: -> Owed(at 122773)
                125100 Tick: Poll(by 135100, whole) -> Polling
                125200 Failed { retry_after: Some(0ns), throttled: true }: -> Owed(at 126978)
                125300 Asked(Reconnect): -> Owed(now)
                125300 Tick: Poll(by 135300, whole) -> Polling
            "#]],
        );
    }

    #[test]
    fn what_is_heard_while_polling_is_polled_for_again() {
        use Input::{Answered, Heard, Tick};
        check(
            listening(),
            &[
                (0, Heard),
                (5, Heard),
                (20, Tick),
                (50, Heard),
                (60, failed()),
                (1_100, Tick),
                (1_150, Heard),
                (1_200, Answered),
                (1_200, Tick),
                (1_300, Answered),
            ],
            expect![[r#"
                0: Idle
                0 Heard: -> Owed(at 20)
                5 Heard: -> Owed(at 20)
                20 Tick: Poll(by 10020, whole) -> Polling
                50 Heard: -> Polling
                60 Failed { retry_after: None, throttled: false }: -> Owed(at 888)
                1100 Tick: Poll(by 11100, whole) -> Polling
                1150 Heard: -> Polling
                1200 Answered: -> Owed(now)
                1200 Tick: Poll(by 11200, whole) -> Polling
                1300 Answered: -> Idle
            "#]],
        );
    }

    #[test]
    fn pauses_and_ends() {
        use Input::{Asked, Heard, Interrupted, Tick};
        check(
            timing(),
            &[
                (7_000, Tick),
                (7_100, Interrupted),
                (7_100, Asked(Ask::Pause)),
                (7_200, Asked(Ask::Pause)),
                (7_300, Asked(Ask::Reconnect)),
                (7_300, Heard),
                (99_000, Tick),
                (99_100, Asked(Ask::Resume)),
                (99_100, Tick),
                (99_200, Asked(Ask::Stop)),
                (99_300, Asked(Ask::Resume)),
            ],
            expect![[r#"
                0: Idle(due 7000)
                7000 Tick: Poll(by 17000) -> Polling
                7100 Interrupted: -> Owed(now)
                7100 Asked(Pause): NotePaused -> Paused
                7200 Asked(Pause): -> Paused
                7300 Asked(Reconnect): -> Paused
                7300 Heard: -> Paused
                99000 Tick: -> Paused
                99100 Asked(Resume): NoteResumed -> Owed(now)
                99100 Tick: Poll(by 109100, whole) -> Polling
                99200 Asked(Stop): -> Stopped
                99300 Asked(Resume): -> Stopped
            "#]],
        );
    }

    #[test]
    fn stale_is_said_once_an_outage() {
        use Input::{Answered, Tick};
        check(
            Timing { stale_after: Duration::from_secs(2), ..timing() },
            &[
                (7_000, Tick),
                (8_000, failed()),
                (9_000, Tick),
                (9_500, failed()),
                (9_600, Tick),
                (10_500, Tick),
                (11_000, Answered),
                (67_000, Tick),
                (69_000, Tick),
            ],
            expect![[r#"
                0: Idle(due 7000)
                7000 Tick: Poll(by 17000) -> Polling
                8000 Failed { retry_after: None, throttled: false }: -> Owed(at 8828)
                9000 Tick: NoteStale(2s) Poll(by 19000) -> Polling
                9500 Failed { retry_after: None, throttled: false }: -> Owed(at 10267)
                9600 Tick: -> Owed(at 10267)
                10500 Tick: Poll(by 20500) -> Polling
                11000 Answered: -> Idle(due 67000)
                67000 Tick: Poll(by 77000) -> Polling
                69000 Tick: NoteStale(2s) -> Polling
            "#]],
        );
    }

    #[test]
    fn a_clock_that_is_set_is_followed() {
        let mut schedule = Schedule::new(timing(), 1, at(0));
        let mut actions = Vec::new();
        let hour = 3_600_000_000_000;
        let set = |ms: u64, by: i64| Now { wall: (WALL as i64 + by) as u64, ..at(ms) };
        assert_eq!(schedule.deadline(at(0)), Some(at(7_000).mono));
        schedule.handle(set(1, -hour), Input::Tick, &mut actions);
        assert_eq!(schedule.state, State::Idle { due: Some(WALL - hour as u64 + 7_000_000_000) });
        assert_eq!(schedule.deadline(set(1, -2 * hour)), Some(at(60_001).mono), "looks around");
        schedule.handle(set(2, hour), Input::Tick, &mut actions);
        assert_eq!(schedule.state, State::Polling);
    }

    #[test]
    fn jitter_stays_within_its_bound_and_spreads() {
        let jitter = Duration::from_secs(5);
        let mut seen = Vec::new();
        for seed in 0..200 {
            let schedule = Schedule::new(Timing { jitter, ..timing() }, seed, at(0));
            let State::Idle { due: Some(due) } = schedule.state else { panic!("{schedule:?}") };
            let late = due - (WALL + 7_000_000_000);
            assert!(late <= 5_000_000_000, "seed {seed}: {late}");
            seen.push(late / 1_000_000_000);
        }
        for second in 0..5 {
            assert!(seen.contains(&second), "{seen:?}");
        }
    }

    /// Whatever comes in whichever order: it polls only when told time has come, one at a time,
    /// not before a server's wish but for an operator's, and never stops waiting for something
    /// while it has an interval and is neither paused nor stopped.
    #[test]
    fn random_inputs_keep_the_promises() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut schedule = Schedule::new(timing(), seed, at(0));
            let (mut ms, mut polling, mut not_before) = (0, false, 0);
            for step in 0..200 {
                ms += random.u64(0..20_000);
                let input = match random.u8(0..9) {
                    0..4 => Input::Tick,
                    4 => Input::Heard,
                    5 => Input::Answered,
                    6 => {
                        let wait = random.u64(0..100);
                        if polling {
                            not_before = ms + wait * 1_000;
                        }
                        Input::Failed {
                            retry_after: Some(Duration::from_secs(wait)),
                            throttled: false,
                        }
                    }
                    7 => Input::Interrupted,
                    _ => {
                        let asks = [Ask::Pause, Ask::Resume, Ask::Reconnect];
                        not_before = 0;
                        Input::Asked(asks[random.usize(0..asks.len())])
                    }
                };
                let mut actions = Vec::new();
                schedule.handle(at(ms), input, &mut actions);
                let shown = format!("seed {seed}, step {step}, {input:?}: {schedule:?}");
                if matches!(input, Input::Answered | Input::Failed { .. } | Input::Interrupted) {
                    polling = false;
                }
                for action in actions {
                    if let Action::Poll { .. } = action {
                        assert!(!polling && ms >= not_before, "{shown}");
                        polling = true;
                    }
                }
                match schedule.state {
                    State::Polling | State::Paused | State::Stopped => {}
                    State::Idle { .. } | State::Owed { .. } => {
                        polling = false;
                        assert!(schedule.deadline(at(ms)).is_some(), "{shown}");
                    }
                }
            }
        }
    }
}
