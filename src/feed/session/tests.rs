//! Traces of the session machine: a script of inputs, and every action it leads to.

mod random;

use super::*;
use crate::backoff::FLOOR_JITTER_MAX;
use expect_test::{Expect, expect};

const START: u64 = 1_000_000_000_000;

fn rules() -> Rules {
    Rules {
        connect_timeout: Duration::from_secs(10),
        // Equal bounds make the waits lie between 0.5 s and 1 s: shown as the state only.
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        ping_every: Duration::from_secs(20),
        pong_deadline: Duration::from_secs(20),
        stale_after: Duration::from_secs(300),
        subscriptions: 0,
        subscribe_every: Duration::ZERO,
        acks: 0,
        ack_deadline: Duration::from_secs(10),
        on_refusal: OnRefusal::Log,
        heartbeat_every: Duration::ZERO,
        answer_deadline: Duration::ZERO,
    }
}

fn ms(ms: u64) -> Mono {
    Mono(START + ms * 1_000_000)
}

fn state(session: &Session) -> &'static str {
    match session.state {
        State::Waiting { .. } => "Waiting",
        State::Connecting { .. } => "Connecting",
        State::Subscribing { .. } => "Subscribing",
        State::Live { .. } => "Live",
        State::Closing { .. } => "Closing",
        State::Paused => "Paused",
        State::Stopped => "Stopped",
    }
}

fn lost() -> Input {
    Input::Broken(Reason::Lost { cause: "reset".into() })
}

fn failed() -> Input {
    let reason = Reason::Failed { stage: Stage::Connect, cause: "refused".into() };
    Input::ConnectFailed { reason, retry_after: None }
}

fn describe(action: &Action) -> String {
    match action {
        Action::Disconnect(reason) => format!("Disconnect({reason})"),
        Action::Connect { by } => format!("Connect(by {} ms)", (by.0 - START) / 1_000_000),
        other => format!("{other:?}"),
    }
}

/// Plays `(ms, input)` pairs and compares the trace: time, actions, the state after.
fn check(rules: Rules, script: &[(u64, Input)], expected: Expect) {
    let mut session = Session::new(rules, 1, ms(0));
    let mut trace = String::new();
    for (at, input) in script {
        let mut actions = Vec::new();
        session.handle(ms(*at), input.clone(), &mut actions);
        let actions: Vec<_> = actions.iter().map(describe).collect();
        trace.push_str(&format!("{at}: {} -> {}\n", actions.join(", "), state(&session)));
    }
    expected.assert_eq(&trace);
}

#[test]
fn connects_subscribes_pings_and_stops() {
    check(
        Rules { subscriptions: 2, ..rules() },
        &[
            (0, Input::Tick),
            (40, Input::Connected),
            (41, Input::Flushed),
            (50, Input::Received { data: true }),
            (20_040, Input::Tick),
            (20_060, Input::Received { data: false }),
            (40_040, Input::Tick),
            (40_050, Input::Received { data: true }),
            (50_000, Input::Asked(Ask::Stop)),
            (50_020, Input::Received { data: true }),
            (50_030, Input::Closed),
            (99_000, Input::Tick),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            40: Subscribe(0), Subscribe(1) -> Subscribing
            41: GoLive -> Live
            50:  -> Live
            20040: Ping -> Live
            20060:  -> Live
            40040: Ping -> Live
            40050:  -> Live
            50000: Close { code: 1000, frames: true } -> Closing
            50020:  -> Closing
            50030: Disconnect(stopped) -> Stopped
            99000:  -> Stopped
        "#]],
    );
}

#[test]
fn a_lost_connection_waits_and_comes_back() {
    check(
        rules(),
        &[
            (0, Input::Tick),
            (10, failed()),
            (100, Input::Tick),
            (1_010, Input::Tick),
            (1_020, Input::Connected),
            (1_500, lost()),
            (1_501, Input::Tick),
            (9_000, Input::Tick),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            10: Disconnect(connect: refused) -> Waiting
            100:  -> Waiting
            1010: Connect(by 11010 ms) -> Connecting
            1020: GoLive -> Live
            1500: Disconnect(lost: reset) -> Waiting
            1501:  -> Waiting
            9000: Connect(by 19000 ms) -> Connecting
        "#]],
    );
}

#[test]
fn silence_is_found_by_data_not_by_pongs() {
    check(
        Rules { stale_after: Duration::from_secs(30), ..rules() },
        &[
            (0, Input::Tick),
            (5_000, Input::Connected),
            (25_000, Input::Tick),
            (25_001, Input::Received { data: false }),
            (29_999, Input::Tick),
            (30_000, Input::Tick),
            (30_500, Input::Tick),
            (31_000, Input::Tick),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            5000: GoLive -> Live
            25000: Ping -> Live
            25001:  -> Live
            29999:  -> Live
            30000: NoteStale(30s), Close { code: 1001, frames: true } -> Closing
            30500:  -> Closing
            31000: Disconnect(stale: no data for 30s) -> Waiting
        "#]],
    );
}

#[test]
fn no_pong_ends_it_and_further_pings_do_not_put_that_off() {
    check(
        Rules {
            ping_every: Duration::from_secs(1),
            pong_deadline: Duration::from_secs(3),
            ..rules()
        },
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (1_000, Input::Tick),
            (2_000, Input::Tick),
            (3_000, Input::Tick),
            (4_000, Input::Tick),
            (4_001, lost()),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: GoLive -> Live
            1000: Ping -> Live
            2000: Ping -> Live
            3000: Ping -> Live
            4000: Close { code: 1001, frames: true } -> Closing
            4001: Disconnect(timeout: pong (3s)) -> Waiting
        "#]],
    );
}

#[test]
fn the_server_closes_or_errs() {
    let closed = Reason::ServerClosed { code: Some(4000), text: "bye".into() };
    let protocol = Reason::Protocol { cause: "masked".into() };
    check(
        rules(),
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (10, Input::Broken(closed)),
            (2_000, Input::Tick),
            (2_000, Input::Connected),
            (2_010, Input::Broken(protocol)),
            (2_020, Input::Closed),
            (9_000, Input::Tick),
            (9_000, Input::Connected),
            (9_010, Input::Broken(Reason::InvalidUtf8)),
            (10_010, Input::Tick),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: GoLive -> Live
            10: Disconnect(closed by server: 4000 'bye') -> Waiting
            2000: Connect(by 12000 ms) -> Connecting
            2000: GoLive -> Live
            2010: Close { code: 1002, frames: false } -> Closing
            2020: Disconnect(protocol error: masked) -> Waiting
            9000: Connect(by 19000 ms) -> Connecting
            9000: GoLive -> Live
            9010: Close { code: 1007, frames: false } -> Closing
            10010: Disconnect(protocol error: text message is not UTF-8) -> Waiting
        "#]],
    );
}

#[test]
fn what_an_operator_asks_for_does_not_wait() {
    check(
        rules(),
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (10, Input::Asked(Ask::Reconnect)),
            (20, Input::Asked(Ask::Reconnect)),
            (20, Input::Tick),
            (30, Input::Connected),
            (40, Input::Asked(Ask::Pause)),
            (50, Input::Closed),
            (60, Input::Tick),
            (70, Input::Asked(Ask::Reconnect)),
            (80, Input::Asked(Ask::Resume)),
            (80, Input::Tick),
            (90, Input::Connected),
            (95, Input::Asked(Ask::Pause)),
            (96, Input::Asked(Ask::Resume)),
            (96, Input::Tick),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: GoLive -> Live
            10: Close { code: 1000, frames: true } -> Closing
            20: Disconnect(reconnect asked for) -> Waiting
            20: Connect(by 10020 ms) -> Connecting
            30: GoLive -> Live
            40: Close { code: 1000, frames: true } -> Closing
            50: Disconnect(paused), NotePaused -> Paused
            60:  -> Paused
            70:  -> Paused
            80: NoteResumed -> Waiting
            80: Connect(by 10080 ms) -> Connecting
            90: GoLive -> Live
            95: Close { code: 1000, frames: true } -> Closing
            96: Disconnect(paused) -> Waiting
            96: Connect(by 10096 ms) -> Connecting
        "#]],
    );
}

#[test]
fn a_stop_is_prompt_from_anywhere() {
    for script in [
        vec![],
        vec![(0, Input::Tick)],
        vec![(0, Input::Tick), (1, failed())],
        vec![(0, Input::Tick), (1, Input::Connected)],
        vec![(0, Input::Tick), (1, Input::Connected), (2, Input::Asked(Ask::Reconnect))],
        vec![(0, Input::Tick), (1, Input::Connected), (2, Input::Asked(Ask::Pause))],
        vec![(0, Input::Asked(Ask::Pause))],
    ] {
        let mut session = Session::new(rules(), 1, ms(0));
        let mut actions = Vec::new();
        for (at, input) in &script {
            session.handle(ms(*at), input.clone(), &mut actions);
        }
        session.handle(ms(10), Input::Asked(Ask::Stop), &mut actions);
        session.handle(ms(1_010), Input::Tick, &mut actions);
        assert!(session.is_stopped(), "{script:?}: {}", state(&session));
    }
}

#[test]
fn subscriptions_that_do_not_leave_time_out() {
    check(
        Rules { subscriptions: 1, ..rules() },
        &[(0, Input::Tick), (100, Input::Connected), (10_100, Input::Tick)],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            100: Subscribe(0) -> Subscribing
            10100: Disconnect(timeout: subscribe (10s)) -> Waiting
        "#]],
    );
}

#[test]
fn only_a_healthy_connection_resets_the_backoff() {
    let check = |live_ms: u64, reason: Input, attempts: u32| {
        let mut session = Session::new(rules(), 1, ms(0));
        let mut actions = Vec::new();
        let mut at = 0;
        for _ in 0..3 {
            session.handle(ms(at), Input::Tick, &mut actions);
            session.handle(ms(at), failed(), &mut actions);
            at += 120_000;
        }
        session.handle(ms(at), Input::Tick, &mut actions);
        session.handle(ms(at), Input::Connected, &mut actions);
        session.handle(ms(at + live_ms), reason, &mut actions);
        assert_eq!(session.attempts(), attempts, "after {live_ms} ms");
    };
    check(1_000, lost(), 4);
    check(29_999, lost(), 4);
    check(30_000, lost(), 1);
}

/// Symbols that fell silent were subscribed again all at once, whatever the venue allows.
#[test]
fn subscribing_again_keeps_the_pace() {
    check(
        Rules { subscriptions: 3, subscribe_every: Duration::from_millis(200), ..rules() },
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (1, Input::Resubscribe(vec![0])),
            (400, Input::Tick),
            (600, Input::Tick),
            (601, Input::Flushed),
            (700, Input::Resubscribe(vec![0, 2])),
            (800, Input::Tick),
            (801, Input::Resubscribe(vec![2, 1])),
            (999, Input::Tick),
            (1000, Input::Tick),
            (9000, Input::Tick),
            (9001, Input::Resubscribe(vec![1])),
            (9002, lost()),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: Subscribe(0) -> Subscribing
            1:  -> Subscribing
            400: Subscribe(1) -> Subscribing
            600: Subscribe(2) -> Subscribing
            601: GoLive -> Live
            700:  -> Live
            800: Subscribe(0) -> Live
            801:  -> Live
            999:  -> Live
            1000: Subscribe(2) -> Live
            9000: Subscribe(1) -> Live
            9001:  -> Live
            9002: Disconnect(lost: reset) -> Waiting
        "#]],
    );
}

/// A feed that was refused, and whose options change while it still closes, asks anew.
#[test]
fn a_reload_while_a_refused_feed_closes() {
    check(
        Rules { subscriptions: 1, on_refusal: OnRefusal::Stop, ..rules() },
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (1, Input::Refused("no".into())),
            (2, Input::Asked(Ask::Reload)),
            (2, Input::Tick),
            (3, Input::Connected),
            (4, Input::Refused("no".into())),
            (5, Input::Asked(Ask::Stop)),
            (6, Input::Asked(Ask::Reload)),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: Subscribe(0) -> Subscribing
            1: Close { code: 1000, frames: true } -> Closing
            2: Disconnect(subscription refused: no) -> Waiting
            2: Connect(by 10002 ms) -> Connecting
            3: Subscribe(0) -> Subscribing
            4: Close { code: 1000, frames: true } -> Closing
            5:  -> Closing
            6: Disconnect(subscription refused: no) -> Stopped
        "#]],
    );
}

#[test]
fn subscriptions_are_paced_and_acknowledged() {
    check(
        Rules { subscriptions: 3, subscribe_every: Duration::from_millis(200), acks: 3, ..rules() },
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (1, Input::Flushed),
            (100, Input::Acked),
            (199, Input::Tick),
            (200, Input::Tick),
            (400, Input::Tick),
            (401, Input::Acked),
            (402, Input::Flushed),
            (500, Input::Received { data: true }),
            (600, Input::Acked),
            (700, Input::Acked),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: Subscribe(0) -> Subscribing
            1:  -> Subscribing
            100:  -> Subscribing
            199:  -> Subscribing
            200: Subscribe(1) -> Subscribing
            400: Subscribe(2) -> Subscribing
            401:  -> Subscribing
            402:  -> Subscribing
            500:  -> Subscribing
            600: GoLive -> Live
            700:  -> Live
        "#]],
    );
}

#[test]
fn acknowledgements_that_do_not_come_and_refusals() {
    let refused = || Input::Refused("no".into());
    let with = |on_refusal| Rules { subscriptions: 2, acks: 2, on_refusal, ..rules() };
    check(
        with(OnRefusal::Log),
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (1, Input::Flushed),
            (2, Input::Acked),
            (10_001, Input::Tick),
            (10_002, Input::Closed),
            (20_000, Input::Tick),
            (20_000, Input::Connected),
            (20_001, Input::Flushed),
            (20_002, Input::Acked),
            (20_003, refused()),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: Subscribe(0), Subscribe(1) -> Subscribing
            1:  -> Subscribing
            2:  -> Subscribing
            10001: Close { code: 1001, frames: true } -> Closing
            10002: Disconnect(timeout: acknowledgement (10s); 1 of 2 came) -> Waiting
            20000: Connect(by 30000 ms) -> Connecting
            20000: Subscribe(0), Subscribe(1) -> Subscribing
            20001:  -> Subscribing
            20002:  -> Subscribing
            20003: GoLive -> Live
        "#]],
    );
    check(
        with(OnRefusal::Retry),
        &[(0, Input::Tick), (0, Input::Connected), (2, refused()), (3, Input::Closed)],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: Subscribe(0), Subscribe(1) -> Subscribing
            2: Close { code: 1000, frames: true } -> Closing
            3: Disconnect(subscription refused: no) -> Waiting
        "#]],
    );
    check(
        with(OnRefusal::Stop),
        &[(0, Input::Tick), (0, Input::Connected), (2, refused()), (1_002, Input::Tick)],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: Subscribe(0), Subscribe(1) -> Subscribing
            2: Close { code: 1000, frames: true } -> Closing
            1002: Disconnect(subscription refused: no) -> Stopped
        "#]],
    );
}

#[test]
fn heartbeats_want_their_answer() {
    check(
        Rules {
            heartbeat_every: Duration::from_secs(5),
            answer_deadline: Duration::from_secs(3),
            ..rules()
        },
        &[
            (0, Input::Tick),
            (0, Input::Connected),
            (5_000, Input::Tick),
            (5_100, Input::Answered),
            (10_000, Input::Tick),
            (11_000, Input::Received { data: true }),
            (13_000, Input::Tick),
        ],
        expect![[r#"
            0: Connect(by 10000 ms) -> Connecting
            0: GoLive -> Live
            5000: Heartbeat -> Live
            5100:  -> Live
            10000: Heartbeat -> Live
            11000:  -> Live
            13000: Close { code: 1001, frames: true } -> Closing
        "#]],
    );
}

#[test]
fn a_connection_that_is_not_allowed_yet_costs_no_attempt() {
    let mut session = Session::new(rules(), 1, ms(0));
    let mut actions = Vec::new();
    session.handle(ms(0), Input::Tick, &mut actions);
    session.handle(ms(0), Input::Postponed { until: ms(5_000) }, &mut actions);
    assert_eq!((session.attempts(), session.deadline()), (0, Some(ms(5_000))));
    session.handle(ms(5_000), Input::Tick, &mut actions);
    assert_eq!(state(&session), "Connecting");
}

#[test]
fn a_server_that_wants_us_away_gets_the_longest_wait_and_one_that_says_when_that() {
    let wait = |retry_after: Option<Duration>| {
        let mut session = Session::new(rules(), 1, ms(0));
        let mut actions = Vec::new();
        session.handle(ms(0), Input::Tick, &mut actions);
        let reason = Reason::Failed { stage: Stage::Upgrade, cause: "429".into() };
        session.handle(ms(0), Input::ConnectFailed { reason, retry_after }, &mut actions);
        session.waiting_until().unwrap().since(ms(0))
    };
    assert!(wait(None) <= Duration::from_secs(1));
    for (told, s) in
        [(STAY_AWAY, 60), (Duration::from_secs(5), 5), (Duration::from_secs(3600), 3600)]
    {
        let (floor, waited) = (Duration::from_secs(s), wait(Some(told)));
        assert!(waited >= floor && waited <= floor + FLOOR_JITTER_MAX, "{told:?}: {waited:?}");
    }
}
