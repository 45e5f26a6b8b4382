//! What a port shows: its state, its rate and its GIDs.
//!
//! Owns the words and the questions. Which port is used is left to [`super::gid`].
//!
//! Invariant: nothing is remembered; each question asks the device again, since links go down and
//! GIDs move.

use std::fmt;
use std::fs;
use std::net::Ipv6Addr;
use std::ptr::NonNull;

use super::error::{VerbsError, check};
use super::ffi::{self, ibv_context, ibv_gid_entry, ibv_port_attr, zeroed};
use super::gid::{Gid, GidKind};
use super::library::Library;

/// GIDs in use that are looked at, at most: the kernel takes 65 535 bytes for them, of 32 each.
/// The largest tables of today's devices have 1024 entries.
const GIDS_MAX: u32 = 2047;

/// What one port shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number, from 1.
    pub port: u8,
    /// Whether packets may go.
    pub state: PortState,
    /// State of the wire, as the device numbers it: 5 is up.
    pub physical_state: u8,
    /// What the packets lie in.
    pub link_layer: LinkLayer,
    /// The longest payload of a packet now.
    pub mtu: Mtu,
    /// Its local identifier on InfiniBand; 0 on Ethernet.
    pub lid: u16,
    /// Rate of the link, in Mbit/s; 0 if not known.
    pub rate_mbit_per_s: u32,
    /// Entries that the GID table has, used or not.
    pub gid_entries: u32,
    /// The GIDs in use, by index.
    pub gids: Vec<GidInfo>,
}

/// One entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidInfo {
    /// Its place in the table.
    pub index: u32,
    /// The GID.
    pub gid: Gid,
    /// What it is good for.
    pub kind: GidKind,
    /// The network device it belongs to; none on InfiniBand.
    pub netdev: Option<String>,
}

/// Whether packets may go through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No.
    Down,
    /// Not yet: the subnet manager has not spoken.
    Init,
    /// Not yet: the subnet manager has not said go.
    Armed,
    /// Yes.
    Active,
    /// Another one, by its number.
    Other(u32),
}

/// What packets lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand's own frames.
    InfiniBand,
    /// Ethernet frames.
    Ethernet,
}

/// The longest payload of a packet, by the number that the library has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mtu {
    /// 256 bytes.
    Bytes256 = 1,
    /// 512 bytes.
    Bytes512 = 2,
    /// 1024 bytes.
    Bytes1024 = 3,
    /// 2048 bytes.
    Bytes2048 = 4,
    /// 4096 bytes.
    Bytes4096 = 5,
}

impl Mtu {
    /// That of the library's number; none if it has no such.
    pub fn from_number(number: u32) -> Option<Mtu> {
        Some(match number {
            1 => Mtu::Bytes256,
            2 => Mtu::Bytes512,
            3 => Mtu::Bytes1024,
            4 => Mtu::Bytes2048,
            5 => Mtu::Bytes4096,
            _ => return None,
        })
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        128 << self as u32
    }
}

/// A device to be asked about its ports.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) library: &'static Library,
    /// The open device.
    pub(super) context: NonNull<ibv_context>,
    pub(super) device: &'a str,
}

impl Asked<'_> {
    /// What the port shows now.
    ///
    /// Errors: [`VerbsError::Call`], also of a port that the device has not.
    ///
    /// # Safety
    /// `context` is open.
    pub(super) unsafe fn port(self, port: u8) -> Result<PortInfo, VerbsError> {
        let mut found: ibv_port_attr = zeroed();
        // SAFETY: the context is open by the caller's promise. The function writes the fields that
        // it had when the library was young, which are the first ones of this structure, and
        // leaves the last two as they are: zeros.
        let answer = unsafe {
            (self.library.query_port)(self.context.as_ptr(), port, (&raw mut found).cast())
        };
        let on = || format!("{}, port {port}", self.device);
        check(answer).map_err(|errno| VerbsError::call("ibv_query_port", on())(errno))?;
        let gid_entries = u32::try_from(found.gid_tbl_len).unwrap_or(0);
        let link_layer = match u32::from(found.link_layer) {
            ffi::IBV_LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
            _ => LinkLayer::InfiniBand, // Unspecified is what InfiniBand's oldest drivers say.
        };
        // SAFETY: as above.
        let gids = unsafe { self.gids(port, gid_entries, link_layer) }?;
        Ok(PortInfo {
            port,
            state: state(found.state),
            physical_state: found.phys_state,
            link_layer,
            mtu: Mtu::from_number(found.active_mtu).unwrap_or(Mtu::Bytes256),
            lid: found.lid,
            rate_mbit_per_s: rate_mbit_per_s(found.active_width, found.active_speed),
            gid_entries,
            gids,
        })
    }

    /// The GIDs in use of a port whose table has so many entries.
    ///
    /// # Safety
    /// `context` is open.
    unsafe fn gids(
        self,
        port: u8,
        entries: u32,
        link_layer: LinkLayer,
    ) -> Result<Vec<GidInfo>, VerbsError> {
        let Some(query) = self.library.query_gid_table else {
            let one = |index| self.gid_by_files(port, index, link_layer);
            return Ok((0..entries.min(GIDS_MAX)).filter_map(one).collect());
        };
        let mut found: Vec<ibv_gid_entry> = vec![zeroed(); GIDS_MAX as usize];
        let entry_bytes = size_of::<ibv_gid_entry>();
        // SAFETY: the context is open by the caller's promise; the function writes at most as many
        // entries of that size as `found` has.
        let count = unsafe {
            query(self.context.as_ptr(), found.as_mut_ptr(), found.len(), 0, entry_bytes)
        };
        let count = usize::try_from(count).map_err(|_| {
            let errno = i32::try_from(count.unsigned_abs()).unwrap_or(0);
            VerbsError::call("ibv_query_gid_table", self.device)(errno)
        })?;
        let of_port = found.iter().take(count).filter(|entry| entry.port_num == u32::from(port));
        let mut gids: Vec<GidInfo> = of_port.map(|entry| self.gid_of_entry(port, entry)).collect();
        gids.sort_by_key(|gid| gid.index);
        Ok(gids)
    }

    fn gid_of_entry(self, port: u8, entry: &ibv_gid_entry) -> GidInfo {
        // SAFETY: both parts of the union are 16 bytes of integers.
        let gid = Gid(unsafe { entry.gid.raw });
        let kind = match entry.gid_type {
            ffi::IBV_GID_TYPE_ROCE_V1 => GidKind::RoceV1,
            ffi::IBV_GID_TYPE_ROCE_V2 => GidKind::RoceV2,
            _ => GidKind::Ib,
        };
        let netdev = self.file(port, &format!("gid_attrs/ndevs/{}", entry.gid_index));
        GidInfo { index: entry.gid_index, gid, kind, netdev }
    }

    /// An entry as the kernel's files show it, for libraries that cannot say what a GID is good
    /// for. None if it is not in use.
    fn gid_by_files(self, port: u8, index: u32, link_layer: LinkLayer) -> Option<GidInfo> {
        let text = self.file(port, &format!("gids/{index}"))?;
        let gid = Gid(text.parse::<Ipv6Addr>().ok()?.octets());
        let kind = self.file(port, &format!("gid_attrs/types/{index}"));
        let kind = match (kind.as_deref(), link_layer) {
            (Some("RoCE v2"), _) => GidKind::RoceV2,
            (_, LinkLayer::Ethernet) => GidKind::RoceV1, // Called `IB/RoCE v1`, or not at all.
            (_, LinkLayer::InfiniBand) => GidKind::Ib,
        };
        let netdev = self.file(port, &format!("gid_attrs/ndevs/{index}"));
        (gid != Gid::default()).then_some(GidInfo { index, gid, kind, netdev })
    }

    /// What the kernel's file `name` about the port says; none if there is no such file or it is
    /// empty.
    fn file(self, port: u8, name: &str) -> Option<String> {
        let path = format!("/sys/class/infiniband/{}/ports/{port}/{name}", self.device);
        let text = fs::read_to_string(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

fn state(number: u32) -> PortState {
    match number {
        ffi::IBV_PORT_DOWN => PortState::Down,
        ffi::IBV_PORT_INIT => PortState::Init,
        ffi::IBV_PORT_ARMED => PortState::Armed,
        ffi::IBV_PORT_ACTIVE => PortState::Active,
        other => PortState::Other(other),
    }
}

/// Rate of a link of so many lanes of such a speed, both as InfiniBand numbers them; 0 for numbers
/// that it has not. Ethernet ports show the pair that comes nearest.
fn rate_mbit_per_s(width: u8, speed: u8) -> u32 {
    let lanes = match width {
        1 => 1,
        2 => 4,
        4 => 8,
        8 => 12,
        16 => 2,
        _ => 0,
    };
    let mbit_per_s = match speed {
        1 => 2_500,
        2 => 5_000,
        4 | 8 => 10_000,
        16 => 14_000,
        32 => 25_000,
        64 => 50_000,
        128 => 100_000,
        _ => 0,
    };
    lanes * mbit_per_s
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortState::Down => f.write_str("down"),
            PortState::Init => f.write_str("initialised"),
            PortState::Armed => f.write_str("armed"),
            PortState::Active => f.write_str("active"),
            PortState::Other(number) => write!(f, "in state {number}"),
        }
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkLayer::InfiniBand => "InfiniBand",
            LinkLayer::Ethernet => "Ethernet",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_has_the_bytes_of_its_name_and_the_number_of_the_library() {
        let bytes = [256, 512, 1024, 2048, 4096];
        for (number, bytes) in (1..).zip(bytes) {
            let mtu = Mtu::from_number(number).unwrap();
            assert_eq!((mtu as u32, mtu.bytes()), (number, bytes));
        }
        assert_eq!((Mtu::from_number(0), Mtu::from_number(6)), (None, None));
    }

    #[test]
    fn a_rate_is_lanes_times_speed_and_0_where_either_is_unknown() {
        assert_eq!(rate_mbit_per_s(2, 32), 100_000); // 4x EDR
        assert_eq!(rate_mbit_per_s(1, 1), 2_500);
        assert_eq!((rate_mbit_per_s(3, 1), rate_mbit_per_s(1, 0)), (0, 0));
    }
}
