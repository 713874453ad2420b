//! Segment files in every form, through what `cat`, `info` and `verify` do with them: no bytes
//! make them panic or hang, and what `verify` finds nothing wrong with the others read without
//! complaint, all of it.
//!
//! Input: a byte for the form, then the file's bytes. For half of the forms the bytes are plain
//! lines, which are packed as a sealed file is, so that what follows the checksums is reached too.

#![no_main]

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use feedtape::tape::name::Form;
use feedtape::tape::reader::{Purpose, Source};
use feedtape::tools::Outcome;
use feedtape::tools::cat::{self, CatArgs};
use feedtape::tools::info::{self, InfoArgs};
use feedtape::tools::verify::{self, VerifyArgs};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use zstd::bulk::Compressor;
use zstd::stream::raw::CParameter;

/// More than this is not read of a file which a few bytes make large.
const OUTPUT_BYTES_MAX: u64 = 32 << 20;

/// In memory: this is written a thousand times a second.
static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").expect("/dev/shm can be written to"));

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let (form, stored) = match choice % 8 {
        0 | 1 => (Form::Zstd, bytes.to_vec()),
        2 => (Form::Gzip, bytes.to_vec()),
        3 => (Form::Open, bytes.to_vec()),
        4 => (Form::Plain, bytes.to_vec()),
        5 | 6 => (Form::Zstd, pack_zstd(bytes, usize::from(*choice) * 16)),
        _ => (Form::Gzip, pack_gzip(bytes)),
    };
    let path = FOLDER.path().join(format!("fuzzed.tape{}", form.ending()));
    std::fs::write(&path, stored).expect("/dev/shm has room");
    check(&path, form);
    std::fs::remove_file(&path).expect("it was just written");
});

fn check(path: &Path, form: Form) {
    let Some(plain_bytes) = plain_bytes(path, form) else { return };
    let paths = || -> Vec<PathBuf> { vec![path.to_path_buf()] };
    let mut copied = Counter::default();
    let cat_args =
        CatArgs { paths: paths(), messages: false, raw_binary: false, feeds: Vec::new() };
    let cat = cat::run(&cat_args, &mut copied);
    let messages_args =
        CatArgs { paths: paths(), messages: true, raw_binary: true, feeds: Vec::new() };
    let messages = cat::run(&messages_args, &mut io::sink());
    let info = info::run(&InfoArgs { paths: paths(), json: true }, &mut io::sink());
    let verify = verify::run(&VerifyArgs { paths: paths() }, &mut io::sink());
    if cat.is_ok() {
        assert_eq!(Ok(copied.0), plain_bytes, "cat and the reader differ");
    }
    if matches!(verify, Ok(Outcome::Clean)) {
        cat.expect("verify found nothing, cat fails");
        messages.expect("verify found nothing, cat --messages fails");
        info.expect("verify found nothing, info fails");
    }
}

/// Reads all; how many bytes there are, or that they can't be read. `None` where there are too
/// many to go on with.
fn plain_bytes(path: &Path, form: Form) -> Option<Result<u64, ()>> {
    let Ok(mut source) = Source::open(path, form, Purpose::Verify) else { return Some(Err(())) };
    let result = io::copy(&mut source.by_ref().take(OUTPUT_BYTES_MAX), &mut io::sink());
    // The report of a file that was not read to its end is about nothing, but must not panic.
    let _ = source.frame_report();
    match result {
        Ok(OUTPUT_BYTES_MAX..) => None,
        Ok(bytes) => Some(Ok(bytes)),
        Err(_) => Some(Err(())),
    }
}

#[derive(Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames of at least so many bytes, cut at line ends, and their seek table.
fn pack_zstd(plain: &[u8], frame_bytes: usize) -> Vec<u8> {
    let mut compressor = Compressor::new(1).expect("there is memory for it");
    compressor.set_parameter(CParameter::ChecksumFlag(true)).expect("zstd knows it");
    let mut stored = Vec::new();
    let mut table = Vec::new();
    let mut rest = plain;
    while !rest.is_empty() {
        let from = frame_bytes.clamp(1, rest.len()) - 1;
        let line_end = rest[from..].iter().position(|byte| *byte == b'\n');
        let end = line_end.map_or(rest.len(), |at| from + at + 1);
        let frame = compressor.compress(&rest[..end]).expect("compressing does not fail");
        table.extend((frame.len() as u32).to_le_bytes());
        table.extend((end as u32).to_le_bytes());
        stored.extend(frame);
        rest = &rest[end..];
    }
    let frames = table.len() as u32 / 8;
    stored.extend(0x184D_2A5E_u32.to_le_bytes());
    stored.extend((table.len() as u32 + 9).to_le_bytes());
    stored.extend(&table);
    stored.extend(frames.to_le_bytes());
    stored.push(0);
    stored.extend(0x8F92_EAB1_u32.to_le_bytes());
    stored
}

fn pack_gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("memory takes everything")
}
