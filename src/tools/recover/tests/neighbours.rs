//! What the segments beside a damaged one tell of it: times, and whose the lost lines are.

use super::*;

/// Segments with so many messages, an hour or, for a small one, a moment apart.
fn segments(messages: &[u64], apart_ns: u64) -> Vec<SegmentBuilder> {
    let (mut index, mut all) = (0, Vec::new());
    for (number, messages) in messages.iter().enumerate() {
        let mut segment = SegmentBuilder::new("btc", number as u64, index);
        let from = TS + number as u64 * apart_ns;
        segment.header_ts(from);
        for n in 0..*messages {
            segment.ts(from + n).text(format!("{{\"message\":{number:04}{n:04}}}").as_bytes());
        }
        segment.end();
        index = segment.next_index();
        all.push(segment);
    }
    all
}

/// Recovers what is stored of the segments, and reads it.
fn mend_all(
    segments: &[SegmentBuilder],
    stored: &[Option<Vec<u8>>],
) -> (Outcome, String, Vec<OwnedLine>) {
    let recording = Recording::new();
    for (segment, stored) in segments.iter().zip(stored) {
        let path = recording.put(segment, Form::Zstd);
        match stored {
            Some(stored) => std::fs::write(path, stored).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
    let (outcome, said) = recover(&[recording.path()], None);
    (outcome, said, read_all(recording.path()).unwrap())
}

fn gap_of(lines: &[OwnedLine], segment: u64) -> serde_json::Value {
    let start = b"!{\"event\":\"gap\"";
    let is_gap = |line: &&OwnedLine| line.segment == segment && line.bytes[19..].starts_with(start);
    serde_json::from_slice(&lines.iter().find(is_gap).unwrap().bytes[20..]).unwrap()
}

/// The new header had the whole second of the file's name, below the stamps of the segment before,
/// and the gap began nowhere.
#[test]
fn a_header_made_anew_goes_on_where_the_segment_before_ended() {
    let all = segments(&[4, 40], 1000);
    let mut stored: Vec<_> = all.iter().map(|one| Some(one.stored(Form::Zstd))).collect();
    stored[1].as_mut().unwrap()[0] ^= 1;
    let (outcome, said, lines) = mend_all(&all, &stored);
    assert_eq!(outcome, Outcome::Loss, "{said}");
    let stamps: Vec<&[u8]> = lines.iter().map(|line| &line.bytes[..19]).collect();
    assert!(stamps.is_sorted(), "{said}");
    let gap = gap_of(&lines, 1);
    assert_eq!(gap["from_ts"], TS + 3, "{gap}");
    assert!(gap["to_ts"].as_u64().is_some_and(|ts| ts > TS + 1000), "{gap}");
}

/// Its end was put at the time of the recovery, years over what the later segments hold; and the
/// segment after it had lost lines that were the cut one's.
#[test]
fn a_cut_segment_before_one_that_is_lost_too() {
    let hour = 3_600_000_000_000;
    let all = segments(&[4, 40, 40, 4], hour);
    let whole: Vec<_> = all.iter().map(|one| Some(one.stored(Form::Zstd))).collect();
    let mut stored = whole.clone();
    let starts = frames(stored[1].as_ref().unwrap());
    stored[1].as_mut().unwrap().truncate(starts[1]);
    let cut = stored.clone();
    // The next one is not there: the one after it tells the time, and nobody how many.
    stored[2] = None;
    let (_, said, lines) = mend_all(&all, &stored);
    let gap = gap_of(&lines, 1);
    assert_eq!((&gap["to_ts"], &gap["lines"]), (&(TS + 3 * hour).into(), &().into()), "{said}");
    stored[3] = None;
    let (_, said, lines) = mend_all(&all, &stored);
    assert_eq!(gap_of(&lines, 1)["to_ts"], serde_json::Value::Null, "{said}");
    // The next one has lost its header and its end: by its name it is told when it began.
    let mut stored = cut;
    let next = stored[2].as_mut().unwrap();
    let starts = frames(next);
    for start in [0, starts.len() - 2] {
        next[starts[start] + 20] ^= 1;
    }
    let (_, said, lines) = mend_all(&all, &stored);
    let second = 1_000_000_000;
    assert_eq!(gap_of(&lines, 1)["to_ts"], (TS + 2 * hour) / second * second, "{said}");
    assert_eq!(gap_of(&lines, 2)["lines"], serde_json::Value::Null, "{said}");
    assert!(said.contains("btc 000002: lost lines from index"), "{said}");
    assert!(!said.contains("lines lost"), "of neither it is known how many: {said}");
}
