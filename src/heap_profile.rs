//! Heap profiles of the running program: which call sites hold how much memory.
//!
//! Owns the cargo feature `heap-profile`. With it jemalloc takes the place of the C library's
//! allocator, for Rust and for the C libraries alike, and notes the stack of about every 512 KiB
//! allocated; [`write()`] has it write down what of that is still held, and makes of it the text
//! that `pprof` and `go tool pprof` read. Without it nothing is noted, and [`write()`] says what is
//! needed. Knows nothing of who asks: a signal, for now.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::clock;

/// As all files of a recording: a profile tells of names in the program, not of what is recorded.
const FILE_MODE: u32 = 0o640;

/// Writes a profile to a new file in `folder`, which is named in return:
/// `feedtape.<pid>.<time>.heap`. No reader of recordings takes it for a part of one. Takes some
/// milliseconds, for which threads that allocate may have to wait.
///
/// # Errors
/// Those of the disk; in builds without the feature [`io::ErrorKind::Unsupported`], in words. Two
/// within one second would have the same name: then the second fails with `AlreadyExists`.
pub fn write(folder: &Path) -> io::Result<PathBuf> {
    jemalloc::is_ready()?;
    let time = clock::compact(clock::wall_now());
    let path = folder.join(format!("feedtape.{}.{time}.heap", std::process::id()));
    let raw = folder.join(format!("feedtape.{}.{time}.heap.tmp", std::process::id()));
    let to = create(&path)?;
    // jemalloc would write over what is there.
    let written = create(&raw).and_then(|from| {
        let translated = jemalloc::dump(&raw)
            .and_then(|()| translate(BufReader::new(from), &mut BufWriter::new(to)));
        std::fs::remove_file(&raw)?;
        translated
    });
    if written.is_err() {
        // What is told is why nothing is in it.
        let _ = std::fs::remove_file(&path);
    }
    written.map(|()| path)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(FILE_MODE);
    let in_words = |error: io::Error| {
        io::Error::new(error.kind(), format!("can't create '{}': {error}", path.display()))
    };
    options.open(path).map_err(in_words)
}

/// From jemalloc's text to the one of tcmalloc, which every pprof reads. jemalloc writes a stack,
/// then the sum over all threads, then each thread's share; pprof wants the sum before the stack.
/// The mappings at the end are the same in both.
fn translate(from: impl BufRead, to: &mut impl Write) -> io::Result<()> {
    const SUM: &str = "t*: ";
    let mut lines = from.lines();
    let period = lines.next().transpose()?.unwrap_or_default();
    if !period.starts_with("heap_v2/") {
        let what = format!("jemalloc wrote '{period}', not the text that is known");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut stack = None;
    let mut is_mappings = false;
    for line in lines {
        let line = line?;
        is_mappings |= line.starts_with("MAPPED_LIBRARIES:");
        if is_mappings {
            writeln!(to, "{line}")?;
        } else if line.starts_with('@') {
            stack = Some(line);
        } else if let Some(sum) = line.trim_start().strip_prefix(SUM) {
            match &stack {
                Some(stack) => writeln!(to, "{sum} {stack}")?,
                None => writeln!(to, "heap profile: {sum} @ {period}")?,
            }
        }
    }
    to.flush()
}

/// Path of this program, which who reads the profile needs for the names.
pub fn program() -> String {
    let path = std::env::current_exe();
    path.map_or_else(|_| "PATH/TO/feedtape".to_string(), |path| format!("'{}'", path.display()))
}

#[cfg(not(feature = "heap-profile"))]
mod jemalloc {
    use std::io;
    use std::path::Path;

    pub(super) fn is_ready() -> io::Result<()> {
        let what = "this build takes none: build one with `cargo build --release --features \
                    heap-profile`, and record with it for a while";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    pub(super) fn dump(_path: &Path) -> io::Result<()> {
        is_ready()
    }
}

#[cfg(feature = "heap-profile")]
mod jemalloc {
    use std::ffi::{CStr, CString, c_char, c_int, c_void};
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;

    use tikv_jemalloc_sys::mallctl;

    /// jemalloc reads its options here before anything is allocated: note stacks, of one in about
    /// 2^19 bytes allocated, which is next to no CPU time.
    // SAFETY: the symbol is jemalloc's own, a pointer to a C string; nothing else defines it.
    #[unsafe(export_name = "malloc_conf")]
    pub static MALLOC_CONF: &[u8; 28] = b"prof:true,lg_prof_sample:19\0";

    /// Fails where jemalloc was told otherwise, by the environment's MALLOC_CONF.
    pub(super) fn is_ready() -> io::Result<()> {
        let mut is_on = false;
        let mut bytes = size_of::<bool>();
        let to = (&raw mut is_on).cast::<c_void>();
        // SAFETY: `opt.prof` is a bool, and so many bytes are behind the pointer.
        let code = unsafe { mallctl(c"opt.prof".as_ptr(), to, &mut bytes, ptr::null_mut(), 0) };
        check(code, c"opt.prof")?;
        if is_on {
            return Ok(());
        }
        let what = "profiling is off: see MALLOC_CONF in the recorder's environment";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    /// Writes to `path`, over what is there.
    pub(super) fn dump(path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut name: *const c_char = path.as_ptr();
        let from = (&raw mut name).cast::<c_void>();
        let bytes = size_of::<*const c_char>();
        // SAFETY: `prof.dump` takes a pointer to a C string, which lives until it returns.
        let code = unsafe {
            mallctl(c"prof.dump".as_ptr(), ptr::null_mut(), ptr::null_mut(), from, bytes)
        };
        check(code, c"prof.dump")
    }

    fn check(code: c_int, what: &CStr) -> io::Result<()> {
        match code {
            0 => Ok(()),
            // jemalloc has an error of its own for whatever failed in writing.
            code => {
                let error = io::Error::from_raw_os_error(code);
                let what = what.to_string_lossy();
                Err(io::Error::new(error.kind(), format!("jemalloc, {what}: {error}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_comes_after_its_sum() {
        let jemalloc = "heap_v2/524288\n  t*: 3: 300 [0: 0]\n  t0: 3: 300 [0: 0]\n\
                        @ 0xa 0xb\n  t*: 2: 200 [0: 0]\n  t0: 1: 100 [0: 0]\n  t1: 1: 100 [0: 0]\n\
                        @ 0xc\n  t*: 1: 100 [0: 0]\n  t0: 1: 100 [0: 0]\n\n\
                        MAPPED_LIBRARIES:\n5500-5600 r-xp 0 fd:0 1 /bin/feedtape\n";
        let mut text = Vec::new();
        translate(jemalloc.as_bytes(), &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "heap profile: 3: 300 [0: 0] @ heap_v2/524288\n2: 200 [0: 0] @ 0xa 0xb\n\
             1: 100 [0: 0] @ 0xc\nMAPPED_LIBRARIES:\n5500-5600 r-xp 0 fd:0 1 /bin/feedtape\n"
        );
        let error = translate(&b"heap_v9\n"[..], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("'heap_v9'"), "{error}");
    }
}
