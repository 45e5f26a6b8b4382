//! Metrics: a process's figures, as Prometheus reads them.
//!
//! Owns the listener and its answers. What is shown is left to `server`, `coordinator` and
//! `training`, how it is written to `page`. A dozen lines of HTTP are all that a reader of figures
//! asks for; servers that speak more of it have no bound on how long a peer may hold a thread.
//!
//! Invariant: a reader holds a thread for [`ANSWER_MAX`] at most, and there are at most
//! [`READERS_MAX`].

pub(crate) mod coordinator;
pub(crate) mod page;
pub(crate) mod server;
pub(crate) mod training;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use ::server::{Exposure, listen};
use prometheus_client::registry::Registry;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::page::{Figures, Shown};
use crate::failure::Failure;

/// How long asking and answering may take together.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Readers at once; more are closed as they come.
const READERS_MAX: usize = 8;

/// The longest request, in bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// How often the listener looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the figures are.
const PATH: &str = "/metrics";

/// What `prometheus_client` writes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A listener; dropped, it ends.
pub(crate) struct Endpoint {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Shows `figures` at `address`, `host:port`; port 0 takes a free one. `None` shows nothing.
    /// Whoever can reach the address may read them, and do nothing else.
    pub(crate) fn start(
        address: Option<&str>,
        figures: impl Figures,
    ) -> Result<Option<Endpoint>, Failure> {
        let Some(address) = address else { return Ok(None) };
        let listener = listen(address, Exposure::Insecure).map_err(Failure::failed)?;
        listener.set_nonblocking(true).map_err(Failure::failed)?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shown(figures)));
        let (registry, closing) = (Arc::new(registry), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&closing);
        let attend = move || attend(&listener, &registry, &seen);
        let thread = Builder::new().name("metrics".to_owned()).spawn(attend);
        let thread = Some(thread.map_err(Failure::failed)?);
        tracing::info!(%address, "figures are shown");
        Ok(Some(Endpoint { address, closing, thread }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn attend(listener: &TcpListener, registry: &Arc<Registry>, closing: &AtomicBool) {
    let readers = Arc::new(AtomicUsize::new(0));
    let timeout = Timespec::try_from(LOOK_EVERY).expect("100 ms");
    while !closing.load(Ordering::Relaxed) {
        let mut polled = [PollFd::new(listener, PollFlags::IN)];
        if !poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(LOOK_EVERY); // No files are left.
            continue;
        };
        if readers.load(Ordering::Relaxed) >= READERS_MAX {
            continue;
        }
        readers.fetch_add(1, Ordering::Relaxed);
        let (registry, done) = (Arc::clone(registry), Arc::clone(&readers));
        let answer = move || {
            if let Err(error) = answer(stream, &registry) {
                tracing::debug!(%error, "a reader of figures is given up");
            }
            done.fetch_sub(1, Ordering::Relaxed);
        };
        if Builder::new().name("metrics-reader".to_owned()).spawn(answer).is_err() {
            readers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
    let until = Instant::now() + ANSWER_MAX;
    stream.set_nonblocking(false)?;
    let head = read_head(&mut stream, until)?;
    let (status, kind, body) = match request(&head) {
        Asked::Figures => {
            let mut body = String::new();
            prometheus_client::encoding::text::encode(&mut body, registry)
                .map_err(io::Error::other)?;
            ("200 OK", CONTENT_TYPE, body)
        }
        Asked::Elsewhere => ("404 Not Found", "text/plain", format!("figures are at {PATH}\n")),
        Asked::Otherwise => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let bytes = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\nConnection: close\
         \r\n\r\n"
    );
    write_all(&mut stream, [head, body].concat().as_bytes(), until)
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Figures,
    Elsewhere,
    Otherwise,
}

fn request(head: &[u8]) -> Asked {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some(path)) if path.split('?').next() == Some(PATH) => Asked::Figures,
        (Some("GET"), _) => Asked::Elsewhere,
        _ => Asked::Otherwise,
    }
}

/// Reads up to the empty line that ends a request without a body.
fn read_head(stream: &mut TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > REQUEST_BYTES_MAX {
            let why = format!("a request of more than {REQUEST_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => head.extend_from_slice(&piece[..bytes]),
        }
    }
    Ok(head)
}

fn write_all(stream: &mut TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_at_one_path_and_only_read() {
        assert_eq!(request(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), Asked::Figures);
        assert_eq!(request(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n"), Asked::Figures);
        assert_eq!(request(b"GET / HTTP/1.1\r\n\r\n"), Asked::Elsewhere);
        assert_eq!(request(b"POST /metrics HTTP/1.1\r\n\r\n"), Asked::Otherwise);
        assert_eq!(request(b"\xff\xfe\r\n\r\n"), Asked::Otherwise);
    }
}
