//! All that can be seen of a queue from outside, without opening it.

use std::sync::Arc;

use super::handle::{ENDS_WITH_PRODUCERS, MessageType, OPTIONS, VERSION, geometry, max_deliveries};
use super::{Geometry, Look, Numbers, Queue};
use crate::error::{Error, Result};
use crate::object::{BODY, Glimpse, QUEUE};
use crate::owner::Owner;

/// A queue as it was found; what changes was read at different moments.
#[derive(Debug)]
pub struct Overview {
    /// How capacity is divided.
    pub geometry: Geometry,
    /// What the messages are.
    pub message_type: MessageType,
    /// How often a message is handed out before it is given up.
    pub max_deliveries: u32,
    /// Whether the queue ends when its last producer is gone.
    pub ends_with_producers: bool,
    /// Whether no message is accepted any more.
    pub shut: bool,
    /// Counts. What the dead had on lease counts as leased until somebody gives it back.
    pub numbers: Numbers,
    /// Messages in the ring of each level.
    pub depths: Vec<u64>,
    /// How much of the capacity is taken, 0 to 1.
    pub fill: f64,
    /// Who is inside the producers' and the consumers' critical section.
    pub inside: [Owner; 2],
    /// The messages, or why they cannot be read.
    pub look: Result<Look>,
}

impl Overview {
    /// Looks at a queue of this layout version, and at up to `limit` of its messages with up to `bytes` of each.
    pub fn of(glimpse: &Glimpse, limit: usize, bytes: usize) -> Result<Overview> {
        let listing = glimpse.listing();
        if (listing.kind, listing.version) != (QUEUE, VERSION) {
            return Err(Error::Incompatible(format!(
                "{} is no queue of layout version {VERSION}",
                listing.name
            )));
        }
        let attributes = &listing.attributes;
        let geometry = geometry(attributes)?;
        let size = BODY + geometry.body_size();
        let Some(memory) = glimpse.memory(size).filter(|_| listing.size == size as u64) else {
            return Err(Error::Corrupt(format!(
                "a queue of capacity {} takes {size} bytes, this file has {}",
                geometry.capacity, listing.size
            )));
        };
        let deliveries = max_deliveries(attributes);
        // Only asked what loads: the memory cannot be written to.
        let queue = Queue::new(memory, Arc::clone(glimpse.registry()), BODY, geometry, deliveries);
        Ok(Overview {
            geometry,
            message_type: MessageType::read(attributes),
            max_deliveries: deliveries,
            ends_with_producers: attributes[OPTIONS] & ENDS_WITH_PRODUCERS != 0,
            shut: queue.is_shut(),
            numbers: queue.numbers(),
            depths: queue.depths(),
            fill: queue.fill(),
            inside: queue.lock_owners(),
            look: queue.peek(limit, bytes),
        })
    }
}
