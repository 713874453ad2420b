//! What all the figures come to: the one that the kernel kills by, how far it is from the limit,
//! and what can be taken back before.

use super::facts::Facts;
use crate::memory::cgroup::Usage;
use crate::units::format_size;

/// The verdict, in sentences.
pub(super) fn verdict(facts: &Facts) -> String {
    let machine = match facts.available {
        Some(available) => format!("{} are available on the machine", format_size(available)),
        None => "what is available on the machine can't be told".to_string(),
    };
    let within = match &facts.group {
        Ok(within) => within,
        Err(why) => return format!("The cgroup is not known ({why}); {machine}."),
    };
    let Some(limit) = &within.limit else {
        return format!(
            "No limit is set: the OOM killer acts only when the whole machine has no memory left. \
             {}.",
            capital(&machine)
        );
    };
    let usage = &within.usage;
    let Some(used) = limit.usage.or(usage.usage) else {
        return "The usage of the cgroup is not known.".to_string();
    };
    let back = reclaimable(usage).min(used);
    let rest = used - back;
    let per_cent = rest.saturating_mul(100) / limit.bytes.max(1);
    let worry = match per_cent {
        0..70 => "No reason to worry.",
        70..90 => "That is close: watch it.",
        _ => "WORRY: the next growth may get a process killed.",
    };
    let killed = match usage.oom_kills {
        Some(kills) if kills > 0 => format!(" The limit has killed {kills} processes before."),
        _ => String::new(),
    };
    format!(
        "The OOM killer looks at the cgroup's usage: {} of {}, {} to go. Before it kills, the \
         kernel takes back up to {} (page cache that is on the disk); {} stay, {per_cent} % of the \
         limit. {worry}{killed}",
        format_size(used),
        format_size(limit.bytes),
        format_size(limit.bytes.saturating_sub(used)),
        format_size(back),
        format_size(rest),
    )
}

/// What of the usage the kernel can take back without swapping and without waiting for the disk.
fn reclaimable(usage: &Usage) -> u64 {
    let kept = [usage.shmem, usage.dirty, usage.writeback];
    let kept = kept.into_iter().flatten().fold(0, u64::saturating_add);
    let cache = usage.file.unwrap_or_default().saturating_sub(kept);
    cache.saturating_add(usage.slab_reclaimable.unwrap_or_default())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
