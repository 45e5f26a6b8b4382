//! A process with registered memory that starts others: its memory stays its own and the device's.
//!
//! A kernel before 5.12 leaves the page that a device writes to with whichever of the two processes
//! does not write it first; from then on the child gets a copy at once. The library, which is asked
//! to when it is loaded, keeps registered memory from children where it does not trust the kernel:
//! a child that looks there ends.

use std::ffi::c_int;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitOptions, waitpid};

use super::*;

/// What the child leaves behind if it saw what it should.
const CHILD_CONTENT: i32 = 7;
/// What lies in the memory of both ends before, what the child writes, and what the parent does.
const BEFORE: u8 = 0xA1;
const OF_CHILD: u8 = 0xC2;
const OF_PARENT: u8 = 0xB3;
/// Messages in each phase.
const MESSAGES: usize = 40;
const MESSAGE_BYTES: usize = 3_000;

/// What a child has of registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Copies,
    Nothing,
}

/// Forks a child that looks at the memory of both ends and then writes all of it.
fn fork_that_writes(ends: [&End; 2]) -> Child {
    // SAFETY: the child has this thread alone. Until `_exit` it reads and writes bytes that are
    // mapped, allocates nothing, takes no lock and calls nothing of the library.
    let child: c_int = unsafe { libc::fork() };
    if child == 0 {
        let mut is_as_before = true;
        for end in ends {
            // SAFETY: in the child nobody else has the memory: no other thread came along, and what
            // the device writes goes to the parent's pages.
            let bytes = unsafe { end.memory.slice_mut(0..RING_BYTES) };
            is_as_before &= bytes.iter().all(|&byte| byte == BEFORE);
            bytes.fill(OF_CHILD);
        }
        // SAFETY: ends the child at once; nothing that the parent shares is dropped or flushed.
        unsafe { libc::_exit(if is_as_before { CHILD_CONTENT } else { 1 }) };
    }
    let child = Pid::from_raw(child).expect("a child");
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().expect("it has ended");
    match (status.exit_status(), status.terminating_signal()) {
        (Some(CHILD_CONTENT), _) => Child::Copies,
        (_, Some(libc::SIGSEGV)) => Child::Nothing,
        other => panic!("the child sees what is not its parent's: {other:?}"),
    }
}

/// Sends `byte` from one end to the other, message after message, and looks at what arrives.
fn send_and_check(from: &mut End, to: &mut End, byte: u8) {
    for number in 0..MESSAGES {
        let (source, target) = (number * 64, (number * 4_096) % (RING_BYTES / 2));
        from.fill(source, &[byte; MESSAGE_BYTES]);
        to.qp.post_recvs(1, 99).unwrap();
        let payload = Payload::Registered(from.memory.local(source..source + MESSAGE_BYTES));
        let write = from.write(to, target, payload, number as u32);
        from.qp.post_writes(&[write]).unwrap();
        assert_eq!(to.next().outcome.unwrap().imm, Some(number as u32));
        assert_eq!(from.next().outcome.map(|_| ()), Ok(()));
        assert_eq!(to.bytes(target, MESSAGE_BYTES), [byte; MESSAGE_BYTES], "message {number}");
    }
}

#[test]
fn a_forked_child_that_writes_changes_nothing_of_its_parent_and_traffic_goes_on() {
    let test = "a_forked_child_that_writes_changes_nothing_of_its_parent_and_traffic_goes_on";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    for end in [&a, &b] {
        end.fill(0, &vec![BEFORE; RING_BYTES]);
    }
    let child = fork_that_writes([&a, &b]);
    let _ = writeln!(std::io::stderr(), "{test}: the child has {child:?}");
    for end in [&a, &b] {
        assert!(end.bytes(0, RING_BYTES).iter().all(|&byte| byte == BEFORE), "the child's bytes");
    }
    // The parent writes first: on kernels that copy late, its page would be another one from here.
    b.fill(0, &vec![OF_PARENT; RING_BYTES]);
    send_and_check(&mut a, &mut b, 1);
    send_and_check(&mut b, &mut a, 2);
}

#[test]
fn a_child_that_runs_another_program_changes_nothing_and_traffic_goes_on_meanwhile() {
    let test = "a_child_that_runs_another_program_changes_nothing_and_traffic_goes_on_meanwhile";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    for end in [&a, &b] {
        end.fill(0, &vec![BEFORE; RING_BYTES]);
    }
    let mut command = Command::new("sh");
    let mut child =
        command.args(["-c", "read line; exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
    send_and_check(&mut a, &mut b, 1);
    drop(child.stdin.take()); // Ends its line.
    assert_eq!(child.wait().unwrap().code(), Some(CHILD_CONTENT));
    send_and_check(&mut b, &mut a, 2);
    let untouched = b.bytes(RING_BYTES / 2 + MESSAGE_BYTES, RING_BYTES / 4);
    assert!(untouched.iter().all(|&byte| byte == BEFORE));
}
