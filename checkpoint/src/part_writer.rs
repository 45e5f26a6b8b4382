//! Writing one part: messages in, blocks out.
//!
//! Owns the block and the pieces of a part, their sums, and the thread that writes them: while one
//! piece of the part is on its way to the store, the next is filled. Sums and copies are made on
//! the filling side, so that the thread of a fast disk has nothing else to do. What the messages
//! are is left to the caller.
//!
//! Invariant: a part that failed once takes nothing more and is never finished. It is begun again
//! by a new plan, under a new name.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};
use wire::{ShardId, StoredValues};

use crate::backend::{Backend, Sink};
use crate::block::Block;
use crate::error::{StoreError, WriteError};
use crate::layout::{CheckpointNumber, Object, part_file};
use crate::manifest::{ClusterId, PartEntry};
use crate::part::{HEAD_BYTES, PartHead};
use crate::piece::Piece;
use crate::sum::{Root, Sum};

/// Pieces of a part: one is filled, one is written, the others wait.
const PIECES_MAX: usize = 3;

/// What part is to be written. It may travel to another process, which writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPlan {
    /// The checkpoint.
    pub number: CheckpointNumber,
    /// Whose it is.
    pub cluster: ClusterId,
    /// The shard.
    pub shard: ShardId,
    /// How many attempts there were before.
    pub attempt: u32,
    /// How numbers of rows are written that may be rounded.
    #[serde(default)]
    pub values: StoredValues,
}

/// What the writer of a part says at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartEnd {
    /// Rows that the shard has after the last message.
    pub rows: u64,
    /// The shard's position after the last message.
    pub position: u64,
}

/// Writes a part. One that is dropped is abandoned.
pub struct PartWriter {
    plan: PartPlan,
    object: String,
    limit: Duration,
    block: Block,
    piece: Piece,
    /// Sum of the part's header.
    head: Sum,
    /// Over all blocks that were sealed.
    root: Root,
    written: Written,
    /// Pieces to be written; none once the part has failed.
    full: Option<Sender<Step>>,
    /// Pieces that were written, to be filled again.
    empty: Receiver<Piece>,
    outcome: Receiver<Result<(), StoreError>>,
}

impl PartWriter {
    /// Begins the part. Returns once its object is begun.
    pub(crate) fn begin(
        backend: &Arc<dyn Backend>,
        limit: Duration,
        plan: PartPlan,
    ) -> Result<PartWriter, WriteError> {
        let file = part_file(plan.shard, plan.attempt);
        let object = Object { number: plan.number, file };
        let sink = backend.create(&object)?;
        let object = backend.name(&object);
        let (full, steps) = bounded(PIECES_MAX);
        let (spare, empty) = bounded(PIECES_MAX);
        let (done, outcome) = bounded(1);
        let head = PartHead { number: plan.number, cluster: plan.cluster, shard: plan.shard };
        let head = head.to_bytes(plan.values);
        for _ in 1..PIECES_MAX {
            spare.send(Piece::new()).expect("its receiver is in this function");
        }
        let thread = thread::Builder::new().name(format!("checkpoint-{}", plan.shard.get()));
        // A result that comes too late has no reader.
        let work = move || {
            yield_to_others();
            drop(done.send(write_part(sink, &steps, &spare)));
        };
        thread.spawn(work).map_err(|error| StoreError::Failed {
            object: object.clone(),
            doing: "start a thread",
            offset: None,
            why: error.to_string(),
        })?;
        let (mut block, mut piece) = (Block::default(), Piece::new());
        block.clear();
        piece.take(&head);
        let head = PartHead::sum(&head);
        let written = Written { bytes: HEAD_BYTES as u64, blocks: 0, messages: 0 };
        let (root, full) = (Root::new(head), Some(full));
        Ok(PartWriter {
            plan,
            object,
            limit,
            block,
            piece,
            head,
            root,
            written,
            full,
            empty,
            outcome,
        })
    }

    /// Appends a whole message. Waits while the store is behind by all pieces.
    ///
    /// - Errors: it is too long, and left out; or the part has failed.
    pub fn append(&mut self, message: &[u8]) -> Result<(), WriteError> {
        if message.len() > wire::FRAME_BYTES_MAX {
            return Err(WriteError::TooLong { bytes: message.len() });
        }
        if !self.block.has_room(message.len()) {
            self.write_block()?;
        } else if self.full.is_none() {
            return Err(self.ended());
        }
        self.block.push(message);
        Ok(())
    }

    /// Appends messages as a block of their own. Waits while the store is behind by all pieces.
    ///
    /// - Errors: the part has failed.
    pub fn append_block(&mut self, block: &mut Block) -> Result<(), WriteError> {
        if self.block.payload_bytes() > 0 {
            self.write_block()?;
        }
        self.write(block)
    }

    /// Writes what is left, makes the part durable and gives it its name.
    ///
    /// - Returns what the manifest says of it.
    /// - Errors: it failed.
    pub fn finish(mut self, end: PartEnd) -> Result<PartEntry, WriteError> {
        if self.block.payload_bytes() > 0 {
            self.write_block()?;
        }
        let Some(full) = self.full.take() else { return Err(self.ended()) };
        let last = std::mem::take(&mut self.piece);
        if full.send_timeout(Step::Finish(last), self.limit).is_err() {
            return Err(self.failure());
        }
        let outcome = self.outcome.recv_timeout(self.limit);
        outcome.unwrap_or_else(|error| Err(self.silence(error)))?;
        let written = self.written;
        Ok(PartEntry {
            shard: self.plan.shard,
            object: part_file(self.plan.shard, self.plan.attempt),
            bytes: written.bytes,
            blocks: written.blocks,
            messages: written.messages,
            root: self.root.sum(),
            rows: end.rows,
            position: end.position,
            base: None,
            seed: None,
            values: self.plan.values,
        })
    }

    /// Writes the block that was filled, and begins another one.
    fn write_block(&mut self) -> Result<(), WriteError> {
        let mut block = std::mem::take(&mut self.block);
        let written = self.write(&mut block);
        self.block = block;
        self.block.clear();
        written
    }

    /// Seals a block and copies it into pieces, of which full ones go to the thread.
    fn write(&mut self, block: &mut Block) -> Result<(), WriteError> {
        if self.full.is_none() {
            return Err(self.ended());
        }
        self.root.add(block.seal(self.head, self.written.blocks));
        let mut rest = block.as_bytes();
        self.written.bytes += rest.len() as u64;
        self.written.blocks += 1;
        self.written.messages += u64::from(block.message_count());
        while !rest.is_empty() {
            rest = self.piece.take(rest);
            if self.piece.is_full() {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Gives the filled piece to the thread and takes an empty one.
    fn hand_over(&mut self) -> Result<(), WriteError> {
        let Some(full) = &self.full else { return Err(self.ended()) };
        let Ok(mut empty) = self.empty.recv_timeout(self.limit) else {
            self.full = None;
            return Err(self.failure());
        };
        empty.clear();
        let piece = std::mem::replace(&mut self.piece, empty);
        // The channel has room for all pieces there are: this does not wait.
        if full.send_timeout(Step::Write(piece), self.limit).is_err() {
            self.full = None;
            return Err(self.failure());
        }
        Ok(())
    }

    /// Why the thread takes nothing more.
    fn failure(&self) -> WriteError {
        match self.outcome.try_recv() {
            Ok(Err(error)) => WriteError::Store(error),
            Ok(Ok(())) => panic!("a part ended before it was finished"),
            Err(_) => WriteError::Store(self.silence(RecvTimeoutError::Timeout)),
        }
    }

    fn silence(&self, error: RecvTimeoutError) -> StoreError {
        assert!(error == RecvTimeoutError::Timeout, "a part's thread ended without a word");
        StoreError::TimedOut { object: self.object.clone(), doing: "write", limit: self.limit }
    }

    fn ended(&self) -> WriteError {
        WriteError::Ended { object: self.object.clone() }
    }
}

/// Has the scheduler give this thread what others leave: a checkpoint has time, and who waits for a
/// shard's core has not. Where that is refused, it goes on as it is.
pub fn yield_to_others() {
    const NICE: i32 = 10;
    // For the kernel, a thread is a process of its own here.
    let _ = rustix::process::setpriority_process(None, NICE);
}

enum Step {
    Write(Piece),
    /// The last one.
    Finish(Piece),
}

/// What was sealed.
#[derive(Clone, Copy)]
struct Written {
    bytes: u64,
    blocks: u64,
    messages: u64,
}

/// The thread: writes pieces in order until it is told to finish, or the writer is gone.
fn write_part(
    mut sink: Box<dyn Sink>,
    steps: &Receiver<Step>,
    spare: &Sender<Piece>,
) -> Result<(), StoreError> {
    match write_pieces(&mut *sink, steps, spare) {
        Ok(End::Finish) => sink.finish(),
        Ok(End::Gone) => {
            sink.abandon();
            Ok(())
        }
        Err(error) => {
            sink.abandon();
            Err(error)
        }
    }
}

/// How pieces end.
enum End {
    Finish,
    /// The writer is gone: nobody hears how it ended.
    Gone,
}

fn write_pieces(
    sink: &mut dyn Sink,
    steps: &Receiver<Step>,
    spare: &Sender<Piece>,
) -> Result<End, StoreError> {
    loop {
        match steps.recv() {
            Ok(Step::Write(piece)) => {
                sink.write(piece.as_bytes())?;
                // The writer may have waited too long and gone.
                let _ = spare.try_send(piece);
            }
            Ok(Step::Finish(piece)) => {
                sink.write(piece.as_bytes())?;
                return Ok(End::Finish);
            }
            Err(_) => return Ok(End::Gone),
        }
    }
}
