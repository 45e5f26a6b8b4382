//! One device as one core uses it: its completion queue, and the memory that lanes send from and
//! receive into.
//!
//! Owns what the lanes of a device share. Which device a lane takes is left to [`super::call`], its
//! own queue pair and ring to [`super::peer`].
//!
//! Invariant: the completion queue has room for every completion that its queue pairs can have at
//! a time: `reserve` comes before each queue pair.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use wire::Time;

use super::completion::CompletionQueue;
use super::credit::RECVS_MAX;
use super::device::{Device, Mtu, PortInfo, PortState};
use super::error::VerbsError;
use super::gid::{Choice, Wish};
use super::memory::Access;
use super::parts::Arena;
use super::queue_pair::Path;
use super::ring::{FreeRings, RecvRing};
use super::settings::{Breakage, VerbsSettings};
use super::window::MemoryWindow;
use crate::api::Limits;
use crate::pool::Pool;

/// Requests under way at one queue pair that this side sends.
///
/// They and the receives decide what a peer locks beside its ring, in bytes: where a request that
/// carries `steps::INLINE_BYTES` takes 192, a receive 16 and a completion 64, as on mlx5, 30 720,
/// 4 112 and 26 688.
pub(super) const SENDS_MAX: u32 = 160;
/// Completions of one queue pair that may wait to be polled: all its receives and sends, since in
/// its error state each has one.
const COMPLETIONS_PER_PAIR: u32 = RECVS_MAX + SENDS_MAX;
/// Queue pairs that a new completion queue has room for.
const PAIRS_AT_FIRST: u32 = 4;
/// How long a device that had no memory for a ring is not asked again.
const FULL_FOR: Duration = Duration::from_secs(1);
/// A packet is sent again so often at most.
const RETRY_COUNT: u8 = 7;
/// Unit of the time after which a packet is sent again, in nanoseconds. Source: InfiniBand
/// specification 1.4, 9.7.6.1.3: 4.096 us times two to the power of the value.
const ACK_TIMEOUT_UNIT_NS: u128 = 4096;
/// The largest such power.
const ACK_TIMEOUT_MAX: u8 = 31;

/// A device and what its lanes share.
pub(super) struct Station {
    pub(super) device: Device,
    pub(super) cq: CompletionQueue,
    pub(super) sends: Pool,
    send_arena: Rc<Arena>,
    rings: Arena,
    free_rings: FreeRings,
    windows: Trust,
    pairs: u32,
    pub(super) health: Health,
    /// Since when a port is down, or no port is there that a lane may go over.
    pub(super) down_since: Option<Time>,
    /// Until when it is not asked for memory, as it had none.
    pub(super) full_until: Time,
    breakage: Breakage,
}

/// Whether a device may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    /// It is gone, its completion queue overran, or no lane has used it while a port was down: it
    /// is given up once its lanes are, and opened anew when a lane may be had again.
    Lost,
}

/// Whether rings are opened by memory windows, each to its own peer's queue pair. Where they are
/// not, every peer knows the key of a region with rings of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// They are if the device does as it says.
    Untried,
    /// They are.
    Proven,
    /// They are not.
    None,
}

/// A port as it is when a lane is made over it.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) port: PortInfo,
    /// The longest payload of a packet that this side would send.
    pub(super) mtu: Mtu,
}

impl Station {
    /// Opens the device of this name.
    pub(super) fn open(
        name: &str,
        limits: &Limits,
        settings: &VerbsSettings,
    ) -> Result<Station, VerbsError> {
        let device = Device::open(name)?;
        let at_first = match settings.breakage {
            Breakage::SmallCq => 4,
            _ => (PAIRS_AT_FIRST * COMPLETIONS_PER_PAIR).min(device.limits().completions_max),
        };
        let cq = CompletionQueue::new(&device, at_first)?;
        let sends_bytes = Pool::first_bytes(limits).next_power_of_two();
        let send_arena = Rc::new(Arena::new(&device, Access::Local, sends_bytes));
        let windows = windows_of(&device, settings);
        let rings = Arena::new(&device, access(windows), ring_bytes(limits));
        Ok(Station {
            cq,
            sends: Pool::registered(limits, &send_arena)?,
            send_arena,
            rings,
            free_rings: FreeRings::default(),
            windows,
            pairs: 0,
            health: Health::Good,
            down_since: None,
            full_until: Time::from_nanos(0),
            breakage: settings.breakage,
            device,
        })
    }

    /// Makes room for the completions of one more queue pair.
    ///
    /// Errors: the device has no longer queues; nothing changed.
    pub(super) fn reserve(&mut self) -> Result<(), VerbsError> {
        let needed = (self.pairs + 1) * COMPLETIONS_PER_PAIR;
        if needed > self.cq.entries() && self.breakage != Breakage::SmallCq {
            let limit = self.device.limits().completions_max;
            if needed > limit {
                let device = self.device.name().to_owned();
                return Err(VerbsError::Limit {
                    what: "completion queue entries",
                    device,
                    wanted: needed,
                    limit,
                });
            }
            self.cq.resize((needed * 2).min(limit))?;
        }
        self.pairs += 1;
        Ok(())
    }

    /// A queue pair is gone, and its completions were polled.
    pub(super) fn unreserve(&mut self) {
        self.pairs -= 1;
    }

    /// How many queue pairs there are.
    pub(super) fn pairs(&self) -> u32 {
        self.pairs
    }

    /// How many memory registrations there are.
    pub(super) fn registrations(&self) -> usize {
        self.send_arena.regions_count() + self.rings.regions_count()
    }

    /// An empty ring.
    pub(super) fn ring(&self, limits: &Limits) -> Result<Rc<RecvRing>, VerbsError> {
        let free = self.free_rings.borrow_mut().pop();
        let part = match free {
            Some(part) => part,
            None => self.rings.take(ring_bytes(limits))?,
        };
        Ok(RecvRing::new(part, &self.free_rings))
    }

    /// Whether a ring of this device may be offered again: it is of the present arena's kind.
    pub(super) fn suits(&self, ring: &RecvRing) -> bool {
        ring.access() == access(self.windows)
    }

    /// A window was bound.
    pub(super) fn window_bound(&mut self) {
        if self.windows == Trust::Untried {
            self.windows = Trust::Proven;
        }
    }

    /// A window was not bound. If none ever was, the device has none that are of use: rings are
    /// offered by their region's key from now on. No peer brings that about, as binding is between
    /// this side and its device. The arena that is left behind holds no messages.
    pub(super) fn windows_refused(&mut self, limits: &Limits) {
        if self.windows != Trust::Untried {
            return;
        }
        tracing::warn!(device = self.device.name(), "binds no memory windows, though it has them");
        self.windows = Trust::None;
        self.rings = Arena::new(&self.device, access(self.windows), ring_bytes(limits));
        self.free_rings = FreeRings::default();
    }

    /// The port that was chosen, as it is now.
    ///
    /// Errors: it is down, or has this address no longer.
    pub(super) fn ready(
        &self,
        choice: &Choice,
        settings: &VerbsSettings,
    ) -> Result<Ready, VerbsError> {
        let port = self.device.port(choice.port)?;
        let looked_at = || format!("{}/{} {}", self.device.name(), port.port, port.state);
        if port.state != PortState::Active {
            return Err(VerbsError::NoActivePort { looked_at: looked_at() });
        }
        let index = u32::from(choice.gid_index);
        if !port.gids.iter().any(|gid| gid.index == index && gid.gid == choice.gid) {
            let (address, looked_at) = (choice.gid.address(), looked_at());
            return Err(VerbsError::NoGid { address, looked_at });
        }
        let mtu = settings.mtu_max.map_or(port.mtu, |mtu_max| mtu_max.min(port.mtu));
        Ok(Ready { port, mtu })
    }

    /// It had no memory or no queue for a lane: others are tried for a while.
    pub(super) fn is_full(&mut self, now: Time) {
        self.full_until = now + FULL_FOR;
    }
}

/// Whether this device's rings are opened by windows, as far as can be told before one is bound.
fn windows_of(device: &Device, settings: &VerbsSettings) -> Trust {
    if settings.breakage == Breakage::NoWindows {
        return Trust::None;
    }
    match MemoryWindow::probe(device) {
        Ok(()) => Trust::Untried,
        Err(error) => {
            tracing::debug!(%error, "every peer of this device has the key of all its rings");
            Trust::None
        }
    }
}

fn access(windows: Trust) -> Access {
    match windows {
        Trust::Untried | Trust::Proven => Access::Windows,
        Trust::None => Access::RemoteWrite,
    }
}

/// Size of a ring, in bytes: a message fits beside what is skipped before it, wherever that is.
pub(super) fn ring_bytes(limits: &Limits) -> usize {
    let two_messages = 2 * limits.message_bytes_max.next_multiple_of(64);
    let most = usize::try_from(wire::LANE_RING_BYTES_MAX).expect("64 MiB");
    limits.recv_bytes_max.max(two_messages).min(most).next_power_of_two()
}

/// This side's way, as far as it knows it.
pub(super) fn path(choice: &Choice, ready: &Ready, settings: &VerbsSettings, psn: u32) -> Path {
    Path {
        port: choice.port,
        link_layer: choice.link_layer,
        gid_index: choice.gid_index,
        pkey_index: settings.pkey_index,
        mtu: ready.mtu,
        service_level: settings.service_level,
        traffic_class: settings.traffic_class,
        timeout: ack_timeout(settings),
        retry_count: RETRY_COUNT,
        rnr_retry_count: 0, // `super::credit` says why none is needed.
        reads_max: 0,
        psn,
    }
}

/// The payload's length of this code, as `wire` has checked it.
pub(super) fn mtu_of(code: u8) -> Mtu {
    match code {
        1 => Mtu::Bytes256,
        2 => Mtu::Bytes512,
        3 => Mtu::Bytes1024,
        4 => Mtu::Bytes2048,
        _ => Mtu::Bytes4096,
    }
}

/// So that all retries together take at most as long as a request may.
fn ack_timeout(settings: &VerbsSettings) -> u8 {
    let tries = u128::from(RETRY_COUNT) + 1;
    let units = settings.operation_max.as_nanos() / tries / ACK_TIMEOUT_UNIT_NS;
    (units.max(2).ilog2() as u8).min(ACK_TIMEOUT_MAX)
}

/// What the settings ask for, for a link of this address.
pub(super) fn wish(local: IpAddr, settings: &VerbsSettings) -> Wish {
    Wish {
        rails: settings.rails,
        port: settings.port,
        gid_index: settings.gid_index.map(u32::from),
        local,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ring_is_a_power_of_two_and_holds_two_messages() {
        let of = |message_bytes_max, recv_bytes_max| {
            ring_bytes(&Limits { message_bytes_max, recv_bytes_max, ..Limits::default() })
        };
        assert_eq!(of(1 << 20, 4 << 20), 4 << 20);
        assert_eq!(of(1 << 20, 0), 2 << 20);
        assert_eq!(of(1 << 10, 3 << 20), 4 << 20);
        assert_eq!(of(16 << 20, usize::MAX / 2), 64 << 20);
    }

    #[test]
    fn all_retries_of_a_packet_take_no_longer_than_a_request_may() {
        for millis in [1, 100, 500, 10_000] {
            let operation_max = Duration::from_millis(millis);
            let timeout = ack_timeout(&VerbsSettings { operation_max, ..Default::default() });
            let once = Duration::from_nanos(4096 << timeout);
            assert!(once * 8 <= operation_max && once * 16 > operation_max, "{millis}: {timeout}");
        }
    }
}
