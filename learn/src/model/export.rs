//! A table in order of its keys, and as text.
//!
//! Owns sorting, choosing rows, and the text format. Parquet is left to `parquet`.
//!
//! Invariant: nothing is written before every byte of the table was read and checked.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{ModelError, ModelReader, RowBatch, TableManifest, Weights};

/// Text is handed on when it is longer than this.
const TEXT_BYTES: usize = 64 << 10;

/// Which rows of a table are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportRows {
    /// Every one.
    All,
    /// Those that have a weight other than zero: all that a prediction needs.
    NonZero,
}

/// Writes a table as text: a comment that names the columns, then a line a key, sorted by key:
/// the key, its weights, and what else the rule keeps, with tabs between. A number has the fewest
/// digits that read back as the same bits.
///
/// - `table`: index in the manifest. Result: rows written.
/// - Memory: the whole table, plus 16 bytes a key.
pub fn export_text(
    model: &ModelReader,
    table: u32,
    rows: ExportRows,
    out: &mut dyn Write,
) -> Result<u64, ModelError> {
    let sorted = Sorted::load(model, table)?;
    sorted.write_text(rows, out).map_err(|error| output_error(&error))
}

pub(super) fn output_error(error: &io::Error) -> ModelError {
    ModelError::Output { kind: error.kind(), message: error.to_string() }
}

/// A table in memory.
pub(super) struct Sorted<'model> {
    table: &'model TableManifest,
    weights: Weights,
    /// Keys in order, and where each one's row is in `rows`.
    index: Vec<(u64, usize)>,
    rows: Vec<f32>,
}

impl<'model> Sorted<'model> {
    /// Reads and checks all of a table.
    pub(super) fn load(model: &'model ModelReader, table: u32) -> Result<Self, ModelError> {
        let tables = &model.manifest().tables;
        let (path, index) = (model.dir().to_owned(), table as usize);
        let no_table = ModelError::NoTable { path, index, tables: tables.len() };
        let manifest = tables.get(index).ok_or(no_table)?;
        let (mut index, mut rows, mut batch) = (Vec::new(), Vec::new(), RowBatch::default());
        for part in model.parts_of(table) {
            let mut part = part?;
            while part.next_batch(&mut batch)? {
                let first = index.len();
                index.extend(batch.keys.iter().enumerate().map(|(i, &key)| (key, first + i)));
                rows.extend_from_slice(&batch.rows);
            }
        }
        index.sort_unstable();
        if let Some(pair) = index.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (path, table, key) = (model.dir().to_owned(), manifest.name.clone(), pair[0].0);
            return Err(ModelError::DuplicateKey { path, table, key });
        }
        Ok(Sorted { table: manifest, weights: Weights::of(manifest), index, rows })
    }

    pub(super) fn columns(&self) -> Vec<String> {
        self.weights.columns(&self.table.rule)
    }

    /// Hands each chosen key, in order, with its weights and the rest of its row.
    pub(super) fn for_each<E>(
        &self,
        rows: ExportRows,
        mut write: impl FnMut(u64, &[f32], &[f32]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let width = self.table.row_width as usize;
        let mut weights = vec![0.0; self.weights.dim()];
        let mut state = vec![0.0; self.weights.state_count()];
        let mut count = 0;
        for &(key, at) in &self.index {
            let row = &self.rows[at * width..][..width];
            self.weights.read(row, &mut weights);
            if rows == ExportRows::NonZero && weights.iter().all(|&weight| weight == 0.0) {
                continue;
            }
            self.weights.read_state(row, &mut state);
            write(key, &weights, &state)?;
            count += 1;
        }
        Ok(count)
    }

    fn write_text(&self, rows: ExportRows, out: &mut dyn Write) -> io::Result<u64> {
        let mut text = String::with_capacity(2 * TEXT_BYTES);
        let TableManifest { name, rule, .. } = self.table;
        // A name with a line's end would end the comment.
        let name = name.escape_debug();
        let columns = self.columns().join("\t");
        writeln!(text, "# table {name}, rule {}", rule.escape_debug()).map_err(io::Error::other)?;
        writeln!(text, "# key\t{columns}").map_err(io::Error::other)?;
        let count = self.for_each(rows, |key, weights, state| {
            write_line(&mut text, key, weights.iter().chain(state)).map_err(io::Error::other)?;
            if text.len() >= TEXT_BYTES {
                out.write_all(text.as_bytes())?;
                text.clear();
            }
            io::Result::Ok(())
        })?;
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(count)
    }
}

fn write_line<'row>(
    text: &mut String,
    key: u64,
    values: impl Iterator<Item = &'row f32>,
) -> std::fmt::Result {
    write!(text, "{key}")?;
    for value in values {
        // The debug form is the shortest, and has an exponent where that is shorter.
        write!(text, "\t{value:?}")?;
    }
    text.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_all, save_table, saved, table};
    use super::super::{Manifest, ModelWriter};
    use super::*;
    use kernels::ftrl;

    fn model_of(keys: &[u64], rows: &[f32]) -> (tempfile::TempDir, ModelReader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut writer = ModelWriter::create(&path).unwrap();
        let mut part = writer.part(0, 2).unwrap();
        part.write(keys, rows).unwrap();
        let parts = vec![part.finish().unwrap()];
        writer.commit(Manifest::new("lr", vec![table()]), parts).unwrap();
        let model = ModelReader::open(&path).unwrap();
        (dir, model)
    }

    fn text_of(model: &ModelReader, rows: ExportRows) -> Result<String, ModelError> {
        let mut out = Vec::new();
        export_text(model, 0, rows, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn text_has_a_line_a_key_in_order_with_weights_before_state() {
        let (_dir, model) =
            model_of(&[u64::MAX, 2, 30], &[-1.0, 4.0, 0.0, 1e-9, f32::MIN_POSITIVE, 1.5]);
        let step = ftrl::Step { alpha: 0.2, beta: 1.0, l1: 0.0, l2: 0.0 };
        let weight = |z, n| ftrl::weight(z, n, &step);
        let (tiny, first) = (weight(f32::MIN_POSITIVE, 1.5), weight(-1.0, 4.0));
        let expected = format!(
            "# table weights, rule ftrl\n# key\tweight_0\tz_0\tn_0\n2\t0.0\t0.0\t1e-9\n\
             30\t{tiny:?}\t1.1754944e-38\t1.5\n{}\t{first:?}\t-1.0\t4.0\n",
            u64::MAX
        );
        assert_eq!(text_of(&model, ExportRows::All), Ok(expected));
        let text = text_of(&model, ExportRows::NonZero).unwrap();
        let keys: Vec<_> = text.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(keys[2..], ["30", &u64::MAX.to_string()]);
    }

    #[test]
    fn text_reads_back_as_the_bits_that_were_exported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        save_table(&path, &table(), &[3000, 0, 2000]);
        let text = text_of(&ModelReader::open(&path).unwrap(), ExportRows::All).unwrap();
        let (keys, rows) = read_all(&path).unwrap();
        let mut expected: Vec<_> = keys.iter().zip(rows.chunks(2)).collect();
        expected.sort_by_key(|(key, _)| **key);
        let lines = text.lines().skip(2);
        assert_eq!(lines.clone().count(), expected.len());
        for (line, (key, row)) in lines.zip(expected) {
            let fields: Vec<&str> = line.split('\t').collect();
            assert_eq!(fields[0].parse(), Ok(*key));
            assert_eq!([fields[2].parse(), fields[3].parse()], [Ok(row[0]), Ok(row[1])]);
        }
    }

    #[test]
    fn a_key_that_is_twice_in_a_table_is_found() {
        let (_dir, model) = model_of(&[7, 8, 7], &[0.0; 6]);
        let error = text_of(&model, ExportRows::All).unwrap_err();
        assert!(matches!(error, ModelError::DuplicateKey { key: 7, .. }));
    }

    #[test]
    fn a_table_that_is_not_there_and_an_output_that_fails_are_errors() {
        let dir = saved(1);
        let model = ModelReader::open(&dir.path().join("m")).unwrap();
        let error = export_text(&model, 1, ExportRows::All, &mut io::sink()).unwrap_err();
        assert!(matches!(error, ModelError::NoTable { index: 1, tables: 1, .. }));
        let mut full: &mut [u8] = &mut [0; 10];
        let error = export_text(&model, 0, ExportRows::All, &mut full).unwrap_err();
        assert!(matches!(error, ModelError::Output { kind: io::ErrorKind::WriteZero, .. }));
    }
}
