//! Finding the segments under some paths, and opening them.
//!
//! Owns the walk through folders, the grouping into tapes, the choice between several forms of one
//! segment, and listing again when a file vanished. Opens files only to read them; looks into
//! them only where a name doesn't tell what they are.
//!
//! A path that was given may be a link. What is found below it counts only where it is a folder or
//! a regular file itself: a link would lead out of the recording, and FIFOs and devices have no
//! end. They are passed over with a warning.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::LineReader;
use super::source::{self, Purpose, Source};
use super::{Header, ReadError};
use crate::storage::EntryKind;
use crate::tape::name::{Form, SegmentName};

/// Folders deeper than this below a given path are not looked into.
const DEPTH_MAX: usize = 16;
/// So many links and the like are told of.
const PASSED_OVER_MAX: usize = 20;
/// How often a segment is looked for again: a segment has four forms and goes through them in one
/// direction, so more would be a file system at odds with itself.
const REOPENS_MAX: usize = 8;

/// The segments of one feed in one recording, by number.
#[derive(Debug, Clone)]
pub struct Tape {
    /// The recording's folder, absolute; for a file with a name of its own, the folder it is in.
    pub root: PathBuf,
    /// The feed's name.
    pub feed: String,
    /// Whether the feed's whole folder was looked through, so that a hole in the numbers is one.
    pub is_whole: bool,
    /// Its segments in order.
    pub segments: Vec<SegmentFile>,
}

/// One segment file, as it was when its folder was listed.
#[derive(Debug, Clone)]
pub struct SegmentFile {
    folder: Arc<Path>,
    file: Box<OsStr>,
    form: Form,
    number: Option<u64>,
}

impl SegmentFile {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&*self.file)
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its name; `None` where somebody gave it another one.
    pub fn name(&self) -> Option<SegmentName> {
        Some(SegmentName::parse(self.file.to_str()?)?.0)
    }

    /// Number in its feed, by its name.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// What became of it.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Opens the segment, in another form where this one is gone meanwhile; `None` where it is
    /// gone in all forms, which is what pruning does.
    ///
    /// # Errors
    /// Those of listing, opening and reading.
    pub fn open(&self, purpose: Purpose) -> Result<Option<OpenSegment>, ReadError> {
        let mut now = self.clone();
        for _ in 0..REOPENS_MAX {
            match Source::open(&now.path(), now.form, purpose) {
                Ok(source) => {
                    return Ok(Some(OpenSegment { file: now, source, purpose, bytes: 0 }));
                }
                Err(e) if is_gone(&e) => match now.list_again()? {
                    Some(found) => now = found,
                    None if self.number.is_some() => return Ok(None),
                    None => return Err(ReadError::new(&now.path(), e)),
                },
                Err(e) => return Err(ReadError::new(&now.path(), e)),
            }
        }
        let cause = io::Error::other("it is listed but can't be opened, again and again");
        Err(ReadError::new(&now.path(), cause))
    }

    /// The best form of the same segment that is there now.
    pub fn list_again(&self) -> Result<Option<SegmentFile>, ReadError> {
        let Some(name) = self.name() else { return Ok(None) };
        let found = Form::ALL.into_iter().rev().find(|form| {
            // What can't be looked at can't be opened either.
            let meta = fs::symlink_metadata(self.folder.join(name.file(*form)));
            meta.is_ok_and(|meta| meta.is_file())
        });
        Ok(found.map(|form| SegmentFile {
            folder: Arc::clone(&self.folder),
            file: OsString::from(name.file(form)).into_boxed_os_str(),
            form,
            number: self.number,
        }))
    }
}

/// A file is gone, or gone for a network file system whose server forgot the handle.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}

/// A segment being read.
pub struct OpenSegment {
    file: SegmentFile,
    source: Source,
    purpose: Purpose,
    /// Plain bytes read so far.
    bytes: u64,
}

impl OpenSegment {
    /// The file that was opened, which may be another form than was asked for.
    pub fn file(&self) -> &SegmentFile {
        &self.file
    }

    /// Its plain bytes and what is known of them.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Its plain bytes and what is known of them.
    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// Its lines.
    pub fn lines(self) -> LineReader<OpenSegment> {
        LineReader::new(self)
    }

    /// Goes on at the same byte of the form that is there now: all forms have the same bytes.
    fn reopen(&mut self) -> io::Result<()> {
        let bytes = self.bytes;
        let found = self.file.open(self.purpose).map_err(|e| e.cause)?;
        *self = found.ok_or(io::ErrorKind::NotFound)?;
        self.source.skip(bytes)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Read for OpenSegment {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut result = self.source.read(buf);
        if result.as_ref().is_err_and(is_gone) {
            self.reopen()?;
            result = self.source.read(buf);
        }
        let bytes = result?;
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}

/// Finds the tapes under `paths`: segment files under any name, folders of a day, of a feed, of a
/// recording, and folders above with names like `key=value`.
///
/// # Errors
/// A path that can't be read or holds no segment.
pub fn find(paths: &[impl AsRef<Path>]) -> Result<Vec<Tape>, ReadError> {
    let mut finder = Finder::default();
    for path in paths {
        finder.add(path.as_ref())?;
    }
    // A file renamed while its folder is listed may show under neither name, so a hole is
    // believed only where it is there twice.
    if finder.has_holes() {
        finder.folders_seen.clear();
        for path in paths {
            match finder.add(path.as_ref()) {
                Err(e) if is_gone(&e.cause) => {}
                other => other?,
            }
        }
    }
    Ok(finder.tapes())
}

#[derive(Default)]
struct Finder {
    /// By root and feed.
    named: BTreeMap<(PathBuf, String), Found>,
    /// Files with names of their own: each a tape.
    other: BTreeMap<PathBuf, Tape>,
    folders_seen: HashSet<PathBuf>,
    /// Links and the like that were passed over, each told once.
    passed_over: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct Found {
    is_whole: bool,
    segments: BTreeMap<SegmentName, SegmentFile>,
}

impl Finder {
    fn add(&mut self, path: &Path) -> Result<(), ReadError> {
        let error = |e| ReadError::new(path, e);
        let meta = fs::metadata(path).map_err(error)?;
        let absolute = fs::canonicalize(path).map_err(error)?;
        if meta.is_dir() {
            let is_whole = name_of(&absolute).starts_with("feed=");
            if self.walk(path, &absolute, is_whole, 0)? == 0 {
                let cause = "holds no tapes: give a recording's folder (the --out of record), a \
                             feed= or date= folder in it, or segment files";
                return Err(error(io::Error::new(io::ErrorKind::InvalidInput, cause)));
            }
            return Ok(());
        }
        if !meta.is_file() {
            let cause = "is neither a file nor a folder";
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, cause)));
        }
        // A link that was given is followed, here and not when it is opened.
        let is_link = fs::symlink_metadata(path).map_err(error)?.is_symlink();
        let path = if is_link { absolute.as_path() } else { path };
        let folder: Arc<Path> = Arc::from(path.parent().unwrap_or(Path::new("")));
        let absolute_folder = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        let file = path.file_name().unwrap_or(OsStr::new(""));
        if !self.take_named(&folder, &absolute_folder, file, false) {
            self.take_other(path, absolute.clone(), &folder, file)?;
        }
        Ok(())
    }

    /// Looks through a folder; returns how many segment files it has, folders within included.
    fn walk(
        &mut self,
        folder: &Path,
        absolute: &Path,
        is_whole: bool,
        depth: usize,
    ) -> Result<usize, ReadError> {
        if depth > DEPTH_MAX || !self.folders_seen.insert(absolute.to_path_buf()) {
            return Ok(1);
        }
        let error = |e| ReadError::new(folder, e);
        let shared: Arc<Path> = Arc::from(folder);
        let mut folders = Vec::new();
        let mut found = 0;
        for entry in fs::read_dir(folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            let is_segment = name.to_str().and_then(SegmentName::parse).is_some();
            if !is_segment && !name.as_encoded_bytes().contains(&b'=') {
                continue;
            }
            match entry.file_type().map(EntryKind::from) {
                Ok(EntryKind::File) if is_segment => {
                    found += usize::from(self.take_named(&shared, absolute, &name, is_whole));
                }
                Ok(EntryKind::Folder) if !is_segment => folders.push(name),
                Ok(EntryKind::File) => {}
                Ok(EntryKind::Folder | EntryKind::Other) => self.pass_over(entry.path()),
                Err(e) if is_gone(&e) => {}
                Err(e) => return Err(ReadError::new(&entry.path(), e)),
            }
        }
        folders.sort();
        for name in folders {
            let inner = folder.join(&name);
            let is_whole = is_whole || name.as_encoded_bytes().starts_with(b"feed=");
            match self.walk(&inner, &absolute.join(&name), is_whole, depth + 1) {
                // Pruning removes the folders of days.
                Err(e) if is_gone(&e.cause) => {}
                other => found += other?,
            }
        }
        Ok(found)
    }

    /// What is called like a part of a tape, and is no file or no folder.
    fn pass_over(&mut self, path: PathBuf) {
        if self.passed_over.contains(&path) || self.passed_over.len() > PASSED_OVER_MAX {
            return;
        }
        if self.passed_over.len() == PASSED_OVER_MAX {
            log::warn!("more links and the like are passed over");
        } else {
            log::warn!(
                "'{}' is passed over: it is no regular file and no folder of its own, and links \
                 within a recording are not followed; name it on the command line to read it",
                path.display()
            );
        }
        self.passed_over.insert(path);
    }

    /// Takes a file whose name is a segment's.
    fn take_named(
        &mut self,
        folder: &Arc<Path>,
        absolute: &Path,
        file: &OsStr,
        is_whole: bool,
    ) -> bool {
        let Some((name, form)) = file.to_str().and_then(SegmentName::parse) else { return false };
        let key = (root_of(absolute).to_path_buf(), name.feed.to_string());
        let segment = SegmentFile {
            folder: Arc::clone(folder),
            file: file.into(),
            form,
            number: Some(name.number),
        };
        let found = self.named.entry(key).or_default();
        found.is_whole |= is_whole;
        let known = found.segments.entry(name).or_insert_with(|| segment.clone());
        if known.form < form {
            *known = segment;
        }
        true
    }

    /// Takes a file with a name of its own; its header says what it is, where it has one.
    fn take_other(
        &mut self,
        path: &Path,
        absolute: PathBuf,
        folder: &Arc<Path>,
        file: &OsStr,
    ) -> Result<(), ReadError> {
        let ending = |form: Form| form != Form::Plain && name_of(path).ends_with(form.ending());
        let form = match Form::ALL.into_iter().find(|form| ending(*form)) {
            Some(form) => form,
            None if name_of(path).ends_with(".tape") => Form::Plain,
            None => source::detect_form(path).map_err(|e| ReadError::new(path, e))?,
        };
        let segment =
            SegmentFile { folder: Arc::clone(folder), file: file.into(), form, number: None };
        let header = segment.open(Purpose::Read)?.and_then(|open| {
            let mut lines = open.lines();
            // Whoever reads the file will meet the error again.
            lines.advance().ok()?;
            Header::parse(lines.piece().content()).ok()
        });
        let feed = header.map_or_else(|| file.to_string_lossy().into_owned(), |h| h.feed);
        let root = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        let tape = Tape { root, feed, is_whole: false, segments: vec![segment] };
        self.other.insert(absolute, tape);
        Ok(())
    }

    fn has_holes(&self) -> bool {
        self.named.values().filter(|found| found.is_whole).any(|found| {
            let mut numbers = found.segments.keys().map(|name| name.number);
            let Some(mut last) = numbers.next() else { return false };
            numbers.any(|number| number > std::mem::replace(&mut last, number) + 1)
        })
    }

    fn tapes(self) -> Vec<Tape> {
        let mut tapes: Vec<Tape> = self
            .named
            .into_iter()
            .map(|((root, feed), found)| Tape {
                root,
                feed,
                is_whole: found.is_whole,
                segments: found.segments.into_values().collect(),
            })
            .collect();
        tapes.extend(self.other.into_values());
        tapes
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or("")
}

/// The recording that a folder belongs to: above `feed=` and `date=`.
fn root_of(absolute: &Path) -> &Path {
    let mut root = absolute;
    for key in ["date=", "feed="] {
        if name_of(root).starts_with(key) {
            root = root.parent().unwrap_or(root);
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::reader::testing::{Recording, SegmentBuilder};
    use std::os::unix::fs::symlink;

    fn segment(number: u64) -> SegmentBuilder {
        let mut segment = SegmentBuilder::new("btc", number, number * 10);
        segment.text(b"{}").end();
        segment
    }

    /// Feed, number of segments and wholeness of each tape.
    fn found(paths: &[&Path]) -> Vec<(String, usize, bool)> {
        let tapes = find(paths).unwrap();
        tapes.into_iter().map(|tape| (tape.feed, tape.segments.len(), tape.is_whole)).collect()
    }

    #[test]
    fn any_folder_will_do() {
        let recording = Recording::new();
        let file = recording.put(&segment(0), Form::Zstd);
        recording.put(&segment(1), Form::Plain);
        recording.put(&segment(2), Form::Open);
        let date = file.parent().unwrap();
        let feed = date.parent().unwrap();
        let root = recording.path();
        let all = |is_whole| vec![("btc".to_string(), 3, is_whole)];
        assert_eq!(found(&[root]), all(true));
        assert_eq!(found(&[feed]), all(true));
        assert_eq!(found(&[date]), all(false));
        assert_eq!(found(&[&file]), vec![("btc".to_string(), 1, false)]);
        assert_eq!(found(&[root, date, &file, root]), all(true), "each segment once");
    }

    #[test]
    fn levels_above_a_recording() {
        let top = tempfile::tempdir().unwrap();
        for host in ["host=a", "host=b"] {
            let recording = Recording::at(&top.path().join("site=x").join(host));
            recording.put(&segment(0), Form::Plain);
        }
        symlink(top.path(), top.path().join("loop=1")).unwrap();
        fs::create_dir(top.path().join("other")).unwrap();
        let tapes = find(&[top.path()]).unwrap();
        assert_eq!(tapes.len(), 2);
        assert!(tapes[0].root.ends_with("site=x/host=a"));
        assert!(tapes[1].root.ends_with("site=x/host=b"));
    }

    #[test]
    fn the_best_form_is_taken_whatever_the_order() {
        for forms in [[Form::Zstd, Form::Plain], [Form::Plain, Form::Open]] {
            let recording = Recording::new();
            let paths = forms.map(|form| recording.put(&segment(0), form));
            for paths in
                [vec![recording.path()], vec![&paths[0], &paths[1]], vec![&paths[1], &paths[0]]]
            {
                let tapes = find(&paths).unwrap();
                assert_eq!(tapes.len(), 1);
                let forms_found: Vec<Form> = tapes[0].segments.iter().map(|s| s.form()).collect();
                assert_eq!(forms_found, [forms[0]]);
            }
        }
    }

    #[test]
    fn renamed_files_say_themselves_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for form in Form::ALL {
            let path = dir.path().join(format!("my-copy{}", form.ending()));
            fs::write(&path, segment(4).stored(form)).unwrap();
            assert_eq!(found(&[&path]), vec![("btc".to_string(), 1, false)]);
            let unlike = dir.path().join("unlike.bin");
            fs::write(&unlike, segment(4).stored(form)).unwrap();
            assert_eq!(found(&[&unlike]), vec![("btc".to_string(), 1, false)]);
        }
        let garbage = dir.path().join("garbage");
        fs::write(&garbage, b"\0\0").unwrap();
        assert_eq!(found(&[&garbage]), vec![("garbage".to_string(), 1, false)]);
    }

    #[test]
    fn paths_without_tapes_are_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nothing-here");
        let error = find(&[&missing]).unwrap_err().to_string();
        assert!(error.contains("nothing-here"), "{error}");
        let error = find(&[dir.path()]).unwrap_err().to_string();
        assert!(error.contains("holds no tapes"), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        let error = find(&[Path::new("/dev/null")]).unwrap_err().to_string();
        assert!(error.contains("neither a file nor a folder"), "{error}");
    }

    #[test]
    fn a_file_that_vanished_is_read_in_its_other_form() {
        for (before, after) in
            [(Form::Open, Form::Plain), (Form::Plain, Form::Zstd), (Form::Open, Form::Gzip)]
        {
            let recording = Recording::new();
            let old = recording.put(&segment(0), before);
            let tapes = find(&[recording.path()]).unwrap();
            recording.put(&segment(0), after);
            fs::remove_file(old).unwrap();
            let mut open = tapes[0].segments[0].open(Purpose::Read).unwrap().unwrap();
            assert_eq!(open.file().form(), after);
            let mut plain = Vec::new();
            open.read_to_end(&mut plain).unwrap();
            assert_eq!(plain, segment(0).plain());
        }
    }

    #[test]
    fn reading_goes_on_at_the_same_byte_of_the_other_form() {
        let recording = Recording::new();
        let old = recording.put(&segment(0), Form::Open);
        let tapes = find(&[recording.path()]).unwrap();
        let mut open = tapes[0].segments[0].open(Purpose::Read).unwrap().unwrap();
        let mut plain = vec![0; 100];
        open.read_exact(&mut plain).unwrap();
        recording.put(&segment(0), Form::Zstd);
        fs::remove_file(old).unwrap();
        open.reopen().unwrap();
        assert_eq!(open.file().form(), Form::Zstd);
        open.read_to_end(&mut plain).unwrap();
        assert_eq!(plain, segment(0).plain());
    }

    #[test]
    fn a_pruned_segment_is_none() {
        let recording = Recording::new();
        let path = recording.put(&segment(0), Form::Zstd);
        let tapes = find(&[recording.path()]).unwrap();
        fs::remove_file(path).unwrap();
        assert!(tapes[0].segments[0].open(Purpose::Read).unwrap().is_none());
    }
}
