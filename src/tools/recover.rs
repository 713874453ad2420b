//! `feedtape recover`: by hand what a start does, and what it does not.
//!
//! Owns which files are worked on, where the results go, and the report. Finds damage as `verify`
//! does, so that what it leaves is what `verify` is content with. How open segments are finished
//! and damaged ones made anew is in `recovery`, sealing in `sealer`. Deletes nothing that held a
//! line.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};

use self::report::Report;
use super::Outcome;
use super::verify::{Verdict, verify_file};
use crate::recorder;
use crate::recovery;
use crate::recovery::repair::{self, Around};
use crate::sealer::{self, Compression};
use crate::storage::{Appender, Disk, Storage, StorageFile};
use crate::tape::name::{FeedName, Form, SegmentName};
use crate::tape::reader::{SegmentFile, Tape, find};
use crate::units::format_size;

/// How repaired segments are sealed: as the recorder does by default.
const ZSTD: Compression = Compression::Zstd { level: 3 };
const GZIP: Compression = Compression::Gzip { level: 6 };
/// The largest --rotate-bytes, and room for the largest message and for marks beside it.
const SEGMENT_FILE_BYTES_MAX: u64 = 17 << 30;
/// Bytes copied at once.
const COPY_BYTES: usize = 128 << 10;

/// Finish what a crash left open, and save what can be read of damaged segments.
///
/// Open segments are finished as a start of the recorder finishes them. Of a finished segment in
/// which `verify` finds damage a new one is made, with every line that checks; where lines are
/// lost stands a gap, and what was lost is printed, by index. The damaged file is kept beside it
/// as `.damaged`. Nothing is overwritten. Stop the recorder before, or use --into.
///
/// Exits with 0 where no line was lost, with 3 where lines were, or where damage is left that can't
/// be mended.
#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    /// Recordings (the --out of record), folders of a feed or a day in them, or segment files
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Only read PATH, and write all of its segments to DIR, which becomes a recording of its own:
    /// whole ones as they are, the others recovered. For disks that are dying or can't be written
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
}

/// Runs the command; [`Outcome::Loss`] where lines are lost or damage is left.
///
/// # Errors
/// A path without tapes, a recording in use, or, after all else was done, segments that could not
/// be recovered because of the disk.
pub fn run(args: &RecoverArgs, out: &mut dyn Write) -> Result<Outcome> {
    args.paths.iter().try_for_each(|path| refuse_what_was_set_aside(path))?;
    let mut tapes = find(&args.paths)?;
    let mut roots: BTreeSet<PathBuf> = tapes.iter().map(|tape| tape.root.clone()).collect();
    if let Some(dir) = &args.into {
        fs::create_dir_all(dir).with_context(|| format!("can't make '{}'", dir.display()))?;
        let dir = fs::canonicalize(dir).with_context(|| dir.display().to_string())?;
        ensure!(
            !roots.contains(&dir),
            "--into '{}' is what is to be recovered: give another folder",
            dir.display()
        );
        roots = BTreeSet::from([dir]);
    }
    let _locks = roots.iter().map(|root| lock(root)).collect::<Result<Vec<File>>>()?;
    let mut report = Report::new(out);
    if args.into.is_none() {
        for tape in &tapes {
            finish_interrupted(tape, &mut report);
        }
        // They may have changed until the lock was taken.
        tapes = find(&args.paths)?;
    }
    let given = Given::new(&args.paths)?;
    for tape in &tapes {
        let target = args.into.as_deref().unwrap_or(&tape.root);
        let is_copy = args.into.is_some();
        let work = Work { tape, target: Disk::new(target), target_root: target, is_copy };
        work.run(&given, &mut report);
    }
    report.finish()
}

fn refuse_what_was_set_aside(path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((_, ending)) = name.rsplit_once(".tape") else { return Ok(()) };
    let is_aside = [".damaged", ".tail", ".tmp"].iter().any(|aside| ending.contains(aside));
    ensure!(
        !is_aside,
        "'{}' is not a segment: it is what recovery set aside, kept for you to look at; give the \
         segment, or the recording",
        path.display()
    );
    Ok(())
}

fn lock(root: &Path) -> Result<File> {
    recorder::lock::lock(root)?.with_context(|| {
        format!(
            "'{}' is in use by a recorder: stop it first, or leave it alone and use --into DIR",
            root.display()
        )
    })
}

fn finish_interrupted(tape: &Tape, report: &mut Report<'_>) {
    let Ok(feed) = FeedName::new(&tape.feed) else { return };
    if !tape.root.join(feed.folder()).is_dir() {
        return;
    }
    if let Err(error) = repair::finish_interrupted(&Disk::new(&tape.root), &feed) {
        report.failed(&tape.feed, None, &anyhow!(error));
    }
}

/// The paths that were given: what links lead to outside of them is left alone.
struct Given(Vec<PathBuf>);

impl Given {
    fn new(paths: &[PathBuf]) -> Result<Given> {
        let paths = paths.iter().map(|path| {
            let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
            Ok(if path.is_dir() { path } else { path.parent().unwrap_or(&path).to_path_buf() })
        });
        Ok(Given(paths.collect::<Result<_>>()?))
    }

    /// Why a file is left alone.
    fn refuse(&self, file: &Path) -> Result<Option<&'static str>> {
        let meta = fs::symlink_metadata(file)?;
        if meta.is_symlink() {
            return Ok(Some("is a link"));
        }
        if !meta.is_file() {
            return Ok(Some("is not a regular file"));
        }
        let absolute = fs::canonicalize(file)?;
        let is_within = self.0.iter().any(|given| absolute.starts_with(given));
        Ok((!is_within).then_some("is behind a link that leads out of what was given"))
    }
}

/// The recovery of one tape.
struct Work<'a> {
    tape: &'a Tape,
    target: Disk,
    target_root: &'a Path,
    /// Whether the source is only read.
    is_copy: bool,
}

/// One segment to look at.
struct Segment {
    name: SegmentName,
    form: Form,
    path: PathBuf,
    /// Whether it stands where its name belongs in its recording.
    is_placed: bool,
}

impl Work<'_> {
    fn run(&self, given: &Given, report: &mut Report<'_>) {
        // Open ones last: where the next one begins tells where they must end.
        let (mut open, mut finished) = (BTreeMap::new(), Vec::new());
        for file in &self.tape.segments {
            match self.look_at(file, given) {
                Ok(None) => {}
                Ok(Some(segment)) if segment.form == Form::Open => {
                    open.insert(segment.name.clone(), segment);
                }
                Ok(Some(segment)) => finished.push(segment),
                Err(error) => report.failed(&self.tape.feed, file.number(), &error),
            }
        }
        for segment in &finished {
            let done =
                if self.is_copy { self.copy(segment, report) } else { self.mend(segment, report) };
            done.unwrap_or_else(|error| report.failed_segment(&segment.name, &error));
        }
        if self.is_copy {
            open.retain(|name, segment| match self.copy_bytes(segment) {
                Ok(()) => true,
                Err(error) => {
                    report.failed_segment(name, &error);
                    false
                }
            });
        }
        self.finish(&open, report);
    }

    /// What a file is; `None` where it is left alone.
    fn look_at(&self, file: &SegmentFile, given: &Given) -> Result<Option<Segment>> {
        let path = file.path();
        if let Some(why) = given.refuse(&path)? {
            log::warn!("'{}' {why}: left alone", path.display());
            return Ok(None);
        }
        let bytes = fs::symlink_metadata(&path)?.len();
        ensure!(
            bytes <= SEGMENT_FILE_BYTES_MAX,
            "'{}' has {}, and no segment is larger than {}: look at it by hand",
            path.display(),
            format_size(bytes),
            format_size(SEGMENT_FILE_BYTES_MAX)
        );
        let name = file.name().with_context(|| {
            format!("'{}' has no name of a segment: give it its name back", path.display())
        })?;
        let form = file.form();
        let is_placed = fs::canonicalize(&path)? == self.tape.root.join(name.path(form));
        ensure!(
            is_placed || self.is_copy,
            "'{}' is not in the folders feed= and date= of its name: use --into DIR",
            path.display()
        );
        Ok(Some(Segment { name, form, path, is_placed }))
    }

    /// Finishes open segments where the results belong.
    fn finish(&self, open: &BTreeMap<SegmentName, Segment>, report: &mut Report<'_>) {
        let feeds: BTreeSet<&FeedName> = open.keys().map(|name| &name.feed).collect();
        for feed in feeds {
            let wanted = |name: &SegmentName| open.contains_key(name);
            let done = recovery::finish_open(&self.target, feed, &wanted, &mut |name, done| {
                match done {
                    Ok(finished) => report.finished(name, &finished),
                    Err(error) => report.failed_segment(name, &anyhow!(error)),
                }
                Ok(())
            });
            if let Err(error) = done {
                report.failed(feed.as_str(), None, &anyhow!(error));
            }
        }
    }

    /// Looks at a finished segment, and mends it in its place.
    fn mend(&self, segment: &Segment, report: &mut Report<'_>) -> Result<()> {
        let Segment { name, form, path, .. } = segment;
        if let Some(compression) = compression_of(*form)
            && self.target_root.join(name.path(Form::Plain)).try_exists()?
        {
            // A crash between sealing and deleting: the sealer knows which of both is right.
            sealer::seal_one_now(&self.target, name, compression)?;
        }
        match verify_file(path)? {
            Verdict::Whole => report.whole(),
            Verdict::Unlisted => {
                sealer::list_one_now(&self.target, name, *form)?;
                report.listed(name);
            }
            Verdict::Damaged(why) => {
                let around = repair::find_around(&self.target, name)?;
                self.rebuild(segment, &around, &why, report)?;
            }
        }
        Ok(())
    }

    /// Writes a finished segment to where it is copied to, mended where that is needed.
    fn copy(&self, segment: &Segment, report: &mut Report<'_>) -> Result<()> {
        self.refuse_taken(&segment.name)?;
        match verify_file(&segment.path)? {
            Verdict::Whole | Verdict::Unlisted => {
                self.copy_bytes(segment)?;
                report.whole();
            }
            Verdict::Damaged(why) => {
                if let Some(plain) = plain_beside(segment)? {
                    self.copy_bytes(&plain)?;
                    report.whole();
                    return Ok(());
                }
                let around = if segment.is_placed {
                    repair::find_around(&Disk::reading(&self.tape.root), &segment.name)?
                } else {
                    repair::alone(&segment.name)
                };
                self.target.create_dirs(&segment.name.folder())?;
                self.rebuild(segment, &around, &why, report)?;
            }
        }
        Ok(())
    }

    /// Makes a segment anew, gives it its name, and seals it as the old one was.
    fn rebuild(
        &self,
        segment: &Segment,
        around: &Around,
        why: &str,
        report: &mut Report<'_>,
    ) -> Result<()> {
        let Segment { name, form, path, .. } = segment;
        let damaged = open_to_read(path)?;
        let (tmp, repaired) = match repair::rebuild(&damaged, *form, around, &self.target) {
            Ok(done) => done,
            Err(repair::RepairError::FirstIndex) => {
                report.left(name, &repair::RepairError::FirstIndex.to_string());
                return Ok(());
            }
            Err(error @ repair::RepairError::Disk(_)) => bail!("'{}': {error}", path.display()),
        };
        let is_better = match verify_file(&self.target_root.join(&tmp))? {
            Verdict::Whole | Verdict::Unlisted => {
                // Of a sealed one it may be the seal that is damaged.
                repaired.is_changed || (*form != Form::Plain && !repaired.is_misnamed)
            }
            Verdict::Damaged(_) => false,
        };
        if !is_better {
            // It can't be told what would be right: such lines were written so.
            self.target.remove(&tmp)?;
            report.left(name, why);
            return Ok(());
        }
        let aside = if self.is_copy {
            self.target.rename(&tmp, &name.path(Form::Plain))?;
            None
        } else {
            Some(repair::take_place(&self.target, name, *form, &tmp)?)
        };
        report.repaired(name, &repaired, aside.as_deref());
        if let Some(compression) = compression_of(*form) {
            sealer::seal_one_now(&self.target, name, compression)?;
        }
        Ok(())
    }

    fn refuse_taken(&self, name: &SegmentName) -> Result<()> {
        for form in Form::ALL {
            let taken = self.target_root.join(name.path(form));
            ensure!(
                fs::symlink_metadata(&taken).is_err(),
                "'{}' is there already: give another --into",
                taken.display()
            );
        }
        Ok(())
    }

    /// Copies a file as it is; a sealed one is read back and listed.
    fn copy_bytes(&self, segment: &Segment) -> Result<()> {
        let Segment { name, form, path, .. } = segment;
        self.refuse_taken(name)?;
        let source = open_to_read(path)?;
        let to = name.path(*form);
        self.target.create_dirs(&name.folder())?;
        let file = self.target.create(&to)?;
        let done = copy_all(&source, &file).and_then(|()| file.sync());
        if let Err(error) = done {
            // What is not whole must not look like a segment.
            self.target.remove(&to)?;
            bail!("can't copy '{}': {error}", path.display());
        }
        if compression_of(*form).is_some() {
            sealer::list_one_now(&self.target, name, *form)?;
        }
        self.target.sync_dir(&name.folder())?;
        Ok(())
    }
}

fn copy_all(source: &File, to: &Arc<dyn StorageFile>) -> io::Result<()> {
    let mut out = Appender(to.clone());
    let mut buf = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let bytes = source.read_at(at, &mut buf)?;
        if bytes == 0 {
            source.drop_cache(0, 0);
            return Ok(());
        }
        out.write_all(&buf[..bytes])?;
        at += bytes as u64;
    }
}

/// The plain form of a sealed segment, where it is there too and whole.
fn plain_beside(segment: &Segment) -> Result<Option<Segment>> {
    let path = segment.path.with_file_name(segment.name.file(Form::Plain));
    let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
    if segment.form == Form::Plain || !is_file || verify_file(&path)? != Verdict::Whole {
        return Ok(None);
    }
    let name = segment.name.clone();
    Ok(Some(Segment { name, form: Form::Plain, path, is_placed: segment.is_placed }))
}

fn compression_of(form: Form) -> Option<Compression> {
    match form {
        Form::Open | Form::Plain => None,
        Form::Gzip => Some(GZIP),
        Form::Zstd => Some(ZSTD),
    }
}

fn open_to_read(path: &Path) -> Result<File> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    file.with_context(|| format!("can't open '{}'", path.display()))
}

#[cfg(test)]
mod tests;
