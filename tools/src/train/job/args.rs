//! Flags of a job of several hosts, and the checks of what may go with them.
//!
//! Owns turning them into a [`JobPlan`], and what all hosts have to agree on. Taking part is left
//! to the other files of this folder.

use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use learn::data::Splits;
use serde::{Deserialize, Serialize};
use server::coordinator::HOST_PATIENCE;
use wire::{
    JOB_EPOCHS_MAX, JOB_NAME_BYTES_MAX, JOB_PATIENCE_MS_MAX, JOB_PATIENCE_MS_MIN,
    JOB_SETTING_BYTES_MAX, JOB_WORKERS_MAX, JobSetting,
};

use crate::cli::TrainArgs;
use crate::failure::Failure;
use crate::flags::DurationFlag;
use crate::train::plan::{Plan, ServersWanted};

/// Lives of a worker that one life of its launcher may begin: the two are one number together.
pub(super) const LIVES_PER_LAUNCHER: u32 = 1 << 16;

/// Letters of a setting's value that are kept of one that is too long.
const SETTING_KEPT_BYTES: usize = 1024;

#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct JobArgs {
    /// Take part in the job of this name, whose workers are processes on several hosts: the same
    /// command is started on each of them.
    #[arg(long, help_heading = "Cluster", value_name = "NAME")]
    pub(crate) job: Option<String>,
    /// Workers of that job on all hosts together; --workers is how many of them this host takes.
    #[arg(long, help_heading = "Cluster", value_name = "N")]
    pub(crate) job_workers: Option<u32>,
    /// Where this host keeps what its workers need to go on should this process die; started again
    /// it takes its workers' places again [default: a directory below that for temporary files].
    #[arg(long, help_heading = "Cluster", value_name = "DIR")]
    pub(crate) job_dir: Option<PathBuf>,
    /// How long a host of that job may be gone before the job ends on all of them, 5s to 24h
    /// [default: 60s].
    #[arg(long, help_heading = "Cluster", value_name = "DURATION")]
    pub(crate) job_patience: Option<DurationFlag>,
    /// Take no free place in that job, but those of a host that is gone for longer than that: the
    /// job then goes on here instead of ending.
    #[arg(long, help_heading = "Cluster", num_args = 0, default_missing_value = "true")]
    pub(crate) stand_by: Option<bool>,
}

/// A job that this run takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobPlan {
    pub(crate) name: String,
    /// Workers that this host would run.
    pub(crate) wanted: u32,
    /// Where it keeps what it needs to go on.
    pub(crate) dir: Option<PathBuf>,
    /// How long one of its hosts may be gone.
    pub(crate) patience_ms: u64,
    /// Whether it takes the places of a host that is gone, and no others.
    pub(crate) stands_by: bool,
}

impl JobArgs {
    /// These, and from `other` what these leave open.
    pub(crate) fn or(self, other: JobArgs) -> JobArgs {
        JobArgs {
            job: self.job.or(other.job),
            job_workers: self.job_workers.or(other.job_workers),
            job_dir: self.job_dir.or(other.job_dir),
            job_patience: self.job_patience.or(other.job_patience),
            stand_by: self.stand_by.or(other.stand_by),
        }
    }
}

/// The job of several hosts that is asked for, and how many workers it has in all.
pub(crate) fn job_plan(
    args: &TrainArgs,
    wanted: u32,
    servers: &ServersWanted,
) -> Result<Option<(JobPlan, u32)>, Failure> {
    let JobArgs { job, job_workers, job_dir, job_patience, stand_by } = &args.job;
    let Some(name) = job else {
        let has_job_flag = job_workers.is_some() || job_dir.is_some() || job_patience.is_some();
        if has_job_flag || stand_by.is_some() {
            let why = "--job-workers, --job-dir, --job-patience and --stand-by are for --job";
            return Err(Failure::usage(why));
        }
        return Ok(None);
    };
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if name.is_empty() || name.len() > JOB_NAME_BYTES_MAX || !name.chars().all(is_plain) {
        let why = format!(
            "--job: expected 1 to {JOB_NAME_BYTES_MAX} letters, digits, '.', '_' or '-', found \
             {name:?}"
        );
        return Err(Failure::usage(why));
    }
    if !matches!(servers, ServersWanted::Coordinated(_)) {
        return Err(Failure::usage("--job is for --coordinator, which deals its batches"));
    }
    let Some(workers) = *job_workers else {
        return Err(Failure::usage("--job needs --job-workers: how many it has on all hosts"));
    };
    if !(1..=JOB_WORKERS_MAX).contains(&workers) {
        let why = format!("--job-workers: expected 1 to {JOB_WORKERS_MAX}, found {workers}");
        return Err(Failure::usage(why));
    }
    if wanted > workers {
        let why = format!("--workers: the job has {workers} of them in all, not {wanted}");
        return Err(Failure::usage(why));
    }
    if args.processes == Some(false) {
        return Err(Failure::usage("--job: its workers are processes"));
    }
    if args.backup.is_some_and(|spares| spares > 0) {
        return Err(Failure::usage("--backup is not for --job"));
    }
    if args.restarts.is_some_and(|restarts| restarts >= LIVES_PER_LAUNCHER - 1) {
        let why = format!("--restarts: a job's workers have fewer than {LIVES_PER_LAUNCHER} lives");
        return Err(Failure::usage(why));
    }
    if args.epochs.is_some_and(|epochs| epochs > JOB_EPOCHS_MAX) {
        let why = format!("--epochs: a job of several hosts has {JOB_EPOCHS_MAX} at most");
        return Err(Failure::usage(why));
    }
    let patience_ms = patience_ms(*job_patience)?;
    let (name, dir, stands_by) = (name.clone(), job_dir.clone(), stand_by.unwrap_or_default());
    Ok(Some((JobPlan { name, wanted, dir, patience_ms, stands_by }, workers)))
}

/// How long a host may be gone, if that can be.
fn patience_ms(told: Option<DurationFlag>) -> Result<u64, Failure> {
    let patience = told.map_or(HOST_PATIENCE, |flag| flag.0);
    let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    if !(JOB_PATIENCE_MS_MIN..=JOB_PATIENCE_MS_MAX).contains(&ms) {
        return Err(Failure::usage(format!(
            "--job-patience: expected 5s to 24h, found {patience:?}"
        )));
    }
    Ok(ms)
}

/// What all hosts of a job have to agree on, by the flags that say it.
///
/// - `splits`: of the training data.
pub(super) fn settings(
    plan: &Plan,
    part: &JobPlan,
    splits: &Splits,
) -> Result<Vec<JobSetting>, Failure> {
    let train = &plan.train;
    let columns = &train.columns;
    Ok(vec![
        setting("--train", train.inputs.join(" ")),
        setting("the length of the training data in bytes", splits.bytes().to_string()),
        setting("--batch-rows", train.batch_rows.to_string()),
        setting("--holdout", train.holdout.to_string()),
        setting("--format", words(&train.format)?),
        setting("the columns", words(columns)?),
        setting("--bad-rows", words(&train.bad_rows)?),
        setting("--no-intercept", words(&train.intercept)?),
        setting("--optimizer", words(&plan.optimizer)?),
        setting("--clock", plan.clock.to_string()),
        setting("--codec", plan.codec.to_string()),
        setting("--admission", plan.life.admission.to_string()),
        setting("--expiry", plan.life.expiry.to_string()),
        setting("--acknowledge", plan.acknowledge.to_string()),
        setting("--aggregate", plan.aggregate.to_string()),
        setting("--job-patience", format!("{:?}", Duration::from_millis(part.patience_ms))),
        // Last: files of other names or lengths, where nothing above has told them apart.
        setting(
            "the splits of the training data",
            format!("{} ({:016x})", splits.count(), splits.digest()),
        ),
    ])
}

fn words<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(Failure::failed)
}

/// A setting; of a value that is too long its beginning and a number of all of it.
fn setting(name: &str, value: String) -> JobSetting {
    let name = name.to_owned();
    if value.len() <= JOB_SETTING_BYTES_MAX {
        return JobSetting { name, value };
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(value.as_bytes());
    let kept = beginning(&value, SETTING_KEPT_BYTES);
    let value = format!("{kept}... ({:016x})", hasher.finish());
    JobSetting { name, value }
}

/// The beginning of a text, whole letters of it.
pub(super) fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut ends = (0..=bytes_max.min(text.len())).rev();
    let end = ends.find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_too_long_keeps_its_beginning_and_differs_from_others() {
        let long = "\u{e9}".repeat(JOB_SETTING_BYTES_MAX);
        let one = setting("--train", long.clone());
        assert!(one.value.len() <= JOB_SETTING_BYTES_MAX, "{}", one.value.len());
        assert!(one.value.starts_with("\u{e9}\u{e9}"));
        assert_eq!(one, setting("--train", long.clone()), "on every host");
        assert_ne!(one, setting("--train", long + "b"));
        assert_eq!(beginning("a\u{e9}", 2), "a");
    }
}
