//! All that can be found out about one process: each source read once, what can't be read with the
//! reason why.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::clock;
use crate::memory::cgroup::{self, Group, Limit, Usage};
use crate::memory::descriptors::{self, Descriptors, Queues};
use crate::memory::mappings::Mappings;
use crate::memory::pages::{self, Cached};
use crate::memory::process::{Process, Rollup, Status};
use crate::memory::{Figures, machine_available};
use crate::recorder::lock;
use crate::recorder::own::OwnLine;
use crate::tape::line::{Kind, Line};
use crate::tape::reader::{Purpose, find};

/// The recorder's own tape.
const OWN_FEED: &str = "feed=_feedtape";
/// Files of a recording that are asked about at most, and for how long.
const TAPE_FILES_MAX: usize = 100_000;
const TAPES_LOOK_MAX: Duration = Duration::from_secs(2);

/// A figure's source, or why it can't be read.
pub(super) type Source<T> = Result<T, String>;

/// What is known of a process.
pub(super) struct Facts {
    pub(super) pid: u32,
    pub(super) status: Status,
    pub(super) rollup: Source<Rollup>,
    pub(super) mappings: Source<Mappings>,
    pub(super) open: Source<Descriptors>,
    pub(super) queues: Source<Queues>,
    pub(super) tcp_memory: Source<Option<u64>>,
    /// The recording's folder, where the process is a recorder.
    pub(super) out: Option<PathBuf>,
    /// What it wrote last of its own figures; of this process what its allocator says now.
    pub(super) heap: Source<OwnFigures>,
    /// Page cache of its tapes; none where it has none.
    pub(super) tapes: Source<Option<Cached>>,
    pub(super) group: Source<InGroup>,
    /// What is free on the machine.
    pub(super) available: Option<u64>,
}

/// A group and its figures.
pub(super) struct InGroup {
    pub(super) group: Group,
    pub(super) usage: Usage,
    pub(super) limit: Option<Limit>,
    pub(super) processes: Option<u64>,
}

/// What a recorder wrote of itself.
pub(super) struct OwnFigures {
    pub(super) figures: Figures,
    /// How long ago; zero where they were just asked for.
    pub(super) age: Duration,
}

impl OwnFigures {
    /// How long ago, to the second.
    pub(super) fn age_shown(&self) -> Duration {
        Duration::from_secs(self.age.as_secs())
    }
}

impl Facts {
    /// Reads everything.
    ///
    /// # Errors
    /// The process is not there.
    pub(super) fn gather(process: &Process) -> Result<Facts> {
        let pid = process.pid;
        let status = match process.status() {
            Ok(status) => status,
            Err(error) if is_gone(&error) => bail!("there is no process {pid}"),
            Err(error) => return Err(anyhow!(error).context(format!("can't read process {pid}"))),
        };
        let mut open = Descriptors::of(process).map_err(|error| why(&error));
        let out = open.as_mut().ok().and_then(|open| {
            let mut files = std::mem::take(&mut open.files).into_iter();
            let lock = files.find(|path| path.file_name() == Some(OsStr::new(lock::NAME)))?;
            Some(lock.parent()?.to_path_buf())
        });
        // In its own file system, where it may be in a container.
        let seen =
            out.as_ref().map(|out| process.path("root").join(out.strip_prefix("/").unwrap_or(out)));
        let queues = match &open {
            Ok(open) => Queues::of(process, &open.sockets).map_err(|error| why(&error)),
            Err(why) => Err(why.clone()),
        };
        let tapes = match (&seen, &open) {
            (Some(out), _) => {
                let until = Instant::now() + TAPES_LOOK_MAX;
                Ok(Some(pages::of_folder(out, TAPE_FILES_MAX, until)))
            }
            (None, Ok(_)) => Ok(None),
            (None, Err(why)) => Err(why.clone()),
        };
        let facts = Facts {
            pid,
            status,
            rollup: process.rollup().map_err(|error| why(&error)),
            mappings: Mappings::of(process).map_err(|error| why(&error)),
            queues,
            tcp_memory: descriptors::tcp_memory(process).map_err(|error| why(&error)),
            heap: match pid == std::process::id() {
                true => Ok(OwnFigures { figures: Figures::own(), age: Duration::ZERO }),
                false => own_figures(seen.as_deref()),
            },
            out,
            tapes,
            group: cgroup::find(process).map(|group| InGroup {
                usage: group.usage(),
                limit: group.limit(),
                processes: group.count_processes(),
                group,
            }),
            open,
            available: machine_available(),
        };
        // What was read of a process that ended meanwhile would be half of it.
        if !process.is_there() {
            bail!("the process {pid} has ended while it was looked at");
        }
        Ok(facts)
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Why a file of a process can't be read, and what would help.
fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "not permitted: run this as root, or as the user of the process".to_string()
        }
        _ if is_gone(error) => "this kernel does not tell".to_string(),
        _ => error.to_string(),
    }
}

/// The last line of figures that the recorder of this folder wrote.
fn own_figures(out: Option<&Path>) -> Source<OwnFigures> {
    const OUTSIDE: &str = "not known from outside";
    let Some(out) = out else {
        return Err(format!("{OUTSIDE}: only the program itself can ask its allocator"));
    };
    let folder = out.join(OWN_FEED);
    if !folder.is_dir() {
        return Err(format!("{OUTSIDE}: the recorder writes no tape of its own ({OWN_FEED})"));
    }
    let last = last_figures(&folder).map_err(|error| format!("{OUTSIDE}: {error}"))?;
    last.ok_or_else(|| format!("{OUTSIDE}: the newest segment of {OWN_FEED} has no figures yet"))
}

/// The last line of figures in the newest segment below a folder.
fn last_figures(folder: &Path) -> Result<Option<OwnFigures>> {
    let tapes = find(&[folder])?;
    let newest = tapes.iter().filter_map(|tape| tape.segments.last()).next_back();
    let Some(segment) = newest.map(|newest| newest.open(Purpose::Read)).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let mut lines = segment.lines();
    let mut last = None;
    while lines.advance()? {
        let piece = lines.piece();
        if !piece.is_start || !piece.is_whole() {
            continue;
        }
        let Ok(Line { ts, kind: Kind::Text, raw }) = Line::parse(piece.content()) else { continue };
        if let Ok(OwnLine { memory: figures, .. }) = serde_json::from_slice(raw) {
            let age = Duration::from_nanos(clock::wall_now().saturating_sub(ts));
            last = Some(OwnFigures { figures, age });
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::name::Form;
    use crate::tape::reader::testing::{Recording, SegmentBuilder};

    #[test]
    fn the_last_figures_of_the_newest_segment() {
        let recording = Recording::new();
        let said = |out: &Path| own_figures(Some(out)).map(|own| own.figures.heap_in_use_bytes);
        assert!(said(recording.path()).unwrap_err().contains("no tape of its own"));
        let mut first = SegmentBuilder::new("_feedtape", 0, 0);
        first.text(br#"{"memory":{"heap_in_use_bytes":1}}"#).end();
        recording.put(&first, Form::Zstd);
        let mut second = SegmentBuilder::new("_feedtape", 1, first.next_index());
        recording.put(&second, Form::Open);
        assert!(said(recording.path()).unwrap_err().contains("has no figures yet"));
        second.text(br#"{"memory":{"heap_in_use_bytes":2,"of_later":"x"}}"#);
        second.text(br#"{"memory":{"heap_in_use_bytes":3}}"#).text(b"no figures").raw(b"1794\n17");
        recording.put(&second, Form::Open);
        assert_eq!(said(recording.path()), Ok(Some(3)));
        assert!(own_figures(None).is_err());
    }

    #[test]
    fn reasons_name_the_remedy() {
        let said = |kind: io::ErrorKind| why(&io::Error::from(kind));
        assert!(said(io::ErrorKind::PermissionDenied).contains("as root"));
        assert_eq!(said(io::ErrorKind::NotFound), "this kernel does not tell");
    }
}
