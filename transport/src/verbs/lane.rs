//! The life of one lane, as one end sees it: offered, connected, tried, used, broken, and again.
//!
//! Owns which step comes next. It reads no clock and touches no device: what the peer says and what
//! happens here are told to it, and it says what is to be done. Doing it is left to
//! [`super::transport`].
//!
//! A generation is one life: each side names its rails, and the one with the larger lot chooses one
//! of each side's. It offers a queue pair on its own, and the other answers with one. Each connects
//! its queue pair to the peer's, opens its ring to that one alone and, when that is done, says that
//! it is ready; tries the way by a write of one byte, so that no message is ever entrusted to a way
//! that has not worked; then says over TCP that it switches, and sends by the lane. Either side may
//! say that it is broken, at any time; the other then says so too. Each says it once, with how many
//! messages it took. After both words, each sends what the other did not take over TCP, and the
//! next generation begins.
//!
//! Invariant: every message arrives once and in order. A side takes nothing from a generation after
//! its own word that it is broken; it sends what was not taken only after the peer's; and the peer
//! reads TCP in order, so that it has the word before what is sent again.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use wire::{LaneMessage, LaneOffer, LaneRails, Time};

use super::credit::Breach;
use crate::api::Standing;

/// From the end of a generation to the next offer, at first.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause; it doubles up to this while generations fail.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A generation that was used for so long was a good one: pauses begin anew.
const GOOD_USE: Duration = Duration::from_secs(2);

/// Why a generation ended, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reason {
    /// The peer said so first.
    Peer = 1,
    /// A work request failed.
    Request = 2,
    /// A work request was not over within its time.
    Deadline = 3,
    /// The device reported that the queue pair failed.
    QueuePair = 4,
    /// The port is down, or its addresses are others.
    Port = 5,
    /// The device is gone.
    Device = 6,
    /// The peer broke the lane's rules.
    Rules = 7,
    /// The queue pair could not be made or connected.
    Setup = 8,
    /// No rail here reaches one of the peer's.
    NoRail = 9,
    /// The peer's ring is too short for this side's longest message.
    RingTooShort = 10,
    /// The peer's device refused the address or the key.
    Access = 11,
    /// The peer's device did not answer, however often it was asked.
    Unanswered = 12,
    /// The peer had no receive posted.
    NoReceive = 13,
    /// The peer takes part no longer.
    Stranger = 14,
}

/// What is to be done next. It is asked for again until it was reported as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Say which rails there are: `called`, `cannot_call` or `refuse`.
    Call { generation: u32 },
    /// Make a queue pair and say where: `offered` or `failed`.
    Offer { generation: u32, by: Choice },
    /// Connect to the peer's and open the ring to it: `connected`, then or later `arrived`;
    /// `failed` or `refuse`.
    Connect(LaneOffer),
    /// Say that the peer may write, and by which key: `ready`.
    Ready,
    /// Write a byte to the peer, to see that it gets there: `tried`, later `arrived`. Its ring is
    /// written by this key.
    Try { rkey: u32 },
    /// Say that what is acquired from now on goes by the lane: `switched`.
    Switch,
    /// Take what has come, destroy the queue pair and say so: `broken`.
    Break { generation: u32, reason: Reason },
    /// Send what the peer did not take over TCP: `rerouted`.
    Reroute { delivered: u64 },
    /// Destroy the queue pair, if there is one, and say nothing: `quitted`.
    Quit,
}

/// Who has chosen the rails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This side is to choose, among its own and the peer's.
    Ours(LaneRails),
    /// The peer has, and says which of this side's.
    Theirs { rail: u8 },
}

/// Whether a request that is over was the one that the next step waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    Awaited,
    Other,
}

/// Which way what is acquired now goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    Lane,
    /// Neither, until the peer has said what it took and that is sent again.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is no queue pair; rails are named at this time.
    Idle { at: Time },
    /// The peer knows this side's rails, with this lot.
    Called { lot: u64 },
    /// There is one, and the peer knows where.
    Offered,
    /// It is connected to the peer's; the ring is being opened to it.
    Opening,
    /// The ring is open, and the peer is to know.
    Opened,
    /// The peer knows.
    Ready,
    /// The try is under way.
    Trying,
    /// The try got there.
    Tried,
    /// Messages go by the lane.
    Sending { since: Time },
    /// To be broken.
    Failed { reason: Reason, used: Used },
    /// The queue pair is gone, and the peer was told.
    Broken { used: Used },
    /// To be quitted.
    Quitting,
    /// There is no lane to this peer.
    Never,
}

/// Whether messages were sent by the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    Yes,
    No,
}

/// What the peer has said in this generation.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    rails: Option<LaneRails>,
    offer: Option<LaneOffer>,
    /// The key to its ring.
    ready: Option<u32>,
    switched: Option<()>,
    /// How many messages it took.
    broken: Option<u64>,
}

/// One end's lane to one peer.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    generation: u32,
    phase: Phase,
    said: Said,
    /// What it has said of the next one: it may be there first.
    said_of_next: Said,
    pause: Duration,
    /// A stranger is not called.
    standing: Standing,
}

impl Lane {
    /// Before the first call, which is due at once.
    pub(super) fn new(now: Time) -> Lane {
        let phase = Phase::Idle { at: now };
        let (said, said_of_next) = (Said::default(), Said::default());
        let standing = Standing::default();
        Lane { generation: 1, phase, said, said_of_next, pause: PAUSE_MIN, standing }
    }

    /// The generation that is, or comes.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Which way what is acquired now goes.
    pub(super) fn way(&self) -> Way {
        match self.phase {
            Phase::Sending { .. } => Way::Lane,
            Phase::Failed { used: Used::Yes, .. } | Phase::Broken { used: Used::Yes } => {
                Way::Closed
            }
            _ => Way::Tcp,
        }
    }

    /// Whether the peer's messages come by the lane now.
    pub(super) fn peer_has_switched(&self) -> bool {
        self.said.switched.is_some()
    }

    /// Whether there may be a queue pair.
    pub(super) fn is_up(&self) -> bool {
        use Phase::{Called, Offered, Opened, Opening, Ready, Sending, Tried, Trying};
        matches!(
            self.phase,
            Called { .. } | Offered | Opening | Opened | Ready | Trying | Tried | Sending { .. }
        )
    }

    /// Whether the peer's end is connected too, as far as is known here.
    pub(super) fn may_write(&self) -> bool {
        matches!(self.phase, Phase::Trying | Phase::Tried | Phase::Sending { .. })
    }

    /// Makes the next call due now: a port came up.
    pub(super) fn hurry(&mut self, now: Time) {
        if let Phase::Idle { at } = &mut self.phase {
            *at = now.min(*at);
        }
    }

    /// What the peer is now: a stranger's lane fails, a member's is due.
    pub(super) fn set_standing(&mut self, standing: Standing, now: Time) {
        self.standing = standing;
        match standing {
            Standing::Member => self.hurry(now),
            Standing::Stranger => self.failed(Reason::Stranger, now),
        }
    }

    /// When [`Lane::step`] will have something by the clock alone.
    pub(super) fn due(&self) -> Option<Time> {
        match self.phase {
            Phase::Idle { at } if self.standing == Standing::Member => Some(at),
            _ => None,
        }
    }

    /// What is to be done now.
    pub(super) fn step(&self, now: Time) -> Option<Step> {
        let generation = self.generation;
        let peer_broke = self.said.broken.is_some();
        let break_for = |reason| Some(Step::Break { generation, reason });
        match self.phase {
            Phase::Idle { .. }
            | Phase::Called { .. }
            | Phase::Offered
            | Phase::Opening
            | Phase::Opened
            | Phase::Ready
            | Phase::Trying
            | Phase::Tried
            | Phase::Sending { .. }
                if peer_broke =>
            {
                break_for(Reason::Peer)
            }
            Phase::Idle { at } => {
                let is_due = now >= at && self.standing == Standing::Member;
                is_due.then_some(Step::Call { generation })
            }
            Phase::Called { lot } => self.after_call(lot),
            Phase::Offered => self.said.offer.map(Step::Connect),
            Phase::Opened => Some(Step::Ready),
            Phase::Ready => self.said.ready.map(|rkey| Step::Try { rkey }),
            Phase::Tried => Some(Step::Switch),
            Phase::Opening | Phase::Trying | Phase::Sending { .. } => None,
            Phase::Failed { reason, .. } => break_for(reason),
            Phase::Broken { .. } => self.said.broken.map(|delivered| Step::Reroute { delivered }),
            Phase::Quitting => Some(Step::Quit),
            Phase::Never => None,
        }
    }

    /// Whose choice it is goes by lot.
    fn after_call(&self, lot: u64) -> Option<Step> {
        let (generation, rails) = (self.generation, self.said.rails?);
        match lot.cmp(&rails.lot) {
            Ordering::Greater => Some(Step::Offer { generation, by: Choice::Ours(rails) }),
            Ordering::Equal => Some(Step::Break { generation, reason: Reason::NoRail }),
            Ordering::Less => self.said.offer.map(|LaneOffer { rail, .. }| Step::Offer {
                generation,
                by: Choice::Theirs { rail },
            }),
        }
    }

    /// The peer has said this.
    ///
    /// Errors: it cannot say this now.
    pub(super) fn hear(&mut self, message: &LaneMessage, now: Time) -> Result<(), Breach> {
        if self.phase == Phase::Never {
            return Ok(()); // It was told already, or does not expect anything.
        }
        let word = match *message {
            LaneMessage::Rails(LaneRails { generation, .. })
            | LaneMessage::Offer(LaneOffer { generation, .. })
            | LaneMessage::Ready { generation, .. }
            | LaneMessage::Switch { generation }
            | LaneMessage::Broken { generation, .. } => self.said_of(generation),
            LaneMessage::None { .. } => return self.hear_none(),
        };
        let said = word.ok_or(Breach("it speaks of another generation of the lane"))?;
        let said_before = match *message {
            LaneMessage::Rails(rails) => said.rails.replace(rails).is_some(),
            LaneMessage::Offer(offer) => said.offer.replace(offer).is_some(),
            LaneMessage::Ready { rkey, .. } => said.ready.replace(rkey).is_some(),
            LaneMessage::Switch { .. } => said.switched.replace(()).is_some(),
            LaneMessage::Broken { delivered, .. } => said.broken.replace(delivered).is_some(),
            LaneMessage::None { .. } => false,
        };
        if said_before {
            return Err(Breach("it says the same of a lane twice"));
        }
        if let Phase::Idle { at } = &mut self.phase
            && self.said.rails.is_some()
        {
            *at = now.min(*at); // It is there: no pause is needed.
        }
        Ok(())
    }

    /// What the peer has said of this generation, if it may speak of it now. Once both have said
    /// that this one is broken, the peer may be further.
    fn said_of(&mut self, generation: u32) -> Option<&mut Said> {
        let is_over = matches!(self.phase, Phase::Broken { .. }) && self.said.broken.is_some();
        if generation == self.generation {
            return Some(&mut self.said);
        }
        (is_over && generation == self.generation + 1).then_some(&mut self.said_of_next)
    }

    fn hear_none(&mut self) -> Result<(), Breach> {
        match self.phase {
            Phase::Sending { .. } | Phase::Failed { used: Used::Yes, .. } => {
                Err(Breach("it says that it has no lanes while one is in use"))
            }
            Phase::Broken { used: Used::Yes } => {
                Err(Breach("it says that it has no lanes instead of what it took"))
            }
            _ => {
                self.phase = Phase::Quitting;
                Ok(())
            }
        }
    }

    /// The rails are on their way, with this lot.
    pub(super) fn called(&mut self, lot: u64) {
        self.phase = Phase::Called { lot };
    }

    /// The offer is on its way.
    pub(super) fn offered(&mut self) {
        self.phase = Phase::Offered;
    }

    /// There is no rail now; it is tried again after a pause.
    pub(super) fn cannot_call(&mut self, now: Time) {
        self.phase = Phase::Idle { at: now + self.next_pause() };
    }

    /// There will never be a lane: the peer is told by the caller.
    pub(super) fn refuse(&mut self) {
        self.phase = Phase::Quitting;
    }

    /// The queue pair is connected, and the ring is being opened.
    pub(super) fn connected(&mut self) {
        self.phase = Phase::Opening;
    }

    /// The peer was told that it may write.
    pub(super) fn ready(&mut self) {
        self.phase = Phase::Ready;
    }

    /// The try is under way.
    pub(super) fn tried(&mut self) {
        self.phase = Phase::Trying;
    }

    /// A request is over. The one that opens the ring and the try matter, of which each is alone
    /// while it is under way.
    pub(super) fn arrived(&mut self) -> Arrived {
        self.phase = match self.phase {
            Phase::Opening => Phase::Opened,
            Phase::Trying => Phase::Tried,
            _ => return Arrived::Other,
        };
        Arrived::Awaited
    }

    /// The word of the switch is on its way.
    pub(super) fn switched(&mut self, now: Time) {
        self.phase = Phase::Sending { since: now };
    }

    /// Something failed here. Only the first failure of a generation counts.
    pub(super) fn failed(&mut self, reason: Reason, now: Time) {
        if !self.is_up() {
            return;
        }
        let used = self.used(now);
        self.phase = Phase::Failed { reason, used };
    }

    /// The queue pair is gone, and the peer was told.
    pub(super) fn broken(&mut self, now: Time) {
        let used = self.used(now);
        self.phase = Phase::Broken { used };
    }

    /// What the peer did not take is on its way: the next generation begins after a pause.
    pub(super) fn rerouted(&mut self, now: Time) {
        self.generation += 1;
        self.said = std::mem::take(&mut self.said_of_next);
        let pause = self.next_pause();
        let at = if self.said.rails.is_some() { now } else { now + pause };
        self.phase = Phase::Idle { at };
    }

    /// All is gone.
    pub(super) fn quitted(&mut self) {
        self.phase = Phase::Never;
    }

    /// Whether messages were sent; a long use makes the next pause short.
    fn used(&mut self, now: Time) -> Used {
        match self.phase {
            Phase::Sending { since } => {
                if now - since >= GOOD_USE {
                    self.pause = PAUSE_MIN;
                }
                Used::Yes
            }
            Phase::Failed { used, .. } | Phase::Broken { used } => used,
            _ => Used::No,
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Peer => "the peer ended it",
            Reason::Request => "a work request failed",
            Reason::Deadline => "a work request was not over in time",
            Reason::QueuePair => "the device failed the queue pair",
            Reason::Port => "the port went down or changed its address",
            Reason::Device => "the device is gone",
            Reason::Rules => "the peer broke the lane's rules",
            Reason::Setup => "the queue pair could not be set up",
            Reason::Access => "the peer's device refused the address or the key",
            Reason::Unanswered => "the peer's device did not answer",
            Reason::Stranger => "the peer is of another job",
            Reason::NoReceive => "the peer had no receive posted",
            Reason::NoRail => "no rail reaches one of the peer's",
            Reason::RingTooShort => "the peer's ring is too short for the longest message here",
        })
    }
}

#[cfg(test)]
#[path = "lane/tests.rs"]
mod tests;
