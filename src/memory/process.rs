//! What the kernel says of a process: `/proc/PID/status` and `/proc/PID/smaps_rollup`.
//!
//! Owns the way to a process's folder in /proc, and these two files. Its mappings are in
//! `mappings`, its descriptors in `descriptors`.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{count_of, read_text, size_of};

/// A process's folder in /proc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    folder: PathBuf,
}

impl Process {
    /// This process.
    pub fn own() -> Process {
        Process { pid: std::process::id(), folder: PathBuf::from("/proc/self") }
    }

    /// Another one; whether there is one is seen when its files are read.
    pub fn of(pid: u32) -> Process {
        Process { pid, folder: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.folder.join("stat").exists()
    }

    /// One of its files.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its size and its threads. Anybody may read it.
    ///
    /// # Errors
    /// The process is gone, or hidden from us.
    pub fn status(&self) -> io::Result<Status> {
        read_text(&self.path("status")).map(|text| Status::parse(&text))
    }

    /// What it shares and what is its own. The kernel walks all its pages for it.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn rollup(&self) -> io::Result<Rollup> {
        read_text(&self.path("smaps_rollup")).map(|text| Rollup::parse(&text))
    }

    /// How many descriptors it has open.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn count_descriptors(&self) -> io::Result<u64> {
        let own = u64::from(self.folder == Path::new("/proc/self"));
        // The listing itself has one open.
        Ok((std::fs::read_dir(self.path("fd"))?.count() as u64).saturating_sub(own))
    }
}

/// All processes but this one whose name and command line are as wanted, by number.
pub fn find(is_wanted: impl Fn(&str, &[&str]) -> bool) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let processes = pids.filter(|pid| *pid != std::process::id()).map(Process::of);
    let mut found: Vec<Process> = processes
        .filter(|process| {
            let text = |file| read_text(&process.path(file)).unwrap_or_default();
            let (name, line) = (text("comm"), text("cmdline"));
            let arguments: Vec<&str> = line.split_terminator('\0').collect();
            is_wanted(name.trim_end(), &arguments)
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Figures of `/proc/PID/status`, in bytes; unknown is none (a kernel's thread has no memory).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The program's name, cut to 15 bytes by the kernel.
    pub name: String,
    /// Threads.
    pub threads: Option<u64>,
    /// Resident memory: the sum of the next three.
    pub rss: Option<u64>,
    /// Of it, what belongs to no file: heap and stacks.
    pub rss_anon: Option<u64>,
    /// Of it, pages of files: program, libraries, mapped files.
    pub rss_file: Option<u64>,
    /// Of it, shared memory.
    pub rss_shmem: Option<u64>,
    /// The most that was ever resident.
    pub rss_peak: Option<u64>,
    /// Address space.
    pub vsz: Option<u64>,
    /// The most there ever was of it.
    pub vsz_peak: Option<u64>,
    /// Page tables.
    pub page_tables: Option<u64>,
    /// What was swapped out.
    pub swap: Option<u64>,
}

impl Status {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Status {
        let name = text.lines().find_map(|line| line.strip_prefix("Name:"));
        Status {
            name: name.unwrap_or_default().trim().to_string(),
            threads: count_of(text, "Threads"),
            rss: size_of(text, "VmRSS"),
            rss_anon: size_of(text, "RssAnon"),
            rss_file: size_of(text, "RssFile"),
            rss_shmem: size_of(text, "RssShmem"),
            rss_peak: size_of(text, "VmHWM"),
            vsz: size_of(text, "VmSize"),
            vsz_peak: size_of(text, "VmPeak"),
            page_tables: size_of(text, "VmPTE"),
            swap: size_of(text, "VmSwap"),
        }
    }
}

/// Figures of `/proc/PID/smaps_rollup`, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollup {
    /// Resident memory, each page divided by the number of processes that share it.
    pub pss: Option<u64>,
    /// Of the resident memory, what no other process has mapped.
    pub private: Option<u64>,
    /// Of the resident memory, what others have mapped too.
    pub shared: Option<u64>,
}

impl Rollup {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Rollup {
        let sum =
            |clean: &str, dirty: &str| size_of(text, clean)?.checked_add(size_of(text, dirty)?);
        Rollup {
            pss: size_of(text, "Pss"),
            private: sum("Private_Clean", "Private_Dirty"),
            shared: sum("Shared_Clean", "Shared_Dirty"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tfeedtape\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t17\n\
        VmPeak:\t  113000 kB\nVmSize:\t  112000 kB\nVmLck:\t       0 kB\nVmHWM:\t   12000 kB\n\
        VmRSS:\t   10000 kB\nRssAnon:\t    4000 kB\nRssFile:\t    5900 kB\nRssShmem:\t     100 kB\n\
        VmPTE:\t     160 kB\nVmSwap:\t       0 kB\nThreads:\t11\nSigQ:\t0/1\n";

    #[test]
    fn a_status_is_read() {
        let kib = |n: u64| Some(n << 10);
        let expected = Status {
            name: "feedtape".to_string(),
            threads: Some(11),
            rss: kib(10_000),
            rss_anon: kib(4000),
            rss_file: kib(5900),
            rss_shmem: kib(100),
            rss_peak: kib(12_000),
            vsz: kib(112_000),
            vsz_peak: kib(113_000),
            page_tables: kib(160),
            swap: Some(0),
        };
        assert_eq!(Status::parse(STATUS), expected);
    }

    #[test]
    fn what_is_cut_or_missing_is_unknown() {
        assert_eq!(Status::parse(""), Status::default());
        // A kernel's thread.
        let status = Status::parse("Name:\tkthreadd\nThreads:\t1\n");
        assert_eq!((status.rss, status.threads), (None, Some(1)));
        for cut in 0..STATUS.len() {
            let status = Status::parse(&STATUS[..cut]);
            assert!(status.rss.is_none_or(|rss| rss == 10_000 << 10), "{cut}");
        }
        let hostile = Status::parse("VmRSS: 99999999999999999999 kB\nVmSize:\t-1 kB\nVmPTE:\nVm");
        assert_eq!(hostile, Status::default());
    }

    #[test]
    fn a_rollup_is_summed() {
        let text = "55-7f ---p 00000000 00:00 0   [rollup]\nRss: 1988 kB\nPss: 501 kB\n\
            Pss_Dirty: 144 kB\nShared_Clean: 1652 kB\nShared_Dirty: 1 kB\nPrivate_Clean: 192 kB\n\
            Private_Dirty: 144 kB\n";
        let rollup = Rollup::parse(text);
        assert_eq!(rollup.pss, Some(501 << 10));
        assert_eq!(rollup.private, Some((192 + 144) << 10));
        assert_eq!(rollup.shared, Some(1653 << 10));
        assert_eq!(Rollup::parse("Private_Clean: 1 kB"), Rollup::default());
    }

    #[test]
    fn this_process_can_be_read() {
        let own = Process::own();
        let status = own.status().unwrap();
        let parts = [status.rss_anon, status.rss_file, status.rss_shmem];
        assert_eq!(parts.into_iter().map(Option::unwrap).sum::<u64>(), status.rss.unwrap());
        assert!(own.rollup().unwrap().pss.unwrap() > 0);
        assert_eq!(Process::of(own.pid).status().unwrap().name, status.name);
        assert!(!Process::of(u32::MAX).is_there());
        assert!(!find(|_, _| true).contains(&Process::of(own.pid)), "never itself");
    }
}
