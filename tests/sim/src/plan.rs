//! The plan of a run: how large the cluster is, what the job does, and what befalls it.
//!
//! Owns what a seed stands for. Acting on it is left to `cluster` and `member`.

use std::time::Duration;

use transport::Limits;
use transport::simulated::Faults;
use worker::{
    Acknowledge, CHAIN_GIVE_UP_MIN, CodecChoice, Expiry, KeyAdmission, KeyCodec, RowLife,
    Selection, Staleness, TableCodec, Timeouts, ValueCodec,
};

use crate::random::Random;

/// Sets a plan's stream apart from those of the workers, which are numbered from 0.
const PLAN_STREAM: u64 = u64::MAX;
/// The same for what chains add to a plan.
const CHAINS_STREAM: u64 = u64::MAX - 2;
/// The same for plans in which servers die.
const DEATHS_STREAM: u64 = u64::MAX - 4;
/// The same for how often workers die.
const LIVES_STREAM: u64 = u64::MAX - 5;
/// The same for how often checkpoints are taken.
const VAULT_STREAM: u64 = u64::MAX - 6;
/// The same for how often clocks of sessions jump.
const JUMPS_STREAM: u64 = u64::MAX - 7;
/// The same for whether pushes are aggregated.
const AGGREGATE_STREAM: u64 = u64::MAX - 8;

/// More clocks than any plan has.
const CLOCKS_BEYOND: u32 = 1000;

/// Any other probability would leave nothing to count.
const SURE: f32 = 1.0;

/// What a seed stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Shards, each on a host of its own.
    pub shards: usize,
    /// Workers, each on a host of its own.
    pub workers: u32,
    /// How far a worker may be ahead.
    pub staleness: Staleness,
    /// Clocks that each worker finishes.
    pub clocks: u64,
    /// Counters, beside one for each worker's clocks.
    pub counters: u64,
    /// The most pushes of a worker in one clock.
    pub pushes_max: u64,
    /// The most counters that one push names.
    pub keys_max: u64,
    /// How often a worker computes for a while before it pushes, in per mille of its clocks.
    pub thinks_per_mille: u64,
    /// How often a worker dies before a push, in per mille of them; and at any other of its turns a
    /// twentieth as often.
    pub deaths_per_mille: u64,
    /// How often the clock of a session jumps ahead, at most.
    pub clock_jumps_max: u64,
    /// How often a shard stops for a while, in per mille of the world's steps.
    pub stops_per_mille: u64,
    /// Bounds of every host's transport: short messages are many messages.
    pub limits: Limits,
    /// Requests that a worker may have in flight on one shard.
    pub credit: u16,
    /// Time-outs of the sessions.
    pub timeouts: Timeouts,
    /// What may befall a message.
    pub faults: Faults,
    /// How keys and counts travel. Whichever it is, every count must come out exactly.
    pub codec: CodecChoice,
    /// When rows begin and end. Whichever it is, every push but those before a key's admission
    /// must come out exactly, and no row is old enough to go.
    pub life: RowLife,
    /// Where pushes are acknowledged.
    pub acknowledge: Acknowledge,
    /// Whether heads of chains add up the pushes of different workers.
    pub aggregate: bool,
    /// Servers in chains, and what befalls them; none where each shard is alone on its host.
    pub chains: Option<ChainPlan>,
    /// Sessions that read, time and again, and take part in no clock; only with chains.
    pub readers: usize,
}

/// Servers in chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPlan {
    /// Servers, each on a host of its own.
    pub servers: usize,
    /// Servers that hold a shard.
    pub replicas: usize,
    /// How many things befall servers, at most.
    pub events: u64,
    /// How often, in per mille of the world's steps.
    pub events_per_mille: u64,
    /// What befalls them.
    pub strikes: Strikes,
    /// How often a checkpoint is taken; never, where that is none.
    pub checkpoint_every: Option<Duration>,
}

/// What may befall servers and coordinators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// They die, freeze, lose each other and the store, and are doubled.
    All,
    /// Servers die, and others begin in their places.
    ServersDie,
    /// Heads lose their successors or the coordinators, and some watches with them: who was put out
    /// lives, and some ask it still.
    Apart,
    /// A head is parted from all others, with some who ask it on its side: who was put out lives,
    /// answers those, and comes back before it has heard that it was put out.
    Parted,
    /// Servers lose their power and stay away until nothing goes wrong any more: nobody is told.
    Silence,
}

impl Plan {
    /// The plan of this seed.
    pub fn from_seed(seed: u64) -> Plan {
        let mut random = Random::new(seed, PLAN_STREAM);
        let message_bytes_max = random.choose(&[256, 1024, 16 << 10]);
        let under_way_bytes_max = message_bytes_max * random.choose(&[2, 4, 16, 128]);
        let request = Duration::from_millis(random.choose(&[20, 100, 1000]));
        Plan {
            shards: 1 + random.below(4) as usize,
            workers: 1 + random.below(5) as u32,
            staleness: random.choose(&[
                Staleness::BSP,
                Staleness::BSP,
                Staleness::ssp(1),
                Staleness::ssp(3),
                Staleness::ASP,
            ]),
            clocks: 3 + random.below(30),
            counters: random.choose(&[4, 40, 200]),
            pushes_max: 1 + random.below(6),
            keys_max: random.choose(&[3, 30]),
            thinks_per_mille: random.choose(&[0, 0, 50, 300]),
            deaths_per_mille: deaths(seed),
            clock_jumps_max: Random::new(seed, JUMPS_STREAM).choose(&[0, 0, 1, 3]),
            stops_per_mille: random.choose(&[0, 0, 1]),
            limits: Limits {
                message_bytes_max,
                send_bytes_max: under_way_bytes_max,
                recv_bytes_max: under_way_bytes_max,
                spin_ns: 0,
            },
            credit: random.choose(&[2, 8, 64]),
            timeouts: Timeouts { request, give_up: request * 5 },
            faults: Faults::from_seed(seed),
            codec: codec(&mut random),
            aggregate: false,
            life: life(&mut random),
            acknowledge: Acknowledge::Tail,
            chains: None,
            readers: 0,
        }
    }

    /// The plan of this seed, with its shards in chains of servers that come and go.
    pub fn chained_from_seed(seed: u64) -> Plan {
        let mut random = Random::new(seed, CHAINS_STREAM);
        let servers = 1 + random.below(4) as usize;
        let chains = ChainPlan {
            servers,
            replicas: 1 + random.below(servers.min(3) as u64) as usize,
            events: random.choose(&[0, 6, 20]),
            events_per_mille: random.choose(&[2, 10]),
            strikes: Strikes::All,
            checkpoint_every: checkpoints(seed),
        };
        let readers = random.choose(&[0, 1, 2]);
        let counters = random.choose(&[40, 200, 2000]); // Many are new while a server is filled.
        let chains = Some(chains);
        let base = Plan::from_seed(seed);
        let give_up = base.timeouts.give_up.max(CHAIN_GIVE_UP_MIN); // As `Session::follow` has it.
        let timeouts = Timeouts { give_up, ..base.timeouts };
        let admits_all = base.life.admission == KeyAdmission::All;
        let aggregate = admits_all && Random::new(seed, AGGREGATE_STREAM).below(2) == 0;
        Plan { chains, readers, counters, timeouts, aggregate, stops_per_mille: 0, ..base }
    }

    /// The same on a network that does nothing wrong, while servers die and others take their
    /// places: how long reads wait is what the cluster needs to notice and to go on.
    pub fn deaths_from_seed(seed: u64) -> Plan {
        let mut random = Random::new(seed, DEATHS_STREAM);
        let chains = ChainPlan {
            servers: 3 + random.below(3) as usize,
            replicas: 2 + random.below(2) as usize,
            events: 10,
            events_per_mille: 1,
            strikes: Strikes::ServersDie,
            checkpoint_every: None,
        };
        let request = Duration::from_secs(1);
        let delay_ns = 10_000..=200_000;
        Plan {
            chains: Some(chains),
            readers: 2,
            clocks: 200,
            thinks_per_mille: 0,
            deaths_per_mille: 0,
            clock_jumps_max: 0,
            timeouts: Timeouts { request, give_up: request * 5 },
            faults: Faults { delay_ns, clock_drift_ppm_max: 10_000, ..Faults::NONE },
            ..Plan::chained_from_seed(seed)
        }
    }

    /// The same on a network that does nothing wrong, while much befalls servers and coordinators;
    /// three workers and two readers look all the time.
    pub fn storm_from_seed(seed: u64) -> Plan {
        let chains = ChainPlan {
            servers: 4,
            replicas: 3,
            events: 40,
            events_per_mille: 20,
            strikes: Strikes::All,
            checkpoint_every: None,
        };
        Plan {
            shards: 4,
            workers: 3,
            readers: 2,
            staleness: Staleness::ASP,
            clocks: 100,
            pushes_max: 2,
            thinks_per_mille: 100,
            faults: Faults { delay_ns: 10_000..=500_000, ..Faults::NONE },
            chains: Some(chains),
            ..Plan::chained_from_seed(seed)
        }
    }

    /// The same with checkpoints one after the other, of a job whose workers wait for each other:
    /// each must hold the pushes of all clocks before its cut, and nothing else.
    pub fn checkpointed_from_seed(seed: u64) -> Plan {
        let storm = Plan::storm_from_seed(seed);
        let chains = storm.chains.map(|chains| ChainPlan {
            events_per_mille: 5,
            checkpoint_every: Some(Duration::from_millis(20)),
            ..chains
        });
        let clocks = 200;
        Plan { chains, clocks, counters: 40, staleness: Staleness::BSP, ..storm }
    }

    /// The same with pushes that heads acknowledge.
    pub fn at_head(self) -> Plan {
        Plan { acknowledge: Acknowledge::Head, aggregate: false, ..self }
    }

    /// The same with pushes that heads add up. Such a table admits every key; where no worker waits
    /// for another, few pushes meet.
    pub fn aggregated(self) -> Plan {
        let life = RowLife { admission: KeyAdmission::All, ..self.life };
        let staleness = match self.staleness {
            Staleness::ASP => Staleness::ssp(1),
            staleness => staleness,
        };
        Plan { aggregate: true, life, staleness, workers: self.workers.max(2), ..self }
    }

    /// Whether a read may show less than was acknowledged, or than another one has shown: a head
    /// may be gone before its successor has what it had acknowledged, and the worker of that has to
    /// send it again.
    pub(crate) fn reads_go_back(&self) -> bool {
        let loses_heads = self.chains.is_some_and(|chains| chains.events > 0);
        self.acknowledge == Acknowledge::Head && loses_heads
    }

    /// Whether each pull names all keys. A step's pushes then follow an answer of each shard, so
    /// that no shard is ahead of the clock at which a checkpoint is cut.
    pub(crate) fn pulls_all(&self) -> bool {
        let has_checkpoints = self.chains.is_some_and(|it| it.checkpoint_every.is_some());
        has_checkpoints && self.staleness == Staleness::BSP
    }

    /// How many pushes of a key are dropped at most, since it was not admitted yet.
    pub fn dropped_max(&self) -> u64 {
        match self.life.admission {
            KeyAdmission::Count(pushes) => u64::from(pushes) - 1,
            KeyAdmission::All | KeyAdmission::Probability(_) => 0,
        }
    }

    /// The same job on a network and on hosts that do nothing wrong.
    pub fn without_faults(self) -> Plan {
        let faults = Faults::NONE;
        Plan { faults, stops_per_mille: 0, deaths_per_mille: 0, clock_jumps_max: 0, ..self }
    }
}

/// One in sixteen plans with chains takes checkpoints: they take as long as ten without.
fn checkpoints(seed: u64) -> Option<Duration> {
    let mut random = Random::new(seed, VAULT_STREAM);
    let every_ms = random.choose(&[30, 300]);
    (random.below(16) == 0).then(|| Duration::from_millis(every_ms))
}

/// In half of all plans no worker dies.
fn deaths(seed: u64) -> u64 {
    Random::new(seed, LIVES_STREAM).choose(&[0, 0, 5, 30])
}

/// A codec that keeps ones as they are, on their way to a shard: counts on their way back are
/// plain. Half of all plans have none.
fn codec(random: &mut Random) -> CodecChoice {
    let keys = [KeyCodec::Plain, KeyCodec::Packed, KeyCodec::Numbered, KeyCodec::Numbered];
    let values = [ValueCodec::F32, ValueCodec::F32, ValueCodec::Bf16];
    let push = random.choose(&values);
    let coded = TableCodec {
        keys: random.choose(&keys),
        push_first: push,
        push_rest: push,
        selection: random.choose(&[Selection::All, Selection::Nonzero]),
        pull: ValueCodec::F32,
    };
    random.choose(&[CodecChoice::RAW, CodecChoice::Fixed(coded)])
}

/// Half of all plans admit every key at once and keep its row.
fn life(random: &mut Random) -> RowLife {
    let admissions =
        [KeyAdmission::Probability(SURE), KeyAdmission::Count(2), KeyAdmission::Count(4)];
    let expiries = [Expiry::Never, Expiry::Clocks(CLOCKS_BEYOND), Expiry::Recent];
    let life = RowLife { admission: random.choose(&admissions), expiry: random.choose(&expiries) };
    random.choose(&[RowLife::default(), life])
}
