//! A core's side of recordings: pages of rows a turn, and tapes to the threads that write them.
//!
//! Owns the pace. What is recorded is left to `shard::chain`, writing it to `recorder`.
//!
//! Invariant: a turn adds one page at most, of 256 KiB, whatever the store does; no tape is waited
//! for.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shard::chain::{Purpose, Tape};
use wire::{ShardId, Time};

use crate::turn::Core;
use crate::view::Turns;

/// Time of the rate that may be made up for after a pause.
const BURST: Duration = Duration::from_millis(20);

/// The way from a shard's recording to its writer. A server has a thread at its end, a simulation
/// takes the tapes by itself.
#[derive(Debug)]
pub struct Tap {
    /// Of the recording.
    pub purpose: Purpose,
    /// Tapes that are full. What finds no room waits in the shard.
    pub tapes: SyncSender<Tape>,
    /// Memory of tapes that were written, to be used again.
    pub spare: Receiver<Vec<u64>>,
    /// Why the core ended the recording, if it did.
    pub end: Arc<OnceLock<String>>,
    /// What this core may record, in bytes a second; none: as fast as it goes.
    pub bytes_per_s: Option<u64>,
}

/// What a core knows of its recordings together.
#[derive(Debug, Default)]
pub(crate) struct Recordings {
    /// Which of the core's shards adds a page next.
    next: usize,
    /// Bytes of pages that were added beyond the rate are paid for by then.
    paid_at: Time,
    /// Whether a page waits for that.
    waits: bool,
    /// What they took of turns.
    pub(crate) took: Turns,
}

impl Core {
    /// Begins to record a shard, or says in the tap why not.
    pub fn begin_recording(&mut self, shard: ShardId, tap: Tap) {
        let hosted = self.hosted.iter_mut().find(|hosted| hosted.number == shard);
        let Some(hosted) = hosted else {
            let _ = tap.end.set("the server does not hold the shard".to_owned());
            return;
        };
        if hosted.tap.as_ref().is_some_and(|known| known.purpose.number < tap.purpose.number) {
            hosted.replica.end_recording();
            hosted.tap = None;
        }
        match hosted.replica.begin_recording(tap.purpose) {
            Ok(()) => hosted.tap = Some(tap),
            Err(error) => drop(tap.end.set(error.to_string())),
        }
    }

    /// Ends the recording of a shard for this checkpoint.
    pub fn end_recording(&mut self, shard: ShardId, number: u64) {
        let is_it = |tap: &Tap| tap.purpose.number == number;
        let hosted = self.hosted.iter_mut().find(|hosted| hosted.number == shard);
        if let Some(hosted) = hosted.filter(|hosted| hosted.tap.as_ref().is_some_and(is_it)) {
            hosted.replica.end_recording();
            hosted.tap = None;
        }
    }

    /// Adds a page to one recording, and passes on what all have. Whether there is more to do at
    /// once.
    pub(crate) fn keep_recordings(&mut self) -> bool {
        if self.hosted.iter().all(|hosted| hosted.tap.is_none()) {
            return false;
        }
        let begun = self.transport.now();
        let more = self.add_page();
        for hosted in &mut self.hosted {
            let Some(tap) = &hosted.tap else { continue };
            while let Ok(tape) = tap.spare.try_recv() {
                hosted.replica.reuse_tape(tape);
            }
            let is_over = loop {
                let tape = match hosted.replica.take_tape() {
                    Ok(Some(tape)) => tape,
                    Ok(None) => break false,
                    Err(end) => {
                        let _ = tap.end.set(end.to_string());
                        break true;
                    }
                };
                match tap.tapes.try_send(tape) {
                    Ok(()) => {}
                    Err(TrySendError::Full(tape)) => {
                        hosted.replica.untake_tape(tape);
                        break false;
                    }
                    Err(TrySendError::Disconnected(_)) => break true,
                }
            };
            if is_over {
                hosted.replica.end_recording();
                hosted.tap = None;
            }
        }
        self.recordings.took.note(self.transport.now() - begun);
        more
    }

    /// When a page may be added that waits for its rate.
    pub(crate) fn page_due(&self) -> Option<Time> {
        self.recordings.waits.then_some(self.recordings.paid_at)
    }

    /// Adds a page, of the shards in turns. Whether there are more that may be added at once.
    fn add_page(&mut self) -> bool {
        let now = self.transport.now();
        let count = self.hosted.len();
        let in_turns = (0..count).map(|at| (self.recordings.next + at) % count);
        let wants =
            |&at: &usize| self.hosted[at].tap.is_some() && self.hosted[at].replica.wants_page();
        let found = in_turns.clone().find(wants);
        self.recordings.waits = found.is_some() && now < self.recordings.paid_at;
        let Some(at) = found.filter(|_| !self.recordings.waits) else { return false };
        self.recordings.next = (at + 1) % count;
        let hosted = &mut self.hosted[at];
        let added = hosted.replica.record_page();
        if let Some(bytes_per_s) = hosted.tap.as_ref().and_then(|tap| tap.bytes_per_s) {
            let owed = Duration::from_secs_f64(added as f64 / bytes_per_s.max(1) as f64);
            let earliest = now - Time::default();
            let earliest = Time::default() + earliest.saturating_sub(BURST);
            self.recordings.paid_at = self.recordings.paid_at.max(earliest) + owed;
        }
        true
    }
}
