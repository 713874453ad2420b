//! Options of the recorder as a whole: where and how tapes are written.
//!
//! Owns their defaults and bounds. Those of single feeds are in [`super::feed`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::read_text;
use super::mistakes::Mistakes;
use super::{KeepArgs, Purpose, RecorderOptions};
use crate::admin::AdminOptions;
use crate::admin::listen::Address;
use crate::feed::OnStall;
use crate::feed::lines::Rotation;
use crate::feed::tls::TlsConnectors;
use crate::sealer::Compression;
use crate::storage::PageCache;
use crate::syncer::FsyncPolicy;
use crate::tape::event::StampClock;

/// A token is not longer than this, in bytes ..
const TOKEN_BYTES_MAX: u64 = 4 << 10;
/// .. and not shorter: it can be tried from afar.
const TOKEN_BYTES_MIN: usize = 16;
/// Smallest and largest `--queue-bytes`.
pub const QUEUE_BYTES: [&str; 2] = ["256KiB", "1GiB"];
const QUEUE_BYTES_DEFAULT: &str = "4MiB";

/// What was typed, or written at the top of a file.
#[derive(Debug, Clone, clap::Args)]
pub struct RecorderArgs {
    /// Folder for the tapes. It is made if it is not there; one recorder at a time may use it.
    #[arg(long, value_name = "DIR", help_heading = "Recording")]
    pub out: Option<PathBuf>,

    /// End after this time, such as 10s or 8h.
    #[arg(long, value_name = "SPAN", help_heading = "Recording")]
    pub duration: Option<String>,

    /// Record exactly N messages of each feed, then end.
    #[arg(long, value_name = "N", help_heading = "Recording")]
    pub max_messages: Option<String>,

    /// Begin a new segment at multiples of this time of day (UTC). It must divide 24 h.
    /// [1m..24h]
    #[arg(long, value_name = "SPAN", default_value = "1h", help_heading = "Recording")]
    pub rotate_every: String,

    /// Begin a new segment before the open one grows past this size. [64KiB..16GiB]
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Recording")]
    pub rotate_bytes: String,

    /// What finished segments are sealed with: zstd, gzip, or none. None is the cheapest to
    /// record, and the largest on disk.
    #[arg(long, value_name = "FORM", default_value = "zstd", help_heading = "Recording")]
    pub compress: String,

    /// Compression level: 1..19 for zstd, 1..9 for gzip. [default: zstd 3, gzip 6]
    #[arg(long, value_name = "N", help_heading = "Recording")]
    pub level: Option<String>,

    /// What was received is in the file after this time at the latest: it survives a crash of the
    /// recorder. [1ms..10s]
    #[arg(long, value_name = "SPAN", default_value = "100ms", help_heading = "Recording")]
    pub flush_every: String,

    /// What was received is on the disk after this time: it survives a power cut. Or `segment`
    /// (when a segment is finished), or `never`. [100ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "1s", help_heading = "Recording")]
    pub fsync: String,

    /// What becomes of the tapes' page cache, which in a container counts as memory: `drop` (what
    /// is on the disk leaves it at once) or `keep` (it stays for who reads the tapes soon, until
    /// the kernel wants the memory).
    #[arg(long, value_name = "WHAT", default_value = "drop", help_heading = "Recording")]
    pub page_cache: String,

    /// Memory for messages on their way to the disk, over all feeds. [256KiB..1GiB]
    /// [default: 4MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Recording")]
    pub queue_bytes: Option<String>,

    /// Memory for the whole recorder, at the worst: what the plan leaves of it is used in the place
    /// of --queue-bytes. `feedtape plan` shows the sum. [1MiB..64GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Recording")]
    pub memory: Option<String>,

    /// When that memory is full: `block` waits (the venue is held back by TCP), `drop` drops and
    /// counts the newest messages (large ones wait up to a second for each other).
    #[arg(long, value_name = "WHAT", default_value = "block", help_heading = "Recording")]
    pub on_stall: String,

    /// With `block`: begin to drop after waiting so long. [100ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Recording")]
    pub stall_deadline: String,

    /// Time to end in order after SIGTERM or SIGINT; what is not sealed by then is sealed at the
    /// next start. A disk that takes nothing is waited for up to 2 s longer. [1s..1h]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Recording")]
    pub stop_timeout: String,

    /// Stop writing while less than this is free on the disk; 0 is no limit.
    #[arg(long, value_name = "SIZE", default_value = "128MiB", help_heading = "Recording")]
    pub min_free: String,

    /// What is deleted, and when.
    #[command(flatten, next_help_heading = "Recording")]
    pub keep: KeepArgs,

    /// Log a line so often: messages, feeds, gaps, queue, memory. 0 is off. [1s..30d]
    #[arg(long, value_name = "SPAN", default_value = "1h", help_heading = "Recording")]
    pub report_every: String,
    /// Record the recorder's own figures this often, as the feed _feedtape: memory, queue,
    /// messages, losses. `feedtape mem --history` draws them. 0 is never. [100ms..1h]
    #[arg(long, value_name = "SPAN", default_value = "10s", help_heading = "Recording")]
    pub self_every: String,

    /// Listen here for metrics, health, orders (`feedtape ctl`) and a dashboard: 127.0.0.1:9464,
    /// `[::1]:9464` or unix:/run/feedtape/admin.sock. Port 0 takes a free one, which the log tells.
    /// [default: off]
    #[arg(long, value_name = "ADDR", help_heading = "Recording")]
    pub admin: Option<String>,

    /// Let --admin be an address that other machines can reach; needs --admin-token-file. What is
    /// said there is not encrypted.
    #[arg(long, help_heading = "Recording")]
    pub admin_allow_remote: bool,

    /// Whoever asks at --admin must know the token in this file, of at least 16 characters.
    #[arg(long, value_name = "FILE", help_heading = "Recording")]
    pub admin_token_file: Option<PathBuf>,

    /// Where stamps come from: `kernel` (when the bytes came in) or `user` (when they were read).
    #[arg(long, value_name = "CLOCK", default_value = "kernel", help_heading = "Recording")]
    pub clock: String,
}

/// What the check of each feed needs: options of the recorder, and the connectors made so far.
#[derive(Clone, Copy)]
pub(super) struct Common<'c> {
    pub(super) clock: StampClock,
    pub(super) on_stall: OnStall,
    pub(super) stall_deadline: Duration,
    pub(super) messages_max: Option<u64>,
    /// Making one takes a tenth of a second: one for all feeds that have the same options.
    pub(super) connectors: &'c TlsConnectors,
}

impl RecorderArgs {
    /// Checks all but the feeds, which are none yet.
    pub(super) fn check(&self, purpose: Purpose, mistakes: &mut Mistakes) -> RecorderOptions {
        if self.out.is_none() && purpose == Purpose::Record {
            mistakes.about("--out", "is missing: the folder for the tapes");
        }
        RecorderOptions {
            out: self.out.clone().unwrap_or_default(),
            can_reload: false,
            feeds: Vec::new(),
            duration: self
                .duration
                .as_ref()
                .map(|text| mistakes.span("--duration", text, "1ms", "3650d", false)),
            rotation: self.check_rotation(mistakes),
            compression: self.check_compression(mistakes),
            flush_every: mistakes.span("--flush-every", &self.flush_every, "1ms", "10s", false),
            fsync: self.check_fsync(mistakes),
            page_cache: self.check_page_cache(mistakes),
            queue_bytes: self.check_queue_bytes(mistakes),
            memory: self
                .memory
                .as_ref()
                .map(|text| mistakes.size("--memory", text, "1MiB", "64GiB")),
            stop_timeout: mistakes.span("--stop-timeout", &self.stop_timeout, "1s", "1h", false),
            min_free: mistakes.size("--min-free", &self.min_free, "0", "1024TiB"),
            keep: self.keep.check_into(mistakes),
            report_every: mistakes.span("--report-every", &self.report_every, "1s", "30d", true),
            self_every: Some(mistakes.span("--self-every", &self.self_every, "100ms", "1h", true))
                .filter(|every| !every.is_zero()),
            admin: self.check_admin(mistakes),
        }
    }

    /// Checks what each feed needs of it.
    pub(super) fn common<'c>(
        &self,
        connectors: &'c TlsConnectors,
        mistakes: &mut Mistakes,
    ) -> Common<'c> {
        let clocks = [("kernel", StampClock::Kernel), ("user", StampClock::User)];
        let on_stall = [("block", OnStall::Block), ("drop", OnStall::Drop)];
        let deadline = &self.stall_deadline;
        Common {
            clock: mistakes.word("--clock", &self.clock, &clocks),
            on_stall: mistakes.word("--on-stall", &self.on_stall, &on_stall),
            stall_deadline: mistakes.span("--stall-deadline", deadline, "100ms", "1h", false),
            messages_max: self
                .max_messages
                .as_ref()
                .map(|text| mistakes.number("--max-messages", text, 1, u64::MAX)),
            connectors,
        }
    }

    fn check_queue_bytes(&self, mistakes: &mut Mistakes) -> usize {
        let [min, max] = QUEUE_BYTES;
        let text = self.queue_bytes.as_deref();
        if text.is_some() && self.memory.is_some() {
            let what = "decides on the size of --queue-bytes, which is given too; give one of them";
            mistakes.about("--memory", what);
        }
        mistakes.size("--queue-bytes", text.unwrap_or(QUEUE_BYTES_DEFAULT), min, max) as usize
    }

    fn check_rotation(&self, mistakes: &mut Mistakes) -> Rotation {
        let every = mistakes.span("--rotate-every", &self.rotate_every, "1m", "24h", false);
        let day = Duration::from_secs(86_400).as_nanos();
        if every.as_nanos() > 0 && !day.is_multiple_of(every.as_nanos()) {
            mistakes.add(
                "--rotate-every",
                &self.rotate_every,
                "does not divide 24 h; write for example 15m, 1h or 6h",
            );
        }
        let bytes = mistakes.size("--rotate-bytes", &self.rotate_bytes, "64KiB", "16GiB");
        Rotation { every, bytes }
    }

    fn check_compression(&self, mistakes: &mut Mistakes) -> Compression {
        let mut level = |default: i32, max: i32| {
            let Some(text) = &self.level else {
                return default;
            };
            match text.parse::<i32>() {
                Ok(level) if (1..=max).contains(&level) => level,
                _ => {
                    let what = format!("must be 1..{max} with --compress {}", self.compress);
                    mistakes.add("--level", text, &what);
                    default
                }
            }
        };
        match self.compress.as_str() {
            "zstd" => Compression::Zstd { level: level(3, 19) },
            "gzip" => Compression::Gzip { level: level(6, 9).unsigned_abs() },
            "none" => Compression::None,
            other => {
                mistakes.add("--compress", other, "must be zstd, gzip or none");
                Compression::None
            }
        }
    }

    fn check_admin(&self, mistakes: &mut Mistakes) -> Option<AdminOptions> {
        let Some(text) = &self.admin else {
            const ALONE: &str = "is for --admin, which is not given";
            if self.admin_token_file.is_some() {
                mistakes.about("--admin-token-file", ALONE);
            }
            if self.admin_allow_remote {
                mistakes.about("--admin-allow-remote", ALONE);
            }
            return None;
        };
        let address = match Address::parse(text) {
            Ok(address) => address,
            Err(what) => {
                mistakes.add("--admin", text, &what);
                return None;
            }
        };
        let token = self.admin_token_file.as_ref().and_then(|path| {
            let read = read_token(path);
            read.map_err(|what| mistakes.about("--admin-token-file", &what)).ok()
        });
        if !address.is_local() {
            if !self.admin_allow_remote {
                let what = "other machines can reach it: give an address of this machine, or \
                            --admin-allow-remote and --admin-token-file";
                mistakes.add("--admin", text, what);
            } else if self.admin_token_file.is_none() {
                let what = "other machines can reach it: --admin-token-file is needed";
                mistakes.add("--admin", text, what);
            }
        }
        Some(AdminOptions { address, token })
    }

    fn check_page_cache(&self, mistakes: &mut Mistakes) -> PageCache {
        let words = [("drop", PageCache::Drop), ("keep", PageCache::Keep)];
        mistakes.word("--page-cache", &self.page_cache, &words)
    }

    fn check_fsync(&self, mistakes: &mut Mistakes) -> FsyncPolicy {
        match self.fsync.as_str() {
            "never" => FsyncPolicy::Never,
            "segment" => FsyncPolicy::Segment,
            span => FsyncPolicy::Every(mistakes.span("--fsync", span, "100ms", "1h", false)),
        }
    }
}

/// The token in a file, without the line end.
///
/// # Errors
/// A sentence that names the file, never the token.
pub fn read_token(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = read_text(path, TOKEN_BYTES_MAX)
        .map_err(|error| format!("can't read '{shown}': {error}"))?;
    let token = text.trim_end();
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    match token.len() {
        _ if !is_plain => Err(format!("'{shown}': a token is one word of printable ASCII")),
        len if len < TOKEN_BYTES_MIN => Err(format!(
            "'{shown}': a token has at least {TOKEN_BYTES_MIN} characters: make one with \
             'openssl rand -hex 24'"
        )),
        _ => Ok(token.to_string()),
    }
}
