//! The body of a lane message: what two transports tell each other, over their TCP link, about a
//! faster way beside it.
//!
//! Owns the layout. When each is said is left to the transport; nobody above it sees one.
//!
//! Invariant: what [`LaneMessage::from_bytes`] gives has every field within its range.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a lane message's body, in bytes.
pub const LANE_BODY_BYTES: usize = 256;

/// Rails that one side names at most for one generation.
pub const LANE_RAILS_MAX: usize = 8;

/// A ring for messages has at most so many bytes: positions travel in 21 bits of 64 bytes each,
/// and two that are a ring apart must differ.
pub const LANE_RING_BYTES_MAX: u64 = 64 << 20;

/// Positions are at most so many bytes, so that reckoning with them never overflows: 146 years at
/// a GB/s.
const POSITION_MAX: u64 = 1 << 62;

/// Numbers of queue pairs and packets have so many bits.
const NUMBER_BITS: u32 = 24;
/// Positions, and the ring's size, are multiples of this, in bytes.
const UNIT_BYTES: u64 = 64;
/// Bits of an IPv6 address.
const SUBNET_BITS_MAX: u8 = 128;
/// The largest code of a packet's longest payload: 4096 bytes.
const MTU_CODE_MAX: u8 = 5;

/// What one side says of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneMessage {
    /// These ports may carry the lane: one of them is to be chosen.
    Rails(LaneRails),
    /// A queue pair and a ring are ready to be connected to.
    Offer(LaneOffer),
    /// The queue pair of this generation is connected to the peer's, which may write to the ring.
    Ready {
        /// Which life of the lane.
        generation: u32,
        /// The key that the ring is written by in this life.
        rkey: u32,
    },
    /// This was the last message over TCP; what was acquired later comes by the lane.
    Switch {
        /// Which life of the lane.
        generation: u32,
    },
    /// The lane is over on this side; it takes no more from it.
    Broken {
        /// Which life of the lane.
        generation: u32,
        /// Messages that this side took from it, in order, since its `Offer`.
        delivered: u64,
        /// Why, by a number that only logs read.
        reason: u8,
    },
    /// This side has no lanes: it is not to be asked again.
    None {
        /// Why, by a number that only logs read.
        reason: u8,
    },
}

/// The ports that a side would have a lane over, and whether it chooses among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRails {
    /// Which life of the lane, from 1.
    pub generation: u32,
    /// The side whose number is larger chooses one of its rails and one of the other's. If both are
    /// the same, the generation is over.
    pub lot: u64,
    rails: [LaneRail; LANE_RAILS_MAX],
    count: u8,
}

/// A port with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRail {
    /// The address: a GID.
    pub gid: [u8; 16],
    /// How far the port is from the processor that uses it, as the kernel counts between memory
    /// nodes: 10 is near.
    pub distance: u8,
    /// So many leading bits of the IP address are its subnet's; 0 if that is not known, and on
    /// InfiniBand.
    pub subnet_bits: u8,
    /// What its packets are.
    pub fabric: LaneFabric,
}

/// What packets between two ports are; both must be of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LaneFabric {
    /// InfiniBand.
    InfiniBand = 1,
    /// RoCE on Ethernet frames.
    RoceV1 = 2,
    /// RoCE on UDP.
    RoceV2 = 3,
}

/// Where the peer may write, once it is told the key to that by [`LaneMessage::Ready`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneOffer {
    /// Which life of the lane, from 1.
    pub generation: u32,
    /// Index of the rail of the side that does not choose, among those that it has named.
    pub rail: u8,
    /// Number of the queue pair: 24 bits.
    pub qp_number: u32,
    /// Number of the first packet that this side sends: 24 bits.
    pub psn: u32,
    /// The port's local identifier; 0 on Ethernet.
    pub lid: u16,
    /// The port's GID.
    pub gid: [u8; 16],
    /// The longest payload of a packet, as the verbs number it: 1 is 256 bytes, 5 is 4096.
    pub mtu_code: u8,
    /// Messages that the peer may have sent and not seen released.
    pub messages_max: u32,
    /// Messages of earlier generations that are still held in the ring.
    pub messages_held: u32,
    /// Address of the ring.
    pub ring_address: u64,
    /// Its size: a power of two.
    pub ring_bytes: u64,
    /// Where the next message begins, in bytes since the ring was made.
    pub position: u64,
    /// Up to where the ring was released.
    pub released: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    what: u8,
    mtu_code: u8,
    reason: u8,
    rail: u8,
    generation: u32,
    qp_number: u32,
    psn: u32,
    lid: u16,
    reserved_too: u16,
    messages_max: u32,
    gid: [u8; 16],
    ring_address: u64,
    ring_bytes: u64,
    rkey: u32,
    messages_held: u32,
    position: u64,
    released: u64,
    delivered: u64,
    lot: u64,
    rails: [RailLayout; LANE_RAILS_MAX],
}

/// Zeros where there is no rail.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RailLayout {
    gid: [u8; 16],
    distance: u8,
    subnet_bits: u8,
    fabric: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<Layout>() == LANE_BODY_BYTES);

const OFFER: u8 = 1;
const READY: u8 = 2;
const SWITCH: u8 = 3;
const BROKEN: u8 = 4;
const NONE: u8 = 5;
const RAILS: u8 = 6;

impl LaneMessage {
    /// The body's bytes.
    pub fn to_bytes(&self) -> [u8; LANE_BODY_BYTES] {
        let of = |what| Layout { what, ..zerocopy::FromZeros::new_zeroed() };
        let layout = match *self {
            LaneMessage::Rails(told) => Layout {
                generation: told.generation,
                lot: told.lot,
                rails: std::array::from_fn(|index| told.as_slice().get(index).into()),
                ..of(RAILS)
            },
            LaneMessage::Offer(offer) => Layout {
                rail: offer.rail,
                mtu_code: offer.mtu_code,
                generation: offer.generation,
                qp_number: offer.qp_number,
                psn: offer.psn,
                lid: offer.lid,
                messages_max: offer.messages_max,
                gid: offer.gid,
                ring_address: offer.ring_address,
                ring_bytes: offer.ring_bytes,
                messages_held: offer.messages_held,
                position: offer.position,
                released: offer.released,
                ..of(OFFER)
            },
            LaneMessage::Ready { generation, rkey } => Layout { generation, rkey, ..of(READY) },
            LaneMessage::Switch { generation } => Layout { generation, ..of(SWITCH) },
            LaneMessage::Broken { generation, delivered, reason } => {
                Layout { generation, delivered, reason, ..of(BROKEN) }
            }
            LaneMessage::None { reason } => Layout { reason, ..of(NONE) },
        };
        zerocopy::transmute!(layout)
    }

    /// Reads what [`LaneMessage::to_bytes`] wrote; `None` if the length or a field is out of range.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<LaneMessage> {
        let layout = Layout::read_from_bytes(bytes).ok()?;
        let generation = layout.generation;
        if layout.what != NONE && generation == 0 {
            return None;
        }
        Some(match layout.what {
            RAILS => LaneMessage::Rails(LaneRails::checked(&layout)?),
            OFFER => LaneMessage::Offer(LaneOffer::checked(&layout)?),
            READY => LaneMessage::Ready { generation, rkey: layout.rkey },
            SWITCH => LaneMessage::Switch { generation },
            BROKEN => {
                let (delivered, reason) = (layout.delivered, layout.reason);
                LaneMessage::Broken { generation, delivered, reason }
            }
            NONE => LaneMessage::None { reason: layout.reason },
            _ => return None,
        })
    }
}

impl LaneRails {
    /// The first [`LANE_RAILS_MAX`] of `rails`; none if there is none.
    pub fn new(generation: u32, lot: u64, rails: &[LaneRail]) -> Option<LaneRails> {
        let first = *rails.first()?;
        let count = rails.len().min(LANE_RAILS_MAX);
        let rails = std::array::from_fn(|index| if index < count { rails[index] } else { first });
        Some(LaneRails { generation, lot, rails, count: count as u8 })
    }

    /// All of them, at least one.
    pub fn as_slice(&self) -> &[LaneRail] {
        &self.rails[..usize::from(self.count)]
    }

    fn checked(layout: &Layout) -> Option<LaneRails> {
        let is_one = |rail: &&RailLayout| rail.fabric != 0;
        let count = layout.rails.iter().take_while(is_one).count();
        if layout.rails.iter().skip(count).any(|rail| rail.as_bytes().iter().any(|&byte| byte != 0))
        {
            return None;
        }
        let first = LaneRail::checked(&layout.rails[0])?;
        let mut rails = [first; LANE_RAILS_MAX];
        for (rail, found) in rails.iter_mut().zip(&layout.rails[..count]) {
            *rail = LaneRail::checked(found)?;
        }
        LaneRails::new(layout.generation, layout.lot, &rails[..count])
    }
}

impl LaneRail {
    fn checked(layout: &RailLayout) -> Option<LaneRail> {
        let fabric = match layout.fabric {
            1 => LaneFabric::InfiniBand,
            2 => LaneFabric::RoceV1,
            3 => LaneFabric::RoceV2,
            _ => return None,
        };
        let RailLayout { gid, distance, subnet_bits, .. } = *layout;
        (subnet_bits <= SUBNET_BITS_MAX).then_some(LaneRail { gid, distance, subnet_bits, fabric })
    }
}

impl From<Option<&LaneRail>> for RailLayout {
    fn from(rail: Option<&LaneRail>) -> RailLayout {
        rail.map_or(zerocopy::FromZeros::new_zeroed(), |rail| RailLayout {
            gid: rail.gid,
            distance: rail.distance,
            subnet_bits: rail.subnet_bits,
            fabric: rail.fabric as u8,
            reserved: 0,
        })
    }
}

impl LaneOffer {
    fn checked(layout: &Layout) -> Option<LaneOffer> {
        let numbers_fit = (layout.qp_number | layout.psn) >> NUMBER_BITS == 0;
        let mtu_is_known = (1..=MTU_CODE_MAX).contains(&layout.mtu_code);
        let ring_is_one = layout.ring_bytes.is_power_of_two()
            && (UNIT_BYTES..=LANE_RING_BYTES_MAX).contains(&layout.ring_bytes)
            && layout.ring_address.checked_add(layout.ring_bytes).is_some();
        let positions_fit = layout.position <= POSITION_MAX
            && layout.position.is_multiple_of(UNIT_BYTES)
            && layout.released.is_multiple_of(UNIT_BYTES)
            && layout.position.checked_sub(layout.released)? <= layout.ring_bytes;
        let window_is_one = layout.messages_held <= layout.messages_max && layout.messages_max > 0;
        let rail_is_one = usize::from(layout.rail) < LANE_RAILS_MAX;
        let fits = rail_is_one
            && numbers_fit
            && mtu_is_known
            && ring_is_one
            && positions_fit
            && window_is_one;
        fits.then_some(LaneOffer {
            generation: layout.generation,
            rail: layout.rail,
            qp_number: layout.qp_number,
            psn: layout.psn,
            lid: layout.lid,
            gid: layout.gid,
            mtu_code: layout.mtu_code,
            messages_max: layout.messages_max,
            messages_held: layout.messages_held,
            ring_address: layout.ring_address,
            ring_bytes: layout.ring_bytes,
            position: layout.position,
            released: layout.released,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: LaneOffer = LaneOffer {
        generation: 3,
        rail: 7,
        qp_number: 0x12_3456,
        psn: 0xFF_FFFF,
        lid: 7,
        gid: [9; 16],
        mtu_code: 3,
        messages_max: 256,
        messages_held: 2,
        ring_address: 0x7F00_0000_0000,
        ring_bytes: 4 << 20,
        position: 5 << 20,
        released: 4 << 20,
    };

    const RAIL: LaneRail =
        LaneRail { gid: [3; 16], distance: 21, subnet_bits: 24, fabric: LaneFabric::RoceV2 };

    fn rails(rails: &[LaneRail]) -> LaneMessage {
        LaneMessage::Rails(LaneRails::new(2, u64::MAX, rails).expect("there are some"))
    }

    #[test]
    fn rails_read_as_they_were_written_and_no_more_than_eight_are_named() {
        for count in 1..=LANE_RAILS_MAX {
            let message = rails(&[RAIL; LANE_RAILS_MAX][..count]);
            assert_eq!(LaneMessage::from_bytes(&message.to_bytes()), Some(message));
        }
        assert_eq!(LaneRails::new(1, 1, &[]), None);
        let many = LaneRails::new(1, 1, &[RAIL; LANE_RAILS_MAX + 1]).expect("there are some");
        assert_eq!(many.as_slice(), [RAIL; LANE_RAILS_MAX]);
    }

    #[test]
    fn rails_with_a_gap_a_fabric_or_a_subnet_that_is_none_are_refused() {
        let good = rails(&[RAIL; 2]).to_bytes();
        let [first, second] = [96, 116];
        for (at, byte) in [
            (first + 17, 129),
            (first + 18, 0),
            (first + 18, 4),
            (second + 18, 0),
            (second + 20 + 3, 1),
            (4, 0),
        ] {
            let mut bytes = good;
            bytes[at] = byte;
            assert_ne!(bytes, good);
            let read = LaneMessage::from_bytes(&bytes);
            assert_eq!(read, None, "byte {at} is {byte}");
        }
    }

    #[test]
    fn each_kind_of_lane_message_reads_as_it_was_written() {
        for message in [
            LaneMessage::Offer(OFFERED),
            LaneMessage::Ready { generation: 1, rkey: 77 },
            LaneMessage::Switch { generation: u32::MAX },
            LaneMessage::Broken { generation: 2, delivered: u64::MAX, reason: 4 },
            LaneMessage::None { reason: 1 },
        ] {
            assert_eq!(LaneMessage::from_bytes(&message.to_bytes()), Some(message));
        }
    }

    #[test]
    fn an_offer_with_a_field_out_of_range_is_refused() {
        let broken = [
            LaneOffer { generation: 0, ..OFFERED },
            LaneOffer { rail: LANE_RAILS_MAX as u8, ..OFFERED },
            LaneOffer { qp_number: 1 << 24, ..OFFERED },
            LaneOffer { psn: 1 << 24, ..OFFERED },
            LaneOffer { mtu_code: 0, ..OFFERED },
            LaneOffer { mtu_code: 6, ..OFFERED },
            LaneOffer { ring_bytes: 3 << 20, ..OFFERED },
            LaneOffer { ring_bytes: 2 * LANE_RING_BYTES_MAX, ..OFFERED },
            LaneOffer { ring_address: u64::MAX - 5, ..OFFERED },
            LaneOffer { position: OFFERED.position + 1, ..OFFERED },
            LaneOffer { released: OFFERED.position + 64, ..OFFERED },
            LaneOffer { released: 0, ..OFFERED },
            LaneOffer { position: u64::MAX - 63, released: u64::MAX - 63, ..OFFERED },
            LaneOffer { messages_held: 257, ..OFFERED },
            LaneOffer { messages_max: 0, messages_held: 0, ..OFFERED },
        ];
        for offer in broken {
            let bytes = LaneMessage::Offer(offer).to_bytes();
            assert_eq!(LaneMessage::from_bytes(&bytes), None, "{offer:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_lane_message_are_refused() {
        let ready = LaneMessage::Ready { generation: 1, rkey: 77 }.to_bytes();
        assert_eq!(LaneMessage::from_bytes(&ready[..LANE_BODY_BYTES - 1]), None);
        for what in [0, 7, 255] {
            let mut other = ready;
            other[0] = what;
            assert_eq!(LaneMessage::from_bytes(&other), None);
        }
    }
}
