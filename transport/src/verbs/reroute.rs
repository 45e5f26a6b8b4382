//! What a broken lane leaves unsent: it goes over TCP, in the order in which it was acquired.
//!
//! Owns the slots of one generation that the peer did not take. Slots that their owner still has
//! get a stand-in, a slot of the TCP link acquired in their turn; what is written in the one is
//! copied to the other when it is posted.
//!
//! Invariant: slots leave `rest` from the front only, each for a slot of the TCP link, which sends
//! in the order of acquisition.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::api::{PeerId, SendRefusal, Transport};
use crate::outbox::{Outbox, Rest};
use crate::pool::{Account, PoolSlot};
use crate::slot::SendSlot;

/// Tickets of slots that were posted long ago: nobody asks for them.
const POSTED: u64 = u64::MAX;

/// The unsent slots of one generation.
#[derive(Debug)]
pub(super) struct Reroute {
    rest: VecDeque<(u64, Rest)>,
    account: Rc<Account>,
    stand_ins: Vec<(u64, SendSlot)>,
}

/// How far a reroute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The TCP link has no credit.
    Waits,
    /// Each slot has its place on the TCP link; some may still be with their owners.
    Placed,
}

impl Reroute {
    /// Of messages that were sent and not taken, oldest first, and of all behind them.
    pub(super) fn new(sent: impl Iterator<Item = (PoolSlot, usize)>, outbox: Outbox) -> Reroute {
        let unsent = outbox.dissolve();
        let mut rest: VecDeque<_> =
            sent.map(|(slot, bytes)| (POSTED, Rest::Posted { slot, bytes })).collect();
        rest.extend(unsent.rest);
        Reroute { rest, account: unsent.account, stand_ins: Vec::new() }
    }

    /// Whether this slot was acquired in this generation.
    pub(super) fn has(&self, slot: &PoolSlot) -> bool {
        slot.is_charged_to(&self.account)
    }

    /// Takes a slot that its owner posts at last.
    pub(super) fn post(&mut self, mut slot: PoolSlot, bytes: usize, link: &mut dyn Transport) {
        let ticket = slot.take_ticket(&self.account);
        if let Some(at) = self.stand_ins.iter().position(|&(known, _)| known == ticket) {
            let (_, stand_in) = self.stand_ins.swap_remove(at);
            send(&slot, bytes, stand_in, link);
        } else if let Some(entry) = self.rest.iter_mut().find(|(known, _)| *known == ticket) {
            *entry = (POSTED, Rest::Posted { slot, bytes });
        }
    }

    /// Finds places on the link for as many slots as it has credit for.
    pub(super) fn go_on(&mut self, peer: PeerId, link: &mut dyn Transport) -> Progress {
        while let Some(ticket) = self.account.unused() {
            self.stand_ins.retain(|&(known, _)| known != ticket);
            self.rest.retain(|&(known, _)| known != ticket);
        }
        while let Some((ticket, rest)) = self.rest.pop_front() {
            let bytes = match &rest {
                Rest::Acquired { bytes } | Rest::Posted { bytes, .. } => *bytes,
            };
            match (link.acquire(peer, bytes), rest) {
                (Ok(place), Rest::Posted { slot, bytes }) => send(&slot, bytes, place, link),
                (Ok(place), Rest::Acquired { .. }) => self.stand_ins.push((ticket, place)),
                (Err(SendRefusal::NoCredit), rest) => {
                    self.rest.push_front((ticket, rest));
                    return Progress::Waits;
                }
                // The connection is over, and its event on the way.
                (Err(SendRefusal::NoSuchPeer | SendRefusal::TooLarge { .. }), _) => {}
            }
        }
        Progress::Placed
    }

    /// Whether a slot was dropped whose place others may be waiting behind.
    pub(super) fn has_unused(&self) -> bool {
        self.account.has_unused()
    }

    /// Whether nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty() && self.stand_ins.is_empty()
    }
}

/// Copies the message of a slot to its place, and posts it; one that was cut to nothing is none.
fn send(slot: &PoolSlot, bytes: usize, mut place: SendSlot, link: &mut dyn Transport) {
    if bytes == 0 {
        return link.cancel(place);
    }
    place.truncate(bytes);
    place.bytes_mut().copy_from_slice(&slot.bytes()[..bytes]);
    link.post(place);
}
