//! Callers: who has a link to a coordinator and makes it again, a server's agent or a worker's
//! watch.
//!
//! Owns where a caller stands, by the times of `server::Agent` and `worker::Watch`, which have
//! threads and sockets for it. What a server says of its chains is the agent's, `server::Notes`.
//!
//! Invariant: epochs that a caller knows never go back.

use std::time::Duration;

use server::Notes;
use server::coordinator::{BEAT_EVERY, ConnectionId};
use wire::{
    Applicant, Apply, Beat, Candidate, Denial, Epoch, Life, Placement, Time, ToCoordinator,
    ToMember,
};

use super::CLUSTER;
use super::control::Control;
use super::recording::RecordingOrder;

/// The first pause after a link that failed, or that a coordinator had welcomed a server over; each
/// further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often a watch beats.
const WATCH_BEAT_EVERY: Duration = Duration::from_secs(1);

/// A caller.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Which life of whoever calls: what is planned for another is void.
    pub(crate) process: u64,
    /// What a server says of itself; none of a watch.
    candidate: Option<Candidate>,
    pub(crate) link: Option<ConnectionId>,
    /// How many links it has had or tried: beats that are planned for another are void.
    pub(crate) tries: u64,
    pause: Duration,
    tried_at: Time,
    heard_at: Time,
    pub(crate) epoch: Epoch,
    pub(crate) notes: Notes,
}

/// What a caller was told, of what matters.
#[derive(Debug)]
pub(crate) enum Told {
    /// It is a member.
    Welcome(Life),
    /// There is a newer placement.
    Placement(Placement),
    /// It is no member any more, or was not taken: its link is over.
    Removed,
    Denied,
    /// What it is to do about checkpoints.
    Ordered(RecordingOrder),
    Nothing,
}

impl Caller {
    pub(crate) fn new(process: u64, candidate: Option<Candidate>) -> Caller {
        Caller {
            process,
            candidate,
            link: None,
            tries: 0,
            pause: PAUSE_MIN,
            tried_at: Time::default(),
            heard_at: Time::default(),
            epoch: Epoch::default(),
            notes: Notes::default(),
        }
    }

    /// Which coordinator it tries now.
    pub(crate) fn begin_try(&mut self, now: Time, seats: usize) -> usize {
        self.tried_at = now;
        self.tries += 1;
        self.tries as usize % seats
    }

    /// It has a link: it applies.
    pub(crate) fn begin_link(&mut self, now: Time, id: ConnectionId, control: &mut Control) {
        (self.link, self.heard_at) = (Some(id), now);
        let applicant = match &self.candidate {
            Some(candidate) => Applicant::Server(candidate.clone()),
            None => Applicant::Watcher,
        };
        let apply = Apply::new(CLUSTER, self.epoch, applicant);
        control.say(now, id, ToCoordinator::Apply(apply));
        self.notes.begin_link();
    }

    /// Its link is over. After which pause it tries again.
    pub(crate) fn end_link(&mut self, now: Time) -> Duration {
        self.link = None;
        if now - self.tried_at > self.silent_max() {
            self.pause = PAUSE_MIN;
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Whether the coordinator has said nothing for too long.
    pub(crate) fn is_silent(&self, now: Time) -> bool {
        now - self.heard_at > self.silent_max()
    }

    /// Beats, and says what is to be said.
    pub(crate) fn beat(&mut self, now: Time, control: &mut Control) {
        let Some(id) = self.link else { return };
        let seen = self.notes.unsaid();
        let beat = Beat { sent_ns: now.nanos(), epoch: self.epoch, seen, work: None };
        control.say(now, id, ToCoordinator::Beat(beat));
        for report in self.notes.unsaid_of_stores() {
            control.say(now, id, ToCoordinator::Stored(report));
        }
        self.suspect(now, control);
    }

    /// Says whose links are gone.
    pub(crate) fn suspect(&mut self, now: Time, control: &mut Control) {
        let Some(id) = self.link else { return };
        for server in self.notes.take_suspects() {
            control.say(now, id, ToCoordinator::Suspect { server, epoch: self.epoch });
        }
    }

    /// Whether it is a server's that is a member.
    pub(crate) fn is_member(&self) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| candidate.life.is_some())
    }

    pub(crate) fn beat_every(&self) -> Duration {
        if self.candidate.is_some() { BEAT_EVERY } else { WATCH_BEAT_EVERY }
    }

    /// Takes in what a coordinator says.
    pub(crate) fn take(&mut self, now: Time, message: ToMember) -> Told {
        self.heard_at = now;
        match message {
            ToMember::Welcome(welcome) => match (&mut self.candidate, welcome.life) {
                (Some(candidate), Some(life)) => {
                    candidate.life = Some(life);
                    self.pause = PAUSE_MIN;
                    Told::Welcome(life)
                }
                _ => Told::Nothing,
            },
            ToMember::Placement(placement) if placement.epoch > self.epoch => {
                self.epoch = placement.epoch;
                self.notes.prune(&placement);
                Told::Placement(placement)
            }
            ToMember::Denied(Denial::Removed { .. }) => {
                self.candidate.iter_mut().for_each(|candidate| candidate.life = None);
                self.notes.clear();
                Told::Removed
            }
            ToMember::Denied(_) => Told::Denied,
            ToMember::Record(order) => Told::Ordered(RecordingOrder::Begin(order)),
            ToMember::Cut { number, clock } => Told::Ordered(RecordingOrder::Cut(number, clock)),
            ToMember::EndRecordings { number } => Told::Ordered(RecordingOrder::End(number)),
            _ => Told::Nothing,
        }
    }

    /// How long a coordinator may say nothing.
    fn silent_max(&self) -> Duration {
        Duration::from_secs(if self.candidate.is_some() { 1 } else { 3 })
    }
}
