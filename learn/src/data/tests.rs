//! Tests of whole sources: from files on disk to batches.
//!
//! Owns what no single file here can show: packing, several files, order over threads, parts and
//! shares, and the words of errors. Each format's own grammar is tested beside it.
//!
//! Invariant: no test depends on timing, or on a file that it did not write.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int16Array, RecordBatch, StringArray,
};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod splits;

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        text(&self.path(name))
    }

    /// An error's message without this folder's name.
    fn strip(&self, error: &DataError) -> String {
        error.to_string().replace(&format!("{}/", text(self.0.path())), "")
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn spec(inputs: &[&str]) -> SourceSpec {
    SourceSpec {
        inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
        batch_rows: 10,
        parsers: 3,
        intercept: Intercept::None,
        ..SourceSpec::default()
    }
}

fn read(spec: &SourceSpec) -> Result<Vec<Csr>, DataError> {
    let source = Source::open(spec)?;
    let mut batches = Vec::new();
    while let Some(csr) = source.next()? {
        batches.push(csr);
    }
    assert_eq!(source.next(), Ok(None), "the end stays");
    Ok(batches)
}

/// Each row's label and its keys with their values.
fn rows(batches: &[Csr]) -> Vec<(f32, Vec<(u64, f32)>)> {
    let mut rows = Vec::new();
    for csr in batches {
        for row in 0..csr.rows() {
            let cell = |at: usize| {
                let value = csr.values.get(at).copied().unwrap_or(1.0);
                (csr.keys[csr.columns[at] as usize], value)
            };
            rows.push((csr.labels[row], csr.row(row).map(cell).collect()));
        }
    }
    rows
}

/// LibSVM rows numbered `first..end`: each holds its number as a value.
fn numbered(first: u64, end: u64) -> String {
    (first..end).map(|row| format!("{} 1:{} 7:1\n", row % 2, row + 2)).collect()
}

fn numbers(batches: &[Csr]) -> Vec<u64> {
    rows(batches).iter().map(|(_, cells)| cells[0].1 as u64 - 2).collect()
}

#[test]
fn packed_files_of_several_frames_and_patterns_read_as_one_text() {
    let folder = Folder::new();
    folder.write("a1.libsvm", numbered(0, 33));
    let frames = [zst(numbered(33, 50).as_bytes()), zst(b""), zst(numbered(50, 71).as_bytes())];
    folder.write("a2.libsvm.zst", frames.concat());
    let members = [gz(numbered(71, 80).as_bytes()), gz(numbered(80, 104).as_bytes())];
    folder.write("a3.libsvm.gz", members.concat());
    // No newline at the end, DOS line ends, blank lines, a comment, a byte order mark.
    let last =
        format!("\u{feff}\r\n{}\n# end\n1 1:107 7:1", numbered(104, 105).replace('\n', "\r\n"));
    let last = folder.write("b.libsvm", last);
    let batches = read(&spec(&[&text(&folder.path("a?.*")), &last])).unwrap();
    assert!(numbers(&batches).into_iter().eq(0..106));
    assert!(batches[..10].iter().all(|csr| csr.rows() == 10 && csr.source_rows == 10));
    assert!(batches.iter().zip(0..).all(|(csr, batch)| csr.batch == batch));
    assert!(batches.iter().all(|csr| csr.first_row == csr.batch * 10));
}

#[test]
fn several_consumers_share_the_batches_and_each_call_gets_the_next_in_order() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", numbered(0, 5000));
    let source = Source::open(&spec(&[&file])).unwrap();
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut before = None;
                while let Some(csr) = source.next().unwrap() {
                    assert!(before < Some(csr.batch));
                    before = Some(csr.batch);
                    seen.lock().unwrap().push((csr.batch, numbers(&[csr])));
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert_eq!(seen.len(), 500);
    assert!(seen.into_iter().flat_map(|(_, rows)| rows).eq(0..5000));
    assert_eq!(source.progress().rows, 5000);
    assert_eq!(source.progress().bytes_read, source.progress().bytes_total);
}

#[test]
fn batches_do_not_depend_on_the_count_of_parsers_or_on_recycling() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", numbered(0, 1000));
    let expected = read(&SourceSpec { parsers: 1, ..spec(&[&file]) }).unwrap();
    let source = Source::open(&SourceSpec { parsers: 8, ..spec(&[&file]) }).unwrap();
    for expected in expected {
        let csr = source.next().unwrap().unwrap();
        assert_eq!(csr, expected);
        source.recycle(csr);
    }
}

#[test]
fn train_and_test_split_the_rows_and_claims_split_the_batches() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", numbered(0, 1000));
    let spec = |part| SourceSpec { part, holdout: 0.3, ..spec(&[&file]) };
    let read_numbers = |part| numbers(&read(&spec(part)).unwrap());
    let (train, test) = (read_numbers(Part::Train), read_numbers(Part::Test));
    assert!((200..400).contains(&test.len()), "{}", test.len());
    let both: BTreeSet<u64> = train.iter().chain(&test).copied().collect();
    assert_eq!((both.len(), train.len() + test.len()), (1000, 1000));
    let counter = Arc::new(AtomicU64::new(0));
    let share = |_| {
        let counter = Arc::clone(&counter);
        let claim = move || Ok(counter.fetch_add(1, Ordering::Relaxed));
        Source::open_shared(&spec(Part::Train), Box::new(claim)).unwrap()
    };
    let sources: Vec<Source> = (0..3).map(share).collect();
    let shares = sources.iter().map(|source| {
        let batches: Vec<Csr> = std::iter::from_fn(|| source.next().unwrap()).collect();
        numbers(&batches)
    });
    let mut shared: Vec<u64> = shares.flatten().collect();
    shared.sort_unstable();
    assert_eq!(shared, train);
}

#[test]
fn bad_rows_are_left_out_as_far_as_allowed_and_the_next_one_is_named() {
    let folder = Folder::new();
    let mut rows: Vec<String> = numbered(0, 100).lines().map(str::to_owned).collect();
    for bad in [15, 16, 77] {
        rows[bad] = "0 x".to_owned();
    }
    let file = folder.write("a.libsvm", rows.join("\n"));
    let skip = |allowed| SourceSpec { bad_rows: BadRows::Skip(allowed), ..spec(&[&file]) };
    let source = Source::open(&skip(3)).unwrap();
    let batches: Vec<Csr> = std::iter::from_fn(|| source.next().unwrap()).collect();
    assert_eq!(numbers(&batches).len(), 97);
    assert_eq!((batches[1].rows(), batches[1].source_rows), (8, 10));
    assert_eq!(source.progress().bad_rows, 3);
    let strict = read(&spec(&[&file])).unwrap_err();
    let expected = "a.libsvm:16:3: expected a feature's number, found 'x'";
    assert_eq!(folder.strip(&strict), expected);
    assert_eq!(
        folder.strip(&read(&skip(2)).unwrap_err()),
        "a.libsvm:78:3: expected a feature's number, found 'x' \
         (one bad row more than the 2 allowed)"
    );
}

#[test]
fn an_error_comes_after_the_batches_before_it_and_stays() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", format!("{}oops\n", numbered(0, 55)));
    let source = Source::open(&spec(&[&file])).unwrap();
    for batch in 0..5 {
        assert_eq!(source.next().unwrap().unwrap().batch, batch);
    }
    for _ in 0..3 {
        let error = source.next().unwrap_err();
        assert_eq!(folder.strip(&error), "a.libsvm:56:1: expected a label, found 'o'");
    }
}

#[test]
fn inputs_that_cannot_be_read_are_named() {
    let folder = Folder::new();
    let message = |inputs: &[&str]| folder.strip(&read(&spec(inputs)).unwrap_err());
    let missing = text(&folder.path("missing.vw"));
    assert_eq!(message(&[]), "no input is named");
    assert_eq!(message(&[&missing]), "missing.vw: cannot open: no such file");
    assert_eq!(message(&[&text(&folder.path("*.vw"))]), "no file matches '*.vw'");
    std::fs::create_dir(folder.path("folder")).unwrap();
    let directory = text(&folder.path("folder"));
    assert_eq!(message(&[&directory]), "folder: is a directory; 'folder/*' would name its files");
    let empty = folder.write("empty.vw", "");
    assert_eq!(message(&[&empty]), "empty.vw: holds no rows");
    let blank = folder.write("blank.vw", "\n \n");
    assert_eq!(message(&[&blank]), "blank.vw: holds no rows");
    let header = folder.write("header.csv", "label,a\n");
    assert_eq!(message(&[&header]), "header.csv: holds no rows");
    let good = folder.write("good.vw", "1 |f a\n");
    assert_eq!(message(&[&good, &empty]), "empty.vw: holds no rows");
    let unknown = folder.write("notes", "hello\n");
    assert_eq!(
        message(&[&unknown]),
        "notes: neither the file's name nor its first line tells the format; \
         expected vw, libsvm, csv, criteo or parquet"
    );
    assert_eq!(
        message(&[&good, "gen:criteo"]),
        "input: expected no input beside the generator 'gen:criteo'"
    );
    assert!(message(&["[.vw"]).starts_with("pattern '[.vw': "));
}

#[test]
fn a_packed_file_that_is_cut_off_is_told_from_one_that_is_broken() {
    let folder = Folder::new();
    // Noise, so that the packed file is long enough to be cut in its middle.
    let noise = |row: u64| row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let plain: String = (0..20_000).map(|row| format!("{} {}:1\n", row % 2, noise(row))).collect();
    for (name, packed) in
        [("a.libsvm.zst", zst(plain.as_bytes())), ("a.libsvm.gz", gz(plain.as_bytes()))]
    {
        let cut = packed.len() * 9 / 10;
        let file = folder.write(name, &packed[..cut]);
        let error = read(&spec(&[&file])).unwrap_err();
        let expected = format!("{name}: the compressed file is cut off after {cut} bytes");
        assert_eq!(folder.strip(&error), expected);
        let mut broken = packed.clone();
        broken[cut] ^= 0x55;
        broken[cut / 2] ^= 0x55;
        let file = folder.write(name, &broken);
        assert!(read(&spec(&[&file])).is_err());
    }
}

#[test]
fn a_pass_for_training_without_rows_or_with_one_class_is_an_error() {
    let folder = Folder::new();
    let file = folder.write("a.libsvm", "1 1:1\n".repeat(30));
    let part = |part, holdout| read(&SourceSpec { part, holdout, ..spec(&[&file]) });
    let message = |result: Result<Vec<Csr>, DataError>| result.unwrap_err().to_string();
    assert_eq!(message(part(Part::Train, 0.0)), "all 30 rows have the label 1: nothing to learn");
    assert_eq!(message(part(Part::Train, 1.0)), "the data holds no rows");
    assert!(part(Part::Test, 1.0).is_ok() && part(Part::Test, 0.0).unwrap().is_empty());
}

#[test]
fn csv_is_read_by_its_header_with_quotes_and_kinds_of_columns() {
    let folder = Folder::new();
    let first = "id,city,price,\"clicks, all\",y\n\
                 1,\"New\nYork\",1.5,100,1\n2,\"say \"\"hi\"\"\",,,0\n";
    let first = folder.write("a.csv", first);
    let second = folder.write("b.csv", "id,city,price,\"clicks, all\",y\r\n3,Rome,-2e0,1,0\r\n");
    let columns = ColumnSpec {
        ignored: vec!["id".into()],
        bucketed: vec!["clicks, all".into()],
        ..ColumnSpec::default()
    };
    let spec = SourceSpec { columns, ..spec(&[&first, &second]) };
    let source = Source::open(&spec).unwrap();
    let batches = vec![source.next().unwrap().unwrap()];
    let (city, price) = (|name: &[u8]| feature_key(b"city", name), feature_key(b"price", b""));
    let clicks = |value| plan::bucket_key(hash::namespace_seed(b"clicks, all"), value);
    let expected = [
        (1.0, vec![(city(b"New\nYork"), 1.0), (price, 1.5), (clicks(100), 1.0)]),
        (0.0, vec![(city(b"say \"hi\""), 1.0)]),
        (0.0, vec![(city(b"Rome"), 1.0), (price, -2.0), (clicks(1), 1.0)]),
    ];
    assert_eq!(rows(&batches), expected);
    assert_eq!(clicks(100), clicks(101), "one power");
    let resolved = source.columns().unwrap();
    assert_eq!(resolved.label.as_deref(), Some("y"));
    assert_eq!(
        (&resolved.categorical[..], &resolved.numeric[..]),
        (&["city".to_owned()][..], &["price".to_owned()][..])
    );
}

#[test]
fn broken_csv_is_named_to_line_and_byte() {
    let folder = Folder::new();
    let message = |body: &str| {
        let file = folder.write("a.csv", format!("label,a,b\n1,x,0.5\n{body}\n"));
        folder.strip(&read(&spec(&[&file])).unwrap_err())
    };
    assert_eq!(message("1,x"), "a.csv:3:4: expected 3 fields, found 2");
    assert_eq!(message("1,x,2,3,4"), "a.csv:3:7: expected 3 fields, found 5");
    assert_eq!(message("7,x,2"), "a.csv:3:1: expected a label of 0, 1 or -1, found 7");
    assert_eq!(message(",x,2"), "a.csv:3:1: expected a label, found nothing");
    assert_eq!(message("1,\"x\ny\"z,2"), "a.csv:4:3: expected a delimiter, found 'z'");
    assert_eq!(
        message("1,\"x,2"),
        "a.csv:3:3: expected a closing quote, found the end of the line"
    );
    let file = folder.write("b.csv", "label,a\n1,2\n");
    let other = folder.write("c.csv", "label,b\n1,2\n");
    assert_eq!(
        folder.strip(&read(&spec(&[&file, &other])).unwrap_err()),
        "c.csv:1: expected the first file's header 'label,a', found 'label,b'"
    );
    let columns = ColumnSpec { label: Some("late".into()), ..ColumnSpec::default() };
    assert_eq!(
        folder.strip(&read(&SourceSpec { columns, ..spec(&[&file]) }).unwrap_err()),
        "b.csv:1: no label column 'late' among 'label', 'a'"
    );
    let numeric = ColumnSpec { numeric: vec!["a".into()], ..ColumnSpec::default() };
    let file = folder.write("d.csv", "label,a\n1,NaN\n");
    assert_eq!(
        folder.strip(&read(&SourceSpec { columns: numeric, ..spec(&[&file]) }).unwrap_err()),
        "d.csv:2:3: a number is not a finite number"
    );
}

#[test]
fn a_row_without_end_is_refused_and_not_held_in_memory() {
    let folder = Folder::new();
    let open_quote = format!("label,a\n1,x\n1,\"{}", "x\n".repeat(text::ROW_BYTES_MAX));
    let file = folder.write("a.csv", open_quote);
    assert_eq!(
        folder.strip(&read(&spec(&[&file])).unwrap_err()),
        "a.csv:3: the row is longer than 16777216 bytes (an unclosed quote?)"
    );
}

#[test]
fn criteo_rows_have_bucketed_integers_and_categories_by_column_and_may_lack_the_label() {
    let folder = Folder::new();
    let cells: Vec<String> =
        (1..=13).map(|i| i.to_string()).chain((1..=26).map(|c| format!("{c:08x}"))).collect();
    let mut missing = cells.clone();
    (missing[0], missing[13]) = (String::new(), String::new());
    let text = format!("1\t{}\n0\t{}\n", cells.join("\t"), missing.join("\t"));
    let file = folder.write("day_0.tsv", &text);
    let rows = rows(&read(&spec(&[&file])).unwrap());
    assert_eq!((rows[0].0, rows[0].1.len(), rows[1].1.len()), (1.0, 39, 37));
    assert_eq!(rows[0].1[13].0, feature_key(b"c1", b"00000001"));
    assert_eq!(rows[0].1[0].0, plan::bucket_key(hash::namespace_seed(b"i1"), 1));
    let unlabelled = folder.write("test.txt", format!("{}\n", cells.join("\t")));
    let spec = SourceSpec {
        format: Some(Format::Criteo),
        labels: Labels::Optional,
        ..spec(&[&unlabelled])
    };
    let again = self::rows(&read(&spec).unwrap());
    assert!(again[0].0.is_nan());
    assert_eq!(again[0].1, rows[0].1);
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties =
        parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(7));
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_gives_the_rows_that_the_same_table_as_csv_gives() {
    const ROWS: usize = 25;
    let folder = Folder::new();
    let late = |row: usize| row.is_multiple_of(3);
    let city = |row: usize| (!row.is_multiple_of(4)).then(|| format!("city {}", row % 5));
    let (month, price) = (|row: usize| row as i16 - 3, |row: usize| row as f64 / 4.0 + 0.5);
    let parquet = folder.path("a.parquet");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("late", Arc::new(BooleanArray::from_iter((0..ROWS).map(|row| Some(late(row)))))),
        ("city", Arc::new(StringArray::from_iter((0..ROWS).map(city)))),
        ("month", Arc::new(Int16Array::from_iter_values((0..ROWS).map(month)))),
        ("price", Arc::new(Float64Array::from_iter_values((0..ROWS).map(price)))),
    ];
    write_parquet(&parquet, columns);
    let csv: String = (0..2 * ROWS)
        .map(|row| row % ROWS)
        .map(|row| {
            let city = city(row).unwrap_or_default();
            format!("{},{city},{},{:?}\n", u8::from(late(row)), month(row), price(row))
        })
        .collect();
    let csv = folder.write("a.csv", format!("late,city,month,price\n{csv}"));
    let parquet = text(&parquet);
    let (tables, texts) =
        (read(&spec(&[&parquet, &parquet])).unwrap(), read(&spec(&[&csv])).unwrap());
    assert_eq!(tables, texts);
    let source = Source::open(&spec(&[&parquet])).unwrap();
    assert_eq!(source.progress().rows_total, Some(ROWS as u64));
    while source.next().unwrap().is_some() {}
    assert_eq!(source.progress().bytes_read, source.progress().bytes_total);
}

#[test]
fn broken_parquet_is_named() {
    let folder = Folder::new();
    let path = folder.path("a.parquet");
    let label = || -> ArrayRef { Arc::new(Int16Array::from(vec![1, 0, 5])) };
    let price = || -> ArrayRef { Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0])) };
    write_parquet(&path, vec![("label", label()), ("price", price())]);
    let file = text(&path);
    let message = |spec: &SourceSpec| folder.strip(&read(spec).unwrap_err());
    assert_eq!(message(&spec(&[&file])), "a.parquet:2:2: a number is not a finite number");
    let ignored = ColumnSpec { ignored: vec!["price".into()], ..ColumnSpec::default() };
    let ignoring = SourceSpec { columns: ignored, ..spec(&[&file]) };
    assert_eq!(message(&ignoring), "a.parquet:3:1: expected a label of 0, 1 or -1, found 5");
    let columns = ColumnSpec { label: Some("price".into()), ..ColumnSpec::default() };
    let columns = ColumnSpec { numeric: vec!["day".into()], ..columns };
    assert_eq!(
        message(&SourceSpec { columns, ..spec(&[&file]) }),
        "a.parquet: no column 'day' among 'label', 'price'"
    );
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![1, 2, 3]));
    write_parquet(&folder.path("dates.parquet"), vec![("date", dates), ("late", label())]);
    assert_eq!(
        message(&spec(&[&text(&folder.path("dates.parquet"))])),
        "dates.parquet: column 'date': expected numbers, found Date32"
    );
    let vw = folder.write("b.vw", "1 |f a\n");
    assert_eq!(
        message(&spec(&[&file, &vw])),
        "b.vw: expected parquet like the inputs before it, found vw"
    );
    let bytes = std::fs::read(&path).unwrap();
    let cut = folder.write("cut.parquet", &bytes[..bytes.len() / 2]);
    assert!(message(&spec(&[&cut])).starts_with("cut.parquet: "));
}

#[test]
fn a_label_above_a_threshold_is_one() {
    let folder = Folder::new();
    let file = folder.write("a.csv", "arr_delay,a\n15,1\n15.5,1\n-3,1\n");
    let label_rule = LabelRule::Above(15.0);
    let columns =
        ColumnSpec { label: Some("arr_delay".into()), label_rule, ..ColumnSpec::default() };
    let batches = read(&SourceSpec { columns, ..spec(&[&file]) }).unwrap();
    assert_eq!(batches[0].labels, [0.0, 1.0, 0.0]);
}

#[test]
fn generated_rows_do_not_depend_on_batches_and_stop_where_told() {
    let input = "gen:criteo?rows=1005&seed=3";
    let (small, large) = (spec(&[input]), SourceSpec { batch_rows: 400, ..spec(&[input]) });
    let (small, large) = (rows(&read(&small).unwrap()), rows(&read(&large).unwrap()));
    assert_eq!(small.len(), 1005);
    assert_eq!(small, large);
    let mut odd = (1..).step_by(2);
    let claim = move || Ok(odd.next().unwrap());
    let source = Source::open_shared(&spec(&[input]), Box::new(claim)).unwrap();
    assert_eq!((source.progress().rows_total, source.progress().fraction()), (Some(1005), 0.0));
    assert_eq!(source.next().unwrap().unwrap().batch, 1);
    assert_eq!((source.progress().rows, source.progress().source_rows), (10, 20));
}

#[test]
fn a_source_can_be_dropped_at_any_point() {
    let input = "gen:criteo?rows=1000000000";
    for batches in [0, 1, 7] {
        let source = Source::open(&spec(&[input])).unwrap();
        (0..batches).for_each(|_| drop(source.next().unwrap()));
    }
    let nothing = Box::new(|| Ok(u64::MAX));
    drop(Source::open_shared(&spec(&[input]), nothing));
}

fn any_format() -> impl Strategy<Value = Format> {
    use Format::{Criteo, Csv, LibSvm, Tsv, Vw};
    prop::sample::select(vec![Vw, LibSvm, Csv, Tsv, Criteo])
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic_or_break_a_batch(
        format in any_format(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        optional: bool,
    ) {
        let labels = if optional { Labels::Optional } else { Labels::Required };
        let _ = parse_block(format, &SourceSpec { labels, ..SourceSpec::default() }, &bytes);
    }

    #[test]
    fn nearly_good_text_makes_no_parser_panic_or_break_a_batch(
        format in any_format(),
        text in "([01]|-1|[ab]|[|:,\t\n\r \"#.+-]|qid:|nan|1e9|[0-9]{1,9}){0,60}",
    ) {
        let spec = SourceSpec { labels: Labels::Optional, ..SourceSpec::default() };
        if let Ok(csr) = parse_block(format, &spec, text.as_bytes()) {
            prop_assert!(csr.keys.is_sorted_by(|a, b| a < b));
            prop_assert!(csr.columns.iter().all(|&column| (column as usize) < csr.keys.len()));
            prop_assert!(csr.values.iter().all(|value| value.is_finite()));
            prop_assert_eq!(csr.row_starts.len(), csr.rows() + 1);
            prop_assert_eq!(csr.row_starts[csr.rows()] as usize, csr.columns.len());
        }
    }

    #[test]
    fn vw_rows_survive_writing_and_reading(
        rows in prop::collection::vec(
            (any::<bool>(), prop::collection::btree_map("[a-z0-9_.]{1,12}", -9i8..9, 1..6)), 1..40,
        ),
    ) {
        let line = |(label, cells): &(bool, BTreeMap<String, i8>)| {
            let cell = |(name, value): (&String, &i8)| format!(" {name}:{value}");
            let cells: String = cells.iter().map(cell).collect();
            format!("{} |ns{cells}\n", if *label { 1 } else { -1 })
        };
        let text: String = rows.iter().map(line).collect();
        let spec = SourceSpec { intercept: Intercept::None, ..SourceSpec::default() };
        let csr = parse_block(Format::Vw, &spec, text.as_bytes()).unwrap();
        let expected: Vec<(f32, Vec<(u64, f32)>)> = rows.iter().map(|(label, cells)| {
            let cells = cells.iter().filter(|(_, value)| **value != 0);
            let cell = |(name, value): (&String, &i8)| {
                (feature_key(b"ns", name.as_bytes()), f32::from(*value))
            };
            (f32::from(*label), cells.map(cell).collect())
        }).collect();
        prop_assert_eq!(self::rows(&[csr]), expected);
    }
}
