//! A run: a cluster is set up, its workers finish their clocks, and the counters are checked.
//!
//! Owns the order of turns. What a worker does in its turn is left to `member`.

use kernels::Isa;
use shard::Mutation;
use transport::simulated;
use worker::{Staleness, Time};

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::ledger::Ledger;
use crate::member::Member;
use crate::plan::Plan;
use crate::servers::{Counts as ServerCounts, Servers};

/// World time that a job may take, in nanoseconds.
const RUN_MAX_NS: u64 = 3_600_000_000_000;

/// Turns that a job may take.
const TURNS_MAX: u64 = 2_000_000;

/// World time after which no copy of a message is under way any more, in nanoseconds.
const SETTLE_NS: u64 = 100_000_000;

/// World time after which replicas hold the same, in nanoseconds: some losses of the last message.
const CATCH_UP_NS_MAX: u64 = 10_000_000_000;

/// What a run follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Draws the plan, the faults and what each worker does.
    pub seed: u64,
    /// The instruction set of every host's kernels; it changes nothing.
    pub isa: Isa,
    /// A defect in every shard.
    pub mutation: Mutation,
}

/// What happened in a run that kept all promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A hash of every message that arrived, with its time.
    pub trace_hash: u64,
    /// World time that it took.
    pub took: Time,
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
    /// What befell servers in chains.
    pub servers: ServerCounts,
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
    let cluster = Cluster::new(setup.seed, plan, setup.isa, setup.mutation);
    let mut ledger = Ledger::new(plan);
    let keys = ledger.keys();
    let members = (0..plan.workers)
        .map(|worker| Member::join(&cluster, setup.seed, plan, worker, keys.len()));
    let mut members = members.collect::<Result<Vec<_>, _>>()?;
    let all_over = |members: &[Member]| members.iter().all(Member::is_over);
    take_turns(&cluster, plan, &mut members, &mut ledger, all_over)?;
    calm(&cluster, plan, &mut members, &mut ledger)?;
    let settled_ns = cluster.now().nanos() + SETTLE_NS;
    let settled = |_: &[Member]| cluster.now().nanos() >= settled_ns;
    take_turns(&cluster, plan, &mut members, &mut ledger, settled)?;
    let equal = || cluster.with_servers(Servers::check_replicas).unwrap_or(Ok(()));
    let caught_up_ns = cluster.now().nanos() + CATCH_UP_NS_MAX;
    let over = |_: &[Member]| equal().is_ok() || cluster.now().nanos() > caught_up_ns;
    take_turns(&cluster, plan, &mut members, &mut ledger, over)?;
    equal()?;
    check_sums(&cluster, &mut members[0], &ledger)?;
    for member in &mut members {
        member.leave(&cluster)?;
    }
    Ok(report(&cluster, plan, &members))
}

/// Nothing befalls servers any more, and every chain becomes whole.
fn calm(
    cluster: &Cluster,
    plan: &Plan,
    members: &mut [Member],
    ledger: &mut Ledger,
) -> Result<(), Failure> {
    let now = cluster.now();
    cluster.with_servers(|servers| servers.calm(now));
    let whole = |_: &[Member]| cluster.with_servers(|servers| servers.is_whole()).unwrap_or(true);
    take_turns(cluster, plan, members, ledger, whole)
}

/// Cores, workers and the network have their turns until `done`.
fn take_turns(
    cluster: &Cluster,
    plan: &Plan,
    members: &mut [Member],
    ledger: &mut Ledger,
    done: impl Fn(&[Member]) -> bool,
) -> Result<(), Failure> {
    for _ in 0..TURNS_MAX {
        cluster.turn();
        for member in members.iter_mut() {
            member.act(cluster, plan, ledger)?;
        }
        if let Some(failure) = cluster.with_servers(Servers::failed).flatten() {
            return Err(failure);
        }
        if done(members) {
            return Ok(());
        }
        if cluster.now().nanos() > RUN_MAX_NS {
            break;
        }
        members.iter_mut().for_each(|member| member.park(plan));
        cluster.step();
    }
    let seconds = cluster.now().nanos() as f64 * 1e-9;
    Err(Failure::Stuck { seconds, members: members.iter().map(Member::describe).collect() })
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

fn report(cluster: &Cluster, plan: &Plan, members: &[Member]) -> Report {
    let mut report = Report {
        trace_hash: cluster.trace_hash(),
        took: cluster.now(),
        network: cluster.counts(),
        sessions: worker::Counts::default(),
        staleness: plan.staleness,
        pushes: 0,
        pulls: 0,
        reconnects: 0,
        servers: cluster.with_servers(|servers| servers.counts).unwrap_or_default(),
    };
    for member in members {
        let counts = member.counts();
        report.sessions.resends += counts.resends;
        report.sessions.duplicates += counts.duplicates;
        report.sessions.answers_late += counts.answers_late;
        report.sessions.damaged += counts.damaged;
        report.sessions.lists_unknown += counts.lists_unknown;
        report.sessions.numbers_unknown += counts.numbers_unknown;
        report.pushes += member.tally.pushes;
        report.pulls += member.tally.pulls;
        report.reconnects += member.tally.reconnects;
    }
    report
}
