//! feedtape records WebSocket feeds, byte for byte, for months, in memory you can predict.
//!
//! This page is the architecture: what flows where, which thread does what and where it waits,
//! which file owns what, and what must always hold. Each module's page goes on from there. The
//! tape format is in [`tape`], the life of a connection in [`feed::session`].
//!
//! # The way of a message
//!
//! ```text
//!  venue == ws ==> feed thread --+
//!  venue == wss => feed thread --+-- blocks --> writer thread ------> feed=F/date=D/*.tape.open
//!  venue = http => poll thread --+                 |   |
//!                     ^  ^                         |   +-- opened, written, finished
//!          answers    |  |      empty blocks       |   v
//!    resolver threads-+  +---------- pool <--------+  syncer thread --> fdatasync, *.tape, .next
//!                                                      |
//!                                                      +-- finished
//!                                                      v
//!                                                  sealer thread --> *.tape.zst, _SHA256SUMS
//!  main thread: signals, systemd, the end of feeds, dead threads; ends all of it in order
//! ```
//!
//! A feed's thread reads a message, stamps it with the time at which the kernel got its bytes, and
//! writes the finished line of the tape into its *block*, a buffer from a fixed pool. That is the
//! one copy on the way; nothing is allocated for a message. When the socket has no more for now
//! the block goes to the writer, which appends it to the feed's open *segment*: no work per
//! message on the thread that all feeds share. The block goes back to the pool.
//!
//! The pool is the bound on what is in flight, and the only place where a feed waits for others.
//! When the disk is slower than the feeds the pool runs empty; then a feed stops reading, so that
//! TCP holds its venue back, or drops and counts, as it was told.
//!
//! A segment ends at a time of day, at a size, or when a feed ends. The syncer makes it durable
//! and gives it its name; the sealer compresses it, reads the copy back, lists its checksum and
//! only then deletes the plain one. At the next start [`recovery`] finishes what a crash left open.
//!
//! # Threads, and where each waits
//!
//! There is no async runtime: threads that block, each in one place, on a closed set of events,
//! with a deadline.
//!
//! | thread | file | waits in | for |
//! |---|---|---|---|
//! | one per feed | [`feed`], `feed/run.rs` | `ppoll`, [`feed::wait`] | its socket, its wake-up, the session's next deadline |
//! | | | [`block::Pool::take`], the second place | a free block, in slices of 50 ms |
//! | one per feed that is polled | [`feed::poll`] | the same two places | its wake-up and the next poll; during a poll its socket too |
//! | `writer` | [`writer`] | the channel of blocks | blocks; every 500 ms it looks at idle segments and free space |
//! | | | while the disk takes nothing | the order to give up, or the next attempt in 2 s |
//! | `syncer` | [`syncer`] | its channel | segments opened and finished, the next sync |
//! | `sealer` | [`sealer`] | its queue | finished segments, the order to finish, the next attempt, the next pruning |
//! | `own tape` | `recorder/own.rs` | its channel | the next line of the recorder's own figures |
//! | four for names | [`resolver`] | a bounded queue | names to look up, one lookup of a host at a time |
//! | `admin` | `admin/server.rs` | `ppoll` | clients, answers to orders, the next sample of memory |
//! | `folder` | `recorder/folder.rs` | sleeps for a second | the folder to be moved or deleted |
//! | `signals` | [`recorder`] | the signal pipe | signals |
//! | main | [`recorder`] | its channel | a signal, the end of a feed; at least every second it looks whether all threads live |
//!
//! They end from the source on. A stop reaches the feeds, which close their connections and hand
//! over what they have; the writer ends when the last sender of blocks is gone, the syncer when
//! the writer is, and the sealer when the syncer is and the stop timeout allows. A writer, syncer
//! or sealer that ends unasked ends the process with an error, for systemd to start it again.
//!
//! # Layers
//!
//! A file uses `crate::` of its own layer and of those before it only; a test watches over that.
//!
//! | layer | modules | what they are |
//! |---|---|---|
//! | words | [`units`], [`backoff`], [`folding`], [`clock`], [`printable`] | sizes and spans, waits, repeated trouble, the two clocks, foreign text |
//! | parts | [`tape`], [`block`], [`stats`], [`memory`], [`storage`], [`heap_profile`] | the format, the pool, counters, memory figures, the disk, a look at the heap |
//! | threads | [`feed`], [`writer`], [`syncer`], [`sealer`], [`resolver`], [`recovery`], [`admin`] | what runs, and what runs before |
//! | process | [`config`], [`service`], [`logging`], [`report`], [`plan`], [`recorder`] | options, systemd, talk, the plan of memory, the whole |
//! | commands | [`cli`], [`tools`] | what can be typed |
//!
//! # Which file owns what
//!
//! - [`tape`]: the format. `line` and `event` write it, `name` says where it stands, `reader` reads
//!   it. The recorder and the tools share nothing else.
//! - [`feed::session`]: all decisions of a connection's life, as a pure machine: no socket, no
//!   clock. `feed/run.rs` does what it decides; [`feed::transport`] connects, through a
//!   [`feed::proxy`] where there is one (`feed/tunnel.rs` speaks to it), [`feed::upgrade`] asks for
//!   the WebSocket and follows redirects, [`feed::connection`] speaks it, [`feed::socket`] knows
//!   the stamps, [`feed::tls`] the certificates.
//! - [`feed::poll`]: feeds that are polled by HTTP. `schedule` decides when, as a pure machine,
//!   `client` speaks to the server, `budget` is what all polls of a host share; [`feed::listen`] is
//!   how they hear of another feed's connections and gaps.
//! - [`feed::current`]: which feed a thread works for, so that [`logging`] can tell the journal.
//! - [`feed::lines`]: from messages to lines: stamps, where a segment begins, gaps.
//! - [`writer`]: the open segments, and what becomes of lines that the disk did not take.
//! - [`storage`]: the file operations, behind one trait. Tests put a disk in memory there which
//!   fails and crashes where they like.
//! - [`memory`]: what the kernel, the cgroup and the allocator say of a process's memory.
//! - [`recovery`]: what a start finishes; [`recovery::repair`]: what `recover` saves of damaged
//!   segments.
//! - [`sealer`]: the order in which a segment becomes final; [`sealer::retention`]: which ones go
//!   by `--keep`, and in which order of steps.
//! - [`admin`]: what can be seen and steered from outside, over HTTP; [`tools::ctl`] speaks to it.
//! - [`recorder::own`]: the tape on which the recorder records itself; [`memory::verdict`]: what
//!   its figures over time say, which [`tools::mem::history`] shows.
//! - [`config`]: every option's default and bounds; all mistakes are found at once.
//! - [`plan`]: what a recording will need, line by line, from its options alone; whoever adds a
//!   buffer adds it there.
//! - [`tools::check`]: the recorder's feeds, tried without its writer.
//! - [`tools::venues`]: all that is known of venues, which is data in one file.
//! - [`tools::simulate`]: a venue for trying and testing, which knows nothing of the recorder.
//!
//! # What always holds
//!
//! - Every message that a feed's thread read is on the tape, or a gap on the tape says what is
//!   missing and why.
//! - A message's bytes are never interpreted, and never changed but for the escaping of line feeds
//!   and base64, both of which can be undone.
//! - Stamps never decrease within a segment. The index of a line is its ordinal within its feed,
//!   over all segments and runs.
//! - A name of a file is never used again, and no file is overwritten but the two lists that are
//!   replaced whole: `.next` and `_SHA256SUMS`.
//! - A plain segment is deleted only after its sealed copy is durable, was read back, and is
//!   listed. Lines are deleted by `--keep` and `--keep-bytes` only: what remains of a feed is a run
//!   of segments without holes up to its newest.
//! - After a failed write or sync a segment is closed for good; a failed sync of a file is never
//!   repeated: what could not be synced goes to a new file.
//! - Every queue, buffer, message, retry and wait has a limit, which is a constant or an option.
//! - Bytes from the network or the disk never panic, and no length in them is believed unchecked.
//! - Secrets are on no tape and in no log: what `${..}` brought in is shown as `***`.

pub mod admin;
pub mod backoff;
pub mod block;
pub mod cli;
pub mod clock;
pub mod config;
pub mod feed;
pub mod folding;
pub mod heap_profile;
pub mod logging;
pub mod memory;
pub mod plan;
pub mod printable;
pub mod recorder;
pub mod recovery;
pub mod report;
pub mod resolver;
pub mod sealer;
pub mod service;
pub mod stats;
pub mod storage;
pub mod syncer;
pub mod tape;
pub mod tools;
pub mod units;
pub mod writer;
