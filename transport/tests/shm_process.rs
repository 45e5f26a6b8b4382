//! Two processes over one pair of rings: messages cross, and a killed peer is seen.
//!
//! Owns the peer, which is this test program once more, told by its environment where to connect.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gradwire_transport::shm::{self, Shm};
use gradwire_transport::{Event, Fault, Limits, Link, PeerId, SendRefusal, Transport};
use wire::{Header, Kind, Seal};

/// Names the socket to the peer process.
const SOCKET: &str = "GRADWIRE_TEST_SOCKET";

/// Longer than the test takes when it does not hang.
const LONG: Duration = Duration::from_secs(60);

/// Killed when the test ends in any way.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn adopt(end: shm::End) -> (Shm, PeerId) {
    let mut shm = Shm::new(Limits::default()).unwrap();
    let peer = shm.adopt(Link::Shm(end)).unwrap();
    (shm, peer)
}

fn wait(shm: &mut Shm) -> Event {
    let deadline = shm.now() + LONG;
    let mut events = Vec::new();
    while events.is_empty() {
        assert!(shm.now() < deadline, "nothing came");
        shm.park(deadline);
        shm.poll(&mut events);
    }
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn send(shm: &mut Shm, peer: PeerId, bytes: usize, content: u8) {
    let mut slot = loop {
        match shm.acquire(peer, bytes) {
            Ok(slot) => break slot,
            Err(SendRefusal::NoCredit) => shm.park(shm.now() + LONG),
            Err(refusal) => panic!("{refusal}"),
        }
    };
    slot.bytes_mut().fill(content);
    wire::seal(slot.bytes_mut(), Header::new(Kind::Push), Seal::HeaderOnly, |_| 0);
    shm.post(slot);
    shm.flush();
}

#[test]
#[ignore = "the other process of the test below, which starts it"]
fn peer_process() {
    let path = env::var_os(SOCKET).expect("the parent names the socket");
    let (mut shm, peer) = adopt(shm::accept(UnixStream::connect(path).unwrap()).unwrap());
    while let Event::Received { slot, .. } = wait(&mut shm) {
        send(&mut shm, peer, slot.bytes().len(), slot.bytes()[64] + 1);
        shm.release(slot);
    }
}

#[test]
fn messages_cross_to_another_process_and_its_death_is_seen() {
    let path = env::temp_dir().join(format!("gradwire-shm-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "peer_process", "--ignored"])
        .env(SOCKET, &path)
        .stdout(Stdio::null())
        .spawn();
    let mut child = Peer(child.unwrap());
    let stream = listener.accept().unwrap().0;
    fs::remove_file(&path).unwrap();
    let (mut shm, peer) = adopt(shm::offer(stream, shm::RING_BYTES_MIN).unwrap());
    for round in 0..500 {
        let bytes = 65 + round * 3 % 1800;
        send(&mut shm, peer, bytes, round as u8 / 2);
        let Event::Received { slot, .. } = wait(&mut shm) else { panic!("closed") };
        assert_eq!((slot.bytes().len(), slot.bytes()[64]), (bytes, round as u8 / 2 + 1));
        shm.release(slot);
    }
    child.0.kill().unwrap();
    let Event::Closed { fault, .. } = wait(&mut shm) else { panic!("a message of the dead") };
    assert_eq!(fault, Fault::PeerClosed);
}
