//! The control network: links between the coordinators and everybody else.
//!
//! Owns every message of agents, watchers and people on its way. The links are TCP's: nothing is
//! lost or overtaken, but what meets a wall arrives after it, and a link may break at any message.
//!
//! Invariant: an end hears of its link's end after all that was sent before it, once, and nothing
//! afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use server::coordinator::ConnectionId;
use wire::{Time, ToCoordinator, ToMember};

use crate::agenda::Agenda;
use crate::random::Random;

/// How long a message takes at least, in nanoseconds.
const DELAY_NS_MIN: u64 = 20_000;
/// And at most, where nothing is wrong.
const DELAY_NS_MAX: u64 = 1_000_000;
/// How long after a wall is gone what it held up comes at most: TCP's next try.
const AGAIN_NS_MAX: u64 = 200_000_000;
/// How long who calls waits for an answer.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// Who has an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// A coordinator, by the place where it listens.
    Seat(usize),
    /// A server, by its host.
    Host(usize),
    /// A worker's watch.
    Worker(usize),
    /// Who gives orders.
    Person,
}

/// What comes out of the network.
#[derive(Debug)]
pub(crate) enum Delivery {
    Said(usize, ConnectionId, ToCoordinator),
    Heard(Node, ConnectionId, ToMember),
    /// To a coordinator: the link is over.
    Gone(usize, ConnectionId),
    /// To whoever called it.
    Over(Node, ConnectionId),
}

/// All links.
#[derive(Debug)]
pub(crate) struct Control {
    random: Random,
    resets_per_mille: u64,
    links: BTreeMap<ConnectionId, Link>,
    made: u64,
    walls: Vec<(Node, Node, Time)>,
    agenda: Agenda<Delivery>,
}

#[derive(Debug)]
struct Link {
    seat: usize,
    caller: Node,
    /// When the last message arrives, to the coordinator and from it.
    ordered: [Time; 2],
    /// Whether the coordinator's end, and the caller's, still listens.
    open: [bool; 2],
    state: State,
}

/// Whether a link still carries anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Broken,
}

const TO_SEAT: usize = 0;
const TO_CALLER: usize = 1;

impl Control {
    pub(crate) fn new(random: Random) -> Control {
        let (links, made, resets_per_mille) = (BTreeMap::new(), 0, 0);
        let (walls, agenda) = (Vec::new(), Agenda::default());
        Control { random, resets_per_mille, links, made, walls, agenda }
    }

    /// Makes a link to a coordinator that listens.
    ///
    /// - Errors: when the caller knows that there is none.
    pub(crate) fn connect(
        &mut self,
        now: Time,
        caller: Node,
        seat: usize,
        listens: Listens,
    ) -> Result<ConnectionId, Time> {
        let there = Node::Seat(seat);
        let is_shut = self.wall(now, caller, there).max(self.wall(now, there, caller)) > now;
        match listens {
            _ if is_shut => Err(now + CONNECT_MAX),
            Listens::No => Err(now + self.delay()),
            Listens::Yes => {
                self.made += 1;
                let id = ConnectionId(self.made);
                let begun = now + self.delay();
                let link = Link {
                    seat,
                    caller,
                    ordered: [begun; 2],
                    open: [true; 2],
                    state: State::Whole,
                };
                self.links.insert(id, link);
                Ok(id)
            }
        }
    }

    pub(crate) fn say(&mut self, now: Time, id: ConnectionId, message: ToCoordinator) {
        if let Some(link) = self.links.get(&id) {
            let delivery = Delivery::Said(link.seat, id, message);
            self.send(now, id, TO_SEAT, delivery);
        }
    }

    pub(crate) fn tell(&mut self, now: Time, id: ConnectionId, message: ToMember) {
        if let Some(link) = self.links.get(&id) {
            let delivery = Delivery::Heard(link.caller, id, message);
            self.send(now, id, TO_CALLER, delivery);
        }
    }

    /// The caller ends a link.
    pub(crate) fn hang_up(&mut self, now: Time, id: ConnectionId) {
        self.close(now, id, TO_CALLER);
    }

    /// The coordinator ends a link, after what was said.
    pub(crate) fn turn_away(&mut self, now: Time, id: ConnectionId) {
        self.close(now, id, TO_SEAT);
    }

    /// A process is gone with its links.
    ///
    /// - `farewell`: whether the other ends hear of it.
    pub(crate) fn leave(&mut self, now: Time, node: Node, farewell: Farewell) {
        let is_here = |link: &Link| link.caller == node || Node::Seat(link.seat) == node;
        let here = self.links.iter().filter(|(_, link)| is_here(link));
        for id in here.map(|(&id, _)| id).collect::<Vec<_>>() {
            let end = if matches!(node, Node::Seat(_)) { TO_SEAT } else { TO_CALLER };
            match farewell {
                Farewell::Said => self.close(now, id, end),
                Farewell::None => {
                    self.links.get_mut(&id).expect("it was just seen").open[end] = false;
                }
            }
        }
    }

    /// Breaks a link, if there is one: both ends hear of it.
    pub(crate) fn reset_some(&mut self, now: Time) {
        let count = self.links.len() as u64;
        if count > 0 {
            let at = self.random.below(count) as usize;
            let id = *self.links.keys().nth(at).expect("it is below the count");
            self.reset(now, id);
        }
    }

    /// Shuts a way for a while.
    pub(crate) fn shut(&mut self, from: Node, to: Node, until: Time) {
        self.walls.push((from, to, until));
    }

    /// From now on links break by themselves.
    ///
    /// - `per_mille`: of the messages at which one does.
    pub(crate) fn begin_resets(&mut self, per_mille: u64) {
        self.resets_per_mille = per_mille;
    }

    pub(crate) fn calm(&mut self) {
        self.walls.clear();
        self.resets_per_mille = 0;
    }

    pub(crate) fn next_at(&self) -> Option<Time> {
        self.agenda.next_at()
    }

    /// What arrives next, at somebody who is not frozen.
    ///
    /// - `awake_at`: when who is at that node goes on; a moment that is past, if it runs.
    pub(crate) fn take_due(
        &mut self,
        now: Time,
        awake_at: impl Fn(Node) -> Time,
    ) -> Option<Delivery> {
        loop {
            let (number, delivery) = self.agenda.take_due(now)?;
            let (node, id, end) = match delivery {
                Delivery::Said(seat, id, _) => (Node::Seat(seat), id, TO_SEAT),
                Delivery::Gone(seat, id) => (Node::Seat(seat), id, TO_SEAT),
                Delivery::Heard(node, id, _) | Delivery::Over(node, id) => (node, id, TO_CALLER),
            };
            let is_open = self.links.get(&id).is_some_and(|link| link.open[end]);
            if !is_open {
                self.forget_closed(id);
                continue;
            }
            if awake_at(node) > now {
                self.agenda.put_off(awake_at(node), number, delivery);
                continue;
            }
            if matches!(delivery, Delivery::Gone(..) | Delivery::Over(..)) {
                self.links.get_mut(&id).expect("it is open").open[end] = false;
                self.forget_closed(id);
            }
            return Some(delivery);
        }
    }

    fn send(&mut self, now: Time, id: ConnectionId, end: usize, delivery: Delivery) {
        let mine = 1 - end;
        if !self.links[&id].open[mine] || self.links[&id].state == State::Broken {
            return;
        }
        if self.random.below(1000) < self.resets_per_mille {
            return self.reset(now, id);
        }
        let at = self.arrival(now, id, end);
        self.agenda.at(at, delivery);
    }

    fn close(&mut self, now: Time, id: ConnectionId, end: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !std::mem::replace(&mut link.open[end], false) {
            return;
        }
        let other = 1 - end;
        let over = self.over(id, other);
        let at = self.arrival(now, id, other);
        self.agenda.at(at, over);
    }

    fn reset(&mut self, now: Time, id: ConnectionId) {
        let link = self.links.get_mut(&id).expect("it was just seen");
        if std::mem::replace(&mut link.state, State::Broken) == State::Broken {
            return;
        }
        for end in [TO_SEAT, TO_CALLER] {
            let (over, at) = (self.over(id, end), now + self.delay());
            self.agenda.at(at, over);
        }
    }

    fn over(&self, id: ConnectionId, end: usize) -> Delivery {
        let link = &self.links[&id];
        match end {
            TO_SEAT => Delivery::Gone(link.seat, id),
            _ => Delivery::Over(link.caller, id),
        }
    }

    /// When what is sent now arrives at this end.
    fn arrival(&mut self, now: Time, id: ConnectionId, end: usize) -> Time {
        let link = &self.links[&id];
        let ends = [Node::Seat(link.seat), link.caller];
        let wall = self.wall(now, ends[1 - end], ends[end]);
        let soon = now + self.delay();
        let at = match wall > now {
            true => wall + Duration::from_nanos(self.random.below(AGAIN_NS_MAX)),
            false => soon,
        };
        let ordered = &mut self.links.get_mut(&id).expect("it was just seen").ordered[end];
        *ordered = at.max(*ordered);
        *ordered
    }

    fn delay(&mut self) -> Duration {
        Duration::from_nanos(DELAY_NS_MIN + self.random.below(DELAY_NS_MAX - DELAY_NS_MIN))
    }

    /// Until when a way is shut.
    fn wall(&mut self, now: Time, from: Node, to: Node) -> Time {
        self.walls.retain(|&(.., until)| until > now);
        let here = self.walls.iter().filter(|&&(one, other, _)| (one, other) == (from, to));
        here.map(|&(.., until)| until).max().unwrap_or_default()
    }

    fn forget_closed(&mut self, id: ConnectionId) {
        if self.links.get(&id).is_some_and(|link| link.open == [false; 2]) {
            self.links.remove(&id);
        }
    }
}

/// Whether somebody listens at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listens {
    Yes,
    No,
}

/// Whether the kernel says that a process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    Said,
    None,
}
