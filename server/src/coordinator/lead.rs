//! A lead: everything that a coordinator has while it leads, from its log's newest entry on.
//!
//! Owns the machine and the helpers that work for it. Connections are left to `service`, which does
//! what the machine wants to be done with them.
//!
//! Invariant: what helpers of an earlier lead have to say is never heard by a later one: each lead
//! has a channel of its own.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread::Builder;

use wire::{Epoch, Time};

use super::checkpointer::Checkpointer;
use super::event::{Action, Event};
use super::helpers::{Bell, Prober, Recorder, Told, Wake};
use super::jobs::JobRecord;
use super::machine::Machine;
use super::service::Stored;
use super::spec::ClusterSpec;
use super::store::{Entry, Store};

/// What a lead begins from.
pub(super) struct Start {
    pub(super) spec: ClusterSpec,
    /// 0: there is no other coordinator.
    pub(super) term: u64,
    /// Where this coordinator is reached, if others are told.
    pub(super) address: Option<String>,
    pub(super) cluster_id: u64,
    pub(super) newest: Option<Entry>,
    /// Epochs and causes, the newest first.
    pub(super) past: Vec<(Epoch, String)>,
    pub(super) jobs: Vec<JobRecord>,
    pub(super) store: Box<dyn Store>,
}

/// The machine and its helpers.
pub(super) struct Lead {
    pub(super) machine: Machine,
    recorder: Recorder,
    checkpointer: Option<Checkpointer>,
    prober: Prober,
    told: Receiver<Told>,
}

impl Lead {
    /// Begins.
    ///
    /// - Errors: there are no threads or files left.
    pub(super) fn new(start: Start, stored: &Stored, wake: &Wake, now: Time) -> io::Result<Lead> {
        let Start { spec, term, address, cluster_id, newest, past, jobs, store } = start;
        let restore = stored.restore.clone().filter(|_| newest.is_none());
        let mut machine = Machine::new(spec, cluster_id, newest.unwrap_or_default(), past, now);
        machine = machine.with_jobs(jobs, now);
        machine.lead = (term, address);
        machine.restoring.from = restore;
        let (tells, told) = channel();
        let prober = Prober::new(Bell::new(tells, wake.another()?));
        let recorder = Recorder::start(store, prober.bell())?;
        let cluster = (machine.spec.name.as_str(), machine.cluster_id);
        let begin = |spec| Checkpointer::start(spec, cluster, prober.bell());
        let checkpointer = stored.checkpoints.as_ref().map(begin).transpose()?;
        if let Some(spec) = &stored.checkpoints {
            machine = machine.with_checkpoints(spec, now);
        }
        Ok(Lead { machine, recorder, checkpointer, prober, told })
    }

    /// The bell, for what the loop itself has to tell.
    pub(super) fn bell(&self) -> &Bell {
        self.prober.bell()
    }

    /// What helpers have told and nobody has heard; none: nothing more.
    pub(super) fn next_told(&mut self) -> Option<Told> {
        let told = self.told.try_recv().ok()?;
        if matches!(told, Told::Happened(Event::Probed { .. })) {
            self.prober.answered();
        }
        Some(told)
    }

    /// Does what a helper can do; the rest is for the connections.
    pub(super) fn act(&mut self, action: Action) -> Option<Action> {
        match action {
            Action::Probe { server, place } => self.prober.ask(server, place),
            Action::Record(entry) => self.recorder.append(entry),
            Action::KeepJob(write) => self.recorder.keep_job(write),
            Action::Look { ours } => self.recorder.look(ours),
            Action::Store(task) => self.checkpointer.iter().for_each(|one| one.ask(task.clone())),
            other => return Some(other),
        }
        None
    }

    /// Ends it. Helpers may have calls under way, which nobody waits for.
    pub(super) fn dismiss(self) {
        let dismissed = Builder::new().name("dismissed".to_owned()).spawn(move || drop(self));
        if let Err(error) = dismissed {
            tracing::warn!(%error, "an earlier lead was waited for");
        }
    }
}
