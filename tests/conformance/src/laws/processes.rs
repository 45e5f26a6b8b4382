//! Laws between two processes.

use transport::Fault;

use crate::far::{self, FarProcess, Role, run};
use crate::laws::threads::exchange_with_echo;
use crate::node::Node;
use crate::rig::Across;

/// As from a thread.
pub fn an_echo_from_another_process_returns_every_message_whole_and_in_order(rig: &dyn Across) {
    let (mut node, peer, far) = with_far(rig, Role::Echo);
    exchange_with_echo(&mut node, peer, 3_000);
    drop(node);
    far.join();
}

/// 100 MB each way.
pub fn two_processes_send_100_megabytes_to_each_other_at_once(rig: &dyn Across) {
    let (mut node, peer, far) = with_far(rig, Role::Flood);
    far::flood(&mut node, peer);
    drop(node);
    far.join();
}

/// By `kill -9`, with messages under way: nothing of it runs any more to say so.
pub fn a_process_that_is_killed_is_reported_closed(rig: &dyn Across) {
    let (mut node, peer, mut far) = with_far(rig, Role::Echo);
    exchange_with_echo(&mut node, peer, 10);
    for number in 0..4 {
        node.send(peer, number, 10_000).expect("there is credit");
    }
    node.turn();
    far.kill();
    let (closed, fault) = run(&mut node, "closed event", |node| node.closed.pop());
    assert_eq!(closed, peer);
    assert!(matches!(fault, Fault::PeerClosed | Fault::Os { .. }), "{fault:?}");
}

/// A node joined to a process of this role.
fn with_far(rig: &dyn Across, role: Role) -> (Node, transport::PeerId, FarProcess) {
    let door = rig.listen();
    let far = far::start(role, &door.address);
    let mut node = Node::new(rig.open(role.limits()));
    let link = (door.open)(role.limits());
    let peer = node.transport.adopt(link).expect("the transport takes its own kind");
    (node, peer, far)
}
