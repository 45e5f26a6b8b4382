//! The plan of a training run: every setting, with its default and its check.
//!
//! Owns turning flags and the configuration file into a [`Plan`]. Carrying it out is left to the
//! other files of this folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Command};
use kernels::{Isa, Level};
use learn::Optimizer;
use learn::data::{BadRows, ColumnSpec, Draw, Intercept, LabelRule, Labels, Part, SourceSpec};
use serde::{Deserialize, Serialize};
use transport::dial::UNIX_PREFIX;
use wire::{AggregateError, REPLICAS_MAX};
use worker::{Acknowledge, CodecChoice, KeyAdmission, RowLife};

use super::job::{JobPlan, job_plan};
use crate::cli::{DataArgs, TrainArgs};
use crate::cluster::CLUSTER;
use crate::failure::Failure;
use crate::flags::{ClockBound, CodecFlag, ReadFlag, TransportFlag};
use crate::rdma::RdmaArgs;

/// Share of the rows that is held out where no test file is named.
const HOLDOUT_DEFAULT: f64 = 0.1;

/// Most workers and servers that one run starts.
const STARTED_MAX: u32 = 256;

/// How often a worker process is started again: what dies this often has a cause that stays.
const RESTARTS_DEFAULT: u32 = 16;

/// The bundled data, relative to the repository.
const BUNDLED: &str = "data/flights-nyc-2013.parquet";

/// Everything a run needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) train: SourceSpec,
    pub(crate) test: SourceSpec,
    pub(crate) optimizer: Optimizer,
    pub(crate) epochs: u32,
    pub(crate) clock: ClockBound,
    pub(crate) servers: ServersWanted,
    /// Of the whole job.
    pub(crate) workers: u32,
    /// The job of several hosts that this run takes part in, if it does.
    pub(crate) job: Option<JobPlan>,
    pub(crate) started_as: StartedAs,
    /// How often each worker process of a cluster is started again.
    pub(crate) restarts: u32,
    /// Spare workers that do late steps, too.
    pub(crate) backup: u32,
    /// What befalls the workers by arrangement.
    pub(crate) drill: Option<Drill>,
    pub(crate) read: ReadFlag,
    pub(crate) transport: TransportFlag,
    pub(crate) rdma: RdmaArgs,
    pub(crate) codec: CodecFlag,
    pub(crate) life: RowLife,
    pub(crate) acknowledge: Acknowledge,
    pub(crate) aggregate: bool,
    /// What the table may take on each server that is started.
    pub(crate) table_mib: Option<u64>,
    pub(crate) isa: Isa,
    pub(crate) save: Option<PathBuf>,
    pub(crate) resume: Option<PathBuf>,
    pub(crate) json: bool,
    /// Where to show how far it is.
    pub(crate) metrics: Option<String>,
    pub(crate) report: Option<PathBuf>,
}

/// Workers that keep a pace and die by arrangement, so that runs can be compared.
#[derive(Clone, Debug)]
pub(crate) struct Drill {
    /// How long a worker sleeps after each step.
    pub(crate) pace: Duration,
    pub(crate) deaths: Vec<Death>,
}

/// A worker process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) worker: u32,
    /// Since the first worker was started.
    pub(crate) at: Duration,
}

/// Which servers hold the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServersWanted {
    /// So many, started for this run.
    Started(u16),
    /// These, which run already.
    Running(Vec<String>),
    /// Those of a running cluster.
    Coordinated(Coordinated),
    /// So many processes started for this run, each shard on some of them.
    Replicated { servers: u16, replicas: u8 },
}

/// How a running cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Coordinated {
    /// Where its coordinator may be.
    pub(crate) addresses: Vec<String>,
    /// What it is called.
    pub(crate) cluster: String,
}

/// How servers and workers are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartedAs {
    Threads,
    Processes,
}

impl Plan {
    /// Reads the configuration file, if one is named, and checks everything.
    pub(crate) fn new(arguments: TrainArgs) -> Result<Plan, Failure> {
        let args = match &arguments.config {
            Some(path) => merge(arguments.clone(), read_config(path)?),
            None => arguments,
        };
        let workers = args.workers.unwrap_or(1);
        in_range("--workers", workers)?;
        let servers = servers(&args)?;
        let (train, test) = sources(&args)?;
        let job = job_plan(&args, workers, &servers)?;
        let workers = job.as_ref().map_or(workers, |(_, workers)| *workers);
        let job = job.map(|(job, _)| job);
        let by_process = args.processes == Some(true) || job.is_some();
        let started_as = if by_process { StartedAs::Processes } else { StartedAs::Threads };
        let in_cluster =
            matches!(servers, ServersWanted::Coordinated(_) | ServersWanted::Replicated { .. });
        check_cluster_flags(&args, in_cluster, started_as)?;
        let transport = args.transport.unwrap_or(TransportFlag::Auto);
        let by_tcp = |place: &String| !place.starts_with(UNIX_PREFIX);
        let running = match &servers {
            ServersWanted::Running(places) => &places[..],
            _ => &[],
        };
        if transport == TransportFlag::Shm && running.iter().any(by_tcp) {
            return Err(Failure::usage("--transport shm reaches servers at unix:PATH only"));
        }
        args.rdma.settings(transport)?;
        let starts_none = matches!(servers, ServersWanted::Coordinated(_)) || !running.is_empty();
        if args.table_mib.is_some() && starts_none {
            return Err(Failure::usage("--table-mib is for servers that this run starts"));
        }
        let epochs = args.epochs.unwrap_or(1);
        if epochs == 0 {
            return Err(Failure::usage("--epochs: expected 1 or more, found 0"));
        }
        if let Some(dir) = &args.save {
            learn::model::check_target(dir).map_err(Failure::failed)?;
        }
        Ok(Plan {
            train,
            test,
            optimizer: optimizer(&args)?,
            epochs,
            clock: args.clock.unwrap_or(ClockBound::Bsp),
            servers,
            workers,
            job,
            started_as,
            restarts: args.restarts.unwrap_or(RESTARTS_DEFAULT),
            backup: args.backup.unwrap_or(0),
            drill: None,
            read: args.read.unwrap_or_default(),
            transport,
            rdma: args.rdma,
            codec: args.codec.unwrap_or(CodecFlag(CodecChoice::AUTO)),
            life: RowLife {
                admission: args.admission.unwrap_or_default().0,
                expiry: args.expiry.unwrap_or_default().0,
            },
            acknowledge: args.acknowledge.unwrap_or_default().0,
            aggregate: args.aggregate.unwrap_or_default(),
            table_mib: args.table_mib,
            isa: isa(args.isa.as_deref())?,
            save: args.save,
            resume: args.resume,
            json: args.json.unwrap_or(false),
            metrics: args.metrics,
            report: args.report,
        })
    }
}

/// The instruction set of this machine, cut to what was asked for.
pub(crate) fn isa(level: Option<&str>) -> Result<Isa, Failure> {
    let Some(level) = level else { return Ok(Isa::detect()) };
    let level: Level = level.parse().map_err(|error| Failure::usage(format!("--isa: {error}")))?;
    Ok(Isa::detect().at_most(level))
}

/// Refuses flags that mean something in a cluster alone.
fn check_cluster_flags(
    args: &TrainArgs,
    in_cluster: bool,
    started_as: StartedAs,
) -> Result<(), Failure> {
    let has_lives = in_cluster && started_as == StartedAs::Processes;
    if args.restarts.is_some() && !has_lives {
        return Err(Failure::usage("--restarts is for --processes in a cluster"));
    }
    if args.backup.is_some_and(|spares| spares > 0) && !has_lives {
        return Err(Failure::usage("--backup is for --processes in a cluster"));
    }
    args.backup
        .filter(|&spares| spares > 0)
        .map_or(Ok(()), |spares| in_range("--backup", spares))?;
    if args.read.is_some() && !in_cluster {
        let why = "--read is for clusters: servers without a coordinator have no replicas";
        return Err(Failure::usage(why));
    }
    check_aggregate(args, in_cluster)
}

/// Refuses what pushes that are added up cannot go with.
fn check_aggregate(args: &TrainArgs, in_cluster: bool) -> Result<(), Failure> {
    if args.aggregate != Some(true) {
        return Ok(());
    }
    let wrong = |why: &dyn std::fmt::Display| Err(Failure::usage(format!("--aggregate: {why}")));
    if args.acknowledge.unwrap_or_default().0 == Acknowledge::Head {
        return wrong(&AggregateError::AtHead);
    }
    if args.admission.unwrap_or_default().0 != KeyAdmission::All {
        return wrong(&AggregateError::Admission);
    }
    if !in_cluster {
        return wrong(&"it is for clusters: servers without a coordinator have no replicas");
    }
    Ok(())
}

fn in_range(name: &str, count: u32) -> Result<(), Failure> {
    if (1..=STARTED_MAX).contains(&count) {
        return Ok(());
    }
    Err(Failure::usage(format!("{name}: expected 1 to {STARTED_MAX}, found {count}")))
}

fn servers(args: &TrainArgs) -> Result<ServersWanted, Failure> {
    if !args.servers.is_empty() {
        return Ok(ServersWanted::Running(args.servers.clone()));
    }
    if !args.coordinator.is_empty() {
        let cluster = args.cluster.clone().unwrap_or_else(|| CLUSTER.to_owned());
        let addresses = args.coordinator.clone();
        return Ok(ServersWanted::Coordinated(Coordinated { addresses, cluster }));
    }
    if args.cluster.is_some() {
        return Err(Failure::usage("--cluster names one that --coordinator leads to"));
    }
    let replicas = args.replicas.unwrap_or(1);
    let started = args.servers_local.unwrap_or(u16::from(replicas).max(1));
    in_range("--servers-local", u32::from(started))?;
    if replicas == 0 || usize::from(replicas) > REPLICAS_MAX || u16::from(replicas) > started {
        let most = usize::from(started).min(REPLICAS_MAX);
        let why =
            format!("--replicas: {started} servers hold 1 to {most} replicas, not {replicas}");
        return Err(Failure::usage(why));
    }
    Ok(match replicas {
        1 => ServersWanted::Started(started),
        _ => ServersWanted::Replicated { servers: started, replicas },
    })
}

/// What is learned from and what is tested on.
fn sources(args: &TrainArgs) -> Result<(SourceSpec, SourceSpec), Failure> {
    let inputs = if args.train.is_empty() { vec![bundled()?] } else { args.train.clone() };
    let mut train = source(&args.data, inputs, args.batch_rows);
    if args.job.job.is_some() {
        train.draw = Draw::Place; // Nobody reads all of it, and so knows rows' numbers.
    }
    let mut test = train.clone();
    test.part = Part::Test;
    train.part = Part::Train;
    if args.test.is_empty() {
        let holdout = args.holdout.unwrap_or(HOLDOUT_DEFAULT);
        if !(holdout > 0.0 && holdout < 1.0) {
            let why = format!("--holdout: expected a share above 0 and below 1, found {holdout}");
            return Err(Failure::usage(why));
        }
        train.holdout = holdout;
        test.holdout = holdout;
    } else {
        train.holdout = 0.0;
        test.part = Part::All;
        test.inputs.clone_from(&args.test);
    }
    Ok((train, test))
}

/// A source by the data flags.
pub(crate) fn source(
    data: &DataArgs,
    inputs: Vec<String>,
    batch_rows: Option<usize>,
) -> SourceSpec {
    let default = SourceSpec::default();
    SourceSpec {
        inputs,
        format: data.format,
        columns: ColumnSpec {
            label: data.label.clone(),
            label_rule: data.label_above.map_or(LabelRule::Binary, LabelRule::Above),
            categorical: data.categorical.clone(),
            numeric: data.numeric.clone(),
            bucketed: data.bucketed.clone(),
            ignored: data.ignore.clone(),
        },
        batch_rows: batch_rows.unwrap_or(default.batch_rows),
        parsers: data.parsers.unwrap_or(default.parsers),
        bad_rows: data.bad_rows.map_or(BadRows::Fail, |flag| flag.0),
        intercept: match data.no_intercept {
            Some(true) => Intercept::None,
            _ => Intercept::Append,
        },
        labels: Labels::Required,
        ..default
    }
}

/// The bundled data: below the working directory, else where this program was built.
fn bundled() -> Result<String, Failure> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(BUNDLED);
    let found = [PathBuf::from(BUNDLED), built].into_iter().find(|path| path.is_file());
    let text = found.and_then(|path| path.to_str().map(str::to_owned));
    text.ok_or_else(|| {
        Failure::usage(format!("no data: name some by --train (the bundled {BUNDLED} is not here)"))
    })
}

fn optimizer(args: &TrainArgs) -> Result<Optimizer, Failure> {
    let name = args.optimizer.as_deref().unwrap_or("ftrl");
    // The rules of one family share their parameters.
    let family = if name == "ftrl-compact" { "ftrl" } else { name };
    let only = [
        ("ftrl", "--beta", args.beta),
        ("ftrl", "--l1", args.l1),
        ("ftrl", "--l2", args.l2),
        ("momentum", "--momentum", args.momentum),
        ("rmsprop", "--decay", args.decay),
        ("adamw", "--weight-decay", args.weight_decay),
    ];
    let foreign = only.iter().find(|(owner, _, value)| *owner != family && value.is_some());
    if let Some((owner, flag, _)) = foreign {
        return Err(Failure::usage(format!("{flag} is for --optimizer {owner}, not for {name}")));
    }
    let rate = |default: f32| args.alpha.unwrap_or(default);
    let (beta, l1, l2) = (args.beta.unwrap_or(1.0), args.l1.unwrap_or(0.0), args.l2.unwrap_or(0.0));
    let optimizer = match name {
        "ftrl" => Optimizer::Ftrl { alpha: rate(0.2), beta, l1, l2 },
        "ftrl-compact" => Optimizer::FtrlCompact { alpha: rate(0.2), beta, l1, l2 },
        "adagrad" => Optimizer::AdaGrad { rate: rate(0.05) },
        "rmsprop" => Optimizer::RmsProp { rate: rate(0.005), decay: args.decay.unwrap_or(0.99) },
        "adam" => Optimizer::Adam { rate: rate(0.01) },
        "adamw" => {
            Optimizer::AdamW { rate: rate(0.01), weight_decay: args.weight_decay.unwrap_or(0.01) }
        }
        "sgd" => Optimizer::Sgd { rate: rate(0.01) },
        // Late gradients add to the velocity: on the flights, with four workers of no common clock,
        // twice this rate already overshoots at times; one worker alone bears six times it.
        "momentum" => {
            Optimizer::Momentum { rate: rate(0.00005), momentum: args.momentum.unwrap_or(0.9) }
        }
        other => return Err(Failure::usage(format!("--optimizer: no rule is named {other}"))),
    };
    let rule = optimizer.rule();
    let made = shard::rule::Rules::builtin().make(rule.name(), &rule.parameters());
    made.map_err(|_| {
        let own = only.iter().filter(|(owner, ..)| *owner == family).map(|(_, flag, _)| *flag);
        let flags: Vec<&str> = ["--alpha"].into_iter().chain(own).collect();
        Failure::usage(format!("{} is out of range for {name}", flags.join(" or ")))
    })?;
    Ok(optimizer)
}

fn read_config(path: &Path) -> Result<TrainArgs, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", path.display()));
    let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(&error))?;
    let known = TrainArgs::augment_args(Command::new("train"));
    let known: Vec<&str> =
        known.get_arguments().filter_map(|argument| argument.get_long()).collect();
    if let Some(unknown) =
        table.keys().find(|key| *key == "config" || !known.contains(&key.as_str()))
    {
        return Err(wrong(&format!("'{unknown}' is no option of train")));
    }
    toml::from_str(&text).map_err(|error| wrong(&error))
}

/// The command line's value where it has one, else the file's.
fn merge(line: TrainArgs, file: TrainArgs) -> TrainArgs {
    fn list(line: Vec<String>, file: Vec<String>) -> Vec<String> {
        if line.is_empty() { file } else { line }
    }
    let (data, file_data) = (line.data, file.data);
    TrainArgs {
        train: list(line.train, file.train),
        test: list(line.test, file.test),
        holdout: line.holdout.or(file.holdout),
        data: DataArgs {
            format: data.format.or(file_data.format),
            label: data.label.or(file_data.label),
            label_above: data.label_above.or(file_data.label_above),
            categorical: list(data.categorical, file_data.categorical),
            numeric: list(data.numeric, file_data.numeric),
            bucketed: list(data.bucketed, file_data.bucketed),
            ignore: list(data.ignore, file_data.ignore),
            bad_rows: data.bad_rows.or(file_data.bad_rows),
            parsers: data.parsers.or(file_data.parsers),
            no_intercept: data.no_intercept.or(file_data.no_intercept),
        },
        model: line.model.or(file.model),
        optimizer: line.optimizer.or(file.optimizer),
        alpha: line.alpha.or(file.alpha),
        beta: line.beta.or(file.beta),
        l1: line.l1.or(file.l1),
        l2: line.l2.or(file.l2),
        momentum: line.momentum.or(file.momentum),
        decay: line.decay.or(file.decay),
        weight_decay: line.weight_decay.or(file.weight_decay),
        epochs: line.epochs.or(file.epochs),
        batch_rows: line.batch_rows.or(file.batch_rows),
        clock: line.clock.or(file.clock),
        admission: line.admission.or(file.admission),
        expiry: line.expiry.or(file.expiry),
        acknowledge: line.acknowledge.or(file.acknowledge),
        aggregate: line.aggregate.or(file.aggregate),
        servers: if line.servers_local.is_some() || !line.coordinator.is_empty() {
            line.servers
        } else {
            list(line.servers, file.servers)
        },
        coordinator: list(line.coordinator, file.coordinator),
        cluster: line.cluster.or(file.cluster),
        replicas: line.replicas.or(file.replicas),
        servers_local: line.servers_local.or(file.servers_local),
        workers: line.workers.or(file.workers),
        table_mib: line.table_mib.or(file.table_mib),
        processes: line.processes.or(file.processes),
        restarts: line.restarts.or(file.restarts),
        job: line.job.or(file.job),
        backup: line.backup.or(file.backup),
        read: line.read.or(file.read),
        transport: line.transport.or(file.transport),
        rdma: line.rdma.or(file.rdma),
        codec: line.codec.or(file.codec),
        isa: line.isa.or(file.isa),
        save: line.save.or(file.save),
        resume: line.resume.or(file.resume),
        json: line.json.or(file.json),
        metrics: line.metrics.or(file.metrics),
        report: line.report.or(file.report),
        config: line.config,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use worker::{Expiry, KeyAdmission};

    use super::*;

    fn config(text: &str, line: TrainArgs) -> Result<Plan, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("job.toml");
        fs::write(&path, text).expect("written");
        let line = TrainArgs { config: Some(path.clone()), ..line };
        Plan::new(line)
            .map_err(|failure| failure.to_string().replace(&path.display().to_string(), "job.toml"))
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let text = "train = ['a.vw']\nepochs = 3\nclock = 'ssp:2'\nbatch-rows = 50\n";
        let line = TrainArgs { epochs: Some(5), ..TrainArgs::default() };
        let plan = config(text, line).expect("a right file");
        assert_eq!((plan.epochs, plan.clock), (5, ClockBound::Ssp(2)));
        assert_eq!((plan.train.inputs, plan.train.batch_rows), (vec!["a.vw".to_owned()], 50));
    }

    #[test]
    fn an_optimizers_own_parameters_may_stand_in_the_file() {
        let text = "train = ['a.vw']\noptimizer = 'adamw'\nalpha = 0.5\nweight-decay = 0.25\n";
        let line = TrainArgs { alpha: Some(0.125), ..TrainArgs::default() };
        let plan = config(text, line).expect("a right file");
        assert_eq!(plan.optimizer, Optimizer::AdamW { rate: 0.125, weight_decay: 0.25 });
        let error = config("optimizer = 'adam'\nweight-decay = 0.1\n", TrainArgs::default());
        let error = error.expect_err("not Adam's");
        assert_eq!(error, "--weight-decay is for --optimizer adamw, not for adam");
    }

    #[test]
    fn compact_ftrl_takes_the_parameters_of_ftrl_and_no_others() {
        let text = "train = ['a.vw']\noptimizer = 'ftrl-compact'\nl1 = 0.5\n";
        let plan = config(text, TrainArgs::default()).expect("a right file");
        let expected = Optimizer::FtrlCompact { alpha: 0.2, beta: 1.0, l1: 0.5, l2: 0.0 };
        assert_eq!(plan.optimizer, expected);
        let error = config("optimizer = 'ftrl-compact'\ndecay = 0.9\n", TrainArgs::default());
        let said = "--decay is for --optimizer rmsprop, not for ftrl-compact";
        assert_eq!(error.expect_err("not FTRL's"), said);
    }

    #[test]
    fn rows_come_and_go_as_the_file_says() {
        let text = "train = ['a.vw']\nadmission = 'count:3'\nexpiry = 'clocks:100'\n\
                    acknowledge = 'head'\n";
        let plan = config(text, TrainArgs::default()).expect("a right file");
        assert_eq!(plan.acknowledge, Acknowledge::Head);
        let life = RowLife { admission: KeyAdmission::Count(3), expiry: Expiry::Clocks(100) };
        assert_eq!(plan.life, life);
        let error = config("expiry = 'soon'\n", TrainArgs::default()).expect_err("no such expiry");
        assert!(error.contains("expected never, recent, or clocks:N"), "{error}");
    }

    #[test]
    fn an_option_that_does_not_exist_is_named() {
        let error = config("epoch = 3\n", TrainArgs::default()).expect_err("no such option");
        assert_eq!(error, "job.toml: 'epoch' is no option of train");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_by_line() {
        let error = config("\nepochs = 'x'\n", TrainArgs::default()).expect_err("no number");
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn settings_that_do_not_go_together_are_usage_errors() {
        let train = || vec!["a.vw".to_owned()];
        let wrong = [
            TrainArgs { workers: Some(0), ..TrainArgs::default() },
            TrainArgs { epochs: Some(0), ..TrainArgs::default() },
            TrainArgs { alpha: Some(-1.0), ..TrainArgs::default() },
            TrainArgs { holdout: Some(1.0), ..TrainArgs::default() },
            TrainArgs { optimizer: Some("adam".into()), l1: Some(1.0), ..TrainArgs::default() },
            TrainArgs { momentum: Some(0.9), ..TrainArgs::default() },
            TrainArgs { decay: Some(0.9), ..TrainArgs::default() },
            TrainArgs { weight_decay: Some(0.1), ..TrainArgs::default() },
            TrainArgs {
                optimizer: Some("momentum".into()),
                momentum: Some(1.0),
                ..TrainArgs::default()
            },
            TrainArgs {
                servers: vec!["host:1".into()],
                table_mib: Some(1),
                ..TrainArgs::default()
            },
            TrainArgs {
                servers: vec!["host:1".into()],
                transport: Some(TransportFlag::Shm),
                ..TrainArgs::default()
            },
        ];
        for args in wrong {
            let args = TrainArgs { train: train(), ..args };
            let shown = format!("{args:?}");
            assert!(matches!(Plan::new(args), Err(Failure::Usage(_))), "{shown}");
        }
    }
}
