//! The elector: the thread that says a coordinator's claim in time, or watches another one's.
//!
//! Owns the clock of the contest and the calls to the store that it needs. What a lead means for
//! servers and workers is left to `service`, the rules to `contest`.
//!
//! Invariant: nothing but these calls is done on the thread, so that a claim waits for nothing
//! else; it ends with a last word if it leads.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use wire::{Epoch, Time};

use super::claims::Claims;
use super::contest::{Contest, Task, Turn};
use super::helpers::Wake;
use super::jobs::JobRecord;
use super::store::{Entry, Store, StoreError};

/// Epochs whose cause a lead knows from before; more would take time in which it says nothing.
const PAST_MAX: usize = 8;

/// What the elector tells the loop.
pub(super) enum Word {
    /// This coordinator leads.
    Won(Box<Won>),
    /// It still does, and said so at this time.
    Leads { said_at: Instant },
    /// It does no more.
    Lost { why: String },
    /// It stands by, and this is what it knows.
    Standing { leader: Option<String>, why: Option<String> },
    /// The store holds what no coordinator can go on from.
    Unfit(StoreError),
}

/// A lead, and what it begins from.
pub(super) struct Won {
    pub(super) term: u64,
    /// Where this coordinator is reached.
    pub(super) address: Option<String>,
    pub(super) said_at: Instant,
    pub(super) cluster_id: u64,
    pub(super) newest: Option<Entry>,
    pub(super) past: Vec<(Epoch, String)>,
    pub(super) jobs: Vec<JobRecord>,
    pub(super) store: Box<dyn Store>,
}

/// What the loop tells the elector.
#[derive(Clone, Copy, Debug)]
enum Order {
    Resign,
}

/// The thread; dropped, it ends.
#[derive(Debug)]
pub(super) struct Elector {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's own.
struct Hands {
    claims: Box<dyn Claims>,
    contest: Contest,
    address: Option<String>,
    began: Instant,
    words: Sender<Word>,
    wake: Wake,
    /// What was said last of who leads.
    standing: Option<(Option<String>, Option<String>)>,
}

impl Elector {
    /// Starts it.
    ///
    /// - `address`: where this coordinator is reached.
    /// - Errors: there is no thread left.
    pub(super) fn start(
        claims: Box<dyn Claims>,
        address: Option<String>,
        words: Sender<Word>,
        wake: Wake,
    ) -> io::Result<Elector> {
        let (orders, inbox) = channel();
        let contest = Contest::new(claims.writer(), address.clone(), Time::default());
        let began = Instant::now();
        let hands = Hands { claims, contest, address, began, words, wake, standing: None };
        let run = move || hands.run(&inbox);
        let thread = Some(Builder::new().name("elector".to_owned()).spawn(run)?);
        Ok(Elector { orders: Some(orders), thread })
    }

    /// The log was refused: this coordinator leads no more.
    pub(super) fn resign(&self) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order::Resign);
        }
    }
}

impl Drop for Elector {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Hands {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let wait = self.contest.due() - self.now();
            match orders.recv_timeout(wait) {
                Ok(Order::Resign) => {
                    self.contest.resign(self.now());
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            let asked_at = self.now();
            let answer = match self.contest.task(asked_at) {
                Task::Look => self.claims.newest(),
                Task::Claim(claim) => self.claims.replace(&claim),
            };
            if let Err(error) = &answer {
                tracing::debug!(%error, "the claim is not seen");
            }
            match self.contest.answered(answer, asked_at, self.now()) {
                Turn::Nothing => {}
                Turn::Won { term, said_at } => self.begin(term, said_at),
                Turn::Leads { said_at } => self.say(Word::Leads { said_at: self.instant(said_at) }),
                Turn::Lost { why } => self.say(Word::Lost { why }),
            }
            self.tell_standing();
        }
    }

    /// The first of all: what the log holds.
    fn begin(&mut self, term: u64, said_at: Time) {
        let mut store = self.claims.log(term);
        let read = store.newest();
        let read = read.and_then(|newest| Ok((newest, store.history(PAST_MAX)?, store.jobs()?)));
        let (newest, past, jobs) = match read {
            Ok(read) => read,
            Err(error @ (StoreError::Damaged { .. } | StoreError::NewerFormat { .. })) => {
                return self.say(Word::Unfit(error));
            }
            Err(error) => {
                tracing::warn!(%error, term, "the log is not read, and the lead not taken");
                return self.contest.resign(self.now());
            }
        };
        let (said_at, cluster_id) = (self.instant(said_at), self.claims.cluster_id());
        let address = self.address.clone();
        let won = Won { term, address, said_at, cluster_id, newest, past, jobs, store };
        self.say(Word::Won(Box::new(won)));
    }

    /// Tells who leads, if that has changed.
    fn tell_standing(&mut self) {
        let leader = self.contest.leader(self.now());
        let why = self.contest.silence().map(str::to_owned);
        let standing = Some((leader, why));
        if self.standing != standing {
            self.standing.clone_from(&standing);
            if let Some((leader, why)) = standing {
                self.say(Word::Standing { leader, why });
            }
        }
    }

    /// The last word: others need not wait.
    fn end(mut self) {
        if let Some(claim) = self.contest.farewell()
            && let Err(error) = self.claims.replace(&claim)
        {
            tracing::warn!(%error, "others wait for this one's silence");
        }
    }

    fn say(&self, word: Word) {
        // A loop that has ended needs no news.
        if self.words.send(word).is_ok() {
            self.wake.ring();
        }
    }

    fn now(&self) -> Time {
        Time::default() + self.began.elapsed()
    }

    fn instant(&self, time: Time) -> Instant {
        self.began + (time - Time::default())
    }
}
