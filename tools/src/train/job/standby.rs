//! A launcher that stands by: how long it waits, for what, and what people are told meanwhile.
//!
//! Asking the coordinator is left to `seat`.

use std::time::Instant;

use wire::JobRefusal;

use super::GATHER_MAX;
use crate::output::complain;

/// What a launcher has heard that may stand by.
pub(super) struct Standby<'a> {
    job: &'a str,
    /// Whether it would.
    stands_by: bool,
    has_stood_by: bool,
    begun: Instant,
    is_told: bool,
}

impl Standby<'_> {
    pub(super) fn new(job: &str, stands_by: bool) -> Standby<'_> {
        Standby { job, stands_by, has_stood_by: false, begun: Instant::now(), is_told: false }
    }

    /// Whether the job was there, and needed nobody.
    pub(super) fn has_stood_by(&self) -> bool {
        self.has_stood_by
    }

    /// The job is there, and needs nobody yet.
    pub(super) fn note(&mut self, hosts: u32) {
        if !std::mem::replace(&mut self.has_stood_by, true) {
            let hosts = if hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") };
            let what = "this host stands by, and takes the places of one that is gone for too long";
            complain(&format!("gradwire: job {}: it has {hosts}; {what}", self.job));
        }
    }

    /// Whether the job may be one that has yet to begin.
    pub(super) fn may_wait(&mut self, refusal: &JobRefusal) -> bool {
        let is_none = matches!(refusal, JobRefusal::Unknown | JobRefusal::Ended { .. });
        let waits = self.stands_by && is_none && !self.has_stood_by;
        if waits && !std::mem::replace(&mut self.is_told, true) {
            let most = GATHER_MAX.as_secs();
            complain(&format!("gradwire: job {}: waits up to {most} s for its begin", self.job));
        }
        waits && self.begun.elapsed() < GATHER_MAX
    }
}

#[cfg(test)]
mod tests {
    use wire::JobEnd;

    use super::*;

    #[test]
    fn a_job_that_is_not_there_may_yet_begin_unless_it_was_or_nobody_stands_by() {
        let ended = JobRefusal::Ended { end: JobEnd::Done };
        let mut standby = Standby::new("ctr", true);
        assert!(standby.may_wait(&JobRefusal::Unknown) && standby.may_wait(&ended));
        assert!(!standby.may_wait(&JobRefusal::Replaced));
        standby.note(3);
        assert!(standby.has_stood_by() && !standby.may_wait(&ended));
        assert!(!Standby::new("ctr", false).may_wait(&JobRefusal::Unknown));
    }
}
