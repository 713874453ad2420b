//! Reading the options again, at SIGHUP or when it is ordered.
//!
//! Owns what of new options counts at once: the feeds. Those of the recorder itself count from the
//! next start.

use std::time::Duration;

use anyhow::anyhow;

use super::feeds::Changes;
use super::{Recorder, Reload};
use crate::config::RecorderOptions;
use crate::service;

/// While it reads the options again and looks at new feeds' folders, nobody feeds the watchdog: the
/// disk may take so long.
const RELOAD_MAX: Duration = Duration::from_mins(10);

impl Recorder {
    /// Reads the options again. What is wrong with them changes nothing. It logs how it went, and
    /// says it.
    pub(super) fn reload(&mut self, reload: &mut Reload<'_>) -> anyhow::Result<String> {
        if self.is_ready {
            service::reloading();
        }
        service::watchdog_within(RELOAD_MAX);
        let changed = match reload() {
            Some(Ok(options)) => self.change_options(options),
            Some(Err(mistakes)) => {
                mistakes.iter().for_each(|mistake| log::error!("{mistake}"));
                let count = format!("{} mistakes in the options", mistakes.len());
                Err(anyhow!(mistakes.join("; ")).context(count))
            }
            None => Err(anyhow!("options of the command line can't be reloaded; use --config")),
        };
        let done = changed.map(|Changes { added, removed, changed, unchanged }| {
            format!(
                "reloaded: {added} feeds added, {removed} removed, {changed} changed, {unchanged} \
                 as they were"
            )
        });
        match &done {
            Ok(text) => log::info!("{text}"),
            // The mistakes stand above.
            Err(error) => log::error!("not reloaded, all goes on as it was: {error}"),
        }
        service::watchdog_as_before();
        if self.is_ready {
            service::ready(&self.status());
        }
        done
    }

    fn change_options(&mut self, mut options: RecorderOptions) -> anyhow::Result<Changes> {
        let plans = std::mem::take(&mut options.feeds);
        self.network.connectors.forget();
        let changes = self.feeds.change(plans.clone())?;
        self.options.feeds = Vec::new();
        if options.memory.is_some() {
            // Settled at the start: the pool is not made anew.
            options.queue_bytes = self.options.queue_bytes;
        }
        if self.options != options {
            log::warn!(
                "options of the recorder itself have changed too: they count from the next start"
            );
        }
        self.options.feeds = plans;
        Ok(changes)
    }
}
