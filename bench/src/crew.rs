//! Several workers of one job that push to the same keys, with and without aggregation.
//!
//! Owns two tables, of which the heads of chains add up the pushes to one, what was pushed to each,
//! and the comparison in the end. What is measured of the servers meanwhile is left to the caller.
//!
//! Invariant: each push adds one to each value of its keys, so once everything is acknowledged a
//! row holds exactly what all workers have pushed to it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use learn::INCARNATION;
use shard::rule::{Sum, table_spec};
use wire::TableSpec;
use worker::{Join, Session, Staleness, TableId, Then, WorkerId, connect_cluster};

use crate::cluster_load::ClusterLoadSpec;
use crate::keys::KeySet;
use crate::soak::{SoakError, SoakTally};

/// How long anything may take before the load has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Each push by itself.
    Alone,
    /// Those of different workers together.
    Together,
}

/// What is asked of a worker.
enum Order {
    /// Push to that table until then.
    Push(Applied, Instant),
    /// Say what was pushed.
    Tell,
    /// Compare both tables with what all have pushed.
    Compare(Arc<Pushes>),
}

/// Pushes of each batch, by table.
type Pushes = [Vec<u64>; 2];

/// What a worker says.
enum Word {
    Begun,
    /// So many pushes.
    Pushed(u64),
    Told(Pushes),
    Compared(SoakTally),
}

/// Workers, each a thread; they end when this is dropped.
pub struct Crew {
    orders: Vec<Sender<Order>>,
    words: Vec<Receiver<Result<Word, SoakError>>>,
    threads: Vec<JoinHandle<()>>,
}

/// One of them.
struct Hand {
    spec: ClusterLoadSpec,
    session: Session,
    keys: KeySet,
    ones: Rc<Vec<f32>>,
    pushed: Pushes,
    next: usize,
}

impl Crew {
    /// So many workers join a job and define both tables; the first pushes each key once to each.
    ///
    /// # Errors
    ///
    /// There is no session with the cluster, or it cannot go on.
    pub fn begin(
        spec: &ClusterLoadSpec,
        workers: u32,
        clock: Staleness,
    ) -> Result<Crew, SoakError> {
        let mut crew = Crew { orders: Vec::new(), words: Vec::new(), threads: Vec::new() };
        for number in 0..workers {
            let (order, orders) = channel();
            let (word, words) = channel();
            let join = Join { job: spec.job, workers, staleness: clock };
            let spec = spec.clone();
            crew.threads.push(spawn(move || work(spec, number, join, &orders, &word)));
            crew.orders.push(order);
            crew.words.push(words);
        }
        crew.hear().map(|_| crew)
    }

    /// All push to one table for so long, as fast as answers come, and wait for the last. How many
    /// pushes that were.
    ///
    /// # Errors
    ///
    /// A session cannot go on.
    pub fn push_for(&mut self, table: Applied, phase: Duration) -> Result<u64, SoakError> {
        let until = Instant::now() + phase;
        self.orders.iter().for_each(|order| drop(order.send(Order::Push(table, until))));
        let counts = self.hear()?.into_iter().map(|word| match word {
            Word::Pushed(count) => count,
            Word::Begun | Word::Told(_) | Word::Compared(_) => 0,
        });
        Ok(counts.sum())
    }

    /// Compares every row of both tables with what was pushed to it.
    ///
    /// # Errors
    ///
    /// A session cannot go on.
    pub fn check(mut self) -> Result<SoakTally, SoakError> {
        self.orders.iter().for_each(|order| drop(order.send(Order::Tell)));
        let mut all: Pushes = Default::default();
        for word in self.hear()? {
            let Word::Told(pushed) = word else { continue };
            for (all, pushed) in all.iter_mut().zip(pushed) {
                all.resize(pushed.len(), 0);
                all.iter_mut().zip(pushed).for_each(|(all, count)| *all += count);
            }
        }
        let pushes = all.iter().flatten().sum();
        self.orders.truncate(1);
        self.words.truncate(1);
        self.orders
            .iter()
            .for_each(|order| drop(order.send(Order::Compare(Arc::new(all.clone())))));
        let mut tally = SoakTally { pushes, ..SoakTally::default() };
        for word in self.hear()? {
            let Word::Compared(found) = word else { continue };
            (tally.lost, tally.doubled) = (found.lost, found.doubled);
        }
        Ok(tally)
    }

    /// A word of each.
    fn hear(&mut self) -> Result<Vec<Word>, SoakError> {
        // A worker whose thread is gone has said why before.
        self.words.iter().filter_map(|words| words.recv().ok()).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.orders.clear();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// What a worker's thread does.
fn work(
    spec: ClusterLoadSpec,
    number: u32,
    join: Join,
    orders: &Receiver<Order>,
    word: &Sender<Result<Word, SoakError>>,
) {
    let mut hand = match Hand::begin(spec, number, join) {
        Ok(hand) => hand,
        Err(error) => return drop(word.send(Err(error))),
    };
    drop(word.send(Ok(Word::Begun)));
    while let Ok(order) = orders.recv() {
        let said = match order {
            Order::Push(table, until) => hand.push_until(table, until).map(Word::Pushed),
            Order::Tell => Ok(Word::Told(hand.pushed.clone())),
            Order::Compare(all) => hand.compare(&all).map(Word::Compared),
        };
        drop(word.send(said));
    }
    let until = hand.session.now() + WAIT_MAX;
    drop(hand.session.leave(until));
}

impl Hand {
    fn begin(spec: ClusterLoadSpec, number: u32, join: Join) -> Result<Hand, SoakError> {
        let mut cluster = spec.cluster.clone();
        cluster.dial.worker = WorkerId::new(number);
        cluster.dial.incarnation = INCARNATION;
        let mut session = connect_cluster(&cluster)?;
        let until = session.now() + WAIT_MAX;
        session.join(join, until)?;
        for table in [Applied::Alone, Applied::Together] {
            let aggregate = table == Applied::Together;
            let one = table_spec("counters", u32::from(spec.dim), &Sum);
            session.define(number_of(table), &TableSpec { aggregate, ..one }, until)?;
        }
        let keys = KeySet::draw(&spec.drawn());
        let ones = Rc::new(vec![1.0; spec.keys_per_request * usize::from(spec.dim)]);
        let none = vec![0; keys.batches.len()];
        // Each begins elsewhere among the same batches.
        let next = none.len() * number as usize / join.workers as usize;
        let mut hand = Hand { spec, session, keys, ones, pushed: [none.clone(), none], next };
        if number == 0 {
            for batch in 0..hand.keys.load.len() {
                let keys = std::mem::take(&mut hand.keys.load[batch]);
                hand.push(Applied::Alone, &keys)?;
                hand.push(Applied::Together, &keys)?;
                hand.keys.load[batch] = keys;
            }
            hand.wait(0)?;
        }
        Ok(hand)
    }

    fn push_until(&mut self, table: Applied, until: Instant) -> Result<u64, SoakError> {
        let mut count = 0;
        while Instant::now() < until {
            let batch = std::mem::take(&mut self.keys.batches[self.next]);
            self.push(table, &batch)?;
            self.keys.batches[self.next] = batch;
            self.pushed[usize::from(number_of(table).get())][self.next] += 1;
            self.next = (self.next + 1) % self.keys.batches.len();
            count += 1;
        }
        self.wait(0)?;
        Ok(count)
    }

    /// Posts a push and waits until there is room for another one.
    fn push(&mut self, table: Applied, keys: &[u64]) -> Result<(), SoakError> {
        let split = self.session.split(keys)?;
        let values = keys.len() * usize::from(self.spec.dim);
        let ones = match values == self.ones.len() {
            true => Rc::clone(&self.ones),
            false => Rc::new(vec![1.0; values]),
        };
        self.session.push(number_of(table), &split, ones, self.spec.dim, Then::Tick)?;
        self.wait((self.spec.in_flight - 1) * self.session.shards())
    }

    fn wait(&mut self, outstanding_max: usize) -> Result<(), SoakError> {
        let until = self.session.now() + WAIT_MAX;
        Ok(self.session.wait_pushes(outstanding_max, until)?)
    }

    fn compare(&mut self, all: &Pushes) -> Result<SoakTally, SoakError> {
        let mut tally = SoakTally::default();
        for (table, pushes) in (0..).map(TableId::new).zip(all) {
            let mut expected: HashMap<u64, u64> = HashMap::with_capacity(self.spec.resident_keys);
            self.keys.load.iter().flatten().for_each(|&key| *expected.entry(key).or_default() += 1);
            for (batch, pushes) in self.keys.batches.iter().zip(pushes) {
                batch.iter().for_each(|&key| *expected.entry(key).or_default() += pushes);
            }
            for keys in &self.keys.load {
                let split = self.session.split(keys)?;
                let ticket = self.session.pull(table, &split, self.spec.dim)?;
                let until = self.session.now() + WAIT_MAX;
                let values = self.session.wait_pull(ticket, until)?;
                for (row, key) in keys.iter().enumerate() {
                    for &found in values.row(row) {
                        let (found, pushed) = (found as u64, expected[key]);
                        tally.lost += pushed.saturating_sub(found);
                        tally.doubled += found.saturating_sub(pushed);
                    }
                }
                self.session.recycle(values);
            }
        }
        Ok(tally)
    }
}

fn number_of(table: Applied) -> TableId {
    TableId::new(u16::from(table == Applied::Together))
}
