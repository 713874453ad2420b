//! The tapes of a recording at its start: what an earlier run left is finished, and where each goes
//! on is known.
//!
//! Owns which tapes there are: those of the feeds, and the recorder's own.

use std::collections::HashSet;
use std::sync::Arc;

use crate::block::Tape;
use crate::config::RecorderOptions;
use crate::feed::FeedPlan;
use crate::recovery::{self, Start};
use crate::storage::Storage;
use crate::tape::name::FeedName;

use super::own::{self, OwnStart};

/// Where all of them go on.
pub(super) struct Prepared {
    pub(super) own: Option<OwnStart>,
    /// Of the feeds, in their order.
    pub(super) tapes: Vec<Tape>,
    pub(super) starts: Vec<Start>,
}

/// Recovers what is open, of feeds that are recorded no more too.
///
/// # Errors
/// That of a feed can't go on. Where it is the recorder's own it is left alone, and none is
/// written.
pub(super) fn prepare_tapes(
    storage: &dyn Storage,
    options: &RecorderOptions,
) -> anyhow::Result<Prepared> {
    let own_name = FeedName::own();
    let own = options.self_every.map(|every| (every, &own_name));
    let feeds = options.feeds.iter().map(FeedPlan::name);
    let recorded: Vec<_> = feeds.chain(own.map(|(_, name)| name)).collect();
    let names: HashSet<_> = recorded.iter().collect();
    assert_eq!(names.len(), recorded.len(), "names were checked to be different");
    let mut prepared = recovery::prepare_all(storage, &recorded);
    let own = own.and_then(|(every, name)| match prepared.pop().expect("it is the last") {
        Ok(start) => {
            Some(OwnStart { every, last_ts: start.last_ts, tape: tape(name, own::URL, &start) })
        }
        Err(error) => {
            log::error!("the recorder does not record itself: {error}");
            None
        }
    });
    let (mut tapes, mut starts) = (Vec::new(), Vec::new());
    for (feed, start) in options.feeds.iter().zip(prepared) {
        let start = start.map_err(anyhow::Error::msg)?;
        tapes.push(tape(feed.name(), &feed.url().to_string(), &start));
        starts.push(start);
    }
    recovery::finish_others(storage, &recorded);
    Ok(Prepared { own, tapes, starts })
}

fn tape(name: &FeedName, url: &str, start: &Start) -> Tape {
    Tape {
        name: name.clone(),
        url: url.to_string(),
        next_number: start.next_number,
        next_index: start.next_index,
        stats: Arc::default(),
    }
}
