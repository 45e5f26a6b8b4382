//! Checks: what must hold of servers at any moment, and in the end.
//!
//! Owns the comparison of replicas, and of what servers know with what the store holds.

use std::collections::BTreeMap;
use std::time::Duration;

use shard::chain::Image;
use wire::{Chain, Epoch, Placement, ServerId, ShardId, Time};

use super::Fleet;
use super::host::Power;
use crate::failure::Failure;

/// How often everything is compared.
const CHECK_EVERY: Duration = Duration::from_millis(150);

impl Fleet {
    /// The first thing that went wrong.
    pub(crate) fn failed(&self) -> Option<&Failure> {
        let of_vault = self.vault.as_ref().and_then(|vault| vault.failed.as_ref());
        self.failed.as_ref().or(self.store.failed.as_ref()).or(of_vault)
    }

    /// Compares everything, at times.
    pub(super) fn check_now_and_then(&mut self, now: Time) {
        if now - self.checked_at < CHECK_EVERY {
            return;
        }
        self.checked_at = now;
        if let Err(failure) = self.check_epochs().and_then(|()| self.check_positions()) {
            self.failed.get_or_insert(failure);
        }
    }

    fn check_epochs(&mut self) -> Result<(), Failure> {
        let shards = self.shards;
        self.hosts.iter_mut().flatten().try_for_each(|process| process.check_epochs(shards))
    }

    /// Replicas of one epoch that have applied equally many operations hold the same.
    fn check_positions(&mut self) -> Result<(), Failure> {
        for shard in (0..self.shards as u16).map(ShardId::new) {
            let mut seen: BTreeMap<(Epoch, u64), Vec<usize>> = BTreeMap::new();
            for (host, process) in self.hosts.iter_mut().enumerate() {
                let alive = process.as_mut().filter(|it| it.power == Power::On);
                let Some(replica) = alive.and_then(|it| it.core.replica_mut(shard)) else {
                    continue;
                };
                self.counts.merges += replica.shard_mut().take_tally().merges;
                if replica.holds_everything() {
                    let position = (replica.epoch(), replica.position());
                    seen.entry(position).or_default().push(host);
                }
            }
            for hosts in seen.into_values().filter(|hosts| hosts.len() > 1) {
                self.compare(shard, &hosts)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, shard: ShardId, hosts: &[usize]) -> Result<(), Failure> {
        let mut first: Option<(ServerId, Image)> = None;
        for &host in hosts {
            let process = self.hosts[host].as_mut().expect("it was just there");
            let id = process.ours.unwrap_or_default();
            let replica = process.core.replica_mut(shard).expect("it was just there");
            let image = replica.shard_mut().image();
            match &first {
                Some((one, known)) if *known != image => {
                    return Err(Failure::Differs { shard, one: *one, other: id });
                }
                Some(_) => {}
                None => first = Some((id, image)),
            }
        }
        Ok(())
    }

    /// Whether all replicas of each shard hold the same.
    ///
    /// - Errors: a shard whose replicas differ, or one is not where it shall be.
    pub(crate) fn check_replicas(&mut self) -> Result<(), Failure> {
        let Some(placement) = self.told().cloned() else { return Ok(()) };
        for (shard, chain) in placement.shards() {
            let mut hosts = Vec::new();
            for &id in &chain.replicas {
                let differs = Failure::Differs { shard, one: id, other: id };
                let host = self.host_with(id).ok_or(differs.clone())?;
                let process = self.hosts[host].as_mut().expect("it is there");
                let replica = process.core.replica_mut(shard).ok_or(differs.clone())?;
                if replica.epoch() != chain.epoch || !replica.holds_everything() {
                    return Err(differs);
                }
                hosts.push(host);
            }
            self.compare(shard, &hosts)?;
        }
        Ok(())
    }

    /// Whether every chain is as long as it shall be, and everybody knows.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(placement) = self.told() else { return false };
        let replicas = self.plan.replicas.min(self.plan.servers);
        let is_whole = |chain: &Chain| chain.replicas.len() >= replicas && chain.joining.is_none();
        let knows = |epoch: Option<Epoch>| epoch == Some(placement.epoch);
        let told = self.hosts.iter().map(|process| {
            let (_, placed) = process.as_ref()?.placed.as_ref()?;
            Some(placed.epoch)
        });
        placement.chains.iter().all(is_whole)
            && told.into_iter().all(knows)
            && self.known.iter().all(|known| known.epoch == placement.epoch)
    }

    /// What the one coordinator that runs goes by. The store may hold a later placement, if one
    /// that died had its last words under way; nobody acts on that.
    fn told(&self) -> Option<&Placement> {
        let coordinator = self.seats.iter().flatten().max_by_key(|it| it.writer.0);
        coordinator.map(|it| &**it.machine.placement())
    }

    /// Who holds what, for a report.
    pub(crate) fn describe(&self) -> String {
        let placement = self.store.placement();
        let epoch = placement.map_or(Epoch::default(), |placement| placement.epoch);
        let chains = placement.map(|placement| &placement.chains);
        let chains = chains.into_iter().flatten().map(|chain| {
            let ids: Vec<u32> = chain.replicas.iter().map(|server| server.get()).collect();
            format!("{ids:?}+{:?}", chain.joining.map(ServerId::get))
        });
        let hosts = self.hosts.iter().map(|process| match process {
            Some(it) => {
                let placed = it.placed.as_ref().map(|(_, placed)| placed.epoch.get());
                let links = it.wanted.values().map(|it| it.redial).collect::<Vec<_>>();
                format!("{:?} at {placed:?} {:?} tries {links:?}", it.ours, it.power)
            }
            None => "none".to_owned(),
        });
        let (chains, hosts) = (chains.collect::<Vec<_>>(), hosts.collect::<Vec<_>>());
        let known: Vec<u64> = self.known.iter().map(|known| known.epoch.get()).collect();
        let seats = self.seats.iter().flatten();
        let seats = seats.map(|it| (it.machine.placement().epoch.get(), it.machine.proposed()));
        let seats: Vec<_> =
            seats.map(|(at, next)| (at, next.map(|it| it.placement.epoch.get()))).collect();
        format!(
            "{epoch}: {chains:?}; hosts {hosts:?}; watches {known:?}; coordinators at {seats:?}"
        )
    }
}
