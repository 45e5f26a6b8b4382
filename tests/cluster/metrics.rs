//! Figures: what processes show to Prometheus, beside the page that lists it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::{gradwire, root, run_well, train, wait_for};

/// A process that tells where its figures are; dropped, it is killed.
pub(crate) struct Shown {
    process: Child,
    /// A child ends with its standard input.
    _stdin: Option<ChildStdin>,
    pub(crate) listen: String,
    pub(crate) metrics: String,
}

impl Shown {
    /// Starts a server or a coordinator that says as JSON where it is.
    pub(crate) fn start(arguments: &[&str]) -> Shown {
        Shown::of(gradwire(arguments))
    }

    /// The same of a command that ends with such arguments.
    pub(crate) fn of(mut command: Command) -> Shown {
        command.args(["--child", "--metrics", "127.0.0.1:0"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program runs");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("one line of JSON");
        let text = |name: &str| ready[name].as_str().expect("an address").to_owned();
        let (listen, metrics, _stdin) = (text("listen"), text("metrics"), process.stdin.take());
        Shown { process, _stdin, listen, metrics }
    }

    /// The sum of a figure's samples whose labels contain `labels`.
    pub(crate) fn figure(&self, name: &str, labels: &str) -> f64 {
        self.try_figure(name, labels).expect("it listens")
    }

    /// The same; none if it cannot be asked.
    pub(crate) fn try_figure(&self, name: &str, labels: &str) -> Option<f64> {
        figure_at(&self.metrics, name, labels)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A run that never ends and shows how far it is; dropped, it is killed.
pub(crate) struct Running {
    process: Child,
    metrics: String,
    log: Option<JoinHandle<usize>>,
}

impl Running {
    /// Starts one that learns from random rows.
    pub(crate) fn start(arguments: &[&str]) -> Running {
        let endless = ["train", "--train", "gen:criteo?rows=1000000000", "--log", "info"];
        let mut command = gradwire(&[&endless[..], &["--metrics", "127.0.0.1:0"]].concat());
        command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn().expect("it runs");
        let mut said = BufReader::new(process.stderr.take().expect("piped")).lines();
        let shows = |line: &std::io::Result<String>| {
            line.as_ref().is_ok_and(|line| line.contains("figures are shown"))
        };
        let line = said.find(shows).expect("it says where").expect("text");
        let metrics = line.rsplit("address=").next().expect("at the end").trim().to_owned();
        let log = Some(std::thread::spawn(move || said.count()));
        Running { process, metrics, log }
    }

    /// Waits until it has learned from so many rows. How many they are.
    pub(crate) fn wait_for_rows(&self, rows_min: f64) -> f64 {
        wait_for("rows that were learned from", || {
            let page = page(&self.metrics).expect("it listens");
            let rows =
                page.lines().find_map(|line| line.strip_prefix("gradwire_train_rows_total "));
            rows.expect("a figure").parse().ok().filter(|&rows: &f64| rows >= rows_min)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.log.take().map(JoinHandle::join);
    }
}

/// The sum of a figure's samples whose labels contain `labels`, at an address; none if nobody
/// answers.
pub(crate) fn figure_at(address: &str, name: &str, labels: &str) -> Option<f64> {
    let page = page(address)?;
    let samples = page.lines().filter(|line| {
        let is_it = |rest: &str| rest.starts_with([' ', '{']);
        line.strip_prefix(name).is_some_and(is_it) && line.contains(labels)
    });
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    Some(samples.map(|line| value(line).expect("a number")).sum())
}

/// The page of figures at an address; none if nobody answers.
fn page(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "the page is whole");
    Some(answer)
}

/// Figures and their kinds as a page has them.
fn shown(page: &str) -> BTreeSet<(String, String)> {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let family = |line: &str| {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        let end = if kind == "counter" { "_total" } else { "" };
        (format!("{name}{end}"), kind.to_owned())
    };
    families.map(family).collect()
}

/// The same as the document lists them for a command.
fn documented(command: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).expect("it is there");
    let head = format!("\n## {command}\n");
    let section = text.split(&head).nth(1).expect("a section for each command");
    let section = section.split("\n## ").next().expect("its own part");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |line: &str| {
        let (name, rest) = line.split_once("` | ").expect("a name");
        (name.to_owned(), rest.split(" |").next().expect("a kind").to_owned())
    };
    rows.map(row).collect()
}

#[test]
fn what_is_listed_is_shown_and_what_is_shown_is_listed() {
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().to_str().expect("text");
    let coordinate = ["coordinate", "--listen", "127.0.0.1:0", "--data", data];
    let cluster = ["--shards", "2", "--replicas", "2", "--same-host-ok"];
    let coordinator = Shown::start(&[&coordinate[..], &cluster].concat());
    let serve = ["serve", "--listen", "127.0.0.1:0", "--cores", "1"];
    let serve = [&serve[..], &["--coordinator", &coordinator.listen]].concat();
    let servers = [Shown::start(&serve), Shown::start(&serve)];
    train(&["--coordinator", &coordinator.listen]);
    let figures = |of: &Shown| shown(&page(&of.metrics).expect("it listens"));
    assert_eq!(figures(&servers[0]), documented("serve"));
    assert_eq!(figures(&coordinator), documented("coordinate"));
    let pushed = || servers.iter().map(|one| one.figure("gradwire_keys_pushed_total", "")).sum();
    wait_for("keys that were pushed", || Some(pushed()).filter(|&keys: &f64| keys > 0.0));
    for server in &servers {
        wait_for("a chain without a lag", || {
            (server.figure("gradwire_chain_lag_operations", "") == 0.0).then_some(())
        });
        assert!(server.figure("gradwire_chain_operations", "") > 0.0, "both hold both shards");
        assert_eq!(server.figure("gradwire_coordinator_linked", ""), 1.0);
    }
    assert_eq!(coordinator.figure("gradwire_cluster_servers", "state=\"fit\""), 2.0);
    assert!(coordinator.figure("gradwire_cluster_epoch_changes_total", "cause=\"first\"") >= 1.0);
    let status = ["status", "--json", "--coordinator", &coordinator.listen];
    wait_for("what both servers hold, from the coordinator", || {
        let status: Value = serde_json::from_str(&run_well(&status)).expect("JSON");
        let has_said = |server: &Value| {
            let work = &server["work"];
            work["rows"].as_u64() > Some(0) && work["held_bytes"].as_u64() > Some(0)
        };
        let servers = status["servers"].as_array()?;
        (servers.len() == 2 && servers.iter().all(has_said)).then_some(())
    });
}

#[test]
fn a_run_shows_how_far_it_is() {
    let run = Running::start(&[]);
    assert!(run.wait_for_rows(1.0) > 0.0);
    assert_eq!(shown(&page(&run.metrics).expect("it listens")), documented("train"));
}
