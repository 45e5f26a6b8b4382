//! Control messages: what servers, watchers and people say to the coordinator, and its answers.
//!
//! Owns the messages and what each promises. How they are framed is left to `control_frame`,
//! deciding to the coordinator, acting on it to servers and workers. None of them is on the data
//! path: while the coordinator is away, pushes and pulls go on.
//!
//! Invariant: a control message names things by number and epoch, never by order of arrival, so
//! that one may be said again on a new connection.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpointing::{RecordOrder, StoreReport};
use crate::cluster_status::ClusterStatus;
use crate::header::VERSION;
use crate::ids::{Clock, Epoch, ServerId, ShardId};
use crate::jobs::{JobAnswer, JobAsk};
use crate::placement::Placement;

/// Longest name of a cluster, a server, a place or a host, in bytes.
pub const CONTROL_NAME_BYTES_MAX: usize = 255;

/// What the coordinator is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCoordinator {
    /// Always the first.
    Apply(Apply),
    /// The sender is alive, and what changed since its last beat.
    Beat(Beat),
    /// A link to a server is gone. A hint, which the coordinator looks into at once.
    Suspect {
        /// Which server.
        server: ServerId,
        /// The newest epoch that the sender knows; a server that left before is no news.
        epoch: Epoch,
    },
    /// A server's own wish: give its shards to others, then release it.
    Leave,
    /// A person's question or order.
    Ask(Ask),
    /// How far a server's recording or load is; the newest of each shard, and all of them after it
    /// applied anew.
    Stored(StoreReport),
    /// What the launcher of a training job of several hosts says: as a person does, it is sent
    /// nothing unasked.
    Job(JobAsk),
}

/// Who is there, and what it knows already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// The sender's wire version.
    pub version: u16,
    /// Which cluster it means.
    pub cluster: String,
    /// The newest epoch that it knows; 0 is none. A coordinator that knows less has lost its
    /// store, and refuses rather than forget.
    pub epoch: Epoch,
    /// What it is.
    pub applicant: Applicant,
}

/// What applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applicant {
    /// Somebody who would hold shards.
    Server(Candidate),
    /// Somebody who wants placements: a worker.
    Watcher,
    /// Somebody who asks, and is sent nothing unasked.
    Person,
}

/// A server as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which member it is already, after its link or the coordinator went away. None: a process
    /// that has just begun and holds nothing.
    pub life: Option<Life>,
    /// What people call it.
    pub name: String,
    /// Where it listens: `host:port` or `unix:PATH`.
    pub place: String,
    /// What fails together with it.
    pub host: String,
    /// What its tables may take together, in MiB.
    pub memory_mib: u64,
    /// Its cores; shard `s` lies on core `s % cores`.
    pub cores: u16,
}

/// A server's membership, as the coordinator's welcome gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Its number.
    pub server: ServerId,
    /// In which cluster, whatever its name: drawn when the cluster's store was made.
    pub cluster_id: u64,
}

/// A sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// When it was sent, on the sender's clock, in ns; comes back in [`ToMember::BeatSeen`].
    pub sent_ns: u64,
    /// The newest epoch that the sender acts on.
    pub epoch: Epoch,
    /// What changed in its chains since its last beat; all that holds, after it applied anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Observation>,
    /// What it holds and has done; none: it was said a moment ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<ServerWork>,
}

/// What a server holds, and what it has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerWork {
    /// What peers make it hold: tables, logs of chains, slots; in bytes.
    pub held_bytes: u64,
    /// Rows of all replicas.
    pub rows: u64,
    /// Keys of pushes that were applied; in a chain, at its head.
    pub keys_pushed: u64,
    /// Keys whose values were given out.
    pub keys_pulled: u64,
    /// Of what is pulled from one of its shards, the part of that one's hottest key, in millionths;
    /// 0: none is hot.
    pub hottest_ppm: u32,
}

/// What a server sees in one of its chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Whose chain.
    pub shard: ShardId,
    /// The chain's epoch; one that has changed since makes this no news.
    pub chain: Epoch,
    /// What is seen.
    pub report: ChainReport,
}

/// What may be seen in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainReport {
    /// The sender is the tail and fills the joining one: how far it is, in rows.
    Filling {
        /// Rows that were sent.
        sent_rows: u64,
        /// Rows that the shard holds, about.
        all_rows: u64,
    },
    /// The sender is the tail, and the joining one has everything. From before this is said until
    /// the next epoch of the chain, the sender acknowledges upstream only what the joining one has
    /// acknowledged: a replica may then be dropped in the very epoch that makes it the tail.
    Filled,
    /// The sender cannot apply what it is sent, and wants to be taken out of the chain.
    Refused {
        /// Why, in a line.
        reason: String,
    },
    /// The sender has no link to its successor, or is not answered by it.
    SuccessorLost,
    /// It has one again.
    SuccessorBack,
}

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The whole state, for people; answered by [`ToMember::Status`].
    Status,
    /// Fill a shard's replica anew on another server, then drop the old one.
    Move {
        /// Which shard.
        shard: ShardId,
        /// Whose replica goes.
        from: ServerId,
        /// Who has one instead.
        to: ServerId,
    },
    /// Give a server's shards to others, then release it.
    Drain {
        /// Which server.
        server: ServerId,
    },
    /// This server will never come back: what only it holds is lost.
    Forget {
        /// Which server.
        server: ServerId,
    },
    /// Take a checkpoint now.
    Checkpoint,
}

/// What the coordinator says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToMember {
    /// The application is accepted.
    Welcome(Welcome),
    /// The newest placement, whole: after the welcome if there is one, and at each change.
    Placement(Placement),
    /// Answers a beat.
    BeatSeen {
        /// The beat's own number.
        sent_ns: u64,
    },
    /// No; each reason says what is left. The link is closed, unless it was a person who asked.
    Denied(Denial),
    /// An order is being carried out.
    Done,
    /// Answers [`Ask::Status`].
    Status(Box<ClusterStatus>),
    /// Answers [`ToCoordinator::Job`].
    Job(Box<JobAnswer>),
    /// A server that wanted to leave holds nothing any more and may end.
    Released,
    /// Record a shard.
    Record(RecordOrder),
    /// All recordings of this checkpoint end: at this clock, or where they are.
    Cut {
        /// The checkpoint's number.
        number: u64,
        /// Operations are wanted until the slowest worker's clock is this one.
        clock: Option<Clock>,
    },
    /// The recordings of this checkpoint are of no use any more.
    EndRecordings {
        /// The checkpoint's number.
        number: u64,
    },
}

/// An accepted application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// A server's membership; none for others.
    pub life: Option<Life>,
    /// How often to beat, in ms.
    pub beat_every_ms: u32,
    /// Shards of the cluster.
    pub shards: u16,
    /// Replicas that each shard shall have.
    pub replicas: u8,
}

/// Why the coordinator says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Denial {
    /// Another wire version: another build is needed.
    Version {
        /// The coordinator's.
        ours: u16,
        /// The applicant's.
        theirs: u16,
    },
    /// The coordinator of another cluster.
    Cluster {
        /// The coordinator's.
        ours: String,
        /// The applicant's.
        theirs: String,
    },
    /// A name is empty, too long, or has control characters, which JSON makes six times as long.
    Name {
        /// Of what.
        what: String,
        /// Its length.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// The applicant knows a later epoch than the coordinator: the coordinator's store is not the
    /// cluster's newest. Nothing was changed; a person has to look.
    Behind {
        /// The coordinator's.
        ours: Epoch,
        /// The applicant's.
        theirs: Epoch,
    },
    /// The server is no member any more. It drops all it holds and applies as new.
    Removed {
        /// Its number.
        server: ServerId,
    },
    /// A member listens at the same place and is alive. The applicant tries again later.
    PlaceTaken {
        /// Where.
        place: String,
        /// The member there.
        server: ServerId,
    },
    /// The cluster or the coordinator has no room. The applicant tries again later.
    Full {
        /// Of what.
        what: String,
        /// How many there may be.
        count_max: usize,
    },
    /// What a person wants cannot be; nothing was changed.
    Impossible {
        /// Why.
        reason: String,
    },
    /// Another coordinator leads, or none does yet. The applicant asks that one, or each of those
    /// that it knows in turn.
    NotLeading {
        /// Where the leader is; none: nobody is known to lead.
        leader: Option<String>,
        /// What keeps the coordinator that answers from leading, if something does.
        why: Option<String>,
    },
    /// The message makes no sense where it came.
    Unexpected {
        /// What would have.
        expected: String,
    },
}

impl Apply {
    /// An application of this build.
    pub fn new(cluster: &str, epoch: Epoch, applicant: Applicant) -> Apply {
        Apply { version: VERSION, cluster: cluster.to_owned(), epoch, applicant }
    }

    /// Checks version, cluster and the lengths of names.
    ///
    /// # Errors
    ///
    /// What the coordinator of `cluster` answers instead of a welcome.
    pub fn check(&self, cluster: &str) -> Result<(), Denial> {
        if self.version != VERSION {
            return Err(Denial::Version { ours: VERSION, theirs: self.version });
        }
        if self.cluster != cluster {
            let theirs = self.cluster.chars().take(CONTROL_NAME_BYTES_MAX).collect();
            return Err(Denial::Cluster { ours: cluster.to_owned(), theirs });
        }
        let Applicant::Server(candidate) = &self.applicant else { return Ok(()) };
        let names =
            [("name", &candidate.name), ("place", &candidate.place), ("host", &candidate.host)];
        for (what, name) in names {
            let is_fit = !name.is_empty() && name.len() <= CONTROL_NAME_BYTES_MAX;
            if !is_fit || name.contains(char::is_control) {
                let (what, bytes) = (what.to_owned(), name.len());
                return Err(Denial::Name { what, bytes, bytes_max: CONTROL_NAME_BYTES_MAX });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::Version { ours, theirs } => {
                write!(f, "the coordinator's wire version is {ours}, ours {theirs}")
            }
            Denial::Cluster { ours, theirs } => {
                write!(f, "this is the coordinator of cluster {ours:?}; {theirs:?} was asked for")
            }
            Denial::Name { what, bytes, bytes_max } => {
                write!(
                    f,
                    "the {what} has {bytes} bytes; it may have 1 to {bytes_max}, and no control \
                     characters"
                )
            }
            Denial::Behind { ours, theirs } => write!(
                f,
                "the coordinator knows {ours}, we know {theirs}: its store is not the cluster's \
                 newest"
            ),
            Denial::Removed { server } => {
                write!(f, "{server} is no member any more; it may apply as new")
            }
            Denial::PlaceTaken { place, server } => {
                write!(f, "{server} listens at {place} and is alive")
            }
            Denial::Full { what, count_max } => {
                write!(f, "there are {count_max} {what} already, as many as there may be")
            }
            Denial::Impossible { reason } => f.write_str(reason),
            Denial::NotLeading { leader: Some(leader), .. } => {
                write!(f, "this coordinator stands by; {leader} leads")
            }
            Denial::NotLeading { leader: None, why: Some(why) } => {
                write!(f, "this coordinator cannot lead: {why}")
            }
            Denial::NotLeading { leader: None, why: None } => {
                f.write_str("this coordinator stands by, and knows of none that leads")
            }
            Denial::Unexpected { expected } => write!(f, "{expected} was expected"),
        }
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_frame::{CONTROL_BYTES_MAX, control_frame};
    use crate::placement::{REPLICAS_MAX, SERVERS_MAX};
    use crate::routing::SHARDS_MAX;
    use crate::{
        Chain, ChainState, ChainStatus, EpochCause, Member, ServerState, ServerStatus, WorkStatus,
    };

    fn candidate(name: &str) -> Applicant {
        Applicant::Server(Candidate {
            life: None,
            name: name.to_owned(),
            place: "127.0.0.1:7077".to_owned(),
            host: "h".to_owned(),
            memory_mib: 1024,
            cores: 4,
        })
    }

    #[test]
    fn an_application_to_another_cluster_or_by_another_build_is_denied_with_both_sides() {
        let apply = Apply::new("ctr", Epoch::new(0), candidate("a"));
        assert_eq!(apply.check("ctr"), Ok(()));
        let denied = apply.check("ads").expect_err("another cluster").to_string();
        assert!(denied.contains("\"ads\"") && denied.contains("\"ctr\""), "{denied}");
        let older = Apply { version: VERSION - 1, ..apply };
        let both = Denial::Version { ours: VERSION, theirs: VERSION - 1 };
        assert_eq!(older.check("ctr"), Err(both));
    }

    #[test]
    fn the_greatest_placement_and_status_fit_into_a_frame() {
        let name = "\"".repeat(CONTROL_NAME_BYTES_MAX);
        let server = |index| ServerId::new(u32::MAX - index);
        let epoch = Epoch::new(u64::MAX);
        let member = |index| Member {
            server: server(index),
            name: name.clone(),
            place: name.clone(),
            host: name.clone(),
            memory_mib: u64::MAX,
        };
        let servers: Vec<Member> = (0..SERVERS_MAX as u32).map(member).collect();
        let replicas = (0..REPLICAS_MAX as u32).map(server).collect();
        let chain = Chain { epoch, replicas, joining: Some(server(9)) };
        let chains = vec![chain.clone(); SHARDS_MAX];
        let cause = name.repeat(10);
        let status = ClusterStatus {
            servers: servers
                .iter()
                .map(|member| ServerStatus {
                    member: member.clone(),
                    cores: u16::MAX,
                    state: ServerState::Expected,
                    beat_ago_ms: u64::MAX,
                    beat_gap_ms: 1.0 / 3.0,
                    suspected_after_ms: 1.0 / 3.0,
                    epoch,
                    heads: usize::MAX,
                    replicas: usize::MAX,
                    filling: usize::MAX,
                    work: Some(WorkStatus {
                        held_bytes: u64::MAX,
                        rows: u64::MAX,
                        keys_pushed_per_s: Some(1e9 / 3.0),
                        keys_pulled_per_s: Some(1e9 / 3.0),
                        hottest_ratio: 1.0 / 3.0,
                    }),
                })
                .collect(),
            troubled: (0..SHARDS_MAX as u16)
                .map(|shard| ChainStatus {
                    shard: ShardId::new(shard),
                    chain: chain.clone(),
                    state: ChainState::Filling { rows: Some((u64::MAX, u64::MAX)) },
                })
                .collect(),
            chains: chains.clone(),
            history: vec![EpochCause { epoch, cause: cause.clone(), ago_ms: Some(u64::MAX) }; 32],
            ..ClusterStatus::default()
        };
        let placement = Placement { epoch, cause, servers, chains, restored_from: None };
        let messages = [ToMember::Placement(placement), ToMember::Status(Box::new(status))];
        for message in messages {
            let framed = control_frame(&message, CONTROL_BYTES_MAX);
            assert!(framed.is_ok(), "{:?}", framed.err());
        }
    }

    #[test]
    fn a_name_without_letters_or_without_end_is_denied() {
        let names = [String::new(), "n".repeat(CONTROL_NAME_BYTES_MAX + 1), "a\nb".to_owned()];
        for name in names {
            let apply = Apply::new("ctr", Epoch::new(0), candidate(&name));
            assert!(matches!(apply.check("ctr"), Err(Denial::Name { .. })), "{}", name.len());
        }
    }
}
