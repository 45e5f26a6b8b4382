//! Workers that die in the middle of a step, and later lives that take their places: real shards.

use std::rc::Rc;
use std::time::Duration;

use gradwire_launch::{Local, LocalSpec};
use kernels::Isa;
use server::{Hosting, OnClosed, Pinning, ServerSpec, Way};
use shard::rule::{Rules, Sum, table_spec};
use transport::Limits;
use worker::{
    Clock, Epoch, Incarnation, JobId, Join, Refusal, Servers, Session, Staleness, TableId, Then,
    Timeouts, WorkerError, WorkerId,
};

const TABLE: TableId = TableId::new(0);
const SHARDS: u16 = 3;

/// Keys, of which a step pushes all.
const KEYS: u64 = 600;

fn servers() -> Local {
    let server = ServerSpec {
        hosting: Hosting::OneACore,
        on_closed: OnClosed::AwaitReconnect,
        cores: 1,
        way: Way::Shm,
        limits: Limits { spin_ns: 0, ..Limits::default() },
        pinning: Pinning::Free,
        epoch: Epoch::new(1),
        rules: Rules::builtin(),
        table_bytes_max: 1 << 24,
        memory_bytes_max: u64::MAX,
        isa: Isa::detect(),
    };
    let spec = LocalSpec { servers: SHARDS, server, timeouts: Timeouts::default() };
    Local::start(spec).expect("threads")
}

fn begin(servers: &Local, worker: WorkerId, life: u32, staleness: Staleness) -> Session {
    let mut session = servers.session(worker, Incarnation::new(life)).expect("they run");
    let deadline = session.now() + Duration::from_secs(30);
    session.join(Join { job: JobId::new(7), workers: 1, staleness }, deadline).expect("a place");
    session.define(TABLE, &table_spec("counts", 1, &Sum), deadline).expect("the same table");
    session
}

/// The numbers of a seed, one after another.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *state >> 33
}

/// Pushes steps, each in several pushes and to every shard, until `dies_at` of all its actions.
/// Whether it got to the end of `steps`.
fn work(session: &mut Session, steps: u64, dies_at: u64) -> bool {
    let mut actions = 0;
    while session.clock().get() < steps {
        for part in 0..3 {
            let keys: Vec<u64> = (0..KEYS).filter(|key| key % 3 == part).collect();
            let split = session.split(&keys).expect("ascending");
            let deltas = Rc::new(vec![1.0; keys.len()]);
            let then = if part == 2 { Then::Tick } else { Then::More };
            session.push(TABLE, &split, deltas, 1, then).expect("room");
            session.flush();
            actions += 1;
            if actions > dies_at {
                return false;
            }
        }
        let deadline = session.now() + Duration::from_secs(30);
        session.wait_clocks(2, deadline).expect("answers");
    }
    let deadline = session.now() + Duration::from_secs(30);
    session.wait_pushes(0, deadline).expect("answers");
    true
}

#[test]
fn lives_that_end_in_the_middle_of_steps_leave_exact_sums() {
    const STEPS: u64 = 40;
    for seed in 1..=10 {
        let servers = servers();
        let mut state = seed;
        for life in 1.. {
            let mut session = begin(&servers, WorkerId::new(0), life, Staleness::ASP);
            let dies_at = if life < 12 { next(&mut state) % 30 } else { u64::MAX };
            if work(&mut session, STEPS, dies_at) {
                break;
            }
        }
        let mut observer = begin(&servers, WorkerId::OBSERVER, 1, Staleness::ASP);
        let keys: Vec<u64> = (0..KEYS).collect();
        let split = observer.split(&keys).expect("ascending");
        let ticket = observer.pull(TABLE, &split, 1).expect("room");
        let deadline = observer.now() + Duration::from_secs(30);
        let sums = observer.wait_pull(ticket, deadline).expect("values");
        assert!(sums.iter().all(|&sum| sum == STEPS as f32), "seed {seed}: {:?}", &sums[..9]);
        observer.recycle(sums);
    }
}

#[test]
fn a_former_life_that_goes_on_is_fenced_and_changes_nothing() {
    let servers = servers();
    let mut former = begin(&servers, WorkerId::new(0), 1, Staleness::BSP);
    assert!(!work(&mut former, 9, 7));
    let later = begin(&servers, WorkerId::new(0), 2, Staleness::BSP);
    assert!(later.clock() <= Clock::new(3));
    let deadline = former.now() + Duration::from_secs(30);
    let keys = [1];
    let split = former.split(&keys).expect("ascending");
    former.push(TABLE, &split, Rc::new(vec![1.0]), 1, Then::Tick).expect("room");
    let error = former.wait_pushes(0, deadline).expect_err("another life took its place");
    let fenced = Refusal::Fenced { known: Incarnation::new(2) };
    assert!(
        matches!(&error, WorkerError::Refused { refusal, .. } if *refusal == fenced),
        "{error}"
    );
}
