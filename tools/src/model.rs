//! `gradwire model`: looking into a saved model.
//!
//! Owns what is printed. Reading and exporting are left to `learn::model`.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use learn::model::{ExportRows, Manifest, ModelReader, export_parquet, export_text};

use crate::failure::Failure;
use crate::output::{complain, count, json, table, whole_file};

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The saved model.
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The saved model.
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Where the rows go; a name that ends in .parquet is written as Parquet [default: text to
    /// stdout].
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Prints what a model holds.
pub(crate) fn inspect(arguments: &InspectArgs) -> Result<(), Failure> {
    let reader = ModelReader::open(&arguments.model).map_err(Failure::failed)?;
    if arguments.json { json(reader.manifest()) } else { table(&pairs(reader.manifest())) }
}

fn pairs(manifest: &Manifest) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let mut pairs = vec![
        pair("learner", manifest.learner.clone()),
        pair("saved by gradwire", manifest.gradwire.clone()),
        pair("files", manifest.parts.len().to_string()),
        pair("bytes", count(manifest.parts.iter().map(|part| part.bytes).sum())),
    ];
    for table in &manifest.tables {
        pairs.extend([
            pair("table", table.name.clone()),
            pair("  rule", table.rule.clone()),
            pair("  dim", table.dim.to_string()),
            pair("  parameters", format!("{:?}", table.parameters)),
            pair("  rows", count(table.rows)),
            pair("  values a row", table.row_width.to_string()),
        ]);
    }
    for (name, value) in &manifest.trained {
        pairs.push(pair(&format!("trained: {name}"), value.to_string()));
    }
    pairs
}

/// Writes all rows, sorted by key.
pub(crate) fn export(arguments: &ExportArgs) -> Result<(), Failure> {
    let reader = ModelReader::open(&arguments.model).map_err(Failure::failed)?;
    let rows = match &arguments.output {
        Some(path) if is_parquet(path) => {
            export_parquet(&reader, 0, ExportRows::All, path).map_err(Failure::failed)?
        }
        Some(path) => whole_file(path, |file| {
            export_text(&reader, 0, ExportRows::All, file).map_err(Failure::failed)
        })?,
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            let written = export_text(&reader, 0, ExportRows::All, &mut out);
            let rows = written.map_err(Failure::failed)?;
            out.flush().map_err(|error| Failure::failed(format!("stdout: {error}")))?;
            rows
        }
    };
    complain(&format!("{} rows exported", count(rows)));
    Ok(())
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "parquet")
}
