//! What zero-copy sending costs and saves over loop-back: `IORING_OP_SEND_ZC` beside
//! `IORING_OP_SEND`, in alternating rounds.
//!
//! Owns the measurement. One thread sends messages of one length from a window of buffers, another
//! reads them by plain calls. A zero-copy buffer is used again once the kernel has told that it is
//! done with it. Told are medians over the rounds, with the processor time of both sides, and how
//! many sends the kernel copied after all (`IORING_SEND_ZC_REPORT_USAGE`).
//!
//! Run it with `cargo run --release -p gradwire-transport --example send_zc`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that prints figures")]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

const ROUNDS: usize = 7;
/// Bytes that one measurement moves.
const STREAM_BYTES: usize = 256 << 20;
/// Lengths of messages, in bytes.
const LENGTHS: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 512 << 10];
/// Buffers that may be in the kernel.
const WINDOW: usize = 16;
/// `IORING_SEND_ZC_REPORT_USAGE`: the last completion says whether bytes were copied.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`.
const COPIED: u32 = 1 << 31;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Send,
    SendZc,
}

struct Lap {
    gb_per_s: f64,
    cpu_s_per_gb: f64,
    copied_share: f64,
}

fn main() {
    println!(
        "{:<8} {:>8} {:>9} {:>13} {:>7}",
        "way", "bytes", "GB_per_s", "cpu_s_per_GB", "copied"
    );
    for bytes in LENGTHS {
        let ways = [("send", Way::Send), ("send_zc", Way::SendZc)];
        let mut laps = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((_, way), laps) in ways.iter().zip(&mut laps) {
                laps.push(lap(*way, bytes));
            }
        }
        for ((name, _), laps) in ways.iter().zip(&laps) {
            let rate = median(laps, |lap| lap.gb_per_s);
            let cost = median(laps, |lap| lap.cpu_s_per_gb);
            let copied = median(laps, |lap| lap.copied_share);
            println!("{name:<8} {bytes:>8} {rate:>9.2} {cost:>13.3} {:>5.0} %", 100.0 * copied);
        }
    }
}

fn median(laps: &[Lap], figure: fn(&Lap) -> f64) -> f64 {
    let mut figures: Vec<f64> = laps.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn lap(way: Way, bytes: usize) -> Lap {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut right = listener.accept().unwrap().0;
    let count = STREAM_BYTES / bytes;
    let (start, cpu_start) = (Instant::now(), cpu_s());
    let sender = thread::spawn(move || send_all(&left, way, bytes, count));
    let mut buffer = vec![0; bytes];
    (0..count).for_each(|_| right.read_exact(&mut buffer).unwrap());
    let seconds = start.elapsed().as_secs_f64();
    let copied = sender.join().unwrap();
    let gigabytes = (count * bytes) as f64 / 1e9;
    Lap {
        gb_per_s: gigabytes / seconds,
        cpu_s_per_gb: (cpu_s() - cpu_start) / gigabytes,
        copied_share: copied as f64 / count as f64,
    }
}

/// Sends `count` messages, one send under way; how many of them were copied though asked not to be.
fn send_all(socket: &TcpStream, way: Way, bytes: usize, count: usize) -> usize {
    let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(64);
    let mut ring = ring.unwrap();
    let buffers = vec![vec![7_u8; bytes]; WINDOW];
    let mut free: Vec<usize> = (0..WINDOW).collect();
    let (mut sent, mut copied, mut sending) = (0, 0, false);
    while sent < count || free.len() < WINDOW {
        if !sending
            && sent < count
            && let Some(at) = free.pop()
        {
            let entry = entry(socket, way, &buffers[at]).user_data(at as u64);
            // SAFETY: the buffer lives until the loop is over, which is when all are free again,
            // and nobody writes to it.
            unsafe { ring.submission().push(&entry) }.unwrap();
            sending = true;
        }
        ring.submit_and_wait(1).unwrap();
        let completions: Vec<cqueue::Entry> = ring.completion().collect();
        for completion in completions {
            if cqueue::notif(completion.flags()) {
                copied += usize::from(completion.result() as u32 & COPIED != 0);
                free.push(completion.user_data() as usize);
                continue;
            }
            assert_eq!(completion.result(), bytes as i32, "whole messages are asked for");
            (sent, sending) = (sent + 1, false);
            if !cqueue::more(completion.flags()) {
                free.push(completion.user_data() as usize);
            }
        }
    }
    copied
}

fn entry(socket: &TcpStream, way: Way, bytes: &[u8]) -> squeue::Entry {
    let (socket, first, len) = (types::Fd(socket.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32);
    match way {
        Way::Send => opcode::Send::new(socket, first, len).flags(libc::MSG_WAITALL).build(),
        Way::SendZc => {
            let entry = opcode::SendZc::new(socket, first, len).flags(libc::MSG_WAITALL);
            entry.zc_flags(REPORT_USAGE).build()
        }
    }
}

/// Processor time of this process so far, in seconds.
fn cpu_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
