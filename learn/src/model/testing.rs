//! Small models for this module's tests.

use std::path::Path;

use kernels::hash::mix;
use shard::rule::{Ftrl, table_spec};

use super::{Manifest, ModelError, ModelReader, ModelWriter, RowBatch, TableManifest};

/// An FTRL table of dim 1.
pub(super) fn table() -> TableManifest {
    let rule = Ftrl { alpha: 0.2, beta: 1.0, l1: 0.0, l2: 0.0 };
    TableManifest::of(&table_spec("weights", 1, &rule), 2)
}

/// Distinct keys in no order, and rows for them: the same for the same part.
pub(super) fn rows_of(part: usize, count: usize, row_width: u32) -> (Vec<u64>, Vec<f32>) {
    let key = |index: usize| mix((part as u64) << 32 | index as u64);
    let values = count * row_width as usize;
    let rows = (0..values).map(|index| (mix(index as u64) as u16) as f32 / 256.0).collect();
    ((0..count).map(key).collect(), rows)
}

/// Writes a model of one table with a part for each count of rows.
pub(super) fn save_table(dir: &Path, table: &TableManifest, counts: &[usize]) {
    let mut writer = ModelWriter::create(dir).unwrap();
    let mut parts = Vec::new();
    for (index, &count) in counts.iter().enumerate() {
        let mut part = writer.part(0, table.row_width).unwrap();
        let (keys, rows) = rows_of(index, count, table.row_width);
        // Uneven calls, so that a block's end falls anywhere.
        for (keys, rows) in keys.chunks(777).zip(rows.chunks(777 * table.row_width as usize)) {
            part.write(keys, rows).unwrap();
        }
        parts.push(part.finish().unwrap());
    }
    writer.commit(Manifest::new("lr", vec![table.clone()]), parts).unwrap();
}

/// Writes a model of one part of [`table`].
pub(super) fn save(dir: &Path, count: usize) {
    save_table(dir, &table(), &[count]);
}

/// A directory whose `m` is a model of `count` keys.
pub(super) fn saved(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("m"), count);
    dir
}

/// All keys and rows of a model, in the order of its parts.
pub(super) fn read_all(dir: &Path) -> Result<(Vec<u64>, Vec<f32>), ModelError> {
    let model = ModelReader::open(dir)?;
    let (mut keys, mut rows, mut batch) = (vec![], vec![], RowBatch::default());
    for part in model.parts() {
        let mut part = part?;
        while part.next_batch(&mut batch)? {
            keys.extend(&batch.keys);
            rows.extend(&batch.rows);
        }
    }
    Ok((keys, rows))
}
