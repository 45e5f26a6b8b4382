//! Placement: which servers hold which shard, in one epoch.
//!
//! Owns the entry of the routing log, and what it means for one server. Deciding it is left to the
//! coordinator, acting on it to servers and workers. Which shard owns a key never changes in a
//! cluster's life, see `routing`; which servers hold a shard does.
//!
//! Invariant: a placement that [`Placement::check`] let pass names only servers of its list, each
//! at most once a chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpointing::RestoredFrom;
use crate::ids::{Epoch, ServerId, ShardId};

/// Most servers of a cluster.
pub const SERVERS_MAX: usize = 1024;

/// Most replicas of a shard.
pub const REPLICAS_MAX: usize = 8;

/// One entry of the routing log: the whole cluster in one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Its number; entries count up without gaps.
    pub epoch: Epoch,
    /// Why it came to be, for people.
    pub cause: String,
    /// All servers that take part.
    pub servers: Vec<Member>,
    /// By shard: who holds it.
    pub chains: Vec<Chain>,
    /// What replicas of the first placement are made of; none: they begin empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<RestoredFrom>,
}

/// A server of a cluster, in one life: one that starts again is another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number; never given twice in a cluster.
    pub server: ServerId,
    /// What people call it.
    pub name: String,
    /// Where it listens: `host:port` or `unix:PATH`.
    pub place: String,
    /// What fails together with it: replicas of a shard lie on distinct hosts.
    pub host: String,
    /// What its tables may take together, in MiB: its share of shards goes by it.
    pub memory_mib: u64,
}

/// The servers that hold one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The epoch in which this chain changed last. Messages to the shard carry this one, so that
    /// a change elsewhere disturbs nobody.
    pub epoch: Epoch,
    /// Who holds everything that was acknowledged, the head first. None: the shard is lost.
    pub replicas: Vec<ServerId>,
    /// Who is being filled by the tail, and takes its place behind it once that is done.
    pub joining: Option<ServerId>,
}

/// What one server is in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its place in the chain; the head's is 0. A server that is being filled has the place that
    /// it will take.
    pub place: usize,
    /// Whether it holds everything yet.
    pub holds: Holds,
    /// Who sends it what was applied; none at the head.
    pub upstream: Option<ServerId>,
    /// To whom it sends what it has applied, and what that one holds; none behind the last.
    pub downstream: Option<(ServerId, Holds)>,
}

/// Whether a server holds all of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Everything that was acknowledged.
    Everything,
    /// What it was sent so far.
    Part,
}

/// What is wrong with a placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlacementError {
    /// More of something than there may be.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
    /// A server is listed twice.
    Twice {
        /// Which.
        server: ServerId,
    },
    /// A chain names a server that is not listed, or one twice.
    Unknown {
        /// Whose chain.
        shard: ShardId,
        /// Which server.
        server: ServerId,
    },
    /// A chain has an epoch beyond the placement's, or somebody to fill and nobody to fill from.
    Chain {
        /// Whose.
        shard: ShardId,
    },
}

impl Placement {
    /// Checks what the types do not hold.
    pub fn check(&self) -> Result<(), PlacementError> {
        let too_many = |what, count, count_max| match count > count_max {
            true => Err(PlacementError::TooMany { what, count, count_max }),
            false => Ok(()),
        };
        too_many("servers", self.servers.len(), SERVERS_MAX)?;
        too_many("shards", self.chains.len(), usize::from(u16::MAX) - 1)?;
        let mut listed: Vec<ServerId> = self.servers.iter().map(|one| one.server).collect();
        listed.sort_unstable();
        if let Some(pair) = listed.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PlacementError::Twice { server: pair[0] });
        }
        for (shard, chain) in self.shards() {
            too_many("replicas of a shard", chain.replicas.len(), REPLICAS_MAX)?;
            let named: Vec<ServerId> =
                chain.replicas.iter().copied().chain(chain.joining).collect();
            for (index, &server) in named.iter().enumerate() {
                if listed.binary_search(&server).is_err() || named[..index].contains(&server) {
                    return Err(PlacementError::Unknown { shard, server });
                }
            }
            let fills_from_nobody = chain.joining.is_some() && chain.replicas.is_empty();
            if chain.epoch > self.epoch || fills_from_nobody {
                return Err(PlacementError::Chain { shard });
            }
        }
        Ok(())
    }

    /// All shards with their chains.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Chain)> {
        // `check` has bounded them.
        (0..=u16::MAX).map(ShardId::new).zip(&self.chains)
    }

    /// The chain of a shard.
    pub fn chain(&self, shard: ShardId) -> Option<&Chain> {
        self.chains.get(shard.index())
    }

    /// The server of this number.
    pub fn member(&self, server: ServerId) -> Option<&Member> {
        self.servers.iter().find(|member| member.server == server)
    }

    /// Who answers workers for a shard.
    pub fn head(&self, shard: ShardId) -> Option<&Member> {
        let head = self.chain(shard)?.replicas.first()?;
        self.member(*head)
    }
}

impl Chain {
    /// What a server is in this chain; none if it holds nothing of the shard.
    pub fn station(&self, server: ServerId) -> Option<Station> {
        let replicas = &self.replicas;
        let holds = if self.joining == Some(server) { Holds::Part } else { Holds::Everything };
        let place = match holds {
            Holds::Part => replicas.len(),
            Holds::Everything => replicas.iter().position(|&one| one == server)?,
        };
        let upstream = place.checked_sub(1).map(|before| replicas[before]);
        let next = replicas.get(place + 1).map(|&next| (next, Holds::Everything));
        let joining = self.joining.filter(|_| place + 1 == replicas.len());
        let downstream = next.or(joining.map(|joining| (joining, Holds::Part)));
        Some(Station { place, holds, upstream, downstream })
    }
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlacementError::TooMany { what, count, count_max } => {
                write!(f, "{count} {what}; there may be {count_max}")
            }
            PlacementError::Twice { server } => write!(f, "{server} is listed twice"),
            PlacementError::Unknown { shard, server } => {
                write!(f, "the chain of {shard} names {server} twice, or it is not listed")
            }
            PlacementError::Chain { shard } => write!(
                f,
                "the chain of {shard} has an epoch to come, or a replica to fill and none to fill \
                 it from"
            ),
        }
    }
}

impl std::error::Error for PlacementError {}

#[cfg(test)]
mod tests {
    use super::*;

    const fn server(number: u32) -> ServerId {
        ServerId::new(number)
    }

    fn placement(chains: Vec<Chain>) -> Placement {
        let member = |number| Member {
            server: server(number),
            name: format!("s{number}"),
            place: format!("127.0.0.1:{}", 7000 + number),
            host: format!("h{number}"),
            memory_mib: 1024,
        };
        let servers = (1..=4).map(member).collect();
        Placement {
            epoch: Epoch::new(5),
            cause: "a test".into(),
            servers,
            chains,
            restored_from: None,
        }
    }

    fn chain(replicas: &[u32], joining: Option<u32>) -> Chain {
        let replicas = replicas.iter().map(|&number| server(number)).collect();
        Chain { epoch: Epoch::new(5), replicas, joining: joining.map(server) }
    }

    #[test]
    fn each_server_of_a_chain_knows_its_neighbours() {
        let chain = chain(&[3, 1], Some(4));
        let station = |number| chain.station(server(number));
        let part = Some((server(4), Holds::Part));
        assert_eq!(
            [station(3), station(1), station(4), station(2)],
            [
                Some(Station {
                    place: 0,
                    holds: Holds::Everything,
                    upstream: None,
                    downstream: Some((server(1), Holds::Everything)),
                }),
                Some(Station {
                    place: 1,
                    holds: Holds::Everything,
                    upstream: Some(server(3)),
                    downstream: part,
                }),
                Some(Station {
                    place: 2,
                    holds: Holds::Part,
                    upstream: Some(server(1)),
                    downstream: None,
                }),
                None,
            ]
        );
    }

    #[test]
    fn a_placement_that_names_strangers_or_the_future_is_refused() {
        assert_eq!(placement(vec![chain(&[1, 2], Some(3)), chain(&[], None)]).check(), Ok(()));
        let shard = ShardId::new(0);
        let unknown = |number| Err(PlacementError::Unknown { shard, server: server(number) });
        assert_eq!(placement(vec![chain(&[1, 9], None)]).check(), unknown(9));
        assert_eq!(placement(vec![chain(&[1, 2, 1], None)]).check(), unknown(1));
        assert_eq!(placement(vec![chain(&[1, 2], Some(2))]).check(), unknown(2));
        let from_nobody = placement(vec![chain(&[], Some(2))]).check();
        assert_eq!(from_nobody, Err(PlacementError::Chain { shard }));
        let mut to_come = placement(vec![chain(&[1], None)]);
        to_come.epoch = Epoch::new(4);
        assert_eq!(to_come.check(), Err(PlacementError::Chain { shard }));
        let mut twice = placement(Vec::new());
        twice.servers[3].server = server(1);
        assert_eq!(twice.check(), Err(PlacementError::Twice { server: server(1) }));
    }
}
