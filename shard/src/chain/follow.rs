//! Following: doing what the predecessor did.
//!
//! Owns the order of a predecessor's messages, the pieces of long ones, and what each does here.
//!
//! Invariant: a message is applied after all before it, once, and as its predecessor applied it; a
//! server that cannot, gives up.

use kernels::crc32c::crc32c;
use wire::{FRAME_BYTES_MAX, Flags, HEADER_BYTES, Header, Kind, Message, Status, Time};
use zerocopy::IntoBytes;

use super::entry::is_of_chains;
use super::{Replica, Role};
use crate::change::{Nowhere, is_change};
use crate::engine::{Mutation, Shard};

/// What became of a predecessor's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was applied, or had come before.
    Done,
    /// There is no room to pass it on. Nothing changed; take it again later.
    NoRoom,
    /// It cannot be what the predecessor meant: the link must be ended, and begins again.
    Broken,
}

/// Where a follower stands.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The number of the last message received.
    pub(super) received: u64,
    /// Whether this server, which is being filled, holds everything.
    pub(super) is_filled: bool,
    /// Whether filling has begun.
    has_state: bool,
    pub(super) is_linked: bool,
    /// Whether a message has come over the link.
    has_heard: bool,
    /// What the predecessor was told last over this link.
    pub(super) said: Option<(u64, u64)>,
    /// When that was.
    pub(super) said_at: Option<Time>,
    /// Whether something has come since.
    pub(super) owes_word: bool,
    /// Whether the predecessor is to be told that a message was lost.
    pub(super) misses: bool,
    /// After which message it was last told so.
    missed: Option<u64>,
    /// The pieces so far of a long message.
    pieces: Pieces,
}

/// Pieces of a message, 8-byte aligned.
#[derive(Debug, Default)]
struct Pieces {
    words: Vec<u64>,
    bytes: usize,
}

/// Why a message was not applied.
pub(super) enum Unfit {
    /// It is no message, or not one that comes here.
    Broken,
    /// The shard did not do what the predecessor's did.
    Differs,
}

impl Following {
    /// What goes on from here is a replica's: the next message is the operation after `position`.
    /// Pieces of it are kept.
    pub(super) fn begin_replica(&mut self, position: u64) {
        let pieces = std::mem::take(&mut self.pieces);
        *self = Following { received: position, pieces, ..Following::default() };
    }

    /// A link begins.
    pub(super) fn begin_link(&mut self) {
        (self.is_linked, self.has_heard, self.said) = (true, false, None);
        (self.misses, self.missed) = (false, None);
    }

    /// Whether a long message has come in part.
    pub(super) fn is_amid_pieces(&self) -> bool {
        self.pieces.bytes > 0
    }
}

impl<S> Replica<S> {
    /// Applies a predecessor's message.
    pub fn follow(&mut self, bytes: &[u8]) -> Taken {
        let stale_is_taken = self.mutation == Mutation::StaleEpochsTaken;
        let follows = matches!(self.role, Role::Follower | Role::Joining) || stale_is_taken;
        if !follows || !self.following.is_linked {
            return Taken::Broken;
        }
        let isa = self.shard.isa;
        let Ok((header, message)) = wire::open(bytes, |bytes| crc32c(isa, 0, bytes)) else {
            return Taken::Broken;
        };
        let is_stale = header.epoch() != self.shard.epoch;
        if is_stale && !stale_is_taken {
            return Taken::Broken;
        }
        if self.begins_filling(&header) {
            self.empty();
            (self.following.is_linked, self.following.received) = (true, header.sequence - 1);
        }
        self.following.has_heard = true;
        self.following.owes_word = true;
        // Numbers are told apart by their low bits: far fewer than half of them are under way.
        let ahead = header.credit.wrapping_sub((self.following.received + 1) as u16) as i16;
        if ahead != 0 {
            let received = self.following.received;
            if ahead > 0 && self.following.missed != Some(received) {
                // Once: all that follows comes too early, too.
                (self.following.misses, self.following.missed) = (true, Some(received));
            }
            return Taken::Done;
        }
        if self.is_log_full() {
            return Taken::NoRoom;
        }
        match self.apply(header, message, &bytes[HEADER_BYTES..]) {
            Ok(()) => {
                self.following.received += 1;
                Taken::Done
            }
            Err(Unfit::Broken) if self.role == Role::Joining => {
                self.empty(); // It is filled from the start.
                Taken::Broken
            }
            Err(_) => {
                self.give_up();
                Taken::Broken
            }
        }
    }

    /// Whether the predecessor begins to fill this server, whatever it holds.
    fn begins_filling(&self, header: &Header) -> bool {
        let is_first = header.kind() == Kind::State
            || header.kind() == Kind::Part && !header.flags().has(Flags::CONTINUES);
        self.role == Role::Joining
            && !self.following.has_heard
            && is_first
            && header.sequence > 0
            && header.sequence != self.following.received + 1
    }

    /// Applies the next message, or keeps it if it is a piece.
    fn apply(&mut self, header: Header, message: Message<'_>, body: &[u8]) -> Result<(), Unfit> {
        let is_whole = self.role != Role::Joining || self.following.is_filled;
        if let Message::Part(piece) = message {
            self.take_piece(header, piece)?;
        } else {
            self.following.pieces.bytes = 0;
            self.take_message(header, message, body)?;
        }
        if is_whole {
            if self.logs() {
                self.log.copy(header, body);
            }
            self.position += 1;
            self.acknowledge_own();
            self.note_reached();
        }
        Ok(())
    }

    fn take_piece(&mut self, header: Header, piece: &[u8]) -> Result<(), Unfit> {
        let pieces = &mut self.following.pieces;
        if !header.flags().has(Flags::CONTINUES) {
            pieces.bytes = 0;
        } else if pieces.bytes == 0 {
            return Err(Unfit::Broken);
        }
        let end = pieces.bytes + piece.len();
        if end > FRAME_BYTES_MAX || !pieces.bytes.is_multiple_of(8) {
            return Err(Unfit::Broken);
        }
        pieces.words.resize(end.div_ceil(8), 0);
        pieces.words.as_mut_bytes()[pieces.bytes..end].copy_from_slice(piece);
        pieces.bytes = end;
        if header.flags().has(Flags::MORE) {
            return Ok(());
        }
        let taken = std::mem::take(pieces);
        let (isa, bytes) = (self.shard.isa, &taken.words.as_bytes()[..end]);
        let opened = wire::open(bytes, |bytes| crc32c(isa, 0, bytes));
        let (inner, message) = opened.map_err(|_| Unfit::Broken)?;
        let done = self.take_message(inner, message, &bytes[HEADER_BYTES..]);
        self.following.pieces = Pieces { words: taken.words, bytes: 0 };
        done
    }

    /// Applies a whole message.
    fn take_message(
        &mut self,
        header: Header,
        message: Message<'_>,
        body: &[u8],
    ) -> Result<(), Unfit> {
        let header = Header { epoch: self.shard.epoch.get(), credit: 0, ..header };
        let fills = is_of_chains(header.kind()) && header.kind() != Kind::Nothing;
        let may_be_filled = self.role == Role::Joining && !self.following.is_filled;
        if fills && !may_be_filled {
            return Err(Unfit::Broken);
        }
        let is_state = matches!(message, Message::State(_));
        if may_be_filled && self.following.has_state == is_state {
            return Err(Unfit::Broken);
        }
        match message {
            Message::Nothing => Ok(()),
            Message::State(words) => {
                self.following.has_state = true;
                self.shard.read_state(words, 0).ok_or(Unfit::Differs)
            }
            Message::Page(rows) => self.shard.take_page(&header, rows).ok_or(Unfit::Differs),
            Message::Counts(lines) => self.shard.take_counts(&header, lines).ok_or(Unfit::Differs),
            Message::Filled(words) => {
                self.position = self.shard.read_numbers(words).ok_or(Unfit::Differs)?;
                self.acknowledged = self.position;
                self.following.is_filled = true;
                Ok(())
            }
            message if is_change(&message) => self.shard.follow(&header, message, body),
            _ => Err(Unfit::Broken),
        }
    }
}

impl Shard {
    /// Does what another server's shard did.
    pub(super) fn follow(
        &mut self,
        header: &Header,
        message: Message<'_>,
        body: &[u8],
    ) -> Result<(), Unfit> {
        let done = self.change(header, message, body, &mut Nowhere);
        self.take_joined(); // It joined at the head, and is no peer of this server.
        match done {
            Ok(Status::Done) if self.let_none_go(header) => Ok(()),
            _ => Err(Unfit::Differs),
        }
    }

    /// Whether the table made no room of its own accord: which rows go, the head alone says.
    fn let_none_go(&mut self, header: &Header) -> bool {
        let is_by_table = matches!(header.kind(), Kind::Push | Kind::Load | Kind::Merged);
        let is_by_table = is_by_table && header.keys > 0;
        !is_by_table || self.tables.get(header.table()).is_ok_and(|table| table.gone().is_empty())
    }
}
