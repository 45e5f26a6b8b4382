//! `gradwire bench crowd`: what a server loses to a thousand connections that do nothing and a
//! hundred that do harm.
//!
//! Owns the server, a process of its own, and the order of the measurement. The crowd and the
//! sessions that work meanwhile are left to the crate `bench`.
//!
//! Invariant: the sessions work all the time; rates with and without the crowd take turns, and a
//! figure is the median of the ratios of neighbours.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::{Crowd, CrowdLoad, CrowdTally, Spread, crowd_work};
use clap::Args;
use kernels::Isa;
use launch::Children;
use serde::Serialize;
use worker::{ConnectSpec, Dial, JobId, Place, WorkerId};

use crate::cli::TakingArgs;
use crate::failure::Failure;
use crate::files::raise_files_max;
use crate::flags::TransportFlag;
use crate::output::{complain, exactly_once, json, result};
use crate::processes::{ServerChildren, wait_ready};
use crate::push_pull::{COMMIT, command};
use crate::rdma::RdmaArgs;
use crate::reach::dial;
use crate::train::cluster::EPOCH;

/// How long a session may take to connect beside a crowd, and the server to show its figures.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How long the server has to take in, or to let go of, a crowd before it is measured.
const SETTLE: Duration = Duration::from_millis(500);

/// Sessions that work.
const SESSIONS: u32 = 2;

#[derive(Clone, Debug, Args)]
pub(crate) struct CrowdArgs {
    /// Connections that say hello and nothing more.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) idle: usize,
    /// Connections that do harm: half open, slow, full of garbage, deaf, greedy, in equal parts.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) hostile: usize,
    /// Shards of the server, a thread each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cores: u16,
    #[command(flatten)]
    pub(crate) taking: TakingArgs,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct CrowdReport {
    commit: &'static str,
    command: String,
    idle: usize,
    hostile: usize,
    keys_per_s_alone: Spread,
    keys_per_s_in_crowd: Spread,
    /// Of neighbouring measurements, in and without the crowd.
    ratio: Spread,
    /// What the server's process has in memory, in KiB, before the first crowd and in the last.
    server_kib_alone: u64,
    server_kib_in_crowd: u64,
    /// Idle connections that the server had closed by the end.
    idle_lost: usize,
    /// How often one that does harm was shut out.
    shut_out: u64,
    pushed: u64,
    lost: u64,
    doubled: u64,
}

/// The server under measurement; killed with its children.
struct Server {
    _children: Children,
    address: SocketAddr,
    metrics: String,
    id: u32,
}

/// Runs the command.
pub(crate) fn run(arguments: &CrowdArgs) -> Result<(), Failure> {
    raise_files_max();
    let server = Server::start(arguments.cores)?;
    let load = CrowdLoad::default();
    let spec = |worker| connect_spec(server.address, worker);
    let report = std::thread::scope(|scope| {
        let job = JobId::new(u64::from(std::process::id()));
        let work = |worker| {
            let load = &load;
            move || crowd_work(load, &spec(worker), job, SESSIONS)
        };
        let sessions: Vec<_> = (0..SESSIONS).map(|worker| scope.spawn(work(worker))).collect();
        let report = measure(arguments, &server, &load);
        load.over.store(true, Ordering::Relaxed);
        let mut sum = CrowdTally::default();
        for session in sessions {
            let tally = session.join().map_err(|_| Failure::failed("a session panicked"))?;
            let CrowdTally { pushed, lost, doubled } = tally.map_err(Failure::failed)?;
            sum.pushed += pushed;
            sum.lost += lost;
            sum.doubled += doubled;
        }
        let CrowdTally { pushed, lost, doubled } = sum;
        report.map(|report| CrowdReport { pushed, lost, doubled, ..report })
    })?;
    drop(server);
    if arguments.taking.json {
        json(&report)?;
    } else {
        report.lines().iter().try_for_each(|line| result(line))?;
    }
    exactly_once(report.lost, report.doubled)
}

fn measure(
    arguments: &CrowdArgs,
    server: &Server,
    load: &CrowdLoad,
) -> Result<CrowdReport, Failure> {
    let window = Duration::try_from_secs_f64(arguments.taking.seconds).map_err(Failure::usage)?;
    let rate = || {
        std::thread::sleep(SETTLE);
        let (began, before) = (Instant::now(), load.keys_pushed.load(Ordering::Relaxed));
        std::thread::sleep(window);
        let keys = load.keys_pushed.load(Ordering::Relaxed) - before;
        keys as f64 / began.elapsed().as_secs_f64()
    };
    let (mut alone, mut crowded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut in_crowd_kib, mut idle_lost, mut shut_out) = (0, 0, 0);
    let mut alone_kib = 0;
    for repeat in 1..=arguments.taking.repeats.max(1) {
        let before = rate();
        alone_kib = if repeat == 1 { server.resident_kib()? } else { alone_kib };
        let (idle, hostile) = (arguments.idle, arguments.hostile);
        let mut crowd = Crowd::gather(server.address, arguments.cores, idle, hostile)
            .map_err(Failure::failed)?;
        let within = rate();
        in_crowd_kib = server.resident_kib()?;
        idle_lost += idle - crowd.still_idle();
        shut_out += crowd.shut_out();
        drop(crowd);
        complain(&format!(
            "gradwire: {repeat}: {before:.0} keys/s alone, {within:.0} in the crowd"
        ));
        alone.push(before);
        crowded.push(within);
        ratios.push(within / before);
    }
    tracing::info!(page = server.page()?, "what the server shows in the end");
    Ok(CrowdReport {
        commit: COMMIT,
        command: command(),
        idle: arguments.idle,
        hostile: arguments.hostile,
        keys_per_s_alone: Spread::of(&alone),
        keys_per_s_in_crowd: Spread::of(&crowded),
        ratio: Spread::of(&ratios),
        server_kib_alone: alone_kib,
        server_kib_in_crowd: in_crowd_kib,
        idle_lost,
        shut_out,
        pushed: 0,
        lost: 0,
        doubled: 0,
    })
}

fn connect_spec(server: SocketAddr, worker: u32) -> ConnectSpec {
    ConnectSpec {
        places: vec![Place::Tcp(server.to_string())],
        epoch: EPOCH,
        dial: Dial { connect_max: ANSWER_MAX, ..dial(WorkerId::new(worker)) },
    }
}

impl Server {
    fn start(cores: u16) -> Result<Server, Failure> {
        let mut children = Children::new();
        let told = ServerChildren {
            transport: TransportFlag::Uring,
            rdma: RdmaArgs::default(),
            isa: Isa::detect(),
            table_mib: None,
            cores,
        };
        let more = ["--metrics", "127.0.0.1:0", "--log", "error"];
        let number = told.spawn(&mut children, "server", "127.0.0.1:0", &more)?;
        let ready = wait_ready(&mut children, &[number])?.swap_remove(0);
        let address = ready.listen.parse().map_err(Failure::failed)?;
        let metrics = ready.metrics.unwrap_or_default();
        let id = children.child(number).id();
        Ok(Server { _children: children, address, metrics, id })
    }

    /// What its process has in memory.
    fn resident_kib(&self) -> Result<u64, Failure> {
        let path = format!("/proc/{}/status", self.id);
        let status = std::fs::read_to_string(&path)
            .map_err(|error| Failure::failed(format!("{path}: {error}")))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        kib.ok_or_else(|| Failure::failed(format!("{path} has no VmRSS in kB")))
    }

    /// Its figures.
    fn page(&self) -> Result<String, Failure> {
        let mut page = String::new();
        let mut stream = TcpStream::connect(&self.metrics).map_err(Failure::failed)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(Failure::failed)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").map_err(Failure::failed)?;
        stream.read_to_string(&mut page).map_err(Failure::failed)?;
        Ok(page)
    }
}

impl CrowdReport {
    fn lines(&self) -> Vec<String> {
        let spread = |spread: &Spread| {
            format!("{:.3e} ({:.3e} to {:.3e})", spread.median, spread.min, spread.max)
        };
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        vec![
            format!("crowd                  {} idle, {} hostile", self.idle, self.hostile),
            format!("keys/s alone           {}", spread(&self.keys_per_s_alone)),
            format!("keys/s in the crowd    {}", spread(&self.keys_per_s_in_crowd)),
            format!(
                "ratio                  {:.3} ({:.3} to {:.3})",
                self.ratio.median, self.ratio.min, self.ratio.max
            ),
            format!("server MiB alone       {}", mib(self.server_kib_alone)),
            format!("server MiB in crowd    {}", mib(self.server_kib_in_crowd)),
            format!("idle ones lost         {}", self.idle_lost),
            format!("hostile ones shut out  {}", self.shut_out),
            format!("keys pushed            {}", self.pushed),
            format!("lost, doubled          {}, {}", self.lost, self.doubled),
        ]
    }
}
