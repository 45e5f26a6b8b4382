//! The words of the command line.
//!
//! Owns every flag and its help. What a command does with them is left to its file.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};
use learn::data::Format;
use serde::Deserialize;

use crate::bench_checkpoint::CheckpointBenchArgs;
use crate::checkpoint::CheckpointCommand;
use crate::cluster::{CoordinateArgs, OrderCommand, StatusArgs};
use crate::crowd::CrowdArgs;
use crate::doctor::Need;
use crate::elastic::ElasticArgs;
use crate::flags::{
    AcknowledgeFlag, AdmissionFlag, BadRowsFlag, ByteCount, ClockBound, CodecFlag, Count,
    ExpiryFlag, LogFormat, LogLevel, ReadFlag, TransportFlag, WorkFlag, format_parser,
};
use crate::hot::HotArgs;
use crate::job_success::JobSuccessArgs;
use crate::model::{ExportArgs, InspectArgs};
use crate::push_pull::COMMIT;
use crate::rdma::RdmaArgs;
use crate::replication::ReplicationArgs;
use crate::serve::ServeArgs;
use crate::soak::SoakArgs;
use crate::stragglers::StragglerArgs;
use crate::train::job::JobArgs;

/// A parameter server for sparse machine learning.
#[derive(Debug, Parser)]
#[command(name = "gradwire", version = version(), about, max_term_width = 100)]
pub(crate) struct Cli {
    /// The most that is logged to stderr.
    #[arg(long, global = true, value_enum, default_value = "warn")]
    pub(crate) log: LogLevel,
    /// How it is written.
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What was built; builds of one wire version understand each other.
fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!("{} (commit {COMMIT}, wire {})", env!("CARGO_PKG_VERSION"), wire::VERSION)
    });
    &TEXT
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model; with no data named, on the flights that come with gradwire.
    Train(Box<TrainArgs>),
    /// Predict with a saved model: one probability a row.
    Predict(PredictArgs),
    /// Run a server: one shard a core.
    Serve(ServeArgs),
    /// Coordinate a cluster: who is in it, and which servers hold which shard.
    Coordinate(CoordinateArgs),
    /// Show a cluster: its servers, its shards, and what happened.
    Status(StatusArgs),
    /// Tell a cluster's coordinator what to do.
    #[command(subcommand)]
    Cluster(OrderCommand),
    /// Run a cluster of processes under load and faults, and check that nothing is lost or doubled.
    ///
    /// Ends with code 3 if a promise was broken.
    Soak(SoakArgs),
    /// Look into a saved model.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Look into a store of checkpoints.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Measure, as shares of what this machine can do.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check this machine, and say what is wrong with it and how to mend it.
    ///
    /// Changes nothing. Ends with code 0 if gradwire can be used here and with 4 if not; what makes
    /// it slower is a warning.
    Doctor(DoctorArgs),
    /// One worker of `train --processes`; its plan comes by standard input.
    #[command(hide = true)]
    Worker,
    /// One worker of `soak --faults kill-worker`; its plan comes by standard input.
    #[command(hide = true)]
    SoakWorker,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Print tables, rules and rows.
    Inspect(InspectArgs),
    /// Write all rows, sorted by key, as text or Parquet.
    Export(ExportArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Push to and pull from one shard in a closed loop, beside the roofs of this machine.
    PushPull(PushPullArgs),
    /// Gather and update rows of one shard's table in this thread, beside random memory.
    Table(TableArgs),
    /// Run each kernel at each instruction set, beside the triad and a copy.
    Kernel(KernelArgs),
    /// Codecs: bits a pair, rates beside a copy, and what each does to the loss.
    Codec(CodecArgs),
    /// Take and restore checkpoints of a cluster, beside a load of pushes and plain files.
    Checkpoint(CheckpointBenchArgs),
    /// A bare link, by RDMA verbs or by a transport: bandwidth, message rate, latency.
    Transport(LinkArgs),
    /// What a second replica of each shard costs its servers, in clusters of processes.
    Replication(ReplicationArgs),
    /// Pulls of keys of which few are hot, from heads and from replicas, in a cluster of processes.
    Hot(HotArgs),
    /// What slow workers cost, by how far workers may be apart, and what a spare one saves.
    Stragglers(StragglerArgs),
    /// What servers that join and leave do to a load, in a cluster of processes.
    Elastic(ElasticArgs),
    /// Jobs whose workers are killed: how many end well, with later lives and without.
    JobSuccess(JobSuccessArgs),
    /// What a server loses to connections that do nothing and such as do harm.
    Crowd(CrowdArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// What this machine must have besides; without it, it is not fit.
    #[arg(long, value_enum)]
    pub(crate) need: Option<Need>,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where rows come from and how they are read.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// Format of the files: vw, libsvm, csv, tsv, criteo or parquet [default: by name, else by
    /// the first line].
    #[arg(long, value_parser = format_parser)]
    pub(crate) format: Option<Format>,
    /// Column of the label [default: label, click or y, else the first].
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,
    /// A label above this number is 1, any other 0.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) label_above: Option<f64>,
    /// Columns of categories.
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    pub(crate) categorical: Vec<String>,
    /// Columns of numbers.
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    pub(crate) numeric: Vec<String>,
    /// Columns of counts, whose categories are powers.
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    pub(crate) bucketed: Vec<String>,
    /// Columns that are left out.
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    pub(crate) ignore: Vec<String>,
    /// What an unreadable row does: fail, or skip:N to leave out up to N of what each reader
    /// reads (threads share one, each process has its own) [default: fail].
    #[arg(long, value_name = "fail|skip:N")]
    pub(crate) bad_rows: Option<BadRowsFlag>,
    /// Parser threads of each reader [default: one a processor].
    #[arg(long, value_name = "N")]
    pub(crate) parsers: Option<usize>,
    /// Do not add a constant feature to each row.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) no_intercept: Option<bool>,
}

/// What `bench` can change rows by.
const RULES: [&str; 9] =
    ["sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "ftrl", "ftrl-compact", "sum"];

/// What `train` can learn by.
const OPTIMIZERS: [&str; 8] =
    ["ftrl", "ftrl-compact", "adagrad", "rmsprop", "adam", "adamw", "sgd", "momentum"];

#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct TrainArgs {
    /// Files or patterns to learn from, in this order [default: the flights of 2013].
    #[arg(long, help_heading = "Data", value_name = "FILE", num_args = 1..)]
    pub(crate) train: Vec<String>,
    /// Files to test on [default: rows held out from the training files].
    #[arg(long, help_heading = "Data", value_name = "FILE", num_args = 1..)]
    pub(crate) test: Vec<String>,
    /// Share of the training rows that is held out where no test file is named [default: 0.1].
    #[arg(long, help_heading = "Data", value_name = "SHARE")]
    pub(crate) holdout: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) data: DataArgs,
    /// What is learned: lr, sparse logistic regression [default: lr].
    #[arg(long, help_heading = "Learning", value_parser = ["lr"])]
    pub(crate) model: Option<String>,
    /// How servers change a row; ftrl-compact keeps ftrl's in half the memory [default: ftrl].
    #[arg(long, help_heading = "Learning", value_parser = OPTIMIZERS)]
    pub(crate) optimizer: Option<String>,
    /// Learning rate [default: 0.2 for ftrl, 0.05 for adagrad, 0.01 for adam, adamw and sgd,
    /// 0.005 for rmsprop, 0.00005 for momentum].
    #[arg(long, help_heading = "Learning", value_name = "RATE")]
    pub(crate) alpha: Option<f32>,
    /// FTRL: damps the first steps [default: 1].
    #[arg(long, help_heading = "Learning")]
    pub(crate) beta: Option<f32>,
    /// FTRL: keeps small weights at zero [default: 0].
    #[arg(long, help_heading = "Learning")]
    pub(crate) l1: Option<f32>,
    /// FTRL: pulls weights towards zero [default: 0].
    #[arg(long, help_heading = "Learning")]
    pub(crate) l2: Option<f32>,
    /// Momentum: share of the last step's velocity that is kept [default: 0.9].
    #[arg(long, help_heading = "Learning", value_name = "SHARE")]
    pub(crate) momentum: Option<f32>,
    /// RMSProp: share of the mean of squares that is kept [default: 0.99].
    #[arg(long, help_heading = "Learning", value_name = "SHARE")]
    pub(crate) decay: Option<f32>,
    /// AdamW: pulls weights towards zero, besides the gradient [default: 0.01].
    #[arg(long, help_heading = "Learning")]
    pub(crate) weight_decay: Option<f32>,
    /// Passes over the data [default: 1].
    #[arg(long, help_heading = "Learning", value_name = "N")]
    pub(crate) epochs: Option<u32>,
    /// Rows between a pull and its push [default: 1000].
    #[arg(long, help_heading = "Learning", value_name = "N")]
    pub(crate) batch_rows: Option<usize>,
    /// How far workers may be apart [default: bsp].
    #[arg(long, help_heading = "Cluster", value_name = "bsp|ssp:N|asp")]
    pub(crate) clock: Option<ClockBound>,
    /// Which new keys get a row: all; probability:P, each by a coin in each clock; count:N, at
    /// the push that makes N of them [default: all].
    #[arg(long, help_heading = "Learning", value_name = "all|probability:P|count:N")]
    pub(crate) admission: Option<AdmissionFlag>,
    /// When a row goes away: never; clocks:N, once it was not pushed for N clocks; recent, when
    /// the table has no room for new ones and it was not pushed for longest [default: never].
    #[arg(long, help_heading = "Learning", value_name = "never|clocks:N|recent")]
    pub(crate) expiry: Option<ExpiryFlag>,
    /// Whose word the answer to a push is that ends no step: of the last replica, or of the first
    /// one alone [default: tail].
    #[arg(long, help_heading = "Cluster", value_name = "tail|head")]
    pub(crate) acknowledge: Option<AcknowledgeFlag>,
    /// Have the first replica of a shard add up the pushes of different workers before it applies
    /// and passes them on: the optimizer sees sums, as of one larger batch.
    #[arg(long, help_heading = "Cluster", num_args = 0, default_missing_value = "true")]
    pub(crate) aggregate: Option<bool>,
    /// Running servers to use.
    #[arg(long, help_heading = "Cluster", value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub(crate) servers: Vec<String>,
    /// The coordinator of a running cluster to use; more than one where it may run elsewhere.
    #[arg(long, help_heading = "Cluster", value_name = "HOST:PORT,..", value_delimiter = ',')]
    #[arg(conflicts_with = "servers")]
    pub(crate) coordinator: Vec<String>,
    /// The name of that cluster [default: gradwire].
    #[arg(long, help_heading = "Cluster", value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Servers to start on this machine [default: 1, or as many as replicas].
    #[arg(long, help_heading = "Cluster", value_name = "N")]
    #[arg(conflicts_with_all = ["servers", "coordinator"])]
    pub(crate) servers_local: Option<u16>,
    /// Replicas of each shard on servers that are started, which are processes then: the job goes
    /// on while one of each shard's lives [default: 1].
    #[arg(long, help_heading = "Cluster", value_name = "N")]
    #[arg(conflicts_with_all = ["servers", "coordinator"])]
    pub(crate) replicas: Option<u8>,
    /// Workers to start on this machine [default: 1].
    #[arg(long, help_heading = "Cluster", value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// Most memory that the table may take on each server that is started [default: no bound].
    #[arg(long, help_heading = "Cluster", value_name = "MIB", conflicts_with = "servers")]
    pub(crate) table_mib: Option<u64>,
    /// Start servers and workers as processes and not as threads.
    #[arg(long, help_heading = "Cluster", num_args = 0, default_missing_value = "true")]
    pub(crate) processes: Option<bool>,
    /// How often each worker process of a cluster is started again if it dies: it goes on where it
    /// was [default: 16].
    #[arg(long, help_heading = "Cluster", value_name = "N")]
    pub(crate) restarts: Option<u32>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) job: JobArgs,
    /// Spare workers of a cluster, processes that stand by: a step that another worker is late with
    /// is given to one of them as well, and who is first with it has the place [default: 0].
    #[arg(long, help_heading = "Cluster", value_name = "N")]
    pub(crate) backup: Option<u32>,
    /// Which servers of a cluster answer pulls [default: auto].
    #[arg(long, help_heading = "Cluster", value_enum)]
    pub(crate) read: Option<ReadFlag>,
    /// How bytes move [default: auto].
    #[arg(long, help_heading = "Cluster", value_enum)]
    pub(crate) transport: Option<TransportFlag>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) rdma: RdmaArgs,
    /// How keys and values travel: raw; exact, in fewer bytes for keys; bf16, f16, float8, int8,
    /// int4, float4 or one-bit, in fewer for values too; nonzero, top-k:SHARE, threshold:X or
    /// kkt:X, of some rows only, and nonzero+int8 and the like, both; auto, the faster one of raw
    /// and exact [default: auto].
    #[arg(long, help_heading = "Cluster", value_name = "CODEC")]
    pub(crate) codec: Option<CodecFlag>,
    /// The best instruction set that local servers may use [default: what the processor has].
    #[arg(long, help_heading = "Cluster", value_name = "scalar|neon|avx2|avx512")]
    pub(crate) isa: Option<String>,

    /// Where the model is saved: a directory that is new or holds a model.
    #[arg(long, help_heading = "Results", value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
    /// A saved model to go on from.
    #[arg(long, help_heading = "Results", value_name = "DIR")]
    pub(crate) resume: Option<PathBuf>,
    /// Print the result as one line of JSON.
    #[arg(long, help_heading = "Results", num_args = 0, default_missing_value = "true")]
    pub(crate) json: Option<bool>,
    /// Show how far the run is at http://HOST:PORT/metrics, as Prometheus reads it.
    #[arg(long, help_heading = "Results", value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// Write a page with the results and their curves.
    #[arg(long, help_heading = "Results", value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Read options from a file; the command line wins.
    #[arg(long, value_name = "FILE.toml")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The saved model.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Files or patterns to predict for; labels may be missing.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) input: Vec<String>,
    /// Where the probabilities go, one a line [default: stdout].
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Format of the files: vw, libsvm, csv, tsv, criteo or parquet [default: by name, else by
    /// the first line].
    #[arg(long, value_parser = format_parser)]
    pub(crate) format: Option<Format>,
    /// What an unreadable row does: fail, or skip:N.
    #[arg(long, value_name = "fail|skip:N", default_value = "fail")]
    pub(crate) bad_rows: BadRowsFlag,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PushPullArgs {
    /// Sorted keys a request.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) keys: usize,
    /// Values a key.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) dim: u32,
    /// Keys that the table holds.
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    pub(crate) resident: usize,
    /// How the server changes a row.
    #[arg(long, value_parser = RULES, default_value = "sgd")]
    pub(crate) optimizer: String,
    /// How bytes move.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) transport: TransportFlag,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
    /// How keys and values travel: raw, exact, auto, nonzero, bf16, f16, float8, int8, int4, float4
    /// or one-bit; none that holds rows back.
    #[arg(long, value_name = "CODEC", default_value = "raw")]
    pub(crate) codec: CodecFlag,
    /// Exponent of the Zipf law that keys are drawn by; 0 draws evenly.
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.0)]
    pub(crate) zipf: f64,
    /// Requests in flight.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) in_flight: usize,
    /// Repeats of each measurement, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) repeats: usize,
    /// Seconds of each repeat.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Seed of the keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TableArgs {
    /// Keys that the table holds, such as 2M.
    #[arg(long, value_name = "N", default_value = "2M")]
    pub(crate) keys: Count,
    /// Values a key.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) dim: u32,
    /// How the shard changes a row.
    #[arg(long, value_parser = RULES, default_value = "sgd")]
    pub(crate) optimizer: String,
    /// Sorted keys a request, such as 10k.
    #[arg(long, value_name = "N", default_value = "10k")]
    pub(crate) request_keys: Count,
    #[command(flatten)]
    pub(crate) taking: TakingArgs,
    /// Seed of the keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CodecArgs {
    /// Files to learn from [default: the flights of 2013].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) train: Vec<String>,
    /// Files to test on [default: rows held out from the training files].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) test: Vec<String>,
    #[command(flatten)]
    pub(crate) taking: TakingArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KernelArgs {
    /// MiB of all arrays of a kernel that reads from memory: beyond the last-level cache.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) megabytes: usize,
    /// Kernels to run, by name and separated by commas [default: all].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    #[command(flatten)]
    pub(crate) taking: TakingArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LinkArgs {
    /// Where the other end listens [default: both ends are threads of this process].
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// Be the other end, for one client. Whoever reaches this address may write to memory of this
    /// process that is there for it.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["address", "size"])]
    pub(crate) listen: Option<String>,
    /// Listen where other hosts can reach it, though the wire is neither encrypted nor
    /// authenticated.
    #[arg(long, requires = "listen")]
    pub(crate) insecure: bool,
    /// How bytes move, by name; the end that listens does as its client does.
    #[arg(long, value_enum, default_value = "verbs")]
    pub(crate) transport: TransportFlag,
    /// What verbs do with a message.
    #[arg(long, value_enum, default_value = "write")]
    pub(crate) operation: WorkFlag,
    /// Length of a message, such as 64KiB [default: 64 bytes to 1 MiB].
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<ByteCount>,
    /// Messages under way while bandwidth is measured, by verbs.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) in_flight: usize,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
    #[command(flatten)]
    pub(crate) taking: TakingArgs,
}

/// How figures are taken, and how they are told.
#[derive(Clone, Debug, Args)]
pub(crate) struct TakingArgs {
    /// Repeats of each measurement, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) repeats: usize,
    /// Least seconds of each figure in each repeat.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.05)]
    pub(crate) seconds: f64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
