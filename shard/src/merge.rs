//! Pushes of several workers as one: equal keys' deltas are added up, and a rule sees the sums.
//!
//! Owns the sums, and what such an operation does. Which pushes are made one is left to `chain`.
//!
//! Invariant: deltas of one key are added in the order in which their pushes came. The names of all
//! are noted, or none is, and then nothing has changed.

use kernels::order::{Keyed as Sorted, Sorter};
use wire::{Header, Keyed, Keys, Malformed, Merged, Message, PushName, Refusal, Status};
use zerocopy::IntoBytes;

use crate::admission::Verdict;
use crate::change::{Sink, add, check_width};
use crate::decode::{Decoded, row_shape};
use crate::engine::{Rests, Shard};

/// Words of a name.
pub(crate) const NAME_WORDS: usize = size_of::<PushName>() / size_of::<u64>();

/// Adds up pushes; keeps its buffers.
#[derive(Debug, Default)]
pub(crate) struct Merging {
    sorter: Sorter,
    order: Vec<Place>,
    names: Vec<PushName>,
    /// The names, then the keys.
    words: Vec<u64>,
    sums: Vec<f32>,
}

/// A key, and the row of its delta.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    key: u64,
    row: u32,
}

impl Sorted for Place {
    #[inline(always)]
    fn key(&self) -> u64 {
        self.key
    }
}

impl Merging {
    /// Adds up the deltas of pushes, which lie one after the other.
    ///
    /// - `names`: of the pushes, of different workers.
    /// - `keys`, `deltas`: `[keys, width]`; fewer than 2^32.
    pub(crate) fn merge(
        &mut self,
        names: impl Iterator<Item = PushName>,
        keys: &[u64],
        deltas: &[f32],
        width: usize,
    ) {
        self.names.clear();
        self.names.extend(names);
        self.names.sort_unstable_by_key(PushName::worker);
        self.words.clear();
        for name in &self.names {
            let words: [u64; NAME_WORDS] = zerocopy::transmute!(*name);
            self.words.extend_from_slice(&words);
        }
        let place = |row: usize| Place { key: keys[row], row: row as u32 };
        self.sorter.sort(keys.len(), place, &mut self.order);
        self.sums.clear();
        self.sums.reserve(deltas.len());
        let row = |place: &Place| &deltas[place.row as usize * width..][..width];
        let mut rest = &mut self.order[..];
        while let Some(first) = rest.first().copied() {
            let equal = rest.iter().take_while(|place| place.key == first.key).count();
            let (group, others) = rest.split_at_mut(equal);
            rest = others;
            self.words.push(first.key);
            if equal > 1 {
                group.sort_unstable_by_key(|place| place.row);
            }
            self.sums.extend_from_slice(row(&group[0]));
            let begin = self.sums.len() - width;
            for more in &group[1..] {
                let sum = &mut self.sums[begin..];
                sum.iter_mut().zip(row(more)).for_each(|(sum, &delta)| *sum += delta);
            }
        }
    }

    /// What the last pushes were made: their names and sums, and the operation's header.
    ///
    /// - `first`: the header of one of them; table and width are those of all.
    pub(crate) fn merged(&self, first: &Header) -> Result<(Header, Merged<'_>), Malformed> {
        let keys = &self.words[self.names.len() * NAME_WORDS..];
        let header = Merged::header(first, &self.names, keys.len());
        let sums = Keyed { keys: Keys::new(keys)?, values: &self.sums };
        Ok((header, Merged { names: &self.names, sums }))
    }

    /// The same as parts of a message's body.
    pub(crate) fn body(&self) -> [&[u8]; 2] {
        [self.words.as_bytes(), self.sums.as_bytes()]
    }

    /// What its buffers take.
    pub(crate) fn held_bytes(&self) -> usize {
        let of_keys = self.order.capacity() * size_of::<Place>() + self.words.capacity() * 8;
        of_keys + self.sums.capacity() * size_of::<f32>()
    }
}

impl Shard {
    /// The keys and deltas of a push that would be applied now; none if it would be refused, was
    /// applied before, or has no keys.
    pub(crate) fn fresh_push<'a>(
        &'a mut self,
        header: &Header,
        message: &'a Message<'a>,
    ) -> Option<(&'a [u64], &'a [f32])> {
        self.check_epoch(header).ok()?;
        let member = self.job.as_mut()?.member(header.worker(), header.incarnation()).ok()?;
        if member.admission.verdict(header.sequence()) != Verdict::Fresh {
            return None;
        }
        let table = self.tables.get(header.table()).ok()?;
        let width = table.widths().delta;
        check_width(header, width).ok()?;
        let (keys, deltas) = match *message {
            Message::Push(keyed) => (keyed.keys.as_slice(), keyed.values),
            Message::CodedPush(coded) => {
                let shape = row_shape(width, table.spec().dim as usize);
                let decoded = self.decoder.push(header, coded, shape, &mut member.known).ok()?;
                (decoded.keys, decoded.deltas)
            }
            _ => return None,
        };
        (!keys.is_empty()).then_some((keys, deltas))
    }

    /// Applies pushes of several workers as one.
    ///
    /// - `body`: of the operation, as it goes on.
    /// - Errors: one of them may not be applied now, or the table takes none. Nothing changed.
    pub(crate) fn push_merged(
        &mut self,
        header: &Header,
        merged: &Merged<'_>,
        body: [&[u8]; 2],
        sink: &mut impl Sink,
    ) -> Result<(), Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        for name in merged.names {
            let member = job.member(name.worker(), name.incarnation())?;
            if member.admission.verdict(name.sequence()) != Verdict::Fresh {
                return Err(Refusal::Malformed);
            }
        }
        let moment = job.moment(header);
        check_width(header, self.tables.get(header.table())?.widths().delta)?;
        let Keyed { keys, values } = merged.sums;
        let sums = Decoded { keys: keys.as_slice(), deltas: values, places: None };
        add((&mut self.tables, moment), header, sums, sink)?;
        self.rests = Rests::No;
        sink.done(*header, body);
        for name in merged.names {
            let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
            let member = job.member(name.worker(), name.incarnation())?;
            let finished = member.admission.applied(name.sequence(), name.tick());
            self.note_pushed(name.worker(), name.tick(), finished);
        }
        Ok(())
    }

    /// Applies a push whose keys and deltas were read before.
    pub(crate) fn push_read(
        &mut self,
        header: &Header,
        keys: &[u64],
        deltas: &[f32],
        sink: &mut impl Sink,
    ) -> Result<Status, Refusal> {
        // It was taken in whatever epoch this head was in.
        let (keys_count, epoch) = (keys.len() as u32, self.epoch.get());
        let header = Header { keys: keys_count, encoding: 0, epoch, ..*header };
        let keys = Keys::new(keys).map_err(|_| Refusal::Malformed)?;
        self.change(&header, Message::Push(Keyed { keys, values: deltas }), &[], sink)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use wire::Kind;

    use super::*;

    /// A push's keys, and what it has for each.
    fn pushed() -> impl Strategy<Value = BTreeMap<u64, i8>> {
        prop::collection::btree_map(0_u64..99, -9_i8..9, 1..60)
    }

    proptest! {
        #[test]
        fn each_key_comes_once_with_the_sum_of_what_all_had_for_it(
            pushes in prop::collection::vec(pushed(), 1..9),
            width in 1_usize..5,
        ) {
            let (mut keys, mut deltas, mut expected) = (Vec::new(), Vec::new(), BTreeMap::new());
            for (&key, &value) in pushes.iter().flatten() {
                keys.push(key);
                let of = |at: usize| f32::from(value) / (at + 3) as f32;
                let row: Vec<f32> = (0..width).map(of).collect();
                deltas.extend_from_slice(&row);
                let sum = expected.entry(key).or_insert_with(|| vec![-0.0_f32; width]);
                sum.iter_mut().zip(row).for_each(|(sum, delta)| *sum += delta);
            }
            let push = |worker| Header { worker, width: width as u16, ..Header::new(Kind::Push) };
            let workers = 0..pushes.len() as u32;
            let mut merging = Merging::default();
            let names = workers.clone().rev().map(|worker| PushName::of(&push(worker)));
            merging.merge(names, &keys, &deltas, width);
            let (header, merged) = merging.merged(&push(0)).expect("keys ascend");
            let found: Vec<u32> = merged.names.iter().map(|name| name.worker().get()).collect();
            prop_assert_eq!(found, workers.collect::<Vec<_>>());
            let keys: Vec<u64> = expected.keys().copied().collect();
            prop_assert_eq!(merged.sums.keys.as_slice(), &keys);
            prop_assert_eq!(header.keys as usize, keys.len());
            let bits = |values: &[f32]| values.iter().map(|it| it.to_bits()).collect::<Vec<u32>>();
            let sums: Vec<f32> = expected.into_values().flatten().collect();
            prop_assert_eq!(bits(merged.sums.values), bits(&sums));
        }
    }
}
