//! Tests of splits: together they give each row once, and the same rows as one reader.
//!
//! Owns what only whole sources show; where texts are cut is tested in `lines`, how long splits are
//! in `splits`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::super::*;
use super::{Folder, gz, numbered, numbers, read, rows, spec, text, zst};

/// Claims splits from a counter that all readers share.
fn claims(splits: &Splits) -> impl Fn() -> ClaimSplit + use<> {
    let (next, count) = (Arc::new(Mutex::new(0)), splits.count());
    move || {
        let next = next.clone();
        Box::new(move |_| {
            let mut next = next.lock().unwrap();
            *next += 1;
            Ok(Some(*next - 1).filter(|&split| split < count))
        })
    }
}

fn of_length(spec: &SourceSpec, bytes: u64) -> Arc<Splits> {
    Arc::new(Splits::of_length(spec, &|_, _| bytes).unwrap())
}

/// What so many readers are given of the splits, by batch.
fn read_splits(spec: &SourceSpec, splits: &Arc<Splits>, readers: usize) -> Vec<Csr> {
    let claim = claims(splits);
    let open = || Source::open_splits(spec, splits.clone(), claim(), None).unwrap();
    let sources: Vec<Source> = (0..readers).map(|_| open()).collect();
    let mut batches = BTreeMap::new();
    let mut open: Vec<&Source> = sources.iter().collect();
    while !open.is_empty() {
        open.retain(|source| {
            let next = source.next().unwrap();
            next.map(|csr| assert!(batches.insert(csr.batch, csr).is_none(), "once")).is_some()
        });
    }
    batches.into_values().filter(|csr| csr.rows() > 0).collect()
}

/// A line of LibSVM: a row that holds its number, in some of the ways in which it may be written,
/// or none.
fn line() -> impl Strategy<Value = Option<usize>> {
    let (short, long) = (0_usize..30, 200_usize..900);
    prop_oneof![3 => short.prop_map(Some), 1 => Just(None), 1 => long.prop_map(Some)]
}

#[derive(Clone, Debug)]
struct Text {
    lines: Vec<Option<usize>>,
    ends_dos: bool,
    has_mark: bool,
    ends_in_newline: bool,
    packing: u8,
}

fn any_text() -> impl Strategy<Value = Text> {
    let lines = proptest::collection::vec(line(), 0..60);
    (lines, any::<bool>(), any::<bool>(), any::<bool>(), 0_u8..6).prop_map(
        |(lines, ends_dos, has_mark, ends_in_newline, packing)| Text {
            lines,
            ends_dos,
            has_mark,
            ends_in_newline,
            packing,
        },
    )
}

impl Text {
    /// Its bytes, whose rows have numbers from `row` on; the number after them.
    fn write(&self, mut row: u64) -> (Vec<u8>, u64) {
        let end = if self.ends_dos { "\r\n" } else { "\n" };
        let mark = if self.has_mark { "\u{feff}" } else { "" };
        let mut bytes = mark.to_owned();
        // Each file has a row, and both labels.
        for (at, line) in [Some(0)].iter().chain(&self.lines).enumerate() {
            match line {
                Some(blanks) => {
                    let blanks = " ".repeat(*blanks);
                    bytes += &format!("{} 1:{}{blanks} 7:1{end}", row % 2, row + 2);
                    row += 1;
                }
                None if at % 2 == 0 => bytes += end,
                None => bytes += &format!("# 1 1:99{end}"),
            }
        }
        if !self.ends_in_newline {
            bytes.truncate(bytes.trim_end_matches(end).len());
        }
        let bytes = bytes.into_bytes();
        let packed = match self.packing {
            0 => zst(&bytes),
            1 => gz(&bytes),
            _ => bytes,
        };
        (packed, row)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn splits_of_texts_give_each_row_once_and_the_same_ones_as_one_reader(
        texts in proptest::collection::vec(any_text(), 1..4),
        length in prop_oneof![1_u64..40, 40_u64..2000],
        batch_rows in 1_usize..9,
        readers in 1_usize..4,
    ) {
        let (folder, mut row) = (Folder::new(), 0);
        for (number, text) in texts.iter().enumerate() {
            let (bytes, next) = text.write(row);
            folder.write(&format!("{number}.libsvm"), bytes);
            row = next;
        }
        let pattern = text(&folder.path("*.libsvm"));
        let spec = SourceSpec { batch_rows, parsers: 2, ..spec(&[&pattern]) };
        let splits = of_length(&spec, length);
        let all = read(&spec).unwrap();
        prop_assert!(numbers(&all).into_iter().eq(0..row));
        let shared = read_splits(&spec, &splits, readers);
        prop_assert_eq!(rows(&shared), rows(&all));
        prop_assert_eq!(&shared, &read_splits(&spec, &splits, 1), "whoever reads them");
        // What is held out goes by rows' places, however the data is cut.
        let part = |part| SourceSpec { part, holdout: 0.3, draw: Draw::Place, ..spec.clone() };
        let test = numbers(&read(&part(Part::Test)).unwrap());
        let train = numbers(&read_splits(&part(Part::Train), &splits, readers));
        let mut both = [&test[..], &train[..]].concat();
        both.sort_unstable();
        prop_assert!(both.into_iter().eq(0..row), "{:?} {:?}", test, train);
    }
}

#[test]
fn a_format_with_quotes_has_one_split_a_file_and_headers_are_passed_over_in_each() {
    let folder = Folder::new();
    let file = |first: u64, end: u64| {
        let row = |row: u64| format!("{},\"a\n{row}\"\n", row % 2);
        "label,a\n".to_owned() + &(first..end).map(row).collect::<String>()
    };
    for (number, first) in [0, 40, 80].into_iter().enumerate() {
        folder.write(&format!("{number}.csv"), file(first, first + 40));
    }
    let spec = spec(&[&text(&folder.path("*.csv"))]);
    let splits = of_length(&spec, 1);
    assert_eq!(splits.count(), 3);
    assert_eq!(rows(&read_splits(&spec, &splits, 2)), rows(&read(&spec).unwrap()));
    assert_eq!(of_length(&spec, 1 << 20).count(), 1, "short ones go together");
}

#[test]
fn row_groups_of_parquet_are_read_by_who_claims_them_with_the_same_rows_held_out() {
    let folder = Folder::new();
    for (number, file_rows) in [25_usize, 7, 40].into_iter().enumerate() {
        let names = (0..file_rows).map(|row| format!("{number}-{row}"));
        let columns: [(&str, ArrayRef); 2] = [
            (
                "label",
                Arc::new((0..file_rows).map(|row| (row % 2) as f64).collect::<Float64Array>()),
            ),
            ("name", Arc::new(names.map(Some).collect::<StringArray>())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
        let file = std::fs::File::create(folder.path(&format!("{number}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    let spec = spec(&[&text(&folder.path("*.parquet"))]);
    for (length, count) in [(1, 8), (1 << 20, 1)] {
        let splits = of_length(&spec, length);
        assert_eq!(splits.count(), count);
        for part in [Part::All, Part::Train] {
            let spec = SourceSpec { part, holdout: 0.3, batch_rows: 4, ..spec.clone() };
            let shared = read_splits(&spec, &splits, 2);
            assert_eq!(rows(&shared), rows(&read(&spec).unwrap()), "{part:?}");
        }
    }
}

#[test]
fn a_generators_splits_are_ranges_of_its_rows() {
    let spec = SourceSpec { part: Part::Train, holdout: 0.3, ..spec(&["gen:criteo?rows=1000"]) };
    let splits = of_length(&spec, 256 * 90);
    assert_eq!(splits.count(), 12);
    assert_eq!(rows(&read_splits(&spec, &splits, 3)), rows(&read(&spec).unwrap()));
}

#[test]
fn a_later_life_passes_over_what_is_done_of_its_split_and_is_told_what_is_behind() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", numbered(0, 100));
    let spec = spec(&[&file]);
    let splits = of_length(&spec, 400);
    let all = read_splits(&spec, &splits, 1);
    let own: Vec<&Csr> = all.iter().filter(|csr| split_of(csr.batch) == 2).collect();
    assert!(own.len() > 2, "{}", own.len());
    let (asked, count) = (Arc::new(Mutex::new(Vec::new())), splits.count());
    let told = asked.clone();
    let claim: ClaimSplit = Box::new(move |delivered| {
        let mut asked = told.lock().unwrap();
        asked.push(delivered.last());
        Ok(Some(asked.len() as u64 + 1).filter(|&split| split < count))
    });
    let source = Source::open_splits(&spec, splits.clone(), claim, Some(own[0].batch)).unwrap();
    let mut later = Vec::new();
    while let Some(csr) = source.next().unwrap() {
        later.push(csr);
    }
    let expected = all.iter().filter(|csr| csr.batch > own[0].batch);
    assert!(later.iter().eq(expected));
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0], None);
    assert!(asked.is_sorted() && asked.iter().all(|ended| *ended < Some(count)), "{asked:?}");
}

#[test]
fn a_byte_order_mark_is_passed_over_by_a_split_that_ends_within_it() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", "\u{feff}".to_owned() + &numbered(0, 3));
    let spec = spec(&[&file]);
    for length in 1..9 {
        let all = read_splits(&spec, &of_length(&spec, length), 2);
        assert!(numbers(&all).into_iter().eq(0..3), "{length}");
    }
}

#[test]
fn a_split_without_a_row_gives_one_batch_without_rows() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", numbered(0, 30) + &"# none\n".repeat(100));
    let spec = spec(&[&file]);
    let splits = of_length(&spec, 100);
    let source = Source::open_splits(&spec, splits.clone(), claims(&splits)(), None).unwrap();
    let mut given = BTreeMap::<u64, usize>::new();
    let (mut none, mut row) = (0, 0);
    while let Some(csr) = source.next().unwrap() {
        none += u64::from(csr.rows() == 0);
        row += csr.rows();
        *given.entry(split_of(csr.batch)).or_default() += 1;
    }
    assert!(given.keys().copied().eq(0..splits.count()), "{given:?}");
    assert!((5..10).contains(&none) && row == 30, "{none} {row}");
}

#[test]
fn a_reader_reads_little_beside_the_splits_that_it_claims() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", numbered(0, 200_000));
    let spec = SourceSpec { batch_rows: 1000, ..spec(&[&file]) };
    let splits = of_length(&spec, 100_000);
    let mut own = Some(splits.count() / 2);
    let claim: ClaimSplit = Box::new(move |_| Ok(own.take()));
    let source = Source::open_splits(&spec, splits.clone(), claim, None).unwrap();
    let mut all = Vec::new();
    while let Some(csr) = source.next().unwrap() {
        all.extend(numbers(&[csr]));
    }
    assert!(all.len() > 4000 && all.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    // The head of the first file tells the format.
    let Progress { bytes_read, bytes_total, .. } = source.progress();
    assert!((100_000..100_000 + (256 << 10) + 20_000).contains(&bytes_read), "{bytes_read}");
    assert_eq!(bytes_total, std::fs::metadata(&file).unwrap().len());
    assert!(bytes_total > 2_500_000, "{bytes_total}");
    assert!((0.45..0.55).contains(&source.progress().fraction()));
}

#[test]
fn a_bad_row_in_the_middle_of_a_file_is_told_by_its_byte() {
    let folder = Folder::new();
    let before = numbered(0, 50);
    let file = folder.write("a.libsvm", format!("{before}1 x:1\n"));
    let spec = spec(&[&file]);
    let splits = of_length(&spec, 100);
    let source = Source::open_splits(&spec, splits.clone(), claims(&splits)(), None).unwrap();
    let error = std::iter::from_fn(|| source.next().transpose()).find_map(Result::err).unwrap();
    let byte = before.len() + 2;
    let said = format!("a.libsvm: byte {byte}: ");
    assert!(folder.strip(&error).starts_with(&said), "{error}");
    let whole = of_length(&spec, 1 << 20);
    let source = Source::open_splits(&spec, whole.clone(), claims(&whole)(), None).unwrap();
    let error = std::iter::from_fn(|| source.next().transpose()).find_map(Result::err).unwrap();
    assert!(folder.strip(&error).starts_with("a.libsvm:51:3: "), "{error}");
}

#[test]
fn the_splits_of_other_files_have_another_digest() {
    let folder = Folder::new();
    let one = folder.write("a.libsvm", numbered(0, 50));
    let digest = |bytes| of_length(&spec(&[&one]), bytes).digest();
    let before = digest(100);
    assert_eq!(before, digest(100));
    assert_ne!(before, digest(101));
    folder.write("a.libsvm", numbered(0, 51));
    assert_ne!(before, digest(100));
}
