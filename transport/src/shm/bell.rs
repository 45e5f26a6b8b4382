//! Sleeping until a peer, a waker or the clock says otherwise.
//!
//! Owns the eventfds, the flags beside them and the epoll that one thread sleeps on. What is worth
//! waking for is left to `transport`.
//!
//! Invariant: who sleeps has set its flag, passed a `SeqCst` fence and looked once more; who rings
//! has made its news visible, passed a `SeqCst` fence and looks at the flag. So one of the two
//! sees the other, and no news is slept through.
//!
//! Bells are edge-triggered in the epoll: each write is one event, and no bell is ever read.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::error::ShmError;
use super::shared::{Control, Shared, Side};

/// Events taken from the epoll at a time; more wait for the next call.
const EVENTS_MAX: usize = 64;

/// The number of the waker's bell in the epoll; those of peers are their indices, which are less.
const WAKER: u64 = u32::MAX as u64;

/// In the number of an event: it is about the peer's process and not about its bell.
const LIVENESS: u64 = 1 << 32;

/// A bell that is silent yet.
pub(super) fn new_bell() -> Result<OwnedFd, ShmError> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(ShmError::os("eventfd"))
}

fn ring(bell: &OwnedFd) -> Result<(), Errno> {
    match rustix::io::write(bell, &1_u64.to_ne_bytes()) {
        // Rung 2^64 - 2 times already: whoever sleeps on it has been woken often enough.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// One end's doorbells and flags. Dropping it tells the peer that this end is gone.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) shared: Arc<Shared>,
    pub(super) side: Side,
    pub(super) bell: OwnedFd,
    pub(super) peer_bell: OwnedFd,
}

impl Doors {
    fn ours(&self) -> &Control {
        self.shared.control(self.side)
    }

    fn peers(&self) -> &Control {
        self.shared.control(self.side.other())
    }

    /// Whether the peer has dropped its end. What it posted before lies in the ring by then.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        self.peers().closed.load(Ordering::Acquire) != 0
    }

    /// Says that this end sleeps. A `SeqCst` fence and another look at the rings must follow.
    pub(super) fn fall_asleep(&self) {
        self.ours().asleep.store(1, Ordering::Relaxed);
    }

    /// Says that this end is awake, so that nobody rings for nothing.
    pub(super) fn wake_up(&self) {
        self.ours().asleep.store(0, Ordering::Relaxed);
    }

    /// Asks the peer to ring when it releases records. Before the fence of the next sleep.
    pub(super) fn want_space(&self) {
        self.ours().wants_space.store(1, Ordering::Relaxed);
    }

    /// Takes [`Doors::want_space`] back.
    pub(super) fn have_space(&self) {
        self.ours().wants_space.store(0, Ordering::Relaxed);
    }

    /// Rings if the peer sleeps. The news and a `SeqCst` fence come before.
    pub(super) fn ring_if_asleep(&self) -> Result<(), Errno> {
        let asleep = &self.peers().asleep;
        // The first look spares a line that is shared; the second makes one ring of two.
        if asleep.load(Ordering::Relaxed) != 0 && asleep.swap(0, Ordering::Relaxed) != 0 {
            return ring(&self.peer_bell);
        }
        Ok(())
    }

    /// Rings if the peer sleeps and waits for released records. As [`Doors::ring_if_asleep`].
    pub(super) fn ring_if_starved(&self) -> Result<(), Errno> {
        match self.peers().wants_space.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => self.ring_if_asleep(),
        }
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.ours().closed.store(1, Ordering::Release);
        // Always: a peer that just falls asleep sees the flag or the ring. If it fails, the peer
        // finds the flag at its next poll.
        let _ = ring(&self.peer_bell);
    }
}

/// What another thread needs to end a sleep.
struct Alarm {
    woken: AtomicBool,
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Alarm {
    fn wake(&self) {
        // Release: what the caller did before is seen by who clears the flag.
        self.woken.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && let Err(errno) = ring(&self.bell)
        {
            tracing::error!(%errno, "a waker's bell cannot be rung: the sleeper waits on");
        }
    }
}

/// What one thread sleeps on: all bells of its peers, their sockets, and its waker.
pub(super) struct Sleeper {
    epoll: OwnedFd,
    alarm: Arc<Alarm>,
    hung_up: Vec<usize>,
}

impl Sleeper {
    /// With the waker's bell in it.
    pub(super) fn new() -> Result<Sleeper, ShmError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(ShmError::os("epoll_create1"))?;
        let (woken, asleep) = (AtomicBool::new(false), AtomicBool::new(false));
        let alarm = Arc::new(Alarm { woken, asleep, bell: new_bell()? });
        let sleeper = Sleeper { epoll, alarm, hung_up: Vec::with_capacity(EVENTS_MAX) };
        sleeper
            .watch(&sleeper.alarm.bell, WAKER, EventFlags::IN)
            .map_err(ShmError::os("epoll_ctl"))?;
        Ok(sleeper)
    }

    /// Wakes for this peer's bell from now on, until [`Sleeper::forget`].
    pub(super) fn watch_bell(&self, index: usize, bell: impl AsFd) -> Result<(), Errno> {
        self.watch(bell, index as u64, EventFlags::IN)
    }

    /// Wakes for the end of the process behind `socket`, until [`Sleeper::forget`].
    pub(super) fn watch_process(&self, index: usize, socket: impl AsFd) -> Result<(), Errno> {
        self.watch(socket, LIVENESS | index as u64, EventFlags::RDHUP)
    }

    fn watch(&self, fd: impl AsFd, number: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(number), flags | EventFlags::ET)
    }

    /// Wakes for this descriptor no more. Closing it is not enough: the peer has the bell, too.
    pub(super) fn forget(&self, fd: impl AsFd) {
        if let Err(errno) = epoll::delete(&self.epoll, fd) {
            tracing::error!(%errno, "epoll_ctl: a closed link may end sleeps for nothing");
        }
    }

    /// For other threads: ends the sleep, or the next one.
    pub(super) fn waker(&self) -> crate::Waker {
        let alarm = Arc::clone(&self.alarm);
        crate::Waker::new(move || alarm.wake())
    }

    /// Whether a waker has woken since [`Sleeper::clear_woken`].
    pub(super) fn is_woken(&self) -> bool {
        self.alarm.woken.load(Ordering::Relaxed)
    }

    /// Starts anew. What the waker did before it woke is visible from here on.
    pub(super) fn clear_woken(&self) {
        if self.is_woken() {
            self.alarm.woken.swap(false, Ordering::AcqRel);
        }
    }

    /// Says that this thread sleeps. A `SeqCst` fence and another look must follow.
    pub(super) fn fall_asleep(&self) {
        self.alarm.asleep.store(true, Ordering::Relaxed);
    }

    /// Says that it is awake.
    pub(super) fn wake_up(&self) {
        self.alarm.asleep.store(false, Ordering::Relaxed);
    }

    /// Waits until a bell rings or a process ends, for at most `timeout`, to the nanosecond as far
    /// as the kernel's timer goes. May return early. [`Sleeper::hang_ups`] must follow.
    pub(super) fn sleep(&self, timeout: Duration) {
        // `epoll_wait` counts milliseconds, `ppoll` on the epoll does not.
        let timeout = Timespec::try_from(timeout).ok();
        let mut epoll = [PollFd::new(&self.epoll, PollFlags::IN)];
        match rustix::event::poll(&mut epoll, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => tracing::error!(%errno, "poll: this thread spins instead of sleeping"),
        }
    }

    /// Takes what the kernel has to report: the indices of peers whose process has ended. Does not
    /// wait.
    pub(super) fn hang_ups(&mut self) -> &[usize] {
        self.hung_up.clear();
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, &mut events, Some(&no_wait)) {
            Ok((events, _)) => {
                let numbers = events.iter().map(|event| event.data.u64());
                let of_processes = numbers.filter(|&number| number & LIVENESS != 0);
                self.hung_up.extend(of_processes.map(|number| (number & !LIVENESS) as usize));
            }
            Err(Errno::INTR) => {}
            Err(errno) => tracing::error!(%errno, "epoll_wait: a process may end unseen"),
        }
        &self.hung_up
    }
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleeper").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test may take: one that hangs fails by its runner's limit.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_bell_rung_before_the_sleep_ends_it_and_is_forgotten_after() {
        let mut sleeper = Sleeper::new().unwrap();
        let bell = new_bell().unwrap();
        sleeper.watch_bell(0, &bell).unwrap();
        ring(&bell).unwrap();
        sleeper.sleep(LONG);
        assert!(sleeper.hang_ups().is_empty());
        let mut epoll = [PollFd::new(&sleeper.epoll, PollFlags::IN)];
        let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut epoll, Some(&no_wait)), Ok(0), "rung once only");
        ring(&bell).unwrap();
        sleeper.sleep(LONG);
    }

    #[test]
    fn the_end_of_the_other_socket_is_reported_with_the_peers_index() {
        let mut sleeper = Sleeper::new().unwrap();
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        sleeper.watch_process(7, &here).unwrap();
        assert!(sleeper.hang_ups().is_empty());
        drop(there);
        sleeper.sleep(LONG);
        assert_eq!(sleeper.hang_ups(), [7]);
    }
}
