//! Longer runs of random steps: several starts on one disk, which fails or crashes somewhere.
//!
//! A seed decides everything. Some seeds are the same each time, one is new; set
//! `FEEDTAPE_TEST_SEED` to run that of a failure again.

use super::*;

/// Seeds that are tried each time.
const SEEDS: u64 = 40;
/// Starts on one disk, at most.
const STARTS_MAX: usize = 4;
/// Steps of a start, at most.
const STEPS_MAX: usize = 24;

/// How a start ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// In order.
    Clean,
    /// The program is gone; the disk has what it was given.
    Killed,
    /// The machine is gone: what was not synced is lost, or, with a seed, a part of it.
    Crashed(Option<u64>),
}

/// Says how to repeat what failed.
struct SayOnPanic {
    seed: u64,
    said: Vec<String>,
}

impl Drop for SayOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}\nseed {seed}: FEEDTAPE_TEST_SEED={seed}",
                self.said.join("\n"),
                seed = self.seed
            );
        }
    }
}

fn random_step(random: &mut fastrand::Rng) -> Step {
    let feed = random.usize(0..FEEDS);
    match random.u8(0..20) {
        0..8 => Step::Messages { feed, count: random.usize(1..20), bytes: random.usize(0..400) },
        8..10 => Step::Messages { feed, count: random.usize(1..4), bytes: 300_000 },
        10..13 => Step::Sync,
        13..15 => Step::Rotate { feed },
        15..18 => Step::Seal,
        18 => Step::Prune { keep: KEEP_A_MINUTE },
        _ => {
            let bytes = [1, 1_000, 3_000, 1_000_000];
            Step::Prune { keep: Keep { age: None, bytes: random.choice(bytes) } }
        }
    }
}

fn random_compression(random: &mut fastrand::Rng) -> Compression {
    match random.u8(0..4) {
        0 => Compression::None,
        1 => Compression::Gzip { level: 1 },
        _ => Compression::Zstd { level: 1 },
    }
}

/// Takes what was recorded before for what was accepted, and goes on from there. What was pruned
/// is among it: where that was not durable, a crash of the machine brings it back.
fn start(disk: &MemoryDisk, before: Option<&Rig>) -> Rig {
    let mut rig = Rig::new(disk);
    let Some(before) = before else { return rig };
    for (feed, found) in messages_on(disk).into_iter().enumerate() {
        let first = found.first().map_or(usize::MAX, |message| number_of(message));
        let first = first.min(before.may_be_gone[feed]);
        let gone = before.accepted[feed].iter().filter(|message| number_of(message) < first);
        rig.accepted[feed] = gone.cloned().collect();
        rig.pruned[feed] = rig.accepted[feed].len();
        rig.accepted[feed].extend(found);
    }
    rig.next_message.clone_from(&before.next_message);
    rig.may_be_gone.clone_from(&before.may_be_gone);
    rig.now = before.now + 1_000_000_000;
    rig
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut shown = SayOnPanic { seed, said: Vec::new() };
    let mut disk = MemoryDisk::new();
    let mut before: Option<Rig> = None;
    for _ in 0..random.usize(1..=STARTS_MAX) {
        let mut rig = start(&disk, before.as_ref());
        let compression = random_compression(&mut random);
        let ending = match random.u8(0..4) {
            0 => Ending::Clean,
            1 => Ending::Killed,
            2 => Ending::Crashed(None),
            _ => Ending::Crashed(Some(random.u64(..))),
        };
        let at = disk.operations() + random.u64(0..150);
        let fault = match random.u8(0..4) {
            0 => Some(Fault::Fail(io::ErrorKind::StorageFull)),
            1 => Some(Fault::Fail(io::ErrorKind::Other)),
            2 => Some(Fault::Short(random.usize(0..2000))),
            _ => None,
        };
        if let Some(fault) = fault {
            disk.fault_at(at, fault);
        }
        shown.said.push(format!("{compression:?}, {fault:?} at {at}, {ending:?}:"));
        for _ in 0..random.usize(1..=STEPS_MAX) {
            let step = random_step(&mut random);
            shown.said.push(format!("  {step:?}"));
            rig.step(step, compression);
        }
        disk = end(&mut rig, ending, compression);
        check_recovered(&format!("seed {seed}"), &rig, &disk, compression);
        if matches!(ending, Ending::Clean) {
            check_count(&rig, &disk);
        }
        if has_damaged(&disk) {
            break;
        }
        before = Some(rig);
    }
    prune_all(&disk, KEEP_NOTHING, Compression::None, u64::MAX / 2);
    verify(&disk).unwrap_or_else(|said| panic!("pruned at the end: {said}"));
    check_sums("pruned at the end", &disk);
}

/// The disk as the next start finds it.
fn end(rig: &mut Rig, ending: Ending, compression: Compression) -> MemoryDisk {
    match ending {
        Ending::Clean => rig.end(compression),
        Ending::Killed | Ending::Crashed(_) => {}
    }
    rig.disk.clear_faults();
    match ending {
        Ending::Clean | Ending::Killed => rig.disk.clone(),
        Ending::Crashed(None) => rig.disk.crash(),
        Ending::Crashed(Some(seed)) => rig.disk.crash_torn(seed),
    }
}

/// What was not said to be lost is there.
fn check_count(rig: &Rig, disk: &MemoryDisk) {
    for (feed, found) in messages_on(disk).iter().enumerate() {
        let lost: u64 = rig.stats[feed].gaps.figures().iter().map(|gap| gap.messages).sum();
        let accounted = (found.len() + rig.pruned[feed]) as u64 + lost;
        assert_eq!(accounted, rig.accepted[feed].len() as u64, "feed {feed}: {:?}", disk.log());
    }
}

#[test]
fn random_runs_hold_what_they_promise() {
    if let Ok(seed) = std::env::var("FEEDTAPE_TEST_SEED") {
        return run(seed.parse().expect("FEEDTAPE_TEST_SEED is a number"));
    }
    for seed in (0..SEEDS).chain([fastrand::u64(..)]) {
        run(seed);
    }
}
