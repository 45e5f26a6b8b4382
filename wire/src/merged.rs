//! Pushes of several workers as one operation of a chain: their names, and the sums of deltas.
//!
//! Owns a name's layout and the bounds of how many there are. Which pushes are made one is left to
//! `shard`.
//!
//! Invariant: the names of an opened message are of different workers, in ascending order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::frame::Malformed;
use crate::header::{Flags, Header, Kind};
use crate::ids::{Clock, Incarnation, Sequence, WorkerId};
use crate::message::{Keyed, shape};

/// The most pushes that are made one.
pub const MERGED_PUSHES_MAX: usize = 64;

/// What a push that was made one with others is known by. 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PushName {
    sequence: u64,
    clock: u64,
    worker: u32,
    incarnation: u32,
    /// Of [`Flags`], the tick alone.
    flags: u8,
    reserved: [u8; 7],
}

/// An opened [`Kind::Merged`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merged<'a> {
    /// One of each worker, ascending; 1 to [`MERGED_PUSHES_MAX`].
    pub names: &'a [PushName],
    /// Each key that any of them had, with the sum of what they had for it.
    pub sums: Keyed<'a>,
}

impl PushName {
    /// What the push with this header is known by.
    pub fn of(push: &Header) -> PushName {
        let Header { sequence, clock, worker, incarnation, .. } = *push;
        let tick = if push.flags().has(Flags::TICK) { Flags::TICK } else { Flags::NONE };
        PushName { sequence, clock, worker, incarnation, flags: tick.get(), reserved: [0; 7] }
    }

    /// Who pushed.
    pub const fn worker(&self) -> WorkerId {
        WorkerId::new(self.worker)
    }

    /// In which of its lives.
    pub const fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.incarnation)
    }

    /// The push's number.
    pub const fn sequence(&self) -> Sequence {
        Sequence::new(self.sequence)
    }

    /// The clock that the worker has finished with this push, if it was the last one of it.
    pub fn tick(&self) -> Option<Clock> {
        (self.flags == Flags::TICK.get()).then(|| Clock::new(self.clock).next())
    }

    /// Cuts the names from what follows them, which is keys and sums.
    pub(crate) fn split<'a>(
        header: &Header,
        body: &'a [u8],
    ) -> Result<(&'a [PushName], &'a [u8]), Malformed> {
        // 2^32 keys of 2^16 values are below 2^53 bytes: no overflow.
        let sums_bytes = u64::from(header.keys) * (8 + 4 * u64::from(header.width));
        let names_bytes = (body.len() as u64).checked_sub(sums_bytes);
        let names_bytes = names_bytes.ok_or_else(|| shape(header))?;
        let count = (names_bytes / size_of::<PushName>() as u64) as usize;
        let split = <[PushName]>::ref_from_prefix_with_elems(body, count);
        let (names, rest) = split.map_err(|_| shape(header))?;
        if !(1..=MERGED_PUSHES_MAX).contains(&count) {
            return Err(shape(header));
        }
        let ascend = names.windows(2).all(|pair| pair[0].worker < pair[1].worker);
        let are_names = |name: &PushName| name.flags & !Flags::TICK.get() == 0;
        if ascend && names.iter().all(are_names) {
            Ok((names, rest))
        } else {
            Err(Malformed::Field { name: "names" })
        }
    }
}

impl Merged<'_> {
    /// The header of what these pushes are made. It has the first one's name, and the newest clock.
    ///
    /// - `first`: of the first push; its table and width are those of all.
    /// - `keys`: how many keys they have together.
    /// - Panics: if there is no name.
    pub fn header(first: &Header, names: &[PushName], keys: usize) -> Header {
        let name = names[0];
        Header {
            worker: name.worker,
            incarnation: name.incarnation,
            sequence: name.sequence,
            clock: names.iter().map(|name| name.clock).max().unwrap_or_default(),
            table: first.table,
            width: first.width,
            keys: u32::try_from(keys).expect("a message has fewer keys"),
            ..Header::new(Kind::Merged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_BYTES;
    use crate::message::{Message, Seal, open, seal};

    fn sum(bytes: &[u8]) -> u32 {
        bytes.iter().fold(7, |sum: u32, &b| sum.rotate_left(5) ^ u32::from(b))
    }

    fn push(worker: u32, flags: Flags) -> Header {
        let (flags, sequence, clock) = (flags.get(), u64::from(worker) + 7, 3);
        Header { worker, flags, sequence, clock, width: 1, ..Header::new(Kind::Push) }
    }

    /// A message with these names, and as many bytes more.
    fn message(names: &[PushName], keys: &[u64], more: usize) -> Vec<u64> {
        let values = vec![0.5_f32; keys.len()];
        let body = [names.as_bytes(), keys.as_bytes(), values.as_bytes(), &vec![0; more]].concat();
        let mut words = vec![0_u64; (HEADER_BYTES + body.len()).div_ceil(8)];
        let bytes = &mut words.as_mut_bytes()[..HEADER_BYTES + body.len()];
        bytes[HEADER_BYTES..].copy_from_slice(&body);
        let first = push(0, Flags::NONE);
        let name = [PushName::of(&first)];
        let names = if names.is_empty() { &name } else { names };
        seal(bytes, Merged::header(&first, names, keys.len()), Seal::Body, sum);
        words
    }

    fn opened(words: &[u64]) -> Result<(Header, Message<'_>), Malformed> {
        open(words.as_bytes(), sum)
    }

    #[test]
    fn names_and_sums_read_back_as_written() {
        let tick = Flags::TICK.with(Flags::BODY_CHECKED);
        let names = [PushName::of(&push(2, tick)), PushName::of(&push(5, Flags::NONE))];
        let words = message(&names, &[1, 9], 0);
        let (header, body) = opened(&words).expect("it was just sealed");
        let Message::Merged(merged) = body else { panic!("{body:?}") };
        assert_eq!((merged.names, merged.sums.values), (&names[..], &[0.5, 0.5][..]));
        assert_eq!((header.worker, header.sequence, header.clock), (2, 9, 3));
        assert_eq!(names.map(|name| name.tick()), [Some(Clock::new(4)), None]);
    }

    #[test]
    fn none_too_many_twice_the_same_and_halves_of_names_are_refused() {
        let name = |worker| PushName::of(&push(worker, Flags::NONE));
        let many: Vec<PushName> = (0..=MERGED_PUSHES_MAX as u32).map(name).collect();
        assert!(opened(&message(&many[1..], &[4, 5], 0)).is_ok());
        for names in [&[][..], &many, &[name(3), name(3)], &[name(3), name(2)]] {
            assert!(opened(&message(names, &[4, 5], 0)).is_err(), "{names:?}");
        }
        assert!(opened(&message(&[name(3)], &[4, 5], 16)).is_err(), "half a name");
        assert!(opened(&message(&[name(3)], &[5, 4], 0)).is_err(), "keys out of order");
        let odd = PushName { flags: 4, ..name(3) };
        assert_eq!(
            opened(&message(&[odd], &[4, 5], 0)).err(),
            Some(Malformed::Field { name: "names" })
        );
    }
}
