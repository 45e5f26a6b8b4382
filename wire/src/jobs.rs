//! Messages about training jobs of several hosts: who takes part, and which batches are dealt.
//!
//! Owns the messages of launchers, each a process that runs some of a job's workers, and the
//! coordinator's answers. What they lead to is left to the coordinator.
//!
//! Invariant: an ask says all that its sender knows, so that one whose answer was lost is said
//! again and changes nothing twice.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::CONTROL_NAME_BYTES_MAX;

/// Longest name of a job, in bytes.
pub const JOB_NAME_BYTES_MAX: usize = 64;

/// Most workers of a job.
pub const JOB_WORKERS_MAX: u32 = 256;

/// Most passes over the data: the coordinator counts the batches of each.
pub const JOB_EPOCHS_MAX: u32 = 1024;

/// Batches of a portion. At the end of an epoch some workers may be without work while another one
/// does its last portion; each portion is a write of the coordinator's store.
pub const PORTION_BATCHES: u32 = 8;

/// Batches of a portion that is a split of the data: more than any split has, so that a batch's
/// number tells its split. Who reads the split finds its end.
pub const SPLIT_BATCHES: u32 = 1 << 30;

/// Most splits of an epoch.
pub const JOB_SPLITS_MAX: u64 = 1 << 24;

/// Portions that a place may have begun and not finished, beyond which it is dealt none.
pub const PORTIONS_OPEN_MAX: usize = 64;

/// Longest result of a host's workers, in bytes.
pub const JOB_RESULT_BYTES_MAX: usize = 64 << 10;

/// Hosts that stand by for one job.
pub const JOB_STANDBYS_MAX: usize = 64;

/// Results in one answer; more come with the next ones.
pub const JOB_RESULTS_AT_ONCE_MAX: usize = 4;

/// How long a host of a job may say nothing before its job ends, in ms: at least longer than it
/// takes until the others are told of it.
pub const JOB_PATIENCE_MS_MIN: u64 = 5_000;
/// The most of it: a day.
pub const JOB_PATIENCE_MS_MAX: u64 = 86_400_000;

/// What the hosts of a job may have to agree on, at most.
pub const JOB_SETTINGS_MAX: usize = 32;

/// Longest name or value of such a setting, in bytes.
pub const JOB_SETTING_BYTES_MAX: usize = 4 << 10;

/// Longest reason why a job ends, in bytes.
pub const JOB_REASON_BYTES_MAX: usize = 1 << 10;

/// What a launcher says, or a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAsk {
    /// Which job.
    pub job: String,
    /// Who asks: a number that the launcher drew, and keeps over its lives; a person has 0.
    pub holder: u64,
    /// What.
    pub verb: JobVerb,
}

/// What a launcher wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobVerb {
    /// To take part, or to take part again; answered by [`JobAnswer::Enrolled`], or as long as it
    /// stands by, by [`JobAnswer::StandsBy`].
    Enrol(JobBid),
    /// To go on; said several times a second, and answered by [`JobAnswer::State`].
    Attend(JobNews),
    /// To have one that stands by take the places of the host that has this worker; answered by
    /// [`JobAnswer::Replaced`].
    Replace {
        /// Its number in the job.
        worker: u32,
    },
}

/// How a launcher would take part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobBid {
    /// What people call its host.
    pub host: String,
    /// What the job is called on servers, if it is new: drawn.
    pub id: u64,
    /// How many workers it would run.
    pub wanted: u32,
    /// How many workers the job has in all.
    pub workers: u32,
    /// Passes over the data.
    pub epochs: u32,
    /// How long a host may say nothing before the job ends, in ms; 0: as long as the coordinator
    /// has it by itself.
    #[serde(default)]
    pub patience_ms: u64,
    /// Splits of the data: each portion is one, [`SPLIT_BATCHES`] long. 0: portions are runs of
    /// [`PORTION_BATCHES`] batches, without end; launchers of before have it so.
    #[serde(default)]
    pub splits: u64,
    /// It takes no place that is free, but those of a host that is gone for too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stands_by: bool,
    /// What else all hosts have to agree on, in words.
    pub settings: Vec<JobSetting>,
}

/// One thing that all hosts of a job have to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSetting {
    /// What it is called, as people set it.
    pub name: String,
    /// What it is.
    pub value: String,
}

/// Which batch of the data: ordered as a worker takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchAt {
    /// Counted from 0.
    pub epoch: u32,
    /// Its number in the epoch.
    pub batch: u64,
}

/// Batches with consecutive numbers, dealt to one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portion {
    /// Which of its place's portions this is, counted from 1.
    pub number: u64,
    /// Of which pass over the data.
    pub epoch: u32,
    /// Its first batch.
    pub first: u64,
    /// How many there are.
    pub batches: u32,
}

/// What a launcher knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNews {
    /// Which of the launcher's lives it is, as [`Enrolled`] said.
    pub generation: u32,
    /// Of its places, those that have begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<PlaceNews>,
    /// The tables are made and filled; only the host of place 0 says so.
    #[serde(default)]
    pub is_prepared: bool,
    /// What its workers have come to, once all of them are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// First places of the hosts whose results it has; only the host of place 0 wants any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results_seen: Vec<u32>,
    /// How the job shall end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<JobEnd>,
}

/// What a launcher knows of one of its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceNews {
    /// Its number, which is its worker's.
    pub place: u32,
    /// The last batch that it has done; it does them in order. Where `steps` is said, all up to it
    /// are on every shard.
    pub done: Option<BatchAt>,
    /// How many steps these were, in all lives of the place; launchers of before do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The newest portion that the launcher has of it; 0: none.
    pub portion: u64,
    /// The epoch of which it wants the portion after that one; none: it wants none.
    pub wants: Option<u32>,
}

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEnd {
    /// All is done.
    Done,
    /// Somebody wants all workers to stop where they are.
    Stopped {
        /// Who.
        why: String,
    },
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
}

/// What the coordinator answers to a launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobAnswer {
    /// It takes part.
    Enrolled(Enrolled),
    /// It does not take part, but will if a host is gone for too long: if it goes on asking.
    StandsBy {
        /// How many hosts take part.
        hosts: u32,
    },
    /// How the job is.
    State(JobState),
    /// A host's places are another one's.
    Replaced {
        /// Who had them.
        gone: String,
        /// Who has them.
        by: String,
    },
    /// It does not take part, or not any more.
    Refused(JobRefusal),
}

/// How a launcher takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// What the job is called on servers.
    pub id: u64,
    /// Which of the launcher's lives this is, from 1; the one before is answered no more.
    pub generation: u32,
    /// Its places, in order and consecutive.
    pub places: Vec<PlaceHeld>,
    /// Splits that the coordinator deals; one of before knows of none.
    #[serde(default)]
    pub splits: u64,
}

/// A place as a launcher takes it over, from its life before or from nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceHeld {
    /// Its number.
    pub place: u32,
    /// The newest portion that it was dealt; 0: none.
    pub portion: u64,
    /// Portions that are not known to be finished.
    pub open: Vec<Portion>,
    /// The last batch that is known to be done, and on every shard with all before it.
    #[serde(default)]
    pub done: Option<BatchAt>,
    /// How many steps these were.
    #[serde(default)]
    pub steps: u64,
    /// A host that had the place is gone, and with it the figures of so many steps or somewhat
    /// more; none: no host is.
    #[serde(default)]
    pub untold: Option<u64>,
}

/// How a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Places that are taken.
    pub taken: u32,
    /// Whether the tables are made and filled.
    pub is_prepared: bool,
    /// Portions of the launcher's places that it does not have yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dealt: Vec<(u32, Portion)>,
    /// So many epochs, from the first one on, have no split left: who asks for one of them is dealt
    /// none any more.
    #[serde(default)]
    pub epochs_dealt: u32,
    /// Whether the coordinator has the launcher's result.
    pub has_result: bool,
    /// Hosts that take part.
    pub hosts: u32,
    /// Results of hosts, by their first places: some that the host of place 0 does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<(u32, String)>,
    /// Hosts that are not heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<AwayHost>,
    /// Who wants all workers to stop, if somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// How it has ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<JobEnd>,
    /// Whether the launcher that is answered has to end the workers' parts on the servers.
    #[serde(default)]
    pub sweeps: bool,
}

/// A host of a job that is not heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwayHost {
    /// What people call it.
    pub host: String,
    /// The first of its places.
    pub first: u32,
    /// How many it has.
    pub places: u32,
    /// For how long, in ms.
    pub away_ms: u64,
    /// After how long the job ends, in ms.
    pub patience_ms: u64,
}

/// Why a launcher does not take part. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobRefusal {
    /// The hosts were not given the same job. The one that asks has to be started otherwise, or by
    /// another name.
    Differs {
        /// In what.
        setting: String,
        /// What the others were told.
        ours: String,
        /// What the one that asks was told.
        theirs: String,
    },
    /// All places are taken.
    Taken {
        /// How many there are.
        workers: u32,
        /// Who has them.
        hosts: Vec<String>,
    },
    /// The job has ended.
    Ended {
        /// How.
        end: JobEnd,
    },
    /// A later life of the launcher has taken its places.
    Replaced,
    /// Nobody of this number takes part in a job of this name.
    Unknown,
    /// The coordinator has no room.
    Full {
        /// Of what.
        what: String,
        /// How many there may be.
        count_max: usize,
    },
    /// The ask is out of bounds, or makes no sense.
    Unfit {
        /// What is wrong.
        what: String,
    },
}

/// A job, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Workers that it has in all.
    pub workers: u32,
    /// Those of them whose hosts are heard of.
    pub present: u32,
    /// Hosts that take part.
    pub hosts: u32,
    /// Hosts that stand by.
    #[serde(default)]
    pub standbys: u32,
    /// What it does: `gathers`, `prepares`, `runs`, `stops`, `done`, `stopped` or `failed`.
    pub state: String,
    /// Passes over the data.
    pub epochs: u32,
    /// The newest of them that something was dealt of, from 1; 0: none yet.
    pub epoch: u32,
    /// Portions that were dealt.
    pub portions: u64,
    /// Of those, the ones that are not known to be finished.
    pub open: u64,
}

/// A host's workers by their numbers in the job, for people: `workers 4 to 7`.
pub fn worker_words(first: u32, places: u32) -> String {
    match places {
        1 => format!("worker {first}"),
        _ => format!("workers {first} to {}", first + places.max(1) - 1),
    }
}

impl Portion {
    /// Its last batch.
    pub fn last(&self) -> BatchAt {
        let batch = self.first.saturating_add(u64::from(self.batches.max(1)) - 1);
        BatchAt { epoch: self.epoch, batch }
    }
}

impl JobAsk {
    /// Checks all lengths and ranges.
    ///
    /// # Errors
    ///
    /// [`JobRefusal::Unfit`].
    pub fn check(&self) -> Result<(), JobRefusal> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        within("the job's name", self.job.len(), 1, JOB_NAME_BYTES_MAX)?;
        if !self.job.chars().all(is_plain) {
            let what = "a job's name has letters, digits, '.', '_' and '-'".to_owned();
            return Err(JobRefusal::Unfit { what });
        }
        match &self.verb {
            JobVerb::Enrol(bid) => bid.check(),
            JobVerb::Attend(news) => news.check(),
            JobVerb::Replace { .. } => Ok(()),
        }
    }
}

impl JobBid {
    fn check(&self) -> Result<(), JobRefusal> {
        within("the host's name", self.host.len(), 1, CONTROL_NAME_BYTES_MAX)?;
        let workers_max = JOB_WORKERS_MAX as usize;
        within("workers", self.workers as usize, 1, workers_max)?;
        within("workers of a host", self.wanted as usize, 1, workers_max)?;
        within("epochs", self.epochs as usize, 1, JOB_EPOCHS_MAX as usize)?;
        if self.patience_ms != 0 {
            let (least, most) = (JOB_PATIENCE_MS_MIN as usize, JOB_PATIENCE_MS_MAX as usize);
            within("a host's patience in ms", self.patience_ms as usize, least, most)?;
        }
        within("splits", self.splits as usize, 0, JOB_SPLITS_MAX as usize)?;
        within("settings", self.settings.len(), 0, JOB_SETTINGS_MAX)?;
        for setting in &self.settings {
            within("a setting's name", setting.name.len(), 1, JOB_SETTING_BYTES_MAX)?;
            within(&setting.name, setting.value.len(), 0, JOB_SETTING_BYTES_MAX)?;
        }
        Ok(())
    }
}

impl JobNews {
    fn check(&self) -> Result<(), JobRefusal> {
        within("places", self.places.len(), 0, JOB_WORKERS_MAX as usize)?;
        within("results", self.results_seen.len(), 0, JOB_WORKERS_MAX as usize)?;
        let result_bytes = self.result.as_ref().map_or(0, String::len);
        within("a result", result_bytes, 0, JOB_RESULT_BYTES_MAX)?;
        let (Some(JobEnd::Stopped { why }) | Some(JobEnd::Failed { why })) = &self.end else {
            return Ok(());
        };
        within("a reason", why.len(), 0, JOB_REASON_BYTES_MAX)
    }
}

fn within(what: &str, found: usize, least: usize, most: usize) -> Result<(), JobRefusal> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(JobRefusal::Unfit { what: format!("{what}: expected {least} to {most}, found {found}") })
}

impl fmt::Display for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobEnd::Done => f.write_str("it is done"),
            JobEnd::Stopped { why } => write!(f, "it was stopped: {why}"),
            JobEnd::Failed { why } => write!(f, "it has failed: {why}"),
        }
    }
}

impl fmt::Display for JobRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobRefusal::Differs { setting, ours, theirs } => {
                write!(f, "the job's other hosts have {setting} {ours:?}, this one {theirs:?}")
            }
            JobRefusal::Taken { workers, hosts } => write!(
                f,
                "all of the job's {workers} places are taken, by {}: no worker is wanted here",
                hosts.join(", ")
            ),
            JobRefusal::Ended { end } => write!(f, "the job has ended: {end}"),
            JobRefusal::Replaced => {
                f.write_str("another process has taken this one's places in the job")
            }
            JobRefusal::Unknown => f.write_str("the coordinator knows no such part in the job"),
            JobRefusal::Full { what, count_max } => {
                write!(f, "the coordinator has {count_max} {what}, as many as there may be")
            }
            JobRefusal::Unfit { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for JobRefusal {}

#[cfg(test)]
mod tests;
