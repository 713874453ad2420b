//! A figure over time, drawn with characters.
//!
//! Owns the drawing: some rows of braille dots, or of stars where the terminal knows no UTF-8, with
//! the two ends of the axis written beside them. Knows nothing of what is drawn.

use crate::memory::verdict::Bucket;

/// Rows of a plot.
const ROWS: usize = 4;
/// Columns of the labels.
const LABEL_COLUMNS: usize = 12;
/// Columns of the plot itself: 80 in all.
const COLUMNS: usize = 80 - LABEL_COLUMNS - 2;
/// The axis spans at least this part of its upper end, so that noise looks like noise.
const SPAN_PART_MIN: f64 = 0.1;

/// What a plot is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// Two by four dots in a character.
    Braille,
    /// A star, or none.
    Ascii,
}

impl Ink {
    /// What the locale's names allow: those of `LC_ALL`, `LC_CTYPE` and `LANG`, the first that is
    /// there counts.
    pub(super) fn of_locale(names: [Option<String>; 3]) -> Ink {
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        let name = name.unwrap_or_default().to_ascii_lowercase();
        if name.ends_with("utf-8") || name.ends_with("utf8") { Ink::Braille } else { Ink::Ascii }
    }

    fn dots(self) -> (usize, usize) {
        match self {
            Ink::Braille => (2, 4),
            Ink::Ascii => (1, 1),
        }
    }
}

/// Draws what lies between `from_s` and `to_s`; `show` writes the labels.
pub(super) fn plot(
    buckets: &[Bucket],
    (from_s, to_s): (f64, f64),
    ink: Ink,
    show: impl Fn(f64) -> String,
) -> String {
    let (low, high) = axis(buckets);
    let (dots_x, dots_y) = ink.dots();
    let (width, height) = (COLUMNS * dots_x, ROWS * dots_y);
    let mut grid = vec![false; width * height];
    let place = |part: f64, len: usize| (part.clamp(0.0, 1.0) * (len - 1) as f64).round() as usize;
    for bucket in buckets {
        let x = place((bucket.at_s() - from_s) / (to_s - from_s).max(f64::MIN_POSITIVE), width);
        let y = |value: f64| place((value - low) / (high - low), height);
        for y in y(bucket.min)..=y(bucket.max) {
            grid[(height - 1 - y) * width + x] = true;
        }
    }
    let mut text = String::new();
    for row in 0..ROWS {
        let label = match row {
            0 => show(high),
            row if row == ROWS - 1 => show(low),
            _ => String::new(),
        };
        let cells = (0..COLUMNS).map(|column| {
            let is_set =
                |dx: usize, dy: usize| grid[(row * dots_y + dy) * width + column * dots_x + dx];
            cell(ink, is_set)
        });
        let cells: String = cells.collect();
        text += format!("{label:>LABEL_COLUMNS$} |{}", cells.trim_end()).trim_end();
        text.push('\n');
    }
    text
}

/// Ends of a line under plots, for the times at both ends of their axis.
pub(super) fn time_axis(from: &str, to: &str) -> String {
    let indent = LABEL_COLUMNS + 2;
    let room = COLUMNS.saturating_sub(from.len());
    format!("{:indent$}{from}{to:>room$}\n", "")
}

fn cell(ink: Ink, is_set: impl Fn(usize, usize) -> bool) -> char {
    match ink {
        Ink::Ascii => {
            if is_set(0, 0) {
                '*'
            } else {
                ' '
            }
        }
        Ink::Braille => {
            // The order of the dots' bits in U+2800 and after.
            const DOTS: [(usize, usize); 8] =
                [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)];
            let bits = DOTS.iter().enumerate().filter(|(_, (x, y))| is_set(*x, *y));
            let bits = bits.fold(0, |bits, (bit, _)| bits | 1 << bit);
            match bits {
                0 => ' ',
                bits => char::from_u32(0x2800 + bits).expect("all 256 of them are characters"),
            }
        }
    }
}

fn axis(buckets: &[Bucket]) -> (f64, f64) {
    let low = buckets.iter().map(|bucket| bucket.min).fold(f64::INFINITY, f64::min);
    let high = buckets.iter().map(|bucket| bucket.max).fold(f64::NEG_INFINITY, f64::max);
    if !(low.is_finite() && high.is_finite()) {
        return (0.0, 1.0);
    }
    let span = (high - low).max(high.abs() * SPAN_PART_MIN).max(1.0);
    let above = (span - (high - low)) / 2.0;
    let low = if low >= 0.0 { (low - above).max(0.0) } else { low - above };
    (low, low + span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::verdict::Series;
    use expect_test::expect;

    fn drawn(ink: Ink, value: impl Fn(f64) -> f64) -> String {
        let mut series = Series::default();
        for n in 0..1000 {
            let at = f64::from(n);
            // A hole in it.
            if !(400..600).contains(&n) {
                series.push(at, value(at));
            }
        }
        let plotted = plot(series.buckets(), (0.0, 999.0), ink, |value| format!("{value:.0}"));
        let all = plotted + &time_axis("10:00", "11:00");
        // Blanks that a line begins with would be taken for the expectation's indentation.
        all.lines().map(|line| format!("[{line}\n")).collect()
    }

    #[test]
    fn plots() {
        expect![[r#"
            [         999 |                                                      ************
            [             |                                       ****************
            [             |           ****************
            [           0 |************
            [              10:00                                                        11:00
        "#]]
        .assert_eq(&drawn(Ink::Ascii, |at| at));
        expect![[r#"
            [         999 |                                                  ⣀⣀⣀⣀⣠⠤⠤⠤⠤⠖⠒⠒⠒⠚⠉⠉
            [             |                                       ⠠⠤⠴⠒⠒⠒⠒⠉⠉⠉⠉⠁
            [             |               ⢀⣀⣀⣀⣀⠤⠤⠤⠤⠖⠒⠂
            [           0 |⣀⣀⡤⠤⠤⠤⠴⠒⠒⠒⠒⠋⠉⠉⠉⠉
            [              10:00                                                        11:00
        "#]]
        .assert_eq(&drawn(Ink::Braille, |at| at));
        expect![[r#"
            [         532 |
            [             |⣠⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣤⣄⣤⡄            ⢠⣤⣠⣤⣤⣤⣤⣠⣤⣤⣤⣤⣄⣤⣤⣤⣤⣤⣠⣤⣤⣤⣤⣤⣤⣤⣤
            [             |⠛⠛⠛⠃⠛⠛⠛⠛⠋⠛⠛⠛⠛⠛⠙⠛⠛⠛⠛⠋⠛⠛⠛⠛⠛⠛⠃            ⠘⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠛⠋
            [         480 |
            [              10:00                                                        11:00
        "#]]
        .assert_eq(&drawn(Ink::Braille, |at| 500.0 + 2.0 * (at % 7.0)));
        for line in drawn(Ink::Braille, |at| at).lines() {
            assert!(line.chars().count() <= 81, "{line}");
        }
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let empty = plot(&[], (0.0, 0.0), Ink::Ascii, |value| format!("{value:.0}"));
        assert_eq!(empty.lines().count(), ROWS);
        let one = drawn(Ink::Ascii, |_| 0.0);
        assert!(one.contains('*'), "{one}");
    }

    #[test]
    fn ink_of_locales() {
        let name = |name: &str| Some(name.to_string());
        for (names, expected) in [
            ([None, None, None], Ink::Ascii),
            ([None, None, name("en_US.UTF-8")], Ink::Braille),
            ([name("C"), None, name("en_US.UTF-8")], Ink::Ascii),
            ([name(""), name("C.utf8"), None], Ink::Braille),
        ] {
            assert_eq!(Ink::of_locale(names.clone()), expected, "{names:?}");
        }
    }
}
