//! A cluster of child processes: a coordinator, and servers that it names by placements.
//!
//! Owns starting them and waiting until each shard has all of its replicas. What befalls them is
//! left to whoever started them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use launch::{ChildEvent, Children};
use wire::Placement;
use worker::Placements;

use crate::failure::Failure;
use crate::flags::TransportFlag;
use crate::rdma::RdmaArgs;
use crate::train::cluster::Ready;

/// How long a process may take to say that it is ready.
const READY_MAX: Duration = Duration::from_secs(20);

/// How long the cluster may take until every shard has all of its replicas.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// How often somebody looks at the newest placement.
const LOOK_EVERY: Duration = Duration::from_millis(2);

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
    /// How the servers' bytes move.
    pub(crate) transport: TransportFlag,
    pub(crate) rdma: RdmaArgs,
    pub(crate) table_mib: Option<u64>,
}

/// The processes; killed when this is dropped.
pub(crate) struct ClusterProcesses {
    spec: ClusterProcessesSpec,
    pub(crate) children: Children,
    pub(crate) coordinator: usize,
    /// Where the coordinator listens.
    pub(crate) address: String,
    /// The servers that nobody has killed.
    pub(crate) servers: Vec<usize>,
    started: u32,
}

impl ClusterProcesses {
    /// Starts a coordinator and all servers, and removes the data of an earlier one.
    pub(crate) fn start(spec: ClusterProcessesSpec) -> Result<ClusterProcesses, Failure> {
        let servers = spec.servers;
        let mut cluster = ClusterProcesses {
            spec,
            children: Children::new(),
            coordinator: 0,
            address: String::new(),
            servers: Vec::new(),
            started: 0,
        };
        cluster.start_coordinator("127.0.0.1:0")?;
        for _ in 0..servers {
            cluster.start_server()?;
        }
        Ok(cluster)
    }

    /// Starts the coordinator again where it listened.
    pub(crate) fn restart_coordinator(&mut self) -> Result<(), Failure> {
        let address = self.address.clone();
        self.start_coordinator(&address)
    }

    /// Waits for a placement after this epoch in which nobody is missing.
    pub(crate) fn wait_whole(
        &self,
        placements: &Arc<dyn Placements>,
        after: u64,
    ) -> Result<(), Failure> {
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

    fn start_coordinator(&mut self, listen: &str) -> Result<(), Failure> {
        let spec = &self.spec;
        let data = spec.data.display().to_string();
        let arguments = [
            ("--listen", listen.to_owned()),
            ("--data", data),
            ("--cluster", spec.cluster.clone()),
            ("--shards", spec.shards.to_string()),
            ("--replicas", spec.replicas.to_string()),
            ("--servers-min", spec.servers.to_string()),
        ];
        let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let words = ["coordinate".to_owned(), "--child".to_owned()];
        let arguments: Vec<String> = words.into_iter().chain(arguments).collect();
        let (number, ready) = self.start_child("coordinator", &arguments)?;
        (self.coordinator, self.address) = (number, ready);
        Ok(())
    }

    /// Starts one more server.
    pub(crate) fn start_server(&mut self) -> Result<(), Failure> {
        self.started += 1;
        let name = format!("server-{}", self.started);
        let transport = self.spec.transport.to_string();
        let listen = match self.spec.transport {
            TransportFlag::Shm => format!("unix:{}", self.spec.data.join(&name).display()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let arguments = [
            ("--listen", &*listen),
            ("--cores", "1"),
            ("--transport", &transport),
            ("--coordinator", &self.address),
            ("--cluster", &self.spec.cluster),
            ("--name", &name),
            // As if each had a host of its own, for replicas lie on distinct ones.
            ("--host", &name),
        ];
        let arguments =
            arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
        let words = ["serve".to_owned(), "--child".to_owned()];
        let mut arguments: Vec<String> = words.into_iter().chain(arguments).collect();
        arguments.extend(self.spec.rdma.flags());
        if let Some(mib) = self.spec.table_mib {
            arguments.extend(["--table-mib".to_owned(), mib.to_string()]);
        }
        let (number, _) = self.start_child(&name, &arguments)?;
        self.servers.push(number);
        Ok(())
    }

    /// Starts this program with these arguments and wait until it says where it listens.
    fn start_child(
        &mut self,
        name: &str,
        arguments: &[String],
    ) -> Result<(usize, String), Failure> {
        let number = self.children.spawn(name, arguments, "").map_err(Failure::failed)?;
        let until = Instant::now() + READY_MAX;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.children.next(left) {
                Some((from, ChildEvent::Line(line))) if from == number => {
                    let ready: Ready = serde_json::from_str(&line).map_err(Failure::failed)?;
                    return Ok((number, ready.listen));
                }
                Some((from, ChildEvent::Ended)) if from == number => break,
                _ => {} // Somebody who was killed has ended.
            }
        }
        let name = self.children.child(number).name();
        Err(Failure::failed(format!("{name} did not start")))
    }
}

impl Drop for ClusterProcesses {
    fn drop(&mut self) {
        // The children are killed by their own drop, after this; the log is of no use without them.
        let _ = std::fs::remove_dir_all(&self.spec.data);
    }
}
