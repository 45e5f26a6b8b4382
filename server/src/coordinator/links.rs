//! Links: what the machine makes of beats, and of links that end.
//!
//! Owns no state: whose link it was lies in `machine`, who is there in `census`.

use wire::{Beat, ServerId, Time, ToMember};

use super::event::{Action, ConnectionId};
use super::machine::{Caller, Machine};

impl Machine {
    /// Somebody says that it lives, and what it has seen.
    pub(super) fn beat(
        &mut self,
        connection: ConnectionId,
        caller: Caller,
        beat: &Beat,
        now: Time,
    ) {
        self.send(connection, ToMember::BeatSeen { sent_ns: beat.sent_ns });
        let Caller::Server(number) = caller else { return };
        let Some(server) = self.census.get_mut(number) else { return };
        server.epoch = beat.epoch;
        if let Some(work) = beat.work {
            server.work.note(work, now);
        }
        let back = server.heard(now);
        self.note(back);
        for seen in &beat.seen {
            let changed = self.gossip.note(number, seen, &self.placement, now);
            self.note(changed);
        }
    }

    /// A link is over.
    pub(super) fn closed(&mut self, connection: ConnectionId, now: Time) {
        let Some(Caller::Server(number)) = self.callers.remove(&connection) else { return };
        let Some(server) = self.census.get_mut(number) else { return };
        if server.connection == Some(connection) {
            server.detach(now);
        }
    }

    /// Has a member's place asked, unless that is under way.
    pub(super) fn probe(&mut self, number: ServerId) {
        let Some(server) = self.census.get_mut(number) else { return };
        if server.begin_probe() {
            let place = server.member.place.clone();
            self.actions.push(Action::Probe { server: number, place });
        }
    }
}
