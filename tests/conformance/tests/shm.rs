//! The suite over rings in shared memory.

use conformance::rig::ShmRig;

fn rig() -> Result<ShmRig, String> {
    Ok(ShmRig)
}

conformance::suite!(rig());
conformance::suite_of_threads!(rig());
conformance::suite_of_processes!(rig());
