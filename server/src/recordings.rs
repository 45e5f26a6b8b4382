//! A core's side of recordings: pages of rows a turn, and tapes to the threads that write them.
//!
//! Owns the pace. What is recorded is left to `shard::chain`, writing it to `recorder`.
//!
//! What changes beside a recording is copied before, and waits to be passed on. The pace is that of
//! all tapes, until more of them wait than is good for the memory: recordings have half of what
//! the server's budget leaves them and tables together.
//!
//! Invariant: a turn looks at as much of a table as some 0.1 ms allow, and no tape is waited for.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use shard::Room;
use shard::chain::{Purpose, Replica, TAPE_BYTES, Tape};
use wire::{Clock, ShardId, Time};

use crate::chains::Hosted;
use crate::turn::Core;
use crate::view::Turns;

/// Tapes of a core that wait for their pace at most, in bytes: what is more is passed on at once.
const PACED_BYTES_MAX: usize = 256 << 20;

/// The same where no memory is left: a server that is full can be recorded, too.
const PACED_BYTES_MIN: usize = 8 << 20;

/// Tapes of a core that may wait whatever memory is left, in bytes; beyond it a recording ends.
const WAITING_BYTES_MIN: usize = 32 << 20;

/// Memory of tapes that a core keeps for further ones, and for the next checkpoint, in bytes: new
/// memory has to be zeroed first, in the middle of a turn.
const SPARE_BYTES_MAX: usize = PACED_BYTES_MAX;

/// How many tapes' memory is given back at once, where too much is kept.
const GIVEN_BACK_MAX: usize = 4;

/// Time of the rate that may be made up for after a pause.
const BURST: Duration = Duration::from_millis(20);

/// What a core passes on while workers ask for something, where nobody has named a rate, in bytes a
/// second: rows of 32 bytes and their keys take some 35 to 50 ns each, which is 4 % of the time.
const BUSY_BYTES_PER_S: u64 = 32 << 20;

/// Workers that have asked for nothing for so long are not held up by what is passed on: who waits
/// for a processor is back sooner.
const IDLE_AFTER: Duration = Duration::from_millis(50);

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
    /// What this core may pass on, in bytes a second; none: as fast as it goes where no worker
    /// asks for anything, and little while one does.
    pub bytes_per_s: Option<u64>,
}

/// What a core knows of its recordings together.
#[derive(Debug, Default)]
pub(crate) struct Recordings {
    /// Which of the core's shards comes first next time.
    next: usize,
    /// Bytes that were passed on beyond the rate are paid for by then.
    paid_at: Time,
    /// When a tape that waits for its pace may go on.
    due: Option<Time>,
    /// Whether a worker has asked for something in this turn.
    pub(crate) is_asked: bool,
    /// When a worker asked last.
    asked_at: Time,
    /// Memory for further tapes.
    spare: Vec<Vec<u64>>,
    spare_bytes: usize,
    /// What tapes that wait and memory for further ones may take together, in bytes; none: nobody
    /// has said.
    share_bytes: Option<usize>,
    /// What of it memory for further ones may take.
    spare_max: Option<usize>,
    /// What they took of turns.
    pub(crate) took: Turns,
    /// The same, but only the time that this thread ran.
    pub(crate) took_own: Turns,
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

    /// Has the recording of a shard for this checkpoint say again what the shard has come to.
    pub fn tell_reached(&mut self, shard: ShardId, number: u64) {
        if let Some(hosted) = self.recorded(shard, number) {
            hosted.replica.tell_reached();
        }
    }

    /// Cuts the recording of a shard for this checkpoint, where its slowest clock becomes this one;
    /// none: where it is.
    pub fn cut_recording(&mut self, shard: ShardId, number: u64, cut: Option<Clock>) {
        if let Some(hosted) = self.recorded(shard, number) {
            hosted.replica.cut_recording(cut);
        }
    }

    /// Ends the recording of a shard for this checkpoint.
    pub fn end_recording(&mut self, shard: ShardId, number: u64) {
        if let Some(hosted) = self.recorded(shard, number) {
            hosted.replica.end_recording();
            hosted.tap = None;
        }
    }

    /// A shard that is recorded for this checkpoint.
    fn recorded(&mut self, shard: ShardId, number: u64) -> Option<&mut Hosted> {
        let is_it = |tap: &Tap| tap.purpose.number == number;
        let hosted = self.hosted.iter_mut().find(|hosted| hosted.number == shard);
        hosted.filter(|hosted| hosted.tap.as_ref().is_some_and(is_it))
    }

    /// Adds a page to one recording, and passes on what all have. Whether there is more to do at
    /// once.
    pub(crate) fn keep_recordings(&mut self) -> bool {
        self.recordings.due = None;
        let is_asked = std::mem::take(&mut self.recordings.is_asked);
        if self.hosted.iter().all(|hosted| hosted.tap.is_none()) {
            return false;
        }
        let (begun, begun_own) = (self.transport.now(), processor_time());
        if is_asked {
            self.recordings.asked_at = begun;
        }
        let count = self.hosted.len();
        let waiting = self.recorded_bytes();
        let Bounds { paced, walked, waiting: waiting_max } = self.recordings.bounds();
        let (is_paced, walks) = (waiting <= paced, waiting < walked);
        let (first, mut has_added) = (self.recordings.next % count, false);
        self.recordings.next = first + 1;
        for at in (0..count).map(|at| (first + at) % count) {
            let Hosted { replica, tap, .. } = &mut self.hosted[at];
            self.recordings.give(replica);
            let others = waiting.saturating_sub(replica.recorded_bytes());
            replica.bound_recording(waiting_max.saturating_sub(others));
            replica.record_copies();
            if !has_added && tap.is_some() && replica.wants_page() {
                has_added = walks || replica.is_copied();
                match has_added {
                    true => replica.record_page(),
                    false => has_added = replica.pass_copied(),
                }
            }
            self.pass_tapes(at, begun, is_paced);
        }
        self.recordings.took.note(self.transport.now() - begun);
        self.recordings.took_own.note(processor_time().saturating_sub(begun_own));
        has_added
    }

    /// Says what the core may still take. Recordings have half of that and of what they take.
    pub(crate) fn bound_recordings(&mut self, room: Room) {
        let room_bytes = usize::try_from(room.bytes).unwrap_or(usize::MAX);
        self.recordings.share(room_bytes, self.recorded_bytes());
    }

    /// What waits of all recordings, in bytes.
    fn recorded_bytes(&self) -> usize {
        self.hosted.iter().map(|hosted| hosted.replica.recorded_bytes()).sum()
    }

    /// When a tape may be passed on that waits for its pace.
    pub(crate) fn tape_due(&self) -> Option<Time> {
        self.recordings.due
    }

    /// Passes on what a shard has recorded, as far as the pace and the writer permit.
    fn pass_tapes(&mut self, at: usize, now: Time, is_paced: bool) {
        let (hosted, recordings) = (&mut self.hosted[at], &mut self.recordings);
        let Some(tap) = &hosted.tap else { return };
        while let Ok(tape) = tap.spare.try_recv() {
            recordings.keep(tape);
        }
        let pace = Pace { rate: tap.bytes_per_s, is_kept: is_paced, now };
        loop {
            let waits_until = recordings.waits_until(pace);
            if hosted.replica.recorded_bytes() > 0 && now < waits_until {
                recordings.due = Some(waits_until);
                return;
            }
            let tape = match hosted.replica.take_tape() {
                Ok(Some(tape)) => tape,
                Ok(None) => return,
                Err(end) => {
                    let _ = tap.end.set(end.to_string());
                    break;
                }
            };
            let bytes = tape.bytes();
            match tap.tapes.try_send(tape) {
                Ok(()) => recordings.pay(pace, bytes),
                Err(TrySendError::Full(tape)) => return hosted.replica.untake_tape(tape),
                Err(TrySendError::Disconnected(_)) => break,
            }
        }
        hosted.replica.end_recording();
        hosted.tap = None;
    }
}

/// What this thread has computed so far, the kernel's work for it included.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How fast tapes are passed on.
#[derive(Clone, Copy)]
struct Pace {
    /// As [`Tap::bytes_per_s`].
    rate: Option<u64>,
    /// Not, where too much waits.
    is_kept: bool,
    now: Time,
}

/// How much of a core's recordings may wait, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    /// Beyond it tapes wait for no pace.
    paced: usize,
    /// From here on the walk waits; the rest is for what changes. It may go far ahead of the
    /// writers: until it has been everywhere, each push is looked at.
    walked: usize,
    /// Beyond it a recording ends.
    waiting: usize,
}

impl Recordings {
    /// Memory that is kept for further tapes, in bytes.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spare_bytes as u64
    }

    /// The core may take so many bytes more, and so many wait. Memory that there is too much of
    /// for that is given back, some each time.
    fn share(&mut self, room_bytes: usize, waiting_bytes: usize) {
        let share = room_bytes.saturating_add(waiting_bytes).saturating_add(self.spare_bytes) / 2;
        let spare_max = share.saturating_sub(waiting_bytes);
        (self.share_bytes, self.spare_max) = (Some(share), Some(spare_max));
        for _ in 0..GIVEN_BACK_MAX {
            if self.spare_bytes <= spare_max {
                return;
            }
            let given = self.spare.pop().map_or(0, |words| size_of_val(words.as_slice()));
            self.spare_bytes -= given;
        }
    }

    fn bounds(&self) -> Bounds {
        let share = self.share_bytes.unwrap_or(usize::MAX);
        let paced = (share / 2).clamp(PACED_BYTES_MIN, PACED_BYTES_MAX);
        Bounds { paced, walked: paced / 4 * 3, waiting: share.max(WAITING_BYTES_MIN) }
    }

    /// Keeps a tape's memory, if there is not enough.
    fn keep(&mut self, words: Vec<u64>) {
        let bytes = size_of_val(words.as_slice());
        let spare_max = self.spare_max.unwrap_or(usize::MAX).min(SPARE_BYTES_MAX);
        if bytes == TAPE_BYTES && self.spare_bytes + bytes <= spare_max {
            self.spare_bytes += bytes;
            self.spare.push(words);
        }
    }

    /// Gives a recording the memory that its next turns may need.
    fn give<S>(&mut self, replica: &mut Replica<S>) {
        while let Some(words) = self.spare.pop() {
            let bytes = size_of_val(words.as_slice());
            if let Some(words) = replica.reuse_tape(words) {
                return self.spare.push(words);
            }
            self.spare_bytes -= bytes;
        }
    }

    /// Until when the next tape waits.
    fn waits_until(&self, pace: Pace) -> Time {
        match pace.rate {
            _ if !pace.is_kept => Time::default(),
            Some(_) => self.paid_at,
            None => self.paid_at.min(self.idle_from()),
        }
    }

    /// So many bytes were passed on.
    fn pay(&mut self, pace: Pace, bytes: usize) {
        let is_busy = pace.now < self.idle_from();
        let rate = pace.rate.or(is_busy.then_some(BUSY_BYTES_PER_S));
        let Some(bytes_per_s) = rate.filter(|_| pace.is_kept) else { return };
        let owed = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64);
        let earliest = Time::default() + (pace.now - Time::default()).saturating_sub(BURST);
        self.paid_at = self.paid_at.max(earliest) + owed;
    }

    /// From when on nobody counts as asking.
    fn idle_from(&self) -> Time {
        self.asked_at + IDLE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a core's, with memory of so many tapes.
    fn keeping(tapes: usize) -> Recordings {
        let mut recordings = Recordings::default();
        (0..tapes).for_each(|_| recordings.keep(vec![0; TAPE_BYTES / size_of::<u64>()]));
        recordings
    }

    #[test]
    fn what_may_wait_is_half_of_the_memory_that_is_left_and_never_nothing() {
        let mut recordings = Recordings::default();
        let unbounded = recordings.bounds();
        assert_eq!((unbounded.paced, unbounded.waiting), (PACED_BYTES_MAX, usize::MAX));
        recordings.share(120 << 20, 8 << 20);
        let half = Bounds { paced: 32 << 20, walked: 24 << 20, waiting: 64 << 20 };
        assert_eq!(recordings.bounds(), half, "of 128 MiB");
        recordings.share(64 << 20, 64 << 20);
        assert_eq!(recordings.bounds(), half, "it is the same when all of it waits");
        recordings.share(0, 0);
        let least = recordings.bounds();
        assert_eq!((least.paced, least.waiting), (PACED_BYTES_MIN, WAITING_BYTES_MIN));
        recordings.share(usize::MAX, usize::MAX);
        assert_eq!(recordings.bounds().paced, PACED_BYTES_MAX);
    }

    #[test]
    fn memory_of_tapes_is_given_back_where_little_is_left() {
        let mut recordings = keeping(40);
        assert_eq!(recordings.spare_bytes(), 40 << 20);
        recordings.share(40 << 20, 0);
        assert_eq!(recordings.spare_bytes(), 40 << 20, "half of what is left is enough");
        recordings.share(20 << 20, 0);
        assert_eq!(recordings.spare_bytes(), (40 - GIVEN_BACK_MAX as u64) << 20, "some at once");
        (0..100).for_each(|_| recordings.share(0, 0));
        assert_eq!((recordings.spare_bytes(), recordings.spare.len()), (0, 0));
        recordings.keep(vec![0; TAPE_BYTES / size_of::<u64>()]);
        assert_eq!(recordings.spare_bytes(), 0, "and none is kept");
    }
}
