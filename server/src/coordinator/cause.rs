//! Cause: what an epoch changed, in a line for people.
//!
//! Owns the words. They are made from two placements and why servers are gone, so that they say
//! what is so and not what was meant.

use std::collections::BTreeMap;

use wire::{Epoch, Placement, ServerId};

/// Servers that a cause names; of more it says how many.
const NAMED_MAX: usize = 4;

/// Says what differs in `new`, `reasons` being known of servers that are not there.
pub(super) fn cause(
    old: &Placement,
    new: &Placement,
    reasons: &BTreeMap<ServerId, String>,
) -> String {
    let mut parts = Vec::new();
    if old.epoch == Epoch::new(0) {
        let (servers, shards) = (new.servers.len(), new.chains.len());
        return format!("the first placement: {shards} shards on {servers} servers");
    }
    let is_gone = |server: ServerId| new.member(server).is_none();
    let gone: Vec<ServerId> =
        old.servers.iter().map(|one| one.server).filter(|&one| is_gone(one)).collect();
    name_some(&mut parts, old, &gone, |server| match reasons.get(&server) {
        Some(why) => format!("is gone: {why}"),
        None => "has left".to_owned(),
    });
    let holds = |placement: &Placement, server: ServerId| {
        placement.chains.iter().filter(|chain| chain.replicas.contains(&server)).count()
    };
    let gave_up = |server: &ServerId| {
        !is_gone(*server)
            && reasons.contains_key(server)
            && holds(old, *server) > holds(new, *server)
    };
    let away: Vec<ServerId> = old.servers.iter().map(|one| one.server).filter(gave_up).collect();
    name_some(&mut parts, old, &away, |server| format!("is away: {}", reasons[&server]));
    let is_new = |server: ServerId| old.member(server).is_none();
    let joined: Vec<ServerId> =
        new.servers.iter().map(|one| one.server).filter(|&one| is_new(one)).collect();
    name_some(&mut parts, new, &joined, |_| "joined".to_owned());
    count_changes(&mut parts, old, new);
    if parts.is_empty() { "chains changed".to_owned() } else { parts.join("; ") }
}

fn name_some(
    parts: &mut Vec<String>,
    placement: &Placement,
    servers: &[ServerId],
    says: impl Fn(ServerId) -> String,
) {
    for &server in servers.iter().take(NAMED_MAX) {
        let name = placement.member(server).map_or("", |member| member.name.as_str());
        parts.push(format!("{server} ({name}) {}", says(server)));
    }
    if servers.len() > NAMED_MAX {
        parts.push(format!("{} servers more likewise", servers.len() - NAMED_MAX));
    }
}

fn count_changes(parts: &mut Vec<String>, old: &Placement, new: &Placement) {
    let (mut heads, mut filled, mut begun, mut lost, mut dropped) = (0, 0, 0, 0, 0);
    for (before, after) in old.chains.iter().zip(&new.chains) {
        let is_filled = before.joining.is_some_and(|one| after.replicas.contains(&one));
        filled += usize::from(is_filled);
        begun += usize::from(after.joining.is_some() && after.joining != before.joining);
        lost += usize::from(after.replicas.is_empty() && !before.replicas.is_empty());
        let is_head_new = before.replicas.first() != after.replicas.first();
        heads += usize::from(is_head_new && !after.replicas.is_empty());
        dropped += before.replicas.iter().filter(|one| !after.replicas.contains(one)).count();
    }
    let counts = [
        (heads, "shards have a new head"),
        (dropped, "replicas dropped"),
        (filled, "replicas filled"),
        (begun, "fills begun"),
        (lost, "shards lost"),
    ];
    let some = counts.iter().filter(|(count, _)| *count > 0);
    parts.extend(some.map(|(count, what)| format!("{count} {what}")));
}
