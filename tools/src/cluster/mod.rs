//! Commands around a cluster's coordinator: running one, looking at it, telling it what to do.
//!
//! Owns their flags. The coordinator itself is `server::coordinator`.

pub(crate) mod coordinate;
pub(crate) mod order;
pub(crate) mod status;
mod storing;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use transport::ControlLink;
use wire::{Applicant, Apply, Ask, Epoch, ServerId, ShardId, ToCoordinator, ToMember};

use self::storing::StoringArgs;
use crate::failure::Failure;

/// What a cluster is called where nobody says.
pub(crate) const CLUSTER: &str = "gradwire";

/// How long a coordinator may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct CoordinateArgs {
    /// Where to listen for servers, workers and people; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) listen: String,
    /// Where the log of placements lies; made if it is not there.
    #[arg(long, value_name = "DIR", required_unless_present = "etcd")]
    pub(crate) data: Option<PathBuf>,
    /// Keep the log in etcd instead, at one of these addresses; neither TLS nor passwords are
    /// spoken.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', conflicts_with = "data")]
    pub(crate) etcd: Vec<String>,
    /// The cluster's name: who asks for another one is turned away.
    #[arg(long, value_name = "NAME", default_value = CLUSTER)]
    pub(crate) cluster: String,
    /// Shards, for all the cluster's life.
    #[arg(long, value_name = "N")]
    pub(crate) shards: u16,
    /// Servers that hold each shard.
    #[arg(long, value_name = "K", default_value_t = 2)]
    pub(crate) replicas: u8,
    /// Servers that must be there before shards are placed for the first time [default: as many
    /// as each shard has replicas].
    #[arg(long, value_name = "N")]
    pub(crate) servers_min: Option<usize>,
    /// Let replicas of a shard lie on one host, which is then a single point of failure.
    #[arg(long)]
    pub(crate) same_host_ok: bool,
    #[command(flatten)]
    pub(crate) storing: StoringArgs,
    /// Listen where other hosts can reach it, though the wire is neither encrypted nor
    /// authenticated.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Tell the address as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// End when standard input ends, and tell the address as JSON.
    /// Show figures at http://HOST:PORT/metrics, as Prometheus reads them.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) at: CoordinatorArgs,
    /// Print it as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print it again each second until Ctrl-C.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// What a server is in its cluster.
#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    /// The cluster's name.
    #[arg(long, value_name = "NAME", default_value = CLUSTER)]
    pub(crate) cluster: String,
    /// What people call this server [default: its host and port].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// What fails together with it: replicas of a shard lie on distinct ones. A rack's name, given
    /// by all servers in it, keeps replicas in distinct racks [default: the name of this host].
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// Where others reach it, if not where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Settings of the object store that checkpoints lie in, such as aws_region = "eu-west-1", one
    /// a line; where they lie the coordinator says.
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) store_config: Option<PathBuf>,
}

/// Which coordinator is meant.
#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    /// The coordinator's address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) coordinator: String,
    /// The cluster's name.
    #[arg(long, value_name = "NAME", default_value = CLUSTER)]
    pub(crate) cluster: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OrderCommand {
    /// Move one shard's replica: fill it on another server, then drop the old one.
    Move {
        #[command(flatten)]
        at: CoordinatorArgs,
        /// Which shard.
        #[arg(long, value_name = "N")]
        shard: u16,
        /// Whose replica goes.
        #[arg(long, value_name = "SERVER")]
        from: u32,
        /// Who gets one.
        #[arg(long, value_name = "SERVER")]
        to: u32,
    },
    /// Give a server's shards to others, then release it.
    Drain {
        #[command(flatten)]
        at: CoordinatorArgs,
        /// Which server.
        #[arg(long, value_name = "SERVER")]
        server: u32,
    },
    /// Say that a server that is away will never come back: what only it holds is lost.
    Forget {
        #[command(flatten)]
        at: CoordinatorArgs,
        /// Which server.
        #[arg(long, value_name = "SERVER")]
        server: u32,
    },
}

impl OrderCommand {
    /// Whom it is for, and what is asked.
    fn parts(&self) -> (&CoordinatorArgs, Ask) {
        match self {
            OrderCommand::Move { at, shard, from, to } => {
                let (from, to) = (ServerId::new(*from), ServerId::new(*to));
                (at, Ask::Move { shard: ShardId::new(*shard), from, to })
            }
            OrderCommand::Drain { at, server } => {
                (at, Ask::Drain { server: ServerId::new(*server) })
            }
            OrderCommand::Forget { at, server } => {
                (at, Ask::Forget { server: ServerId::new(*server) })
            }
        }
    }
}

/// A person's link to a coordinator.
pub(crate) struct Caller {
    link: ControlLink,
}

impl Caller {
    pub(crate) fn connect(coordinator: &str, cluster: &str) -> Result<Caller, Failure> {
        let link = ControlLink::connect(coordinator, ANSWER_MAX).map_err(Failure::failed)?;
        let mut caller = Caller { link };
        let apply = Apply::new(cluster, Epoch::new(0), Applicant::Person);
        match caller.say(&ToCoordinator::Apply(apply))? {
            ToMember::Welcome(_) => Ok(caller),
            other => Err(unexpected(&other)),
        }
    }

    /// Says something and waits for its answer; a denial is a failure.
    pub(crate) fn say(&mut self, message: &ToCoordinator) -> Result<ToMember, Failure> {
        self.link.writer().send(message).map_err(Failure::failed)?;
        let deadline = Instant::now() + ANSWER_MAX;
        match self.link.receive(deadline).map_err(Failure::failed)? {
            Some(ToMember::Denied(denial)) => Err(Failure::failed(denial)),
            Some(answer) => Ok(answer),
            None => {
                let waited_s = ANSWER_MAX.as_secs();
                Err(Failure::failed(format!("the coordinator did not answer for {waited_s} s")))
            }
        }
    }
}

pub(crate) fn unexpected(answer: &ToMember) -> Failure {
    Failure::failed(format!("the coordinator answers otherwise than this build knows: {answer:?}"))
}
