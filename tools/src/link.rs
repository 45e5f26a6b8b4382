//! `gradwire bench transport`: flags in, figures of a bare link out. Measuring is left to the crate
//! `bench`.

use bench::{Ends, LinkSpec, LinkWay, LinkWork, SIZES_BYTES};
use server::Exposure;

use crate::cli::LinkArgs;
use crate::failure::Failure;
use crate::flags::{TransportFlag, WorkFlag};
use crate::output::{complain, json, result};
use crate::push_pull::{COMMIT, command};

/// Runs the command.
pub(crate) fn run(arguments: &LinkArgs) -> Result<(), Failure> {
    let verbs = match arguments.listen {
        None => arguments.rdma.settings(arguments.transport)?,
        Some(_) => arguments.rdma.settings(TransportFlag::Verbs)?, // If its client does.
    };
    if let Some(address) = &arguments.listen {
        let exposure = if arguments.insecure { Exposure::Insecure } else { Exposure::Loopback };
        let served = bench::serve_link(address, exposure, verbs, &mut |step| complain(step));
        return served.map_err(Failure::failed);
    }
    let spec = LinkSpec {
        way: match arguments.transport {
            TransportFlag::Auto => {
                let why = "--transport: a bare link is measured one way at a time, so name it";
                return Err(Failure::usage(why));
            }
            TransportFlag::Verbs => LinkWay::Verbs,
            TransportFlag::Shm => LinkWay::Shm,
            TransportFlag::Uring => LinkWay::Uring,
            TransportFlag::Epoll => LinkWay::Epoll,
        },
        work: match arguments.operation {
            WorkFlag::Write => LinkWork::Write,
            WorkFlag::Send => LinkWork::Send,
            WorkFlag::Read => LinkWork::Read,
        },
        sizes_bytes: arguments.size.map_or(SIZES_BYTES.to_vec(), |bytes| vec![bytes.0]),
        in_flight: arguments.in_flight,
        ends: arguments.address.clone().map_or(Ends::Both, Ends::Client),
        verbs,
        seconds: arguments.taking.seconds,
        repeats: arguments.taking.repeats,
    };
    spec.check().map_err(Failure::usage)?;
    let rows = bench::run_link(&spec, COMMIT, &command(), &mut |step| complain(step));
    let rows = rows.map_err(Failure::failed)?;
    if arguments.taking.json {
        rows.iter().try_for_each(json)
    } else {
        result(&bench::render_link(&rows))
    }
}
