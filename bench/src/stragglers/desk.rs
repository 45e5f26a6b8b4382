//! Who does which batch: workers' places, and the spare that takes over a late one's.
//!
//! Owns what is dealt and what is late. No clock: times are arguments, in seconds.
//!
//! Invariant: each batch is dealt to one place, and a place has one life that may finish it.

use learn::Lateness;

/// What is dealt, and to whom.
#[derive(Debug)]
pub(super) struct Desk {
    next: u64,
    batches: u64,
    places: Vec<Place>,
    lateness: Lateness,
}

/// A worker's place, which outlives who has it.
#[derive(Clone, Debug)]
struct Place {
    incarnation: u32,
    /// Steps that are finished.
    steps: u64,
    batch: Option<u64>,
    /// Since when it computes.
    since: Option<f64>,
    has_spare: bool,
    has_left: bool,
}

/// A batch that somebody is late with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) place: u32,
    pub(super) batch: u64,
}

/// A place that changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    /// Of the new life.
    pub(super) incarnation: u32,
    /// Which step of the place the batch is.
    pub(super) step: u64,
}

impl Desk {
    /// Places with their first life, and so many batches.
    pub(super) fn new(places: u32, batches: u64) -> Desk {
        let place = Place {
            incarnation: 1,
            steps: 0,
            batch: None,
            since: None,
            has_spare: false,
            has_left: false,
        };
        let places = vec![place; places as usize];
        Desk { next: 0, batches, places, lateness: Lateness::default() }
    }

    /// The next batch of a place, unless there is none, or this life of it is over.
    pub(super) fn deal(&mut self, place: u32, incarnation: u32) -> Option<u64> {
        let place = &mut self.places[place as usize];
        if place.incarnation != incarnation || self.next == self.batches {
            return None;
        }
        (place.batch, place.since, place.has_spare) = (Some(self.next), None, false);
        self.next += 1;
        place.batch
    }

    /// A place has what it needs and computes.
    pub(super) fn computes(&mut self, place: u32, incarnation: u32, now: f64) {
        let place = &mut self.places[place as usize];
        if place.incarnation == incarnation {
            place.since = Some(now);
        }
    }

    /// A place's batch is pushed. Whether it was this life's.
    pub(super) fn finish(&mut self, place: u32, incarnation: u32, now: f64) -> bool {
        let place = &mut self.places[place as usize];
        if place.incarnation != incarnation {
            return false;
        }
        if let Some(since) = place.since.take() {
            self.lateness.note(now - since);
        }
        place.batch = None;
        place.steps += 1;
        true
    }

    /// A batch that is late and has no spare yet: the caller is it.
    pub(super) fn late(&mut self, now: f64) -> Option<Late> {
        let limit = self.lateness.limit_seconds()?;
        let is_late = |place: &&mut Place| {
            !place.has_spare && place.since.is_some_and(|since| now - since > limit)
        };
        let mut places = (0..).zip(&mut self.places);
        let (number, place) = places.find(|(_, place)| is_late(place))?;
        place.has_spare = true;
        place.batch.map(|batch| Late { place: number, batch })
    }

    /// The spare has computed: it takes the place over, unless that is through by itself.
    pub(super) fn take_over(&mut self, late: Late) -> Option<Handover> {
        let place = &mut self.places[late.place as usize];
        if place.batch != Some(late.batch) || !place.has_spare {
            return None;
        }
        place.incarnation += 1;
        Some(Handover { incarnation: place.incarnation, step: place.steps })
    }

    /// A place is through, if this is its life.
    pub(super) fn leave(&mut self, place: u32, incarnation: u32) -> bool {
        let place = &mut self.places[place as usize];
        let is_its = place.incarnation == incarnation;
        place.has_left |= is_its;
        is_its
    }

    /// Whether all places are through.
    pub(super) fn is_over(&self) -> bool {
        self.places.iter().all(|place| place.has_left)
    }

    /// Lives that were taken over.
    pub(super) fn takeovers(&self) -> u32 {
        self.places.iter().map(|place| place.incarnation - 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough for the desk to tell who is late.
    const STEPS: usize = 20;

    /// A desk at which steps take 1 s, and place 0 has begun its next batch at 10 s.
    fn desk() -> (Desk, u64) {
        let mut desk = Desk::new(2, 100);
        for step in 0..STEPS {
            desk.deal(1, 1);
            desk.computes(1, 1, step as f64);
            assert!(desk.finish(1, 1, step as f64 + 1.0));
        }
        let batch = desk.deal(0, 1).expect("there are more");
        desk.computes(0, 1, 10.0);
        (desk, batch)
    }

    #[test]
    fn a_late_batch_has_one_spare_which_takes_the_place_over_for_good() {
        let (mut desk, batch) = desk();
        assert_eq!(desk.late(11.4), None);
        let late = desk.late(11.6).expect("it is late");
        assert_eq!(late, Late { place: 0, batch });
        assert_eq!(desk.late(99.0), None, "one spare is enough");
        assert_eq!(desk.take_over(late), Some(Handover { incarnation: 2, step: 0 }));
        assert!(!desk.finish(0, 1, 12.0), "the life before is over");
        assert_eq!(desk.deal(0, 1), None);
        assert!(desk.finish(0, 2, 12.5));
        assert!(desk.deal(0, 2).is_some());
        assert_eq!(desk.takeovers(), 1);
    }

    #[test]
    fn who_is_through_by_itself_keeps_its_place() {
        let (mut desk, _) = desk();
        let late = desk.late(20.0).expect("it is late");
        assert!(desk.finish(0, 1, 20.1));
        assert_eq!(desk.take_over(late), None);
        assert!(desk.deal(0, 1).is_some());
        assert_eq!(desk.take_over(late), None, "that is another batch");
    }

    #[test]
    fn it_is_over_when_all_batches_are_dealt_and_all_have_left() {
        let mut desk = Desk::new(1, 1);
        assert_eq!(desk.deal(0, 1), Some(0));
        desk.finish(0, 1, 1.0);
        assert_eq!(desk.deal(0, 1), None);
        assert!(!desk.is_over());
        assert!(!desk.leave(0, 2));
        assert!(desk.leave(0, 1) && desk.is_over());
    }
}
