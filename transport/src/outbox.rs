//! The send queue of one peer: slots leave in the order in which they were acquired.
//!
//! Owns the slots that are posted and not yet sent, and the places of those that are acquired and
//! not yet posted. Sending is left to `uring`, `epoll` and `verbs`.
//!
//! Invariant: entry `i` is the slot with ticket `first_ticket + i`. Bytes leave the front only, so
//! an acquired slot holds back everything acquired after it until it is posted or dropped.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::api::{Limits, SendRefusal};
use crate::pool::{Account, Pool, PoolSlot};

/// Slots under way to one peer, whatever their length.
const SLOTS_MAX: usize = 4096;

/// The sending half of one peer's stream.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    first_ticket: u64,
    /// Of the first entry.
    sent_bytes: usize,
    /// Flushes so far.
    flushes: u64,
    account: Rc<Account>,
}

#[derive(Debug)]
enum Entry {
    /// Given out, not yet posted.
    Acquired { bytes: usize },
    /// Given back unused.
    Unused,
    /// The first `bytes` bytes go out after flush number `flush`.
    Posted { slot: PoolSlot, bytes: usize, flush: u64 },
}

/// What an outbox had that was dissolved.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// Tickets and slots, in the order of acquisition.
    pub(crate) rest: VecDeque<(u64, Rest)>,
    /// At whose expense they are.
    pub(crate) account: Rc<Account>,
}

/// One slot of a dissolved outbox.
#[derive(Debug)]
pub(crate) enum Rest {
    /// Whoever acquired it still has it.
    Acquired { bytes: usize },
    /// To be sent.
    Posted { slot: PoolSlot, bytes: usize },
}

impl Outbox {
    /// A slot of at least `bytes` bytes, with the next place in the queue.
    pub(crate) fn acquire(
        &mut self,
        bytes: usize,
        pool: &Pool,
        limits: &Limits,
    ) -> Result<PoolSlot, SendRefusal> {
        let bytes_max = limits.message_bytes_max;
        if bytes > bytes_max {
            return Err(SendRefusal::TooLarge { bytes, bytes_max });
        }
        self.settle();
        if !self.has_credit(bytes, limits) {
            return Err(SendRefusal::NoCredit);
        }
        let mut slot = pool.take_for(bytes, &self.account).ok_or(SendRefusal::NoCredit)?;
        slot.set_ticket(self.first_ticket + self.entries.len() as u64);
        self.entries.push_back(Entry::Acquired { bytes });
        Ok(slot)
    }

    /// Whether the peer's limits leave room for a slot of `bytes` bytes.
    pub(crate) fn has_credit(&self, bytes: usize, limits: &Limits) -> bool {
        self.entries.len() < SLOTS_MAX && self.account.admits(bytes, limits.send_bytes_max)
    }

    /// Whether a slot was dropped that others may be waiting behind.
    pub(crate) fn has_unused(&self) -> bool {
        self.account.has_unused()
    }

    /// Takes a filled slot, of which the first `bytes` bytes are the message.
    ///
    /// Panics: if the slot is another peer's.
    pub(crate) fn post(&mut self, mut slot: PoolSlot, bytes: usize) {
        let ticket = slot.take_ticket(&self.account);
        let posted = Entry::Posted { slot, bytes, flush: self.flushes + 1 };
        *self.entry(ticket) = if bytes == 0 { Entry::Unused } else { posted };
    }

    /// Lets go of everything posted so far.
    pub(crate) fn flush(&mut self) {
        self.flushes += 1;
    }

    /// What is to be sent next, in order; empty if nothing is.
    pub(crate) fn ready(&mut self) -> impl Iterator<Item = &[u8]> {
        self.settle();
        let (mut skip_bytes, flushes) = (self.sent_bytes, self.flushes);
        self.entries.iter().filter(|entry| !matches!(entry, Entry::Unused)).map_while(
            move |entry| match entry {
                Entry::Posted { slot, bytes, flush } if *flush <= flushes => {
                    Some(&slot.bytes()[std::mem::take(&mut skip_bytes)..*bytes])
                }
                _ => None,
            },
        )
    }

    /// Takes `bytes` bytes off the front: they are sent.
    ///
    /// Panics: if less was ready.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let mut bytes_left = self.sent_bytes + bytes;
        loop {
            match self.entries.front() {
                Some(Entry::Posted { bytes, .. }) if *bytes <= bytes_left => bytes_left -= bytes,
                Some(Entry::Unused) => {}
                Some(Entry::Posted { .. }) => break,
                Some(Entry::Acquired { .. }) | None => {
                    assert_eq!(bytes_left, 0, "more was sent than was ready");
                    break;
                }
            }
            self.entries.pop_front();
            self.first_ticket += 1;
        }
        self.sent_bytes = bytes_left;
    }

    /// Length of the message that is next, if one is ready.
    pub(crate) fn next_bytes(&mut self) -> Option<usize> {
        self.settle();
        match self.entries.front() {
            Some(&Entry::Posted { bytes, flush, .. }) if flush <= self.flushes => Some(bytes),
            _ => None,
        }
    }

    /// Takes the next message off, whole; its account is charged until the slot is dropped.
    ///
    /// Panics: if none is ready.
    pub(crate) fn take_next(&mut self) -> (PoolSlot, usize) {
        let Some(Entry::Posted { slot, bytes, .. }) = self.entries.pop_front() else {
            panic!("nothing is ready");
        };
        self.first_ticket += 1;
        (slot, bytes)
    }

    /// Whether this slot was acquired here.
    pub(crate) fn is_of(&self, slot: &PoolSlot) -> bool {
        slot.is_charged_to(&self.account)
    }

    /// All that was acquired here and not sent, in order, each with its ticket.
    pub(crate) fn dissolve(mut self) -> Unsent {
        self.settle();
        let tickets = self.first_ticket..;
        let rest = tickets.zip(self.entries).filter_map(|(ticket, entry)| match entry {
            Entry::Unused => None,
            Entry::Acquired { bytes } => Some((ticket, Rest::Acquired { bytes })),
            Entry::Posted { slot, bytes, .. } => Some((ticket, Rest::Posted { slot, bytes })),
        });
        Unsent { rest: rest.collect(), account: self.account }
    }

    /// Finds the places of the slots that were dropped, and drops those at the front.
    fn settle(&mut self) {
        while let Some(ticket) = self.account.unused() {
            *self.entry(ticket) = Entry::Unused;
        }
        while matches!(self.entries.front(), Some(Entry::Unused)) {
            self.entries.pop_front();
            self.first_ticket += 1;
        }
    }

    fn entry(&mut self, ticket: u64) -> &mut Entry {
        let index = usize::try_from(ticket - self.first_ticket).expect("at most `SLOTS_MAX`");
        let entry = &mut self.entries[index];
        assert!(matches!(entry, Entry::Acquired { .. }), "ticket {ticket} was used twice");
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { message_bytes_max: 1000, send_bytes_max: 2500, recv_bytes_max: 0, spin_ns: 0 };

    fn acquire(outbox: &mut Outbox, pool: &Pool, mark: u8) -> PoolSlot {
        let mut slot = outbox.acquire(100, pool, &LIMITS).unwrap();
        slot.bytes_mut().fill(mark);
        slot
    }

    fn marks(outbox: &mut Outbox) -> Vec<u8> {
        outbox.ready().map(|bytes| bytes[0]).collect()
    }

    #[test]
    fn slots_leave_in_the_order_of_acquire_and_dropped_ones_hold_nothing_back() {
        let (pool, mut outbox) = (Pool::new(&LIMITS).unwrap(), Outbox::default());
        let slots: Vec<PoolSlot> = (0..5).map(|mark| acquire(&mut outbox, &pool, mark)).collect();
        let [zero, one, two, three, four] = <[PoolSlot; 5]>::try_from(slots).unwrap();
        outbox.post(four, 100);
        outbox.post(one, 100);
        outbox.flush();
        assert!(marks(&mut outbox).is_empty());
        drop(zero);
        assert_eq!(marks(&mut outbox), [1]);
        drop(two);
        assert_eq!(marks(&mut outbox), [1]);
        outbox.post(three, 100);
        assert_eq!(marks(&mut outbox), [1], "three is not flushed");
        outbox.flush();
        assert_eq!(marks(&mut outbox), [1, 3, 4]);
        outbox.sent(150);
        assert_eq!(outbox.ready().map(<[u8]>::len).collect::<Vec<_>>(), [50, 100]);
        outbox.sent(150);
        assert_eq!(outbox.ready().count(), 0);
        assert!(outbox.entries.is_empty());
    }

    #[test]
    fn a_peer_has_credit_for_its_limit_and_gets_it_back_when_bytes_are_sent() {
        let (pool, mut outbox) = (Pool::new(&LIMITS).unwrap(), Outbox::default());
        let too_large = SendRefusal::TooLarge { bytes: 1001, bytes_max: 1000 };
        assert_eq!(outbox.acquire(1001, &pool, &LIMITS).unwrap_err(), too_large);
        for _ in 0..2 {
            let slot = outbox.acquire(1000, &pool, &LIMITS).unwrap();
            outbox.post(slot, 1000);
        }
        assert_eq!(outbox.acquire(501, &pool, &LIMITS).unwrap_err(), SendRefusal::NoCredit);
        outbox.flush();
        assert_eq!(outbox.ready().count(), 2);
        outbox.sent(1000);
        assert!(outbox.acquire(501, &pool, &LIMITS).is_ok());
    }

    #[test]
    fn as_many_slots_are_under_way_as_the_bound_says_and_no_more() {
        let limits = Limits { send_bytes_max: usize::MAX, ..LIMITS };
        let (pool, mut outbox) = (Pool::new(&limits).unwrap(), Outbox::default());
        let slots: Vec<PoolSlot> =
            std::iter::from_fn(|| outbox.acquire(64, &pool, &limits).ok()).collect();
        assert_eq!(slots.len(), SLOTS_MAX);
        drop(slots);
        assert!(outbox.acquire(64, &pool, &limits).is_ok());
    }
}
