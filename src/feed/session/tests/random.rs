//! Random inputs, and a month of a venue that comes and goes: what must hold all the same.

use super::*;

#[test]
fn random_inputs_keep_the_invariants() {
    for seed in 0..2_000u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = Rules {
            subscriptions: random.usize(0..3),
            subscribe_every: Duration::from_millis(random.u64(0..2) * 300),
            acks: random.usize(0..2),
            on_refusal: [OnRefusal::Log, OnRefusal::Retry][random.usize(0..2)],
            heartbeat_every: Duration::from_secs(random.u64(0..2) * 7),
            answer_deadline: Duration::from_secs(random.u64(0..2) * 5),
            ..rules()
        };
        let mut session = Session::new(rules.clone(), seed, ms(0));
        let (mut at, mut open, mut connecting) = (0u64, false, false);
        for step in 0..200 {
            at += random.u64(0..8_000);
            let input = match random.u8(0..19) {
                0..=3 => Input::Tick,
                4 | 5 if connecting => Input::Connected,
                6 if connecting => failed(),
                7 => Input::Flushed,
                8 => Input::Received { data: random.bool() },
                9 if open => lost(),
                10 if open => Input::Closed,
                11 => Input::Asked(if random.bool() { Ask::Pause } else { Ask::Resume }),
                12 => Input::Asked(Ask::Reconnect),
                13 if open => Input::Acked,
                14 if open => Input::Refused("no".into()),
                15 if open => Input::Answered,
                16 if connecting => Input::Postponed { until: ms(at + random.u64(0..9_000)) },
                17 => Input::Asked(Ask::Reload),
                18 => Input::Resubscribe((0..rules.subscriptions).collect()),
                _ => Input::Tick,
            };
            if input == Input::Connected {
                (open, connecting) = (true, false);
            }
            if matches!(input, Input::Postponed { .. }) {
                connecting = false;
            }
            let mut actions = Vec::new();
            session.handle(ms(at), input.clone(), &mut actions);
            for action in &actions {
                let context = format!("seed {seed}, step {step}: {input:?} -> {actions:?}");
                match action {
                    Action::Connect { by } => {
                        assert!(!open && !connecting && *by > ms(at), "{context}");
                        connecting = true;
                    }
                    Action::Disconnect(_) => {
                        assert!(open || connecting, "{context}");
                        (open, connecting) = (false, false);
                    }
                    Action::Subscribe(_)
                    | Action::GoLive
                    | Action::Ping
                    | Action::Heartbeat
                    | Action::NoteStale(_)
                    | Action::Close { .. } => assert!(open, "{context}"),
                    Action::NotePaused | Action::NoteResumed => assert!(!open, "{context}"),
                }
            }
            let due = session.deadline();
            let waits = matches!(session.state, State::Waiting { .. });
            assert!(!waits || due.is_some(), "seed {seed}: a waiting feed always comes back");
            // Without an operator's pause there is always something to come.
            let asleep = matches!(session.state, State::Paused);
            assert!(asleep || due.is_some(), "seed {seed}, step {step}: {:?}", session.state);
        }
        let mut actions = Vec::new();
        session.handle(ms(at), Input::Asked(Ask::Stop), &mut actions);
        session.handle(ms(at + 1_000), Input::Tick, &mut actions);
        assert!(session.is_stopped(), "seed {seed}: {}", state(&session));
    }
}

/// A venue that is there for seconds and gone for minutes, for a month: attempts go on, their
/// waits stay within the bounds, and there is never more than one socket.
#[test]
fn flapping_for_a_month() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut session = Session::new(rules(), seed, ms(0));
        let (mut at, mut attempts, mut lived, mut in_a_row) = (0, 0u64, 0u64, 0u32);
        let mut longest = 0;
        while at < 30 * DAY_MS {
            let due = session.waiting_until().expect("between connections it waits");
            let wait = due.since(ms(at)).as_millis() as u64;
            let upper = 1000u64 << in_a_row.saturating_sub(1).min(31);
            assert!(
                attempts == 0 || (500..=upper.min(60_000)).contains(&wait),
                "seed {seed}: {wait}"
            );
            longest = longest.max(wait);
            at += wait + 1;
            let mut actions = Vec::new();
            session.handle(ms(at), Input::Tick, &mut actions);
            assert!(matches!(actions[..], [Action::Connect { .. }]), "seed {seed}: {actions:?}");
            attempts += 1;
            at += random.u64(1..5_000);
            actions.clear();
            if random.u8(0..4) == 0 {
                let lives = random.u64(1..120_000);
                lived += 1;
                session.handle(ms(at), Input::Connected, &mut actions);
                // Something comes in each second, or pings would go unanswered.
                for second in 1..=lives / 1000 {
                    session.handle(
                        ms(at + second * 1000),
                        Input::Received { data: true },
                        &mut actions,
                    );
                    session.handle(ms(at + second * 1000), Input::Tick, &mut actions);
                }
                at += lives;
                session.handle(ms(at), lost(), &mut actions);
                in_a_row = if lives >= 30_000 { 1 } else { in_a_row + 1 };
            } else {
                session.handle(ms(at), failed(), &mut actions);
                in_a_row += 1;
            }
            assert!(
                matches!(actions.last(), Some(Action::Disconnect(_))),
                "seed {seed}: {actions:?}"
            );
        }
        assert!(attempts > 40_000 && lived > 10_000, "seed {seed}: {attempts} {lived}");
        assert!(longest > 50_000, "seed {seed}: the waits grow to {longest} ms");
    }
}
