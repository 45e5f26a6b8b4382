//! The suite over TCP by io_uring.

use conformance::rig::TcpRig;
use transport::tcp::TcpBackend;

fn rig() -> Result<TcpRig, String> {
    TcpRig::new(TcpBackend::Uring)
}

conformance::suite!(rig());
conformance::suite_of_threads!(rig());
conformance::suite_of_processes!(rig());
conformance::suite_of_streams!(rig());
