//! Where a mapping's pages come from: how large they are, and which memory node they lie on.
//!
//! Owns the questions to the kernel: how many huge pages an administrator has set aside, how many
//! memory nodes there are and which one the caller runs on. Both are wishes that cost speed and
//! nothing else when they are not granted, so each has an outcome and neither is an error. Mapping
//! itself is left to `map`.
//!
//! Invariant: what is reported is what the kernel answered, and never what was hoped for.

use std::ffi::{c_int, c_long, c_uint, c_ulong};
use std::fs;
use std::io;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::map::HUGE_PAGE_BYTES;

/// Where the kernel tells how many huge pages of [`HUGE_PAGE_BYTES`] there are to have.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Where the kernel tells which memory nodes there are, as `0` or `0-1,4`.
const NODES: &str = "/sys/devices/system/node/online";

/// Where the kernel tells how it counts memory that was promised.
const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

/// Most memory nodes that can be named to the kernel here.
const NODES_MAX: usize = 1024;

/// Which pages a mapping has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge ones that an administrator had set aside. All of them are this mapping's already, so
    /// that touching one later cannot fail.
    SetAside,
    /// Huge ones where the kernel finds room for one when an address is first touched, else base
    /// pages: it took the advice.
    Advised,
    /// Base pages: the mapping is small, or the kernel has no others.
    Base,
}

/// Which memory node a mapping's pages are to lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// The machine has one, or does not tell. Nothing was asked for.
    OneNode,
    /// Its pages come from this one as long as it has any: the node of the processor that the
    /// caller ran on.
    Preferred {
        /// The node's number.
        node: u32,
    },
    /// The kernel did not take the wish; pages come from where they are first touched.
    Refused {
        /// What the kernel said.
        errno: i32,
    },
}

/// Whether so many bytes of huge pages are set aside and free. By the time they are asked for they
/// may not be: this only spares mappings that cannot succeed.
pub(crate) fn are_pages_set_aside(bytes: usize) -> bool {
    let count = |name: &str| {
        let text = fs::read_to_string(format!("{POOL}/{name}")).ok()?;
        text.trim().parse::<usize>().ok()
    };
    let (free, promised) = (count("free_hugepages"), count("resv_hugepages"));
    let free = free.unwrap_or(0).saturating_sub(promised.unwrap_or(0));
    free > 0 && free >= bytes.div_ceil(HUGE_PAGE_BYTES)
}

/// Whether the kernel counts each writable address as memory that it must have, used or not.
pub(crate) fn is_overcommit_strict() -> bool {
    static IS_STRICT: OnceLock<bool> = OnceLock::new();
    *IS_STRICT.get_or_init(|| fs::read_to_string(OVERCOMMIT).is_ok_and(|mode| mode.trim() == "2"))
}

/// Asks that pages of this mapping, which nobody has touched, come from the caller's own node.
pub(crate) fn prefer_own_node(first: NonNull<u8>, bytes: usize) -> Locality {
    static COUNT: OnceLock<usize> = OnceLock::new();
    let count = *COUNT.get_or_init(|| fs::read_to_string(NODES).map_or(1, |text| nodes_in(&text)));
    if count <= 1 {
        return Locality::OneNode;
    }
    match node_now() {
        Ok(node) => prefer(first, bytes, node),
        Err(errno) => Locality::Refused { errno },
    }
}

/// How many numbers a list such as `0-3,8` has; 0 if it is none.
fn nodes_in(list: &str) -> usize {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let counts: Option<Vec<usize>> = list.trim().split(',').map(range).collect();
    counts.map_or(0, |counts| counts.into_iter().fold(0, usize::saturating_add))
}

/// The memory node of the processor that the calling thread runs on now, if the kernel tells.
pub fn own_node() -> Option<u32> {
    node_now().ok()
}

fn node_now() -> Result<u32, i32> {
    let (mut cpu, mut node): (c_uint, c_uint) = (0, 0);
    // SAFETY: `getcpu` writes one `c_uint` through each of the first two pointers, which point to
    // locals of that type; the third has been unused since Linux 2.6.24 and may be null.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            &raw mut cpu,
            &raw mut node,
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    outcome(answer).map(|()| node)
}

fn prefer(first: NonNull<u8>, bytes: usize, node: u32) -> Locality {
    const WORD_BITS: usize = c_ulong::BITS as usize;
    let mut mask = [0 as c_ulong; NODES_MAX / WORD_BITS];
    let Some(word) = mask.get_mut(node as usize / WORD_BITS) else {
        return Locality::Refused { errno: libc::EINVAL };
    };
    *word = 1 << (node as usize % WORD_BITS);
    // SAFETY: `mbind` reads `NODES_MAX` bits of `mask`, which has as many. It changes where pages
    // that are not there yet will come from, and no byte: without flags it moves none. An address
    // that is not mapped is answered by an error.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            first.as_ptr(),
            bytes,
            c_long::from(libc::MPOL_PREFERRED as c_int),
            mask.as_ptr(),
            NODES_MAX,
            0_usize,
        )
    };
    match outcome(answer) {
        Ok(()) => Locality::Preferred { node },
        Err(errno) => Locality::Refused { errno },
    }
}

/// A system call's answer, right after it.
fn outcome(answer: c_long) -> Result<(), i32> {
    match answer {
        -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Access, Mapping, PAGE_BYTES};

    #[test]
    fn a_list_of_nodes_is_counted_and_what_is_no_list_has_none() {
        for (list, count) in [("0\n", 1), ("0-1\n", 2), ("0-3,8,10-11", 7), ("", 0), ("1-0", 0)] {
            assert_eq!(nodes_in(list), count, "{list:?}");
        }
    }

    #[test]
    fn a_mapping_on_the_callers_own_node_is_memory_like_any_other() {
        let map = Mapping::new(PAGE_BYTES, PAGE_BYTES, Access::ReadWrite).unwrap();
        let node = own_node().expect("every kernel since 2.6.19 tells");
        let told = prefer(map.base(), map.bytes(), node);
        let unsupported = Locality::Refused { errno: libc::ENOSYS };
        assert!(told == Locality::Preferred { node } || told == unsupported, "{told:?}");
    }

    #[test]
    fn a_node_that_does_not_exist_is_refused_and_reported() {
        let map = Mapping::new(PAGE_BYTES, PAGE_BYTES, Access::ReadWrite).unwrap();
        for node in [NODES_MAX as u32 - 2, u32::MAX] {
            let told = prefer(map.base(), map.bytes(), node);
            assert!(matches!(told, Locality::Refused { .. }), "{told:?}");
        }
    }
}
