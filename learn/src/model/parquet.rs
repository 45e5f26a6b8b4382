//! A table as a Parquet file.
//!
//! Owns the columns' types and the size of what is handed on at once. Order and choice of rows
//! are left to `export`.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::export::{ExportRows, Sorted};
use super::{ModelError, ModelReader, write_whole_file};

/// Rows that are handed to the Parquet writer at once.
const BATCH_ROWS: usize = 1 << 16;

/// Writes a table as a Parquet file that appears whole or not at all: a column `key` (`UInt64`),
/// then the columns of [`super::export_text`] (`Float32`), none with nulls, sorted by key.
///
/// - `table`: index in the manifest. Result: rows written.
/// - Memory: the whole table, plus 16 bytes a key, plus a row group.
pub fn export_parquet(
    model: &ModelReader,
    table: u32,
    rows: ExportRows,
    path: &Path,
) -> Result<u64, ModelError> {
    let sorted = Sorted::load(model, table)?;
    let mut count = 0;
    write_whole_file(path, |file| {
        count = write(&sorted, rows, file)?;
        Ok(())
    })
    .map_err(ModelError::io("write", path))?;
    Ok(count)
}

fn write(sorted: &Sorted, rows: ExportRows, file: &mut BufWriter<File>) -> io::Result<u64> {
    let names = sorted.columns();
    let mut fields = vec![Field::new("key", DataType::UInt64, false)];
    fields.extend(names.iter().map(|name| Field::new(name, DataType::Float32, false)));
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer =
        ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(from_parquet)?;
    let mut columns = Columns { keys: Vec::new(), values: vec![Vec::new(); names.len()] };
    let count = sorted.for_each(rows, |key, weights, state| {
        columns.keys.push(key);
        for (column, &value) in columns.values.iter_mut().zip(weights.iter().chain(state)) {
            column.push(value);
        }
        if columns.keys.len() == BATCH_ROWS {
            writer.write(&columns.take(&schema)?).map_err(from_parquet)?;
        }
        io::Result::Ok(())
    })?;
    writer.write(&columns.take(&schema)?).map_err(from_parquet)?;
    writer.close().map_err(from_parquet)?;
    Ok(count)
}

/// Rows on their way to the file, by column.
struct Columns {
    keys: Vec<u64>,
    values: Vec<Vec<f32>>,
}

impl Columns {
    /// What was collected, which leaves the columns empty.
    fn take(&mut self, schema: &Arc<Schema>) -> io::Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(UInt64Array::from(std::mem::take(&mut self.keys)))];
        let values = self.values.iter_mut().map(std::mem::take);
        arrays.extend(values.map(|values| Arc::new(Float32Array::from(values)) as ArrayRef));
        RecordBatch::try_new(Arc::clone(schema), arrays).map_err(io::Error::other)
    }
}

/// The system's error where it was one, so that a full disk says so.
fn from_parquet(error: parquet::errors::ParquetError) -> io::Error {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(inner) => io::Error::other(inner),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_all, save_table, table};
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, UInt64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn parquet_has_the_rows_of_the_model_in_order_of_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (model, path) = (dir.path().join("m"), dir.path().join("m.parquet"));
        save_table(&model, &table(), &[70_000, 300]);
        let reader = ModelReader::open(&model).unwrap();
        assert_eq!(export_parquet(&reader, 0, ExportRows::All, &path), Ok(70_300));

        let (mut keys, mut values) = (vec![], vec![]);
        let file = File::open(&path).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        for batch in batches {
            let batch = batch.unwrap();
            let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
            assert_eq!(names, ["key", "weight_0", "z_0", "n_0"]);
            keys.extend_from_slice(batch.column(0).as_primitive::<UInt64Type>().values());
            let column = |index: usize| batch.column(index).as_primitive::<Float32Type>().values();
            values.extend(column(2).iter().zip(column(3)).map(|(&z, &n)| [z, n]));
        }
        let (keys_saved, rows) = read_all(&model).unwrap();
        let mut expected: Vec<_> =
            keys_saved.into_iter().zip(rows.as_chunks::<2>().0.iter().copied()).collect();
        expected.sort_by_key(|(key, _)| *key);
        assert_eq!(keys.into_iter().zip(values).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_parquet_file_that_fails_is_an_error_and_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("m");
        save_table(&model, &table(), &[100]);
        let reader = ModelReader::open(&model).unwrap();
        let full = export_parquet(&reader, 0, ExportRows::All, Path::new("/dev/full"));
        let Err(ModelError::Io { kind, .. }) = full else { panic!("{full:?}") };
        assert_eq!(kind, io::ErrorKind::StorageFull);
    }
}
