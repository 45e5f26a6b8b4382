//! The log of placements in a real etcd, where the program `etcd` is installed.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gradwire_server::coordinator::{
    Claim, Claims, Entry, EtcdClaims, EtcdStore, HISTORY_MAX, JobRecord, JobWrite, Store,
    StoreError,
};
use tempfile::TempDir;
use wire::{Epoch, Placement};

/// Longer than an etcd takes to begin on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Etcd {
    process: Child,
    endpoint: String,
    data: TempDir,
}

impl Etcd {
    /// Starts one; none, and a line that says so, where it is not installed.
    fn start(test: &str) -> Option<Etcd> {
        let data = tempfile::tempdir().expect("a directory");
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").to_string()
        };
        let (endpoint, peer) = (free(), free());
        let started = run(&data, &endpoint, &peer);
        let Ok(process) = started else {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: etcd is not installed");
            return None;
        };
        Some(Etcd { process, endpoint, data })
    }

    fn open(&self) -> EtcdStore {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match EtcdStore::open(vec![self.endpoint.clone()], "ctr") {
                Ok(store) => return store,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = &self.data;
    }
}

fn run(data: &TempDir, endpoint: &str, peer: &str) -> std::io::Result<Child> {
    let (client, peer) = (format!("http://{endpoint}"), format!("http://{peer}"));
    Command::new("etcd")
        .arg("--data-dir")
        .arg(data.path())
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn entry(epoch: u64) -> Entry {
    let cause = format!("cause {epoch}");
    let placement = Placement { epoch: Epoch::new(epoch), cause, ..Placement::default() };
    Entry { placement, numbers_given: epoch as u32, ..Entry::default() }
}

#[test]
fn of_two_coordinators_on_one_etcd_only_one_goes_on() {
    let Some(etcd) = Etcd::start("of_two_coordinators_on_one_etcd_only_one_goes_on") else {
        return;
    };
    let mut first = etcd.open();
    let mut second = etcd.open();
    assert_eq!(first.cluster_id(), second.cluster_id());
    assert_eq!(first.newest(), Ok(None));
    first.append(&entry(1)).expect("appended");
    let conflict = |ours, theirs| {
        Err(StoreError::Conflict { ours: Epoch::new(ours), theirs: Epoch::new(theirs) })
    };
    assert_eq!(second.append(&entry(1)), conflict(0, 1));
    assert_eq!(first.append(&entry(1)), Ok(()), "its own, whose answer was lost");
    assert_eq!(second.newest(), Ok(Some(entry(1))));
    second.append(&entry(2)).expect("it knows the newest");
    assert_eq!(first.append(&entry(2)), conflict(1, 2));
    assert_eq!(first.append(&entry(4)), conflict(3, 2));
    let last = HISTORY_MAX + 3;
    (3..=last).for_each(|epoch| second.append(&entry(epoch)).expect("appended"));
    let history = second.history(3).expect("read");
    let newest = [last, last - 1, last - 2].map(|one| (Epoch::new(one), format!("cause {one}")));
    assert_eq!(history, newest);
}

/// A job's record as the store has it.
fn job(name: &str, version: u64) -> JobRecord {
    let record = serde_json::json!({
        "name": name, "version": version, "id": 7, "workers": 2, "epochs": 1, "settings": [],
        "hosts": [], "places": [], "next": [version], "is_prepared": false, "stopped": null,
        "ended": null,
    });
    serde_json::from_value(record).expect("a record")
}

#[test]
fn a_job_is_kept_after_the_record_that_the_writer_knows_and_in_its_term_alone() {
    let test = "a_job_is_kept_after_the_record_that_the_writer_knows_and_in_its_term_alone";
    let Some(etcd) = Etcd::start(test) else { return };
    let write = |name: &str, after, version, forgotten: &[&str]| {
        let forgotten = forgotten.iter().map(|&name| name.to_owned()).collect();
        JobWrite { record: job(name, version), after, forgotten }
    };
    let mut claims = EtcdClaims::of(&etcd.open());
    let claim = |claims: &EtcdClaims, term| {
        let (writer, address) = (claims.writer(), None);
        Claim { term, beat: 1, writer, address, is_over: false }
    };
    assert_eq!(claims.newest(), Ok(None));
    let first = claim(&claims, 1);
    claims.replace(&first).expect("it leads");
    let mut log = claims.log(1);
    assert_eq!(log.jobs(), Ok(Vec::new()));
    log.keep_job(&write("a", 0, 2, &[])).expect("new");
    assert_eq!(log.keep_job(&write("a", 0, 2, &[])), Ok(()), "its own, whose answer was lost");
    log.keep_job(&write("b", 0, 1, &[])).expect("new");
    log.keep_job(&write("a", 2, 5, &[])).expect("the next one");
    let conflict = |ours, theirs| Err(StoreError::JobConflict { job: "a".into(), ours, theirs });
    assert_eq!(log.keep_job(&write("a", 2, 6, &[])), conflict(2, 5));
    assert_eq!(log.keep_job(&write("a", 0, 1, &[])), conflict(0, 5));
    assert_eq!(log.jobs(), Ok(vec![job("a", 5), job("b", 1)]));
    log.keep_job(&write("b", 1, 2, &["a"])).expect("the next one");
    assert_eq!(log.jobs(), Ok(vec![job("b", 2)]));
    log.keep_job(&write("a", 0, 1, &[])).expect("a name may be used again");
    let second = claim(&claims, 2);
    claims.replace(&second).expect("another term");
    let fenced = Err(StoreError::Fenced { ours: 1, theirs: 2 });
    assert_eq!(log.keep_job(&write("b", 2, 3, &[])), fenced);
    assert_eq!(claims.log(2).jobs(), Ok(vec![job("a", 1), job("b", 2)]));
}

#[test]
fn an_etcd_that_is_away_is_an_error_that_may_pass() {
    let Some(etcd) = Etcd::start("an_etcd_that_is_away_is_an_error_that_may_pass") else { return };
    let mut store = etcd.open();
    drop(etcd);
    let error = store.append(&entry(1)).expect_err("nobody answers");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

#[test]
fn of_two_claims_in_one_etcd_one_is_written_and_an_older_term_appends_nothing() {
    let test = "of_two_claims_in_one_etcd_one_is_written_and_an_older_term_appends_nothing";
    let Some(etcd) = Etcd::start(test) else { return };
    let (mut one, mut other) = (EtcdClaims::of(&etcd.open()), EtcdClaims::of(&etcd.open()));
    assert_eq!(one.cluster_id(), other.cluster_id());
    assert_eq!((one.newest(), other.newest()), (Ok(None), Ok(None)));
    let claim = |claims: &EtcdClaims, term, beat| {
        let (writer, address) = (claims.writer(), Some("h:1".to_owned()));
        Claim { term, beat, writer, address, is_over: false }
    };
    let first = claim(&one, 1, 1);
    assert_eq!(one.replace(&first), Ok(Some(first.clone())));
    assert_eq!(other.replace(&claim(&other, 1, 1)), Ok(Some(first)), "it saw none before");
    let again = claim(&one, 1, 2);
    assert_eq!(one.replace(&again), Ok(Some(again)));
    let mut log = one.log(1);
    log.append(&entry(1)).expect("it leads");
    let newest = other.newest().expect("read");
    assert_eq!(newest.map(|claim| claim.beat), Some(2));
    let second = claim(&other, 2, 1);
    assert_eq!(other.replace(&second), Ok(Some(second.clone())));
    assert_eq!(log.append(&entry(2)), Err(StoreError::Fenced { ours: 1, theirs: 2 }));
    assert_eq!(one.replace(&claim(&one, 1, 3)), Ok(Some(second)), "it is told who leads");
    let mut next = other.log(2);
    assert_eq!(next.newest(), Ok(Some(entry(1))));
    assert_eq!(next.append(&entry(2)), Ok(()));
}
