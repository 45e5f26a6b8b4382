//! The bare socket: round trips between two threads that read and write TCP and know nothing else.
//!
//! Owns two non-blocking sockets over loop-back, asked in a busy loop: no ring, no epoll, no
//! framing beyond lengths that both sides know. What a transport adds to this is its own.
//!
//! Invariant: the far thread answers each question, and ends when the connection does or when
//! nothing comes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wire::{PATIENCE, tcp_pair};
use super::{Pings, RoofError};
use crate::machine::Places;
use crate::stats::LatencyLog;

/// Reads of an empty socket between two looks at the clock.
const READS_PER_CLOCK: u32 = 256;

/// A connection between two threads of this process.
pub struct Sockets {
    near: TcpStream,
    question: Vec<u8>,
    answer: Vec<u8>,
    far: Option<JoinHandle<io::Result<()>>>,
}

impl Sockets {
    /// Connects the calling thread with a new one, which stays on the server's processor.
    ///
    /// - `question_bytes`, `answer_bytes`: what goes there and back in each round trip.
    /// - Errors: no connection.
    pub(crate) fn between(sizes: PingSizes, places: Places) -> Result<Sockets, RoofError> {
        let (near, far) = tcp_pair()?;
        for stream in [&near, &far] {
            let call = "O_NONBLOCK";
            stream.set_nonblocking(true).map_err(|error| RoofError::Os { call, error })?;
        }
        let thread = std::thread::Builder::new().name("socket-far-end".to_owned());
        let far = thread.spawn(move || {
            let _pinned = places.pin_server();
            serve(far, sizes)
        });
        let far = far.map_err(|error| RoofError::Os { call: "spawn", error })?;
        let (question, answer) = (vec![1; sizes.question_bytes], vec![0; sizes.answer_bytes]);
        Ok(Sockets { near, question, answer, far: Some(far) })
    }

    /// Asks and waits for the answer, one after another, for `duration`.
    ///
    /// - Errors: the connection ended, or nothing came for 10 s.
    pub fn pings(&mut self, duration: Duration) -> Result<Pings, RoofError> {
        let failed = |call| move |error| RoofError::Os { call, error };
        let (start, mut log) = (Instant::now(), LatencyLog::new());
        let mut sent_at = start;
        while sent_at - start < duration {
            send(&mut self.near, &self.question).map_err(failed("write"))?;
            receive(&mut self.near, &mut self.answer).map_err(failed("read"))?;
            let answered_at = Instant::now();
            log.record(answered_at - sent_at);
            sent_at = answered_at;
        }
        let [us_p50, us_p99] = log.p50_p99_us();
        Ok(Pings { us_p50, us_p99 })
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = self.near.shutdown(std::net::Shutdown::Both);
        if let Some(far) = self.far.take() {
            let _ = far.join(); // It ends at the latest when its patience does.
        }
    }
}

/// Bytes of one round trip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PingSizes {
    pub(crate) question_bytes: usize,
    pub(crate) answer_bytes: usize,
}

fn serve(mut stream: TcpStream, sizes: PingSizes) -> io::Result<()> {
    let (mut question, answer) = (vec![0; sizes.question_bytes], vec![1; sizes.answer_bytes]);
    loop {
        receive(&mut stream, &mut question)?;
        send(&mut stream, &answer)?;
    }
}

/// Writes all of `bytes`, which are few, and so does not wait.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match stream.write(bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(ErrorKind::WriteZero.into()),
    }
}

/// Reads until `bytes` is full.
fn receive(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let (mut filled, mut misses, since) = (0, 0_u32, Instant::now());
    while filled < bytes.len() {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                misses = misses.wrapping_add(1);
                if misses.is_multiple_of(READS_PER_CLOCK) && since.elapsed() > PATIENCE {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_of_different_lengths_go_there_and_back() {
        let sizes = PingSizes { question_bytes: 72, answer_bytes: 5000 };
        let mut sockets = Sockets::between(sizes, Places::find()).expect("loop-back");
        let pings = sockets.pings(Duration::from_millis(20)).expect("pings");
        assert!(pings.us_p50 > 0.0 && pings.us_p99 >= pings.us_p50, "{pings:?}");
    }
}
