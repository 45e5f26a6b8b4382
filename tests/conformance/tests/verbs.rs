//! The suite over TCP with RDMA beside it. Where there is no device, each law is skipped.

use conformance::rig::TcpRig;
use transport::tcp::TcpBackend;
use transport::verbs::VerbsSettings;

fn rig() -> Result<TcpRig, String> {
    TcpRig::new(TcpBackend::Verbs(VerbsSettings::default()))
}

conformance::suite!(rig());
conformance::suite_of_threads!(rig());
conformance::suite_of_processes!(rig());
conformance::suite_of_streams!(rig());
