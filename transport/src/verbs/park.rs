//! Waiting: for TCP, for devices, for wakers and for time, all at once.
//!
//! Owns the order in which a park looks and sleeps. What ends the sleep of the back end beneath is
//! left to it, what devices have to [`super::bell`].
//!
//! Invariant: nothing that has happened before a sleep is slept over: queues are armed, then looked
//! at once more.

use std::time::Duration;

use wire::Time;

use super::completion::{Completion, POLL_MAX};
use super::lane::{Reason, Way};
use super::peer::{Hungry, Patience};
use super::transport::{Tcp, Verbs};

/// Looks for news between two looks at the clock.
const SPINS_PER_CLOCK: u32 = 16;

impl Verbs {
    /// See [`crate::Transport::park`].
    pub(super) fn spin_then_sleep(&mut self, deadline: Time) {
        let spin_until = match self.limits.spin_ns {
            u64::MAX => deadline,
            spin_ns => deadline.min(self.now_here() + Duration::from_nanos(spin_ns)),
        };
        if !self.spin(spin_until) && spin_until < deadline {
            self.sleep(deadline);
        }
    }

    /// Whether the next poll has something to do, or a refused `acquire` may succeed.
    fn has_news(&mut self) -> bool {
        self.find_completions();
        !self.landed.is_empty()
            || !self.to_step.is_empty()
            || self.has_fed()
            || self.could_give_out()
            || self.tcp == Tcp::Awaited && self.beneath.has_news()
    }

    /// Polls the devices for a park.
    fn find_completions(&mut self) {
        let mut completions = [Completion::EMPTY; POLL_MAX];
        for station in self.stations.iter_mut().flatten() {
            // An error is found again, and dealt with, by the next poll.
            let count = station.cq.poll(&mut completions).unwrap_or(0);
            self.landed.extend(&completions[..count]);
        }
    }

    fn has_fed(&mut self) -> bool {
        let (peers, stations) = (&self.peers, &self.stations);
        let limits = self.limits;
        let has_credit = |number: u32, bytes: usize| {
            let Some(peer) = &peers[number as usize] else { return true };
            match (peer.lane.way(), peer.station.and_then(|at| stations[at].as_ref())) {
                (Way::Lane, Some(station)) => {
                    peer.outbox.has_credit(bytes, &limits) && station.sends.take(bytes).is_some()
                }
                (Way::Tcp, _) => peer.hungry == Hungry::No,
                (Way::Closed | Way::Lane, _) => false,
            }
        };
        self.starved.take_fed(has_credit) > 0
    }

    /// Spins until there is news, which is true, or until `until` has come.
    fn spin(&mut self, until: Time) -> bool {
        loop {
            for _ in 0..SPINS_PER_CLOCK {
                if self.has_news() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = self.now_here();
            if now >= until {
                return false;
            }
            if self.tcp == Tcp::Quiet && now >= self.look_at {
                return true; // The next poll looks where this loop does not.
            }
        }
    }

    fn sleep(&mut self, deadline: Time) {
        self.move_on(Patience::None);
        for at in 0..self.stations.len() {
            if let Some(station) = &mut self.stations[at]
                && let Err(error) = station.cq.arm()
            {
                tracing::warn!(device = station.device.name(), %error, "a device is given up");
                let now = self.now_here();
                return self.lose_station(at, Reason::Device, now);
            }
        }
        self.tcp = Tcp::Awaited; // Whatever ends the sleep is found out beneath.
        // What came before the queue was armed rings no bell.
        if self.has_news() {
            return;
        }
        let deadline = self.due().map_or(deadline, |due| due.min(deadline));
        self.beneath.sleep(deadline);
    }
}
