//! The world: where endpoints are made and joined, and where time is driven from.
//!
//! Owns the handle that a driver holds. What happens in the world is left to `network`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use wire::Time;

use super::endpoint::{EndpointId, Simulated};
use super::faults::Faults;
use super::link::{End, Side};
use super::network::{Counts, Network, Parking};
use crate::api::{Limits, PeerId};

/// A simulated network with a clock of its own. Clones are handles of the same world, and all of
/// it lives in one thread.
#[derive(Clone)]
pub struct World {
    network: Rc<RefCell<Network>>,
}

impl World {
    /// A world at time 0 without endpoints. Everything in it follows from `seed`, `faults` and the
    /// calls made.
    pub fn new(seed: u64, faults: Faults) -> World {
        World { network: Rc::new(RefCell::new(Network::new(seed, faults))) }
    }

    /// A new endpoint, joined to nobody.
    pub fn endpoint(&self, limits: Limits) -> Simulated {
        Simulated::new(Rc::clone(&self.network), limits)
    }

    /// Two ends of a new connection, for `Transport::adopt`.
    pub fn link(&self) -> (End, End) {
        let alive = [Arc::new(()), Arc::new(())];
        let ports = self.network.borrow_mut().add_wire(alive.each_ref().map(Arc::downgrade));
        let world = Rc::as_ptr(&self.network).addr();
        let wire = ports[0].wire;
        let [left, right] = alive;
        (
            End { world, wire, side: Side::Left, _alive: left },
            End { world, wire, side: Side::Right, _alive: right },
        )
    }

    /// Joins two endpoints. Returns how `one` calls `other`, and the other way round.
    ///
    /// Panics: if one of them is of another world.
    pub fn connect(&self, one: &mut Simulated, other: &mut Simulated) -> (PeerId, PeerId) {
        let (left, right) = self.link();
        (one.take_over(&left), other.take_over(&right))
    }

    /// Goes on to the next moment at which something happens, a delivery or the deadline of a
    /// parked endpoint, and lets it happen. False, if nothing is to come.
    pub fn step(&self) -> bool {
        self.network.borrow_mut().step()
    }

    /// The next moment at which something happens, which [`World::step`] would go on to.
    pub fn next_at(&self) -> Option<Time> {
        self.network.borrow_mut().next_ns().map(Time::from_nanos)
    }

    /// Goes on to `then`, or stays if that is past, and lets everything happen on the way.
    pub fn advance_to(&self, then: Time) {
        self.network.borrow_mut().advance_to(then.nanos());
    }

    /// The world's time; an endpoint's clock may be ahead of it and run at another rate
    /// (`Faults::clock_ahead_ns_max`, `Faults::clock_drift_ppm_max`).
    pub fn now(&self) -> Time {
        Time::from_nanos(self.network.borrow().now_ns)
    }

    /// What `park` does from now on. At first it is [`Parking::AdvancesTime`].
    pub fn set_parking(&self, parking: Parking) {
        self.network.borrow_mut().parking = parking;
    }

    /// Other faults from now on, for what is not sent yet.
    pub fn set_faults(&self, faults: Faults) {
        self.network.borrow_mut().faults = faults;
    }

    /// Breaks every connection between the two: both ends get a fault, as from a reset.
    pub fn cut(&self, one: EndpointId, other: EndpointId) {
        self.network.borrow_mut().cut_between(one, other);
    }

    /// Shuts the way from one to another, this direction only, until it is healed: what is sent
    /// is lost, and nobody is told.
    pub fn block(&self, from: EndpointId, to: EndpointId) {
        self.network.borrow_mut().raise_wall(from, to, u64::MAX);
    }

    /// Opens the way from one to another.
    pub fn unblock(&self, from: EndpointId, to: EndpointId) {
        self.network.borrow_mut().tear_wall(from, to);
    }

    /// Opens every way, also those that faults had shut.
    pub fn heal(&self) {
        self.network.borrow_mut().tear_walls();
    }

    /// What has happened to messages so far.
    pub fn counts(&self) -> Counts {
        self.network.borrow().counts
    }

    /// A hash of every delivery so far: when, from whom, to whom, which bytes. Two runs with the
    /// same hash were the same run.
    pub fn trace_hash(&self) -> u64 {
        self.network.borrow().trace.hash()
    }
}
