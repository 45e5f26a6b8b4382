//! Trials of devices, memory and queues on a device that is there; skipped, by name, without one.
//!
//! Owns a pair of connected queue pairs of this process. One test has the device at a time, since
//! one of them takes its link down.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path as FilePath;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::completion::{Completion, CompletionQueue, Opcode, POLL_MAX, Status};
use super::device::{AsyncEvent, Device, DeviceInfo, PortState, devices};
use super::error::VerbsError;
use super::gid::{Choice, Wish, choose};
use super::memory::{Access, Registered};
use super::queue_pair::{
    CHAIN_MAX, Operation, Path, Payload, QpSpec, QueuePair, Remote, Request, Signal, WriteImm,
};
use super::settings::RailNames;

mod fork;
mod windows;

/// A soft device on an emulated processor is slow.
const DEADLINE: Duration = Duration::from_secs(60);
const SPEC: QpSpec = QpSpec { sends_max: 256, recvs_max: 512, inline_bytes: 64 };
const RING_BYTES: usize = 1 << 20;

/// The device to try, if this machine has one with an active port, and nobody else until the guard
/// is dropped.
fn device_for(test: &str) -> Option<(Device, Choice, MutexGuard<'static, ()>)> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let rails = RailNames::default();
    let wish = Wish { rails, port: None, gid_index: None, local };
    let found = devices().and_then(|devices| choose(&devices, &wish));
    match found {
        Ok(choice) => Some((Device::open(&choice.device).unwrap(), choice, guard)),
        Err(why) => {
            // Past the harness's capture: a skip is to be seen.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
            None
        }
    }
}

/// One end.
struct End {
    cq: CompletionQueue,
    qp: QueuePair,
    memory: Registered,
    seen: Vec<Completion>,
}

impl End {
    fn new(device: &Device, path: &Path) -> End {
        let cq = CompletionQueue::new(device, SPEC.sends_max + SPEC.recvs_max).unwrap();
        let mut qp = QueuePair::new(device, &cq, SPEC).unwrap();
        qp.init(path).unwrap();
        let memory = Registered::register(device, RING_BYTES, Access::RemoteReadWrite).unwrap();
        End { cq, qp, memory, seen: Vec::new() }
    }

    fn remote(&self, choice: &Choice, psn: u32, lid: u16) -> Remote {
        Remote { qp_number: self.qp.number(), psn, lid, gid: choice.gid }
    }

    /// The next completion, in order.
    fn next(&mut self) -> Completion {
        let deadline = Instant::now() + DEADLINE;
        while self.seen.is_empty() {
            assert!(Instant::now() < deadline, "no completion in {DEADLINE:?}");
            self.poll();
        }
        self.seen.remove(0)
    }

    fn poll(&mut self) {
        let mut out = [Completion::EMPTY; POLL_MAX];
        let count = self.cq.poll(&mut out).unwrap();
        self.seen.extend_from_slice(&out[..count]);
    }

    /// What lies in the memory. Only where no peer writes any more.
    fn bytes(&self, offset: usize, count: usize) -> Vec<u8> {
        // SAFETY: every test has seen the completion of what was written here before it looks.
        unsafe { self.memory.slice(offset..offset + count) }.to_vec()
    }

    fn fill(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: no test posts requests of bytes before it has filled them.
        unsafe { self.memory.slice_mut(offset..offset + bytes.len()) }.copy_from_slice(bytes);
    }

    fn write<'a>(&self, peer: &End, offset: usize, payload: Payload<'a>, imm: u32) -> WriteImm<'a> {
        WriteImm {
            wr_id: u64::from(imm),
            payload,
            remote_address: peer.memory.address() + offset as u64,
            rkey: peer.memory.rkey(),
            imm,
            signal: Signal::Completes,
        }
    }
}

/// Two connected ends.
fn pair(device: &Device, choice: &Choice) -> (End, End) {
    let port = device.port(choice.port).unwrap();
    let path = |psn| Path {
        port: choice.port,
        link_layer: choice.link_layer,
        gid_index: choice.gid_index,
        pkey_index: 0,
        mtu: port.mtu,
        service_level: 0,
        traffic_class: 0,
        timeout: 14,
        retry_count: 7,
        rnr_retry_count: 0,
        reads_max: 1,
        psn,
    };
    let (mut a, mut b) = (End::new(device, &path(0)), End::new(device, &path(0)));
    let (to_a, to_b) = (a.remote(choice, 7, port.lid), b.remote(choice, 0xff_fffe, port.lid));
    a.qp.connect(&path(7), &to_b).unwrap();
    b.qp.connect(&path(0xff_fffe), &to_a).unwrap();
    (a, b)
}

#[test]
fn a_write_with_a_number_arrives_with_both_and_its_sender_hears_of_it() {
    let test = "a_write_with_a_number_arrives_with_both_and_its_sender_hears_of_it";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(3, 99).unwrap();
    a.fill(4096, &[5; 10_000]);
    assert!(a.qp.inline_bytes_max() >= 32, "{}", a.qp.inline_bytes_max());
    let writes = [
        a.write(&b, 0, Payload::Registered(a.memory.local(4096..14_096)), 0x8000_0001),
        a.write(&b, 64, Payload::Inline(&[6; 32]), 2),
        a.write(&b, 0, Payload::Empty, 3),
    ];
    a.qp.post_writes(&writes).unwrap();
    for (imm, bytes) in [(0x8000_0001, 10_000), (2, 32), (3, 0)] {
        let seen = b.next();
        let done = seen.outcome.unwrap();
        assert_eq!((seen.wr_id, seen.qp_number), (99, b.qp.number()));
        assert_eq!((done.opcode, done.imm), (Opcode::RecvOfWrite, Some(imm)));
        assert_eq!(done.bytes, bytes);
        let sent = a.next();
        assert_eq!((sent.wr_id, sent.outcome.unwrap().opcode), (u64::from(imm), Opcode::Write));
    }
    let got = b.bytes(0, 10_001);
    assert!(got[..64].iter().chain(&got[96..10_000]).all(|&byte| byte == 5));
    assert!(got[64..96].iter().all(|&byte| byte == 6) && got[10_000] == 0);
}

#[test]
fn chains_longer_than_a_doorbell_arrive_whole_and_in_order_and_the_last_completes() {
    let test = "chains_longer_than_a_doorbell_arrive_whole_and_in_order_and_the_last_completes";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    let count = 2 * CHAIN_MAX + 3;
    b.qp.post_recvs(count, 1).unwrap();
    let numbers: Vec<[u8; 4]> = (0..count as u32).map(u32::to_le_bytes).collect();
    let mut writes: Vec<WriteImm<'_>> = numbers
        .iter()
        .enumerate()
        .map(|(at, bytes)| WriteImm {
            signal: Signal::Silent,
            ..a.write(&b, 64 * at, Payload::Inline(bytes), at as u32)
        })
        .collect();
    writes[count - 1].signal = Signal::Completes;
    a.qp.post_writes(&writes).unwrap();
    for number in 0..count as u32 {
        assert_eq!(b.next().outcome.unwrap().imm, Some(number));
    }
    for (number, bytes) in numbers.iter().enumerate() {
        assert_eq!(b.bytes(64 * number, 4), bytes);
    }
    assert_eq!(a.next().wr_id, count as u64 - 1);
    a.poll();
    assert_eq!(a.seen, [], "silent requests complete silently");
}

#[test]
fn a_send_fills_the_next_receive_and_a_read_fetches_what_lies_there() {
    let test = "a_send_fills_the_next_receive_and_a_read_fetches_what_lies_there";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    // SAFETY: nobody looks at these bytes before the receive is over.
    unsafe { b.qp.post_recvs_into(&[(4, b.memory.local(0..100))]) }.unwrap();
    a.fill(0, &[3; 70]);
    let request = |wr_id, operation, payload| Request {
        wr_id,
        operation,
        payload,
        signal: Signal::Completes,
    };
    let send = request(5, Operation::Send, Payload::Registered(a.memory.local(0..70)));
    // SAFETY: a send fills nothing here.
    unsafe { a.qp.post_requests(&[send]) }.unwrap();
    let seen = b.next();
    assert_eq!((seen.wr_id, seen.outcome.unwrap().opcode), (4, Opcode::Recv));
    assert_eq!((seen.outcome.unwrap().bytes, seen.outcome.unwrap().imm), (70, None));
    assert_eq!(b.bytes(0, 100), [[3; 70].as_slice(), &[0; 30]].concat());
    assert_eq!(a.next().outcome.unwrap().opcode, Opcode::Send);

    b.fill(200, b"fetched");
    let from = Operation::Read { remote_address: b.memory.address() + 200, rkey: b.memory.rkey() };
    let read = request(6, from, Payload::Registered(a.memory.local(500..507)));
    // SAFETY: nobody looks at these bytes before the read is over.
    unsafe { a.qp.post_requests(&[read]) }.unwrap();
    let seen = a.next();
    assert_eq!((seen.wr_id, seen.outcome.unwrap().opcode), (6, Opcode::Read));
    assert_eq!(a.bytes(500, 7), b"fetched");
}

#[test]
fn a_write_by_a_wrong_key_fails_by_name_and_writes_nothing() {
    let test = "a_write_by_a_wrong_key_fails_by_name_and_writes_nothing";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(2, 1).unwrap();
    let mut write = a.write(&b, 0, Payload::Inline(&[1; 8]), 7);
    write.rkey ^= 0x00ff_ff00;
    a.qp.post_writes(&[write]).unwrap();
    let seen = a.next();
    let failure = seen.outcome.unwrap_err();
    assert_eq!((seen.wr_id, failure.status), (7, Status::REMOTE_ACCESS));
    assert!(failure.to_string().contains("may not be reached"), "{failure}");
    assert_eq!(b.bytes(0, 8), [0; 8]);
}

#[test]
fn a_peer_without_a_posted_receive_is_told_of_at_once() {
    let test = "a_peer_without_a_posted_receive_is_told_of_at_once";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, b) = pair(&device, &choice);
    a.qp.post_writes(&[a.write(&b, 0, Payload::Empty, 7)]).unwrap();
    assert_eq!(a.next().outcome.unwrap_err().status, Status::NO_RECEIVE);
}

#[test]
fn a_failed_queue_pair_gives_its_receives_back_and_its_peer_hears_of_it_when_it_sends() {
    let test = "a_failed_queue_pair_gives_its_receives_back_and_its_peer_hears_of_it_when_it_sends";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(70, 8).unwrap();
    b.qp.fail().unwrap();
    for _ in 0..70 {
        let seen = b.next();
        assert_eq!((seen.wr_id, seen.outcome.unwrap_err().status), (8, Status::FLUSHED));
    }
    a.qp.fail().unwrap();
    a.qp.post_writes(&[a.write(&b, 0, Payload::Empty, 1)]).unwrap();
    assert_eq!(a.next().outcome.unwrap_err().status, Status::FLUSHED);
}

#[test]
fn an_armed_queue_wakes_who_sleeps_on_its_descriptor() {
    let test = "an_armed_queue_wakes_who_sleeps_on_its_descriptor";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(2, 1).unwrap();
    for round in 0..2 {
        assert_eq!(b.cq.clear_events().unwrap(), 0);
        b.cq.arm().unwrap();
        b.poll();
        assert_eq!(b.seen, [], "nothing came before");
        assert!(!is_readable(&b.cq, Duration::ZERO));
        a.qp.post_writes(&[a.write(&b, 0, Payload::Empty, round)]).unwrap();
        assert!(is_readable(&b.cq, DEADLINE));
        assert_eq!(b.cq.clear_events().unwrap(), 1);
        assert!(!is_readable(&b.cq, Duration::ZERO));
        assert_eq!(b.next().outcome.unwrap().imm, Some(round));
    }
}

#[test]
fn a_queue_that_is_made_larger_keeps_what_is_in_it() {
    let test = "a_queue_that_is_made_larger_keeps_what_is_in_it";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(2, 1).unwrap();
    let writes = [1, 2].map(|imm| a.write(&b, 0, Payload::Empty, imm));
    a.qp.post_writes(&writes).unwrap();
    a.next();
    a.next();
    b.cq.resize(2000).unwrap();
    assert!(b.cq.entries() >= 2000, "{}", b.cq.entries());
    assert_eq!([1, 2].map(|_| b.next().outcome.unwrap().imm), [Some(1), Some(2)]);
}

#[test]
fn more_than_the_device_has_is_refused_with_both_numbers() {
    let test = "more_than_the_device_has_is_refused_with_both_numbers";
    let Some((device, _, _guard)) = device_for(test) else { return };
    let limits = device.limits();
    let wanted = limits.completions_max + 1;
    let error = CompletionQueue::new(&device, wanted).err().unwrap();
    let limit = limits.completions_max;
    assert!(
        matches!(error, VerbsError::Limit { wanted: w, limit: l, .. } if (w, l) == (wanted, limit))
    );
    let cq = CompletionQueue::new(&device, 16).unwrap();
    let spec = QpSpec { recvs_max: limits.requests_max + 1, ..SPEC };
    let error = QueuePair::new(&device, &cq, spec).err().unwrap().to_string();
    assert!(error.contains(&limits.requests_max.to_string()), "{error}");
    let error = device.port(limits.ports + 1).unwrap_err();
    assert!(matches!(error, VerbsError::UnknownPort { .. }), "{error}");
    let error = Device::open("no such").unwrap_err().to_string();
    assert!(error.contains("no such") && error.contains(device.name()), "{error}");
}

#[test]
fn objects_may_be_dropped_in_any_order_with_work_under_way() {
    let test = "objects_may_be_dropped_in_any_order_with_work_under_way";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    for _ in 0..3 {
        let (mut a, mut b) = pair(&device, &choice);
        b.qp.post_recvs(8, 1).unwrap();
        let payload = Payload::Registered(a.memory.local(0..RING_BYTES));
        a.qp.post_writes(&[1, 2, 3].map(|imm| a.write(&b, 0, payload, imm))).unwrap();
        let End { cq, qp, memory, .. } = b;
        drop(memory);
        drop(cq);
        drop(qp);
        drop(a.memory);
        drop(a.cq);
    }
    let (a, b) = pair(&device, &choice);
    drop(device);
    drop((a, b));
}

#[test]
fn a_device_shows_its_ports_and_their_gids() {
    let test = "a_device_shows_its_ports_and_their_gids";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let info: DeviceInfo = device.info().unwrap();
    assert_eq!(
        (info.name.as_str(), info.ports.len()),
        (device.name(), device.limits().ports.into())
    );
    let port = &info.ports[usize::from(choice.port) - 1];
    assert_eq!((port.port, port.state), (choice.port, PortState::Active));
    let gid = port.gids.iter().find(|gid| gid.index == u32::from(choice.gid_index)).unwrap();
    assert_eq!(gid.gid, choice.gid);
    assert!(gid.index < port.gid_entries, "{} of {}", gid.index, port.gid_entries);
}

#[test]
fn a_link_that_goes_down_and_up_is_reported_by_its_device() {
    let test = "a_link_that_goes_down_and_up_is_reported_by_its_device";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let netdev = virtual_netdev(&device, &choice);
    let Some(netdev) = netdev else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {} is no toy", device.name());
        return;
    };
    while device.async_event().unwrap().is_some() {}
    set_link(&netdev, "down");
    let port = choice.port;
    await_event(&device, AsyncEvent::PortError { port });
    assert_ne!(device.port(port).unwrap().state, PortState::Active);
    set_link(&netdev, "up");
    await_event(&device, AsyncEvent::PortActive { port });
    assert_eq!(device.port(port).unwrap().state, PortState::Active);
    // Its addresses come back after the link: the next test needs them.
    let deadline = Instant::now() + DEADLINE;
    while !device.port(port).unwrap().gids.iter().any(|gid| gid.gid == choice.gid) {
        assert!(Instant::now() < deadline, "the GID {} is not back", choice.gid);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The network device that the port stands on, if it is one of software and nobody's real link.
fn virtual_netdev(device: &Device, choice: &Choice) -> Option<String> {
    let port = device.port(choice.port).unwrap();
    let netdev = port.gids.into_iter().find_map(|gid| gid.netdev)?;
    let is_virtual = FilePath::new("/sys/devices/virtual/net").join(&netdev).exists();
    (is_virtual && netdev != "lo").then_some(netdev)
}

fn set_link(netdev: &str, state: &str) {
    let status = Command::new("ip").args(["link", "set", netdev, state]).status().unwrap();
    assert!(status.success(), "ip link set {netdev} {state}: {status}");
}

fn await_event(device: &Device, wanted: AsyncEvent) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut fds = [PollFd::from_borrowed_fd(device.async_fd(), PollFlags::IN)];
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut fds, Some(&second)).unwrap();
        while let Some(event) = device.async_event().unwrap() {
            if event == wanted {
                return;
            }
        }
        assert!(Instant::now() < deadline, "no {wanted:?} in {DEADLINE:?}");
    }
}

fn is_readable(cq: &CompletionQueue, timeout: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(cq.fd(), PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}
