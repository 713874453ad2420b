//! What an operator orders through the admin endpoint, as the main thread does it.
//!
//! Owns the orders that take a while: a pause is done once the last feed has closed its connection
//! and written that it is paused, what it had is with the kernel, and its buffers went back to the
//! system. Each order is answered once, by its deadline at the latest.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Event, Recorder, Reload};
use crate::admin::order::{Ask, ORDERS_MAX, Order, Refusal, Reply};
use crate::block::FeedId;
use crate::feed::Command;
use crate::memory::allocator;
use crate::units::format_size;

/// Feeds close within a second; one that waits for the disk does not.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// While feeds close it is looked this often whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Orders that came, and those that are being done.
pub(super) struct Orders {
    received: Receiver<Order>,
    pausing: Vec<Pausing>,
}

struct Pausing {
    ids: Vec<FeedId>,
    is_all: bool,
    by: Instant,
    reply: Reply,
}

impl Orders {
    /// With the way to send some: `false` where there are too many.
    pub(super) fn new(events: Sender<Event>) -> (Orders, impl Fn(Order) -> bool + Send + use<>) {
        let (orders, received) = bounded(ORDERS_MAX);
        let send = move |order| {
            let sent = orders.try_send(order).is_ok();
            // Full: the main thread has events to look at, and looks at orders then.
            let _ = events.try_send(Event::Ordered);
            sent
        };
        (Orders { received, pausing: Vec::new() }, send)
    }

    /// How soon the main thread should look again.
    pub(super) fn look_every(&self) -> Option<Duration> {
        (!self.pausing.is_empty()).then_some(LOOK_EVERY)
    }
}

impl Recorder {
    /// Does what was ordered, and answers what is done.
    pub(super) fn follow_orders(&mut self, reload: &mut Reload<'_>) {
        while let Ok(order) = self.orders.received.try_recv() {
            self.follow(order, reload);
        }
        for pausing in std::mem::take(&mut self.orders.pausing) {
            self.look_at_pausing(pausing);
        }
    }

    fn follow(&mut self, Order { ask, reply }: Order, reload: &mut Reload<'_>) {
        log::info!("admin: ordered to {ask}");
        let done = match ask {
            Ask::Pause(name) => match self.feeds.pause(name.as_ref()) {
                Ok(ids) => {
                    let (is_all, by) = (name.is_none(), Instant::now() + PAUSE_MAX);
                    self.orders.pausing.push(Pausing { ids, is_all, by, reply });
                    return;
                }
                Err(refusal) => Err(refusal),
            },
            Ask::Resume(name) => {
                self.feeds.unpause(name.as_ref()).map(|n| format!("{n} feeds go on"))
            }
            Ask::Reconnect(name) => {
                self.feeds.reconnect(&name).map(|()| format!("{name} connects anew"))
            }
            Ask::Rotate => {
                self.rotate();
                Ok("every feed begins a new segment".to_string())
            }
            Ask::Reload => {
                self.reload(reload).map_err(|error| Refusal::Conflict(format!("{error:#}")))
            }
        };
        reply.send(done);
    }

    pub(super) fn rotate(&self) {
        self.feeds.tell_all(&Command::Rotate);
    }

    fn look_at_pausing(&mut self, pausing: Pausing) {
        let open = self.feeds.still_pausing(&pausing.ids);
        let blocks = if pausing.is_all { self.pool.blocks_out() } else { 0 };
        if open.is_empty() && blocks == 0 {
            let given_back = self.give_memory_back();
            let n = pausing.ids.len();
            let text = format!("{n} feeds are paused; {} given back", format_size(given_back));
            log::info!("admin: {text}");
            pausing.reply.send(Ok(text));
        } else if Instant::now() >= pausing.by {
            let names: Vec<&str> = open.iter().map(|name| name.as_str()).collect();
            let what = match names.is_empty() {
                true => format!("all are paused, but {blocks} blocks still wait for the disk"),
                false => format!("told to pause, and not done yet: {}", names.join(", ")),
            };
            pausing.reply.send(Err(Refusal::Unavailable(what)));
        } else {
            self.orders.pausing.push(pausing);
        }
    }

    /// Buffers that nobody needs go back to the system; the bytes of them.
    fn give_memory_back(&self) -> u64 {
        let bytes = self.pool.free_unused();
        allocator::give_back();
        bytes as u64
    }
}
