//! Recordings: what servers do about checkpoints.
//!
//! Owns a part from the coordinator's order to its report, by the rules of `server`'s recorders,
//! which have a thread for it. Recording is the core's; writing is left to `vault`.
//!
//! Invariant: a recording ends in one report, or with its server.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};

use server::Tap;
use shard::chain::{Purpose, Reached, Tape};
use wire::{Clock, RecordOrder, ShardId, StoreReport, StoreState, Time};

use super::control::Node;
use super::host::Process;
use super::{Fleet, Happening, Published, Stirred, VaultCounts};

/// Tapes between a core and who takes them.
const TAPES_MAX: usize = 8;

/// What a core may record in every other checkpoint, in bytes a second: little, so that shards
/// change between their cuts and their pages.
const PACED_BYTES_PER_S: u64 = 32 << 10;

/// What a coordinator wants of a server.
#[derive(Debug)]
pub(crate) enum RecordingOrder {
    /// It is to record a shard.
    Begin(RecordOrder),
    /// The recordings of this checkpoint are cut there.
    Cut(u64, Option<Clock>),
    /// The recordings of this checkpoint are of no use.
    End(u64),
}

/// A shard that is being recorded.
pub(crate) struct Recording {
    order: RecordOrder,
    tapes: Receiver<Tape>,
    end: Arc<OnceLock<String>>,
    taken: Vec<Tape>,
    reached: Reached,
    is_told_marked: bool,
}

/// How a recording goes on.
enum Goes {
    On,
    /// The shard's core has said what the shard had come to.
    Begun,
    /// It was given up by the core.
    Lost(String),
    /// It is whole.
    Enough,
}

impl Recording {
    /// Takes what was recorded.
    fn take(&mut self) -> Goes {
        loop {
            match self.tapes.try_recv() {
                Ok(tape) => {
                    self.is_told_marked &= tape.count() > 0;
                    self.reached = tape.reached;
                    self.taken.push(tape);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    let none = || "the shard's core ended it".to_owned();
                    return Goes::Lost(self.end.get().cloned().unwrap_or_else(none));
                }
            }
        }
        match (self.reached.is_whole, self.taken.is_empty() || self.is_told_marked) {
            (true, _) => Goes::Enough,
            (false, false) => Goes::Begun,
            (false, true) => Goes::On,
        }
    }

    fn report(&self, state: StoreState) -> StoreReport {
        let RecordOrder { number, shard, attempt, .. } = self.order;
        StoreReport { shard, number, attempt, state }
    }
}

impl Process {
    /// Begins to record a shard, unless it does already.
    fn record(&mut self, order: RecordOrder) {
        let RecordOrder { number, shard, attempt, .. } = order;
        if let Some(known) = self.recordings.get(&shard) {
            if (known.order.number, known.order.attempt) >= (number, attempt) {
                return self.core.tell_reached(shard, number); // Said again.
            }
            self.core.end_recording(shard, known.order.number);
        }
        if self.recorded.get(&shard).is_some_and(|&newest| newest >= (number, attempt)) {
            return;
        }
        self.recorded.insert(shard, (number, attempt));
        let (tapes, taken) = sync_channel(TAPES_MAX);
        let (_, spare) = sync_channel(TAPES_MAX);
        let end = Arc::new(OnceLock::new());
        let purpose = Purpose { number, base: None, is_base: false };
        let bytes_per_s = number.is_multiple_of(2).then_some(PACED_BYTES_PER_S);
        let tap = Tap { purpose, tapes, spare, end: Arc::clone(&end), bytes_per_s };
        self.core.begin_recording(shard, tap);
        let recording = Recording {
            order,
            tapes: taken,
            end,
            taken: Vec::new(),
            reached: Reached::default(),
            is_told_marked: false,
        };
        self.recordings.insert(shard, recording);
    }

    /// Hears where the recordings of a checkpoint are cut.
    fn cut_recordings(&mut self, number: u64, clock: Option<Clock>) {
        let Process { recordings, core, .. } = self;
        let of_it = recordings.iter().filter(|(_, it)| it.order.number == number);
        of_it.for_each(|(&shard, _)| core.cut_recording(shard, number, clock));
    }

    /// The recordings of a checkpoint are of no use any more.
    fn end_recordings(&mut self, number: u64) {
        let Process { recordings, core, .. } = self;
        recordings.retain(|&shard, it| {
            if it.order.number == number {
                core.end_recording(shard, number);
            }
            it.order.number != number
        });
    }
}

impl Fleet {
    /// A server does what its coordinator wants.
    pub(super) fn ordered(&mut self, node: Node, order: RecordingOrder) {
        let Node::Host(host) = node else { return };
        let Some(process) = &mut self.hosts[host] else { return };
        match order {
            RecordingOrder::Begin(order) => process.record(order),
            RecordingOrder::Cut(number, clock) => process.cut_recordings(number, clock),
            RecordingOrder::End(number) => process.end_recordings(number),
        }
        self.stirred = Stirred::Yes;
    }

    /// Takes what a server has recorded, and writes what is enough.
    pub(super) fn keep_recordings(&mut self, now: Time, host: usize) {
        let Fleet { hosts, vault: Some(vault), agenda, .. } = self else { return };
        let Some(process) = &mut hosts[host] else { return };
        for shard in process.recordings.keys().copied().collect::<Vec<ShardId>>() {
            let recording = process.recordings.get_mut(&shard).expect("it was just there");
            let state = match recording.take() {
                Goes::Begun => {
                    recording.is_told_marked = true;
                    let bytes = recording.taken.iter().map(|tape| tape.bytes() as u64).sum();
                    let clock = recording.reached.clock;
                    let marked = recording.report(StoreState::Marked { clock, bytes });
                    process.caller.notes.store(marked);
                    continue;
                }
                Goes::On => continue,
                Goes::Lost(reason) => StoreState::NotRecorded { reason },
                Goes::Enough => {
                    process.core.end_recording(shard, recording.order.number);
                    let Recording { order, taken, reached, .. } = recording;
                    match vault.write_part(order, taken, *reached) {
                        Ok(part) => StoreState::Recorded(part),
                        Err(reason) => StoreState::NotRecorded { reason },
                    }
                }
            };
            let report = recording.report(state);
            process.recordings.remove(&shard);
            let life = process.life;
            agenda.at(now + vault.way(), Happening::Stored(host, life, report));
        }
    }

    /// Checkpoints that were begun and published since the last time.
    pub(crate) fn take_checkpoints(&mut self) -> (Vec<u64>, Vec<Published>) {
        let Some(vault) = &mut self.vault else { return Default::default() };
        (vault.take_begun(), vault.take_published())
    }

    /// What has happened to checkpoints.
    pub(crate) fn vault_counts(&mut self) -> VaultCounts {
        self.vault.as_ref().map(|vault| vault.counts).unwrap_or_default()
    }

    /// A part is written, or is not: the coordinator is to hear of it.
    pub(super) fn stored(&mut self, host: usize, life: u64, report: StoreReport) {
        let process = self.hosts[host].as_mut().filter(|it| it.life == life);
        if let Some(process) = process {
            process.caller.notes.store(report);
        }
    }
}
