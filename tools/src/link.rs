//! `gradwire bench transport`: flags in, figures of a bare link out. Measuring is left to the crate
//! `bench`.

use bench::{Ends, LinkSpec, LinkWay, LinkWork, SIZES_BYTES};

use crate::cli::LinkArgs;
use crate::failure::Failure;
use crate::flags::{LinkFlag, WorkFlag};
use crate::output::{complain, json, result};
use crate::push_pull::{COMMIT, command};

/// Runs the command.
pub(crate) fn run(arguments: &LinkArgs) -> Result<(), Failure> {
    let LinkArgs { device, port, gid_index, .. } = arguments.clone();
    if let Some(address) = &arguments.listen {
        let served = bench::serve_link(address, (device, port, gid_index), &mut |s| complain(s));
        return served.map_err(Failure::failed);
    }
    let spec = LinkSpec {
        way: match arguments.transport {
            LinkFlag::Verbs => LinkWay::Verbs,
            LinkFlag::Shm => LinkWay::Shm,
            LinkFlag::Uring => LinkWay::Uring,
            LinkFlag::Epoll => LinkWay::Epoll,
        },
        work: match arguments.operation {
            WorkFlag::Write => LinkWork::Write,
            WorkFlag::Send => LinkWork::Send,
            WorkFlag::Read => LinkWork::Read,
        },
        sizes_bytes: arguments.size.map_or(SIZES_BYTES.to_vec(), |bytes| vec![bytes.0]),
        in_flight: arguments.in_flight,
        ends: arguments.address.clone().map_or(Ends::Both, Ends::Client),
        device,
        port,
        gid_index,
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
