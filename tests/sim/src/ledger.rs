//! The ledger: what was pushed, and so what a pull may see.
//!
//! Owns the truth that rows are compared with. It is written when a push is admitted by a
//! session, in which moment the session owes it to the shards.

use worker::Staleness;

use crate::plan::Plan;

/// What all workers have pushed.
#[derive(Debug)]
pub(crate) struct Ledger {
    counters: u64,
    workers: u32,
    staleness: Staleness,
    /// The first pushes of each key, which are dropped.
    dropped: u64,
    /// Of each clock, how often each key was pushed in it.
    by_clock: Vec<Vec<u64>>,
    /// How often each key was pushed so far.
    totals: Vec<u64>,
    /// How often each key was pushed so that its worker was told.
    acknowledged: Vec<u64>,
    /// By key: the most that any worker's pull has seen.
    seen: Vec<f32>,
    reads_go_back: bool,
}

impl Ledger {
    /// An empty one, for the plan's counters beside one for each worker.
    pub(crate) fn new(plan: &Plan) -> Ledger {
        let Plan { counters, workers, staleness, .. } = *plan;
        let totals = vec![0; counters as usize + workers as usize];
        let dropped = plan.dropped_max();
        Ledger {
            counters,
            workers,
            staleness,
            dropped,
            by_clock: Vec::new(),
            acknowledged: vec![0; totals.len()],
            seen: vec![0.0; totals.len()],
            reads_go_back: plan.reads_go_back(),
            totals,
        }
    }

    /// All keys there are, ascending.
    pub(crate) fn keys(&self) -> Vec<u64> {
        (0..self.totals.len() as u64).collect()
    }

    /// The keys that count the workers' clocks, ascending; they follow the counters.
    pub(crate) fn clock_keys(&self) -> impl Iterator<Item = u64> {
        (0..self.workers).map(|worker| self.clock_key(worker))
    }

    /// The key that this worker pushes once a clock.
    pub(crate) fn clock_key(&self, worker: u32) -> u64 {
        self.counters + u64::from(worker)
    }

    /// The most that any pull so far has seen of a key: one that begins now must see as much.
    pub(crate) fn seen(&self, key: u64) -> f32 {
        self.seen[key as usize]
    }

    /// Notes what a pull has seen.
    pub(crate) fn see(&mut self, key: u64, found: f32) {
        if self.reads_go_back {
            return; // It binds nobody.
        }
        let seen = &mut self.seen[key as usize];
        *seen = seen.max(found);
    }

    /// Notes a push.
    pub(crate) fn push(&mut self, clock: u64, keys: &[u64]) {
        let clock = clock as usize;
        if self.by_clock.len() <= clock {
            self.by_clock.resize(clock + 1, vec![0; self.totals.len()]);
        }
        for &key in keys {
            self.by_clock[clock][key as usize] += 1;
            self.totals[key as usize] += 1;
        }
    }

    /// Notes that pushes were acknowledged, key by key.
    pub(crate) fn acknowledge(&mut self, keys: impl Iterator<Item = u64>) {
        keys.for_each(|key| self.acknowledged[key as usize] += 1);
    }

    /// How many pushes of a key were acknowledged so far, and must be seen by a pull that begins
    /// now.
    pub(crate) fn acknowledged(&self, key: u64) -> u64 {
        if self.reads_go_back { 0 } else { self.applied(self.acknowledged[key as usize]) }
    }

    /// Whether a worker may see less of others than it has seen before.
    pub(crate) fn reads_go_back(&self) -> bool {
        self.reads_go_back
    }

    /// What all pushes of a key so far come to: no read may show more.
    pub(crate) fn total(&self, key: u64) -> u64 {
        self.applied(self.totals[key as usize])
    }

    /// What so many pushes of a key come to.
    pub(crate) fn applied(&self, pushes: u64) -> u64 {
        pushes.saturating_sub(self.dropped)
    }

    /// What the pushes of all clocks before this one come to.
    pub(crate) fn finished(&self, key: u64, clock: u64) -> u64 {
        let clocks = self.by_clock.iter().take(usize::try_from(clock).unwrap_or(usize::MAX));
        self.applied(clocks.map(|counts| counts[key as usize]).sum())
    }

    /// The least that a pull at `clock` may see of a key: every push of the clocks that all
    /// workers had to finish first.
    pub(crate) fn floor(&self, key: u64, clock: u64) -> u64 {
        let finished = clock.saturating_sub(self.staleness.clocks_max());
        if key >= self.counters {
            // Whether or not its worker has pushed so often: it had to.
            return self.applied(finished);
        }
        let clocks = self.by_clock.iter().take(finished as usize);
        self.applied(clocks.map(|counts| counts[key as usize]).sum())
    }
}
