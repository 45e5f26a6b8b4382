//! Servers as child processes, alone or as a cluster with a coordinator that places shards on them.
//!
//! Owns what they are told, and waiting until they listen and each shard has all of its replicas.
//! What befalls them is left to whoever started them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernels::Isa;
use launch::{ChildEvent, Children};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;
use wire::Placement;
use worker::Watch;

use crate::failure::Failure;
use crate::flags::TransportFlag;
use crate::rdma::RdmaArgs;

/// How long a process may take to say that it is ready.
const READY_MAX: Duration = Duration::from_secs(20);

/// How long the cluster may take until every shard has all of its replicas.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// How often somebody looks at the newest placement.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a child that serves says when it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Where it listens, as a place.
    pub(crate) listen: String,
    /// Where its figures are, if they are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<String>,
}

/// What all servers of a run are told.
#[derive(Clone, Debug)]
pub(crate) struct ServerChildren {
    /// How their bytes move.
    pub(crate) transport: TransportFlag,
    pub(crate) rdma: RdmaArgs,
    pub(crate) isa: Isa,
    /// What one table may take on one shard.
    pub(crate) table_mib: Option<u64>,
    /// Threads that hold shards.
    pub(crate) cores: u16,
}

impl ServerChildren {
    /// Starts a server. [`wait_ready`] waits for it.
    ///
    /// - `more`: further arguments.
    pub(crate) fn spawn(
        &self,
        children: &mut Children,
        name: &str,
        listen: &str,
        more: &[&str],
    ) -> Result<usize, Failure> {
        let cores = self.cores.to_string();
        let log = LevelFilter::current().to_string();
        let mut words = vec!["serve", "--child", "--cores", &cores, "--listen", listen];
        if !more.contains(&"--log") {
            words.extend(["--log", &log]);
        }
        let (transport, isa) = (self.transport.to_string(), self.isa.level().to_string());
        words.extend(["--transport", &transport, "--isa", &isa]);
        words.extend(more);
        let mut arguments: Vec<String> = words.into_iter().map(str::to_owned).collect();
        arguments.extend(self.rdma.flags());
        if let Some(mib) = self.table_mib {
            arguments.extend(["--table-mib".to_owned(), mib.to_string()]);
        }
        children.spawn(name, &arguments, "").map_err(Failure::failed)
    }
}

/// Waits until these children say that they are ready: what they say, in their order. What others
/// say meanwhile is lost.
pub(crate) fn wait_ready(
    children: &mut Children,
    numbers: &[usize],
) -> Result<Vec<Ready>, Failure> {
    let until = Instant::now() + READY_MAX;
    let mut told: Vec<Option<Ready>> = numbers.iter().map(|_| None).collect();
    while let Some(waited_for) = told.iter().position(Option::is_none) {
        let left = until.saturating_duration_since(Instant::now());
        let Some((from, event)) = children.next(left) else {
            let (name, waited) = (children.child(numbers[waited_for]).name(), READY_MAX.as_secs());
            return Err(Failure::failed(format!("{name} is not ready after {waited} s")));
        };
        match (numbers.iter().position(|&number| number == from), event) {
            (Some(place), ChildEvent::Line(line)) => {
                told[place] = Some(serde_json::from_str(&line).map_err(Failure::failed)?);
            }
            (Some(_), ChildEvent::Ended) => {
                let name = children.child(from).name();
                return Err(Failure::failed(format!("{name} did not start")));
            }
            (None, _) => {} // Somebody who was killed has ended.
        }
    }
    Ok(told.into_iter().flatten().collect())
}

/// What a cluster of child processes is made of.
#[derive(Clone, Debug)]
pub(crate) struct ClusterProcessesSpec {
    /// What it is called.
    pub(crate) cluster: String,
    /// Where the coordinator keeps its log: a directory of this cluster's own.
    pub(crate) data: PathBuf,
    pub(crate) shards: u16,
    pub(crate) replicas: u8,
    pub(crate) servers: u16,
    /// Where an etcd answers that keeps the log instead; none: it lies in `data`.
    pub(crate) etcd: Vec<String>,
    /// Coordinators that stand by; they need an etcd.
    pub(crate) standbys: u16,
    pub(crate) children: ServerChildren,
}

/// The processes; killed when this is dropped.
pub(crate) struct ClusterProcesses {
    spec: ClusterProcessesSpec,
    pub(crate) children: Children,
    /// By coordinator: its child.
    pub(crate) coordinators: Vec<usize>,
    /// Where the coordinators listen.
    pub(crate) addresses: Vec<String>,
    /// The servers that nobody has killed.
    pub(crate) servers: Vec<usize>,
    started: u32,
}

impl ClusterProcesses {
    /// Starts all coordinators and servers, and removes the data of an earlier one.
    pub(crate) fn start(spec: ClusterProcessesSpec) -> Result<ClusterProcesses, Failure> {
        let (servers, coordinators) = (spec.servers, 1 + usize::from(spec.standbys));
        let mut cluster = ClusterProcesses {
            spec,
            children: Children::new(),
            coordinators: Vec::new(),
            addresses: Vec::new(),
            servers: Vec::new(),
            started: 0,
        };
        for _ in 0..coordinators {
            let (number, address) = cluster.start_coordinator("127.0.0.1:0")?;
            cluster.coordinators.push(number);
            cluster.addresses.push(address);
        }
        for _ in 0..servers {
            cluster.start_server()?;
        }
        Ok(cluster)
    }

    /// Starts a coordinator again where it listened.
    pub(crate) fn restart_coordinator(&mut self, which: usize) -> Result<(), Failure> {
        let address = self.addresses[which].clone();
        (self.coordinators[which], _) = self.start_coordinator(&address)?;
        Ok(())
    }

    /// What the cluster is called.
    pub(crate) fn name(&self) -> &str {
        &self.spec.cluster
    }

    /// Waits for a placement after this epoch in which nobody is missing.
    pub(crate) fn wait_whole(&self, placements: &Watch, after: u64) -> Result<(), Failure> {
        let until = Instant::now() + WHOLE_MAX;
        while Instant::now() < until {
            let newest = placements.newest();
            let is_whole = |placement: &Placement| {
                let replicas = usize::from(self.spec.replicas);
                placement.epoch.get() > after
                    && placement.servers.len() >= usize::from(self.spec.servers)
                    && placement
                        .chains
                        .iter()
                        .all(|chain| chain.replicas.len() >= replicas && chain.joining.is_none())
            };
            if newest.is_some_and(|placement| is_whole(&placement)) {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let waited = WHOLE_MAX.as_secs();
        Err(Failure::failed(format!("shards are without all of their replicas after {waited} s")))
    }

    /// Starts a coordinator: its child, and where it listens.
    fn start_coordinator(&mut self, listen: &str) -> Result<(usize, String), Failure> {
        let spec = &self.spec;
        let log = match spec.etcd.is_empty() {
            true => ("--data", spec.data.display().to_string()),
            false => ("--etcd", spec.etcd.join(",")),
        };
        let arguments = [
            ("--log", LevelFilter::current().to_string()),
            ("--listen", listen.to_owned()),
            log,
            ("--cluster", spec.cluster.clone()),
            ("--shards", spec.shards.to_string()),
            ("--replicas", spec.replicas.to_string()),
            ("--servers-min", spec.servers.to_string()),
        ];
        let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let words = ["coordinate".to_owned(), "--child".to_owned()];
        let arguments: Vec<String> = words.into_iter().chain(arguments).collect();
        let number = self.children.spawn("coordinator", &arguments, "").map_err(Failure::failed)?;
        let ready = wait_ready(&mut self.children, &[number])?.swap_remove(0);
        Ok((number, ready.listen))
    }

    /// Starts one more server.
    pub(crate) fn start_server(&mut self) -> Result<(), Failure> {
        self.started += 1;
        let name = format!("server-{}", self.started);
        let coordinators = self.addresses.join(",");
        let member = ["--coordinator", &coordinators, "--cluster", &self.spec.cluster];
        // As if each had a host of its own, for replicas lie on distinct ones.
        let named = ["--name", &name, "--host", &name];
        let more = [member, named].concat();
        let servers = &self.spec.children;
        let listen = match servers.transport {
            TransportFlag::Shm => format!("unix:{}", self.spec.data.join(&name).display()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let number = servers.spawn(&mut self.children, &name, &listen, &more)?;
        wait_ready(&mut self.children, &[number])?;
        self.servers.push(number);
        Ok(())
    }
}

impl Drop for ClusterProcesses {
    fn drop(&mut self) {
        // The children are killed by their own drop, after this; the log is of no use without them.
        let _ = std::fs::remove_dir_all(&self.spec.data);
    }
}
