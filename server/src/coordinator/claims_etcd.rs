//! Claims in etcd: one key that is written over by whoever saw it last.
//!
//! Owns the transaction, which compares the key's revision. Speaking to etcd is left to `gateway`,
//! the log to `store_etcd`.
//!
//! Invariant: a new term is written in the same transaction as the claim that begins it, so that a
//! log of an older term appends nothing afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use super::claims::{Claim, Claims};
use super::store::{Store, StoreError};
use super::store_etcd::{EtcdStore, Term, put, response, to_json};

/// How long one endpoint may take to answer: well below the time after which others take over.
const CALL_MAX: Duration = Duration::from_millis(300);

/// The key of the newest claim.
const CLAIM: &str = "claim";

/// Where coordinators claim in etcd.
#[derive(Debug)]
pub struct EtcdClaims {
    store: EtcdStore,
    /// The revision of the claim that was seen last; 0: there was none.
    revision: u64,
    /// The term that was seen last.
    term: u64,
}

impl EtcdClaims {
    /// Where the coordinators of a log claim.
    pub fn of(store: &EtcdStore) -> EtcdClaims {
        EtcdClaims { store: store.another(CALL_MAX), revision: 0, term: 0 }
    }

    /// Notes what an answer to a range shows.
    fn seen(&mut self, range: &Value) -> Result<Option<Claim>, StoreError> {
        let claim: Option<Claim> = self.store.value(CLAIM, range)?;
        let pair = range.pointer("/kvs/0");
        let revision = pair.and_then(|it| it.get("mod_revision").or_else(|| it.get("modRevision")));
        self.revision = match (&claim, number(revision)) {
            (None, _) => 0,
            (Some(_), Some(revision)) => revision,
            (Some(_), None) => return Err(self.store.damaged(CLAIM, "has no revision")),
        };
        self.term = claim.as_ref().map_or(0, |claim| claim.term);
        Ok(claim)
    }
}

/// A number of etcd's, which its gateway writes as text.
fn number(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

impl Claims for EtcdClaims {
    fn cluster_id(&self) -> u64 {
        self.store.cluster_id()
    }

    fn writer(&self) -> u64 {
        self.store.writer()
    }

    fn newest(&mut self) -> Result<Option<Claim>, StoreError> {
        let key = self.store.key(CLAIM);
        let answer = self.store.call("/v3/kv/range", &json!({"key": key}))?;
        self.seen(&answer)
    }

    fn replace(&mut self, next: &Claim) -> Result<Option<Claim>, StoreError> {
        let key = self.store.key(CLAIM);
        let revision = self.revision.to_string();
        let compare =
            json!([{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}]);
        let mut success = vec![put(&key, &to_json(next))];
        if next.term != self.term {
            let term = Term { term: next.term, writer: next.writer };
            success.push(put(&self.store.key(Term::KEY), &to_json(&term)));
        }
        let failure = json!([{"requestRange": {"key": key}}]);
        let body = json!({"compare": compare, "success": success, "failure": failure});
        let answer = self.store.call("/v3/kv/txn", &body)?;
        if answer.get("succeeded") != Some(&Value::Bool(true)) {
            return self.seen(response(&answer, 0).unwrap_or(&Value::Null));
        }
        let revision = number(answer.pointer("/header/revision"));
        self.revision = revision.ok_or_else(|| self.store.damaged(CLAIM, "has no revision"))?;
        self.term = next.term;
        Ok(Some(next.clone()))
    }

    fn log(&self, term: u64) -> Box<dyn Store> {
        Box::new(self.store.in_term(Term { term, writer: self.store.writer() }))
    }
}
