//! One job as the store has it: its hosts, their places, and which batches each was dealt.
//!
//! Owns the rules of dealing. Who is heard of, and when a record is written, is left to `registry`.
//!
//! A portion is a split of the data, whose end nobody knows but who reads it; jobs of launchers of
//! before have runs of batches in its place.
//!
//! Invariant: each batch of an epoch is in one portion, and a portion is one place's; a place's
//! portions are numbered by one, and stay open until their batches are known to be done.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wire::{
    BatchAt, Enrolled, JOB_SPLITS_MAX, JobBid, JobEnd, JobNews, JobRefusal, JobSetting,
    PORTION_BATCHES, PORTIONS_OPEN_MAX, PlaceHeld, PlaceNews, Portion, SPLIT_BATCHES,
};

/// How long a host of a job may say nothing before its job ends, unless the job has it otherwise.
pub const HOST_PATIENCE: Duration = Duration::from_secs(60);

/// Launchers of a host's places that are remembered: each is told that it was replaced.
const FORMER_MAX: usize = 16;

/// A job of several hosts, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its name.
    pub name: String,
    /// Counts up with each change; the store takes a record only after the one that the writer
    /// knows.
    pub version: u64,
    /// What it is called on servers.
    pub(super) id: u64,
    pub(super) workers: u32,
    pub(super) epochs: u32,
    /// How long a host may say nothing, in ms; 0: records of before did not say.
    #[serde(default)]
    pub(super) patience_ms: u64,
    /// Splits of an epoch; 0: portions are runs of batches, as records of before have them.
    #[serde(default)]
    pub(super) splits: u64,
    pub(super) settings: Vec<JobSetting>,
    pub(super) hosts: Vec<Host>,
    pub(super) places: Vec<Place>,
    /// By epoch: the first batch that nobody has.
    pub(super) next: Vec<u64>,
    pub(super) is_prepared: bool,
    pub(super) stopped: Option<String>,
    pub(super) ended: Option<Ended>,
}

/// A launcher that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Host {
    /// The number that it drew.
    pub(super) holder: u64,
    pub(super) name: String,
    /// How often it has enrolled.
    pub(super) generation: u32,
    pub(super) first: u32,
    pub(super) places: u32,
    /// Launchers that had its places before, the last ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) former: Vec<u64>,
}

/// What one worker was dealt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// How many portions.
    pub(super) dealt: u64,
    /// Those that are not known to be finished, in the order in which they were dealt.
    pub(super) open: Vec<Portion>,
    /// The last batch up to which all are known to be on every shard.
    #[serde(default)]
    pub(super) done: Option<BatchAt>,
    /// How many steps these were; none: nobody has said so.
    #[serde(default)]
    pub(super) steps: Option<u64>,
    /// How many when a host was gone with what it knew of them; none: no host was.
    #[serde(default)]
    pub(super) untold: Option<u64>,
}

/// How it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) end: JobEnd,
    /// Who has to end the workers' parts on the servers.
    pub(super) sweeper: Option<u64>,
    /// Which end this was in the cluster's life: the older ones are forgotten first.
    pub(super) order: u64,
}

impl JobRecord {
    /// A job that nobody takes part in yet.
    pub(in super::super) fn new(name: &str, version: u64, bid: &JobBid) -> JobRecord {
        JobRecord {
            name: name.to_owned(),
            version,
            id: bid.id,
            workers: bid.workers,
            epochs: bid.epochs,
            patience_ms: bid.patience_ms,
            splits: bid.splits,
            settings: bid.settings.clone(),
            hosts: Vec::new(),
            places: Vec::new(),
            next: Vec::new(),
            is_prepared: false,
            stopped: None,
            ended: None,
        }
    }

    /// Whether it is what a coordinator has written under this name; else what is wrong.
    pub(in super::super) fn check(&self, name: &str) -> Result<(), String> {
        if self.name != name {
            return Err(format!("is called {}", self.name));
        }
        let mut first = 0;
        for host in &self.hosts {
            if host.first != first || host.places == 0 {
                return Err(format!("gives {} other places than those that follow", host.name));
            }
            first = first.saturating_add(host.places);
        }
        if self.splits > JOB_SPLITS_MAX {
            return Err(format!("has {} splits", self.splits));
        }
        if first as usize != self.places.len() || first > self.workers {
            let places = self.places.len();
            return Err(format!("has {places} places of {}, its hosts {first}", self.workers));
        }
        Ok(())
    }

    /// Whether all of its workers may begin.
    pub(super) fn runs(&self) -> bool {
        self.is_prepared && self.places.len() == self.workers as usize && self.ended.is_none()
    }

    /// How long a host may say nothing before the job ends.
    pub(super) fn patience(&self) -> Duration {
        match self.patience_ms {
            0 => HOST_PATIENCE,
            ms => Duration::from_millis(ms),
        }
    }

    pub(super) fn host(&self, holder: u64) -> Option<usize> {
        self.hosts.iter().position(|host| host.holder == holder)
    }

    /// The host that has a worker.
    pub(super) fn host_of(&self, worker: u32) -> Option<usize> {
        let has = |host: &Host| (host.first..host.first + host.places).contains(&worker);
        self.hosts.iter().position(has)
    }

    /// A launcher takes part, or does so again: how.
    pub(super) fn enrol(&mut self, holder: u64, bid: &JobBid) -> Result<Enrolled, JobRefusal> {
        self.agree(bid)?;
        let at = match self.host(holder) {
            Some(at) => at,
            None => self.seat(holder, bid)?,
        };
        let host = &mut self.hosts[at];
        let Some(generation) = host.generation.checked_add(1) else {
            return Err(JobRefusal::Unfit { what: "a launcher without further lives".to_owned() });
        };
        host.generation = generation;
        self.version += 1;
        let Host { first, places, .. } = self.hosts[at];
        let held = (first..first + places).map(|place| {
            let Place { dealt, open, done, steps, untold } = self.places[place as usize].clone();
            PlaceHeld { place, portion: dealt, open, done, steps: steps.unwrap_or(0), untold }
        });
        Ok(Enrolled { id: self.id, generation, places: held.collect(), splits: self.splits })
    }

    /// Whether a launcher's places were given to another one.
    pub(super) fn was_replaced(&self, holder: u64) -> bool {
        self.hosts.iter().any(|host| host.former.contains(&holder))
    }

    /// Whether another launcher can go on with a host's places: it has no journal, so how many
    /// steps lie behind each batch must be known.
    pub(super) fn can_be_replaced(&self, at: usize) -> bool {
        let Host { first, places, .. } = self.hosts[at];
        let own = &self.places[first as usize..(first + places) as usize];
        own.iter().all(|place| place.dealt == 0 || place.steps.is_some())
    }

    /// Gives a host's places to another launcher, which enrols as its next life.
    pub(super) fn replace(&mut self, at: usize, holder: u64, name: &str) {
        let host = &mut self.hosts[at];
        host.former.push(std::mem::replace(&mut host.holder, holder));
        if host.former.len() > FORMER_MAX {
            host.former.remove(0);
        }
        host.name = name.to_owned();
        let Host { first, places, .. } = *host;
        for place in &mut self.places[first as usize..(first + places) as usize] {
            place.untold = Some(place.steps.unwrap_or(0));
        }
        self.version += 1;
    }

    /// Whether a launcher was given the same job.
    pub(super) fn agree(&self, bid: &JobBid) -> Result<(), JobRefusal> {
        let differs = |setting: &str, ours: String, theirs: String| {
            let setting = setting.to_owned();
            Err(JobRefusal::Differs { setting, ours, theirs })
        };
        let counts = [
            ("--job-workers", u64::from(self.workers), u64::from(bid.workers)),
            ("--epochs", self.epochs.into(), bid.epochs.into()),
        ];
        for (setting, ours, theirs) in counts {
            if ours != theirs {
                return differs(setting, ours.to_string(), theirs.to_string());
            }
        }
        let value = |settings: &[JobSetting], name: &str| {
            let found = settings.iter().find(|setting| setting.name == name);
            found.map_or_else(String::new, |setting| setting.value.clone())
        };
        for JobSetting { name, .. } in self.settings.iter().chain(&bid.settings) {
            let (ours, theirs) = (value(&self.settings, name), value(&bid.settings, name));
            if ours != theirs {
                return differs(name, ours, theirs);
            }
        }
        // What differs in the data is told by its name above; a launcher of before says none.
        if self.splits != bid.splits {
            let setting = "the count of splits of the data";
            return differs(setting, self.splits.to_string(), bid.splits.to_string());
        }
        Ok(())
    }

    /// Gives a new launcher free places: as many as it wants, or as there are.
    fn seat(&mut self, holder: u64, bid: &JobBid) -> Result<usize, JobRefusal> {
        let first = self.places.len() as u32;
        let places = bid.wanted.min(self.workers - first);
        if places == 0 {
            let hosts = self.hosts.iter().map(|host| host.name.clone()).collect();
            return Err(JobRefusal::Taken { workers: self.workers, hosts });
        }
        let (name, former) = (bid.host.clone(), Vec::new());
        self.hosts.push(Host { holder, name, generation: 0, first, places, former });
        self.places.extend((0..places).map(|_| Place::default()));
        Ok(self.hosts.len() - 1)
    }

    /// Takes in what a launcher knows of its places, and deals what they want.
    ///
    /// - Errors: a place is not the launcher's, or an epoch not the job's. Nothing was changed.
    pub(super) fn attend(&mut self, at: usize, news: &JobNews) -> Result<(), JobRefusal> {
        let Host { first, places, .. } = self.hosts[at];
        let is_fit = |one: &PlaceNews| {
            let is_own = (first..first + places).contains(&one.place);
            is_own && one.wants.is_none_or(|epoch| epoch < self.epochs)
        };
        if let Some(one) = news.places.iter().find(|one| !is_fit(one)) {
            let what = format!("place {} is not this host's, or has no such epoch", one.place);
            return Err(JobRefusal::Unfit { what });
        }
        if news.is_prepared && first == 0 && !self.is_prepared {
            self.is_prepared = true;
            self.version += 1;
        }
        let goes_on = self.runs() && self.stopped.is_none();
        for one in &news.places {
            let place = &mut self.places[one.place as usize];
            place.finish(one);
            if let Some(epoch) = one.wants.filter(|_| goes_on)
                && place.may_be_dealt(one)
            {
                let next = next_of(&mut self.next, epoch);
                if place.deal(epoch, next, self.splits) {
                    self.version += 1;
                }
            }
        }
        Ok(())
    }

    /// Portions of a launcher's places that it does not have.
    pub(super) fn news_for(&self, news: &JobNews) -> Vec<(u32, Portion)> {
        let mut dealt = Vec::new();
        for one in &news.places {
            let Some(place) = self.places.get(one.place as usize) else { continue };
            let later = place.open.iter().filter(|portion| portion.number > one.portion);
            dealt.extend(later.map(|portion| (one.place, *portion)));
        }
        dealt
    }

    /// How many epochs, from the first one on, have no split left.
    pub(super) fn epochs_dealt(&self) -> u32 {
        let end = epoch_end(self.splits);
        self.next.iter().take_while(|&&next| next >= end).count() as u32
    }

    /// It ends, unless it has.
    pub(super) fn end(&mut self, end: JobEnd, sweeper: Option<u64>, order: u64) {
        if self.ended.is_none() {
            self.ended = Some(Ended { end, sweeper, order });
            self.version += 1;
        }
    }
}

impl Place {
    /// Forgets portions whose batches are all done. Workers do batches in order: what lies before
    /// one that is done is done as well, or lies beyond the end of its epoch. What the launcher has
    /// not heard of stays, so that it hears of all by number.
    fn finish(&mut self, news: &PlaceNews) {
        let mut done = news.done;
        if news.steps.is_some() {
            // A later life may not know yet what the one before has said.
            (self.steps, self.done) = (self.steps, self.done).max((news.steps, news.done));
            done = self.done;
        }
        let is_open = |one: &Portion| one.number > news.portion || Some(one.last()) > done;
        self.open.retain(is_open);
    }

    /// Whether the launcher has all that the place was dealt, and may have more.
    fn may_be_dealt(&self, news: &PlaceNews) -> bool {
        news.portion == self.dealt && self.open.len() < PORTIONS_OPEN_MAX
    }

    /// Deals what is next of an epoch of so many splits, if there is anything left.
    fn deal(&mut self, epoch: u32, next: &mut u64, splits: u64) -> bool {
        let first = *next;
        if first >= epoch_end(splits) {
            return false;
        }
        let batches = if splits == 0 { PORTION_BATCHES } else { SPLIT_BATCHES };
        self.dealt += 1;
        *next = first.saturating_add(u64::from(batches));
        self.open.push(Portion { number: self.dealt, epoch, first, batches });
        true
    }
}

/// The number at which an epoch of so many splits ends; runs of batches have no end.
fn epoch_end(splits: u64) -> u64 {
    if splits == 0 { u64::MAX } else { splits * u64::from(SPLIT_BATCHES) }
}

fn next_of(next: &mut Vec<u64>, epoch: u32) -> &mut u64 {
    let at = epoch as usize;
    if next.len() <= at {
        next.resize(at + 1, 0);
    }
    &mut next[at]
}
