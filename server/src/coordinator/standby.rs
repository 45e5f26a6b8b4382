//! A standby: what a coordinator says while another one leads, or nobody does.
//!
//! Owns its answers. Who leads is left to `contest`, the sockets to `service`; it is pure.
//!
//! Invariant: it decides nothing, and whoever asks is told at once whom to ask instead.

use std::sync::Arc;

use wire::{Applicant, Denial, Placement, ToCoordinator, ToMember, Welcome};

use super::detector::BEAT_EVERY;
use super::spec::ClusterSpec;

/// What it knows.
#[derive(Debug, Default)]
pub(super) struct Standby {
    /// Where the leader is; none: nobody is known to lead.
    pub(super) leader: Option<String>,
    /// What keeps this one from leading, if something does.
    pub(super) why: Option<String>,
    /// The newest placement that it knew when it led.
    pub(super) last: Option<Arc<Placement>>,
}

impl Standby {
    /// Answers a first message, after which the link ends.
    pub(super) fn answer(&self, spec: &ClusterSpec, message: &ToCoordinator) -> Vec<ToMember> {
        let ToCoordinator::Apply(apply) = message else {
            let expected = "an application, as the first message".to_owned();
            return vec![ToMember::Denied(Denial::Unexpected { expected })];
        };
        if let Err(denial) = apply.check(&spec.name) {
            return vec![ToMember::Denied(denial)];
        }
        let (leader, why) = (self.leader.clone(), self.why.clone());
        let denied = ToMember::Denied(Denial::NotLeading { leader, why });
        // A worker that begins while no store answers may do with a placement that is not the
        // newest: servers tell who is the head, and it goes on looking for a newer one.
        match (&apply.applicant, &self.leader, &self.last) {
            (Applicant::Watcher, None, Some(last)) if last.epoch >= apply.epoch => {
                let welcome = Welcome {
                    life: None,
                    beat_every_ms: BEAT_EVERY.as_millis() as u32,
                    shards: spec.shards,
                    replicas: spec.replicas,
                };
                let placement = ToMember::Placement((**last).clone());
                vec![ToMember::Welcome(welcome), placement, denied]
            }
            _ => vec![denied],
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::{Apply, Candidate, Epoch};

    use super::super::assign::Spread;
    use super::*;

    fn spec() -> ClusterSpec {
        let (name, spread) = ("ctr".to_owned(), Spread::DistinctHosts);
        ClusterSpec { name, shards: 2, replicas: 1, servers_min: 1, spread }
    }

    fn apply(applicant: Applicant) -> ToCoordinator {
        ToCoordinator::Apply(Apply::new("ctr", Epoch::new(0), applicant))
    }

    #[test]
    fn who_asks_a_standby_is_told_whom_to_ask() {
        let leader = Some("h1:7070".to_owned());
        let standby = Standby { leader: leader.clone(), ..Standby::default() };
        let server = Applicant::Server(Candidate {
            life: None,
            name: "a".to_owned(),
            place: "h2:1".to_owned(),
            host: "h2".to_owned(),
            memory_mib: 1,
            cores: 1,
        });
        for applicant in [server, Applicant::Watcher, Applicant::Person] {
            let told = standby.answer(&spec(), &apply(applicant));
            let denial = Denial::NotLeading { leader: leader.clone(), why: None };
            assert_eq!(told, [ToMember::Denied(denial)]);
        }
        let told = standby.answer(&spec(), &ToCoordinator::Leave);
        assert!(matches!(told[..], [ToMember::Denied(Denial::Unexpected { .. })]), "{told:?}");
        let other = ToCoordinator::Apply(Apply::new("ads", Epoch::new(0), Applicant::Watcher));
        let told = standby.answer(&spec(), &other);
        assert!(matches!(told[..], [ToMember::Denied(Denial::Cluster { .. })]), "{told:?}");
    }

    #[test]
    fn a_worker_that_begins_while_nobody_leads_is_told_the_last_placement() {
        let last = Arc::new(Placement { epoch: Epoch::new(5), ..Placement::default() });
        let mut standby = Standby { last: Some(last), ..Standby::default() };
        let told = standby.answer(&spec(), &apply(Applicant::Watcher));
        let is_it = matches!(
            &told[..],
            [ToMember::Welcome(_), ToMember::Placement(placement), ToMember::Denied(_)]
                if placement.epoch == Epoch::new(5)
        );
        assert!(is_it, "{told:?}");
        standby.leader = Some("h1:7070".to_owned());
        assert_eq!(standby.answer(&spec(), &apply(Applicant::Watcher)).len(), 1);
    }
}
