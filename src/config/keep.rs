//! `--keep` and `--keep-bytes`, the same for `record` and `prune`.
//!
//! Owns what is typed and its bounds.

use std::time::Duration;

use super::mistakes::Mistakes;
use crate::sealer::retention::Keep;

/// What was typed of what is kept.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct KeepArgs {
    /// Delete finished segments that ended longer ago than this, such as 30d; 0 keeps all.
    /// [1m..3650d]
    #[arg(long, value_name = "SPAN")]
    pub keep: Option<String>,

    /// Delete the oldest finished segments, of whatever feed, while all segments together take
    /// more than this on disk, such as 100GiB; 0 is no limit. [1MiB..1024TiB]
    #[arg(long, value_name = "SIZE")]
    pub keep_bytes: Option<String>,
}

impl KeepArgs {
    /// Checks both.
    ///
    /// # Errors
    /// All mistakes, a sentence each.
    pub fn check(&self) -> Result<Keep, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let keep = self.check_into(&mut mistakes);
        mistakes.into_result(keep)
    }

    pub(super) fn check_into(&self, mistakes: &mut Mistakes) -> Keep {
        let age = self.keep.as_ref().map(|text| mistakes.span("--keep", text, "1m", "3650d", true));
        let bytes = self.keep_bytes.as_ref().filter(|text| text.trim() != "0");
        let bytes = bytes.map(|text| mistakes.size("--keep-bytes", text, "1MiB", "1024TiB"));
        Keep { age: age.filter(|age| *age > Duration::ZERO), bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let check = |age: Option<&str>, bytes: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_string);
            let checked = KeepArgs { keep: text(age), keep_bytes: text(bytes) }.check();
            checked.map(|keep| (keep.age.map(|age| age.as_secs()), keep.bytes))
        };
        assert_eq!(check(None, None), Ok((None, None)));
        assert_eq!(check(Some("0"), Some("0")), Ok((None, None)));
        assert_eq!(check(Some("1m"), Some("1MiB")), Ok((Some(60), Some(1 << 20))));
        assert_eq!(check(Some("3650d"), Some("1024TiB")), Ok((Some(3650 * 86_400), Some(1 << 50))));
        for (age, bytes) in [("59s", "1023KiB"), ("3651d", "1025TiB"), ("long", "many")] {
            let mistakes = check(Some(age), Some(bytes)).unwrap_err();
            assert!(mistakes[0].contains("--keep") && mistakes[0].contains(age), "{mistakes:?}");
            assert!(mistakes[1].contains("--keep-bytes"), "{mistakes:?}");
            assert!(mistakes[1].contains(bytes), "{mistakes:?}");
        }
    }
}
