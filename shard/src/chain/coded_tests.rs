//! Recordings whose rows are rounded on their way to the store, and the shards that are made of
//! them.

use kernels::Isa;
use kernels::codec::{Rounding, ValueCodec, decode_values, encode_values};
use proptest::prelude::*;
use wire::{Epoch, HEADER_BYTES, Holds, StoredValues};

use super::record_tests::{finish, image, record_line_amid_changes, restored_over, steps};
use super::tests::{Letter, spec, station};
use super::*;
use crate::Mutation;

/// Rows of tables with odd numbers: Adam's of dim 3, whose powers are exact. All other tables have
/// sums.
const ADAM_ROUNDED: usize = 9;

/// Has all pages written with rounded numbers.
fn round(tapes: &mut [Tape]) {
    let mut writer = PageWriter::new(StoredValues::Bf16);
    tapes.iter_mut().for_each(|tape| tape.write_page(&mut writer));
}

fn bytes(tapes: &[Tape]) -> usize {
    tapes.iter().map(Tape::bytes).sum()
}

/// What a row of a table is once it was rounded.
fn rounded(table: usize, row: &[u32]) -> Vec<u32> {
    let mut row = row.to_vec();
    if table % 2 == 1 {
        let values: Vec<f32> = row[..ADAM_ROUNDED].iter().map(|&it| f32::from_bits(it)).collect();
        let (mut coded, mut back) = ([0; 2 * ADAM_ROUNDED], [0.0; ADAM_ROUNDED]);
        let isa = Isa::detect();
        encode_values(isa, ValueCodec::Bf16, &values, Rounding::Nearest, &mut coded);
        decode_values(isa, ValueCodec::Bf16, &coded, &mut back).expect("it was encoded");
        row.iter_mut().zip(back).for_each(|(to, value)| *to = value.to_bits());
    }
    row
}

/// The same image with all rows rounded.
fn rounded_image(mut image: Image) -> Image {
    for (table, rows) in image.rows.iter_mut().enumerate() {
        rows.values_mut().for_each(|row| *row = rounded(table, row));
    }
    image
}

/// Records a restored shard, as it is, with rounded numbers.
fn recorded_again(shard: Restored) -> Vec<Tape> {
    let alone = station(0, Holds::Everything, None);
    let mut replica: Replica<Letter> = Replica::restored(shard, 1 << 20, Epoch::new(5), alone);
    replica.begin_recording(Purpose::default()).expect("it is alone");
    replica.cut_recording(None);
    let mut tapes = finish(&mut replica, Vec::new());
    round(&mut tapes);
    tapes
}

fn made_of(tapes: &[Tape]) -> Restored {
    let mut restoring = Restoring::new(spec(77, 1 << 20, Mutation::None), None);
    let mut messages = tapes.iter().flat_map(Tape::messages);
    messages.try_for_each(|message| restoring.take(message)).expect("whole");
    restoring.finish().expect("whole")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_rounded_recording_makes_the_shard_that_was_there_with_what_may_be_rounded_rounded(
        steps in steps(), before in 0_usize..60, is_tail: bool,
    ) {
        let when = (is_tail.then_some(Holds::Everything), None);
        let mut recorded = record_line_amid_changes(&steps, &[before], when, Mutation::None);
        round(&mut recorded.tapes);
        let was = rounded_image(recorded.at_cut.expect("its beginning"));
        let shard = restored_over(&[], &recorded.tapes, None).expect("whole");
        prop_assert_eq!(image(shard), was);
        // Once more, it is the same.
        let again = recorded_again(made_of(&recorded.tapes));
        let twice = recorded_again(made_of(&again));
        let rows = |tapes: &[Tape]| made_of(tapes).into_shard().image().rows;
        prop_assert_eq!(rows(&again), rows(&recorded.tapes));
        prop_assert_eq!(rows(&twice), rows(&again));
    }

    #[test]
    fn rounded_changes_are_read_over_a_base_of_either_kind(
        steps in steps(), begins in [0_usize..8, 10_usize..23, 25_usize..38, 40_usize..60],
        kinds: [bool; 4],
    ) {
        let mut recorded = record_line_amid_changes(&steps, &begins, (None, None), Mutation::None);
        let tapes = recorded.bases.iter_mut().chain([&mut recorded.tapes]);
        tapes.zip(kinds).filter(|(_, rounds)| *rounds).for_each(|(tapes, _)| round(tapes));
        let shard = restored_over(&recorded.bases, &recorded.tapes, None).expect("whole");
        let (made, was) = (image(shard), recorded.at_cut.expect("its beginning"));
        prop_assert_eq!(&made.state, &was.state);
        prop_assert_eq!(&made.counts, &was.counts);
        for (table, (made, was)) in made.rows.iter().zip(&was.rows).enumerate() {
            prop_assert!(made.keys().eq(was.keys()));
            for (made, was) in made.values().zip(was.values()) {
                let is_exact = kinds.contains(&false) && made == was;
                prop_assert!(is_exact || *made == rounded(table, was));
            }
        }
    }
}

#[test]
fn a_rounded_recording_is_shorter_and_two_servers_write_the_same_bytes() {
    // Rows of Adam, which are many.
    let steps: Vec<_> = (0..60).map(|n| (kernels::hash::mix(n) & !15 | 3, 119, 1)).collect();
    let record = || record_line_amid_changes(&steps, &[59], (None, None), Mutation::None).tapes;
    let (exact, mut first, mut second) = (record(), record(), record());
    round(&mut first);
    round(&mut second);
    assert!(first.iter().flat_map(Tape::messages).eq(second.iter().flat_map(Tape::messages)));
    let rows = exact.last().expect("some").reached.rows as usize;
    assert!(rows > 1000, "{rows} rows");
    // Messages begin at multiples of 8 bytes.
    let saved = bytes(&exact) - bytes(&first);
    assert!(saved.abs_diff(rows * 2 * ADAM_ROUNDED) < 64, "{saved} bytes of {rows} rows");
    // What is written as it is stays as it was, and what was rounded is not rounded again.
    let before: Vec<Vec<u8>> = first.iter().flat_map(Tape::messages).map(<[u8]>::to_vec).collect();
    round(&mut first);
    assert!(first.iter().flat_map(Tape::messages).eq(&before));
    let mut same = record();
    let mut writer = PageWriter::new(StoredValues::F32);
    same.iter_mut().for_each(|tape| tape.write_page(&mut writer));
    assert!(same.iter().flat_map(Tape::messages).eq(exact.iter().flat_map(Tape::messages)));
    assert!(exact.iter().flat_map(Tape::messages).all(|message| message.len() >= HEADER_BYTES));
}
