//! The conductor: when a checkpoint is taken, who records what, and where it is cut.
//!
//! Owns one checkpoint at a time, from its number to its manifest. The store is left to
//! `checkpointer`, recording to the servers; it is pure, as all of the machine.
//!
//! The tails are asked for their clocks, twice or three times, and then the cut is chosen: a clock
//! after the highest that the slowest worker has on any shard, as far ahead as every tail needs to
//! hear of it. Each records what its shard is as it gets there. One that was beyond it when it
//! heard says so, and the checkpoint is begun again with a cut that is farther ahead. Where workers
//! stand still no clock is reached: after a while the cut is where each shard is.
//!
//! Invariant: a checkpoint ends, well or not, by [`CHECKPOINT_MAX`] and the store's own deadlines;
//! the job goes on either way.

use std::collections::BTreeSet;
use std::time::Duration;

use wire::{
    CheckpointStatus, CheckpointTaken, CheckpointUnderWay, Clock, RecordOrder, RecordedPart,
    ServerId, ShardId, StoreReport, StoreState, StoredValues, Time, ToMember,
};

use self::base::Base;
use self::cut::First;
use super::census::Health;
use super::checkpointer::{Parts, StoreNews, StoreTask};
use super::event::Action;
use super::machine::Machine;
use super::view::millis;

/// How long taking a checkpoint may take, its publication aside.
pub const CHECKPOINT_MAX: Duration = Duration::from_secs(3600);

/// How long it is waited for the clock of the cut.
pub const CUT_PATIENCE: Duration = Duration::from_secs(10);

/// How often a part may be begun again in one checkpoint.
pub const PART_ATTEMPTS_MAX: u32 = 8;

/// How often a checkpoint may be begun again, since a part failed after its cut was chosen.
pub const CHECKPOINT_ATTEMPTS_MAX: u32 = 3;

/// How often an order is said again that nobody has answered: its link may have been lost.
const SAY_AGAIN_EVERY: Duration = Duration::from_secs(2);

/// How soon a part is begun again.
const PART_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long a shard may be without anybody who could record it.
pub const PART_PATIENCE: Duration = Duration::from_secs(60);

/// What a coordinator does about checkpoints of its own accord.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conduct {
    /// Where they lie, as servers know it; none: none are taken.
    pub(super) place: Option<String>,
    /// How often; none: when somebody asks.
    pub(super) every: Option<Duration>,
    /// As [`RecordOrder::rate_mib_s`].
    pub(super) rate_mib_s: Option<u32>,
    /// One in so many has everything.
    pub(super) full_every: u32,
    /// How numbers of rows are written that may be rounded.
    pub(super) values: StoredValues,
}

/// The conductor's state.
#[derive(Debug, Default)]
pub(super) struct Conductor {
    plan: Conduct,
    stage: Stage,
    /// When the next one is due.
    due: Option<Time>,
    is_wanted: bool,
    attempts: u32,
    last: Option<(CheckpointTaken, Option<Time>)>,
    base: Option<Base>,
    ended: u64,
    failure: Option<String>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// A number is being taken.
    Beginning {
        since: Time,
    },
    Recording(Taking),
    /// The manifest is being written.
    Publishing(Taking),
}

/// A checkpoint that has a number.
#[derive(Debug)]
struct Taking {
    number: u64,
    /// The checkpoint since which changes are enough.
    base: Option<u64>,
    since: Time,
    parts: Vec<Part>,
    /// What the clocks were when all had said theirs once.
    first: Option<First>,
    /// Where it is cut, and since when that is known.
    cut: Option<(Option<Clock>, Time)>,
    /// When orders were said last.
    said_at: Time,
}

#[derive(Clone, Debug)]
struct Part {
    /// Attempts that were begun.
    attempts: u32,
    state: PartState,
}

#[derive(Clone, Debug)]
enum PartState {
    /// Nobody records it; somebody is asked then.
    Wanted {
        at: Time,
    },
    Asked {
        server: ServerId,
        bytes: u64,
    },
    Marked {
        server: ServerId,
        clock: Clock,
        bytes: u64,
        /// Whether it was asked again and has answered.
        again: bool,
    },
    Done(RecordedPart),
}

impl PartState {
    fn server(&self) -> Option<ServerId> {
        match self {
            PartState::Asked { server, .. } | PartState::Marked { server, .. } => Some(*server),
            PartState::Wanted { .. } | PartState::Done(_) => None,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            PartState::Wanted { .. } => 0,
            PartState::Asked { bytes, .. } | PartState::Marked { bytes, .. } => *bytes,
            PartState::Done(part) => part.bytes,
        }
    }
}

impl Conductor {
    pub(super) fn new(plan: Conduct, now: Time) -> Conductor {
        let due = plan.every.map(|every| now + every);
        Conductor { plan, due, ..Conductor::default() }
    }

    /// For people; none where there is no place.
    pub(super) fn status(&self, now: Time) -> Option<CheckpointStatus> {
        let place = self.plan.place.clone()?;
        let last = self.last.as_ref().map(|(taken, at)| {
            let since = at.map_or(0, |at| millis(now - at));
            CheckpointTaken { ago_ms: taken.ago_ms.saturating_add(since), ..taken.clone() }
        });
        let under_way = match &self.stage {
            Stage::Idle => None,
            Stage::Beginning { since } => Some(CheckpointUnderWay {
                number: None,
                parts_marked: 0,
                parts_done: 0,
                parts: 0,
                bytes: 0,
                since_ms: millis(now - *since),
            }),
            Stage::Recording(taking) | Stage::Publishing(taking) => Some(taking.status(now)),
        };
        let (ended, failure) = (self.ended, self.failure.clone());
        Some(CheckpointStatus { place, last, under_way, ended, failure })
    }
}

impl Taking {
    fn status(&self, now: Time) -> CheckpointUnderWay {
        let count = |is_it: fn(&PartState) -> bool| {
            self.parts.iter().filter(|part| is_it(&part.state)).count()
        };
        let is_done = |state: &PartState| matches!(state, PartState::Done(_));
        let is_marked =
            |state: &PartState| matches!(state, PartState::Marked { .. } | PartState::Done(_));
        CheckpointUnderWay {
            number: Some(self.number),
            parts_marked: count(is_marked),
            parts_done: count(is_done),
            parts: self.parts.len(),
            bytes: self.parts.iter().map(|part| part.state.bytes()).sum(),
            since_ms: millis(now - self.since),
        }
    }
}

impl Machine {
    /// Somebody wants a checkpoint.
    pub(super) fn wish_for_checkpoint(&mut self) -> Result<(), String> {
        if self.conductor.plan.place.is_none() {
            return Err("the coordinator was started without --checkpoints".to_owned());
        }
        if self.placement.chains.is_empty() {
            return Err("nothing is placed yet".to_owned());
        }
        if self.is_restoring() {
            return Err("the cluster is still being restored".to_owned());
        }
        if !matches!(self.conductor.stage, Stage::Idle) || self.conductor.is_wanted {
            return Err("a checkpoint is being taken already".to_owned());
        }
        self.conductor.is_wanted = true;
        Ok(())
    }

    /// What the store has to say.
    pub(super) fn hear_of_store(&mut self, news: StoreNews, now: Time) {
        let stage = std::mem::take(&mut self.conductor.stage);
        match (stage, news) {
            (stage, StoreNews::Found { taken }) => {
                self.conductor.stage = stage;
                // Coordinators that follow each other take them as often as one would.
                let every = self.conductor.plan.every;
                let left = every.map(|it| it.saturating_sub(Duration::from_millis(taken.ago_ms)));
                let due = left.map(|left| now + left);
                self.conductor.due = self.conductor.due.min(due);
                self.conductor.last.get_or_insert((taken, Some(now)));
            }
            (Stage::Beginning { since }, StoreNews::Begun { number }) => {
                let part = Part { attempts: 0, state: PartState::Wanted { at: now } };
                let parts = vec![part; self.placement.chains.len()];
                let base = self.conductor.next_base();
                let taking =
                    Taking { number, base, since, parts, first: None, cut: None, said_at: now };
                self.conductor.stage = Stage::Recording(taking);
            }
            (Stage::Publishing(taking), StoreNews::Published { number, bytes, rows, clock }) => {
                let took_ms = Some(millis(now - taking.since));
                self.conductor.note_base(&taking);
                let taken = CheckpointTaken { number, bytes, rows, clock, ago_ms: 0, took_ms };
                self.conductor.last = Some((taken, Some(now)));
                self.end_checkpoint(None, now);
            }
            (Stage::Idle, _) => {}
            (stage, StoreNews::Failed { why }) => {
                self.conductor.stage = stage;
                self.give_checkpoint_up(why, now);
            }
            (stage, _) => self.conductor.stage = stage,
        }
    }

    /// Takes what a server says of a recording.
    pub(super) fn hear_of_part(&mut self, from: ServerId, report: StoreReport, now: Time) {
        let Stage::Recording(taking) = &mut self.conductor.stage else { return };
        let StoreReport { shard, number, attempt, state } = report;
        let again = taking.first.is_some_and(|first| first.asked_again.is_some());
        let base = taking.base;
        let Some(part) = taking.parts.get_mut(shard.index()) else { return };
        let is_newest = number == taking.number && attempt + 1 == part.attempts;
        if !is_newest || part.state.server() != Some(from) {
            return;
        }
        part.state = match state {
            StoreState::Recording { bytes } => PartState::Asked { server: from, bytes },
            StoreState::Marked { clock, bytes } => {
                PartState::Marked { server: from, clock, bytes, again }
            }
            StoreState::Recorded(recorded) if recorded.base.is_some_and(|it| Some(it) != base) => {
                return self.lose_part(shard, "it has the changes since another checkpoint", now);
            }
            StoreState::Recorded(recorded) => PartState::Done(recorded),
            StoreState::NotRecorded { reason } => return self.lose_part(shard, &reason, now),
            StoreState::Loading | StoreState::Loaded | StoreState::NotLoaded { .. } => return,
        };
    }

    /// Goes on with what is under way, and begins what is due.
    pub(super) fn conduct(&mut self, now: Time) {
        match &self.conductor.stage {
            Stage::Idle => self.begin_due_checkpoint(now),
            Stage::Recording(_) => self.go_on_recording(now),
            // The store has deadlines of its own.
            Stage::Beginning { .. } | Stage::Publishing(_) => {}
        }
    }

    fn begin_due_checkpoint(&mut self, now: Time) {
        let is_due = self.conductor.due.is_some_and(|due| now >= due);
        let may_be = !self.placement.chains.is_empty() && !self.is_restoring();
        if self.conductor.plan.place.is_some() && (is_due || self.conductor.is_wanted) && may_be {
            self.conductor.is_wanted = false;
            self.conductor.stage = Stage::Beginning { since: now };
            let shards = self.placement.chains.len() as u16;
            self.actions.push(Action::Store(StoreTask::Begin { shards }));
        }
    }

    fn go_on_recording(&mut self, now: Time) {
        self.lose_parts_of_the_gone(now);
        let Stage::Recording(taking) = &mut self.conductor.stage else { return };
        let waits = |part: &Part| match part.state {
            PartState::Wanted { at } => now - at > PART_PATIENCE,
            _ => false,
        };
        if let Some(shard) = taking.parts.iter().position(waits) {
            let why =
                format!("nobody could record shard {shard} for {} s", PART_PATIENCE.as_secs());
            return self.give_checkpoint_up(why, now);
        }
        if now - taking.since > CHECKPOINT_MAX {
            let why = format!("not done after {} s", CHECKPOINT_MAX.as_secs());
            return self.give_checkpoint_up(why, now);
        }
        if taking.cut.is_none()
            && let Some(highest) = taking.highest()
        {
            let has_all_again = taking.has_all_again();
            let first = taking.first.get_or_insert(First::new(highest, now));
            if has_all_again && first.wants_later(highest) {
                taking.forget_again();
            } else if first.go_on(now).is_too_long_ago(now) || has_all_again {
                taking.cut = Some((first.cut(highest, now, self.conductor.attempts), now));
                self.say_cut();
            }
        }
        let Stage::Recording(taking) = &mut self.conductor.stage else { return };
        if let Some((Some(_), since)) = taking.cut
            && now - since > CUT_PATIENCE
        {
            taking.cut = Some((None, now));
            self.say_cut();
        }
        self.order_parts(now);
        let Stage::Recording(taking) = &self.conductor.stage else { return };
        if taking.parts.iter().all(|part| matches!(part.state, PartState::Done(_))) {
            self.publish();
        }
    }

    /// Servers that are not in their chains any more record nothing that counts.
    fn lose_parts_of_the_gone(&mut self, now: Time) {
        let Stage::Recording(taking) = &self.conductor.stage else { return };
        let gone =
            self.placement.shards().zip(&taking.parts).filter_map(|((shard, chain), part)| {
                let server = part.state.server()?;
                (!chain.replicas.contains(&server)).then_some((shard, server))
            });
        for (shard, server) in gone.collect::<Vec<_>>() {
            self.lose_part(shard, &format!("{server} has left the chain of {shard}"), now);
        }
    }

    /// A part failed: it is begun again, or everything is, or nothing.
    fn lose_part(&mut self, shard: ShardId, why: &str, now: Time) {
        let Stage::Recording(taking) = &mut self.conductor.stage else { return };
        let part = &mut taking.parts[shard.index()];
        if part.attempts >= PART_ATTEMPTS_MAX {
            let why = format!("{shard}, after {PART_ATTEMPTS_MAX} attempts: {why}");
            return self.give_checkpoint_up(why, now);
        }
        if let Some((Some(_), _)) = taking.cut {
            // Other parts end at that clock, which a new one would begin behind.
            self.conductor.attempts += 1;
            let why = format!("{shard}: {why}");
            if self.conductor.attempts >= CHECKPOINT_ATTEMPTS_MAX {
                return self.give_checkpoint_up(why, now);
            }
            self.drop_checkpoint(why);
            self.conductor.is_wanted = true;
            return;
        }
        part.state = PartState::Wanted { at: now + PART_AGAIN_AFTER };
    }

    /// Asks tails for the parts that nobody records, and says again what may be lost.
    fn order_parts(&mut self, now: Time) {
        let Stage::Recording(taking) = &mut self.conductor.stage else { return };
        let says_again = now - taking.said_at >= SAY_AGAIN_EVERY;
        if says_again {
            taking.said_at = now;
        }
        // An order that is said again to who has said its clock asks for it again.
        let asked_again = taking.first.and_then(|first| first.asked_again);
        let asks_again = asked_again.is_some_and(|since| since == now || says_again);
        let mut orders = Vec::new();
        for ((shard, chain), part) in self.placement.shards().zip(&mut taking.parts) {
            let server = match part.state {
                // A server that is being filled is repair, and goes first.
                PartState::Wanted { at } if now >= at && chain.joining.is_none() => {
                    let Some(&tail) = chain.replicas.last() else { continue };
                    let is_fit = self.census.get(tail).is_some_and(|it| it.health == Health::Fit);
                    if !is_fit {
                        continue;
                    }
                    part.attempts += 1;
                    part.state = PartState::Asked { server: tail, bytes: 0 };
                    tail
                }
                PartState::Asked { server, .. } if says_again => server,
                PartState::Marked { server, again: false, .. } if asks_again => server,
                _ => continue,
            };
            orders.push((server, shard, part.attempts - 1));
        }
        let (number, base, since) = (taking.number, taking.base, taking.since);
        if says_again && taking.cut.is_some() {
            self.say_cut();
        }
        let place = self.conductor.plan.place.clone().unwrap_or_default();
        for (server, shard, attempt) in orders {
            let order = RecordOrder {
                number,
                cluster_id: self.cluster_id,
                shard,
                attempt,
                place: place.clone(),
                rate_mib_s: self.conductor.plan.rate_mib_s,
                limit_ms: millis(CHECKPOINT_MAX.saturating_sub(now - since)),
                base,
                is_base: self.conductor.plan.full_every > 1,
                values: self.conductor.plan.values,
            };
            self.tell_server(server, ToMember::Record(order));
        }
    }

    /// Tells all who record where the cut is.
    fn say_cut(&mut self) {
        let Stage::Recording(taking) = &self.conductor.stage else { return };
        let Some((clock, _)) = taking.cut else { return };
        let number = taking.number;
        for server in taking.servers() {
            self.tell_server(server, ToMember::Cut { number, clock });
        }
    }

    fn publish(&mut self) {
        let stage = std::mem::take(&mut self.conductor.stage);
        let Stage::Recording(taking) = stage else { return };
        let done = taking.parts.iter().filter_map(|part| match &part.state {
            PartState::Done(recorded) => Some(recorded.clone()),
            _ => None,
        });
        let clock = taking.cut.and_then(|(clock, _)| clock);
        let parts = Parts { epoch: self.placement.epoch, clock, parts: done.collect() };
        self.actions.push(Action::Store(StoreTask::Publish(Box::new(parts))));
        self.conductor.stage = Stage::Publishing(taking);
    }

    /// What was recorded is of no use; nobody records on.
    fn drop_checkpoint(&mut self, why: String) {
        let stage = std::mem::take(&mut self.conductor.stage);
        if let Stage::Recording(taking) | Stage::Publishing(taking) = stage {
            let number = taking.number;
            for server in taking.servers() {
                self.tell_server(server, ToMember::EndRecordings { number });
            }
        }
        self.actions.push(Action::Store(StoreTask::Abandon { why }));
    }

    fn give_checkpoint_up(&mut self, why: String, now: Time) {
        self.drop_checkpoint(why.clone());
        self.end_checkpoint(Some(why), now);
    }

    fn end_checkpoint(&mut self, failure: Option<String>, now: Time) {
        let conductor = &mut self.conductor;
        conductor.ended += 1;
        conductor.failure = failure;
        conductor.attempts = 0;
        conductor.due = conductor.plan.every.map(|every| now + every);
    }

    fn tell_server(&mut self, server: ServerId, message: ToMember) {
        let connection = self.census.get(server).and_then(|server| server.connection);
        if let Some(connection) = connection {
            self.send(connection, message);
        }
    }
}

impl Taking {
    fn servers(&self) -> BTreeSet<ServerId> {
        self.parts.iter().filter_map(|part| part.state.server()).collect()
    }
}

mod base;
mod cut;
#[cfg(test)]
mod tests;
