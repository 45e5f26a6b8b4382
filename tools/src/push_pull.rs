//! `gradwire bench push-pull`: flags in, figures out. Measuring is left to the crate `bench`.

use bench::{Carrier, Optimizer, PushPullSpec};

use crate::cli::PushPullArgs;
use crate::failure::Failure;
use crate::flags::TransportFlag;
use crate::output::{complain, json, result};

/// Runs the command.
pub(crate) fn run(arguments: &PushPullArgs) -> Result<(), Failure> {
    let spec = PushPullSpec {
        keys_per_request: arguments.keys,
        dim: arguments.dim as usize,
        resident_keys: arguments.resident,
        optimizer: match &*arguments.optimizer {
            "adagrad" => Optimizer::AdaGrad,
            "adam" => Optimizer::Adam,
            "ftrl" => Optimizer::Ftrl,
            "sum" => Optimizer::Sum,
            _ => Optimizer::Sgd,
        },
        transport: match arguments.transport {
            TransportFlag::Auto | TransportFlag::Shm => Carrier::Shm,
            TransportFlag::Uring => Carrier::Uring,
            TransportFlag::Epoll => Carrier::Epoll,
        },
        zipf_exponent: arguments.zipf,
        seconds: arguments.seconds,
        repeats: arguments.repeats,
        in_flight: arguments.in_flight,
        seed: arguments.seed,
    };
    spec.check().map_err(Failure::usage)?;
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let commit = env!("GRADWIRE_COMMIT");
    let report = bench::run(&spec, commit, &command, &mut |step| complain(step));
    let report = report.map_err(Failure::failed)?;
    if arguments.json { json(&report) } else { result(&report.render_table()) }
}
