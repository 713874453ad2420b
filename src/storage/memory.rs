//! The disk of the tests: in memory, and as treacherous as a real one is allowed to be.
//!
//! Owns [`MemoryDisk`]. A file's bytes are durable as they were at its last sync; names (of files
//! and folders) as they were when their folder was last synced. [`MemoryDisk::crash`] gives the
//! disk as it would be found after a power loss that kept nothing else. Any operation can be made
//! to fail, any append to be short. [`MemoryDisk::crash_torn`] keeps some of what was not durable,
//! by sectors and names, in no order. Doesn't fill up.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Entry, EntryKind, Storage, StorageFile};

/// What to do to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and changes nothing.
    Fail(io::ErrorKind),
    /// An append takes so many bytes at most; other operations go well.
    Short(usize),
}

/// A disk in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    /// Place in [`State::files`].
    File(usize),
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// A sync of them failed: taken for written, but not on disk, and never more written.
    forgotten: Vec<Range<usize>>,
}

/// What a disk writes as one.
const SECTOR_BYTES: usize = 512;

impl Content {
    /// All of it durable.
    fn new(bytes: Vec<u8>) -> Content {
        Content { durable: bytes.clone(), bytes, forgotten: Vec::new() }
    }

    /// What the disk has once all is written that the kernel does not take for written.
    fn on_disk(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for range in &self.forgotten {
            let range = range.start.min(bytes.len())..range.end.min(bytes.len());
            let (before, was) = (&mut bytes[range.clone()], self.durable.get(range.clone()));
            match was {
                Some(was) => before.copy_from_slice(was),
                None => before.fill(0),
            }
        }
        bytes
    }

    fn torn(&self, random: &mut fastrand::Rng) -> Content {
        let synced = self.durable.len().min(self.bytes.len());
        if self.bytes[..synced] != self.durable[..synced] {
            // Cut and written anew since: either as it was or as it is.
            let bytes = if random.bool() { self.bytes.clone() } else { self.durable.clone() };
            return Content::new(bytes);
        }
        let length = random.usize(synced..=self.bytes.len());
        let mut bytes = self.bytes[..length].to_vec();
        for sector in (synced / SECTOR_BYTES + 1)..length.div_ceil(SECTOR_BYTES) {
            if random.u8(0..4) == 0 {
                let end = length.min((sector + 1) * SECTOR_BYTES);
                bytes[sector * SECTOR_BYTES..end].fill(0);
            }
        }
        Content::new(bytes)
    }
}

/// What the page cache was told about a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// To forget it.
    DropCache,
    /// To write it.
    StartWriting,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Default)]
struct State {
    /// What programs see. The root folder has no name here and is always there.
    names: Names,
    /// What a crash would leave of the names.
    durable_names: Names,
    /// Files stay here when they have no name any more: open handles still reach them.
    files: Vec<Content>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    fails_from: Option<(u64, io::ErrorKind)>,
    syncs_to_fail: usize,
    log: Vec<String>,
    advice: Vec<(Advice, PathBuf, u64, u64)>,
    free_bytes: Option<u64>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// A new disk with what is durable on this one: bytes as of their file's last sync, names as
    /// of their folder's last sync. The new one has no faults, and an empty log.
    pub fn crash(&self) -> MemoryDisk {
        let state = self.lock();
        let names = &state.durable_names;
        let reachable = |path: &Path| {
            path.ancestors().skip(1).all(|a| is_root(a) || names.get(a) == Some(&Node::Folder))
        };
        let names: Names = names
            .iter()
            .filter(|(path, _)| reachable(path))
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        let files = state.files.iter().map(|file| Content::new(file.durable.clone()));
        let after = State {
            durable_names: names.clone(),
            names,
            files: files.collect(),
            free_bytes: state.free_bytes,
            ..State::default()
        };
        MemoryDisk { state: Arc::new(Mutex::new(after)) }
    }

    /// As [`MemoryDisk::crash`], but of what was not durable a random part is kept: some sectors
    /// of unsynced bytes (those between them read as zeroes), some creations, removals, renames.
    /// A rename is done or not, never half.
    pub fn crash_torn(&self, seed: u64) -> MemoryDisk {
        let mut random = fastrand::Rng::with_seed(seed);
        let state = self.lock();
        let files: Vec<Content> = state.files.iter().map(|file| file.torn(&mut random)).collect();
        let mut names: Names = Names::new();
        let place_of = |names: &Names, file: usize| {
            names.iter().find(|(_, node)| **node == Node::File(file)).map(|(path, _)| path.clone())
        };
        for file in 0..state.files.len() {
            let before = place_of(&state.durable_names, file);
            let now = place_of(&state.names, file);
            let path = match (before, now) {
                (Some(before), Some(now)) => Some(if random.bool() { before } else { now }),
                (None, Some(now)) => Some(now).filter(|_| random.bool()),
                // Replaced by another file: gone exactly where that one is there.
                (Some(before), None) if state.names.contains_key(&before) => Some(before),
                (Some(before), None) => Some(before).filter(|_| random.bool()),
                (None, None) => None,
            };
            if let Some(path) = path {
                for folder in path.ancestors().skip(1).filter(|a| !is_root(a)) {
                    names.insert(folder.to_path_buf(), Node::Folder);
                }
                // Files made later come later: they replace.
                names.insert(path, Node::File(file));
            }
        }
        let files =
            files.into_iter().map(|file| Content { durable: file.bytes.clone(), ..file }).collect();
        let after = State {
            durable_names: names.clone(),
            names,
            files,
            free_bytes: state.free_bytes,
            ..State::default()
        };
        MemoryDisk { state: Arc::new(Mutex::new(after)) }
    }

    /// Does `fault` to operation number `n`, as [`MemoryDisk::operations`] counts.
    pub fn fault_at(&self, n: u64, fault: Fault) {
        self.lock().faults.insert(n, fault);
    }

    /// So many of the next syncs of files fail.
    pub fn fail_syncs(&self, count: usize) {
        self.lock().syncs_to_fail = count;
    }

    /// Every operation from number `n` on fails.
    pub fn fail_from(&self, n: u64, kind: io::ErrorKind) {
        self.lock().fails_from = Some((n, kind));
    }

    /// From now on all goes well.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.fails_from = None;
    }

    /// Operations so far, from 0: the number that the next one will have. Counted is what can
    /// fail, on the disk and on its files.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The operations so far in words, as in `rename a -> b`; the same one several times in a row
    /// stands here once. `drop_cache` is among them.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Forgets the log, and the advice.
    pub fn clear_log(&self) {
        let mut state = self.lock();
        state.log.clear();
        state.advice.clear();
    }

    /// The advice so far about files opened by a name that ends so: what, offset, bytes.
    pub fn advice(&self, ending: &str) -> Vec<(Advice, u64, u64)> {
        let state = self.lock();
        let about = |path: &Path| path.as_os_str().as_encoded_bytes().ends_with(ending.as_bytes());
        let about = state.advice.iter().filter(|(_, path, ..)| about(path));
        about.map(|(advice, _, offset, bytes)| (*advice, *offset, *bytes)).collect()
    }

    /// The kernel forgets what it takes for written: what is read from now on is what the disk has.
    pub fn forget_cache(&self) {
        for file in &mut self.lock().files {
            file.bytes = file.on_disk();
        }
    }

    /// What [`Storage::free_bytes`] says from now on.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.lock().free_bytes = Some(bytes);
    }

    /// Puts a file there with its folders, all durable, in place of what had the name. No
    /// operation is counted.
    pub fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = path.as_ref();
        let mut state = self.lock();
        let file = Node::File(state.files.len());
        state.files.push(Content::new(bytes.to_vec()));
        let folders = path.ancestors().skip(1).filter(|a| !is_root(a));
        for (path, node) in folders.map(|a| (a, Node::Folder)).chain([(path, file)]) {
            state.names.insert(path.to_path_buf(), node);
            state.durable_names.insert(path.to_path_buf(), node);
        }
    }

    /// What a file holds; `None` where there is no such file. No operation is counted.
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.lock();
        state.file(path.as_ref()).ok().map(|file| state.files[file].bytes.clone())
    }

    /// Paths of all files, sorted. No operation is counted.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let is_file = |node: &Node| matches!(node, Node::File(_));
        state.names.iter().filter(|(_, node)| is_file(node)).map(|(p, _)| p.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn handle(&self, path: &Path, file: usize) -> Arc<dyn StorageFile> {
        Arc::new(MemoryFile { disk: self.clone(), path: path.to_path_buf(), file })
    }

    /// Renames, after the checks.
    fn move_name(state: &mut State, from: &Path, to: &Path) -> io::Result<()> {
        state.folder_of(to)?;
        let node = Node::File(state.file(from)?);
        if state.names.get(to) == Some(&Node::Folder) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        state.names.remove(from);
        state.names.insert(to.to_path_buf(), node);
        Ok(())
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new(".")
}

impl State {
    /// Counts and logs an operation; fails where it shall. `Some`: an append takes no more.
    fn begin(&mut self, what: String) -> io::Result<Option<usize>> {
        let n = self.operations;
        self.operations += 1;
        let fault = match self.fails_from {
            Some((from, kind)) if n >= from => Some(Fault::Fail(kind)),
            Some(_) | None => self.faults.remove(&n),
        };
        match fault {
            Some(Fault::Fail(kind)) => {
                self.note(format!("{what}: failed"));
                Err(kind.into())
            }
            Some(Fault::Short(bytes)) => {
                self.note(what);
                Ok(Some(bytes))
            }
            None => {
                self.note(what);
                Ok(None)
            }
        }
    }

    fn note(&mut self, what: String) {
        if self.log.last() != Some(&what) {
            self.log.push(what);
        }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(file)) => Ok(*file),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn folder(&self, folder: &Path) -> io::Result<()> {
        match self.names.get(folder) {
            Some(Node::Folder) => Ok(()),
            None if is_root(folder) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn folder_of(&self, path: &Path) -> io::Result<()> {
        self.folder(path.parent().unwrap_or(Path::new("")))
    }
}

fn in_folder(path: &Path, folder: &Path) -> bool {
    path.parent().is_some_and(|parent| parent == folder || is_root(parent) && is_root(folder))
}

impl Storage for MemoryDisk {
    fn create_dirs(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(format!("create_dirs {}", folder.display()))?;
        let mut folders: Vec<&Path> = folder.ancestors().filter(|a| !is_root(a)).collect();
        folders.reverse();
        for folder in folders {
            match state.names.get(folder) {
                Some(Node::Folder) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    state.names.insert(folder.to_path_buf(), Node::Folder);
                }
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.lock();
        state.begin(format!("create {}", path.display()))?;
        state.folder_of(path)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(path.to_path_buf(), Node::File(file));
        drop(state);
        Ok(self.handle(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.lock();
        state.begin(format!("open {}", path.display()))?;
        let file = state.file(path)?;
        drop(state);
        Ok(self.handle(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(format!("rename {} -> {}", from.display(), to.display()))?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Self::move_name(&mut state, from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(format!("replace {} -> {}", from.display(), to.display()))?;
        Self::move_name(&mut state, from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(format!("remove {}", path.display()))?;
        state.file(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn remove_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(format!("remove_dir {}", folder.display()))?;
        state.folder(folder)?;
        if state.names.keys().any(|path| in_folder(path, folder)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.names.remove(folder);
        Ok(())
    }

    fn bytes_of(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.lock();
        state.begin(format!("bytes_of {}", path.display()))?;
        let file = state.file(path)?;
        Ok(state.files[file].bytes.len() as u64)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(format!("sync_dir {}", folder.display()))?;
        state.folder(folder)?;
        let State { names, durable_names, .. } = &mut *state;
        // What was in folders that are gone is gone with them.
        let gone = |path: &Path| {
            let mut above = path.ancestors().skip(1).take_while(|a| !is_root(a));
            above.any(|a| in_folder(a, folder) && !names.contains_key(a))
        };
        durable_names.retain(|path, _| !in_folder(path, folder) && !gone(path));
        let here = names.iter().filter(|(path, _)| in_folder(path, folder));
        durable_names.extend(here.map(|(path, node)| (path.clone(), *node)));
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.lock();
        state.begin(format!("list {}", folder.display()))?;
        state.folder(folder)?;
        let here = state.names.iter().filter(|(path, _)| in_folder(path, folder));
        let entry = |(path, node): (&PathBuf, &Node)| {
            let name = path.file_name()?.to_str()?.to_string();
            let is_folder = *node == Node::Folder;
            let kind = if is_folder { EntryKind::Folder } else { EntryKind::File };
            Some(Entry { name, kind })
        };
        let mut entries: Vec<Entry> = here.filter_map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut state = self.lock();
        state.begin("free_bytes".to_string())?;
        Ok(state.free_bytes.unwrap_or(u64::MAX))
    }
}

/// An open file; knows the path it was opened by for the log only.
struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    file: usize,
}

impl MemoryFile {
    fn begin(&self, what: &str) -> io::Result<(MutexGuard<'_, State>, Option<usize>)> {
        let mut state = self.disk.lock();
        let short = state.begin(format!("{what} {}", self.path.display()))?;
        Ok((state, short))
    }
}

impl StorageFile for MemoryFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let (mut state, short) = self.begin("append")?;
        let taken = bytes.len().min(short.unwrap_or(usize::MAX));
        state.files[self.file].bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (state, _) = self.begin("read")?;
        let bytes = &state.files[self.file].bytes;
        let rest = &bytes[bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX))..];
        let taken = rest.len().min(buf.len());
        buf[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }

    fn sync(&self) -> io::Result<()> {
        {
            let mut state = self.disk.lock();
            if state.syncs_to_fail > 0 {
                state.syncs_to_fail -= 1;
                let now = state.operations;
                state.faults.insert(now, Fault::Fail(io::ErrorKind::Other));
            }
        }
        let begun = self.begin("sync").map(|_| ());
        let mut state = self.disk.lock();
        let file = &mut state.files[self.file];
        match &begun {
            Ok(()) => file.durable = file.on_disk(),
            Err(_) => file.forgotten.push(file.durable.len()..file.bytes.len()),
        }
        begun
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.begin("truncate")?;
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let file = &mut state.files[self.file];
        file.bytes.resize(bytes, 0);
        file.forgotten.iter_mut().for_each(|range| range.end = range.end.min(bytes));
        file.forgotten.retain(|range| !range.is_empty());
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let (state, _) = self.begin("bytes")?;
        Ok(state.files[self.file].bytes.len() as u64)
    }

    fn drop_cache(&self, offset: u64, bytes: u64) {
        let mut state = self.disk.lock();
        state.note(format!("drop_cache {}", self.path.display()));
        state.advice.push((Advice::DropCache, self.path.clone(), offset, bytes));
    }

    fn start_writing(&self, offset: u64, bytes: u64) {
        let mut state = self.disk.lock();
        state.advice.push((Advice::StartWriting, self.path.clone(), offset, bytes));
    }

    fn finish_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        self.begin("finish writing").map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    #[test]
    fn a_crash_keeps_only_what_was_synced() {
        let disk = MemoryDisk::new();
        disk.create_dirs(path("a/b")).unwrap();
        let kept = disk.create(path("a/b/kept")).unwrap();
        kept.append(b"durable").unwrap();
        kept.sync().unwrap();
        kept.append(b" lost").unwrap();
        assert!(disk.crash().files().is_empty(), "no folder was synced");
        disk.sync_dir(path("a/b")).unwrap();
        disk.sync_dir(path("a")).unwrap();
        assert!(disk.crash().files().is_empty(), "the root was not synced");
        disk.sync_dir(path("")).unwrap();
        disk.create(path("a/b/unsynced")).unwrap();
        assert_eq!(disk.contents("a/b/kept").unwrap(), b"durable lost");

        let after = disk.crash();
        assert_eq!(after.files(), [path("a/b/kept")]);
        assert_eq!(after.contents("a/b/kept").unwrap(), b"durable");
        assert_eq!(disk.files().len(), 2, "the disk before the crash is still as it was");
    }

    #[test]
    fn a_crash_undoes_what_was_done_to_names() {
        let disk = MemoryDisk::new();
        for name in ["moved", "new", "old", "removed"] {
            disk.put(format!("f/{name}"), name.as_bytes());
        }
        disk.rename(path("f/moved"), path("f/there")).unwrap();
        disk.replace(path("f/new"), path("f/old")).unwrap();
        disk.remove(path("f/removed")).unwrap();
        let names = |disk: &MemoryDisk| -> Vec<String> {
            disk.list(path("f")).unwrap().into_iter().map(|entry| entry.name).collect()
        };
        assert_eq!(names(&disk), ["old", "there"]);
        assert_eq!(names(&disk.crash()), ["moved", "new", "old", "removed"]);
        assert_eq!(disk.crash().contents("f/old").unwrap(), b"old");
        disk.sync_dir(path("f")).unwrap();
        assert_eq!(names(&disk.crash()), ["old", "there"]);
        assert_eq!(disk.crash().contents("f/old").unwrap(), b"new");
    }

    #[test]
    fn folders_go_when_they_are_empty() {
        let disk = MemoryDisk::new();
        disk.put("a/b/f", b"1234");
        assert_eq!(disk.bytes_of(path("a/b/f")).unwrap(), 4);
        assert_eq!(disk.bytes_of(path("a/b/g")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let kind = |folder: &str| disk.remove_dir(path(folder)).unwrap_err().kind();
        assert_eq!(kind("a/b"), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind("a/b/f"), io::ErrorKind::NotADirectory);
        disk.remove(path("a/b/f")).unwrap();
        disk.remove_dir(path("a/b")).unwrap();
        assert_eq!(kind("a/b"), io::ErrorKind::NotFound);
        assert_eq!(disk.crash().files(), [path("a/b/f")], "the folder above was not synced");
        disk.sync_dir(path("a")).unwrap();
        assert!(disk.crash().files().is_empty());
        assert!((0..20).all(|seed| disk.crash_torn(seed).files().is_empty()));
    }

    #[test]
    fn cutting_is_durable_once_synced() {
        let disk = MemoryDisk::new();
        disk.put("f", b"0123456789");
        let file = disk.open(path("f")).unwrap();
        file.truncate(4).unwrap();
        assert_eq!(file.bytes().unwrap(), 4);
        assert_eq!(disk.crash().contents("f").unwrap(), b"0123456789");
        file.sync().unwrap();
        assert_eq!(disk.crash().contents("f").unwrap(), b"0123");
    }

    #[test]
    fn an_open_file_outlives_its_name() {
        let disk = MemoryDisk::new();
        disk.put("f", b"abc");
        let file = disk.open(path("f")).unwrap();
        disk.remove(path("f")).unwrap();
        let mut buf = [0; 8];
        assert_eq!(file.read_at(1, &mut buf).unwrap(), 2);
        assert_eq!(&buf[..2], b"bc");
        assert_eq!(file.read_at(9, &mut buf).unwrap(), 0);
    }

    #[test]
    fn names_are_checked() {
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        let disk = MemoryDisk::new();
        disk.put("f/a", b"a");
        disk.put("f/b", b"b");
        let (a, b) = (path("f/a"), path("f/b"));
        assert_eq!(kind(disk.rename(a, b)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.create(a).map(drop)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.open(path("f/c")).map(drop)), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.create(path("g/a")).map(drop)), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.open(path("f")).map(drop)), io::ErrorKind::IsADirectory);
        assert_eq!(kind(disk.create_dirs(path("f/a/x"))), io::ErrorKind::NotADirectory);
        assert_eq!(kind(disk.remove(path("f/c"))), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir(path("g"))), io::ErrorKind::NotFound);
    }

    #[test]
    fn faults_come_when_asked_for() {
        let disk = MemoryDisk::new();
        let file = disk.create(path("f")).unwrap();
        disk.fault_at(2, Fault::Fail(io::ErrorKind::StorageFull));
        disk.fault_at(3, Fault::Short(2));
        assert_eq!(file.append(b"one").unwrap(), 3);
        assert_eq!(file.append(b"two").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.append(b"three").unwrap(), 2);
        assert_eq!(disk.contents("f").unwrap(), b"oneth");
        assert_eq!(disk.operations(), 4);
        disk.fail_from(4, io::ErrorKind::Other);
        assert!(file.sync().is_err());
        assert!(disk.list(path("")).is_err());
        disk.clear_faults();
        assert!(file.sync().is_ok());
        assert_eq!(
            disk.log(),
            [
                "create f",
                "append f",
                "append f: failed",
                "append f",
                "sync f: failed",
                "list : failed",
                "sync f"
            ]
        );
    }
}
