//! Orders: what people ask for, and what a server asks for itself.
//!
//! Owns which wishes can be, and says why one cannot. Carrying them out is left to `assign`, at
//! its own pace.
//!
//! Invariant: an order that is refused changed nothing. One that was accepted is kept until it is
//! done or cannot be done any more, or until the coordinator ends.

use wire::{Ask, Denial, Placement, ServerId, Time, ToMember};

use super::assign::Move;
use super::census::{Changed, Health, Server, Why, Wish};
use super::event::{Action, ConnectionId};
use super::machine::Machine;

/// A person's moves that wait.
const MOVES_MAX: usize = 256;

impl Machine {
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
            Ask::Checkpoint => self.wish_for_checkpoint(),
        };
        let answer = match done {
            Ok(()) => ToMember::Done,
            Err(reason) => ToMember::Denied(Denial::Impossible { reason }),
        };
        self.send(connection, answer);
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
        if self.moves.len() >= MOVES_MAX {
            return Err(format!("{MOVES_MAX} moves wait already"));
        }
        self.moves.push(wish);
        self.changed = Changed::Yes;
        Ok(())
    }
}

/// Whether a move has neither been done nor become impossible.
pub(super) fn is_open(Move { shard, from, to }: Move, placement: &Placement) -> bool {
    let chain = placement.chain(shard);
    let is_held = chain.is_some_and(|chain| chain.replicas.contains(&from));
    let is_done = chain.is_some_and(|chain| chain.replicas.contains(&to));
    is_held && !is_done && placement.member(to).is_some()
}
