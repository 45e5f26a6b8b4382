//! A reader: a session that takes part in no clock, and reads one counter after the other.
//!
//! Owns its session, one read at a time, and how long each took. It waits for nobody's clock, so
//! that what it sees is what the cluster promises any client: all that was acknowledged.

use std::rc::Rc;
use std::time::Duration;

use worker::{Epoch, Incarnation, PullTicket, Session, Split, Time, WorkerError, WorkerId};

use crate::cluster::{Cluster, Guest};
use crate::failure::Failure;
use crate::ledger::Ledger;
use crate::member::{TABLE, table};
use crate::plan::Plan;
use crate::random::Random;

/// Sets readers' streams apart from those of workers.
const READERS_STREAM: u64 = 1 << 40;
/// How long a call may take, in world time.
const CALL_MAX: Duration = Duration::from_secs(60);
/// How often a call is made again.
const CALLS_MAX: usize = 100_000;
/// How often a look at the links is tried again at once.
const TRIES_MAX: usize = 1000;
/// How long it rests between reads at most, in nanoseconds.
const REST_NS_MAX: u64 = 20_000_000;
/// How often a session that listens is polled at least, in polls a time-out of a request.
const POLLS_A_REQUEST: u32 = 16;

/// A reader in the middle of its work.
pub(crate) struct Reader {
    guest: Guest,
    session: Session,
    epochs: Vec<Epoch>,
    random: Random,
    asked: Option<Asked>,
    asks_at: Time,
    /// How long each read took, in ns of world time.
    pub(crate) reads_ns: Vec<u64>,
}

/// A read under way.
struct Asked {
    ticket: PullTicket,
    split: Rc<Split>,
    at: Time,
    keys: Vec<u64>,
    /// By index of its key: what was acknowledged, and what anybody had seen, when it was asked.
    known: Vec<(u64, f32)>,
}

impl Reader {
    /// A reader that knows the table.
    pub(crate) fn join(
        cluster: &Cluster,
        seed: u64,
        plan: &Plan,
        reader: usize,
    ) -> Result<Reader, Failure> {
        let watch = plan.workers as usize + reader;
        let guest = Guest { watch, id: WorkerId::OBSERVER, life: Incarnation::new(1) };
        let mut reader = Reader {
            guest,
            session: cluster.session(guest, plan),
            epochs: Vec::new(),
            random: Random::new(seed, READERS_STREAM + reader as u64),
            asked: None,
            asks_at: Time::default(),
            reads_ns: Vec::new(),
        };
        for _ in 0..CALLS_MAX {
            cluster.check()?;
            cluster.follow(&mut reader.session, guest, &mut reader.epochs);
            let session = &mut reader.session;
            let deadline = session.now() + CALL_MAX;
            let (spec, codec) = (table(plan), plan.codec);
            match cluster.let_wait(|| session.define_coded(TABLE, &spec, codec, deadline)) {
                Ok(()) => return Ok(reader),
                Err(WorkerError::TimedOut { .. }) => {}
                Err(error) => {
                    reader.mend(cluster, error)?;
                    cluster.wait_for_news();
                }
            }
        }
        Err(reader.stuck(cluster))
    }

    /// Reads on, as far as it can without waiting.
    pub(crate) fn act(&mut self, cluster: &Cluster, ledger: &mut Ledger) -> Result<(), Failure> {
        self.listen(cluster)?;
        let now = cluster.now();
        if let Some(asked) = self.asked.take_if(|asked| self.session.is_over(&asked.ticket)) {
            self.check(now, asked, ledger)?;
            self.asks_at = now + Duration::from_nanos(self.random.below(REST_NS_MAX));
        }
        if self.asked.is_none() && now >= self.asks_at {
            self.ask(now, ledger)?;
        }
        Ok(())
    }

    /// Lets the world know when it wants to run again.
    pub(crate) fn park(&mut self, plan: &Plan) {
        let deadline = self.session.now() + plan.timeouts.request / POLLS_A_REQUEST;
        self.session.park(deadline);
    }

    /// Asks for everybody's clock, and one counter.
    fn ask(&mut self, now: Time, ledger: &Ledger) -> Result<(), Failure> {
        let mut keys: Vec<u64> = ledger.clock_keys().collect();
        keys.insert(0, self.random.below(keys[0]));
        let split = self.session.split(&keys).map_err(|error| self.failed(error))?;
        let ticket = self.session.pull(TABLE, &split, 1).map_err(|error| self.failed(error))?;
        let known = keys.iter().map(|&key| (ledger.acknowledged(key), ledger.seen(key))).collect();
        self.asked = Some(Asked { ticket, split, at: now, keys, known });
        Ok(())
    }

    /// Checks what a read that is over has seen.
    fn check(&mut self, now: Time, asked: Asked, ledger: &mut Ledger) -> Result<(), Failure> {
        let Asked { ticket, split, at, keys, known } = asked;
        let own = self.session.now();
        let values = self.session.wait_pull(ticket, own).map_err(|error| self.failed(error))?;
        let watch = self.guest.watch;
        let seen = keys.iter().zip(known).zip(values.as_slice());
        for ((&key, (acknowledged, seen)), &found) in seen {
            let (pushed, worker) = (ledger.total(key), watch as u32);
            if found > pushed as f32 {
                return Err(Failure::Invented { worker, key, pushed, found });
            }
            if found < acknowledged as f32 {
                return Err(Failure::Lost { watch, key, acknowledged, found });
            }
            if found < seen {
                return Err(Failure::Overtaken { worker, key, seen, found });
            }
            ledger.see(key, found);
        }
        self.session.recycle(values);
        drop(split);
        self.reads_ns.push((now - at).as_nanos() as u64);
        Ok(())
    }

    fn listen(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        cluster.follow(&mut self.session, self.guest, &mut self.epochs);
        for _ in 0..TRIES_MAX {
            match self.session.poll() {
                Ok(()) => return Ok(()),
                Err(error) => self.mend(cluster, error)?,
            }
        }
        Err(self.stuck(cluster))
    }

    fn mend(&mut self, cluster: &Cluster, error: WorkerError) -> Result<(), Failure> {
        match error {
            WorkerError::ServerLost { server, .. }
            | WorkerError::Silent { server, .. }
            | WorkerError::Moved { server, .. } => {
                cluster.relink(&mut self.session, self.guest, &server);
                Ok(())
            }
            error => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: WorkerError) -> Failure {
        Failure::Session { worker: self.guest.watch as u32, error }
    }

    fn stuck(&self, cluster: &Cluster) -> Failure {
        let seconds = cluster.now().nanos() as f64 * 1e-9;
        Failure::Stuck { seconds, members: vec![format!("reader {}", self.guest.watch)] }
    }
}
