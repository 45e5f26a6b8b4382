//! The link to one shard: numbers given, requests unanswered, credit left.
//!
//! Owns the two number spaces. Pushes count 1, 2, 3 without gaps, since the shard applies each
//! number once; everything else may be asked twice and counts from the highest bit on, so that
//! an answer's number alone says which request it answers.
//!
//! Invariant: a request lies in one window from its number on until its answer; `unsent` lists,
//! in the order of asking, those that no slot was found for yet.

use std::collections::VecDeque;

use transport::{Fault, PeerId};
use wire::{Clock, Header, Kind, Sequence, Time};

use crate::request::{Origin, Request};

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
    pub(crate) pushes: Window,
    pub(crate) others: Window,
    pub(crate) unsent: VecDeque<Sequence>,
    /// Requests that were sent and are unanswered.
    pub(crate) in_flight: usize,
    /// How many of them the shard takes.
    pub(crate) credit: usize,
    /// When the last readable message came.
    pub(crate) heard_at: Time,
    /// Bytes of received slots that wait for their reader.
    pub(crate) held_bytes: usize,
    pub(crate) clock_slowest: Clock,
    pub(crate) lost: Option<Fault>,
}

impl Link {
    pub(crate) fn new(peer: PeerId, server: String, now: Time) -> Link {
        Link {
            peer,
            server,
            pushes: Window::new(1),
            others: Window::new(OTHERS_FIRST),
            unsent: VecDeque::new(),
            in_flight: 0,
            credit: CREDIT_FIRST,
            heard_at: now,
            held_bytes: 0,
            clock_slowest: Clock::new(0),
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
        window.requests.push_back(Some(request));
        window.open += 1;
        self.unsent.push_back(sequence);
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
        let request = self.window(sequence).take(sequence)?;
        if request.sends > 0 {
            self.in_flight -= 1;
        }
        Some(request)
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

    /// Takes a new way to the same shard: everything that was sent is due again.
    pub(crate) fn renew(&mut self, peer: PeerId, now: Time) {
        self.peer = peer;
        self.lost = None;
        self.heard_at = now;
        self.held_bytes = 0;
        for request in self.pushes.iter_mut().chain(self.others.iter_mut()) {
            request.due_at = now;
        }
    }

    /// Every unanswered request.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.pushes.requests.iter().chain(&self.others.requests).flatten()
    }

    /// Notes what every answer tells.
    pub(crate) fn note_answer(&mut self, header: &Header, now: Time) {
        self.heard_at = now;
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
    /// Places that are not `None`.
    pub(crate) open: usize,
}

impl Window {
    fn new(first: u64) -> Window {
        Window { first, requests: VecDeque::new(), open: 0 }
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
        while let Some(None) = self.requests.front() {
            self.requests.pop_front();
            self.first += 1;
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Body;

    fn request(kind: Kind) -> Request {
        let never = Time::NEVER;
        Request {
            header: Header::new(kind),
            body: Body::Nothing,
            origin: Origin::Call(1),
            first_at: never,
            due_at: never,
            sends: 0,
        }
    }

    #[test]
    fn pushes_count_from_one_and_everything_else_from_the_highest_bit() {
        let mut link = Link::new(PeerId::new(0), "a".into(), Time::default());
        for kind in [Kind::Push, Kind::Pull, Kind::Push, Kind::Join] {
            link.admit(request(kind));
        }
        let numbers: Vec<u64> = link.unsent.iter().map(|sequence| sequence.get()).collect();
        assert_eq!(numbers, [1, OTHERS_FIRST, 2, OTHERS_FIRST + 1]);
    }

    #[test]
    fn answers_in_any_order_each_take_their_own_request_once() {
        let mut link = Link::new(PeerId::new(0), "a".into(), Time::default());
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
