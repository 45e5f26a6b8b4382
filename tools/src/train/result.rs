//! The result of a run: one record, printed as a table, as JSON and as a page.
//!
//! Owns the names of the figures. Where they come from is left to the steps of the run.

use serde::Serialize;
use serde_json::{Map, Value};
use worker::{Expiry, KeyAdmission, Session, TableSize};

use learn::metrics::Metrics;

use super::board::Board;
use super::plan::{Plan, StartedAs};
use super::workers::{Done, Traffic};
use crate::failure::Failure;
use crate::output::{self, count};
use crate::report::{self, RunReport};

/// What a run came to. Losses are in nats; a figure that does not exist is null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TrainResult {
    /// Rows learned from, over all epochs.
    pub(crate) rows: u64,
    /// Wall clock of the training pass, reading and parsing included.
    pub(crate) seconds: f64,
    pub(crate) rows_per_s: f64,
    /// Mean loss of each row before it was learned from.
    pub(crate) train_logloss: f64,
    pub(crate) test_rows: u64,
    pub(crate) test_logloss: Option<f64>,
    pub(crate) test_auc: Option<f64>,
    /// Mean prediction over mean label.
    pub(crate) test_calibration: Option<f64>,
    /// Rows that could not be read.
    pub(crate) bad_rows: u64,
    /// Of the training data, packed as it lies there, by all workers together.
    pub(crate) bytes_read: u64,
    /// Keys in the table.
    pub(crate) features: u64,
    pub(crate) table_bytes_per_key: f64,
    /// Rows that pushes have added.
    pub(crate) rows_admitted: u64,
    /// Deltas whose keys were not admitted.
    pub(crate) deltas_dropped: u64,
    /// Rows that have expired.
    pub(crate) rows_expired: u64,
    /// By all workers, headers included.
    pub(crate) bytes_sent: u64,
    pub(crate) resends: u64,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
    /// Bits of pushes for each pair of key and delta, headers included.
    pub(crate) push_bits_per_pair: f64,
    /// The same with the pulls of the same keys: all that workers send.
    pub(crate) sent_bits_per_pair: f64,
    pub(crate) codec: String,
    pub(crate) admission: String,
    pub(crate) expiry: String,
    pub(crate) acknowledge: String,
    pub(crate) aggregate: bool,
    pub(crate) model: &'static str,
    pub(crate) optimizer: &'static str,
    pub(crate) transport: String,
    pub(crate) clock: String,
    pub(crate) servers: usize,
    pub(crate) workers: u32,
    pub(crate) started_as: &'static str,
    /// Times that a worker process was started again after it had died.
    pub(crate) worker_restarts: u64,
    /// How often a spare took a late worker's place over.
    pub(crate) worker_backups: u64,
    /// Steps, or somewhat more, whose rows and loss are on a host that is gone and not counted.
    pub(crate) steps_untold: u64,
    pub(crate) isa: String,
}

impl TrainResult {
    pub(crate) fn new(
        plan: &Plan,
        trained: &Done,
        tested: Option<&Metrics>,
        size: TableSize,
        seconds: f64,
        session: &Session,
    ) -> TrainResult {
        let (train, traffic) = (&trained.metrics, trained.traffic);
        let bits_per_pair = |bytes: u64| bytes as f64 * 8.0 / traffic.pairs_pushed.max(1) as f64;
        let finite = |value: f64| value.is_finite().then_some(value);
        TrainResult {
            rows: train.rows(),
            seconds,
            rows_per_s: train.rows() as f64 / seconds,
            train_logloss: train.logloss(),
            test_rows: tested.map_or(0, Metrics::rows),
            test_logloss: tested.map(Metrics::logloss).and_then(finite),
            test_auc: tested.map(Metrics::auc).and_then(finite),
            test_calibration: tested.map(Metrics::calibration).and_then(finite),
            bad_rows: trained.bad_rows,
            bytes_read: trained.bytes_read,
            features: size.rows,
            table_bytes_per_key: size.bytes as f64 / size.rows.max(1) as f64,
            rows_admitted: size.rows_admitted,
            deltas_dropped: size.deltas_dropped,
            rows_expired: size.rows_expired,
            bytes_sent: trained.bytes_sent,
            resends: trained.resends,
            push_bits_per_pair: bits_per_pair(traffic.push_bytes),
            sent_bits_per_pair: bits_per_pair(traffic.push_bytes + traffic.pull_bytes),
            traffic,
            codec: plan.codec.to_string(),
            admission: plan.life.admission.to_string(),
            expiry: plan.life.expiry.to_string(),
            acknowledge: plan.acknowledge.to_string(),
            aggregate: plan.aggregate,
            model: "lr",
            optimizer: plan.optimizer.name(),
            transport: session.transport().name().to_owned(),
            clock: plan.clock.to_string(),
            servers: session.shards(),
            workers: plan.workers,
            started_as: match plan.started_as {
                StartedAs::Threads => "threads",
                StartedAs::Processes => "processes",
            },
            worker_restarts: trained.restarts.into(),
            worker_backups: trained.backups.into(),
            steps_untold: trained.steps_untold,
            isa: plan.isa.level().to_string(),
        }
    }

    /// The figures that are kept with the model.
    pub(crate) fn trained(&self) -> Result<Map<String, Value>, Failure> {
        match serde_json::to_value(self).map_err(Failure::failed)? {
            Value::Object(map) => Ok(map),
            other => Err(Failure::failed(format!("a result is an object, not {other}"))),
        }
    }

    /// Names and values for people.
    fn pairs(&self) -> Vec<(String, String)> {
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
        let pair = |name: &str, value: String| (name.to_owned(), value);
        let mut pairs = vec![
            pair("rows", count(self.rows)),
            pair("seconds", format!("{:.2}", self.seconds)),
            pair("rows/s", count(self.rows_per_s as u64)),
            pair("train logloss (before each step)", format!("{:.4}", self.train_logloss)),
            pair("test rows", count(self.test_rows)),
            pair("test logloss", figure(self.test_logloss)),
            pair("test AUC", figure(self.test_auc)),
            pair("test calibration", figure(self.test_calibration)),
            pair("features", count(self.features)),
            pair("table bytes/feature", format!("{:.1}", self.table_bytes_per_key)),
            pair("bytes read", count(self.bytes_read)),
            pair("bytes sent by workers", count(self.bytes_sent)),
            pair("pairs pushed", count(self.traffic.pairs_pushed)),
            pair("pairs carried", count(self.traffic.pairs_carried)),
            pair("push bits/pair", format!("{:.2}", self.push_bits_per_pair)),
            pair("sent bits/pair", format!("{:.2}", self.sent_bits_per_pair)),
            pair("unreadable rows", count(self.bad_rows)),
        ];
        if self.admission != KeyAdmission::All.to_string() {
            pairs.push(pair("features admitted", count(self.rows_admitted)));
            pairs.push(pair("deltas not admitted", count(self.deltas_dropped)));
        }
        if self.expiry != Expiry::Never.to_string() {
            pairs.push(pair("features expired", count(self.rows_expired)));
        }
        pairs.extend(untold(self.steps_untold));
        pairs
    }

    fn settings(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        vec![
            pair("model", self.model.to_owned()),
            pair("optimizer", self.optimizer.to_owned()),
            pair("clock", self.clock.clone()),
            pair("transport", self.transport.clone()),
            pair("codec", self.codec.clone()),
            pair("admission", self.admission.clone()),
            pair("expiry", self.expiry.clone()),
            pair("acknowledge", self.acknowledge.clone()),
            pair("aggregate", self.aggregate.to_string()),
            pair("servers", self.servers.to_string()),
            pair("workers", format!("{} as {}", self.workers, self.started_as)),
            pair("instruction set", self.isa.clone()),
        ]
    }
}

/// What is left out of the figures, since a host is gone that had it.
pub(super) fn untold(steps: u64) -> Option<(String, String)> {
    let what = "whose rows and loss are not counted: a host is gone that had them";
    (steps > 0).then(|| ("steps".to_owned(), format!("{} or more, {what}", count(steps))))
}

/// Prints the result, and writes the page if one was asked for.
pub(crate) fn tell(plan: &Plan, result: &TrainResult, board: &Board) -> Result<(), Failure> {
    if plan.json {
        output::json(result)?;
    } else {
        let mut pairs = result.pairs();
        pairs.extend(result.settings());
        output::table(&pairs)?;
    }
    let Some(path) = &plan.report else { return Ok(()) };
    let page = RunReport {
        title: format!("gradwire train: {}", plan.train.inputs.join(" ")),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        results: result.pairs(),
        settings: result.settings(),
        loss: board.loss_curve(),
        throughput: board.throughput_curve(),
    };
    report::write_html(path, &page)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}
