//! A real shard: messages from a worker that has joined, most of them broken.
//!
//! Promises: it never panics; one answer to what it answers, none to the rest; and what is
//! refused, malformed, waiting or without room for its answer has changed nothing that can be
//! read.

use kernels::Isa;
use shard::rule::Rules;
use shard::{Mutation, Outbox, Outcome, Shard, ShardSpec};
use wire::{HEADER_BYTES, Header, Kind, Refusal, Seal, Status, WorkerId};

use super::messages::{Aligned, EPOCH, crc, header, mend, of_kind, sealed, tables};
use super::{Target, answer_number};
use crate::random::Random;

/// Messages that one shard handles before a fresh one takes its place: no state grows for ever,
/// and what ends a job does not end the campaign.
const MESSAGES_A_SHARD: u32 = 64;

/// What the rows of one table may take, in bytes: few, so that tables get full.
const TABLE_BYTES_MAX: u64 = 4096;

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 8192;

/// Of so many messages, one finds no room for its answer at first.
const NO_ROOM_EACH: u32 = 8;

/// A shard, and the kinds of messages that it gets.
pub(super) struct ShardTarget {
    kinds: &'static [Kind],
    shard: Shard,
    handled: u32,
}

impl ShardTarget {
    pub(super) fn new(kinds: &'static [Kind]) -> ShardTarget {
        ShardTarget { kinds, shard: fresh_shard(), handled: 0 }
    }

    /// Handles a message for which there may be room for an answer.
    fn handle(&mut self, message: &Aligned, room: usize) -> (Outcome, Vec<Aligned>) {
        let mut answers = Answers { sent: Vec::new(), room };
        let outcome = self.shard.handle(message.bytes(), &mut answers);
        (outcome, answers.sent)
    }

    /// All that can be read of the shard's state, by somebody who changes none of it.
    fn read(&mut self) -> Vec<Vec<u8>> {
        let tables = 0..=tables().len() as u16;
        let ask =
            |kind| move |table| Header { worker: WorkerId::OBSERVER.get(), ..header(kind, table) };
        let asked = tables.clone().map(ask(Kind::Scan)).chain(tables.map(ask(Kind::Measure)));
        let mut state = Vec::new();
        for header in asked {
            let message = Aligned::copied(&sealed(header, &[]));
            let (outcome, answers) = self.handle(&message, 1);
            assert_eq!(outcome, Outcome::Answered, "an observer may read");
            state.extend(answers.iter().map(|answer| answer.bytes().to_vec()));
        }
        state
    }
}

impl Target for ShardTarget {
    fn inputs(&self) -> Vec<Vec<u8>> {
        self.kinds.iter().copied().flat_map(of_kind).collect()
    }

    fn tokens(&self) -> &'static [&'static [u8]] {
        &[&[0; 8], &[0xFF; 8], &[0, 0, 0xC0, 0x7F], &[0, 0, 0x80, 0x7F]]
    }

    fn mend(&self, input: &mut Vec<u8>, random: &mut Random) {
        mend(input, random);
    }

    fn feed(&mut self, input: &[u8]) -> u64 {
        if self.handled == MESSAGES_A_SHARD {
            *self = ShardTarget::new(self.kinds);
        }
        self.handled += 1;
        let message = Aligned::copied(input);
        let before = self.read();
        if self.handled.is_multiple_of(NO_ROOM_EACH) {
            let (outcome, _) = self.handle(&message, 0);
            assert_ne!(outcome, Outcome::Answered, "there was no room");
            assert!(self.read() == before, "{outcome:?} has changed the shard");
        }
        let (outcome, answers) = self.handle(&message, 1);
        assert_eq!(answers.len(), usize::from(outcome == Outcome::Answered));
        let status = answers.first().map(|answer| {
            let (header, _) = wire::open(answer.bytes(), crc).expect("an answer is well formed");
            header.status().expect("an answer's status is known")
        });
        if !matches!(status, Some(Status::Done)) {
            assert!(self.read() == before, "{outcome:?} {status:?} has changed the shard");
        }
        if let Some(Status::Refused(Refusal::TooLarge { bytes_max })) = status {
            assert_eq!(bytes_max as usize, ANSWER_BYTES_MAX);
        }
        self.shard.take_progress();
        answer_number(&format!("{outcome:?} {status:?}"))
    }
}

/// A shard whose job has two workers, one of which is there, and two tables with rows in them.
fn fresh_shard() -> Shard {
    let mut shard = Shard::new(ShardSpec {
        isa: Isa::detect(),
        epoch: EPOCH,
        rules: Rules::builtin(),
        table_bytes_max: TABLE_BYTES_MAX,
        seed: 1,
        credit: 8,
        mutation: Mutation::None,
    });
    for kind in [Kind::Join, Kind::Define, Kind::Load] {
        for message in of_kind(kind) {
            let mut answers = Answers { sent: Vec::new(), room: 1 };
            let outcome = shard.handle(Aligned::copied(&message).bytes(), &mut answers);
            assert_eq!(outcome, Outcome::Answered);
            let (header, _) = wire::open(answers.sent[0].bytes(), crc).expect("well formed");
            assert_eq!(header.status(), Ok(Status::Done), "{kind:?} is good");
        }
    }
    shard
}

/// Keeps what is sent; has room for `room` answers.
struct Answers {
    sent: Vec<Aligned>,
    room: usize,
}

impl Outbox for Answers {
    type Slot = Aligned;

    fn bytes_max(&self) -> usize {
        ANSWER_BYTES_MAX
    }

    fn seal(&self) -> Seal {
        Seal::Body
    }

    fn acquire(&mut self, bytes: usize) -> Option<Aligned> {
        assert!((HEADER_BYTES..=ANSWER_BYTES_MAX).contains(&bytes), "an answer of {bytes} bytes");
        self.room = self.room.checked_sub(1)?;
        Some(Aligned::zeros(bytes))
    }

    fn bytes_mut(slot: &mut Aligned) -> &mut [u8] {
        slot.bytes_mut()
    }

    fn post(&mut self, slot: Aligned) {
        self.sent.push(slot);
    }
}
