//! `feedtape cat`: the lines of tapes, or their messages, to stdout.
//!
//! Owns the two ways of output. One tape is copied in large pieces, several are merged line by
//! line. What can't be read is told in the log and left out; the rest still comes.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::tape::line::{Kind, Line, LineError, TS_DIGITS};
use crate::tape::name::is_own;
use crate::tape::reader::{
    Merge, OpenSegment, Piece, PieceEnd, Purpose, ReadError, Tape, find, merge, payload,
};

/// Bytes copied at once.
const COPY_BYTES: usize = 256 << 10;
/// Buffers on their way between reading and writing: 1 MiB in all.
const COPY_BUFFERS: usize = 4;
/// Size of the output buffer where the output is made line by line.
const OUTPUT_BYTES: usize = 64 << 10;

/// So many lines that are left out are told of one by one; how many more there are is said at the
/// end.
const LEFT_OUT_TOLD_MAX: u64 = 100;

/// Prints the lines of tapes, the lower stamp first where there are several feeds.
///
/// Open tapes are printed up to their last whole line; sealed ones are decoded. The lines of one
/// feed stay in the order in which they were recorded. Of a single segment the output is its plain
/// bytes, the same as `zstd -dc` of its file.
///
/// What the recorder recorded of itself (`_feedtape`) is left out, unless a path or --feed names
/// it.
#[derive(Debug, clap::Args)]
pub struct CatArgs {
    /// Recordings (the --out of record), folders of a feed or a day in them, or segment files
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Print these feeds only; may be given several times
    #[arg(long = "feed", value_name = "NAME")]
    pub feeds: Vec<String>,

    /// Print the payloads of messages only: no stamps, no events
    ///
    /// Each payload is followed by a line feed. A text is printed as it was received; if it holds
    /// line feeds, it takes several lines. A binary message is printed in base64, as on the tape.
    #[arg(long)]
    pub messages: bool,

    /// With --messages: print binary messages as the bytes they are, with nothing between them
    #[arg(long, requires = "messages")]
    pub raw_binary: bool,
}

/// Runs the command.
///
/// # Errors
/// A path without tapes, output that can't be written (a closed pipe is none), or, after all else
/// was printed, segments that could not be read whole.
pub fn run(args: &CatArgs, out: &mut dyn Write) -> Result<Outcome> {
    match cat(args, out) {
        Err(e) if super::is_closed_pipe(&e) => Ok(Outcome::Clean),
        other => other,
    }
}

fn cat(args: &CatArgs, out: &mut dyn Write) -> Result<Outcome> {
    let tapes = select(find(&args.paths)?, args)?;
    let mut wrong = 0;
    if tapes.len() > 1 {
        super::allow_open_files(tapes.len())?;
    }
    match (&tapes[..], args.messages) {
        ([tape], false) => wrong += copy(tape, out)?,
        (_, false) => wrong += merge_lines(tapes, out)?,
        (_, true) => wrong += messages(tapes, args.raw_binary, out)?,
    }
    out.flush()?;
    let places = if wrong == 1 { "place" } else { "places" };
    ensure!(wrong == 0, "not all could be read, for {wrong} {places}: see above, and try verify");
    Ok(Outcome::Clean)
}

/// The feeds that were named; without names all but the recorder's own, which must be asked for.
fn select(mut tapes: Vec<Tape>, args: &CatArgs) -> Result<Vec<Tape>> {
    if args.feeds.is_empty() {
        let paths: Vec<_> = args.paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
        let is_named = |tape: &Tape| {
            let folder = tape.root.join(format!("feed={}", tape.feed));
            paths.iter().any(|path| path.is_file() || path.starts_with(&folder))
        };
        tapes.retain(|tape| !is_own(&tape.feed) || is_named(tape));
        return Ok(tapes);
    }
    for feed in &args.feeds {
        let has_feed = tapes.iter().any(|tape| tape.feed == *feed);
        ensure!(has_feed, "no feed is named '{feed}' there; 'feedtape info' lists those there are");
    }
    tapes.retain(|tape| args.feeds.contains(&tape.feed));
    Ok(tapes)
}

fn tell(error: &ReadError) {
    log::error!("{error}; going on after it");
}

/// Copies a tape; returns how many segments could not be read whole. One thread reads and decodes
/// while this one writes, so that neither waits for the other.
fn copy(tape: &Tape, out: &mut dyn Write) -> io::Result<u64> {
    let (filled_tx, filled_rx) = mpsc::sync_channel(COPY_BUFFERS);
    let (empty_tx, empty_rx) = mpsc::sync_channel(COPY_BUFFERS);
    for _ in 0..COPY_BUFFERS {
        empty_tx.send(Vec::with_capacity(COPY_BYTES)).expect("the receiver is right here");
    }
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("cat reader".to_string())
            .spawn_scoped(scope, move || read_tape(tape, &filled_tx, &empty_rx))?;
        // Takes the channels along: when writing fails they close, and the reader ends.
        let result = write_chunks(filled_rx, empty_tx, out);
        if let Err(panic) = reader.join() {
            std::panic::resume_unwind(panic);
        }
        result
    })
}

/// What the reading thread hands over.
enum Chunk {
    /// Some plain bytes.
    Bytes(Vec<u8>),
    /// The segment could not be read on; what follows is of the next one.
    Failed(ReadError),
}

fn write_chunks(
    filled: Receiver<Chunk>,
    empty: SyncSender<Vec<u8>>,
    out: &mut dyn Write,
) -> io::Result<u64> {
    let mut failed = 0;
    let mut last = b'\n';
    for chunk in filled {
        match chunk {
            Chunk::Bytes(mut bytes) => {
                out.write_all(&bytes)?;
                last = bytes.last().copied().unwrap_or(last);
                bytes.clear();
                // At the end the reader has gone and needs no more buffers.
                let _ = empty.send(bytes);
            }
            Chunk::Failed(error) => {
                tell(&error);
                failed += 1;
                // What follows must not be taken for the rest of a line that broke off.
                if std::mem::replace(&mut last, b'\n') != b'\n' {
                    out.write_all(b"\n")?;
                }
            }
        }
    }
    Ok(failed)
}

/// Reads all segments; ends early when nobody takes what is read.
fn read_tape(tape: &Tape, filled: &SyncSender<Chunk>, empty: &Receiver<Vec<u8>>) {
    for segment in &tape.segments {
        let result = match segment.open(Purpose::Read) {
            Ok(Some(open)) => read_segment(open, filled, empty),
            Ok(None) => Ok(Taken::All),
            Err(e) => Err(e),
        };
        let sent = match result {
            Ok(Taken::All) => Ok(()),
            Ok(Taken::Enough) => return,
            Err(error) => filled.send(Chunk::Failed(error)),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Whether what was read is still wanted.
enum Taken {
    All,
    Enough,
}

fn read_segment(
    mut open: OpenSegment,
    filled: &SyncSender<Chunk>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Taken, ReadError> {
    let mut copied = 0u64;
    let mut last = b'\n';
    let result = loop {
        let Ok(mut buf) = empty.recv() else { return Ok(Taken::Enough) };
        // What was read before an error is in the buffer.
        let result = open.by_ref().take(COPY_BYTES as u64).read_to_end(&mut buf);
        let is_full = buf.len() == COPY_BYTES;
        copied += buf.len() as u64;
        last = buf.last().copied().unwrap_or(last);
        if filled.send(Chunk::Bytes(buf)).is_err() {
            return Ok(Taken::Enough);
        }
        match result {
            Ok(_) if is_full => {}
            Ok(_) if last != b'\n' => break Err(io::Error::other("its last line is not whole")),
            Ok(_) => break merge::torn_error(&open).map_or(Ok(Taken::All), Err),
            Err(e) => break Err(e),
        }
    };
    result.map_err(|cause| ReadError::at(&open.file().path(), copied, cause))
}

/// Prints merged lines; returns how many segments could not be read whole.
fn merge_lines(tapes: Vec<Tape>, out: &mut dyn Write) -> io::Result<u64> {
    let mut out = io::BufWriter::with_capacity(OUTPUT_BYTES, out);
    let mut merge = Merge::new(tapes, Purpose::Read);
    let mut failed = 0;
    let mut is_inside = false;
    loop {
        match merge.advance() {
            Ok(true) => {
                let piece = merge.piece();
                out.write_all(piece.bytes)?;
                is_inside = piece.end == PieceEnd::More;
            }
            Ok(false) => break,
            Err(error) => {
                tell(&error);
                failed += 1;
                if std::mem::take(&mut is_inside) {
                    out.write_all(b"\n")?;
                }
            }
        }
    }
    out.flush()?;
    Ok(failed)
}

/// Prints payloads; returns how many segments and lines could not be read.
fn messages(tapes: Vec<Tape>, raw_binary: bool, out: &mut dyn Write) -> io::Result<u64> {
    let mut out = io::BufWriter::with_capacity(OUTPUT_BYTES, out);
    let mut printer = Printer { raw_binary, long: Long::None, scratch: Vec::new() };
    let mut merge = Merge::new(tapes, Purpose::Read);
    let (mut wrong, mut left_out) = (0u64, 0u64);
    loop {
        match merge.advance() {
            Ok(true) => {
                if let Err(why) = printer.print(&merge.piece(), &mut out)? {
                    wrong += 1;
                    left_out += 1;
                    if left_out <= LEFT_OUT_TOLD_MAX {
                        let place = merge.place();
                        log::error!(
                            "feed {}, segment {}, index {}: {why}; left out",
                            merge.tape().feed,
                            place.segment,
                            place.index
                        );
                    }
                }
            }
            Ok(false) => break,
            Err(error) => {
                tell(&error);
                wrong += 1;
                printer.break_off(&mut out)?;
            }
        }
    }
    if left_out > LEFT_OUT_TOLD_MAX {
        log::error!("and {} more lines are left out", left_out - LEFT_OUT_TOLD_MAX);
    }
    out.flush()?;
    Ok(wrong)
}

/// Prints the messages among some lines.
struct Printer {
    raw_binary: bool,
    /// The long line that is on its way.
    long: Long,
    scratch: Vec<u8>,
}

/// A long line on its way.
enum Long {
    /// There is none.
    None,
    /// It is printed as it stands.
    Verbatim,
    /// It is decoded.
    Decoded(Kind, payload::PayloadDecoder),
    /// It is left out.
    Skipped,
}

impl Printer {
    fn is_decoded(&self, kind: Kind) -> bool {
        match kind {
            Kind::Text | Kind::Event => false,
            Kind::EscapedText => true,
            Kind::Binary => self.raw_binary,
        }
    }

    fn has_line_feed(&self, kind: Kind) -> bool {
        kind != Kind::Binary || !self.raw_binary
    }

    /// The outer error is that of `out`.
    fn print(
        &mut self,
        piece: &Piece<'_>,
        out: &mut impl Write,
    ) -> io::Result<Result<(), LineError>> {
        if !piece.is_start {
            return self.print_more(piece.content(), piece.end, out);
        }
        let line = match Line::parse(piece.content()) {
            Ok(line) => line,
            Err(e) => {
                self.long = Long::Skipped;
                return Ok(Err(e));
            }
        };
        if piece.is_whole() {
            if line.kind == Kind::Event {
                return Ok(Ok(()));
            }
            let payload = match self.is_decoded(line.kind) {
                true => line.payload(&mut self.scratch),
                false => Ok(line.raw),
            };
            return match payload {
                Ok(payload) => {
                    out.write_all(payload)?;
                    if self.has_line_feed(line.kind) {
                        out.write_all(b"\n")?;
                    }
                    Ok(Ok(()))
                }
                Err(e) => Ok(Err(e)),
            };
        }
        self.long = match line.kind {
            Kind::Event => Long::Skipped,
            kind if self.is_decoded(kind) => {
                Long::Decoded(kind, payload::PayloadDecoder::new(kind))
            }
            Kind::Text | Kind::EscapedText | Kind::Binary => Long::Verbatim,
        };
        self.print_more(&piece.content()[TS_DIGITS + 1..], piece.end, out)
    }

    fn print_more(
        &mut self,
        raw: &[u8],
        end: PieceEnd,
        out: &mut impl Write,
    ) -> io::Result<Result<(), LineError>> {
        match &mut self.long {
            Long::None | Long::Skipped => {}
            Long::Verbatim => out.write_all(raw)?,
            Long::Decoded(_, decoder) => {
                self.scratch.clear();
                let pushed = decoder.push(raw, &mut self.scratch);
                out.write_all(&self.scratch)?;
                if let Err(e) = pushed {
                    self.break_off(out)?;
                    self.long = Long::Skipped;
                    return Ok(Err(e));
                }
            }
        }
        if end == PieceEnd::More {
            return Ok(Ok(()));
        }
        match std::mem::replace(&mut self.long, Long::None) {
            Long::None | Long::Skipped => Ok(Ok(())),
            Long::Verbatim => out.write_all(b"\n").map(Ok),
            Long::Decoded(kind, decoder) => {
                if self.has_line_feed(kind) {
                    out.write_all(b"\n")?;
                }
                Ok(decoder.finish())
            }
        }
    }

    /// The long line on its way will not be finished.
    fn break_off(&mut self, out: &mut impl Write) -> io::Result<()> {
        match std::mem::replace(&mut self.long, Long::None) {
            Long::None | Long::Skipped => Ok(()),
            Long::Decoded(kind, _) if !self.has_line_feed(kind) => Ok(()),
            Long::Verbatim | Long::Decoded(..) => out.write_all(b"\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::name::Form;
    use crate::tape::reader::testing::{Recording, SegmentBuilder, TS, seal};

    fn args(path: &std::path::Path) -> CatArgs {
        CatArgs {
            paths: vec![path.to_path_buf()],
            feeds: Vec::new(),
            messages: false,
            raw_binary: false,
        }
    }

    fn output(args: &CatArgs) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(run(args, &mut out).unwrap(), Outcome::Clean);
        out
    }

    fn mixed() -> SegmentBuilder {
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        segment.text(b"{\"a\":1}").binary(b"\x00\xff").text(b"two\nlines").mark();
        segment.text("z".repeat(150_000).as_bytes()).text("y\n".repeat(70_000).as_bytes());
        segment.binary(&[7; 100_001]).end();
        segment
    }

    #[test]
    fn a_segment_is_its_plain_bytes() {
        for form in Form::ALL {
            let recording = Recording::new();
            let path = recording.put(&mixed(), form);
            assert_eq!(output(&args(&path)), mixed().plain(), "{form:?}");
        }
    }

    #[test]
    fn segments_follow_each_other_and_feeds_are_merged() {
        let recording = Recording::new();
        let mut next = SegmentBuilder::new("btc", 1, mixed().next_index());
        next.text(b"next").end();
        recording.put(&mixed(), Form::Zstd);
        recording.put(&next, Form::Open);
        let both = [mixed().plain(), next.plain()].concat();
        assert_eq!(output(&args(recording.path())), both);

        let mut other = SegmentBuilder::new("eth", 0, 0);
        other.header_ts(TS + 1).text(b"later").end();
        recording.put(&other, Form::Gzip);
        assert_eq!(output(&args(recording.path())), [&both, other.plain()].concat());
    }

    #[test]
    fn messages_only() {
        for form in Form::ALL {
            let recording = Recording::new();
            recording.put(&mixed(), form);
            let mut args = args(recording.path());
            args.messages = true;
            let texts = |binary: &[&[u8]]| {
                let z = [&[b'z'; 150_000][..], b"\n"].concat();
                let y = ["y\n".repeat(70_000).as_bytes(), b"\n"].concat();
                [b"{\"a\":1}\n", binary[0], b"two\nlines\n", &z, &y, binary[1]].concat()
            };
            use base64::Engine as _;
            let long = base64::engine::general_purpose::STANDARD.encode([7; 100_001]) + "\n";
            assert_eq!(output(&args), texts(&[b"AP8=\n", long.as_bytes()]));
            args.raw_binary = true;
            assert_eq!(output(&args), texts(&[b"\x00\xff", &[7; 100_001]]));
        }
    }

    #[test]
    fn an_unfinished_line_is_not_printed() {
        let recording = Recording::new();
        let path = recording.put(&mixed(), Form::Open);
        let plain = mixed().plain().to_vec();
        let whole = plain[..plain.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        for bytes in [whole, whole + 1, plain.len() - 1] {
            std::fs::write(&path, &plain[..bytes]).unwrap();
            assert_eq!(output(&args(recording.path())), &plain[..whole]);
        }
    }

    #[test]
    fn what_is_broken_is_told_and_the_rest_printed() {
        let recording = Recording::new();
        let mut first = SegmentBuilder::new("btc", 0, 0);
        for n in 0..400 {
            first.text(format!("{{\"n\":{n}}}").as_bytes());
        }
        let mut second = SegmentBuilder::new("btc", 1, 500);
        second.text(b"second").end();
        let broken = recording.put(&first, Form::Zstd);
        recording.put(&second, Form::Zstd);
        let stored = seal(first.plain(), Form::Zstd, 600);
        std::fs::write(&broken, &stored[..stored.len() / 2]).unwrap();
        let mut other = SegmentBuilder::new("eth", 0, 0);
        other.header_ts(TS + 1).text(b"other").end();
        for feeds in 1..3 {
            if feeds == 2 {
                recording.put(&other, Form::Plain);
            }
            let mut out = Vec::new();
            let error = run(&args(recording.path()), &mut out).unwrap_err();
            assert!(error.to_string().contains("not all could be read"), "{error}");
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(" {\"n\":0}\n"));
            assert!(text.contains(std::str::from_utf8(second.plain()).unwrap()));
            let mut bad = 0;
            for line in text.lines() {
                bad += usize::from(Line::parse(line.as_bytes()).is_err());
            }
            assert!(bad <= 1, "no line but the one that broke off is spoilt");
        }
    }

    #[test]
    fn damaged_lines_are_left_out_of_messages() {
        let recording = Recording::new();
        let mut segment = SegmentBuilder::new("btc", 0, 0);
        segment.raw(b"nonsense\n").text(b"good").raw(format!("{TS}\\a\\t\n").as_bytes());
        segment.raw(&[format!("{TS}\\").as_bytes(), &[b'\\'; 100_001], b"\n"].concat());
        segment.raw(&[&[b'x'; 100_000][..], b"\n"].concat()).text(b"last");
        recording.put(&segment, Form::Plain);
        let mut out = Vec::new();
        let mut args = args(recording.path());
        args.messages = true;
        let error = run(&args, &mut out).unwrap_err();
        assert!(error.to_string().contains("4 places"), "{error}");
        assert!(out.starts_with(b"good\n"));
        assert!(out.ends_with(b"\nlast\n"));
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        struct Closed(usize);
        impl Write for Closed {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let bytes = bytes.len().min(self.0);
                self.0 -= bytes;
                Ok(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let recording = Recording::new();
        recording.put(&mixed(), Form::Zstd);
        let mut args = args(recording.path());
        for messages in [false, true] {
            args.messages = messages;
            assert_eq!(run(&args, &mut Closed(1000)).unwrap(), Outcome::Clean);
        }
    }
}
