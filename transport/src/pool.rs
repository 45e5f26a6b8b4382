//! Slots from pools of a few sizes, which find their way back when they are dropped.
//!
//! Owns the free slots of one transport, and what each peer holds of them. Who fills a slot is
//! left to the back ends.
//!
//! Invariant: a slot is in its class's free list or in one [`PoolSlot`], never in both; what an
//! [`Account`] is charged is the sum over the slots that carry it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use memory::{MapError, Slot, SlotPool};

use crate::api::Limits;
use crate::verbs::{Arena, Part, VerbsError};

/// Size of the smallest slots, in bytes. Each class is [`CLASS_FACTOR`] times the one before.
const CLASS_BYTES_MIN: usize = 256;
/// From one class to the next. A slot is less than this factor larger than its message.
const CLASS_FACTOR: usize = 4;
/// Addresses that one class may have, in bytes: 256 peers with the default limits.
const CLASS_BYTES_MAX: usize = 1 << 30;
/// Slots that even the largest class may have.
const CLASS_SLOTS_MIN: usize = 8;
/// The first block of a class, in bytes; each further one doubles the class.
const BLOCK_BYTES_MIN: usize = 256 << 10;
/// The largest block by which a class grows at once, in bytes.
const BLOCK_BYTES_MAX: usize = 32 << 20;

/// Free slots in a few sizes. A class grows by whole blocks until its limit, so that after some
/// turns of the same load nothing is mapped any more; what came back last is given out first.
#[derive(Debug)]
pub(crate) struct Pool {
    classes: Vec<Rc<Class>>,
}

/// Slots of one size.
#[derive(Debug)]
struct Class {
    slot_bytes: usize,
    slots_max: usize,
    slots_made: Cell<usize>,
    /// Slots that were dropped with their ticket on, since `Pool::take_unused`.
    unused: Cell<usize>,
    free: RefCell<Vec<Place>>,
    source: Source,
}

/// Where blocks come from.
#[derive(Clone, Debug)]
enum Source {
    Mapped,
    Registered(Rc<Arena>),
}

/// Where a slot's bytes lie.
#[derive(Debug)]
enum Place {
    Mapped(Slot),
    Registered(Part),
}

/// Why a class does not grow.
#[derive(Debug)]
enum GrowError {
    Map(MapError),
    Register(VerbsError),
}

/// A slot of some pool; it goes back when it is dropped, and its account is credited.
#[derive(Debug)]
pub(crate) struct PoolSlot {
    /// None only while it is being dropped.
    place: Option<Place>,
    home: Rc<Class>,
    charge: Option<Charge>,
}

/// What one peer holds of a pool.
#[derive(Debug, Default)]
pub(crate) struct Account {
    bytes_out: Cell<usize>,
    unused: RefCell<Vec<u64>>,
}

#[derive(Debug)]
struct Charge {
    account: Rc<Account>,
    bytes: usize,
    ticket: Option<u64>,
}

impl Pool {
    /// Maps a first block of each class up to one that holds `limits.message_bytes_max`. Pages
    /// become resident when they are first touched.
    ///
    /// Errors: the kernel gives no addresses.
    pub(crate) fn new(limits: &Limits) -> Result<Pool, MapError> {
        Pool::of(limits, &Source::Mapped).map_err(|error| match error {
            GrowError::Map(error) => error,
            GrowError::Register(_) => unreachable!("mapped blocks are not registered"),
        })
    }

    /// The same, of parts of `arena`.
    ///
    /// Errors: the device takes no more memory.
    pub(crate) fn registered(limits: &Limits, arena: &Rc<Arena>) -> Result<Pool, VerbsError> {
        Pool::of(limits, &Source::Registered(Rc::clone(arena))).map_err(|error| match error {
            GrowError::Register(error) => error,
            GrowError::Map(error) => VerbsError::Memory(error),
        })
    }

    /// Bytes of a pool's first blocks, one a class.
    pub(crate) fn first_bytes(limits: &Limits) -> usize {
        class_sizes(limits).map(|slot_bytes| slot_bytes.max(BLOCK_BYTES_MIN)).sum()
    }

    fn of(limits: &Limits, source: &Source) -> Result<Pool, GrowError> {
        let class = |slot_bytes| Class::new(slot_bytes, source.clone()).map(Rc::new);
        Ok(Pool { classes: class_sizes(limits).map(class).collect::<Result<_, _>>()? })
    }

    /// A slot of at least `bytes` bytes, 64-byte aligned. None if that is longer than the longest
    /// message, or the class is used up, or the kernel gives no more addresses.
    pub(crate) fn take(&self, bytes: usize) -> Option<PoolSlot> {
        self.take_charged(bytes, None)
    }

    /// The same, at the expense of `account`, which is charged `bytes` until the slot is dropped.
    pub(crate) fn take_for(&self, bytes: usize, account: &Rc<Account>) -> Option<PoolSlot> {
        let charge = Charge { account: Rc::clone(account), bytes, ticket: None };
        self.take_charged(bytes, Some(charge))
    }

    /// What its slots take, in bytes.
    pub(crate) fn made_bytes(&self) -> usize {
        self.classes.iter().map(|class| class.slots_made.get() * class.slot_bytes).sum()
    }

    /// How many slots were dropped with their ticket on since the last call.
    pub(crate) fn take_unused(&self) -> usize {
        self.classes.iter().map(|class| class.unused.take()).sum()
    }

    fn take_charged(&self, bytes: usize, charge: Option<Charge>) -> Option<PoolSlot> {
        let home = self.classes.iter().find(|class| class.slot_bytes >= bytes)?;
        let place = home.take()?;
        if let Some(charge) = &charge {
            let bytes_out = &charge.account.bytes_out;
            bytes_out.set(bytes_out.get() + bytes);
        }
        Some(PoolSlot { place: Some(place), home: Rc::clone(home), charge })
    }
}

/// Sizes of slots, in bytes, up to one that holds the longest message.
fn class_sizes(limits: &Limits) -> impl Iterator<Item = usize> {
    let message_bytes_max = limits.message_bytes_max;
    let next = move |&bytes: &usize| (bytes < message_bytes_max).then_some(bytes * CLASS_FACTOR);
    std::iter::successors(Some(CLASS_BYTES_MIN), next)
}

impl Class {
    fn new(slot_bytes: usize, source: Source) -> Result<Class, GrowError> {
        let class = Class {
            slot_bytes,
            slots_max: (CLASS_BYTES_MAX / slot_bytes).max(CLASS_SLOTS_MIN),
            slots_made: Cell::new(0),
            unused: Cell::new(0),
            free: RefCell::new(Vec::new()),
            source,
        };
        class.grow(&mut class.free.borrow_mut())?;
        Ok(class)
    }

    fn take(&self) -> Option<Place> {
        let mut free = self.free.borrow_mut();
        if free.is_empty()
            && self.slots_made.get() < self.slots_max
            && let Err(error) = self.grow(&mut free)
        {
            tracing::warn!(%error, slot_bytes = self.slot_bytes, "no memory for more slots");
        }
        free.pop()
    }

    fn grow(&self, free: &mut Vec<Place>) -> Result<(), GrowError> {
        let made = self.slots_made.get();
        let slots = (made.max(BLOCK_BYTES_MIN / self.slot_bytes))
            .min(BLOCK_BYTES_MAX / self.slot_bytes)
            .clamp(1, self.slots_max - made);
        let mut fresh: Vec<Place> = match &self.source {
            Source::Mapped => {
                let mut block = SlotPool::new(slots, self.slot_bytes).map_err(GrowError::Map)?;
                std::iter::from_fn(|| block.take()).map(Place::Mapped).collect()
            }
            Source::Registered(arena) => {
                let block = arena.take(slots * self.slot_bytes).map_err(GrowError::Register)?;
                block.cut(self.slot_bytes).map(Place::Registered).collect()
            }
        };
        free.reserve(made + slots); // All may be free at once: `drop` never allocates.
        free.extend(fresh.drain(..).rev()); // The lowest address is given out first.
        self.slots_made.set(made + slots);
        Ok(())
    }
}

impl PoolSlot {
    /// The whole slot, which may be longer than what was asked for.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self.place() {
            Place::Mapped(slot) => slot.bytes(),
            Place::Registered(part) => part.bytes(),
        }
    }

    /// The whole slot, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self.place.as_mut().expect("only drop takes it") {
            Place::Mapped(slot) => slot.bytes_mut(),
            Place::Registered(part) => part.bytes_mut(),
        }
    }

    /// The registered part that it is.
    ///
    /// Panics: if it is of a pool that is not registered.
    pub(crate) fn part(&self) -> &Part {
        match self.place() {
            Place::Mapped(_) => panic!("a slot of another transport was posted"),
            Place::Registered(part) => part,
        }
    }

    /// At whose expense it is, if it is at anyone's.
    pub(crate) fn account(&self) -> Option<&Rc<Account>> {
        self.charge.as_ref().map(|charge| &charge.account)
    }

    /// Whether it is at this account's expense.
    pub(crate) fn is_charged_to(&self, account: &Rc<Account>) -> bool {
        self.account().is_some_and(|known| Rc::ptr_eq(known, account))
    }

    fn place(&self) -> &Place {
        self.place.as_ref().expect("only drop takes it")
    }

    /// Marks the slot: if it is dropped with the ticket still on, `Account::unused` tells.
    ///
    /// Panics: if the slot is at nobody's expense.
    pub(crate) fn set_ticket(&mut self, ticket: u64) {
        self.charge.as_mut().expect("taken by `take_for`").ticket = Some(ticket);
    }

    /// Takes the ticket off again; it says which slot of `account` this is.
    ///
    /// Panics: if the slot is not at this account's expense, or has no ticket.
    pub(crate) fn take_ticket(&mut self, account: &Rc<Account>) -> u64 {
        let charge = self.charge.as_mut().expect("taken by `take_for`");
        assert!(Rc::ptr_eq(&charge.account, account), "a slot of another transport was posted");
        charge.ticket.take().expect("posted once")
    }
}

impl fmt::Display for GrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrowError::Map(error) => error.fmt(f),
            GrowError::Register(error) => error.fmt(f),
        }
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        if let Some(charge) = &self.charge {
            let bytes_out = &charge.account.bytes_out;
            bytes_out.set(bytes_out.get() - charge.bytes);
            if let Some(ticket) = charge.ticket {
                charge.account.unused.borrow_mut().push(ticket);
                self.home.unused.update(|count| count + 1);
            }
        }
        self.home.free.borrow_mut().extend(self.place.take());
    }
}

impl Account {
    /// Whether `bytes` more are within `bytes_max`. A peer that holds nothing may always have one
    /// message, so that no limit stops it for good.
    pub(crate) fn admits(&self, bytes: usize, bytes_max: usize) -> bool {
        let bytes_out = self.bytes_out.get();
        bytes_out == 0 || bytes_out + bytes <= bytes_max
    }

    /// What it is charged now, in bytes.
    pub(crate) fn bytes_out(&self) -> usize {
        self.bytes_out.get()
    }

    /// Whether [`Account::unused`] has something.
    pub(crate) fn has_unused(&self) -> bool {
        !self.unused.borrow().is_empty()
    }

    /// One of the tickets that were dropped on their slots, in no order.
    pub(crate) fn unused(&self) -> Option<u64> {
        self.unused.borrow_mut().pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(&Limits::default()).unwrap()
    }

    #[test]
    fn a_slot_is_aligned_long_enough_and_less_than_four_times_too_long() {
        let pool = pool();
        for bytes in [1, 64, 256, 257, 4096, 5000, 100_000, 1 << 20] {
            let slot = pool.take(bytes).unwrap();
            assert!(slot.bytes().as_ptr().addr().is_multiple_of(64));
            let slot_bytes = slot.bytes().len();
            assert!(slot_bytes >= bytes && slot_bytes < (4 * bytes).max(257), "{bytes}");
        }
        assert!(pool.take((1 << 20) + 1).is_none());
    }

    #[test]
    fn the_slot_that_came_back_last_is_given_out_first() {
        let pool = pool();
        let first = pool.take(1000).unwrap();
        let second = pool.take(1000).unwrap();
        let address = first.bytes().as_ptr();
        drop(second);
        drop(first);
        assert_eq!(pool.take(1000).unwrap().bytes().as_ptr(), address);
    }

    #[test]
    fn a_class_grows_to_its_limit_and_no_further_and_all_come_back() {
        let pool = pool();
        let slots: Vec<PoolSlot> = std::iter::from_fn(|| pool.take(1 << 20)).collect();
        assert_eq!(slots.len(), CLASS_BYTES_MAX >> 20);
        drop(slots);
        assert_eq!(pool.classes.last().unwrap().free.borrow().len(), CLASS_BYTES_MAX >> 20);
    }

    #[test]
    fn an_account_is_charged_until_its_slots_are_dropped_and_told_their_tickets() {
        let (pool, account) = (pool(), Rc::new(Account::default()));
        assert!(account.admits(500, 100));
        let mut slot = pool.take_for(60, &account).unwrap();
        slot.set_ticket(7);
        assert!(account.admits(40, 100) && !account.admits(41, 100));
        let mut posted = pool.take_for(40, &account).unwrap();
        posted.set_ticket(8);
        assert_eq!(posted.take_ticket(&account), 8);
        drop(posted);
        assert_eq!((account.unused(), pool.take_unused()), (None, 0));
        drop(slot);
        assert_eq!((pool.take_unused(), pool.take_unused()), (1, 0));
        assert_eq!((account.unused(), account.bytes_out.get()), (Some(7), 0));
    }

    #[test]
    fn a_slot_outlives_its_pool() {
        let pool = pool();
        let mut slot = pool.take(300).unwrap();
        drop(pool);
        slot.bytes_mut().fill(3);
        assert_eq!(slot.bytes()[299], 3);
    }
}
