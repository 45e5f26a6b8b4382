//! etcd's gateway: its key-value calls as JSON over HTTP, as every etcd since 3.4 answers them.
//!
//! Owns one request and its answer at a time, and base64, in which the gateway carries bytes. What
//! is stored is left to `store_etcd`. There is no gRPC here, so that no asynchronous runtime and no
//! compiler of protocols is needed for a handful of small calls a day.
//!
//! Invariant: a call ends in the time that each endpoint was given, once to connect and once to
//! answer, and its answer is bounded.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest answer, in bytes: a few entries in base64.
const ANSWER_BYTES_MAX: usize = 64 << 20;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// An etcd cluster's client addresses.
#[derive(Debug)]
pub(super) struct Gateway {
    endpoints: Vec<String>,
    /// The one that answered last.
    current: usize,
    /// How long one endpoint may take: to connect, and then to answer.
    call_max: Duration,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// No endpoint answered in time. What was asked may still have been done.
    Unreachable(String),
    /// etcd says no; nothing was done.
    Denied(String),
}

impl Gateway {
    pub(super) fn new(endpoints: Vec<String>, call_max: Duration) -> Gateway {
        Gateway { endpoints, current: 0, call_max }
    }

    /// Another one to the same etcd, whose calls take as long as that.
    pub(super) fn another(&self, call_max: Duration) -> Gateway {
        Gateway { endpoints: self.endpoints.clone(), current: self.current, call_max }
    }

    /// Asks each endpoint in turn, beginning with the one that answered last. Only calls that may
    /// be made twice are to be made.
    pub(super) fn call(&mut self, path: &str, body: &Value) -> Result<Value, CallError> {
        let mut last = CallError::Unreachable("no endpoint is named".to_owned());
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.current];
            match exchange(endpoint, path, body, self.call_max) {
                Ok((200, answer)) => return Ok(answer),
                // An etcd that has no leader answers by 503 or 504; another may do better.
                Ok((status, answer)) if status < 500 => {
                    return Err(CallError::Denied(format!(
                        "{endpoint}: {status}: {}",
                        why(&answer)
                    )));
                }
                Ok((status, answer)) => {
                    let what = format!("{endpoint}: {status}: {}", why(&answer));
                    last = CallError::Unreachable(what);
                }
                Err(error) => last = CallError::Unreachable(format!("{endpoint}: {error}")),
            }
            self.current = (self.current + 1) % self.endpoints.len();
        }
        Err(last)
    }
}

/// What an error of etcd's says.
fn why(answer: &Value) -> &str {
    answer.get("error").or_else(|| answer.get("message")).and_then(Value::as_str).unwrap_or("")
}

/// One request and its answer: the status and the body.
fn exchange(
    endpoint: &str,
    path: &str,
    body: &Value,
    call_max: Duration,
) -> io::Result<(u16, Value)> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "no such host");
    let address = endpoint.to_socket_addrs()?.next().ok_or_else(unknown)?;
    let mut stream = TcpStream::connect_timeout(&address, call_max)?;
    stream.set_write_timeout(Some(call_max))?;
    let body = serde_json::to_vec(body)?;
    // Version 1.0: the answer comes in one piece and ends with the connection.
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {endpoint}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    let answer = read_whole(&mut stream, Instant::now() + call_max)?;
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let ends_at = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let ends_at = ends_at.ok_or_else(|| malformed("the answer is no HTTP"))?;
    let head = String::from_utf8_lossy(&answer[..ends_at]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| malformed("the answer has no status"))?;
    let body = serde_json::from_slice(&answer[ends_at + 4..]);
    match (status, body) {
        (200, Err(error)) => Err(malformed(&format!("the answer is no JSON: {error}"))),
        (status, body) => Ok((status, body.unwrap_or(Value::Null))),
    }
}

fn read_whole(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(whole),
            Ok(bytes) => whole.extend_from_slice(&piece[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            Err(error) => return Err(error),
        }
        if whole.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other(format!("an answer of over {ANSWER_BYTES_MAX} bytes")));
        }
    }
}

/// Bytes in base64, padded (RFC 4648, 4).
pub(super) fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) as usize & 63;
            text.push(if at <= three.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// Bytes from base64; none if it is none.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for four in digits.chunks(4) {
        let mut bits = 0;
        for digit in four {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * (4 - four.len());
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(&three[..four.len() - 1]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn base64_carries_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(from_base64(&to_base64(&bytes)), Some(bytes));
        }

        #[test]
        fn text_that_is_no_base64_is_none_or_bytes(text in ".{0,20}") {
            let _ = from_base64(&text);
        }
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (bytes, text) in pairs {
            assert_eq!(to_base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn an_endpoint_that_does_not_answer_is_named_within_its_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let mut gateway = Gateway::new(vec![endpoint.clone()], Duration::from_millis(100));
        match gateway.call("/v3/kv/range", &Value::Null) {
            Err(CallError::Unreachable(what)) => assert!(what.contains(&endpoint), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
