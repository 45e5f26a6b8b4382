//! Saving a model out of the shards, and loading one into them.
//!
//! Owns the walk over shards and pages. The files are left to `learn::model`.

use std::path::Path;

use learn::data::{ColumnSpec, Format, Intercept};
use learn::model::{Manifest, ModelReader, ModelWriter, RowBatch, TableManifest, check_table};
use learn::{CALL_MAX, Job, Table};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use worker::{Refusal, ScanCursor, Session, WorkerError};

use crate::failure::Failure;

/// How often a shard is read from its beginning before it is given up: nobody pushes any more.
const SCANS_MAX: u32 = 8;

/// How rows were read, so that others are read alike: `data` in the manifest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DataManifest {
    pub(crate) format: Option<Format>,
    pub(crate) columns: ColumnSpec,
    pub(crate) intercept: Intercept,
}

/// Writes the weights' table of all shards into the model directory `dir`.
///
/// Errors: the model that was there, if one was, is untouched.
pub(crate) fn save(
    dir: &Path,
    session: &mut Session,
    (job, weights): (&Job, Table),
    data: &DataManifest,
    trained: Map<String, Value>,
) -> Result<(), Failure> {
    let row_width = u32::try_from(weights.widths().row).map_err(Failure::failed)?;
    let mut writer = ModelWriter::create(dir).map_err(Failure::failed)?;
    let mut parts = Vec::new();
    for shard in session.shard_ids() {
        let mut part = writer.part(0, row_width).map_err(Failure::failed)?;
        let (mut cursor, mut scans) = (ScanCursor::START, 1);
        while cursor != ScanCursor::END {
            let deadline = session.now() + CALL_MAX;
            match session.scan(shard, weights.id(), cursor, deadline) {
                Ok(page) => {
                    part.write(&page.keys, &page.rows).map_err(Failure::failed)?;
                    cursor = page.next;
                }
                // Rows have moved, or another server answers for the shard.
                Err(WorkerError::Refused { refusal: Refusal::CursorStale, .. })
                    if scans < SCANS_MAX =>
                {
                    part.restart().map_err(Failure::failed)?;
                    (cursor, scans) = (ScanCursor::START, scans + 1);
                }
                Err(error) => return Err(Failure::failed(error)),
            }
        }
        parts.push(part.finish().map_err(Failure::failed)?);
    }
    let mut manifest = Manifest::new("lr", vec![TableManifest::of(&job.tables()[0], row_width)]);
    manifest.data = serde_json::to_value(data).map_err(Failure::failed)?;
    manifest.trained = trained;
    writer.commit(manifest, parts).map_err(Failure::failed)
}

/// Loads the model directory `dir` into the job's only table, which must be alike.
pub(crate) fn load(
    dir: &Path,
    session: &mut Session,
    (job, weights): (&Job, Table),
) -> Result<(), Failure> {
    let reader = ModelReader::open(dir).map_err(Failure::failed)?;
    let table = table_of(&reader)?;
    check_table(table, &job.tables()[0]).map_err(Failure::failed)?;
    fill(&reader, session, weights)
}

/// Writes all rows of the model's only table into the weights' table.
pub(crate) fn fill(
    reader: &ModelReader,
    session: &mut Session,
    weights: Table,
) -> Result<(), Failure> {
    let mut batch = RowBatch::default();
    for part in reader.parts_of(0) {
        let mut part = part.map_err(Failure::failed)?;
        let width = u16::try_from(part.row_width()).map_err(Failure::failed)?;
        while part.next_batch(&mut batch).map_err(Failure::failed)? {
            let deadline = session.now() + CALL_MAX;
            session
                .load(weights.id(), &batch.keys, &batch.rows, width, deadline)
                .map_err(Failure::failed)?;
        }
    }
    Ok(())
}

/// The only table of a model of this learner.
pub(crate) fn table_of(reader: &ModelReader) -> Result<&TableManifest, Failure> {
    let manifest = reader.manifest();
    match (&*manifest.learner, &manifest.tables[..]) {
        ("lr", [table]) => Ok(table),
        (learner, tables) => Err(Failure::failed(format!(
            "{}: a model of learner '{learner}' with {} tables, expected 'lr' with one",
            reader.dir().display(),
            tables.len()
        ))),
    }
}
