//! A run: a cluster is set up, its workers finish their clocks, and the counters are checked.
//!
//! Owns the order of turns. What a worker does in its turn is left to `member`.

use std::collections::BTreeMap;

use kernels::Isa;
use server::coordinator;
use shard::Mutation;
use transport::simulated;
use worker::{Staleness, Time};

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::fleet::{
    Counts as ServerCounts, Fleet, Published, StoreDefect, VaultCounts, VaultDefect,
};
use crate::ledger::Ledger;
use crate::member::Member;
use crate::plan::Plan;
use crate::reader::Reader;

/// World time that a job may take, in nanoseconds. Where one message of nine is lost, and two are
/// under way, a job takes more than an hour, and little of a processor. What else a run may do is
/// bounded by `pace`.
const RUN_MAX_NS: u64 = 4 * 3_600_000_000_000;

/// World time after which no copy of a message is under way any more, in nanoseconds.
const SETTLE_NS: u64 = 100_000_000;

/// World time after which a cluster that nothing befalls any more is whole, in nanoseconds.
const CALM_NS_MAX: u64 = 60_000_000_000;

/// World time after which replicas hold the same, in nanoseconds: some losses of the last message.
const CATCH_UP_NS_MAX: u64 = 10_000_000_000;

/// What a run follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Draws the plan, the faults and what each worker does.
    pub seed: u64,
    /// The instruction set of every host's kernels; it changes nothing.
    pub isa: Isa,
    /// What is wrong on purpose.
    pub defect: Defect,
}

/// A defect put in on purpose, so that a test can show that it would be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defect {
    /// None.
    #[default]
    None,
    /// In every shard.
    Shard(Mutation),
    /// In every coordinator.
    Coordinator(coordinator::Defect),
    /// In the coordinators' store.
    Store(StoreDefect),
    /// In the store of checkpoints.
    Vault(VaultDefect),
}

impl Defect {
    pub(crate) fn shard(self) -> Mutation {
        if let Defect::Shard(mutation) = self { mutation } else { Mutation::None }
    }

    pub(crate) fn coordinator(self) -> coordinator::Defect {
        if let Defect::Coordinator(defect) = self { defect } else { coordinator::Defect::None }
    }

    pub(crate) fn store(self) -> StoreDefect {
        if let Defect::Store(defect) = self { defect } else { StoreDefect::None }
    }

    pub(crate) fn vault(self) -> VaultDefect {
        if let Defect::Vault(defect) = self { defect } else { VaultDefect::None }
    }
}

/// What happened in a run that kept all promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A hash of every message that arrived, with its time.
    pub trace_hash: u64,
    /// World time that it took.
    pub took: Time,
    /// Steps of the world that it took.
    pub steps: u64,
    /// What befell the messages.
    pub network: simulated::Counts,
    /// What the sessions counted, together.
    pub sessions: worker::Counts,
    /// How far workers were allowed to be apart.
    pub staleness: Staleness,
    /// Pushes that were asked of sessions.
    pub pushes: u64,
    /// Pulls that were asked of sessions and checked.
    pub pulls: u64,
    /// Links that broke and were made anew.
    pub reconnects: u64,
    /// Workers that died and came back into their places.
    pub deaths: u64,
    /// Of those, the ones that were only taken for dead.
    pub undead: u64,
    /// What befell servers in chains.
    pub servers: ServerCounts,
    /// What has happened to checkpoints.
    pub checkpoints: VaultCounts,
    /// How long each read of each reader took, in ns of world time.
    pub reads_ns: Vec<u64>,
}

/// Runs the job of [`Plan::from_seed`].
///
/// - Errors: as [`run_plan`].
pub fn run(setup: &Setup) -> Result<Report, Failure> {
    run_plan(setup, &Plan::from_seed(setup.seed))
}

/// Runs a job from its start to its end and checks every promise on the way.
///
/// - Errors: the first broken promise.
pub fn run_plan(setup: &Setup, plan: &Plan) -> Result<Report, Failure> {
    let cluster = Cluster::new(setup.seed, plan, setup.isa, setup.defect)?;
    let ledger = Ledger::new(plan);
    let keys = ledger.keys();
    let members = (0..plan.workers)
        .map(|worker| Member::join(&cluster, setup.seed, plan, worker, keys.len()));
    let members = members.collect::<Result<Vec<_>, _>>()?;
    let readers = if plan.chains.is_some() { plan.readers } else { 0 };
    let readers = (0..readers).map(|reader| Reader::join(&cluster, setup.seed, plan, reader));
    let readers = readers.collect::<Result<Vec<_>, _>>()?;
    let known = BTreeMap::new();
    let mut run = Run { cluster: &cluster, plan, members, readers, ledger, known };
    run.take_turns(RUN_MAX_NS, |run| run.members.iter().all(Member::is_over))?;
    run.calm()?;
    let settled_ns = cluster.now().nanos() + SETTLE_NS;
    run.take_turns(RUN_MAX_NS, |_| cluster.now().nanos() >= settled_ns)?;
    let equal = || cluster.with_fleet(Fleet::check_replicas).unwrap_or(Ok(()));
    let caught_up_ns = cluster.now().nanos() + CATCH_UP_NS_MAX;
    run.take_turns(RUN_MAX_NS, |_| equal().is_ok() || cluster.now().nanos() > caught_up_ns)?;
    equal()?;
    check_sums(&cluster, &mut run.members[0], &run.ledger)?;
    for member in &mut run.members {
        member.leave(&cluster)?;
    }
    Ok(report(&run))
}

/// A job under way.
struct Run<'a> {
    cluster: &'a Cluster,
    plan: &'a Plan,
    members: Vec<Member>,
    readers: Vec<Reader>,
    ledger: Ledger,
    /// By number of a checkpoint: what was acknowledged of each key when it was begun.
    known: BTreeMap<u64, Vec<u64>>,
}

impl Run<'_> {
    /// Nothing befalls servers any more, and every chain becomes whole.
    fn calm(&mut self) -> Result<(), Failure> {
        let (cluster, now) = (self.cluster, self.cluster.now());
        cluster.with_fleet(|fleet| fleet.calm(now));
        let whole = |_: &Run<'_>| cluster.with_fleet(|fleet| fleet.is_whole()).unwrap_or(true);
        let not_whole = self.take_turns(CALM_NS_MAX, whole);
        let state = cluster.with_fleet(|fleet| fleet.describe()).unwrap_or_default();
        not_whole.map_err(|failure| match failure {
            Failure::Stuck { seconds, .. } => Failure::NotWhole { seconds, state },
            failure => failure,
        })
    }

    /// Compares the checkpoints that were published with the truth.
    fn check_checkpoints(&mut self) -> Result<(), Failure> {
        let (ledger, news) = (&self.ledger, self.cluster.with_fleet(Fleet::take_checkpoints));
        let Some((begun, published)) = news else { return Ok(()) };
        for number in begun {
            let acknowledged = ledger.keys().into_iter().map(|key| ledger.acknowledged(key));
            self.known.insert(number, acknowledged.collect());
        }
        for Published { number, clock, rows } in published {
            let known = self.known.remove(&number).unwrap_or_default();
            for (index, key) in ledger.keys().into_iter().enumerate() {
                let before = known.get(index).copied().unwrap_or(0);
                let bounds = (before, ledger.total(key));
                let (least, most) = match clock {
                    None => bounds,
                    Some(clock) if self.plan.pulls_all() => {
                        let exactly = ledger.finished(key, clock.get());
                        (exactly, exactly)
                    }
                    Some(clock) => (before.max(ledger.finished(key, clock.get())), bounds.1),
                };
                let found = rows.get(&key).copied().unwrap_or(0.0);
                if found < least as f32 || found > most as f32 {
                    return Err(Failure::CheckpointWrong { number, key, least, most, found });
                }
            }
        }
        Ok(())
    }

    /// Cores, workers and the network have their turns until `done`.
    ///
    /// - `ns_max`: of world time that this may take.
    fn take_turns(&mut self, ns_max: u64, done: impl Fn(&Run<'_>) -> bool) -> Result<(), Failure> {
        let (cluster, plan) = (self.cluster, self.plan);
        let over_ns = cluster.now().nanos().saturating_add(ns_max);
        loop {
            cluster.turn();
            self.check_checkpoints()?;
            for member in &mut self.members {
                member.act(cluster, plan, &mut self.ledger)?;
            }
            for reader in &mut self.readers {
                reader.act(cluster, &mut self.ledger)?;
            }
            cluster.check()?;
            if done(self) {
                return Ok(());
            }
            if cluster.now().nanos() > over_ns {
                break;
            }
            self.members.iter_mut().for_each(|member| member.park(plan));
            self.readers.iter_mut().for_each(|reader| reader.park(plan));
            cluster.step();
        }
        let seconds = cluster.now().nanos() as f64 * 1e-9;
        let members = self.members.iter().map(Member::describe);
        let state = cluster.with_fleet(|fleet| fleet.describe());
        Err(Failure::Stuck { seconds, members: members.chain(state).collect() })
    }
}

/// In the end every counter holds exactly the pushes that named it, and there is no other row.
fn check_sums(cluster: &Cluster, member: &mut Member, ledger: &Ledger) -> Result<(), Failure> {
    let keys = ledger.keys();
    let found = member.read_all(cluster, &keys)?;
    let mut named = 0;
    for (&key, &found) in keys.iter().zip(&found) {
        let pushed = ledger.total(key);
        named += u64::from(pushed > 0);
        if found != pushed as f32 {
            return Err(Failure::Miscounted { key, pushed, found });
        }
    }
    let rows = member.rows(cluster)?;
    if rows == named { Ok(()) } else { Err(Failure::Rows { rows, named }) }
}

fn report(run: &Run<'_>) -> Report {
    let Run { cluster, plan, members, readers, .. } = run;
    let mut report = Report {
        trace_hash: cluster.trace_hash(),
        took: cluster.now(),
        steps: cluster.steps(),
        network: cluster.counts(),
        sessions: worker::Counts::default(),
        staleness: plan.staleness,
        pushes: 0,
        pulls: 0,
        reconnects: 0,
        deaths: 0,
        undead: 0,
        servers: cluster.with_fleet(|fleet| fleet.counts).unwrap_or_default(),
        checkpoints: cluster.with_fleet(Fleet::vault_counts).unwrap_or_default(),
        reads_ns: readers.iter().flat_map(|reader| reader.reads_ns.iter().copied()).collect(),
    };
    for member in members {
        let counts = member.counts();
        report.sessions.resends += counts.resends;
        report.sessions.duplicates += counts.duplicates;
        report.sessions.pushes_again += counts.pushes_again;
        report.sessions.answers_late += counts.answers_late;
        report.sessions.damaged += counts.damaged;
        report.sessions.lists_unknown += counts.lists_unknown;
        report.sessions.numbers_unknown += counts.numbers_unknown;
        report.pushes += member.tally.pushes;
        report.pulls += member.tally.pulls;
        report.reconnects += member.tally.reconnects;
        report.deaths += member.tally.deaths;
        report.undead += member.tally.undead;
    }
    report
}
