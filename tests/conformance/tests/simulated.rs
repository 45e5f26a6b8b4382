//! The suite over the simulated network.

use conformance::rig::SimulatedRig;

fn rig() -> Result<SimulatedRig, String> {
    Ok(SimulatedRig::new(0x5EED))
}

conformance::suite!(rig());
