//! Pushes that only a head has acknowledged, kept until the tail of their chain has them.
//!
//! Owns which they are. A head that answers for a push itself may be gone before its successor has
//! it; what was kept is then sent to the next head, under its old number, before anything else is
//! asked of it.
//!
//! A head does what comes in some order, and answers most pushes once the tail has all of it up to
//! them. So the answer to such a one says that the tail has whatever was kept when it was first
//! sent.
//!
//! Invariant: a push is unanswered, or kept, or the tail has it.

use std::collections::VecDeque;

use wire::{Flags, Header, Kind, Status, TableId};

use crate::link::Link;
use crate::request::{Body, Request};
use crate::session::Session;

/// Pushes of one shard that are kept before each further one asks for the tail's word.
const KEPT_MAX: usize = 32;

/// Whose word the answer to a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordOf {
    /// The head's.
    Head,
    /// The tail's: it has the first so many of those that were ever kept.
    Tail { kept: u64 },
}

impl WordOf {
    /// The tail's, of a request that was not sent yet.
    pub(crate) const TAIL: WordOf = WordOf::Tail { kept: 0 };
}

/// What is kept of one shard's pushes.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// In the order of their answers.
    pushes: VecDeque<Request>,
    /// How many were kept before them.
    first: u64,
    /// The last of those that had to be sent again.
    again_upto: u64,
}

impl Kept {
    /// Says whose word the answer to a request will be that is sent for the first time now.
    pub(crate) fn note_first_sent(&self, request: &mut Request) {
        if request.word_of == WordOf::Head && self.pushes.len() < KEPT_MAX {
            return;
        }
        if request.word_of == WordOf::Head {
            request.header.flags = request.header.flags().with(Flags::AT_TAIL).get();
        }
        request.word_of = WordOf::Tail { kept: self.first + self.pushes.len() as u64 };
    }

    /// Keeps a push that the head has answered for.
    fn keep(&mut self, request: Request) {
        self.pushes.push_back(request);
    }

    /// Takes out the first push that the tail has, of the first `upto` that were ever kept.
    fn let_go(&mut self, upto: u64) -> Option<Request> {
        let request = if self.first < upto { self.pushes.pop_front() } else { None };
        self.first += u64::from(request.is_some());
        request
    }

    /// Takes out all, to be sent again.
    pub(crate) fn take_all(&mut self) -> VecDeque<Request> {
        let all = std::mem::take(&mut self.pushes);
        self.first += all.len() as u64;
        let last = all.iter().map(|request| request.header.sequence).max();
        self.again_upto = self.again_upto.max(last.unwrap_or(0));
        all
    }

    /// Whether a push that is sent again has no answer yet, if this is the oldest without one.
    pub(crate) fn is_behind(&self, oldest: u64) -> bool {
        oldest <= self.again_upto
    }
}

impl Session {
    /// Whose word the answer to this request will be.
    pub(crate) fn word_of(&self, header: &Header) -> WordOf {
        let is_push = header.kind() == Kind::Push && header.keys > 0;
        let may_be_heads = is_push && !header.flags().has(Flags::TICK);
        match may_be_heads && self.tables_at_head.contains(&header.table()) {
            true => WordOf::Head,
            false => WordOf::TAIL,
        }
    }

    /// Takes note of where a table's pushes are acknowledged.
    pub(crate) fn note_acknowledged(&mut self, table: TableId, at: wire::Acknowledge) {
        match at {
            wire::Acknowledge::Head => self.tables_at_head.insert(table),
            wire::Acknowledge::Tail => self.tables_at_head.remove(&table),
        };
    }

    /// Keeps a push that only the head answers for; lets go what the tail has by this answer.
    /// Returns the request unless it is kept.
    pub(crate) fn keep_or_let_go(
        &mut self,
        shard: usize,
        request: Request,
        status: Status,
    ) -> Option<Request> {
        let kept = &mut self.links[shard].kept;
        match request.word_of {
            // A head that has done it before answers for the tail.
            WordOf::Head if status == Status::Done => {
                kept.keep(request);
                return None;
            }
            WordOf::Tail { kept: upto } if request.header.kind() == Kind::Push => {
                while let Some(done) = self.links[shard].kept.let_go(upto) {
                    self.recycle_body(done.body);
                }
            }
            _ => {}
        }
        Some(request)
    }

    /// Keeps the buffers of a request that is done with.
    pub(crate) fn recycle_body(&mut self, body: Body) {
        match body {
            Body::Deltas { deltas, split, .. } => {
                drop(split);
                self.recycle_deltas(deltas);
            }
            Body::Coded { values, .. } => self.codecs.recycle(values),
            _ => {}
        }
    }
}

impl Link {
    /// Whether pushes that were acknowledged once are not yet known to be here: what is asked now
    /// would miss them.
    pub(crate) fn lacks_kept(&self) -> bool {
        self.kept.is_behind(self.pushes.oldest())
    }
}
