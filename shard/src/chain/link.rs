//! The link to a successor: what is sent to it, and what it says that it has.
//!
//! Owns where the link stands. What is sent is the log's; what fills a successor is left to `fill`.

use wire::{Epoch, Flags, Header, Holds, Kind, Message, Seal, Time};

use kernels::crc32c::crc32c;

use super::log::Part;
use super::{LEASE, Notice, PROMISE, Replica, SILENCE_MAX};
use crate::answer::Outbox;

/// Words that a follower says while it waits for the tail, in the time that would be silence.
const WORDS_A_SILENCE: u32 = 4;

/// The server behind this one.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) holds: Holds,
    link: Option<Link>,
}

/// A link whose handshake is over.
#[derive(Debug)]
struct Link {
    /// Whether the successor has said what it has.
    has_begun: bool,
    /// The number of the next message; none before it is known.
    next: Option<u64>,
    /// The number of the last message that it has.
    received: u64,
    /// When it last said something new, or had nothing to say.
    heard: Time,
}

impl Successor {
    /// One to which there is no link yet.
    pub(super) fn new(holds: Holds) -> Successor {
        Successor { holds, link: None }
    }

    /// When it has been silent for too long.
    ///
    /// - `keeps`: whether there are messages that nobody has acknowledged.
    pub(super) fn silent_at(&self, keeps: bool) -> Option<Time> {
        let link = self.link.as_ref()?;
        let owes = !link.has_begun || link.next.is_some() && keeps;
        owes.then_some(link.heard + SILENCE_MAX)
    }
}

impl<S> Replica<S> {
    /// There is a link to the successor, of this epoch: it speaks first.
    pub fn successor_linked(&mut self, now: Time) {
        if let Some(successor) = &mut self.successor {
            successor.link = Some(Link { has_begun: false, next: None, received: 0, heard: now });
        }
    }

    /// The link to the successor is over.
    pub fn successor_gone(&mut self) {
        if let Some(successor) = &mut self.successor {
            successor.link = None;
        }
        self.log.let_go(); // It may be long until there is another one.
    }

    /// Whether a successor is sent what is appended now, and is there to have it.
    pub(super) fn is_successor_there(&self) -> bool {
        let link = self.successor.as_ref().and_then(|successor| successor.link.as_ref());
        link.is_some_and(|link| link.next.is_some())
    }

    /// The number of the last message that the successor is known to have.
    pub(super) fn successor_received(&self) -> u64 {
        let link = self.successor.as_ref().and_then(|successor| successor.link.as_ref());
        link.map_or(0, |link| link.received)
    }

    /// Whether the successor has spoken over its link.
    pub fn hears_successor(&self) -> bool {
        let link = self.successor.as_ref().and_then(|successor| successor.link.as_ref());
        link.is_some_and(|link| link.has_begun)
    }

    /// Takes in what the successor says.
    ///
    /// - Result: whether the link may go on.
    pub fn hear_successor(&mut self, now: Time, bytes: &[u8]) -> bool {
        let isa = self.shard.isa;
        let word = match wire::open(bytes, |bytes| crc32c(isa, 0, bytes)) {
            Ok((word, Message::Applied)) => word,
            _ => return false,
        };
        let (received, acknowledged) = (word.sequence().get(), word.clock().get());
        let Some(successor) = &mut self.successor else { return false };
        let holds = successor.holds;
        let Some(link) = &mut successor.link else { return false };
        let stale_is_taken = self.mutation == crate::Mutation::StaleEpochsTaken;
        if word.epoch() != self.shard.epoch && !stale_is_taken {
            return false;
        }
        if !link.has_begun {
            return self.begin_link(now, received) && self.hear_successor(now, bytes);
        }
        if link.next.is_none() {
            return true;
        }
        if received > self.log.last() || acknowledged > self.position {
            return false;
        }
        let is_new = received > link.received || acknowledged > self.acknowledged;
        if is_new || self.log.last() == received {
            (link.received, link.heard) = (link.received.max(received), now);
        }
        if word.flags().has(Flags::MORE) {
            link.next = Some((link.received + 1).max(self.log.first()));
        }
        let acknowledged = match holds {
            Holds::Everything => acknowledged,
            Holds::Part => self.filled_upto(received),
        };
        self.forget_upto(received, acknowledged, holds);
        true
    }

    /// The successor's first word: what it has, after which the link goes on.
    fn begin_link(&mut self, now: Time, received: u64) -> bool {
        let Some(holds) = self.successor.as_ref().map(|successor| successor.holds) else {
            return false;
        };
        let knows = received + 1 >= self.log.first() && received <= self.log.last();
        let next = match holds {
            Holds::Everything if !knows => {
                self.notices.push(Notice::SuccessorUnfit);
                return false;
            }
            Holds::Part if self.filling.is_none() || !knows => {
                self.end_filling();
                self.acknowledge_own();
                None // Once filling begins.
            }
            _ => Some(received + 1),
        };
        let link = self.successor.as_mut().and_then(|successor| successor.link.as_mut());
        if let Some(link) = link {
            *link = Link { has_begun: true, next, received, heard: now };
        }
        true
    }

    /// Begins to fill the successor, if it is there and no long operation is on its way here: its
    /// first pieces would be missing.
    fn begin_owed_filling(&mut self) {
        let begun = |it: &Successor| it.link.as_ref().is_some_and(|it| it.has_begun);
        let is_there = self.successor.as_ref().is_some_and(begun);
        if !is_there || !self.owes_filling() || self.following.is_amid_pieces() {
            return;
        }
        if !self.begin_filling() {
            self.successor = None;
            return;
        }
        let first = self.log.first();
        let link = self.successor.as_mut().and_then(|successor| successor.link.as_mut());
        if let Some(link) = link {
            (link.next, link.received) = (Some(first), first - 1);
        }
    }

    /// The successor has this many messages, and the tail so many operations.
    fn forget_upto(&mut self, received: u64, acknowledged: u64, holds: Holds) {
        // What the tail lacks is kept: the successor may be gone before it has passed that on.
        let upto = match holds {
            Holds::Everything => acknowledged,
            Holds::Part => received,
        };
        let first_sent = self.log.received(upto);
        if self.needs_successor() && acknowledged >= self.acknowledged {
            self.acknowledged = acknowledged.min(self.position);
            self.proven = self.proven.max(first_sent);
            self.right_until = self.right_until.max(first_sent.map(|sent| sent + LEASE));
        }
        self.acknowledge_own();
    }

    /// Adds an operation that changes nothing, if answers wait for an acknowledgement, or will, and
    /// nothing else will bring one.
    pub(super) fn prove(&mut self) {
        // The first holds up all others; the last may be in need later than it, or not at all.
        let ends = [self.held.front(), self.held.back()];
        let waits = ends.into_iter().flatten().any(|held| self.lacks_proof(held.proof));
        let is_due = waits || self.wants_renewal;
        if is_due && self.log.is_empty() && self.needs_successor() {
            self.wants_renewal = false;
            let nothing = Header::new(Kind::Nothing);
            self.position += self.log.append(nothing, [&[], &[]], Part::Operation);
            self.acknowledge_own();
        }
    }

    /// Sends what the successor has not been sent, as far as there is room.
    ///
    /// - `now`: no later than any of it goes.
    /// - Result: whether there is more to do at once.
    pub fn forward<O: Outbox>(&mut self, now: Time, outbox: &mut O) -> bool {
        self.begin_owed_filling();
        self.prove();
        let fills = self.fill();
        let (isa, epoch) = (self.shard.isa, self.shard.epoch.get());
        let link = self.successor.as_mut().and_then(|successor| successor.link.as_mut());
        let Some(link) = link else { return false };
        let Some(next) = &mut link.next else { return false };
        if self.log.is_empty() {
            return fills;
        }
        if link.received + 1 == *next && self.log.get(*next).is_some() {
            link.heard = now; // It had nothing to say.
        }
        while let Some(entry) = self.log.get(*next) {
            let Some(mut slot) = outbox.acquire(entry.message_bytes()) else { return false };
            entry.write(O::bytes_mut(&mut slot), *next, epoch, outbox.seal(), isa);
            entry.first_sent.get_or_insert(now);
            outbox.post(slot);
            *next += 1;
        }
        fills
    }

    /// Whether the successor has been silent for too long: its link must be ended then.
    pub fn is_successor_silent(&self, now: Time) -> bool {
        let silent = self.successor.as_ref().and_then(|it| it.silent_at(!self.log.is_empty()));
        silent.is_some_and(|silent| now >= silent)
    }

    /// The word to the predecessor, if there is something new to say; saying it is a promise.
    pub fn word<O: Outbox>(&mut self, now: Time, outbox: &mut O) {
        let said = self.following.said;
        let is_new = said != Some((self.following.received, self.acknowledged));
        // The chain goes on though the tail is slow: the predecessor is to know.
        let repeats = self.word_due().is_some_and(|due| now >= due);
        let has_word = is_new || repeats || self.following.owes_word;
        if !self.following.is_linked || !has_word {
            return;
        }
        let Some(mut slot) = outbox.acquire(crate::answer::REPLY_BYTES) else { return };
        let misses = std::mem::take(&mut self.following.misses);
        let flags = if misses { Flags::MORE } else { Flags::NONE };
        let word = Header {
            flags: flags.get(),
            epoch: self.shard.epoch.get(),
            sequence: self.following.received,
            clock: self.acknowledged,
            ..Header::new(Kind::Applied)
        };
        let isa = self.shard.isa;
        wire::seal(O::bytes_mut(&mut slot), word, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
        outbox.post(slot);
        self.following.said = Some((self.following.received, self.acknowledged));
        (self.following.owes_word, self.following.said_at) = (false, Some(now));
        self.promised_until = Some(now + PROMISE);
    }

    /// When the predecessor is told again what it has been told.
    pub(super) fn word_due(&self) -> Option<Time> {
        let waits = self.following.is_linked && self.position > self.acknowledged;
        let said_at = self.following.said_at.filter(|_| waits)?;
        Some(said_at + SILENCE_MAX / WORDS_A_SILENCE)
    }

    /// A link from a predecessor has begun. Whether it is of this epoch, and wanted.
    pub fn predecessor_linked(&mut self, epoch: Epoch) -> bool {
        let follows = matches!(self.role, super::Role::Follower | super::Role::Joining);
        let stale = self.mutation == crate::Mutation::StaleEpochsTaken;
        if !stale && (!follows || epoch != self.shard.epoch) {
            return false;
        }
        self.following.begin_link();
        true
    }

    /// The link from the predecessor is over.
    pub fn predecessor_gone(&mut self) {
        self.following.is_linked = false;
    }
}
