//! Notes: what a server has to say to the coordinator of its chains and stores.
//!
//! Owns what the cores have reported and the coordinator has not yet acted on. Saying it is left to
//! `agent`.
//!
//! Invariant: a report is said again on each new link until a placement has overtaken it.

use std::collections::{BTreeMap, BTreeSet};

use wire::{
    ChainReport, Observation, Placement, ServerId, ServerWork, ShardId, StoreReport, StoreState,
};

/// Suspicions that wait to be sent; further ones are dropped, since each is only a hint.
const SUSPECTS_MAX: usize = 64;

/// What a server has to say of its chains, and has said: each report once over each link, until a
/// placement has overtaken it.
#[derive(Debug, Default)]
pub struct Notes {
    /// The newest report of each kind on each shard.
    seen: BTreeMap<(ShardId, Topic), Note>,
    /// By shard, and whether it is a load: how far that is.
    stored: BTreeMap<(ShardId, bool), (StoreReport, Said)>,
    suspects: BTreeSet<ServerId>,
    work: Option<ServerWork>,
}

#[derive(Debug)]
struct Note {
    observation: Observation,
    said: Said,
}

/// Whether something was said on this link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Yes,
    NotYet,
}

/// Kinds of reports, of which a later one replaces an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Fill,
    Refusal,
    Successor,
}

impl Notes {
    /// Notes what is seen in a chain; it takes the place of what was seen of the kind before.
    pub fn report(&mut self, observation: Observation) {
        let topic = match observation.report {
            ChainReport::Filling { .. } | ChainReport::Filled => Topic::Fill,
            ChainReport::Refused { .. } => Topic::Refusal,
            ChainReport::SuccessorLost | ChainReport::SuccessorBack => Topic::Successor,
        };
        let note = Note { said: Said::NotYet, observation };
        self.seen.insert((note.observation.shard, topic), note);
    }

    /// Notes how far a recording or a load is; it takes the place of what was noted before, but for
    /// what is of a later attempt: one that was given up may end after its successor has begun.
    pub fn store(&mut self, report: StoreReport) {
        use StoreState::{Loaded, Loading, NotLoaded};
        let is_load = matches!(report.state, Loading | Loaded | NotLoaded { .. });
        let attempt = |one: &StoreReport| (one.number, one.attempt);
        let known = self.stored.get(&(report.shard, is_load));
        if known.is_none_or(|(known, _)| attempt(known) <= attempt(&report)) {
            self.stored.insert((report.shard, is_load), (report, Said::NotYet));
        }
    }

    /// Notes that a link to a server is gone.
    pub fn suspect(&mut self, server: ServerId) {
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.insert(server);
        }
    }

    /// Notes what the server holds and has done.
    pub fn work(&mut self, work: ServerWork) {
        self.work = Some(work);
    }

    /// What the server holds and has done, if that was noted since the last time.
    pub fn take_work(&mut self) -> Option<ServerWork> {
        self.work.take()
    }

    /// There is a new link: all that holds is to be said over it.
    pub fn begin_link(&mut self) {
        self.seen.values_mut().for_each(|note| note.said = Said::NotYet);
        self.stored.values_mut().for_each(|(_, said)| *said = Said::NotYet);
    }

    /// The server is no member any more: it sees nothing.
    pub fn clear(&mut self) {
        self.seen.clear();
        self.stored.clear();
    }

    /// The servers whose links are gone, to be said; once each.
    pub fn take_suspects(&mut self) -> BTreeSet<ServerId> {
        std::mem::take(&mut self.suspects)
    }

    /// What has not been said on this link; from now on it has.
    pub fn unsaid(&mut self) -> Vec<Observation> {
        let unsaid = self.seen.values_mut().filter(|note| note.said == Said::NotYet);
        unsaid
            .map(|note| {
                note.said = Said::Yes;
                note.observation.clone()
            })
            .collect()
    }

    /// How far recordings and loads are, as far as that was not said on this link. From now on it
    /// has.
    pub fn unsaid_of_stores(&mut self) -> Vec<StoreReport> {
        let unsaid = self.stored.values_mut().filter(|(_, said)| *said == Said::NotYet);
        unsaid
            .map(|(report, said)| {
                *said = Said::Yes;
                report.clone()
            })
            .collect()
    }

    /// Forgets what a placement has overtaken.
    pub fn prune(&mut self, placement: &Placement) {
        self.seen.retain(|(shard, _), note| {
            placement.chain(*shard).is_none_or(|chain| chain.epoch <= note.observation.chain)
        });
    }
}

#[cfg(test)]
mod tests {
    use wire::Clock;

    use super::*;

    #[test]
    fn an_attempt_that_ends_late_does_not_take_the_place_of_what_the_next_one_says() {
        let report = |attempt, state| {
            let (shard, number) = (ShardId::new(0), 1);
            StoreReport { shard, number, attempt, state }
        };
        let marked = report(1, StoreState::Marked { clock: Clock::new(3), bytes: 64 });
        let given_up = report(0, StoreState::NotRecorded { reason: "unwanted".to_owned() });
        let mut notes = Notes::default();
        notes.store(marked.clone());
        notes.store(given_up);
        assert_eq!(notes.unsaid_of_stores(), [marked]);
        assert_eq!(notes.unsaid_of_stores(), []);
        let ended = report(1, StoreState::NotRecorded { reason: "the store is full".to_owned() });
        notes.store(ended.clone());
        assert_eq!(notes.unsaid_of_stores(), [ended]);
    }
}
