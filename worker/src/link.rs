//! The link to one shard: numbers given, requests unanswered, credit left.
//!
//! Owns the two number spaces. Pushes count 1, 2, 3 without gaps, since the shard applies each
//! number once; everything else may be asked twice and counts from the highest bit on, so that
//! an answer's number alone says which request it answers.
//!
//! Invariant: a request lies in its window from its number on until its answer. Those of one
//! window are sent in the order of their numbers, so the unsent ones are its last.

use std::collections::VecDeque;
use std::time::Duration;

use transport::{Fault, PeerId};
use wire::{Clock, Epoch, Header, Joined, Kind, Sequence, Time};

use crate::codec::Dictionary;
use crate::error::{Asked, WorkerError};
use crate::kept::Kept;
use crate::request::{Origin, Reliance, Request};

/// The highest bit: set in the numbers of all requests but pushes.
const OTHERS_FIRST: u64 = 1 << 63;

/// Requests in flight on one shard before it has said how many it takes.
const CREDIT_FIRST: usize = 32;

/// Requests of one shard that are unanswered, sent or not.
pub(crate) const REQUESTS_MAX: usize = 4096;

/// The link to one shard.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) server: String,
    /// The epoch that the shard serves at, as far as is known here.
    pub(crate) epoch: Epoch,
    pub(crate) pushes: Window,
    pub(crate) others: Window,
    /// Pushes that are answered, and that another head may lack.
    pub(crate) kept: Kept,
    /// The numbers that the shard has learned for this worker's keys.
    pub(crate) numbers: Dictionary,
    /// How many requests the shard takes before it answers one.
    credit: usize,
    /// When the last readable message came.
    pub(crate) heard_at: Time,
    /// Messages in a row that were damaged on the way.
    pub(crate) damaged_in_a_row: u32,
    /// Bytes of received slots that wait for their reader.
    pub(crate) held_bytes: usize,
    pub(crate) clock_slowest: Clock,
    /// This worker's clock here when it joined: what its lives before have finished.
    clock_joined: Clock,
    pub(crate) lost: Option<Lost>,
}

/// Why nothing more comes over a link. Its requests wait for another one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lost {
    /// The link is over.
    Fault(Fault),
    /// The server did not answer for so long.
    Silent(Asked, Duration),
    /// The shard is at another epoch there.
    Moved { there: Epoch },
}

impl Link {
    pub(crate) fn new(peer: PeerId, server: String, epoch: Epoch, now: Time) -> Link {
        Link {
            peer,
            server,
            epoch,
            pushes: Window::new(1),
            others: Window::new(OTHERS_FIRST),
            kept: Kept::default(),
            numbers: Dictionary::default(),
            credit: CREDIT_FIRST,
            heard_at: now,
            damaged_in_a_row: 0,
            held_bytes: 0,
            clock_slowest: Clock::new(0),
            clock_joined: Clock::new(0),
            lost: None,
        }
    }

    /// Gives `request` its number and puts it at the end of the unsent ones.
    pub(crate) fn admit(&mut self, mut request: Request) {
        let window = match request.header.kind() {
            Kind::Push => &mut self.pushes,
            _ => &mut self.others,
        };
        let sequence = window.next();
        request.header.sequence = sequence.get();
        request.header.epoch = self.epoch.get();
        window.requests.push_back(Some(request));
        window.open += 1;
    }

    /// Takes up this worker's place on the shard, as its lives before left it: pushes count on from
    /// the last one that ticked. Of a session that has pushed already nothing changes.
    pub(crate) fn take_place(&mut self, joined: Joined) {
        if self.pushes.next().get() == 1 {
            self.clock_joined = Clock::new(joined.clock);
            self.pushes = Window::new(joined.tick_sequence + 1);
        }
    }

    /// This worker's clock here when it joined.
    pub(crate) fn clock_joined(&self) -> Clock {
        self.clock_joined
    }

    /// The clock of the oldest push that is not answered.
    pub(crate) fn clock_unanswered(&self) -> Option<Clock> {
        self.pushes.requests.front().and_then(Option::as_ref).map(|push| push.header.clock())
    }

    /// How many requests of one window may be in flight. Each has half of the credit: pulls that
    /// wait at the shard for this worker's own tick must not keep that tick from being sent.
    pub(crate) fn in_flight_max(&self) -> usize {
        (self.credit / 2).max(1)
    }

    /// Whether something waits to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        self.pushes.has_unsent() || self.others.has_unsent()
    }

    /// How many requests are unanswered.
    pub(crate) fn open(&self) -> usize {
        self.pushes.open + self.others.open
    }

    /// The unanswered request of this number.
    pub(crate) fn find(&mut self, sequence: Sequence) -> Option<&mut Request> {
        self.window(sequence).find(sequence)
    }

    /// Takes the unanswered request of this number out: it is answered, or no longer wanted.
    pub(crate) fn take(&mut self, sequence: Sequence) -> Option<Request> {
        self.window(sequence).take(sequence)
    }

    /// When the oldest unanswered request that is no push was asked.
    pub(crate) fn first_asked_at(&self) -> Option<Time> {
        self.others.requests.iter().flatten().next().map(|request| request.first_at)
    }

    /// Takes the oldest unanswered request out that is no push.
    pub(crate) fn take_first(&mut self) -> Option<Request> {
        self.others.take(Sequence::new(self.others.first))
    }

    /// Takes out what nobody waits for any more.
    pub(crate) fn forget(&mut self, origin: Origin) {
        let first = self.others.first;
        let known = self.others.requests.len() as u64;
        for sequence in (first..first + known).map(Sequence::new) {
            if self.find(sequence).is_some_and(|request| request.origin == origin) {
                drop(self.take(sequence));
            }
        }
    }

    /// Takes a new way to the same shard: everything unanswered, or kept, is as if it was never
    /// sent. How many were kept.
    pub(crate) fn renew(&mut self, peer: PeerId, epoch: Epoch, now: Time) -> usize {
        let kept = self.kept.take_all();
        let again = kept.len();
        for request in kept {
            self.pushes.put_back(Request { first_at: now, ..request });
        }
        (self.peer, self.epoch) = (peer, epoch);
        self.lost = None;
        self.heard_at = now;
        self.held_bytes = 0;
        self.damaged_in_a_row = 0;
        self.pushes.unsend(epoch);
        self.others.unsend(epoch);
        // What has come of the numbers told before is not known.
        self.numbers.restart();
        again
    }

    /// What the loss of this link is to a caller.
    pub(crate) fn error_of(&self, lost: &Lost) -> WorkerError {
        let server = self.server.clone();
        match lost.clone() {
            Lost::Fault(fault) => WorkerError::ServerLost { server, fault },
            Lost::Silent(asked, silence) => WorkerError::Silent { server, asked, silence },
            Lost::Moved { there } => WorkerError::Moved { server, ours: self.epoch, theirs: there },
        }
    }

    /// Every unanswered request.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.pushes.requests.iter().chain(&self.others.requests).flatten()
    }

    /// Notes what every answer tells.
    pub(crate) fn note_answer(&mut self, header: &Header, now: Time) {
        self.heard_at = now;
        self.damaged_in_a_row = 0;
        if header.credit > 0 {
            self.credit = usize::from(header.credit);
        }
    }

    fn window(&mut self, sequence: Sequence) -> &mut Window {
        if sequence.get() >= OTHERS_FIRST { &mut self.others } else { &mut self.pushes }
    }
}

/// Unanswered requests of one number space, the oldest first.
pub(crate) struct Window {
    /// Number of the first place.
    first: u64,
    /// `None` where the answer came before that of an older one.
    requests: VecDeque<Option<Request>>,
    /// Number of the first request that was never sent.
    unsent: u64,
    /// Places that are not `None`.
    pub(crate) open: usize,
    /// How many of them were sent.
    pub(crate) in_flight: usize,
    /// How long their messages are, in bytes.
    pub(crate) in_flight_bytes: usize,
}

impl Window {
    fn new(first: u64) -> Window {
        Window {
            first,
            requests: VecDeque::new(),
            unsent: first,
            open: 0,
            in_flight: 0,
            in_flight_bytes: 0,
        }
    }

    /// The number that the next request gets.
    pub(crate) fn next(&self) -> Sequence {
        Sequence::new(self.first + self.requests.len() as u64)
    }

    /// Every request, the oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Request> {
        self.requests.iter_mut().flatten()
    }

    fn place(&self, sequence: Sequence) -> Option<usize> {
        usize::try_from(sequence.get().checked_sub(self.first)?).ok()
    }

    fn find(&mut self, sequence: Sequence) -> Option<&mut Request> {
        let place = self.place(sequence)?;
        self.requests.get_mut(place)?.as_mut()
    }

    fn take(&mut self, sequence: Sequence) -> Option<Request> {
        let place = self.place(sequence)?;
        let request = self.requests.get_mut(place)?.take()?;
        self.open -= 1;
        if request.sends > 0 {
            self.in_flight -= 1;
            self.in_flight_bytes -= request.message_bytes();
        }
        while let Some(None) = self.requests.front() {
            self.requests.pop_front();
            self.first += 1;
        }
        self.unsent = self.unsent.max(self.first);
        Some(request)
    }

    /// The number of the oldest that is unanswered, or of the next one.
    pub(crate) fn oldest(&self) -> u64 {
        self.first
    }

    /// Takes a request in again that was taken out.
    fn put_back(&mut self, request: Request) {
        let number = request.header.sequence;
        while number < self.first {
            self.requests.push_front(None);
            self.first -= 1;
        }
        let place = self.place(request.header.sequence()).filter(|&it| it < self.requests.len());
        self.requests[place.expect("it was here")] = Some(request);
        self.open += 1;
    }

    /// The first request that was never sent; those that were cancelled are passed over.
    pub(crate) fn first_unsent(&mut self) -> Option<&mut Request> {
        while self.has_unsent() && self.find(Sequence::new(self.unsent)).is_none() {
            self.unsent += 1;
        }
        self.find(Sequence::new(self.unsent))
    }

    /// Notes that the first unsent request, a message of `bytes` bytes, is sent now.
    pub(crate) fn note_sent(&mut self, bytes: usize) {
        self.unsent += 1;
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
    }

    /// Makes every request unsent, and one of this epoch.
    fn unsend(&mut self, epoch: Epoch) {
        self.unsent = self.first;
        (self.in_flight, self.in_flight_bytes) = (0, 0);
        self.iter_mut().for_each(|request| {
            request.sends = 0;
            request.header.epoch = epoch.get();
            request.coding.reliance = Reliance::Nothing;
        });
    }

    fn has_unsent(&self) -> bool {
        self.unsent < self.next().get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::WordOf;
    use crate::request::{Body, Coding};

    fn request(kind: Kind) -> Request {
        let never = Time::NEVER;
        Request {
            header: Header::new(kind),
            body: Body::Nothing,
            origin: Origin::Call(1),
            first_at: never,
            due_at: never,
            sends: 0,
            coding: Coding::PLAIN,
            word_of: WordOf::TAIL,
        }
    }

    #[test]
    fn pushes_count_from_one_and_everything_else_from_the_highest_bit() {
        let mut link = Link::new(PeerId::new(0), "a".into(), Epoch::new(1), Time::default());
        for kind in [Kind::Push, Kind::Pull, Kind::Push, Kind::Join] {
            link.admit(request(kind));
        }
        let numbers: Vec<u64> = link.requests().map(|request| request.header.sequence).collect();
        assert_eq!(numbers, [1, 2, OTHERS_FIRST, OTHERS_FIRST + 1]);
    }

    #[test]
    fn a_place_that_is_taken_up_counts_on_from_its_last_tick_and_never_back() {
        let mut link = Link::new(PeerId::new(0), "a".into(), Epoch::new(1), Time::default());
        link.take_place(Joined { clock: 3, tick_sequence: 7 });
        link.admit(request(Kind::Push));
        link.take_place(Joined { clock: 9, tick_sequence: 70 });
        assert_eq!(link.requests().next().map(|one| one.header.sequence), Some(8));
        assert_eq!(link.clock_joined(), Clock::new(3));
    }

    #[test]
    fn requests_are_sent_in_order_and_cancelled_ones_are_passed_over() {
        let mut link = Link::new(PeerId::new(0), "a".into(), Epoch::new(1), Time::default());
        (0..5).for_each(|_| link.admit(request(Kind::Push)));
        for cancelled in [1, 3] {
            drop(link.take(Sequence::new(cancelled)));
        }
        let mut sent = Vec::new();
        while let Some(request) = link.pushes.first_unsent() {
            request.sends = 1;
            sent.push(request.header.sequence);
            let bytes = request.message_bytes();
            link.pushes.note_sent(bytes);
        }
        assert_eq!(sent, [2, 4, 5]);
        assert!(!link.has_unsent());
        sent.into_iter().for_each(|number| drop(link.take(Sequence::new(number))));
        assert_eq!((link.pushes.in_flight, link.pushes.in_flight_bytes), (0, 0));
        assert_eq!(link.open(), 0);
    }

    #[test]
    fn answers_in_any_order_each_take_their_own_request_once() {
        let mut link = Link::new(PeerId::new(0), "a".into(), Epoch::new(1), Time::default());
        for _ in 0..3 {
            link.admit(request(Kind::Push));
        }
        for number in [2, 1, 3] {
            let taken = link.take(Sequence::new(number)).expect("it is open");
            assert_eq!(taken.header.sequence, number);
            assert!(link.take(Sequence::new(number)).is_none(), "a late duplicate finds nothing");
        }
        assert_eq!((link.open(), link.pushes.next().get()), (0, 4));
        assert!(link.take(Sequence::new(u64::MAX)).is_none());
    }
}
