//! Reading one part: blocks in order, each checked before it is handed out.
//!
//! Owns the buffers of a part and the thread that reads and checks ahead: while one block is worked
//! on, the next is read. What the messages mean is left to the caller.
//!
//! Invariant: a block that is handed out is the one that was written at its place. That the part
//! is the whole one that the manifest names is known at its end: until `next` has returned `None`,
//! what was built from it is not to be used.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::backend::{Backend, Source};
use crate::block::{BLOCK_HEAD_BYTES, Block};
use crate::error::{Broken, StoreError};
use crate::layout::Object;
use crate::manifest::{Manifest, PartEntry};
use crate::part::{HEAD_BYTES, PartHead};
use crate::sum::Root;

/// Buffers of a part: one is worked on, one is read, one waits.
const BLOCKS_MAX: usize = 3;

/// Reads a part.
#[derive(Debug)]
pub struct PartReader {
    name: String,
    limit: Duration,
    /// The block that is worked on.
    current: Option<Block>,
    /// Blocks that were read; what ends them is the last thing sent.
    read: Receiver<Result<Option<Block>, Broken>>,
    /// Blocks that were worked on, to be read into again.
    spare: Sender<Block>,
    /// How it ended, once it has.
    end: Option<Result<(), Broken>>,
}

impl PartReader {
    /// Begins to read `part`.
    pub(crate) fn begin(
        backend: &Arc<dyn Backend>,
        limit: Duration,
        manifest: &Manifest,
        part: &PartEntry,
    ) -> Result<PartReader, Broken> {
        let object = manifest.object(part);
        let name = backend.name(&object);
        let (ready, read) = bounded(BLOCKS_MAX);
        let (spare, empty) = bounded(BLOCKS_MAX);
        for _ in 0..BLOCKS_MAX {
            spare.send(Block::default()).expect("its receiver is in this function");
        }
        let head =
            PartHead { number: manifest.number, cluster: manifest.cluster.id, shard: part.shard };
        let backend = Arc::clone(backend);
        let mut ahead = Ahead {
            name: name.clone(),
            part: part.clone(),
            offset: 0,
            index: 0,
            messages: 0,
            empty,
            ready,
        };
        let thread = thread::Builder::new().name(format!("checkpoint-{}", part.shard.get()));
        let work = move || ahead.run(&*backend, &object, head);
        thread.spawn(work).map_err(|error| StoreError::Failed {
            object: name.clone(),
            doing: "start a thread",
            offset: None,
            why: error.to_string(),
        })?;
        Ok(PartReader { name, limit, current: None, read, spare, end: None })
    }

    /// The next block; `None` at the end, if the part is whole and the one that the manifest names.
    ///
    /// - Errors: from here on the part is broken. The same is said again on each further call.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its item")]
    pub fn next(&mut self) -> Result<Option<&Block>, Broken> {
        if let Some(end) = &self.end {
            return end.clone().map(|()| None);
        }
        if let Some(block) = self.current.take() {
            // There is room for all blocks; at its end nobody takes them.
            let _ = self.spare.try_send(block);
        }
        match self.read.recv_timeout(self.limit) {
            Ok(Ok(Some(block))) => {
                self.current = Some(block);
                Ok(self.current.as_ref())
            }
            Ok(Ok(None)) => {
                self.end = Some(Ok(()));
                Ok(None)
            }
            Ok(Err(broken)) => self.broken(broken),
            Err(RecvTimeoutError::Timeout) => {
                let (object, limit) = (self.name.clone(), self.limit);
                self.broken(StoreError::TimedOut { object, doing: "read", limit }.into())
            }
            Err(RecvTimeoutError::Disconnected) => panic!("a part's thread ended without a word"),
        }
    }

    fn broken(&mut self, broken: Broken) -> Result<Option<&Block>, Broken> {
        self.end = Some(Err(broken.clone()));
        Err(broken)
    }
}

/// The thread that reads ahead.
struct Ahead {
    name: String,
    part: PartEntry,
    offset: u64,
    index: u64,
    messages: u64,
    empty: Receiver<Block>,
    ready: Sender<Result<Option<Block>, Broken>>,
}

impl Ahead {
    /// Reads until the end, a fault, or until the reader is gone.
    fn run(&mut self, backend: &dyn Backend, object: &Object, head: PartHead) {
        let end = self.read_part(backend, object, head);
        if let Some(last) = end.transpose() {
            // The reader may be gone.
            let _ = self.ready.send(last.map(|()| None));
        }
    }

    /// Returns nothing if the reader is gone.
    fn read_part(
        &mut self,
        backend: &dyn Backend,
        object: &Object,
        head: PartHead,
    ) -> Result<Option<()>, Broken> {
        let mut source = match backend.open(object) {
            Err(StoreError::Absent { object }) => return Err(Broken::PartMissing { object }),
            opened => opened?,
        };
        let mut bytes = [0; HEAD_BYTES];
        self.fill(&mut *source, &mut bytes)?;
        head.check(&bytes, || self.name.clone())?;
        if source.bytes() != self.part.bytes {
            let (promised, bytes) = (self.part.bytes, source.bytes());
            return Err(Broken::PartLength { object: self.name.clone(), promised, bytes });
        }
        let head = PartHead::sum(&bytes);
        let mut root = Root::new(head);
        while self.offset < self.part.bytes {
            let Ok(mut block) = self.empty.recv() else { return Ok(None) };
            let offset = self.offset;
            self.read_block(&mut *source, &mut block)?;
            root.add(block.check(head, self.index, offset, || self.name.clone())?);
            self.index += 1;
            self.messages += u64::from(block.message_count());
            if self.ready.send(Ok(Some(block))).is_err() {
                return Ok(None);
            }
        }
        let (promised, computed) = (self.part.root, root.sum());
        if promised != computed {
            return Err(Broken::OtherPart { object: self.name.clone(), promised, computed });
        }
        if self.index != self.part.blocks || self.messages != self.part.messages {
            return Err(self.shape(self.offset, "blocks or messages are not as many as promised"));
        }
        Ok(Some(()))
    }

    fn read_block(&mut self, source: &mut dyn Source, block: &mut Block) -> Result<(), Broken> {
        let begin = self.offset;
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.fill(source, &mut head)?;
        let Some(payload) = block.begin_read(&head) else {
            return Err(self.shape(begin, "a block of a length that none has"));
        };
        if payload.len() as u64 > self.part.bytes.saturating_sub(self.offset) {
            return Err(self.shape(begin, "a block that is longer than the rest of the part"));
        }
        self.fill(source, payload)
    }

    /// Reads all of `into`.
    fn fill(&mut self, source: &mut dyn Source, into: &mut [u8]) -> Result<(), Broken> {
        let read = source.read(into)?;
        self.offset += read as u64;
        if read < into.len() {
            let (promised, bytes) = (self.part.bytes, self.offset);
            return Err(Broken::PartLength { object: self.name.clone(), promised, bytes });
        }
        Ok(())
    }

    fn shape(&self, offset: u64, what: &'static str) -> Broken {
        Broken::Shape { object: self.name.clone(), offset, what }
    }
}
