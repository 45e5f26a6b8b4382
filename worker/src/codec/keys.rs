//! Keys on their way into a message: as a list's, as numbers, packed, or as they are.
//!
//! Owns the choice among these forms and the bytes of the key part. Numbers are given by
//! `dictionary`; whether the shard still has a list, the shard says.
//!
//! Invariant: nothing is learned by writing: keys get their numbers by [`KeyWriter::posted`], once
//! the message is sure to leave.

use kernels::Isa;
use kernels::codec::{pack_keys, packed_keys_bytes_max};
use wire::{KeyForm, ListHead, NUMBERS_MAX, NumbersHead, PART_BYTES, Sequence};
use zerocopy::IntoBytes;

use super::{Dictionary, KeyCodec, NumberSet};

/// Of how many keys in a list at least one must be carried, so that a bitmap over the list is
/// worth its bit for each: a key of its own costs about so many bits.
const LISTED_PER_CARRIED: usize = 8;

/// A pull's keys on one shard, which the shard has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) shard: usize,
    /// Where its keys stand among the grouped ones.
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) pull: Sequence,
}

/// What the keys of a message are.
#[derive(Clone, Copy)]
pub(crate) struct WhichKeys<'a> {
    /// All keys of the request.
    pub(crate) all: &'a [u64],
    /// Of which these are carried; all if there is no bitmap.
    pub(crate) carried: Option<&'a [u64]>,
    /// The list that has all of them.
    pub(crate) list: Option<ListHead>,
    /// The form that is wanted.
    pub(crate) codec: KeyCodec,
}

/// Writes key parts; keeps its buffers.
pub(crate) struct KeyWriter {
    isa: Isa,
    bytes: Vec<u8>,
    carried: Vec<u64>,
    /// The numbers that the message names.
    named: NumberSet,
    numbers: Vec<u64>,
    new: Vec<u64>,
}

/// The form that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenKeys {
    pub(crate) form: KeyForm,
    /// How many keys the message names.
    pub(crate) count: usize,
}

impl KeyWriter {
    pub(crate) fn new(isa: Isa) -> KeyWriter {
        let (bytes, carried, named, numbers, new) = Default::default();
        KeyWriter { isa, bytes, carried, named, numbers, new }
    }

    /// Writes the keys in the shortest form that may be used, for [`KeyWriter::bytes`]. As they
    /// are, they are not copied: [`KeyWriter::plain`] has them.
    pub(crate) fn write(
        &mut self,
        which: WhichKeys<'_>,
        dictionary: &mut Dictionary,
    ) -> WrittenKeys {
        self.bytes.clear();
        self.new.clear();
        self.carried.clear();
        let keys = match which.carried {
            None => which.all,
            Some(bitmap) => {
                keep(which.all, bitmap, &mut self.carried);
                &self.carried
            }
        };
        let plain_bytes = size_of_val(keys);
        let count = keys.len();
        if let Some(head) = which.list
            && size_of::<ListHead>() < plain_bytes
            && which.all.len() <= LISTED_PER_CARRIED * count
        {
            self.bytes.extend_from_slice(head.as_bytes());
            return WrittenKeys { form: KeyForm::List, count: which.all.len() };
        }
        // Without memory for more numbers there are none.
        let new_max = count.min(NUMBERS_MAX - dictionary.len());
        let codec = match which.codec {
            KeyCodec::Numbered if !dictionary.has_room(new_max) => KeyCodec::Packed,
            codec => codec,
        };
        let form = match codec {
            KeyCodec::Plain => return WrittenKeys { form: KeyForm::Plain, count },
            KeyCodec::Packed => {
                let mut at = 0;
                pack(self.isa, keys, &mut self.bytes, &mut at);
                KeyForm::Packed
            }
            // The head and the least of numbers are as long.
            KeyCodec::Numbered if plain_bytes <= size_of::<NumbersHead>() + PART_BYTES => {
                return WrittenKeys { form: KeyForm::Plain, count };
            }
            KeyCodec::Numbered => {
                let buffers = (&mut self.named, &mut self.numbers, &mut self.new);
                let head = number(keys, dictionary, buffers);
                self.bytes.extend_from_slice(head.as_bytes());
                let mut at = self.bytes.len();
                pack(self.isa, &self.numbers, &mut self.bytes, &mut at);
                pack(self.isa, &self.new, &mut self.bytes, &mut at);
                KeyForm::Numbered
            }
        };
        let bytes = self.bytes.len().next_multiple_of(PART_BYTES);
        if bytes >= plain_bytes {
            self.new.clear();
            return WrittenKeys { form: KeyForm::Plain, count };
        }
        self.bytes.resize(bytes, 0);
        WrittenKeys { form, count }
    }

    /// The key part that was written last, unless it is plain.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The keys that were written last, where they are carried as they are.
    pub(crate) fn plain<'a>(&'a self, which: WhichKeys<'a>) -> &'a [u64] {
        if which.carried.is_some() { &self.carried } else { which.all }
    }

    /// The message that was written last is posted: its new keys have numbers now.
    pub(crate) fn posted(&mut self, dictionary: &mut Dictionary) {
        if dictionary.len() + self.new.len() <= NUMBERS_MAX {
            self.new.iter().for_each(|&key| {
                dictionary.learn(key);
            });
        }
        self.new.clear();
    }
}

/// Packs keys behind what stands in `bytes`, up to `at`.
fn pack(isa: Isa, keys: &[u64], bytes: &mut Vec<u8>, at: &mut usize) {
    bytes.resize(*at + packed_keys_bytes_max(keys.len()), 0);
    *at += pack_keys(isa, keys, &mut bytes[*at..]);
    bytes.truncate(*at);
}

/// Parts keys into the ascending numbers of those that have one, and the others.
fn number(
    keys: &[u64],
    dictionary: &Dictionary,
    (named, numbers, new): (&mut NumberSet, &mut Vec<u64>, &mut Vec<u64>),
) -> NumbersHead {
    named.make_room(dictionary.len());
    dictionary.numbers(keys, |key, number| match number {
        Some(number) => named.add(number),
        None => new.push(key),
    });
    named.drain(numbers);
    NumbersHead {
        generation: dictionary.generation(),
        base: dictionary.len() as u32, // NUMBERS_MAX fits.
        known: numbers.len() as u32,
        reserved: 0,
    }
}

/// The keys whose bits are set.
fn keep(keys: &[u64], bitmap: &[u64], kept: &mut Vec<u64>) {
    for (keys, &word) in keys.chunks(u64::BITS as usize).zip(bitmap) {
        let mut ones = word;
        while ones != 0 {
            kept.push(keys[ones.trailing_zeros() as usize]);
            ones &= ones - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(all: &[u64], codec: KeyCodec) -> WhichKeys<'_> {
        WhichKeys { all, carried: None, list: None, codec }
    }

    #[test]
    fn keys_that_were_sent_before_take_a_few_bits_each() {
        let keys: Vec<u64> = (0..4096).map(|at| at * 0x000F_1357_9BDF_0246).collect();
        let mut writer = KeyWriter::new(Isa::detect());
        let mut dictionary = Dictionary::default();
        writer.write(which(&keys, KeyCodec::Numbered), &mut dictionary);
        let first = writer.bytes().len();
        writer.posted(&mut dictionary);
        let half: Vec<u64> = keys.iter().copied().step_by(2).collect();
        let written = writer.write(which(&half, KeyCodec::Numbered), &mut dictionary);
        assert_eq!(written, WrittenKeys { form: KeyForm::Numbered, count: 2048 });
        let again = writer.bytes().len();
        assert!(again * 8 < 2048 * 4, "{again} bytes for every second of 4096 numbers");
        assert!(first > 8 * again, "{first} bytes for 4096 new keys");
    }

    #[test]
    fn what_is_written_and_not_posted_is_not_learned() {
        let mut writer = KeyWriter::new(Isa::detect());
        let mut dictionary = Dictionary::default();
        let keys: Vec<u64> = (0..100).collect();
        writer.write(which(&keys, KeyCodec::Numbered), &mut dictionary);
        writer.write(which(&keys[..50], KeyCodec::Numbered), &mut dictionary);
        writer.posted(&mut dictionary);
        assert_eq!(dictionary.len(), 50);
        writer.posted(&mut dictionary);
        assert_eq!(dictionary.len(), 50);
    }

    #[test]
    fn few_keys_and_many_have_their_numbers_written_in_order() {
        let keys: Vec<u64> = (0..100_000).map(|at| at * 0x000F_1357_9BDF).collect();
        let mut dictionary = Dictionary::default();
        assert!(dictionary.has_room(keys.len()));
        for key in keys.iter().rev() {
            dictionary.learn(*key);
        }
        let (mut named, mut numbers, mut new) = Default::default();
        for count in [20, 20_000] {
            let mut some: Vec<u64> = keys.iter().copied().step_by(100_000 / count).collect();
            some.push(u64::MAX - 1);
            let mut expected: Vec<u64> =
                some.iter().filter_map(|&key| dictionary.number(key)).map(u64::from).collect();
            expected.sort_unstable();
            new = Vec::new();
            let head = number(&some, &dictionary, (&mut named, &mut numbers, &mut new));
            assert_eq!((&numbers, &new[..]), (&expected, &[u64::MAX - 1][..]), "{count}");
            assert_eq!(head.known as usize, count);
        }
        assert_eq!(new.len(), 1);
    }

    #[test]
    fn few_keys_travel_as_they_are_and_a_list_serves_where_most_are_carried() {
        let mut writer = KeyWriter::new(Isa::detect());
        let mut dictionary = Dictionary::default();
        let written = writer.write(which(&[7, 9], KeyCodec::Numbered), &mut dictionary);
        assert_eq!(written, WrittenKeys { form: KeyForm::Plain, count: 2 });
        let all: Vec<u64> = (0..64).collect();
        let list = Some(ListHead { pull: 5, first: 0, reserved: 0 });
        let (most, few) = ([u64::MAX >> 1], [0b111_u64]);
        let mut written = |writer: &mut KeyWriter, carried| {
            let which = WhichKeys { carried, list, ..which(&all, KeyCodec::Packed) };
            writer.write(which, &mut dictionary)
        };
        let listed = WrittenKeys { form: KeyForm::List, count: 64 };
        assert_eq!(written(&mut writer, None), listed);
        assert_eq!(written(&mut writer, Some(&most)), listed);
        let packed = WrittenKeys { form: KeyForm::Packed, count: 3 };
        assert_eq!(written(&mut writer, Some(&few)), packed);
    }
}
