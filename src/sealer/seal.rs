//! Sealing one finished segment.
//!
//! Owns the order of the steps, which is what makes a crash at any point leave one whole copy:
//!
//! ```text
//! write .tape.zst.tmp -> sync -> read back, compare -> rename to .tape.zst
//!     -> list in _SHA256SUMS -> sync the folder -> delete .tape
//! ```
//!
//! Nobody but the sealer touches these files meanwhile. What a crash left is taken up again: a
//! `.tmp` is made anew; a sealed file beside the plain one was already compared before it got its
//! name, is compared once more, and the steps after that follow. Where the two differ then, one
//! of them was damaged since: it is set aside as `.damaged`, never deleted.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compress::Codec;
use super::copy::{self, Content, Copy, CopyError, Stop};
use super::{create_anew, sums};
use crate::storage::{Storage, StorageFile};
use crate::tape::name::{Form, SegmentName};

/// The forms of sealed segments.
const SEALED_FORMS: [Form; 2] = [Form::Zstd, Form::Gzip];
/// Ending of a sealed file until it is synced and compared.
pub(super) const TMP_ENDING: &str = ".tmp";
/// Ending of what was set aside.
const DAMAGED_ENDING: &str = ".damaged";

/// A segment's lengths, once it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) raw_bytes: u64,
    pub(super) sealed_bytes: u64,
}

/// Why a segment is not sealed. The plain one is still there.
#[derive(Debug)]
pub enum SealError {
    /// Told to stop between two pieces.
    Interrupted,
    /// The disk failed.
    Disk {
        /// Doing what, as in `can't sync`.
        step: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// How.
        error: io::Error,
    },
    /// What was read back is not what was written.
    ReadBack {
        /// The file, which was removed.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Interrupted => f.write_str("interrupted"),
            SealError::Disk { step, path, error } => {
                write!(f, "can't {step} '{}': {error}", path.display())
            }
            SealError::ReadBack { path, reason } => {
                write!(f, "'{}' did not read back as written: {reason}", path.display())
            }
        }
    }
}

impl std::error::Error for SealError {}

/// Seals a finished segment; `None` where there is no plain file to seal (any more).
///
/// # Errors
/// See [`SealError`]; sealing again takes up where it ended.
pub(super) fn seal(
    storage: &dyn Storage,
    name: &SegmentName,
    codec: Codec,
    stop: Stop<'_>,
) -> Result<Option<Sealed>, SealError> {
    let path = name.path(Form::Plain);
    let Some(file) = open(storage, &path)? else { return Ok(None) };
    let job = Job { storage, name, plain: Plain { path, file }, stop };
    for form in SEALED_FORMS {
        if let Some(sealed) = job.adopt(form)? {
            return Ok(Some(sealed));
        }
    }
    job.seal_anew(codec).map(Some)
}

/// Reads a sealed segment back and lists its checksum, in place of the one that is listed.
///
/// # Errors
/// See [`SealError`].
pub(super) fn list_anew(
    storage: &dyn Storage,
    name: &SegmentName,
    form: Form,
) -> Result<(), SealError> {
    let path = name.path(form);
    let file = storage.open(&path).map_err(disk("open", &path))?;
    let copy = copy::read_back(&file, form, &|| false).map_err(|error| match error {
        CopyError::Interrupted => SealError::Interrupted,
        CopyError::Plain(error) | CopyError::Copy(error) => disk("read", &path)(error),
        CopyError::Corrupt(reason) => SealError::ReadBack { path: path.clone(), reason },
    })?;
    let folder = name.folder();
    sums::list(storage, &folder, &name.file(form), &copy.sha256)
        .map_err(disk("rewrite", &folder.join(sums::FILE)))?;
    storage.sync_dir(&folder).map_err(disk("sync", &folder))
}

struct Job<'a> {
    storage: &'a dyn Storage,
    name: &'a SegmentName,
    plain: Plain,
    stop: Stop<'a>,
}

struct Plain {
    path: PathBuf,
    file: Arc<dyn StorageFile>,
}

/// What becomes of the plain segment at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlainIs {
    /// The sealed one holds the same.
    Superfluous,
    /// It lost bytes since it was sealed.
    Damaged,
}

impl Job<'_> {
    fn seal_anew(&self, codec: Codec) -> Result<Sealed, SealError> {
        let sealed = self.name.path(codec.form());
        let tmp = with_ending(&sealed, TMP_ENDING);
        let copy = self.make_copy(codec, &tmp, &sealed).inspect_err(|_| {
            // The first error is the one to tell; the next attempt removes what is left.
            let _ = self.storage.remove(&tmp);
        })?;
        self.conclude(codec.form(), &copy, PlainIs::Superfluous)
    }

    /// Writes and compares the copy, and gives it its name.
    fn make_copy(&self, codec: Codec, tmp: &Path, sealed: &Path) -> Result<Copy, SealError> {
        let file = create_anew(self.storage, tmp).map_err(disk("create", tmp))?;
        let written = copy::write(&self.plain.file, &file, codec, self.stop)
            .map_err(|error| self.copy_error(error, "write", tmp))?;
        file.sync().map_err(disk("sync", tmp))?;
        // From here on reads come from the disk, so that what it holds is what is compared.
        file.read_anew();
        let read = copy::read_back(&file, codec.form(), self.stop)
            .map_err(|error| self.copy_error(error, "read back", tmp))?;
        if read != written {
            let reason = format!("{written:?} were written, {read:?} were read");
            return Err(SealError::ReadBack { path: tmp.to_path_buf(), reason });
        }
        self.storage.rename(tmp, sealed).map_err(disk("rename", tmp))?;
        Ok(written)
    }

    /// Takes up a sealed file which a crash left beside the plain one; `None` where there is none
    /// (any more) that could be taken.
    fn adopt(&self, form: Form) -> Result<Option<Sealed>, SealError> {
        let path = self.name.path(form);
        let Some(file) = open(self.storage, &path)? else { return Ok(None) };
        // It was synced before it got its name, unless somebody else put it there.
        file.sync().map_err(disk("sync", &path))?;
        file.read_anew();
        let copy = match copy::read_back(&file, form, self.stop) {
            Ok(copy) => copy,
            Err(CopyError::Corrupt(reason)) => {
                self.set_aside(&path, &reason)?;
                return Ok(None);
            }
            Err(error) => return Err(self.copy_error(error, "read", &path)),
        };
        let plain = copy::read_plain(&self.plain.file, self.stop)
            .map_err(|error| self.copy_error(error, "read", &path))?;
        match judge(&copy.content, &plain) {
            Some(plain_is) => self.conclude(form, &copy, plain_is).map(Some),
            None => {
                self.set_aside(&path, "it holds less than the plain segment")?;
                Ok(None)
            }
        }
    }

    /// The steps after the sealed file has its name.
    fn conclude(&self, form: Form, copy: &Copy, plain_is: PlainIs) -> Result<Sealed, SealError> {
        let folder = self.name.folder();
        sums::list(self.storage, &folder, &self.name.file(form), &copy.sha256)
            .map_err(disk("rewrite", &folder.join(sums::FILE)))?;
        // Makes the sealed file's name durable as well: both before the plain one goes.
        self.storage.sync_dir(&folder).map_err(disk("sync", &folder))?;
        match plain_is {
            PlainIs::Superfluous => {
                self.storage.remove(&self.plain.path).map_err(disk("delete", &self.plain.path))?;
            }
            PlainIs::Damaged => self.set_aside(&self.plain.path, "it differs from its seal")?,
        }
        Ok(Sealed { raw_bytes: copy.content.bytes, sealed_bytes: copy.bytes })
    }

    fn set_aside(&self, path: &Path, reason: &str) -> Result<(), SealError> {
        let to = with_ending(path, DAMAGED_ENDING);
        self.storage.rename(path, &to).map_err(disk("set aside", path))?;
        log::warn!("'{}' is damaged: {reason}: kept as '{}'", path.display(), to.display());
        Ok(())
    }

    fn copy_error(&self, error: CopyError, step: &'static str, path: &Path) -> SealError {
        match error {
            CopyError::Interrupted => SealError::Interrupted,
            CopyError::Plain(error) => disk("read", &self.plain.path)(error),
            CopyError::Copy(error) => disk(step, path)(error),
            CopyError::Corrupt(reason) => SealError::ReadBack { path: path.to_path_buf(), reason },
        }
    }
}

/// What the plain segment is, beside a sealed one that decompressed without error; `None` where
/// it is the sealed one that lost bytes. A sealed file can only have lost whole pieces at its end,
/// its checksums would tell anything else. A plain one that was never synced can have lost
/// anything, its length included.
fn judge(sealed: &Content, plain: &Content) -> Option<PlainIs> {
    if sealed == plain {
        Some(PlainIs::Superfluous)
    } else if sealed.bytes >= plain.bytes {
        Some(PlainIs::Damaged)
    } else {
        None
    }
}

fn open(storage: &dyn Storage, path: &Path) -> Result<Option<Arc<dyn StorageFile>>, SealError> {
    match storage.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk("open", path)(error)),
    }
}

fn disk(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SealError {
    move |error| SealError::Disk { step, path: path.to_path_buf(), error }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(ending);
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealer::compress;
    use crate::sealer::compress::tests::{frames, lines};
    use crate::storage::Disk;
    use crate::storage::memory::{Fault, MemoryDisk};
    use crate::tape::name::FeedName;
    use sha2::{Digest, Sha256};
    use std::cell::Cell;
    use std::io::Read;

    const ZSTD: Codec = Codec::Zstd { level: 3 };
    const GZIP: Codec = Codec::Gzip { level: 6 };
    const GO_ON: Stop<'static> = &|| false;

    fn name() -> SegmentName {
        SegmentName::new(&FeedName::new("f").unwrap(), 7, 1_736_682_893_953_758_185)
    }

    fn disk_with(plain: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.put(name().path(Form::Plain), plain);
        disk
    }

    fn sealed_bytes(codec: Codec, plain: &[u8]) -> Vec<u8> {
        let disk = disk_with(plain);
        seal(&disk, &name(), codec, GO_ON).unwrap().unwrap();
        disk.contents(name().path(codec.form())).unwrap()
    }

    fn decompress(form: Form, sealed: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        compress::decoder(form, sealed).unwrap().read_to_end(&mut text).unwrap();
        text
    }

    fn sums_path() -> PathBuf {
        name().folder().join(sums::FILE)
    }

    /// The segment is sealed, listed, and nothing else is there but `others`.
    fn check_sealed(disk: &MemoryDisk, form: Form, plain: &[u8], others: &[&str], case: &str) {
        let sealed = disk.contents(name().path(form)).unwrap_or_else(|| panic!("{case}"));
        assert!(decompress(form, &sealed) == plain, "{case}: the sealed one holds all");
        let digits = Sha256::digest(&sealed).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let sums = String::from_utf8(disk.contents(sums_path()).unwrap()).unwrap();
        assert_eq!(sums, format!("{digits}  {}\n", name().file(form)), "{case}");
        let mut expected = vec![sums_path(), name().path(form)];
        expected.extend(others.iter().map(|other| name().folder().join(other)));
        expected.sort();
        assert_eq!(disk.files(), expected, "{case}");
    }

    #[test]
    fn the_steps_come_in_order() {
        let plain = lines(1000, 100);
        let disk = disk_with(&plain);
        let sealed = seal(&disk, &name(), ZSTD, GO_ON).unwrap().unwrap();
        assert_eq!(sealed.raw_bytes, plain.len() as u64);
        let on_disk = disk.contents(name().path(Form::Zstd)).unwrap().len() as u64;
        assert_eq!(sealed.sealed_bytes, on_disk);
        check_sealed(&disk, Form::Zstd, &plain, &[], "sealed");
        let folder = format!("{}/", name().folder().display());
        let steps: Vec<String> = disk
            .log()
            .iter()
            .map(|line| {
                line.replace(&folder, "")
                    .replace(&name().file(Form::Plain), "plain")
                    .replace(name().folder().to_str().unwrap(), ".")
            })
            .collect();
        assert_eq!(
            steps,
            [
                "open plain",
                "open plain.zst",
                "open plain.gz",
                "create plain.zst.tmp",
                "read plain",
                "drop_cache plain",
                "append plain.zst.tmp",
                "sync plain.zst.tmp",
                "drop_cache plain.zst.tmp",
                "read plain.zst.tmp",
                "drop_cache plain.zst.tmp",
                "rename plain.zst.tmp -> plain.zst",
                "create _SHA256SUMS.tmp",
                "open _SHA256SUMS",
                "append _SHA256SUMS.tmp",
                "sync _SHA256SUMS.tmp",
                "replace _SHA256SUMS.tmp -> _SHA256SUMS",
                "sync_dir .",
                "remove plain",
            ]
        );
    }

    #[test]
    fn both_forms_hold_every_line() {
        let plain = lines(3 << 20, 300);
        for codec in [ZSTD, GZIP] {
            let disk = disk_with(&plain);
            seal(&disk, &name(), codec, GO_ON).unwrap().unwrap();
            check_sealed(&disk, codec.form(), &plain, &[], &format!("{codec:?}"));
        }
        assert_eq!(frames(&sealed_bytes(ZSTD, &plain)).concat(), plain);
    }

    #[test]
    fn nothing_to_seal_is_no_error() {
        let disk = MemoryDisk::new();
        assert_eq!(seal(&disk, &name(), ZSTD, GO_ON).unwrap(), None);
        assert!(disk.files().is_empty());
    }

    /// Whether a whole copy is there, plain or sealed.
    fn has_whole_copy(disk: &MemoryDisk, form: Form, plain: &[u8]) -> bool {
        let is_plain = |text: Vec<u8>| text == plain;
        // Readers take the sealed one where both exist.
        match disk.contents(name().path(form)) {
            Some(sealed) => is_plain(decompress(form, &sealed)),
            None => disk.contents(name().path(Form::Plain)).is_some_and(is_plain),
        }
    }

    /// Fails from operation `n` on, then goes on: with what is there (the program was killed), or
    /// with what was durable (the power failed).
    #[test]
    fn failing_anywhere_leaves_a_whole_copy() {
        let plain = lines(140_000, 3000);
        for codec in [ZSTD, GZIP] {
            let form = codec.form();
            for n in 0.. {
                let disk = disk_with(&plain);
                disk.fail_from(n, io::ErrorKind::StorageFull);
                let result = seal(&disk, &name(), codec, GO_ON);
                disk.clear_faults();
                for (case, after) in [("crashed", disk.crash()), ("killed", disk.clone())] {
                    let case = format!("{codec:?}, {case} from operation {n}, {result:?}");
                    assert!(has_whole_copy(&after, form, &plain), "{case}: {:?}", after.files());
                    seal(&after, &name(), codec, GO_ON).unwrap();
                    check_sealed(&after, form, &plain, &[], &case);
                }
                if let Ok(sealed) = result {
                    assert!(sealed.is_some());
                    assert!(n > 20, "all operations were tried");
                    break;
                }
            }
        }
    }

    #[test]
    fn one_failure_changes_nothing_for_good() {
        let plain = lines(140_000, 3000);
        let all = {
            let disk = disk_with(&plain);
            seal(&disk, &name(), ZSTD, GO_ON).unwrap();
            disk.operations()
        };
        for n in 0..all {
            let disk = disk_with(&plain);
            disk.fault_at(n, Fault::Fail(io::ErrorKind::Other));
            let error = seal(&disk, &name(), ZSTD, GO_ON).expect_err("it failed");
            let SealError::Disk { .. } = error else { panic!("operation {n}: {error}") };
            assert!(has_whole_copy(&disk.crash(), Form::Zstd, &plain), "operation {n}: {error}");
            assert!(disk.contents(name().path(Form::Plain)).is_some(), "operation {n}: {error}");
            let files = disk.files();
            let is_tmp = |path: &PathBuf| path.to_str().unwrap().ends_with(".tmp");
            assert!(!files.iter().any(is_tmp), "operation {n}: {error}: {files:?}");
            seal(&disk, &name(), ZSTD, GO_ON).unwrap();
            check_sealed(&disk, Form::Zstd, &plain, &[], &format!("after operation {n}: {error}"));
        }
    }

    #[test]
    fn short_writes_are_gone_on_with() {
        let plain = lines(5000, 100);
        for n in 0..20 {
            let disk = disk_with(&plain);
            disk.fault_at(n, Fault::Short(3));
            seal(&disk, &name(), ZSTD, GO_ON).unwrap();
            check_sealed(&disk, Form::Zstd, &plain, &[], &format!("operation {n}"));
        }
    }

    #[test]
    fn a_left_over_temporary_file_is_made_anew() {
        let plain = lines(5000, 100);
        let disk = disk_with(&plain);
        disk.put(with_ending(&name().path(Form::Zstd), TMP_ENDING), b"half a frame");
        seal(&disk, &name(), ZSTD, GO_ON).unwrap();
        check_sealed(&disk, Form::Zstd, &plain, &[], "made anew");
    }

    #[test]
    fn of_a_plain_and_a_sealed_file_the_whole_one_counts() {
        let text = lines(2 << 20, 300);
        let zstd = sealed_bytes(ZSTD, &text);
        let first_frame = frames(&zstd)[0].len();
        let zstd_of_first = sealed_bytes(ZSTD, &text[..first_frame]);
        let mut flipped = zstd.clone();
        flipped[zstd.len() / 2] ^= 1;
        let gzip = sealed_bytes(GZIP, &text);
        let plain_aside = format!("{}.damaged", name().file(Form::Plain));
        let zstd_aside = format!("{}.damaged", name().file(Form::Zstd));
        let check = |case: &str, plain: &[u8], form: Form, sealed: &[u8], aside: Option<&str>| {
            let disk = disk_with(plain);
            disk.put(name().path(form), sealed);
            seal(&disk, &name(), ZSTD, GO_ON).unwrap().unwrap();
            check_sealed(&disk, form, &text, aside.as_slice(), case);
        };
        check("both whole", &text, Form::Zstd, &zstd, None);
        check("whole, and the codec changed", &text, Form::Gzip, &gzip, None);
        check("a bit flipped", &text, Form::Zstd, &flipped, Some(&zstd_aside));
        check("cut", &text, Form::Zstd, &zstd[..zstd.len() - 1], Some(&zstd_aside));
        check("cut to nothing", &text, Form::Zstd, b"", Some(&zstd_aside));
        check("a frame missing", &text, Form::Zstd, &zstd_of_first, Some(&zstd_aside));
        check("no plain bytes", b"", Form::Zstd, &zstd, Some(&plain_aside));
        check("plain bytes zeroed", &vec![0; text.len()], Form::Zstd, &zstd, Some(&plain_aside));
    }

    #[test]
    fn a_disk_error_is_not_taken_for_damage() {
        let text = lines(5000, 100);
        let disk = disk_with(&text);
        disk.put(name().path(Form::Zstd), &sealed_bytes(ZSTD, &text));
        // 0 and 1 open both, 2 syncs, 3 reads.
        disk.fault_at(3, Fault::Fail(io::ErrorKind::Other));
        let error = seal(&disk, &name(), ZSTD, GO_ON).expect_err("a read failed");
        assert!(matches!(error, SealError::Disk { step: "read", .. }), "{error}");
        seal(&disk, &name(), ZSTD, GO_ON).unwrap();
        check_sealed(&disk, Form::Zstd, &text, &[], "read at the second attempt");
    }

    /// A disk whose files are not what was written to them.
    struct Lying(MemoryDisk);

    struct LyingFile(Arc<dyn StorageFile>);

    impl Storage for Lying {
        fn create_dirs(&self, folder: &Path) -> io::Result<()> {
            self.0.create_dirs(folder)
        }
        fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
            Ok(Arc::new(LyingFile(self.0.create(path)?)))
        }
        fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
            self.0.open(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.replace(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }
        fn remove_dir(&self, folder: &Path) -> io::Result<()> {
            self.0.remove_dir(folder)
        }
        fn bytes_of(&self, path: &Path) -> io::Result<u64> {
            self.0.bytes_of(path)
        }
        fn sync_dir(&self, folder: &Path) -> io::Result<()> {
            self.0.sync_dir(folder)
        }
        fn list(&self, folder: &Path) -> io::Result<Vec<crate::storage::Entry>> {
            self.0.list(folder)
        }
        fn free_bytes(&self) -> io::Result<u64> {
            self.0.free_bytes()
        }
    }

    impl StorageFile for LyingFile {
        fn append(&self, bytes: &[u8]) -> io::Result<usize> {
            let mut wrong = bytes.to_vec();
            if let Some(byte) = wrong.get_mut(bytes.len() / 2) {
                *byte ^= 1;
            }
            self.0.append(&wrong)
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read_at(offset, buf)
        }
        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }
        fn truncate(&self, bytes: u64) -> io::Result<()> {
            self.0.truncate(bytes)
        }
        fn bytes(&self) -> io::Result<u64> {
            self.0.bytes()
        }
        fn drop_cache(&self, offset: u64, bytes: u64) {
            self.0.drop_cache(offset, bytes);
        }
    }

    #[test]
    fn what_does_not_read_back_is_not_sealed() {
        let text = lines(5000, 100);
        for codec in [ZSTD, GZIP] {
            let disk = Lying(disk_with(&text));
            let error = seal(&disk, &name(), codec, GO_ON).expect_err("a bit was flipped");
            assert!(matches!(error, SealError::ReadBack { .. }), "{codec:?}: {error}");
            assert_eq!(disk.0.files(), [name().path(Form::Plain)], "{codec:?}");
        }
    }

    #[test]
    fn stopping_anywhere_leaves_the_plain_segment_only() {
        let text = lines(1 << 20, 300);
        for asked_max in 0.. {
            let disk = disk_with(&text);
            let asked = Cell::new(0);
            let stop = || asked.replace(asked.get() + 1) >= asked_max;
            match seal(&disk, &name(), ZSTD, &stop) {
                Err(SealError::Interrupted) => {}
                Err(error) => panic!("{error}"),
                Ok(_) => {
                    assert!(asked_max > 10, "asked {asked_max} times only");
                    check_sealed(&disk, Form::Zstd, &text, &[], "not stopped");
                    break;
                }
            }
            assert_eq!(disk.files(), [name().path(Form::Plain)], "stopped at {asked_max}");
        }
    }

    #[test]
    fn seals_on_a_real_disk() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        let text = lines(2 << 20, 300);
        disk.create_dirs(&name().folder()).unwrap();
        for codec in [ZSTD, GZIP] {
            std::fs::write(root.path().join(name().path(Form::Plain)), &text).unwrap();
            seal(&disk, &name(), codec, GO_ON).unwrap().unwrap();
            let sealed = root.path().join(name().path(codec.form()));
            assert_eq!(decompress(codec.form(), &std::fs::read(&sealed).unwrap()), text);
            let names = disk.list(&name().folder()).unwrap();
            let names: Vec<&str> = names.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, ["_SHA256SUMS", name().file(codec.form()).as_str()]);
            std::fs::remove_file(sealed).unwrap();
        }
    }
}
