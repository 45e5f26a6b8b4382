//! Why a call of the verbs library failed, and what to do about it.
//!
//! Owns the words. What a failed work request means is left to [`super::completion`]; what becomes
//! of a link whose lane failed, to whoever holds it.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ptr::NonNull;

use rustix::io::Errno;

/// Why the verbs library is not there. Nothing is left loaded; the caller goes on without RDMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The dynamic linker did not find or take the library.
    Open {
        /// The file it was asked for.
        library: &'static str,
        /// What it said.
        reason: String,
    },
    /// The library lacks a function: it is older than version 1.1 of its interface.
    Symbol {
        /// The function.
        symbol: &'static str,
        /// What the dynamic linker said.
        reason: String,
    },
}

/// Why something that needs an RDMA device was not done. Nothing is left half made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerbsError {
    /// There is no verbs library.
    Library(LoadError),
    /// A call of the library failed.
    Call {
        /// The function.
        call: &'static str,
        /// What it was called for: the device, and the port, queue or size.
        on: String,
        /// `errno`.
        errno: i32,
    },
    /// Memory was not registered.
    Register {
        /// The device.
        device: String,
        /// How much memory, in bytes.
        bytes: usize,
        /// How much this process may lock, in bytes; none where there is no limit.
        locked_bytes_max: Option<u64>,
        /// `errno`.
        errno: i32,
    },
    /// No memory to register could be mapped.
    Memory(memory::MapError),
    /// There is no RDMA device at all.
    NoDevice,
    /// There is no device of this name.
    UnknownDevice {
        /// The name asked for.
        device: String,
        /// Those that are there.
        devices: Vec<String>,
    },
    /// The device has no such port.
    UnknownPort {
        /// The device.
        device: String,
        /// The port asked for.
        port: u8,
        /// How many it has; they count from 1.
        ports: u8,
    },
    /// No port is active.
    NoActivePort {
        /// What was looked at: `device/port state`, one after the other.
        looked_at: String,
    },
    /// The port's table has no usable GID at this index.
    UnknownGid {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// The index asked for.
        gid_index: u32,
        /// Entries of the table; indices count from 0.
        entries: u32,
    },
    /// No port has a GID of the address that the TCP link uses.
    NoGid {
        /// The address.
        address: IpAddr,
        /// What was looked at: `device/port`, one after the other.
        looked_at: String,
    },
    /// A bound of a queue is more than the device has.
    Limit {
        /// What was asked for.
        what: &'static str,
        /// The device.
        device: String,
        /// How many.
        wanted: u32,
        /// How many it has.
        limit: u32,
    },
}

impl VerbsError {
    /// For `map_err` of an errno: the function that failed, and what it was called for.
    pub(super) fn call(call: &'static str, on: impl Into<String>) -> impl FnOnce(i32) -> Self {
        move |errno| VerbsError::Call { call, on: on.into(), errno }
    }
}

/// What a function of the library that answers with a number says: 0, an errno, or -1 with the
/// errno where C keeps it. Some providers answer `-errno`.
pub(super) fn check(answer: c_int) -> Result<(), i32> {
    match answer {
        0 => Ok(()),
        -1 => Err(last_errno()),
        answer => Err(answer.saturating_abs()),
    }
}

/// What a function of the library that answers with a pointer says.
pub(super) fn non_null<T>(answer: *mut T) -> Result<NonNull<T>, i32> {
    NonNull::new(answer).ok_or_else(last_errno)
}

/// The errno that C keeps.
pub(super) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// What a person can do about an errno of any call, besides what it says itself.
fn remedy(errno: i32) -> &'static str {
    match Errno::from_raw_os_error(errno) {
        Errno::NOSYS | Errno::OPNOTSUPP => {
            " (no kernel module for RDMA is loaded, or the device cannot do it)"
        }
        // A device file that may not be opened is then looked for elsewhere, and not found.
        Errno::ACCESS | Errno::PERM | Errno::NOENT => {
            " (this user needs to read and write /dev/infiniband/uverbs*)"
        }
        Errno::NODEV | Errno::NXIO | Errno::IO => " (the device is gone, or was reset)",
        Errno::NOMEM => {
            " (the device, or the memory that may be locked, is used up: see `ulimit -l`)"
        }
        Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH => {
            " (the peer's address is not reached from this port: is it the same network?)"
        }
        _ => "",
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Open { library, reason } => {
                write!(f, "{library} cannot be loaded: {reason}")
            }
            LoadError::Symbol { symbol, reason } => write!(f, "{symbol} is missing: {reason}"),
        }
    }
}

impl fmt::Display for VerbsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerbsError::Library(error) => error.fmt(f),
            VerbsError::Call { call, on, errno } => {
                let why = io::Error::from_raw_os_error(*errno);
                write!(f, "{call} ({on}): {why}{}", remedy(*errno))
            }
            VerbsError::Register { device, bytes, locked_bytes_max, errno } => {
                let why = io::Error::from_raw_os_error(*errno);
                write!(f, "{bytes} bytes cannot be registered with {device}: {why}")?;
                match locked_bytes_max {
                    Some(bytes) => write!(
                        f,
                        "; this process may lock {bytes} bytes, raise that by `ulimit -l`, by \
                         `memlock` in /etc/security/limits.conf, or by LimitMEMLOCK= of its unit"
                    ),
                    None => Ok(()),
                }
            }
            VerbsError::Memory(error) => write!(f, "memory to register: {error}"),
            VerbsError::NoDevice => f.write_str("there is no RDMA device (`rdma link` shows them)"),
            VerbsError::UnknownDevice { device, devices } => {
                write!(f, "there is no RDMA device {device}, but {}", list(devices))
            }
            VerbsError::UnknownPort { device, port, ports } => {
                write!(f, "{device} has no port {port}: its ports are 1 to {ports}")
            }
            VerbsError::NoActivePort { looked_at } => {
                write!(f, "no port is active ({looked_at}); `rdma link` shows them")
            }
            VerbsError::UnknownGid { device, port, gid_index, entries } => write!(
                f,
                "{device}/{port} has no GID at index {gid_index}: its table has {entries} entries, \
                 from 0, and not all are in use"
            ),
            VerbsError::NoGid { address, looked_at } => write!(
                f,
                "no port has a GID of the address {address} (looked at {looked_at}); name the \
                 device, or use an address of its network interface"
            ),
            VerbsError::Limit { what, device, wanted, limit } => {
                write!(f, "{wanted} {what}, where {device} has at most {limit}")
            }
        }
    }
}

/// Names, for a sentence.
fn list(names: &[String]) -> String {
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

impl std::error::Error for LoadError {}
impl std::error::Error for VerbsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_registration_names_the_limit_and_how_to_raise_it() {
        let error = VerbsError::Register {
            device: "rxe0".to_owned(),
            bytes: 1 << 30,
            locked_bytes_max: Some(65_536),
            errno: libc::ENOMEM,
        };
        let text = error.to_string();
        for part in ["1073741824 bytes", "rxe0", "65536 bytes", "ulimit -l", "limits.conf"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_gid_that_is_not_there_names_the_size_of_the_table() {
        let device = "mlx5_0".to_owned();
        let error = VerbsError::UnknownGid { device, port: 1, gid_index: 300, entries: 255 };
        let text = error.to_string();
        assert!(
            text.contains("mlx5_0/1") && text.contains("300") && text.contains("255"),
            "{text}"
        );
    }

    #[test]
    fn an_answer_is_an_errno_whatever_its_sign() {
        assert_eq!(check(0), Ok(()));
        assert_eq!(check(libc::EINVAL), Err(libc::EINVAL));
        assert_eq!(check(-libc::EINVAL), Err(libc::EINVAL));
    }
}
