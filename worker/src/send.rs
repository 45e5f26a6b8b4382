//! Sending: what waits for credit on a link goes out, pushes first.
//!
//! Owns one link's turn to send. When it has one, and what is sent again, is left to `turn`.

use std::time::Duration;

use transport::{Fault, SendRefusal};
use wire::Time;

use crate::counts::Counts;
use crate::link::{Link, Lost};
use crate::port::{Port, Towards};
use crate::session::Session;

/// What sending needs besides a link.
pub(crate) struct Sending<'a> {
    pub(crate) port: &'a mut Port,
    pub(crate) counts: &'a mut Counts,
    pub(crate) now: Time,
    /// After which a request that was not answered is sent again.
    pub(crate) patience: Duration,
}

impl Session {
    /// Sends a shard's unsent requests as far as there is credit.
    pub(crate) fn send_unsent(&mut self, shard: usize, now: Time) {
        let patience = self.timeouts.request;
        let Session { links, port, counts, .. } = self;
        let sent = Sending { port, counts, now, patience }.send(&mut links[shard], shard);
        if sent > 0 {
            self.timer_at = self.timer_at.min(now + patience);
        }
    }
}

impl Sending<'_> {
    /// Sends a link's unsent requests as far as there is credit: first the pushes, so that a pull
    /// finds on the shard whatever was pushed before it was asked. How many.
    pub(crate) fn send(self, link: &mut Link, shard: usize) -> usize {
        let mut sent = 0;
        if link.lost.is_some() {
            return sent;
        }
        let (peer, in_flight_max) = (link.peer, link.in_flight_max());
        // What another head may lack goes first, and is answered first.
        let others_bytes_max = if link.lacks_kept() { 0 } else { self.port.pulls_bytes_max };
        let Link { numbers, kept, pushes, others, .. } = link;
        let windows = [(pushes, usize::MAX), (others, others_bytes_max)];
        for (window, bytes_max) in windows {
            loop {
                let (in_flight, in_flight_bytes) = (window.in_flight, window.in_flight_bytes);
                let Some(request) = window.first_unsent() else { break };
                let bytes = request.message_bytes();
                if in_flight >= in_flight_max || in_flight_bytes.saturating_add(bytes) > bytes_max {
                    return sent;
                }
                kept.note_first_sent(request);
                let to = Towards { peer, shard, numbers: &mut *numbers };
                match self.port.post(to, request) {
                    Ok(sent_bytes) => {
                        self.counts.note_sent(&request.header, sent_bytes);
                        request.sends = 1;
                        request.due_at = self.port.due_at(self.now, self.patience);
                        window.note_sent(bytes);
                        sent += 1;
                    }
                    Err(refusal) => {
                        link.lost = fault_of(refusal).map(Lost::Fault);
                        return sent;
                    }
                }
            }
        }
        sent
    }
}

/// What a send slot's refusal means for the link. Without credit the request just waits.
fn fault_of(refusal: SendRefusal) -> Option<Fault> {
    match refusal {
        SendRefusal::NoCredit => None,
        SendRefusal::NoSuchPeer => Some(Fault::PeerClosed),
        SendRefusal::TooLarge { bytes, bytes_max } => {
            panic!("messages are cut to the transport's limit, but {bytes} is over {bytes_max}")
        }
    }
}
