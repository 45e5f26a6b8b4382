//! The keys that a shard and one of its workers both know, so that a message need not carry them.
//!
//! Owns the lists of the worker's last pulls, where their rows lay, and the numbers that its keys
//! were given. Bounded by
//! [`wire::LISTS_MAX`], [`wire::LIST_KEYS_MAX`] and [`wire::NUMBERS_MAX`]. How keys look in a
//! message is left to `decode`.
//!
//! Invariant: a list holds the keys of the pull that it is named by, strictly ascending. What a
//! number stands for never changes within a generation, so that a message may come again, late
//! or out of order: it means the same keys, or is refused.

use std::collections::VecDeque;

use wire::{
    LIST_KEYS_MAX, LISTS_MAX, ListHead, NUMBERS_MAX, NumbersHead, Refusal, Sequence, TableId,
};

use crate::table::Places;

/// What one worker and this shard both know.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownKeys {
    /// The newest last.
    lists: VecDeque<List>,
    keys_in_lists: usize,
    /// The buffers of a list that was dropped.
    spare: List,
    generation: u32,
    /// By number.
    numbered: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
struct List {
    pull: Sequence,
    keys: Vec<u64>,
    /// Where the pull found the rows, one a key, if that was noted.
    places: Vec<u32>,
    table: TableId,
    /// The table's count of changes then.
    changes: u64,
}

impl KnownKeys {
    /// What it takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let listed = self.keys_in_lists * (size_of::<u64>() + size_of::<u32>());
        (listed + self.numbered.capacity() * size_of::<u64>()) as u64
    }

    /// All keys of a pull, if they are still known.
    pub(crate) fn list(&self, pull: Sequence) -> Option<&[u64]> {
        let list = self.lists.iter().rev().find(|list| list.pull == pull)?;
        Some(&list.keys)
    }

    /// `count` keys of a list.
    ///
    /// - Errors: [`Refusal::ListUnknown`], or [`Refusal::Malformed`] beyond the list's end.
    pub(crate) fn list_part(&self, head: &ListHead, count: usize) -> Result<&[u64], Refusal> {
        let lists = self.lists.len() as u16; // LISTS_MAX fits.
        let keys = self.list(head.pull()).ok_or(Refusal::ListUnknown { lists })?;
        let start = head.first as usize;
        keys.get(start..start + count).ok_or(Refusal::Malformed)
    }

    /// Keeps the keys of a pull, at most [`LIST_KEYS_MAX`], and drops the oldest lists for them.
    pub(crate) fn remember(&mut self, pull: Sequence, keys: &[u64]) {
        assert!(keys.len() <= LIST_KEYS_MAX, "`wire` bounds the keys of a message");
        while self.lists.len() >= LISTS_MAX || self.keys_in_lists + keys.len() > LIST_KEYS_MAX {
            let oldest = self.lists.pop_front().expect("an empty one has room for a message's");
            self.keys_in_lists -= oldest.keys.len();
            self.spare = oldest;
        }
        let mut list = std::mem::take(&mut self.spare);
        list.pull = pull;
        list.places.clear();
        list.keys.clear();
        list.keys.extend_from_slice(keys);
        self.keys_in_lists += keys.len();
        self.lists.push_back(list);
    }

    /// Notes where the rows of a list's keys lie in a table. Without the list nothing is noted, nor
    /// if it has other keys than were pulled: a worker that uses a number twice can cause that.
    pub(crate) fn note_places(&mut self, pull: Sequence, table: TableId, places: Places<'_>) {
        let Some(list) = self.lists.iter_mut().rev().find(|list| list.pull == pull) else { return };
        list.places.clear();
        if places.at.len() != list.keys.len() {
            return;
        }
        list.places.extend_from_slice(places.at);
        (list.table, list.changes) = (table, places.changes);
    }

    /// Where the rows of a part of a list lay in this table, if that was noted.
    pub(crate) fn places(
        &self,
        head: &ListHead,
        count: usize,
        table: TableId,
    ) -> Option<Places<'_>> {
        let list = self.lists.iter().rev().find(|list| list.pull == head.pull())?;
        let start = head.first as usize;
        let at = list.places.get(start..start + count)?;
        (list.table == table).then_some(Places { at, changes: list.changes })
    }

    /// The keys that have these numbers, written over them.
    ///
    /// - `numbers`: strictly ascending.
    /// - Errors: [`Refusal::NumbersUnknown`] if the head's dictionary is not the one known or has
    ///   gone further than it; [`Refusal::Malformed`] if a number is not below the head's base.
    pub(crate) fn look_up(&self, head: &NumbersHead, numbers: &mut [u64]) -> Result<(), Refusal> {
        let base = self.base(head)?;
        if numbers.last().is_some_and(|&last| last >= base as u64) {
            return Err(Refusal::Malformed);
        }
        for number in numbers {
            *number = self.numbered[*number as usize];
        }
        Ok(())
    }

    /// Gives new keys their numbers, where they fit; keys that came before must be the same.
    ///
    /// - Errors: as [`KnownKeys::look_up`], and [`Refusal::Malformed`] if a number that is learned
    ///   already stands for another key. Nothing changed.
    pub(crate) fn learn(&mut self, head: &NumbersHead, new: &[u64]) -> Result<(), Refusal> {
        let base = self.base(head)?;
        if head.generation != self.generation {
            self.generation = head.generation;
            self.numbered.clear();
        }
        if base + new.len() > NUMBERS_MAX {
            return Ok(());
        }
        if base == self.numbered.len() {
            self.numbered.extend_from_slice(new);
            return Ok(());
        }
        match self.numbered.get(base..base + new.len()) {
            Some(learned) if learned == new => Ok(()),
            _ => Err(Refusal::Malformed),
        }
    }

    /// The head's base, if what stands before it has been learned.
    fn base(&self, head: &NumbersHead) -> Result<usize, Refusal> {
        let base = head.base as usize;
        let learned = match head.generation {
            generation if generation == self.generation => self.numbered.len(),
            generation if generation > self.generation => 0,
            _ => return Err(self.unknown()),
        };
        if base <= learned { Ok(base) } else { Err(self.unknown()) }
    }

    /// The last pull whose keys are kept.
    pub(crate) fn newest(&self) -> Option<Sequence> {
        self.lists.back().map(|list| list.pull)
    }

    /// Which dictionary is in use; 0 if none is.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    fn unknown(&self) -> Refusal {
        Refusal::NumbersUnknown { numbers: self.numbered.len() as u32 } // NUMBERS_MAX fits.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(generation: u32, base: u32) -> NumbersHead {
        NumbersHead { generation, base, known: 0, reserved: 0 }
    }

    fn keys_of(
        known: &KnownKeys,
        head: &NumbersHead,
        numbers: &[u64],
    ) -> Result<Vec<u64>, Refusal> {
        let mut keys = numbers.to_vec();
        known.look_up(head, &mut keys).map(|()| keys)
    }

    #[test]
    fn the_oldest_list_makes_room_for_a_new_one_by_count_and_by_keys() {
        let mut known = KnownKeys::default();
        let name = Sequence::new;
        for pull in 0..=LISTS_MAX as u64 {
            known.remember(name(pull), &[pull]);
        }
        assert_eq!(known.list(name(0)), None);
        assert_eq!(known.list(name(1)), Some([1].as_slice()));
        let many: Vec<u64> = (0..LIST_KEYS_MAX as u64).collect();
        known.remember(name(100), &many);
        assert_eq!(known.list(name(LISTS_MAX as u64)), None, "one list takes all room");
        let part = |pull, first, count| {
            let head = ListHead { pull, first, reserved: 0 };
            known.list_part(&head, count).map(<[u64]>::to_vec)
        };
        assert_eq!(part(100, 7, 2), Ok(vec![7, 8]));
        assert_eq!(part(100, LIST_KEYS_MAX as u32 - 1, 2), Err(Refusal::Malformed));
        assert_eq!(part(3, 0, 1), Err(Refusal::ListUnknown { lists: 1 }));
    }

    #[test]
    fn a_message_that_comes_again_or_late_means_the_same_keys() {
        let mut known = KnownKeys::default();
        assert_eq!(known.learn(&head(1, 0), &[40, 50]), Ok(()));
        assert_eq!(known.learn(&head(1, 2), &[10]), Ok(()));
        assert_eq!(known.learn(&head(1, 0), &[40, 50]), Ok(()), "the same again");
        assert_eq!(keys_of(&known, &head(1, 3), &[0, 2]), Ok(vec![40, 10]));
        assert_eq!(known.learn(&head(1, 0), &[40, 51]), Err(Refusal::Malformed));
        let numbers = 3;
        let unknown = Err(Refusal::NumbersUnknown { numbers });
        assert_eq!(known.learn(&head(1, 4), &[60]), unknown, "one before it is missing");
        assert_eq!(keys_of(&known, &head(1, 2), &[2]), Err(Refusal::Malformed));
    }

    #[test]
    fn a_new_generation_replaces_the_old_one_from_its_first_message_on() {
        let mut known = KnownKeys::default();
        known.learn(&head(1, 0), &[40, 50]).expect("the first keys");
        let unknown = Refusal::NumbersUnknown { numbers: 2 };
        assert_eq!(known.learn(&head(2, 1), &[60]), Err(unknown), "its first message is missing");
        assert_eq!(keys_of(&known, &head(1, 2), &[1]), Ok(vec![50]), "nothing has changed");
        known.learn(&head(2, 0), &[60]).expect("a new one's first keys");
        assert_eq!(keys_of(&known, &head(2, 1), &[0]), Ok(vec![60]));
        let unknown = Err(Refusal::NumbersUnknown { numbers: 1 });
        assert_eq!(keys_of(&known, &head(1, 1), &[0]), unknown, "a late message of the old one");
    }

    #[test]
    fn keys_beyond_the_bound_get_no_numbers() {
        let mut known = KnownKeys::default();
        let most: Vec<u64> = (0..NUMBERS_MAX as u64).collect();
        known.learn(&head(1, 0), &most).expect("all there is room for");
        assert_eq!(known.learn(&head(1, NUMBERS_MAX as u32), &[u64::MAX - 1]), Ok(()));
        let numbers = NUMBERS_MAX as u32;
        let unknown = Err(Refusal::NumbersUnknown { numbers });
        assert_eq!(known.learn(&head(1, numbers + 1), &[]), unknown);
    }
}
