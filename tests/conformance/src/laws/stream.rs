//! Laws of back ends that find messages in a stream of bytes: the other end is a plain socket.

use std::io::Write;
use std::net::TcpStream;

use transport::{Fault, PeerId};
use wire::HEADER_BYTES;

use crate::message::{self, Random};
use crate::node::{LIMITS, Node, expect_closed, expect_number, until};
use crate::rig::{Rig, TcpRig};

/// Also one byte at a time, also cut inside a header.
pub fn a_message_that_comes_in_any_pieces_arrives_whole(rig: &TcpRig) {
    let (mut nodes, _, mut socket) = open(rig);
    let mut random = Random::new(8);
    for number in 0..60 {
        let mut bytes = vec![0; random.message_bytes(20_000)];
        message::fill(&mut bytes, number);
        let piece_bytes = [1, 7, 63, 64, 65, 1_500][number as usize % 6].max(bytes.len() / 300);
        for piece in bytes.chunks(piece_bytes) {
            socket.write_all(piece).expect("the transport reads");
            nodes[0].turn();
        }
        expect_number(&mut nodes, 0, number);
    }
}

/// As a kernel that joins small segments delivers them, the last one in two halves.
pub fn many_messages_in_one_write_arrive_one_by_one(rig: &TcpRig) {
    let (mut nodes, _, mut socket) = open(rig);
    let mut random = Random::new(9);
    let mut stream = Vec::new();
    for number in 0..100 {
        let mut bytes = vec![0; HEADER_BYTES + random.below(500)];
        message::fill(&mut bytes, number);
        stream.extend_from_slice(&bytes);
    }
    let (most, rest) = stream.split_at(stream.len() - 30);
    socket.write_all(most).expect("the transport reads");
    for number in 0..99 {
        expect_number(&mut nodes, 0, number);
    }
    socket.write_all(rest).expect("the transport reads");
    expect_number(&mut nodes, 0, 99);
}

/// Inside the header or the body, after messages that were whole.
pub fn a_stream_that_ends_inside_a_message_is_closed_and_gives_no_message(rig: &TcpRig) {
    for kept in [1, 63, 64, 65, 9_999] {
        let (mut nodes, peer, mut socket) = open(rig);
        let mut bytes = vec![0; 10_000];
        message::fill(&mut bytes, 1);
        socket.write_all(&bytes).expect("the transport reads");
        socket.write_all(&bytes[..kept]).expect("the transport reads");
        drop(socket);
        expect_number(&mut nodes, 0, 1);
        assert_eq!(expect_closed(&mut nodes, 0), (peer, Fault::PeerClosed), "{kept} bytes");
        assert!(nodes[0].received.is_empty(), "{kept} bytes became a message");
    }
}

/// Whatever the length, and with the connection next to it going on.
pub fn random_bytes_never_give_a_message_and_end_with_a_malformed_fault(rig: &TcpRig) {
    let (mut nodes, _, mut good) = open(rig);
    let mut random = Random::new(10);
    for number in 0..40 {
        let (link, mut bad) = rig.raw();
        let peer = nodes[0].transport.adopt(link).expect("the transport takes its own kind");
        let junk: Vec<u8> =
            (0..HEADER_BYTES + random.below(5_000)).map(|_| random.below(256) as u8).collect();
        // The transport may close while this writes: then the rest need not be read.
        let _ = bad.write_all(&junk);
        let (closed, fault) = expect_closed(&mut nodes, 0);
        assert_eq!(closed, peer);
        assert!(matches!(fault, Fault::Malformed(_)), "junk {number}: {fault:?}");
        let mut bytes = vec![0; 500];
        message::fill(&mut bytes, number);
        good.write_all(&bytes).expect("the transport reads");
        expect_number(&mut nodes, 0, number);
    }
    until(&mut nodes, "rest", |nodes| nodes[0].received.is_empty().then_some(()));
}

/// A node joined to a plain socket.
fn open(rig: &TcpRig) -> ([Node; 1], PeerId, TcpStream) {
    let mut node = Node::new(rig.open(LIMITS));
    let (link, socket) = rig.raw();
    let peer = node.transport.adopt(link).expect("the transport takes its own kind");
    ([node], peer, socket)
}
