//! Lives: how a worker dies, and comes back into its place.
//!
//! Owns when that is, and the lives that were taken for dead and go on sending for a while. What a
//! later life has to push again is in the `journal`.
//!
//! Invariant: an earlier life asks for nothing new once a later one has begun.

use std::time::Duration;

use worker::{Incarnation, Session, Time};

use crate::cluster::{Cluster, Guest};
use crate::failure::Failure;
use crate::member::{FIRST_LIFE, Member, Phase, When, guest};
use crate::plan::Plan;
use crate::random::Random;

/// Sets the streams of lives apart from those of workers and readers.
const LIVES_STREAM: u64 = 1 << 41;
/// How often one worker dies at most.
const DEATHS_MAX: u32 = 4;
/// How much less often a worker dies in a turn than before a push.
const TURNS_A_PUSH: u64 = 20;
/// How long a worker is away at most, in nanoseconds.
const AWAY_NS_MAX: u64 = 400_000_000;
/// How long a life that was taken for dead goes on sending at most, in nanoseconds.
const UNDEAD_NS_MAX: u64 = 2_000_000_000;

/// The lives of one worker.
pub(crate) struct Lives {
    random: Random,
    life: Incarnation,
    deaths_left: u32,
    /// Earlier ones that still run, and until when.
    undead: Vec<(Session, Time)>,
}

impl Lives {
    /// The first one.
    pub(crate) fn new(seed: u64, worker: u32) -> Lives {
        let random = Random::new(seed, LIVES_STREAM + u64::from(worker));
        Lives { random, life: FIRST_LIFE, deaths_left: DEATHS_MAX, undead: Vec::new() }
    }

    /// How the cluster knows the newest one.
    pub(crate) fn guest(&self, worker: u32) -> Guest {
        guest(worker, self.life)
    }

    fn dies(&mut self, of: u64, per_mille: u64) -> bool {
        self.deaths_left > 0 && per_mille > 0 && self.random.below(1000 * of) < per_mille
    }
}

impl Member {
    /// Whether it dies now, whatever it is about.
    pub(crate) fn dies_in_turn(&mut self, plan: &Plan) -> bool {
        self.lives.dies(TURNS_A_PUSH, plan.deaths_per_mille)
    }

    /// Whether it dies now that it was to push.
    pub(crate) fn dies_before_push(&mut self, plan: &Plan) -> bool {
        self.lives.dies(1, plan.deaths_per_mille)
    }

    /// It dies; or it is taken for dead, and its session goes on with what it was asked for.
    pub(crate) fn die(&mut self, cluster: &Cluster, plan: &Plan) {
        let (now, lives) = (cluster.now(), &mut self.lives);
        lives.deaths_left -= 1;
        lives.life = Incarnation::new(lives.life.get() + 1);
        let until = now + Duration::from_nanos(lives.random.below(AWAY_NS_MAX));
        let goes_on_until = now + Duration::from_nanos(lives.random.below(UNDEAD_NS_MAX));
        let is_undead = lives.random.below(2) == 0;
        let next = cluster.session(lives.guest(self.worker), plan);
        let before = std::mem::replace(&mut self.session, next);
        self.tally.deaths += 1;
        if is_undead {
            self.tally.undead += 1;
            self.lives.undead.push((before, goes_on_until));
        }
        (self.next, self.epochs) = (None, Vec::new());
        self.pulled.clear();
        self.journal.begin_life();
        self.phase = Phase::Dead { until };
    }

    /// Takes its place again, and pushes what is written down and some shard lacks.
    pub(crate) fn begin_life(&mut self, cluster: &Cluster, plan: &Plan) -> Result<(), Failure> {
        self.take_part(cluster, plan)?;
        self.phase = match self.session.clock().get() < self.journal.clocks() {
            true => Phase::Pushing { number: 0 },
            false => Phase::Asking(When::AtOnce),
        };
        Ok(())
    }

    /// Earlier lives send what they were asked for, until a shard tells them that they are over.
    pub(crate) fn turn_undead(&mut self, now: Time) {
        self.lives.undead.retain_mut(|(session, until)| {
            let goes_on = now < *until && session.poll().is_ok();
            if goes_on {
                session.park(session.now() + UNDEAD_EVERY);
            }
            goes_on
        });
    }
}

/// How often an earlier life has a turn at least.
const UNDEAD_EVERY: Duration = Duration::from_millis(5);
