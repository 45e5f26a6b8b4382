//! Checkpoints in an object store over a network: S3, as `moto_server` speaks it. Built with
//! `--features s3`; where moto is not installed, skipped.
//!
//! Owns the store's process, and a gate in front of it that can be shut, as a network that is cut.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::etcd::free_port;
use crate::restoring::{Begin, NAME, STEPS_FIRST, sum_at_cut};
use crate::{Files, processes, run, run_well, skipped, stderr, wait_for};

/// The program of the package of that name.
const MOTO: &str = "moto_server";
const BUCKET: &str = "checkpoints";
const KEYS: u64 = 5000;

/// The store, which forgets all with its process.
struct Moto {
    _process: processes::Running,
    address: String,
}

impl Moto {
    /// Starts one and makes a bucket.
    fn start(files: &Files) -> Moto {
        let address = format!("127.0.0.1:{}", free_port());
        let (host, port) = address.split_once(':').expect("just put together");
        let log = File::create(files.path("moto.log")).expect("a log");
        let process = processes::Running::start_into(
            Command::new(MOTO).args(["-H", host, "-p", port]).stdin(std::process::Stdio::null()),
            log,
        );
        let moto = Moto { _process: process, address };
        wait_for("bucket", || moto.make_bucket().ok().filter(|answer| answer.contains(" 200 ")));
        moto
    }

    fn make_bucket(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let host = &self.address;
        write!(stream, "PUT /{BUCKET} HTTP/1.0\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A way to a place that can be shut: then connections end, and new ones do at once.
struct Gate {
    address: String,
    is_shut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn before(place: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (is_shut, open) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let gate = Gate { address, is_shut: Arc::clone(&is_shut), open: Arc::clone(&open) };
        let place = place.to_owned();
        // It ends with the tests' process.
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_shut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(&place) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (mut from, mut to) = (from.expect("a file"), to.expect("a file"));
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                open.lock().expect("no panic").extend([near, far]);
            }
        });
        gate
    }

    fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
    }
}

fn settings(files: &Files, address: &str) -> String {
    let text = format!(
        "aws_endpoint = \"http://{address}\"\naws_allow_http = \"true\"\n\
         aws_region = \"us-east-1\"\naws_access_key_id = \"nobody\"\n\
         aws_secret_access_key = \"nothing\"\n"
    );
    files.file("store.toml", text)
}

/// The newest checkpoint's number and verdict, and those of the others.
fn verified(place: &str, config: &str) -> Vec<(u64, String)> {
    let said = run_well(&["checkpoint", "verify", place, "--store-config", config, "--json"]);
    let all: Value = serde_json::from_str(&said).expect("one line of JSON");
    let one = |one: &Value| {
        let verdict = one["verdict"].as_str().expect("a verdict").to_owned();
        (one["number"].as_u64().expect("a number"), verdict)
    };
    all.as_array().expect("a list").iter().map(one).collect()
}

#[test]
fn checkpoints_in_an_object_store_outlive_its_absence_and_a_cluster_begins_from_one() {
    let test = "checkpoints_in_an_object_store_outlive_its_absence_and_a_cluster_begins_from_one";
    if !Command::new(MOTO).arg("--help").output().is_ok_and(|output| output.status.success()) {
        return skipped(test, "no moto_server here: pip install 'moto[server]'");
    }
    let files = Files::new();
    let moto = Moto::start(&files);
    let gate = Gate::before(&moto.address);
    let config = settings(&files, &gate.address);
    let place = format!("s3://{BUCKET}/{NAME}");
    let stored = ["--checkpoints", &place, "--store-config", &config];
    let begin = |data: &str, servers| Begin {
        servers,
        shards: 4,
        replicas: 2,
        serve: vec!["--store-config".to_owned(), config.clone()],
        ..Begin::new(files.path(data))
    };
    let first = begin("data", 2).running(&stored);
    let load = first.load(1, KEYS, u64::MAX);
    assert_eq!(first.take_well()["number"], 1);
    gate.shut();
    let output = first.take();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&place), "{}", stderr(&output));
    let away = run(&["checkpoint", "list", &place, "--store-config", &config]);
    assert_eq!(away.status.code(), Some(1), "{}", stderr(&away));
    load.wait_steps(load.steps() + STEPS_FIRST);
    gate.open();
    assert_eq!(verified(&place, &config), [(1, "good".to_owned())]);
    let taken = first.take_well();
    let number = taken["number"].as_u64().expect("a number");
    assert!(number > 1, "{taken}");
    let both = [(1, "good".to_owned()), (number, "good".to_owned())];
    assert_eq!(verified(&place, &config), both);
    first.kill();
    load.join();
    let restore = ["--restore", place.as_str(), "--store-config", &config];
    let second = begin("again", 3).running(&restore);
    second.wait_restored();
    second.check(1, KEYS, sum_at_cut(&taken));
    second.kill();
}
