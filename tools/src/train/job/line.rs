//! A launcher's way to whichever coordinator leads.
//!
//! Owns how often and for how long one is asked. What is asked, and what an answer means for a job
//! that runs, is left to `seat`.

use std::time::{Duration, Instant};

use wire::{Enrolled, JobAnswer, JobAsk, JobEnd, JobRefusal, ToCoordinator, ToMember};

use super::standby::Standby;
use crate::cluster::{Caller, Unfound, unexpected};
use crate::output::complain;
use crate::signals::Stop;
use crate::train::plan::Coordinated;

/// How long the coordinator may be away.
pub(super) const COORDINATOR_PATIENCE: Duration = Duration::from_secs(60);

/// How soon it is asked again while it is.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Why there is no seat.
pub(super) enum Refused {
    ByJob(JobRefusal),
    Failed(String),
}

/// The way to whichever coordinator leads.
pub(super) struct Line {
    coordinated: Coordinated,
    caller: Option<Caller>,
    /// Since when nobody answers.
    silent_since: Option<Instant>,
}

impl Line {
    /// No call is made yet.
    pub(super) fn new(coordinated: &Coordinated) -> Line {
        Line { coordinated: coordinated.clone(), caller: None, silent_since: None }
    }

    /// Asks for places until it has them. None: it stood by, and the job is done.
    pub(super) fn enrol(
        &mut self,
        enrol: &JobAsk,
        standby: &mut Standby<'_>,
        stop: &Stop,
    ) -> Result<Option<Enrolled>, Refused> {
        loop {
            match self.ask(enrol).map_err(Refused::Failed)? {
                Some(JobAnswer::Enrolled(enrolled)) => return Ok(Some(enrolled)),
                Some(JobAnswer::StandsBy { hosts }) => standby.note(hosts),
                Some(JobAnswer::Refused(refusal)) if standby.may_wait(&refusal) => {}
                Some(JobAnswer::Refused(JobRefusal::Ended { end: JobEnd::Done }))
                    if standby.has_stood_by() =>
                {
                    return Ok(None);
                }
                Some(JobAnswer::Refused(refusal)) => return Err(Refused::ByJob(refusal)),
                Some(JobAnswer::State(_) | JobAnswer::Replaced { .. }) => {
                    return Err(Refused::Failed("the coordinator answers out of turn".to_owned()));
                }
                None => {}
            }
            if stop.asked() {
                return Err(Refused::Failed("interrupted".to_owned()));
            }
            std::thread::sleep(AGAIN_AFTER);
        }
    }

    /// Asks once. None: nobody has answered, and it may be asked again; after
    /// [`COORDINATOR_PATIENCE`] that is an error, and so is a coordinator that says no.
    pub(super) fn ask(&mut self, ask: &JobAsk) -> Result<Option<JobAnswer>, String> {
        let failure = match self.say(ask) {
            Ok(answer) => {
                self.silent_since = None;
                return match answer {
                    ToMember::Job(answer) => Ok(Some(*answer)),
                    other => Err(unexpected(&other).to_string()),
                };
            }
            Err(Unfound::Denied(failure)) => return Err(failure.to_string()),
            Err(Unfound::Silent(failure)) => failure,
        };
        self.caller = None;
        let seconds = COORDINATOR_PATIENCE.as_secs();
        if self.silent_since.is_none() {
            complain(&format!("gradwire: {failure}; it is tried for {seconds} s"));
        }
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() < COORDINATOR_PATIENCE {
            return Ok(None);
        }
        Err(format!("no coordinator has answered for {seconds} s: {failure}"))
    }

    fn say(&mut self, ask: &JobAsk) -> Result<ToMember, Unfound> {
        let Coordinated { addresses, cluster } = &self.coordinated;
        let caller = match &mut self.caller {
            Some(caller) => caller,
            none => none.insert(Caller::find(addresses, cluster)?),
        };
        caller.say(&ToCoordinator::Job(ask.clone())).map_err(Unfound::Silent)
    }
}
