//! The log of placements and the records of jobs in etcd, which outlives the coordinator's machine.
//!
//! Owns the keys below `/gradwire/CLUSTER/` and the transaction that appends: it compares the
//! newest epoch and writes in one step, so that of two coordinators one goes on. Speaking to etcd
//! is left to `gateway`.
//!
//! Invariant: an entry names its writer, so that one whose answer was lost is known again; a log
//! that was opened for a term appends in no other one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::Epoch;

use super::gateway::{CallError, Gateway, from_base64, to_base64};
use super::jobs::{JobRecord, JobWrite};
use super::store::{Entry, HISTORY_MAX, Store, StoreError};

/// The newest format that this build reads, and the one that it writes.
const FORMAT: u32 = 1;

/// How long one endpoint may take to answer.
const CALL_MAX: Duration = Duration::from_secs(1);

/// Digits of an epoch in a key, so that keys sort as epochs do.
const EPOCH_DIGITS: usize = 20;

/// A log in etcd.
#[derive(Debug)]
pub struct EtcdStore {
    gateway: Gateway,
    /// The prefix of all keys, with a slash at its end.
    prefix: String,
    cluster_id: u64,
    /// Drawn anew for each coordinator.
    writer: u64,
    /// Who must lead while it appends; none: nobody is asked.
    term: Option<Term>,
}

/// Who leads, as it stands beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Term {
    pub(super) term: u64,
    pub(super) writer: u64,
}

impl Term {
    /// Its key.
    pub(super) const KEY: &'static str = "term";
}

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: u32,
    cluster: String,
    cluster_id: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    writer: u64,
    entry: Entry,
}

/// A value that is written with a count of its kind.
struct Counted<'a, T> {
    /// Where the count stands, so that it can be compared.
    counter: &'a str,
    /// The count that the writer knows; 0: there is none.
    before: u64,
    count: u64,
    name: &'a str,
    value: &'a T,
    /// What goes in the same step.
    dropped: Vec<String>,
}

impl EtcdStore {
    /// Opens the log of a cluster, or begins one where there is none. Endpoints are `host:port`;
    /// TLS and passwords are not spoken.
    ///
    /// # Errors
    ///
    /// No endpoint answers, or what is stored is another cluster's, of a newer build, or damaged.
    pub fn open(endpoints: Vec<String>, cluster: &str) -> Result<EtcdStore, StoreError> {
        let draw = || RandomState::new().build_hasher().finish();
        let (gateway, writer) = (Gateway::new(endpoints, CALL_MAX), draw());
        let prefix = format!("/gradwire/{cluster}/");
        let mut store = EtcdStore { gateway, prefix, cluster_id: 0, writer, term: None };
        let meta = Meta { format: FORMAT, cluster: cluster.to_owned(), cluster_id: draw() };
        let key = store.key("meta");
        // Made if it is not there; whoever made it, it is read afterwards.
        store.call(
            "/v3/kv/txn",
            &json!({
                "compare": [{"key": key, "target": "VERSION", "result": "EQUAL", "version": "0"}],
                "success": [put(&key, &to_json(&meta))],
            }),
        )?;
        let Some(meta) = store.get::<Meta>("meta")? else {
            return Err(store.damaged("meta", "is missing"));
        };
        let path = store.path();
        if meta.format > FORMAT {
            return Err(StoreError::NewerFormat { path, theirs: meta.format, ours: FORMAT });
        }
        if meta.cluster != cluster {
            let ours = cluster.to_owned();
            return Err(StoreError::OtherCluster { path, theirs: meta.cluster, ours });
        }
        store.cluster_id = meta.cluster_id;
        Ok(store)
    }

    /// The same by links of its own, whose calls take as long as that at each endpoint.
    pub(super) fn another(&self, call_max: Duration) -> EtcdStore {
        let (gateway, prefix) = (self.gateway.another(call_max), self.prefix.clone());
        EtcdStore { gateway, prefix, ..*self }
    }

    /// The same for who leads in a term.
    pub(super) fn in_term(&self, term: Term) -> EtcdStore {
        EtcdStore { writer: term.writer, term: Some(term), ..self.another(CALL_MAX) }
    }

    /// The number that was drawn for whoever opened it.
    pub(super) fn writer(&self) -> u64 {
        self.writer
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("etcd:{}", self.prefix))
    }

    pub(super) fn key(&self, name: &str) -> String {
        to_base64(format!("{}{name}", self.prefix).as_bytes())
    }

    pub(super) fn call(&mut self, path: &str, body: &Value) -> Result<Value, StoreError> {
        self.gateway.call(path, body).map_err(|error| match error {
            CallError::Unreachable(what) => StoreError::Unreachable { what },
            CallError::Denied(what) => StoreError::Disk { path: self.path(), what },
        })
    }

    pub(super) fn damaged(&self, name: &str, what: &str) -> StoreError {
        StoreError::Damaged { path: self.path(), what: format!("{name} {what}") }
    }

    /// The value of a key; none: there is no such key.
    fn get<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, StoreError> {
        let key = self.key(name);
        let answer = self.call("/v3/kv/range", &json!({"key": key}))?;
        self.value(name, &answer)
    }

    /// The value that an answer to a range of one key has.
    pub(super) fn value<T: DeserializeOwned>(
        &self,
        name: &str,
        answer: &Value,
    ) -> Result<Option<T>, StoreError> {
        let Some(value) = answer.pointer("/kvs/0/value") else { return Ok(None) };
        let bytes = value.as_str().and_then(from_base64);
        let bytes = bytes.ok_or_else(|| self.damaged(name, "is no base64"))?;
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|error| self.damaged(name, &error.to_string()))
    }

    fn entry(&mut self, epoch: u64) -> Result<Entry, StoreError> {
        let name = entry_name(epoch);
        let Some(record) = self.get::<Record>(&name)? else {
            return Err(self.damaged(&name, "is missing"));
        };
        let checked = record.entry.placement.check();
        checked.map_err(|error| self.damaged(&name, &error.to_string()))?;
        if record.entry.placement.epoch.get() != epoch {
            return Err(self.damaged(&name, "has another epoch"));
        }
        Ok(record.entry)
    }

    /// Writes a value and its count in one step, if the store has the count before and this
    /// writer's term still is the newest. Else the count that the store has.
    fn commit<T: PartialEq + Serialize + DeserializeOwned>(
        &mut self,
        write: Counted<'_, T>,
    ) -> Result<Result<(), u64>, StoreError> {
        let Counted { counter, before, count, name, value, dropped } = write;
        let (counter_key, key, term_key) = (self.key(counter), self.key(name), self.key(Term::KEY));
        let equals = |key: &str, value: String| {
            let (target, result) = ("VALUE", "EQUAL");
            json!({"key": key, "target": target, "result": result, "value": value})
        };
        let mut compare = vec![match before {
            0 => json!({
                "key": counter_key, "target": "VERSION", "result": "EQUAL", "version": "0",
            }),
            before => equals(&counter_key, to_json(&before)),
        }];
        compare.extend(self.term.map(|term| equals(&term_key, to_json(&term))));
        let mut success = vec![put(&counter_key, &to_json(&count)), put(&key, &to_json(value))];
        let drop = |name| json!({"requestDeleteRange": {"key": self.key(name)}});
        success.extend(dropped.iter().map(String::as_str).map(drop));
        let failure = json!([
            {"requestRange": {"key": counter_key}}, {"requestRange": {"key": key}},
            {"requestRange": {"key": term_key}},
        ]);
        let body = json!({"compare": compare, "success": success, "failure": failure});
        let answer = self.call("/v3/kv/txn", &body)?;
        if answer.get("succeeded") == Some(&Value::Bool(true)) {
            return Ok(Ok(()));
        }
        let found = |at: usize| response(&answer, at).unwrap_or(&Value::Null);
        let theirs: Option<u64> = self.value(counter, found(0))?;
        let there: Option<T> = self.value(name, found(1))?;
        let term: Option<Term> = self.value(Term::KEY, found(2))?;
        if theirs == Some(count) && there.as_ref() == Some(value) {
            return Ok(Ok(())); // An earlier attempt, whose answer was lost.
        }
        if let Some(ours) = self.term
            && term != Some(ours)
        {
            let theirs = term.map_or(0, |term| term.term);
            return Err(StoreError::Fenced { ours: ours.term, theirs });
        }
        Ok(Err(theirs.unwrap_or(0)))
    }

    fn newest_epoch(&mut self) -> Result<u64, StoreError> {
        Ok(self.get("newest")?.unwrap_or(0))
    }
}

/// Keys of jobs' records begin so, and what comes after all of them.
const JOBS: &str = "jobs/";
const JOBS_END: &str = "jobs0";

fn job_name(job: &str) -> String {
    format!("{JOBS}{job}")
}

/// Where the version of a job's record stands by itself, so that it can be compared.
fn version_name(job: &str) -> String {
    format!("job-versions/{job}")
}

fn entry_name(epoch: u64) -> String {
    format!("entries/{epoch:0EPOCH_DIGITS$}")
}

pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    // Structures of numbers, text and lists: nothing of them can fail to be JSON.
    to_base64(&serde_json::to_vec(value).expect("plain values"))
}

pub(super) fn put(key: &str, value: &str) -> Value {
    json!({"requestPut": {"key": key, "value": value}})
}

/// What the range of this number in a transaction has found.
pub(super) fn response(answer: &Value, at: usize) -> Option<&Value> {
    let range = answer.pointer(&format!("/responses/{at}/response_range"));
    range.or_else(|| answer.pointer(&format!("/responses/{at}/responseRange")))
}

impl Store for EtcdStore {
    fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    fn newest(&mut self) -> Result<Option<Entry>, StoreError> {
        match self.newest_epoch()? {
            0 => Ok(None),
            epoch => self.entry(epoch).map(Some),
        }
    }

    fn append(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let epoch = entry.placement.epoch.get();
        let record = Record { writer: self.writer, entry: entry.clone() };
        let before = epoch.saturating_sub(1);
        let oldest = epoch.checked_sub(HISTORY_MAX);
        let kept = self.commit(Counted {
            counter: "newest",
            before,
            count: epoch,
            name: &entry_name(epoch),
            value: &record,
            dropped: oldest.map(entry_name).into_iter().collect(),
        })?;
        let (ours, theirs) = (Epoch::new(before), Epoch::new);
        kept.map_err(|found| StoreError::Conflict { ours, theirs: theirs(found) })
    }

    fn history(&mut self, count_max: usize) -> Result<Vec<(Epoch, String)>, StoreError> {
        let newest = self.newest_epoch()?;
        let oldest = newest.saturating_sub(HISTORY_MAX.min(count_max as u64));
        let mut history = Vec::new();
        for epoch in (oldest + 1..=newest).rev() {
            let entry = self.entry(epoch)?;
            history.push((entry.placement.epoch, entry.placement.cause));
        }
        Ok(history)
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>, StoreError> {
        let (from, to) = (self.key(JOBS), self.key(JOBS_END));
        let answer = self.call("/v3/kv/range", &json!({"key": from, "range_end": to}))?;
        let pairs = answer.get("kvs").and_then(Value::as_array).cloned().unwrap_or_default();
        let job = |pair: &Value| {
            let job: Option<JobRecord> = self.value(JOBS, &json!({"kvs": [pair]}))?;
            let job = job.ok_or_else(|| self.damaged(JOBS, "has no value"))?;
            let name = pair.get("key").and_then(Value::as_str).and_then(from_base64);
            let name = name.and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
            let name = name.rsplit('/').next().unwrap_or_default();
            job.check(name).map_err(|what| self.damaged(&job_name(name), &what))?;
            Ok(job)
        };
        pairs.iter().map(job).collect()
    }

    fn keep_job(&mut self, write: &JobWrite) -> Result<(), StoreError> {
        let JobWrite { record, after, forgotten } = write;
        let job = record.name.as_str();
        let both = |job: &String| [job_name(job), version_name(job)];
        let kept = self.commit(Counted {
            counter: &version_name(job),
            before: *after,
            count: record.version,
            name: &job_name(job),
            value: record,
            dropped: forgotten.iter().flat_map(both).collect(),
        })?;
        let (job, ours) = (job.to_owned(), *after);
        kept.map_err(|theirs| StoreError::JobConflict { job, ours, theirs })
    }
}
