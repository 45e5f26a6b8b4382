//! The suite over TCP by epoll.

use conformance::rig::TcpRig;
use transport::tcp::TcpBackend;

fn rig() -> Result<TcpRig, String> {
    TcpRig::new(TcpBackend::Epoll)
}

conformance::suite!(rig());
conformance::suite_of_threads!(rig());
conformance::suite_of_processes!(rig());
conformance::suite_of_streams!(rig());
