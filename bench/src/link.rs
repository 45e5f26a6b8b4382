//! A bare link, by RDMA verbs or by a transport: bandwidth, messages a second, and how long one
//! takes, by size.
//!
//! Owns the spec, the order of a run and its rows. What the two ends say to each other is left to
//! `control`, the work by verbs to `verbs`, that by transports to `roofs`.
//!
//! Invariant: sizes take turns, and a figure is the median over repeats.

mod control;
mod error;
mod verbs;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use server::Exposure;
use transport::verbs::VerbsSettings;
use transport::{Limits, tcp};
use wire::{FRAME_BYTES_MAX, HEADER_BYTES};

use crate::error::{BenchError, SpecError};
use crate::format::{columns, grouped};
use crate::machine::Machine;
use crate::roofs::{Wire, serve_far};
use crate::spec::{Carrier, REPEATS_MAX, SECONDS_MAX, check, check_real};
use crate::stats::Spread;
use control::{Control, Hello};
pub use error::LinkError;
use verbs::Client;

/// What is measured if no size is named, in bytes.
pub const SIZES_BYTES: [usize; 8] =
    [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Longest message by verbs, in bytes: each end registers two.
const VERBS_BYTES_MAX: usize = 64 << 20;

/// Messages under way at most.
const IN_FLIGHT_MAX: usize = 1024;

/// How long a listening end waits for its client.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(600);

/// How bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkWay {
    /// RDMA verbs, a bare queue pair.
    Verbs,
    /// The transport of shared memory, within this process.
    Shm,
    /// The transport of TCP by io_uring.
    Uring,
    /// The transport of TCP by epoll.
    Epoll,
}

/// What verbs do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkWork {
    /// Write it into the peer's memory.
    Write,
    /// Send it into the peer's next receive.
    Send,
    /// Read it from the peer's memory.
    Read,
}

/// Where the two ends are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Two threads of this process.
    Both,
    /// The far end listens at this address, `host:port`.
    Client(String),
}

/// What is measured, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSpec {
    /// How bytes move.
    pub way: LinkWay,
    /// What verbs do; transports send messages.
    pub work: LinkWork,
    /// Lengths of messages, in bytes.
    pub sizes_bytes: Vec<usize>,
    /// Messages under way while bandwidth is measured, by verbs.
    pub in_flight: usize,
    /// Where the ends are.
    pub ends: Ends,
    /// How this end uses RDMA. Of several rails the first that is active is measured; of all, the
    /// one that has the link's address.
    pub verbs: VerbsSettings,
    /// How long each figure is measured in each repeat, in seconds.
    pub seconds: f64,
    /// Repeats.
    pub repeats: usize,
}

/// What came out for one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// How bytes moved.
    pub transport: LinkWay,
    /// What verbs did; none for a transport.
    pub operation: Option<LinkWork>,
    /// Length of a message, in bytes.
    pub size_bytes: usize,
    /// One way, median over repeats.
    pub bandwidth_bytes_per_s: f64,
    /// One way, median over repeats.
    pub messages_per_s: f64,
    /// One message alone on the link, in microseconds: half took no longer. Half of its way there
    /// and back; of a read, all of it.
    pub latency_us_p50: f64,
    /// The same: all but one of a hundred took no longer.
    pub latency_us_p99: f64,
    /// The RDMA device and port.
    pub device: Option<String>,
    /// Index and address of its GID.
    pub gid: Option<String>,
    /// How far repeats lie apart.
    pub bandwidth_spread: Spread,
    /// How far repeats lie apart.
    pub latency_us_p50_spread: Spread,
    /// Messages under way while bandwidth was measured; none where bytes are bounded instead.
    pub in_flight: Option<usize>,
    /// Repeats that medians are taken of.
    pub repeats: usize,
    /// The program's commit, as the caller tells it.
    pub commit: String,
    /// The command line, as the caller tells it.
    pub command: String,
    /// The machine.
    pub machine: Machine,
}

/// What one repeat measures of one size.
#[derive(Clone, Copy, Debug)]
struct Figures {
    bytes_per_s: f64,
    us_p50: f64,
    us_p99: f64,
}

impl LinkSpec {
    /// Whether this can be measured.
    ///
    /// Errors: the first field that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        let (min, max) = match self.way {
            LinkWay::Verbs => (1, VERBS_BYTES_MAX),
            _ => (HEADER_BYTES, FRAME_BYTES_MAX),
        };
        check("sizes", self.sizes_bytes.len(), 1, usize::MAX)?;
        self.sizes_bytes.iter().try_for_each(|&bytes| check("size", bytes, min, max))?;
        check("in_flight", self.in_flight, 1, IN_FLIGHT_MAX)?;
        check("repeats", self.repeats, 1, REPEATS_MAX)?;
        check_real("seconds", self.seconds, f64::MIN_POSITIVE, SECONDS_MAX)?;
        match (self.way, &self.ends) {
            (LinkWay::Shm, Ends::Client(_)) => Err(SpecError::OneProcess),
            _ => Ok(()),
        }
    }

    fn hello(&self) -> Hello {
        let longest = self.sizes_bytes.iter().copied().max().unwrap_or(1);
        let message_bytes_max = longest as u64;
        let in_flight = u32::try_from(self.in_flight).expect("checked");
        Hello { way: self.way, work: self.work, in_flight, message_bytes_max }
    }

    fn phase(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Measures a link, size by size in turns.
///
/// - `commit`, `command`: what the rows say of the program.
/// - `progress`: is told in words what happens.
/// - Errors: [`BenchError`].
pub fn run_link(
    spec: &LinkSpec,
    commit: &str,
    command: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<LinkRow>, BenchError> {
    spec.check()?;
    let machine = Machine::detect();
    let (mut link, far) = Link::open(spec)?;
    let mut figures = vec![Vec::with_capacity(spec.repeats); spec.sizes_bytes.len()];
    for number in 1..=spec.repeats {
        progress(&format!("repeat {number} of {}", spec.repeats));
        for (of_size, &bytes) in figures.iter_mut().zip(&spec.sizes_bytes) {
            of_size.push(link.measure(bytes, spec.phase())?);
        }
    }
    let (device, gid) = link.close()?;
    far.map_or(Ok(()), |far| far.join().unwrap_or(Ok(())))?;
    let row = |(&bytes, of_size): (&usize, &Vec<Figures>)| {
        let spread =
            |of: fn(&Figures) -> f64| Spread::of(&of_size.iter().map(of).collect::<Vec<_>>());
        let (bandwidth, latency) = (spread(|f| f.bytes_per_s), spread(|f| f.us_p50));
        let is_verbs = spec.way == LinkWay::Verbs;
        LinkRow {
            transport: spec.way,
            operation: is_verbs.then_some(spec.work),
            size_bytes: bytes,
            bandwidth_bytes_per_s: bandwidth.median,
            messages_per_s: bandwidth.median / bytes as f64,
            latency_us_p50: latency.median,
            latency_us_p99: spread(|f| f.us_p99).median,
            device: device.clone(),
            gid: gid.clone(),
            bandwidth_spread: bandwidth,
            latency_us_p50_spread: latency,
            in_flight: is_verbs.then_some(spec.in_flight),
            repeats: spec.repeats,
            commit: commit.to_owned(),
            command: command.to_owned(),
            machine: machine.clone(),
        }
    };
    Ok(spec.sizes_bytes.iter().zip(&figures).map(row).collect())
}

/// The far end for one client, on the calling thread, until that has measured.
///
/// - `listen`: `host:port`; port 0 takes a free one, which `progress` is told.
/// - `exposure`: whether other hosts may reach it.
/// - `verbs`: as in [`LinkSpec`], of this end.
/// - Errors: [`LinkError`]; also if no client comes for ten minutes.
pub fn serve_link(
    listen: &str,
    exposure: Exposure,
    verbs: VerbsSettings,
    progress: &mut dyn FnMut(&str),
) -> Result<(), LinkError> {
    let listener = server::listen(listen, exposure).map_err(LinkError::Listen)?;
    let address = listener.local_addr().map_err(LinkError::os("getsockname"))?;
    progress(&format!("listening on {address} for one client"));
    serve_one(&listener, verbs, Some(progress))
}

/// The table of a run.
pub fn render_link(rows: &[LinkRow]) -> String {
    let header = ["size_bytes", "MB_per_s", "messages_per_s", "latency_us_p50", "latency_us_p99"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        vec![
            row.size_bytes.to_string(),
            format!("{:.1}", row.bandwidth_bytes_per_s / 1e6),
            grouped(row.messages_per_s),
            format!("{:.2}", row.latency_us_p50),
            format!("{:.2}", row.latency_us_p99),
        ]
    }));
    let mut text = columns(&cells);
    if let Some(row) = rows.first() {
        let way = format!("{:?}", row.transport).to_lowercase();
        let work = row.operation.map_or(String::new(), |work| format!(" {work:?}").to_lowercase());
        let device = row.device.as_deref().map_or(String::new(), |name| format!(", {name}"));
        let gid = row.gid.as_deref().map_or(String::new(), |gid| format!(", GID {gid}"));
        text.push_str(&format!("{way}{work}{device}{gid}; medians of {} repeats\n", row.repeats));
        let Machine { cpu, cores, kernel } = &row.machine;
        text.push_str(&format!("{cpu}, {cores} processors, Linux {kernel}\n"));
        text.push_str(&format!("commit {}: {}", row.commit, row.command));
    }
    text
}

/// The near end.
enum Link {
    Verbs(Box<Client>),
    Carried(Box<Wire>),
}

type Far = std::thread::JoinHandle<Result<(), LinkError>>;

impl Link {
    /// The near end, and the far one if it is a thread of this process that is to be awaited.
    fn open(spec: &LinkSpec) -> Result<(Link, Option<Far>), BenchError> {
        let hello = spec.hello();
        match (carrier(spec.way), &spec.ends) {
            (Some(carrier), Ends::Both) => {
                let wire =
                    Wire::new(carrier, spec.verbs, limits(&hello)).map_err(LinkError::Roof)?;
                Ok((Link::Carried(Box::new(wire)), None))
            }
            (Some(carrier), Ends::Client(address)) => {
                let stream = Control::begin(connect(address)?, &hello)?.into_stream();
                let wire = Wire::over(carrier.backend(spec.verbs), limits(&hello), stream);
                Ok((Link::Carried(Box::new(wire.map_err(LinkError::Roof)?)), None))
            }
            (None, Ends::Client(address)) => {
                Ok((Link::Verbs(Box::new(verbs(spec, connect(address)?)?)), None))
            }
            (None, Ends::Both) => {
                let (address, far) = far_thread(spec)?;
                let near = verbs(spec, connect(&address.to_string())?)?;
                Ok((Link::Verbs(Box::new(near)), Some(far)))
            }
        }
    }

    fn measure(&mut self, bytes: usize, phase: Duration) -> Result<Figures, LinkError> {
        match self {
            Link::Verbs(client) => {
                let bytes_per_s = client.bytes_per_s(bytes, phase)?;
                let [us_p50, us_p99] = client.latencies(bytes, phase)?.p50_p99_us();
                Ok(Figures { bytes_per_s, us_p50, us_p99 })
            }
            Link::Carried(wire) => {
                let gb_per_s = wire.stream_gb_per_s(bytes, phase).map_err(LinkError::Roof)?;
                let log = wire.pings_of(bytes, phase).map_err(LinkError::Roof)?;
                let [us_p50, us_p99] = log.p50_p99_us().map(|there_and_back| there_and_back / 2.0);
                Ok(Figures { bytes_per_s: gb_per_s * 1e9, us_p50, us_p99 })
            }
        }
    }

    /// Ends the far end. Device and GID of the near one.
    fn close(self) -> Result<(Option<String>, Option<String>), LinkError> {
        match self {
            Link::Verbs(client) => {
                let (device, gid) = client.close()?;
                Ok((Some(device), Some(gid)))
            }
            Link::Carried(_) => Ok((None, None)),
        }
    }
}

/// The near end by verbs.
fn verbs(spec: &LinkSpec, stream: TcpStream) -> Result<Client, LinkError> {
    Client::begin(stream, &spec.hello(), spec.verbs)
}

/// A far end in this process, where it listens.
fn far_thread(spec: &LinkSpec) -> Result<(SocketAddr, Far), LinkError> {
    let listener = server::listen("127.0.0.1:0", Exposure::Loopback).map_err(LinkError::Listen)?;
    let address = listener.local_addr().map_err(LinkError::os("getsockname"))?;
    let verbs = spec.verbs;
    let far = std::thread::Builder::new()
        .name("link-far-end".to_owned())
        .spawn(move || serve_one(&listener, verbs, None));
    Ok((address, far.map_err(LinkError::os("spawn"))?))
}

/// Serves the first client that comes.
fn serve_one(
    listener: &TcpListener,
    verbs: VerbsSettings,
    progress: Option<&mut dyn FnMut(&str)>,
) -> Result<(), LinkError> {
    let timeout = Timespec::try_from(CLIENT_WAIT_MAX).expect("ten minutes fit");
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout)).map_err(|errno| LinkError::os("poll")(errno.into()))? == 0 {
        return Err(LinkError::Silent { seconds: CLIENT_WAIT_MAX.as_secs() });
    }
    let (stream, client) = listener.accept().map_err(LinkError::os("accept"))?;
    if let Some(progress) = progress {
        progress(&format!("measuring with {client}"));
    }
    let mut control = Control::over(stream)?;
    let hello = control.read_hello()?;
    match carrier(hello.way) {
        Some(carrier) => {
            control.answer(&Ok(()))?;
            let stream = control.into_stream();
            serve_far(carrier.backend(verbs), limits(&hello), stream).map_err(LinkError::Roof)
        }
        None => {
            let served = verbs::serve(&mut control, &hello, verbs);
            if let Err(error) = &served {
                // The client learns why; if it cannot, it is gone, and this end says why.
                let _ = control.answer(&Err(error.to_string()));
            }
            served
        }
    }
}

fn connect(address: &str) -> Result<TcpStream, LinkError> {
    tcp::connect(address, control::PATIENCE).map_err(LinkError::Connect)
}

fn carrier(way: LinkWay) -> Option<Carrier> {
    match way {
        LinkWay::Verbs => None,
        LinkWay::Shm => Some(Carrier::Shm),
        LinkWay::Uring => Some(Carrier::Uring),
        LinkWay::Epoll => Some(Carrier::Epoll),
    }
}

/// Bounds that hold a few of the longest messages.
fn limits(hello: &Hello) -> Limits {
    let message_bytes_max = usize::try_from(hello.message_bytes_max).unwrap_or(usize::MAX);
    let default = Limits::default();
    let bytes = message_bytes_max.saturating_mul(4);
    Limits {
        message_bytes_max: message_bytes_max.max(HEADER_BYTES),
        send_bytes_max: default.send_bytes_max.max(bytes),
        recv_bytes_max: default.recv_bytes_max.max(bytes),
        ..default
    }
}
