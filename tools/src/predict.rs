//! `gradwire predict`: one probability a row, in the order of the rows.
//!
//! Owns the way from a saved model through a shard of this process to the output. The output file
//! appears whole or not at all.

use std::io::{self, BufWriter, Write};

use kernels::Isa;
use kernels::logistic::sigmoid_one;
use launch::{Local, LocalSpec};
use learn::data::{Labels, Part, SourceSpec};
use learn::metrics::Metrics;
use learn::model::{ModelReader, check_table};
use learn::{Continue, Epochs, INCARNATION, Job, Table, margins, read};
use server::{Pinning, Way};
use shard::rule::Rules;
use worker::{JobId, Servers, Session, Staleness, Timeouts, WorkerId};

use crate::cli::PredictArgs;
use crate::failure::Failure;
use crate::output::{complain, count, whole_file};
use crate::train::cluster::server_spec;
use crate::train::keep::{DataManifest, fill, table_of};

/// Runs the command.
pub(crate) fn run(arguments: &PredictArgs) -> Result<(), Failure> {
    let reader = ModelReader::open(&arguments.model).map_err(Failure::failed)?;
    let table = table_of(&reader)?;
    let source = source(arguments, &reader)?;
    let feed = Epochs::open(source, 1).map_err(Failure::failed)?;
    let spec = table.spec();
    let rule = Rules::builtin().make(&spec.rule, &spec.parameters);
    let rule = rule.map_err(|_| Failure::failed(format!("no rule is named {}", spec.rule)))?;

    let server = server_spec(Way::Shm, 1, Isa::detect(), Pinning::Free);
    let local = LocalSpec { servers: 1, server, timeouts: Timeouts::default() };
    let local = Local::start(local).map_err(Failure::failed)?;
    let mut session = local.session(WorkerId::OBSERVER, INCARNATION).map_err(Failure::failed)?;
    let mut job = Job::new(JobId::new(1), 1, Staleness::ASP);
    let weights = job.table(&spec.name, spec.dim, &*rule);
    check_table(table, &job.tables()[0]).map_err(Failure::failed)?;
    job.begin(&mut session).map_err(Failure::failed)?;
    fill(&reader, &mut session, weights)?;

    let mut metrics = Metrics::default();
    let rows = match &arguments.output {
        Some(path) => {
            whole_file(path, |file| score(&mut session, weights, &feed, &mut metrics, file))?
        }
        None => score(&mut session, weights, &feed, &mut metrics, &mut io::stdout().lock())?,
    };
    complain(&format!("{} rows predicted", count(rows)));
    if metrics.rows() > 0 {
        let (loss, auc) = (metrics.logloss(), metrics.auc());
        let labelled = count(metrics.rows());
        complain(&format!("{labelled} of them have labels: logloss {loss:.4}, AUC {auc:.4}"));
    }
    Ok(())
}

/// The rows to predict for, read as those that were learned from.
fn source(arguments: &PredictArgs, reader: &ModelReader) -> Result<SourceSpec, Failure> {
    let manifest = reader.manifest();
    let data: DataManifest = serde_json::from_value(manifest.data.clone()).map_err(|error| {
        Failure::failed(format!("{}: model.json: data: {error}", reader.dir().display()))
    })?;
    Ok(SourceSpec {
        inputs: arguments.input.clone(),
        format: arguments.format,
        columns: data.columns,
        intercept: data.intercept,
        bad_rows: arguments.bad_rows.0,
        labels: Labels::Optional,
        part: Part::All,
        ..SourceSpec::default()
    })
}

/// Writes a probability a row. Returns how many.
fn score(
    session: &mut Session,
    weights: Table,
    feed: &Epochs,
    metrics: &mut Metrics,
    out: &mut dyn Write,
) -> Result<u64, Failure> {
    let mut out = BufWriter::new(out);
    let (mut scores, mut rows, mut failed) = (Vec::new(), 0, None);
    read(session, weights, feed, &mut |batch, values| {
        margins(batch, values, weights.widths().value, &mut scores);
        metrics.add_batch(&scores, &batch.labels, &batch.importance);
        for &margin in &scores {
            if let Err(error) = writeln!(out, "{}", sigmoid_one(margin)) {
                failed = Some(error);
                return Continue::No;
            }
        }
        rows += scores.len() as u64;
        Continue::Yes
    })
    .map_err(Failure::failed)?;
    let wrote = failed.map_or_else(|| out.flush(), Err);
    wrote.map_err(|error| Failure::failed(format!("writing predictions: {error}")))?;
    Ok(rows)
}
