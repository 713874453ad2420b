//! Pages of the program and its libraries that only the start needed.
//!
//! Owns taking them out of the resident set. Parsing options, reading feeds files, relocating and
//! looking at the tapes map some megabytes of code and tables that recording never comes to again.
//! The kernel would take them only when memory is short; until then every figure has them in it.

use std::fs;
use std::ops::Range;

/// Unmaps the pages; what is needed again comes back from the page cache, at the cost of a minor
/// fault for 64 KiB. With one feed 3 MiB less are resident for good.
///
/// To be called before threads are started: nobody else may map libraries meanwhile.
pub fn release_program_pages() {
    // Where it can't be read they stay.
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for range in unchanged(&maps) {
        // SAFETY: the range is a mapping of a file that can't be written to, of which no page was
        // made our own by relocation, so each page can be read from the file again, as it was. No
        // other thread runs which could have replaced it.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
        }
    }
}

/// Of the text of smaps, mappings of files that are as the files are: not writable, and with no
/// page of their own.
fn unchanged(maps: &str) -> impl Iterator<Item = Range<usize>> {
    let mut candidate = None;
    maps.lines().filter_map(move |line| {
        if let Some(own) = line.strip_prefix("Anonymous:") {
            return candidate.take().filter(|_| own.trim() == "0 kB");
        }
        if let Some(mapping) = file_mapping(line) {
            candidate = mapping;
        }
        None
    })
}

/// Of a mapping's first line: its range, where it is a file's that can't be written to. `None` of
/// other lines.
fn file_mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let is_fixed = matches!(words.next()?, "r-xp" | "r--p");
    let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((is_fixed && is_file).then_some(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_the_file_is() {
        let mapping = |range: &str, access: &str, path: &str, own: u32| {
            format!("{range} {access} 00000000 fe:00 77   {path}\nRss: 8 kB\nAnonymous: {own} kB\n")
        };
        let maps = [
            mapping("1000-3000", "r--p", "/usr/bin/feed tape", 0),
            mapping("3000-4000", "r-xp", "/usr/bin/feed tape", 0),
            mapping("4000-5000", "r--p", "/usr/bin/feed tape", 4),
            mapping("5000-6000", "rw-p", "/usr/bin/feed tape", 0),
            mapping("6000-7000", "r--s", "/usr/lib/locale", 0),
            mapping("7000-8000", "r--p", "", 0),
            mapping("8000-9000", "r-xp", "[vdso]", 0),
            mapping("9000-a000", "r-xp", "/lib/libc.so.6", 0),
        ];
        let found: Vec<_> = unchanged(&maps.concat()).collect();
        assert_eq!(found, [0x1000..0x3000, 0x3000..0x4000, 0x9000..0xa000]);
    }

    #[test]
    fn this_program_has_some() {
        let maps = fs::read_to_string("/proc/self/smaps").expect("on Linux");
        let code = only_what_is_as_the_file_is as fn() as usize;
        assert!(unchanged(&maps).any(|range| range.contains(&code)));
    }
}
