//! Messages that came and may not be given out yet, in the order in which they will be.
//!
//! Owns what came by a lane before the peer's switch came over TCP, what came while too much is
//! held already, and what came over TCP behind such. Deciding who is a peer's next is left to
//! [`super::receive`].
//!
//! Invariant: messages that wait for a switch stand behind all others, since what comes over TCP
//! before the switch was acquired before them.

use std::collections::VecDeque;
use std::rc::Rc;

use super::lane::Lane;
use crate::pool::Account;
use crate::slot::{RecvMemory, RecvSlot};

/// One peer's messages that wait.
#[derive(Debug, Default)]
pub(super) struct Early {
    queue: VecDeque<(From, RecvSlot)>,
    lane_bytes: usize,
    tcp_bytes: usize,
    /// What is held of what came over TCP, these included; none before the first message.
    tcp_account: Option<Rc<Account>>,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Tcp,
    Lane { generation: u32 },
}

impl Early {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A message came by the lane of this generation.
    pub(super) fn push_of_lane(&mut self, slot: RecvSlot, generation: u32) {
        self.lane_bytes += slot.bytes;
        self.queue.push_back((From::Lane { generation }, slot));
    }

    /// A message came over TCP. It is given back if nothing goes before it.
    pub(super) fn pass_of_tcp(&mut self, slot: RecvSlot, lane: &Lane) -> Option<RecvSlot> {
        if self.tcp_account.is_none()
            && let RecvMemory::Pool(memory) = &slot.memory
        {
            self.tcp_account = memory.account().cloned();
        }
        let at = self.queue.partition_point(|&(from, _)| from.is_open(lane));
        if at == 0 {
            return Some(slot);
        }
        self.tcp_bytes += slot.bytes;
        self.queue.insert(at, (From::Tcp, slot));
        None
    }

    /// Whether the next message may be given out.
    ///
    /// - `lane_bytes_held`: length of what came by lanes and is not given back, these included.
    /// - `held_bytes_max`: of one peer. What came by lanes alone is bounded by their ring.
    pub(super) fn may_give(
        &self,
        lane: &Lane,
        lane_bytes_held: usize,
        held_bytes_max: usize,
    ) -> bool {
        match self.queue.front() {
            None => false,
            Some((From::Tcp, _)) => true,
            Some((from, _)) => {
                let charged = self.tcp_account.as_ref().map_or(0, |account| account.bytes_out());
                let tcp_bytes_held = charged - self.tcp_bytes;
                // Some may lie in a ring that is given up, and is not asked any more.
                let lane_bytes_held = lane_bytes_held.saturating_sub(self.lane_bytes);
                let given_out = tcp_bytes_held + lane_bytes_held;
                from.is_open(lane) && (tcp_bytes_held == 0 || given_out < held_bytes_max)
            }
        }
    }

    /// The next message, however much is held, if it waits for no switch.
    pub(super) fn give_open(&mut self, lane: &Lane) -> Option<RecvSlot> {
        self.queue.front().filter(|(from, _)| from.is_open(lane))?;
        self.give()
    }

    /// The next message, which may be given out.
    pub(super) fn give(&mut self) -> Option<RecvSlot> {
        let (from, slot) = self.queue.pop_front()?;
        match from {
            From::Tcp => self.tcp_bytes -= slot.bytes,
            From::Lane { .. } => self.lane_bytes -= slot.bytes,
        }
        Some(slot)
    }
}

impl From {
    /// Whether it waits for no switch.
    fn is_open(self, lane: &Lane) -> bool {
        match self {
            From::Tcp => true,
            From::Lane { generation } => generation < lane.generation() || lane.peer_has_switched(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::{LaneMessage, Time};

    use super::*;
    use crate::api::{Limits, PeerId};
    use crate::pool::Pool;

    const SWITCH: LaneMessage = LaneMessage::Switch { generation: 1 };

    fn slots_of(account: &Rc<Account>) -> Vec<RecvSlot> {
        let pool = Pool::new(&Limits::default()).unwrap();
        let slot = |mark: u8| {
            let mut memory = pool.take_for(100, account).unwrap();
            memory.bytes_mut()[0] = mark;
            RecvSlot { peer: PeerId::new(0), bytes: 100, memory: RecvMemory::Pool(memory) }
        };
        (0..6).map(slot).collect()
    }

    fn give_all(early: &mut Early, lane: &Lane) -> Vec<u8> {
        let mut marks = Vec::new();
        while early.may_give(lane, 500, 10_000) {
            marks.push(early.give().unwrap().bytes()[0]);
        }
        marks
    }

    #[test]
    fn what_comes_over_tcp_goes_before_what_waits_for_the_switch_and_behind_the_rest() {
        let (now, account) = (Time::from_nanos(0), Rc::default());
        let (mut lane, mut early) = (Lane::new(now), Early::default());
        let mut slots = slots_of(&account).into_iter();
        let mut next = || slots.next().unwrap();
        early.push_of_lane(next(), 1);
        assert!(early.pass_of_tcp(next(), &lane).is_some(), "the switch is not there");
        assert!(give_all(&mut early, &lane).is_empty());
        lane.hear(&SWITCH, now).unwrap();
        assert!(early.pass_of_tcp(next(), &lane).is_none(), "it is behind the first");
        // The next generation.
        lane.broken(now);
        lane.rerouted(now + Duration::from_secs(1));
        early.push_of_lane(next(), 2);
        assert!(early.pass_of_tcp(next(), &lane).is_none());
        assert_eq!(give_all(&mut early, &lane), [0, 2, 4]);
        assert!(!early.is_empty());
    }

    #[test]
    fn what_came_by_a_lane_waits_while_too_much_of_tcp_is_held() {
        let (now, account) = (Time::from_nanos(0), Rc::default());
        let (mut lane, mut early) = (Lane::new(now), Early::default());
        lane.hear(&SWITCH, now).unwrap();
        let mut slots = slots_of(&account);
        let tcp = early.pass_of_tcp(slots.pop().unwrap(), &lane).unwrap();
        slots.truncate(1);
        early.push_of_lane(slots.pop().unwrap(), 1);
        // The other slot's charge stands for what is held.
        assert!(!early.may_give(&lane, 100, 100));
        drop((tcp, early.give()));
        early.push_of_lane(slots_of(&Rc::default()).pop().unwrap(), 1);
        assert!(early.may_give(&lane, 100, 100));
    }
}
