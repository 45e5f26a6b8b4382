//! `gradwire bench push-pull`: flags in, figures out. Measuring is left to the crate `bench`.

use bench::{Carrier, Optimizer, PushPullSpec};

use crate::cli::PushPullArgs;
use crate::failure::Failure;
use crate::flags::TransportFlag;
use crate::output::{complain, json, result};

/// The commit that was built.
pub(crate) const COMMIT: &str = env!("GRADWIRE_COMMIT");

/// Runs the command.
pub(crate) fn run(arguments: &PushPullArgs) -> Result<(), Failure> {
    let spec = PushPullSpec {
        keys_per_request: arguments.keys,
        dim: arguments.dim as usize,
        resident_keys: arguments.resident,
        optimizer: optimizer(&arguments.optimizer),
        transport: match arguments.transport {
            TransportFlag::Auto | TransportFlag::Shm => Carrier::Shm,
            TransportFlag::Uring => Carrier::Uring,
            TransportFlag::Epoll => Carrier::Epoll,
            TransportFlag::Verbs => Carrier::Verbs,
        },
        verbs: arguments.rdma.settings(arguments.transport)?,
        codec: arguments.codec.0,
        zipf_exponent: arguments.zipf,
        seconds: arguments.seconds,
        repeats: arguments.repeats,
        in_flight: arguments.in_flight,
        seed: arguments.seed,
    };
    spec.check().map_err(Failure::usage)?;
    let report = bench::run(&spec, COMMIT, &command(), &mut |step| complain(step));
    let report = report.map_err(Failure::failed)?;
    if arguments.json { json(&report) } else { result(&report.render_table()) }
}

/// The rule that a flag names; the flag's parser lets no other name through.
pub(crate) fn optimizer(name: &str) -> Optimizer {
    name.parse().expect("the parser of the flag knows the names of the optimizers")
}

/// The command line as it was given.
pub(crate) fn command() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}
