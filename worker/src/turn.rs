//! One turn of a session: receive, send what waits for credit, send again what is overdue.
//!
//! Owns [`Session::poll`] and the waits on top of it. A turn never waits; a wait parks in the
//! transport between turns and ends by its deadline.
//!
//! Invariant: a slot is released in the turn in which it came, or a pull or call keeps it.

use std::ops::Range;
use std::time::Duration;

use kernels::codec::Damaged;
use transport::{Event, Fault, PeerId, RecvSlot};
use wire::{Clock, HEADER_BYTES, Header, Joined, KeyForm, Kind, Malformed, Refusal, Status, Time};
use zerocopy::FromBytes;

use crate::codec::Listed;
use crate::error::{Asked, Awaited, WorkerError};
use crate::fits::check_fits;
use crate::link::{Link, Lost};
use crate::port::Towards;
use crate::pull::{Arrival, MayKeep, PullTicket, Values};
use crate::request::{Body, Origin, Reliance, Request};
use crate::session::Session;
use crate::split::Split;

/// How often the time between two sendings of a pull doubles: it may wait at the shard for long,
/// which drops each copy of what waits there. Over a network that loses answers the slowest pull
/// of all holds everybody up, so the longest time stays within a few seconds.
const PULL_DOUBLINGS_MAX: u32 = 3;

/// Messages in a row that may be damaged before the link is closed: this is no chance any more.
const DAMAGED_IN_A_ROW_MAX: u32 = 16;

/// A push that the shard cannot remember yet is sent again after this part of the time-out.
const TOO_NEW_PART: u32 = 64;

/// A session that nobody polled for this part of the time-out was not listening.
const GAP_PART: u32 = 8;

/// How long a push may be told that its server is busy, before that is an error.
const BUSY_MAX: Duration = Duration::from_secs(30);
/// How soon a push is sent again at the earliest, whatever a busy server says.
const BUSY_MIN: Duration = Duration::from_millis(1);

/// While something waits for credit, a park ends at least so often, in nanoseconds.
const CREDIT_PARK_NS: u64 = 1_000_000;

impl Session {
    /// Takes in what has come, completes what it answers, sends what is due. Does not wait.
    ///
    /// - Errors: a server is lost or silent, refused a push, or answered nonsense. See
    ///   [`WorkerError`] for what can be done about each.
    pub fn poll(&mut self) -> Result<(), WorkerError> {
        self.check()?;
        let now = self.now();
        self.note_gap(now);
        let mut events = std::mem::take(&mut self.events);
        self.port.transport.poll(&mut events);
        let mut outcome = Ok(());
        for event in events.drain(..) {
            match event {
                Event::Received { peer, slot } => {
                    let received = self.receive(peer, slot, now);
                    outcome = outcome.and(received);
                }
                Event::Closed { peer, fault } => self.note_closed(peer, fault, now),
            }
        }
        self.events = events;
        for shard in 0..self.links.len() {
            self.send_unsent(shard, now);
        }
        self.run_timers(now);
        self.run_late(now);
        self.follow_routes(now);
        self.port.transport.flush();
        if let Err(error) = &outcome {
            self.failed = Some(error.clone());
        }
        outcome.and_then(|()| self.check_links())
    }

    /// Rings the doorbell for what was posted.
    pub fn flush(&mut self) {
        self.port.transport.flush();
    }

    /// Waits for a pull's values.
    ///
    /// - Errors: [`WorkerError::Refused`] by a shard, [`WorkerError::TimedOut`] at the deadline,
    ///   or as [`Session::poll`]. The pull is over in each case.
    pub fn wait_pull(&mut self, ticket: PullTicket, deadline: Time) -> Result<Values, WorkerError> {
        let place = ticket.place;
        let waited = self.wait_until(deadline, |session| session.pulls.is_over(place));
        match waited {
            Ok(Waited::Done) => {}
            Ok(Waited::Late { since }) => {
                let (table, clock) = (ticket.table.get(), ticket.clock);
                let clock_slowest = self.clock_slowest();
                let awaited = Awaited::Values { table, clock, clock_slowest };
                let error = self.timed_out(Origin::Pull(place), awaited, since);
                self.cancel(ticket);
                return Err(error);
            }
            Err(error) => {
                self.cancel(ticket);
                return Err(error);
            }
        }
        match self.pulls.end(place) {
            (Some(values), _) => Ok(values),
            (None, refused) => {
                self.forget_pull(place);
                Err(refused.expect("a pull that is over has its values or a refusal"))
            }
        }
    }

    /// Waits until at most `outstanding_max` messages of pushes are unanswered; 0 waits for all.
    /// Whether the tail of a chain has what is answered, or its head alone, is its table's choice;
    /// of a clock that is ended and answered, the tail has all.
    ///
    /// - Errors: [`WorkerError::TimedOut`], after which the pushes are still under way, or as
    ///   [`Session::poll`].
    pub fn wait_pushes(
        &mut self,
        outstanding_max: usize,
        deadline: Time,
    ) -> Result<(), WorkerError> {
        let done = |session: &Session| session.pushes_outstanding() <= outstanding_max;
        match self.wait_until(deadline, done)? {
            Waited::Done => Ok(()),
            Waited::Late { since } => {
                let outstanding = self.pushes_outstanding();
                let awaited = Awaited::Pushes { outstanding, outstanding_max };
                Err(self.timed_out(Origin::Push, awaited, since))
            }
        }
    }

    /// Parks until something may have come, or `deadline`; shorter where a request is due sooner.
    pub fn park(&mut self, deadline: Time) {
        self.note_gap(self.now());
        let mut until = deadline.min(self.timer_at).min(self.behind.due_at);
        if self.links.iter().any(Link::has_unsent) {
            until = until.min(Time::from_nanos(self.now().nanos() + CREDIT_PARK_NS));
        }
        self.port.transport.park(until);
        self.polled_at = self.now();
    }

    /// Turns and parks until `done` or the deadline.
    pub(crate) fn wait_until(
        &mut self,
        deadline: Time,
        done: impl Fn(&Session) -> bool,
    ) -> Result<Waited, WorkerError> {
        let since = self.now();
        self.flush();
        while !done(self) {
            self.poll()?;
            if done(self) {
                break;
            }
            if self.now() >= deadline {
                return Ok(Waited::Late { since });
            }
            self.park(deadline);
        }
        Ok(Waited::Done)
    }

    /// The error of a wait that ended by its deadline.
    pub(crate) fn timed_out(&self, origin: Origin, awaited: Awaited, since: Time) -> WorkerError {
        let owes = |link: &&Link| link.requests().any(|request| request.origin == origin);
        let server = self.links.iter().find(owes).map_or("all servers", |link| &link.server);
        let waited = self.now() - since;
        WorkerError::TimedOut { server: server.to_owned(), awaited, waited }
    }

    /// A caller that computed for a while has not listened: silence counts from now on only, and
    /// what has come meanwhile gets a moment to be found before anything is sent again.
    fn note_gap(&mut self, now: Time) {
        if now - self.polled_at > self.timeouts.request / GAP_PART {
            if self.attentive_since <= self.timer_ran_at {
                self.timer_at = self.timer_at.max(now + self.timeouts.request / GAP_PART);
            }
            self.attentive_since = now;
        }
        self.polled_at = now;
    }

    fn note_closed(&mut self, peer: PeerId, fault: Fault, now: Time) {
        match self.shard_of_peer.get(peer.index()) {
            Some(&Some(shard)) => _ = self.links[shard].lost.get_or_insert(Lost::Fault(fault)),
            _ => self.note_replica_closed(peer, fault, now),
        }
    }

    fn receive(&mut self, peer: PeerId, slot: RecvSlot, now: Time) -> Result<(), WorkerError> {
        let Some(&Some(shard)) = self.shard_of_peer.get(peer.index()) else {
            return self.receive_from_replica(peer, slot, now);
        };
        let header = match self.port.open(&slot) {
            Ok(header) => header,
            Err(malformed) => {
                self.port.transport.release(slot);
                self.note_damaged(shard, malformed);
                return Ok(());
            }
        };
        if !self.is_ours(&header) {
            self.port.transport.release(slot);
            self.counts.answers_late += 1;
            return Ok(());
        }
        let kept = self.answer(shard, header, slot, now)?;
        if let Some(slot) = kept {
            self.port.transport.release(slot);
        }
        Ok(())
    }

    /// Drops what a network damaged, since it is sent again. Where that is no chance, what follows
    /// on the link cannot be trusted either.
    fn note_damaged(&mut self, shard: usize, malformed: Malformed) {
        let link = &mut self.links[shard];
        link.damaged_in_a_row += 1;
        self.counts.damaged += 1;
        if link.damaged_in_a_row > DAMAGED_IN_A_ROW_MAX || !self.port.may_damage() {
            self.port.transport.close(link.peer);
            link.lost.get_or_insert(Lost::Fault(Fault::Malformed(malformed)));
        }
    }

    /// Completes what an answer answers; returns its slot unless somebody keeps it.
    fn answer(
        &mut self,
        shard: usize,
        header: Header,
        slot: RecvSlot,
        now: Time,
    ) -> Result<Option<RecvSlot>, WorkerError> {
        let link = &mut self.links[shard];
        link.note_answer(&header, now);
        let status = header.status().expect("`Port::open` has read it");
        let Some(request) = link.find(header.sequence()) else {
            self.counts.answers_late += 1;
            return Ok(Some(slot));
        };
        if let Status::Refused(refusal) = status {
            if let Refusal::EpochMismatch { shard: there } = refusal {
                self.port.transport.close(link.peer);
                link.lost.get_or_insert(Lost::Moved { there });
                return Ok(Some(slot));
            }
            if matches!(refusal, Refusal::SequenceTooNew { .. }) {
                request.due_at = now + self.timeouts.request / TOO_NEW_PART;
                self.timer_at = self.timer_at.min(request.due_at);
                return Ok(Some(slot));
            }
            let waited = now - request.first_at;
            if let Refusal::Busy { retry_ms, .. } = refusal
                && request.origin == Origin::Push
                && waited < BUSY_MAX
            {
                let pause = Duration::from_millis(retry_ms.into()).clamp(BUSY_MIN, BUSY_MAX);
                request.due_at = now + pause;
                self.timer_at = self.timer_at.min(request.due_at);
                self.counts.busy += 1;
                return Ok(Some(slot));
            }
            if matches!(refusal, Refusal::ListUnknown { .. } | Refusal::NumbersUnknown { .. }) {
                self.send_whole(shard, &header, refusal, now);
                return Ok(Some(slot));
            }
            let request = link.take(header.sequence()).expect("it was just found");
            return self.refuse(shard, &request, refusal).map(|()| Some(slot));
        }
        let asked = request.header;
        if let Err(error) = check_fits(&link.server, &asked, &header) {
            self.port.transport.release(slot);
            return Err(error);
        }
        if !matches!(header.kind(), Kind::Rows) {
            link.clock_slowest = link.clock_slowest.max(Clock::new(header.clock));
        }
        if header.kind() == Kind::Values {
            self.note_hot(shard, &header);
        }
        if status == Status::Duplicate {
            self.counts.duplicates += 1;
        }
        let request = self.links[shard].take(header.sequence()).expect("it was just found");
        match self.keep_or_let_go(shard, request, status) {
            Some(request) => self.complete(shard, request, slot),
            None => Ok(Some(slot)),
        }
    }

    /// A shard does not know keys that a message left out: it is sent again with all of them.
    fn send_whole(&mut self, shard: usize, answer: &Header, refusal: Refusal, now: Time) {
        let link = &mut self.links[shard];
        let current = link.numbers.generation();
        let Some(request) = link.find(answer.sequence()) else { return };
        // A copy that was sent before the shard's word came is refused late.
        if request.coding.reliance == Reliance::Nothing {
            return;
        }
        request.coding.reliance = Reliance::Nothing;
        request.due_at = now;
        self.timer_at = now;
        if matches!(refusal, Refusal::ListUnknown { .. }) {
            self.counts.lists_unknown += 1;
            return;
        }
        self.counts.numbers_unknown += 1;
        if request.coding.generation == current {
            link.numbers.restart();
        }
    }

    /// Hands an answer to whoever waits for it; returns the slot unless it is kept.
    ///
    /// - Errors: values that mean nothing.
    fn complete(
        &mut self,
        shard: usize,
        request: Request,
        slot: RecvSlot,
    ) -> Result<Option<RecvSlot>, WorkerError> {
        let (asked, form) = (request.header, request.coding.form);
        Ok(match (request.origin, request.body) {
            (Origin::Pull(place), Body::Keys { range, split }) => {
                let bytes = slot.bytes().len();
                self.counts.values_bytes += bytes as u64;
                if form != KeyForm::Plain {
                    let (start, end, pull) = (range.start, range.end, asked.sequence());
                    split.note_listed(Listed { shard, start, end, pull });
                }
                let held_bytes = self.links[shard].held_bytes + bytes;
                let may_keep = match held_bytes <= self.port.recv_bytes_max / 2 {
                    true => MayKeep::Yes { shard },
                    false => MayKeep::No,
                };
                let part = PulledPart { place, asked, split: &split, range };
                match self.take_values(part, slot, may_keep) {
                    Ok(Arrival::Copied(slot)) => Some(slot),
                    Ok(Arrival::Kept) => {
                        self.links[shard].held_bytes = held_bytes;
                        None
                    }
                    Err((slot, damaged)) => {
                        self.port.transport.release(slot);
                        let server = self.links[shard].server.clone();
                        return Err(WorkerError::Undecodable { server, damaged });
                    }
                }
            }
            (Origin::Call(number), _) => {
                if asked.kind() == Kind::Join {
                    let joined = Joined::read_from_bytes(&slot.bytes()[HEADER_BYTES..]);
                    let joined = joined.expect("`wire::open` checked the length");
                    self.links[shard].take_place(joined);
                }
                self.call.arrive(number, slot)
            }
            (_, body) => {
                self.recycle_body(body);
                Some(slot)
            }
        })
    }

    /// Hands the values of a part to its pull.
    ///
    /// - Errors: they mean nothing; with the slot, which nobody has then.
    pub(crate) fn take_values(
        &mut self,
        part: PulledPart<'_>,
        slot: RecvSlot,
        may_keep: MayKeep,
    ) -> Result<Arrival, (RecvSlot, Damaged)> {
        let PulledPart { place, asked, split, range } = part;
        let body = &slot.bytes()[HEADER_BYTES..];
        match self.codecs.decode(&asked, body, (split, range.clone())) {
            Ok(decoded) => Ok(self.pulls.arrive(place, range, slot, decoded, may_keep)),
            Err(damaged) => Err((slot, damaged)),
        }
    }

    /// Tells whoever waits that a shard said no. A push that is refused ends the session.
    fn refuse(
        &mut self,
        shard: usize,
        request: &Request,
        refusal: Refusal,
    ) -> Result<(), WorkerError> {
        let server = self.links[shard].server.clone();
        let asked = Asked::from_header(&request.header);
        let error = WorkerError::Refused { server, asked, refusal };
        match request.origin {
            Origin::Push => return Err(error),
            Origin::Pull(place) => self.pulls.refuse(place, error),
            Origin::Call(number) => self.call.refuse(number, error),
        }
        Ok(())
    }

    /// Sends again what is overdue, and gives up servers that are silent.
    fn run_timers(&mut self, now: Time) {
        if now < self.timer_at {
            return;
        }
        self.timer_at = now + self.timeouts.request;
        self.timer_ran_at = now;
        for (shard, link) in self.links.iter_mut().enumerate() {
            if link.lost.is_some() {
                continue;
            }
            let heard_at = link.heard_at.max(self.attentive_since);
            let peer = link.peer;
            let numbers = &mut link.numbers;
            let windows = [&mut link.pushes, &mut link.others];
            let requests = windows.into_iter().flat_map(|window| window.iter_mut());
            for request in requests.filter(|request| request.sends > 0) {
                let silence = now - heard_at.max(request.first_at);
                let waits_for_workers = request.header.kind() == Kind::Pull;
                if silence > self.timeouts.give_up && !waits_for_workers {
                    let asked = Asked::from_header(&request.header);
                    link.lost = Some(Lost::Silent(asked, silence));
                    self.port.transport.close(peer);
                    break;
                }
                if request.due_at <= now {
                    let to = Towards { peer, shard, numbers: &mut *numbers };
                    let Ok(sent_bytes) = self.port.post(to, request) else {
                        break; // No credit: the next run tries again.
                    };
                    self.counts.note_sent(&request.header, sent_bytes);
                    self.counts.resends += 1;
                    let doublings = match waits_for_workers {
                        true => request.sends.min(PULL_DOUBLINGS_MAX),
                        false => 0,
                    };
                    request.sends += 1;
                    let patience = self.timeouts.request * (1 << doublings);
                    request.due_at = self.port.due_at(now, patience);
                }
                self.timer_at = self.timer_at.min(request.due_at);
            }
        }
    }
}

/// A part of a pull that has come.
pub(crate) struct PulledPart<'a> {
    pub(crate) place: usize,
    /// The request's header.
    pub(crate) asked: Header,
    pub(crate) split: &'a Split,
    /// Its grouped keys.
    pub(crate) range: Range<usize>,
}

/// How a wait ended.
pub(crate) enum Waited {
    /// What was waited for is there.
    Done,
    /// The deadline came first.
    Late {
        /// When the wait began.
        since: Time,
    },
}
