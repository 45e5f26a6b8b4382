//! Writing one part: messages in, blocks out.
//!
//! Owns the buffers of a part, their sums, and the thread that writes them: while one block is on
//! its way to the store, the next is filled. Sums are made on the filling side, so that the thread
//! of a fast disk has nothing else to do. What the messages are is left to the caller.
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
use crate::sum::{Root, Sum};

/// Buffers of a part: one is filled, one is written, the others wait. Blocks that were not copied
/// are short, and a disk is not to wait for them.
const BLOCKS_MAX: usize = 6;

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
    /// Sum of the part's header.
    head: Sum,
    /// Over all blocks that were handed over.
    root: Root,
    written: Written,
    /// Blocks to be written; none once the part has failed.
    full: Option<Sender<Step>>,
    /// Blocks that were written, to be filled again.
    empty: Receiver<Block>,
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
        let (full, steps) = bounded(BLOCKS_MAX);
        let (spare, empty) = bounded(BLOCKS_MAX);
        let (done, outcome) = bounded(1);
        let head = PartHead { number: plan.number, cluster: plan.cluster, shard: plan.shard };
        let head = head.to_bytes(plan.values);
        for _ in 1..BLOCKS_MAX {
            spare.send(Block::default()).expect("its receiver is in this function");
        }
        let thread = thread::Builder::new().name(format!("checkpoint-{}", plan.shard.get()));
        // A result that comes too late has no reader.
        let work = move || {
            yield_to_others();
            drop(done.send(write_part(sink, &head, &steps, &spare)));
        };
        thread.spawn(work).map_err(|error| StoreError::Failed {
            object: object.clone(),
            doing: "start a thread",
            offset: None,
            why: error.to_string(),
        })?;
        let mut block = Block::default();
        block.clear();
        let head = PartHead::sum(&head);
        let written = Written { bytes: HEAD_BYTES as u64, blocks: 0, messages: 0 };
        let (root, full) = (Root::new(head), Some(full));
        Ok(PartWriter { plan, object, limit, block, head, root, written, full, empty, outcome })
    }

    /// Appends a whole message. Waits while the store is behind by all buffers.
    ///
    /// - Errors: it is too long, and left out; or the part has failed.
    pub fn append(&mut self, message: &[u8]) -> Result<(), WriteError> {
        if message.len() > wire::FRAME_BYTES_MAX {
            return Err(WriteError::TooLong { bytes: message.len() });
        }
        if !self.block.has_room(message.len()) {
            self.hand_over()?;
        } else if self.full.is_none() {
            return Err(self.ended());
        }
        self.block.push(message);
        Ok(())
    }

    /// Appends messages as a block of their own, which is not copied. Waits while the store is
    /// behind by all buffers.
    ///
    /// - Returns a block that was written before, for its memory.
    /// - Errors: the part has failed.
    pub fn append_block(&mut self, block: Block) -> Result<Block, WriteError> {
        if self.block.payload_bytes() > 0 {
            self.hand_over()?;
        }
        let begun = std::mem::replace(&mut self.block, block);
        self.hand_over()?;
        // Each block that goes comes back, so the one that was begun can be given away.
        Ok(std::mem::replace(&mut self.block, begun))
    }

    /// Writes what is left, makes the part durable and gives it its name.
    ///
    /// - Returns what the manifest says of it.
    /// - Errors: it failed.
    pub fn finish(mut self, end: PartEnd) -> Result<PartEntry, WriteError> {
        if self.block.payload_bytes() > 0 {
            self.hand_over()?;
        }
        let Some(full) = self.full.take() else { return Err(self.ended()) };
        if full.send_timeout(Step::Finish, self.limit).is_err() {
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

    /// Gives the filled block to the thread and takes an empty one.
    fn hand_over(&mut self) -> Result<(), WriteError> {
        let Some(full) = &self.full else { return Err(self.ended()) };
        self.root.add(self.block.seal(self.head, self.written.blocks));
        self.written.bytes += self.block.as_bytes().len() as u64;
        self.written.blocks += 1;
        self.written.messages += u64::from(self.block.message_count());
        // The channel has room for all blocks there are: this does not wait.
        let sent = full.send_timeout(Step::Write(std::mem::take(&mut self.block)), self.limit);
        let empty = sent.ok().and_then(|()| self.empty.recv_timeout(self.limit).ok());
        match empty {
            Some(block) => {
                self.block = block;
                self.block.clear();
                Ok(())
            }
            None => {
                self.full = None;
                Err(self.failure())
            }
        }
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
    Write(Block),
    Finish,
}

/// What was handed over.
#[derive(Clone, Copy)]
struct Written {
    bytes: u64,
    blocks: u64,
    messages: u64,
}

/// The thread: writes blocks in order until it is told to finish, or the writer is gone.
fn write_part(
    mut sink: Box<dyn Sink>,
    head: &[u8],
    steps: &Receiver<Step>,
    spare: &Sender<Block>,
) -> Result<(), StoreError> {
    match write_blocks(&mut *sink, head, steps, spare) {
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

/// How blocks end.
enum End {
    Finish,
    /// The writer is gone: nobody hears how it ended.
    Gone,
}

fn write_blocks(
    sink: &mut dyn Sink,
    head: &[u8],
    steps: &Receiver<Step>,
    spare: &Sender<Block>,
) -> Result<End, StoreError> {
    sink.write(head)?;
    loop {
        match steps.recv() {
            Ok(Step::Write(block)) => {
                sink.write(block.as_bytes())?;
                // The writer may have waited too long and gone.
                let _ = spare.try_send(block);
            }
            Ok(Step::Finish) => return Ok(End::Finish),
            Err(_) => return Ok(End::Gone),
        }
    }
}
