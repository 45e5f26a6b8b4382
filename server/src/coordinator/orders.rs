//! Orders: what people ask for, and what a server asks for itself.
//!
//! Owns which wishes can be, and says why one cannot. Carrying them out is left to `assign`, at
//! its own pace.
//!
//! Invariant: an order that is refused changed nothing. One that was accepted is in the log before
//! anybody is told so, and is kept there until it is done or cannot be done any more.

use wire::{Ask, Denial, Epoch, Placement, ServerId, Time, ToMember};

use super::assign::Move;
use super::census::{Census, Changed, Health, Server, Why, Wish};
use super::event::{Action, ConnectionId};
use super::machine::Machine;
use super::store::{Entry, Orders};

/// A person's moves that wait.
const MOVES_MAX: usize = 256;

/// Orders that are being carried out, and who waits for an answer.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) moves: Vec<Move>,
    /// Those that the log has.
    recorded: Orders,
    /// Who has given an order that is in no entry yet.
    new: Vec<ConnectionId>,
    /// Whose order is in the entry that is being recorded.
    proposed: Vec<ConnectionId>,
}

impl Desk {
    /// Goes on with what the log has.
    pub(super) fn resumed(newest: &Entry, census: &mut Census) -> Desk {
        let Entry { placement, orders, .. } = newest;
        for &number in &orders.leaving {
            if let Some(server) = census.get_mut(number) {
                server.wish = Wish::Leave;
            }
        }
        let open = orders.moves.iter().copied().filter(|wish| is_open(*wish, placement));
        Desk { moves: open.collect(), recorded: orders.clone(), ..Desk::default() }
    }
}

impl Machine {
    /// What is still to be carried out once this placement is there.
    pub(super) fn orders(&self, placement: &Placement) -> Orders {
        let leaves = |server: &&Server| {
            server.wish == Wish::Leave && placement.member(server.member.server).is_some()
        };
        let leaving = self.census.iter().filter(leaves).map(|server| server.member.server);
        let moves = self.desk.moves.iter().copied().filter(|wish| is_open(*wish, placement));
        Orders { leaving: leaving.collect(), moves: moves.collect() }
    }

    /// The same placement as now, to record orders with; none: the log has them.
    pub(super) fn placement_for_orders(&self) -> Option<Placement> {
        let old = &*self.placement;
        let is_placed = old.epoch > Epoch::new(0);
        if !is_placed || self.orders(old).are_among(&self.desk.recorded) {
            return None;
        }
        let epoch = Epoch::new(old.epoch.get() + 1);
        Some(Placement { epoch, cause: "an order".to_owned(), ..old.clone() })
    }

    /// Whoever has given an order waits for the entry that has it, or for none.
    pub(super) fn await_record(&mut self, is_proposed: bool) {
        let new = std::mem::take(&mut self.desk.new);
        match is_proposed {
            true => self.desk.proposed = new,
            false => new.into_iter().for_each(|one| self.send(one, ToMember::Done)),
        }
    }

    /// The log has these orders.
    pub(super) fn answer_orders(&mut self, recorded: &Orders, placement: &Placement) {
        self.desk.recorded.clone_from(recorded);
        self.desk.moves.retain(|wish| is_open(*wish, placement));
        for connection in std::mem::take(&mut self.desk.proposed) {
            self.send(connection, ToMember::Done);
        }
    }

    /// Answers a person.
    pub(super) fn asked(&mut self, connection: ConnectionId, ask: Ask, now: Time) {
        let done = match ask {
            Ask::Status => {
                let status = ToMember::Status(Box::new(self.status(now)));
                return self.send(connection, status);
            }
            Ask::Move { shard, from, to } => self.wish_to_move(Move { shard, from, to }),
            Ask::Drain { server } => self.wish_to_leave(server),
            Ask::Forget { server } => self.forget(server),
            Ask::Checkpoint => match self.wish_for_checkpoint() {
                Ok(()) => return self.send(connection, ToMember::Done),
                Err(reason) => Err(reason),
            },
        };
        match done {
            Ok(()) => self.desk.new.push(connection),
            Err(reason) => {
                self.send(connection, ToMember::Denied(Denial::Impossible { reason }));
            }
        }
    }

    /// Forgets servers that no placement names and that are not about to be named.
    pub(super) fn dismiss_strangers(&mut self) {
        let is_over = |server: &&Server| {
            let is_there = matches!(server.health, Health::Fit | Health::Expected);
            let is_member = self.placement.member(server.member.server).is_some();
            !is_member && (!is_there || server.wish == Wish::Leave)
        };
        let over: Vec<ServerId> =
            self.census.iter().filter(is_over).map(|server| server.member.server).collect();
        for number in over {
            let Some(server) = self.census.remove(number) else { continue };
            let Some(connection) = server.connection else { continue };
            if server.wish == Wish::Leave {
                self.send(connection, ToMember::Released);
                self.callers.remove(&connection);
                self.actions.push(Action::Close { connection });
            } else {
                self.deny(connection, Denial::Removed { server: number });
            }
        }
    }

    /// A server shall give its shards away.
    pub(super) fn wish_to_leave(&mut self, number: ServerId) -> Result<(), String> {
        let server = self.census.get_mut(number).ok_or(format!("{number} is no member"))?;
        server.wish = Wish::Leave;
        self.changed = Changed::Yes;
        Ok(())
    }

    fn forget(&mut self, number: ServerId) -> Result<(), String> {
        let server = self.census.get_mut(number).ok_or(format!("{number} is no member"))?;
        if matches!(server.health, Health::Fit | Health::Expected) {
            return Err(format!("{number} is there; drain it instead"));
        }
        server.health = Health::Lost(Why::Forgotten);
        self.changed = Changed::Yes;
        Ok(())
    }

    fn wish_to_move(&mut self, wish: Move) -> Result<(), String> {
        let Move { shard, from, to } = wish;
        let chain = self.placement.chain(shard).ok_or(format!("there is no {shard}"))?;
        if !chain.replicas.contains(&from) {
            return Err(format!("{from} does not hold {shard}"));
        }
        if chain.station(to).is_some() {
            return Err(format!("{to} has {shard} already"));
        }
        if !self.census.get(to).is_some_and(|server| server.health == Health::Fit) {
            return Err(format!("{to} is not there"));
        }
        if self.desk.moves.len() >= MOVES_MAX {
            return Err(format!("{MOVES_MAX} moves wait already"));
        }
        self.desk.moves.push(wish);
        self.changed = Changed::Yes;
        Ok(())
    }
}

/// Whether a move has neither been done nor become impossible.
fn is_open(Move { shard, from, to }: Move, placement: &Placement) -> bool {
    let chain = placement.chain(shard);
    let is_held = chain.is_some_and(|chain| chain.replicas.contains(&from));
    let is_done = chain.is_some_and(|chain| chain.replicas.contains(&to));
    is_held && !is_done && placement.member(to).is_some()
}
