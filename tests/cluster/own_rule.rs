//! A rule and a learner of the user's own, from the library: no server program needs to know them.

use std::sync::Arc;

use kernels::Isa;
use launch::{Local, LocalSpec};
use learn::data::{Csr, Intercept, Part, SourceSpec};
use learn::metrics::Metrics;
use learn::{Ask, Continue, Epochs, INCARNATION, Io, Job, Learner, Table};
use server::{Hosting, OnClosed, Pinning, ServerSpec, Way};
use shard::rule::{PARAMETERS_MAX, Rows, Rule, Rules, Widths};
use transport::Limits;
use transport::tcp::TcpBackend;
use worker::{Epoch, JobId, Servers, Staleness, Timeouts, WorkerError, WorkerId};

use crate::{Files, skipped};

/// Keeps the largest delta. Row, delta and value are `[x]`.
#[derive(Debug)]
struct Largest;

impl Largest {
    fn make(_: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        Some(Arc::new(Largest))
    }
}

impl Rule for Largest {
    fn name(&self) -> &'static str {
        "largest"
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        [0.0; PARAMETERS_MAX]
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: dim, value: dim }
    }

    fn apply(&self, _: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        for (&row, &delta) in at.iter().zip(deltas) {
            let place = &mut rows.floats[row as usize * rows.stride];
            *place = place.max(delta);
        }
    }

    fn read(&self, _: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        for (&row, value) in at.iter().zip(values) {
            *value = rows.floats.get(row as usize * rows.stride).copied().unwrap_or(0.0);
        }
    }
}

/// Pushes each feature's largest value.
struct Heights(Table);

impl Learner for Heights {
    type Batch = Csr;

    fn wants(&self, batch: &Csr, ask: &mut Ask<'_>) -> Result<(), WorkerError> {
        ask.keys(self.0, &batch.keys)
    }

    fn step(&mut self, batch: &Csr, io: &mut Io<'_>) {
        let (_, deltas) = io.open(self.0);
        for (place, &column) in batch.columns.iter().enumerate() {
            let value = batch.values.get(place).copied().unwrap_or(1.0);
            let delta = &mut deltas[column as usize];
            *delta = delta.max(value);
        }
    }

    fn score(&self, _batch: &Csr, _metrics: &mut Metrics) {} // It predicts nothing.
}

fn servers(way: Way) -> Local {
    let server = ServerSpec {
        hosting: Hosting::OneACore,
        on_closed: OnClosed::LoseWorker,
        cores: 2,
        way,
        limits: Limits::default(),
        pinning: Pinning::Free,
        epoch: Epoch::new(1),
        rules: Rules::builtin().with("largest", Largest::make),
        table_bytes_max: 1 << 30,
        memory_bytes_max: u64::MAX,
        isa: Isa::detect(),
    };
    let spec = LocalSpec { servers: 2, server, timeouts: Timeouts::default() };
    Local::start(spec).expect("threads of this process")
}

#[test]
fn a_rule_of_ones_own_runs_on_the_shards_under_a_learner_of_ones_own() {
    let files = Files::new();
    let row = |n: usize| format!("{} {}:{} 7:{}\n", n % 2, n % 5 + 100, n, 5000 - n);
    let data = files.file("rows.libsvm", (0..5000).map(row).collect::<String>());
    for way in [Way::Shm, Way::Tcp(TcpBackend::Uring), Way::Tcp(TcpBackend::Epoll)] {
        if way == Way::Tcp(TcpBackend::Uring) && transport_is_missing() {
            skipped("a_rule_of_ones_own_runs_on_the_shards", "io_uring is not allowed here");
            continue;
        }
        let local = servers(way);
        let mut job = Job::new(JobId::new(1), 2, Staleness::ssp(1));
        let heights = job.table("heights", 1, &Largest);
        let source = SourceSpec {
            inputs: vec![data.clone()],
            batch_rows: 100,
            part: Part::All,
            intercept: Intercept::None,
            ..SourceSpec::default()
        };
        let feed = Epochs::open(source, 1).expect("a right file");
        let watch = |_| -> learn::Watch<'_> { Box::new(|_| Continue::Yes) };
        let worked = job.launch(&local, &feed, &|_| Heights(heights), &watch).expect("it works");
        assert_eq!(worked.len(), 2);

        let mut observer = local.session(WorkerId::OBSERVER, INCARNATION).expect("a session");
        job.begin(&mut observer).expect("the job is still there");
        let split = observer.split(&[7, 100, 101, 104]).expect("in order");
        let ticket = observer.pull(heights.id(), &split, 1).expect("asked");
        let deadline = observer.now() + learn::CALL_MAX;
        let values = observer.wait_pull(ticket, deadline).expect("answered");
        assert_eq!(values.as_slice(), [5000.0, 4995.0, 4996.0, 4999.0], "{way:?}");
        observer.recycle(values);
    }
}

fn transport_is_missing() -> bool {
    transport::tcp::open(TcpBackend::Uring, Limits::default()).is_err()
}
