//! Recordings that hold anything: no command panics, hangs, follows a link out of the recording,
//! writes control characters to a terminal, or takes more than 64 MiB.
//!
//! The memory is bounded by the kernel (RLIMIT_DATA: all that is not a file), so that a command
//! that wants more dies of it.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use feedtape::tape::line::Line;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::program::poll_until;

/// Each of these is tried on every recording; a further one is a line more.
const COMMANDS: [&str; 6] = [
    "cat",
    "cat --messages",
    "cat --messages --raw-binary",
    "info",
    "verify",
    "recover --into ELSEWHERE",
];
/// The bound of a command's own memory, in KiB.
const MEMORY_KIB: u64 = 64 << 10;
/// No recording here takes long to read, on a machine that has little time for it.
const DEADLINE: Duration = Duration::from_secs(120);
const DAY: &str = "feed=f/date=2025-01-12";
const TS: u64 = 1_736_682_893_953_758_185;

/// What a command did.
struct Ended {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

/// Runs the program to its end within the bounds.
fn run(args: &[&str], path: &Path, keeps_stdout: bool) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| File::create(dir.path().join(name)).unwrap();
    let mut command = Command::new("/bin/sh");
    command.env_clear().stdin(Stdio::null());
    command.arg("-c").arg(format!("ulimit -d {MEMORY_KIB} && exec \"$@\"")).arg("sh");
    command.arg(env!("CARGO_BIN_EXE_feedtape")).args(args).arg(path);
    command.stdout(if keeps_stdout { Stdio::from(file("out")) } else { Stdio::null() });
    let mut child = command.stderr(file("err")).spawn().unwrap();
    let status = poll_until(DEADLINE, || child.try_wait().unwrap());
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let stderr = String::from_utf8_lossy(&fs::read(dir.path().join("err")).unwrap()).into_owned();
    let status = status.unwrap_or_else(|| panic!("{args:?} {path:?} did not end: {stderr}"));
    let stdout = fs::read(dir.path().join("out")).unwrap_or_default();
    Ended { code: status.code(), stdout, stderr }
}

/// Runs all commands on `path`; returns what they said, by command.
fn check(what: &str, path: &Path) -> Vec<Ended> {
    let one = |command: &&str| {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("saved").display().to_string();
        let words =
            command.split(' ').map(|word| if word == "ELSEWHERE" { &elsewhere } else { word });
        let args: Vec<&str> = words.collect();
        // What cat prints is what stands on the tape.
        let is_cat = args[0] == "cat";
        let ended = run(&args, path, !is_cat);
        let talk = String::from_utf8_lossy(&ended.stdout) + ended.stderr.as_str();
        let shown: String = talk.chars().take(2000).collect();
        let code = ended.code;
        assert!(matches!(code, Some(0 | 1 | 3)), "{command}, {what}: {code:?}: {shown}");
        assert!(!talk.contains("panic"), "{command}, {what}: {shown}");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!talk.contains(control), "{command}, {what}: control characters: {shown:?}");
        ended
    };
    COMMANDS.iter().map(one).collect()
}

/// A recording with one feed and one day.
struct Recording(TempDir);

impl Recording {
    fn new() -> Recording {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(DAY)).unwrap();
        Recording(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where segment `number` stands.
    fn segment(&self, number: usize, ending: &str) -> PathBuf {
        self.path().join(DAY).join(format!("f.20250112T115453Z.{number:06}.tape{ending}"))
    }

    /// Each of these as a segment.
    fn of(segments: impl IntoIterator<Item = Vec<u8>>, ending: &str) -> Recording {
        let recording = Recording::new();
        for (number, bytes) in segments.into_iter().enumerate() {
            fs::write(recording.segment(number, ending), bytes).unwrap();
        }
        recording
    }
}

fn header(number: u64, first_index: u64) -> String {
    format!(
        "{TS}!{{\"event\":\"segment\",\"version\":1,\"feed\":\"f\",\"segment\":{number},\
         \"first_index\":{first_index},\"url\":\"ws://h/\",\"host\":\"h\",\"boot_id\":\"b\",\
         \"mono_offset_ns\":1,\"clock_sync\":\"yes\",\"clock_error_ns\":1,\"conn\":1,\
         \"feedtape\":\"0.1.0\"}}\n"
    )
}

/// A whole segment with these lines.
fn segment(number: u64, lines: &[&[u8]]) -> Vec<u8> {
    let mut plain = header(number, 0).into_bytes();
    for line in lines {
        plain.extend_from_slice(line);
        plain.push(b'\n');
    }
    let (count, bytes) = (lines.len() + 1, plain.len());
    let crc = crc32c::crc32c(&plain);
    plain.extend(
        format!(
            "{TS}!{{\"event\":\"end\",\"lines\":{count},\"bytes\":{bytes},\
             \"crc32c\":\"{crc:08x}\"}}\n"
        )
        .into_bytes(),
    );
    plain
}

fn small_segment() -> Vec<u8> {
    let text = format!("{TS} {{\"a\":1}}");
    let escaped = format!("{TS}\\a\\nb");
    let binary = format!("{TS}~AP8=");
    segment(0, &[text.as_bytes(), escaped.as_bytes(), binary.as_bytes()])
}

fn seek_table(frames: &[(u32, u32)], count: u32) -> Vec<u8> {
    let mut table = 0x184D_2A5E_u32.to_le_bytes().to_vec();
    table.extend((frames.len() as u32 * 8 + 9).to_le_bytes());
    for (compressed, plain) in frames {
        table.extend(compressed.to_le_bytes());
        table.extend(plain.to_le_bytes());
    }
    table.extend(count.to_le_bytes());
    table.push(0);
    table.extend(0x8F92_EAB1_u32.to_le_bytes());
    table
}

/// Two frames and the seek table.
fn seal(plain: &[u8]) -> Vec<u8> {
    let cut = plain.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut stored = Vec::new();
    let mut frames = Vec::new();
    for part in [&plain[..cut], &plain[cut..]] {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        std::io::Write::write_all(&mut encoder, part).unwrap();
        let frame = encoder.finish().unwrap();
        frames.push((frame.len() as u32, part.len() as u32));
        stored.extend(frame);
    }
    stored.extend(seek_table(&frames, 2));
    stored
}

/// A frame of `blocks` times 128 KiB of one byte, four bytes each.
fn bomb(byte: u8, blocks: usize) -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    // Magic, no flags, a window of 128 KiB (RFC 8878, section 3.1.1).
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    for n in 0..blocks {
        let head = u32::from(n + 1 == blocks) | 1 << 1 | BLOCK << 3;
        frame.extend(&head.to_le_bytes()[..3]);
        frame.push(byte);
    }
    let bytes = frame.len() as u32;
    frame.extend(seek_table(&[(bytes, u32::MAX)], 1));
    frame
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_whole_one_is_fine() {
    let recording = Recording::of([small_segment()], "");
    for (command, ended) in COMMANDS.iter().zip(check("whole", recording.path())) {
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.stderr);
    }
}

#[test]
fn garbage_in_every_form() {
    const SEED: u64 = 7;
    let mut random = fastrand::Rng::with_seed(SEED);
    let noise: Vec<u8> = (0..100_000).map(|_| random.u8(..)).collect();
    let with_magic = |magic: &[u8]| [magic, &noise].concat();
    let contents = [
        vec![],
        vec![0; 100_000],
        vec![b'\n'; 1000],
        noise.clone(),
        with_magic(&[0x28, 0xb5, 0x2f, 0xfd]),
        with_magic(&[0x1f, 0x8b, 8, 0]),
    ];
    for ending in ["", ".open", ".gz", ".zst"] {
        let recording = Recording::of(contents.clone(), ending);
        check(&format!("garbage{ending}, seed {SEED}"), recording.path());
    }
}

#[test]
fn cut_and_flipped_everywhere() {
    let plain = small_segment();
    let forms = [
        (".zst", seal(&plain)),
        (".gz", gzip(&plain)),
        ("", plain.clone()),
        (".open", plain.clone()),
    ];
    for (ending, stored) in forms {
        let cut = (0..stored.len()).map(|at| stored[..at].to_vec());
        check(&format!("cut{ending}"), Recording::of(cut, ending).path());
        let flipped = (0..stored.len()).map(|at| {
            let mut bytes = stored.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        });
        check(&format!("flipped{ending}"), Recording::of(flipped, ending).path());
    }
}

#[test]
fn lengths_and_windows_that_lie() {
    let plain = small_segment();
    let frame = zstd::encode_all(&plain[..], 3).unwrap();
    let with_table = |table: Vec<u8>| [frame.clone(), table].concat();
    let sealed = [
        with_table(seek_table(&[(u32::MAX, u32::MAX)], 1)),
        with_table(seek_table(&[(1, 1)], u32::MAX)),
        with_table(seek_table(&[(0, 0); 1000], 1000)),
        seek_table(&[], u32::MAX),
        // One segment of 2^60 bytes; a window of 2^31.
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 60).to_le_bytes(), &[1, 0, 0]].concat(),
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3][..], &[1, 0, 0]].concat(),
        // A skippable frame that claims 4 GiB.
        [&0x184D_2A50_u32.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat(),
    ];
    check("lies in frames", Recording::of(sealed, ".zst").path());
}

#[test]
fn bombs() {
    // A GiB without a line end, and millions of empty lines.
    check("a line of a GiB", Recording::of([bomb(b' ', 8 << 10)], ".zst").path());
    // An error was logged for each: half a GiB of log.
    for ended in check("empty lines", Recording::of([bomb(b'\n', 16)], ".zst").path()) {
        assert!(ended.stderr.lines().count() <= 110, "{} bytes of talk", ended.stderr.len());
    }
    check("gzip", Recording::of([gzip(&vec![0; 64 << 20])], ".gz").path());
    let line = [format!("{TS} ").as_bytes(), &vec![b'x'; 32 << 20]].concat();
    let long = seal(&segment(0, &[&line]));
    check("a line of 32 MiB", Recording::of([long], ".zst").path());
}

#[test]
fn sparse_files_without_a_line_end() {
    for (bytes, ending) in [(600u64 << 20, ""), (1 << 43, ".open")] {
        let recording = Recording::new();
        File::create(recording.segment(0, ending)).unwrap().set_len(bytes).unwrap();
        for ended in check(&format!("{bytes} zeroes{ending}"), recording.path()) {
            assert_ne!(ended.code, Some(0), "{}", ended.stderr);
        }
    }
}

#[test]
fn lines_that_lie() {
    let max = u64::MAX;
    let event = |json: &str| format!("{TS}!{{\"event\":{json}}}").into_bytes();
    let counts = |name: &str| {
        event(&format!("\"{name}\",\"lines\":{max},\"bytes\":{max},\"crc32c\":\"ffffffff\""))
    };
    let lines: Vec<Vec<u8>> = vec![
        counts("mark"),
        counts("end"),
        event("\"mark\",\"lines\":1e400"),
        event("\"mark\",\"lines\":-1,\"bytes\":0.5"),
        event(&format!("\"gap\",\"reason\":\"stall\",\"messages\":{max},\"bytes\":{max}")),
        event(&format!("\"gap\",\"reason\":\"stall\",\"messages\":{max},\"bytes\":{max}")),
        event("\"gap\",\"reason\":\"\u{1b}[2J\""),
        event("\"segment\",\"version\":99999999999999999999999999"),
        event(&"[".repeat(50_000)),
        b"9999999999999999999 the last stamp".to_vec(),
        b"18446744073709551616 too long a stamp".to_vec(),
        b"0000000000000000000 the first one".to_vec(),
        format!("{TS}~====").into_bytes(),
        format!("{TS}~A*A\u{1b}").into_bytes(),
        format!("{TS}\\").into_bytes(),
        format!("{TS}\\a\\").into_bytes(),
        format!("{TS}\\\\t").into_bytes(),
        format!("{TS}\u{1b}").into_bytes(),
        [format!("{TS} ").as_bytes(), b"\xff\xfe\x1b[31m"].concat(),
        vec![0x1b; 200],
    ];
    assert!(Line::parse(&lines[9]).is_ok(), "it is a line, with the largest stamp there is");
    let headers = [
        header(max, max),
        header(max, max - 1),
        header(0, max).replace("\"f\"", "\"\\u001b]0;title\\u0007\""),
        header(0, 0).replace("\"f\"", "\"../../etc\""),
        header(0, 0).replace("\"version\":1", "\"version\":4294967295"),
        header(0, 0).replace(&TS.to_string(), "9999999999999999999"),
    ];
    let all: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    let mut segments: Vec<Vec<u8>> = lines.iter().map(|line| segment(0, &[line])).collect();
    segments.push(segment(0, &all));
    segments.extend(headers.iter().map(|header| [header.as_bytes(), &small_segment()].concat()));
    for ending in ["", ".open"] {
        let recording = Recording::of(segments.clone(), ending);
        check(&format!("lines{ending}"), recording.path());
        for (number, bytes) in segments.iter().enumerate() {
            // Under a name of its own the header says which feed it is.
            let path = recording.path().join(format!("copy-{number}"));
            fs::write(&path, bytes).unwrap();
        }
        check("a header's feed", &recording.path().join(format!("copy-{}", lines.len() + 3)));
    }
}

#[test]
fn names_of_all_kinds() {
    let recording = Recording::of([small_segment()], "");
    let folder = recording.path().join(DAY);
    let odd: [&[u8]; 12] = [
        b"f.20250112T115453Z.000001.tape\n",
        b"f.20250112T115453Z.18446744073709551615.tape",
        b"f.20250112T115453Z.1152921504606846976.tape",
        b"f.99999999T999999Z.000003.tape",
        b"f.00000000T000000Z.000004.tape.zst",
        b"\x1b[2J=\x1b]0;x\x07",
        b"\xff\xfe=\xff",
        b"a=..",
        b"..tape",
        b"f.20250112T115453Z.000001.tape.zst.tmp",
        &[b'x'; 255],
        &[&[b'x'; 250][..], b".tape"].concat(),
    ];
    for name in odd {
        fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), b"\x1b[2J\n").unwrap();
    }
    let folders: [&[u8]; 5] =
        [b"date=0000-00-00", b"date=9999-99-99", b"date=\x1b[2J", b"date=\xff", b"x=\n\r"];
    for name in folders {
        let folder = recording.path().join("feed=f").join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("f.20250112T115453Z.000007.tape"), small_segment()).unwrap();
    }
    check("names", recording.path());
    // As a shell's pattern gives them.
    let of_its_own = recording.path().join(DAY).join("\u{1b}[2J=\u{1b}]0;x\u{7}");
    check("a name that writes to the terminal", &of_its_own);
    check("no such name", Path::new("/nowhere/\u{1b}[2J\n"));
}

#[test]
fn links_fifos_and_devices() {
    let outside = Recording::of([segment(0, &[format!("{TS} SECRET").as_bytes()])], "");
    let recording = Recording::of([small_segment()], "");
    let day = recording.path().join(DAY);
    symlink(outside.segment(0, ""), recording.segment(1, "")).unwrap();
    symlink("/dev/zero", recording.segment(2, "")).unwrap();
    symlink("/dev/zero", recording.segment(3, ".zst")).unwrap();
    mkfifo(&recording.segment(4, ""), Mode::S_IRWXU).unwrap();
    mkfifo(&recording.segment(5, ".zst"), Mode::S_IRWXU).unwrap();
    mkfifo(&recording.segment(6, ".open"), Mode::S_IRWXU).unwrap();
    fs::create_dir(recording.segment(7, ".zst")).unwrap();
    make_zero(&recording.segment(8, ".gz"));
    let elsewhere = outside.path().join(DAY);
    symlink(&elsewhere, recording.path().join("feed=f/date=2025-01-13")).unwrap();
    symlink(outside.path().join("feed=f"), recording.path().join("feed=g")).unwrap();
    symlink(outside.path(), recording.path().join("host=h")).unwrap();
    symlink(recording.path(), day.join("loop=1")).unwrap();
    let ended = check("links", recording.path());
    let cat = run(&["cat"], recording.path(), true);
    assert_eq!(cat.stdout, small_segment(), "{}", cat.stderr);
    let told = ended[0].stderr.matches("links within a recording are not followed").count();
    assert_eq!(told, 12, "each once: {}", ended[0].stderr);
    // A link that was given is what was asked for.
    let link = recording.path().join("link");
    symlink(outside.path(), &link).unwrap();
    let cat = run(&["cat"], &link, true);
    assert!(String::from_utf8(cat.stdout).unwrap().contains("SECRET"));
    let cat = run(&["cat"], &recording.segment(1, ""), true);
    assert!(String::from_utf8(cat.stdout).unwrap().contains("SECRET"));
    for number in [2, 4, 8] {
        let ending = if number == 8 { ".gz" } else { "" };
        check("given", &recording.segment(number, ending));
    }
}

/// A node of /dev/zero's, where that is allowed.
fn make_zero(path: &Path) {
    use nix::sys::stat::{SFlag, makedev, mknod};
    let made = mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5));
    if let Err(error) = made {
        eprintln!("no device can be made here ({error}): a link to one is all that is tried");
        symlink("/dev/zero", path).unwrap();
    }
}

#[test]
fn sums_that_lie() {
    let digits = "0".repeat(64);
    let line = |name: &str| format!("{digits}  {name}\n").into_bytes();
    let many = |name: &dyn Fn(usize) -> String| (0..120_000).flat_map(|n| line(&name(n))).collect();
    let cases: [(&str, Vec<u8>); 7] = [
        ("binary", (0..100_000u32).map(|n| (n % 251) as u8).collect()),
        ("no names", format!("{digits}  \n{digits}\n  \n\n").into_bytes()),
        (
            "names elsewhere",
            ["../../../x", "/etc/passwd", "..", ".", "\u{1b}[2J", "fifo", "link"]
                .iter()
                .flat_map(|name| line(name))
                .collect(),
        ),
        ("none of which is there", many(&|n| format!("f{n}"))),
        ("long names", many(&|n| format!("{n:0>250}"))),
        ("the same again", many(&|_| "f".to_string())),
        ("one line", vec![b'0'; 10 << 20]),
    ];
    let sealed = seal(&small_segment());
    for (what, sums) in cases {
        let recording = Recording::of([sealed.clone(), sealed.clone()], ".zst");
        let day = recording.path().join(DAY);
        mkfifo(&day.join("fifo"), Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", day.join("link")).unwrap();
        fs::write(day.join("_SHA256SUMS"), sums).unwrap();
        check(what, recording.path());
    }
    let recording = Recording::of([sealed], ".zst");
    let sums = recording.path().join(DAY).join("_SHA256SUMS");
    File::create(&sums).unwrap().set_len(1 << 30).unwrap();
    check("sparse sums", recording.path());
    fs::remove_file(&sums).unwrap();
    mkfifo(&sums, Mode::S_IRWXU).unwrap();
    check("a FIFO of sums", recording.path());
    fs::remove_file(&sums).unwrap();
    symlink("/dev/zero", &sums).unwrap();
    check("a link of sums", recording.path());
}

/// Records nothing for a moment into `out`; returns how it ended.
fn record(out: &Path) -> Ended {
    let args = ["record", "f=ws://127.0.0.1:1/", "--duration", "300ms", "--out"];
    let ended = run(&args, out, true);
    assert!(!ended.stderr.contains("panic"), "{}", ended.stderr);
    ended
}

#[test]
fn the_recorder_starts_on_what_it_finds() {
    let outside = Recording::of([small_segment()], ".open");
    let recording = Recording::of([small_segment()], "");
    mkfifo(&recording.segment(1, ".open"), Mode::S_IRWXU).unwrap();
    symlink(outside.segment(0, ".open"), recording.segment(2, ".open")).unwrap();
    symlink("/dev/zero", recording.segment(3, ".open")).unwrap();
    mkfifo(&recording.segment(4, ""), Mode::S_IRWXU).unwrap();
    mkfifo(&recording.segment(5, ".zst"), Mode::S_IRWXU).unwrap();
    fs::write(recording.segment(6, ".zst"), bomb(b' ', 8 << 10)).unwrap();
    // The newest: its end is looked for. Room was made for all the frames that are claimed.
    let frame = zstd::encode_all(&small_segment()[..], 3).unwrap();
    let lie = [frame, seek_table(&[(1, 1)], (1 << 27) - 1)].concat();
    fs::write(recording.segment(9, ".zst"), lie).unwrap();
    fs::create_dir(recording.segment(8, ".open")).unwrap();
    mkfifo(&recording.path().join("feed=f/.next"), Mode::S_IRWXU).unwrap();
    symlink(outside.path().join(DAY), recording.path().join("feed=f/date=2025-01-13")).unwrap();
    let ended = record(recording.path());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(outside.segment(0, ".open").exists(), "what a link leads to is left alone");
    assert!(recording.segment(0, ".zst").exists(), "what is whole was sealed: {}", ended.stderr);
}

#[test]
fn the_recorder_does_not_start_through_a_link() {
    let outside = Recording::of([small_segment()], ".open");
    let out = tempfile::tempdir().unwrap();
    symlink(outside.path().join("feed=f"), out.path().join("feed=f")).unwrap();
    let ended = record(out.path());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("links within a recording"), "{}", ended.stderr);
    assert!(outside.segment(0, ".open").exists());

    let out = tempfile::tempdir().unwrap();
    mkfifo(&out.path().join("feedtape.lock"), Mode::S_IRWXU).unwrap();
    let ended = record(out.path());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("feedtape.lock"), "{}", ended.stderr);
}
