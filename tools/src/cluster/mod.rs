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
use transport::{ControlLink, Coordinators};
use wire::{
    Applicant, Apply, Ask, Denial, Epoch, JobAsk, JobVerb, ServerId, ShardId, ToCoordinator,
    ToMember,
};

use self::storing::StoringArgs;
pub(crate) use self::storing::ValuesFlag;
use crate::failure::Failure;
use crate::flags::DurationFlag;
use crate::output::complain;

/// What a cluster is called where nobody says.
pub(crate) const CLUSTER: &str = "gradwire";

/// How long a coordinator may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long one may take to accept a link, and to say whether it leads.
const LINK_MAX: Duration = Duration::from_secs(2);

/// How long it may take to find the one that leads.
const LEADER_MAX: Duration = Duration::from_secs(10);

/// After how long a person hears that none has been found: longer than one takes over in.
const TELL_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct CoordinateArgs {
    /// Where to listen for servers, workers and people; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) listen: String,
    /// Where the log of placements lies; made if it is not there.
    #[arg(long, value_name = "DIR", required_unless_present = "etcd")]
    pub(crate) data: Option<PathBuf>,
    /// Keep the log in etcd instead, at one of these addresses; neither TLS nor passwords are
    /// spoken. Several coordinators may be started on it: one leads, the others stand by.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', conflicts_with = "data")]
    pub(crate) etcd: Vec<String>,
    /// Where others reach this coordinator, if not where it listens; with --etcd, coordinators that
    /// stand by name it to whoever asks them.
    #[arg(long, value_name = "HOST:PORT", requires = "etcd")]
    pub(crate) advertise: Option<String>,
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
    /// Show figures at http://HOST:PORT/metrics, as Prometheus reads them.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// End when standard input ends, and tell the address as JSON.
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
    /// List who holds each shard, the head first, and not only shards in trouble; --json always
    /// does.
    #[arg(long)]
    pub(crate) shards: bool,
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
    /// How long a server that is told to end may take to hand its shards over; a minute without a
    /// coordinator ends it, too.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(crate) leave_within: DurationFlag,
}

/// Which coordinator is meant.
#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    /// The coordinator's address, or those that it may have: each is tried until one leads.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:7070")]
    pub(crate) coordinator: Vec<String>,
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
    /// Have a host that stands by for a job take the places of another one, which is slow or has
    /// to go: nothing is lost, and that one's command ends.
    ReplaceHost {
        #[command(flatten)]
        at: CoordinatorArgs,
        /// Which job.
        #[arg(long, value_name = "NAME")]
        job: String,
        /// A worker of the host that goes.
        #[arg(long, value_name = "N")]
        worker: u32,
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
    fn parts(&self) -> (&CoordinatorArgs, ToCoordinator) {
        match self {
            OrderCommand::Move { at, shard, from, to } => {
                let (from, to) = (ServerId::new(*from), ServerId::new(*to));
                let order = Ask::Move { shard: ShardId::new(*shard), from, to };
                (at, ToCoordinator::Ask(order))
            }
            OrderCommand::Drain { at, server } => {
                (at, ToCoordinator::Ask(Ask::Drain { server: ServerId::new(*server) }))
            }
            OrderCommand::Forget { at, server } => {
                (at, ToCoordinator::Ask(Ask::Forget { server: ServerId::new(*server) }))
            }
            OrderCommand::ReplaceHost { at, job, worker } => {
                let (job, verb) = (job.clone(), JobVerb::Replace { worker: *worker });
                (at, ToCoordinator::Job(JobAsk { job, holder: 0, verb }))
            }
        }
    }
}

/// A person's link to a coordinator.
pub(crate) struct Caller {
    link: ControlLink,
}

impl Caller {
    /// A link to the coordinator that leads; it may take some tries while another one takes over.
    pub(crate) fn connect(coordinators: &[String], cluster: &str) -> Result<Caller, Failure> {
        let (begun, mut is_told) = (Instant::now(), false);
        let waits = |failure: &Failure| {
            if !is_told && begun.elapsed() >= TELL_AFTER {
                is_told = true;
                let most = LEADER_MAX.as_secs();
                complain(&format!("gradwire: {failure}; asks again, for {most} s in all"));
            }
        };
        Caller::search(coordinators, cluster, waits).map_err(|unfound| match unfound {
            Unfound::Silent(failure) | Unfound::Denied(failure) => failure,
        })
    }

    /// The same, for who may go on trying.
    pub(crate) fn find(coordinators: &[String], cluster: &str) -> Result<Caller, Unfound> {
        Caller::search(coordinators, cluster, |_| {})
    }

    /// - `waits`: hears why none has been found, before each further try.
    fn search(
        coordinators: &[String],
        cluster: &str,
        mut waits: impl FnMut(&Failure),
    ) -> Result<Caller, Unfound> {
        let until = Instant::now() + LEADER_MAX;
        let mut list = Coordinators::new(coordinators.to_vec());
        // How many in a row did not answer: if all of them, nobody stands by who could lead.
        let mut unanswered = 0;
        loop {
            let none = || Unfound::Denied(Failure::usage("--coordinator: none named"));
            let address = list.take().ok_or_else(none)?;
            let (pause, failure) = match Caller::try_connect(&address, cluster) {
                Ok(caller) => return Ok(caller),
                Err(Unlinked::StandsBy { leader, why }) => {
                    unanswered = 0;
                    let denial = Denial::NotLeading { leader: leader.clone(), why };
                    let failure = Failure::failed(format!("{address}: {denial}"));
                    (list.stands_by(leader), failure)
                }
                Err(Unlinked::Unanswered(failure)) => {
                    unanswered += 1;
                    (list.failed(), failure)
                }
                Err(Unlinked::Denied(failure)) => return Err(Unfound::Denied(failure)),
            };
            if Instant::now() + pause >= until || unanswered >= coordinators.len() {
                return Err(Unfound::Silent(failure));
            }
            waits(&failure);
            std::thread::sleep(pause);
        }
    }

    /// A link to this coordinator and no other one; none: it stands by.
    pub(crate) fn connect_here(
        coordinator: &str,
        cluster: &str,
    ) -> Result<Option<Caller>, Failure> {
        match Caller::try_connect(coordinator, cluster) {
            Ok(caller) => Ok(Some(caller)),
            Err(Unlinked::StandsBy { .. }) => Ok(None),
            Err(Unlinked::Unanswered(failure) | Unlinked::Denied(failure)) => Err(failure),
        }
    }

    fn try_connect(coordinator: &str, cluster: &str) -> Result<Caller, Unlinked> {
        let unanswered = |fault| Unlinked::Unanswered(Failure::failed(fault));
        let link = ControlLink::connect(coordinator, LINK_MAX).map_err(unanswered)?;
        let mut caller = Caller { link };
        let apply = Apply::new(cluster, Epoch::new(0), Applicant::Person);
        caller.link.writer().send(&ToCoordinator::Apply(apply)).map_err(unanswered)?;
        match caller.link.receive(Instant::now() + LINK_MAX).map_err(unanswered)? {
            Some(ToMember::Welcome(_)) => Ok(caller),
            Some(ToMember::Denied(Denial::NotLeading { leader, why })) => {
                Err(Unlinked::StandsBy { leader, why })
            }
            Some(ToMember::Denied(denial)) => Err(Unlinked::Denied(Failure::failed(denial))),
            Some(other) => Err(Unlinked::Denied(unexpected(&other))),
            None => Err(Unlinked::Unanswered(unanswering(coordinator, LINK_MAX))),
        }
    }

    /// Says something and waits for its answer; a denial is a failure.
    pub(crate) fn say(&mut self, message: &ToCoordinator) -> Result<ToMember, Failure> {
        self.link.writer().send(message).map_err(Failure::failed)?;
        let deadline = Instant::now() + ANSWER_MAX;
        match self.link.receive(deadline).map_err(Failure::failed)? {
            Some(ToMember::Denied(denial)) => Err(Failure::failed(denial)),
            Some(answer) => Ok(answer),
            None => Err(unanswering("the coordinator", ANSWER_MAX)),
        }
    }
}

/// Why there is no link to any coordinator.
pub(crate) enum Unfound {
    /// None leads, or answers. That may pass.
    Silent(Failure),
    /// One says no, as every other one would.
    Denied(Failure),
}

/// Why there is no link to one coordinator.
enum Unlinked {
    /// It does not answer; another one may.
    Unanswered(Failure),
    /// It does not lead.
    StandsBy { leader: Option<String>, why: Option<String> },
    /// It says no, as every other one would.
    Denied(Failure),
}

fn unanswering(who: &str, waited: Duration) -> Failure {
    Failure::failed(format!("{who} did not answer for {} s", waited.as_secs()))
}

pub(crate) fn unexpected(answer: &ToMember) -> Failure {
    Failure::failed(format!("the coordinator answers otherwise than this build knows: {answer:?}"))
}
