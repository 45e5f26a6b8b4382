//! Told: to whom a core says what has happened in its chains.
//!
//! Owns what could not be said yet. What has happened is left to `chains`.
//!
//! Invariant: news of links are said in their order, and none is lost; of reports of one kind on
//! one shard the last is not.

use std::collections::VecDeque;
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::chain_links::LinkNews;
use crate::report::Report;

/// To whom a core says what has happened in its chains.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    report: SyncSender<Report>,
    /// What the membership had no room for: said later, as it is said once. At most one of each
    /// kind a shard.
    unreported: VecDeque<Report>,
    links: Option<SyncSender<LinkNews>>,
    /// What the thread that makes links had no room for, in order: said later.
    unsaid: VecDeque<LinkNews>,
}

impl Told {
    /// Nothing said yet.
    pub(crate) fn new(report: SyncSender<Report>, links: Option<SyncSender<LinkNews>>) -> Told {
        Told { report, unreported: VecDeque::new(), links, unsaid: VecDeque::new() }
    }

    /// Reports to the coordinator; later, if there is no room now.
    pub(crate) fn report(&mut self, report: Report) {
        // A later one of its kind overtakes one that found no room: its epoch is the newer one.
        let kind = |one: &Report| (one.shard(), std::mem::discriminant(one));
        self.unreported.retain(|one| kind(one) != kind(&report));
        self.unreported.push_back(report);
        self.say_unsaid();
    }

    /// Tells the thread that makes links, where there is one; later, if it has no room now.
    pub(crate) fn tell_links(&mut self, news: LinkNews) {
        if self.links.is_some() {
            // Few: a link that is gone or heard is told of once, and there is one a shard.
            self.unsaid.push_back(news);
            self.say_unsaid();
        }
    }

    /// Says what there was no room for, as far as there is now.
    pub(crate) fn say_unsaid(&mut self) {
        while let Some(report) = self.unreported.pop_front() {
            if let Err(TrySendError::Full(report)) = self.report.try_send(report) {
                self.unreported.push_front(report);
                break;
            }
        }
        let Some(links) = &self.links else { return };
        while let Some(news) = self.unsaid.pop_front() {
            if let Err(TrySendError::Full(news)) = links.try_send(news) {
                return self.unsaid.push_front(news);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use wire::{Epoch, ShardId};

    use super::*;

    #[test]
    fn reports_that_find_no_room_are_said_later_but_for_those_that_are_overtaken() {
        let (report, reports) = sync_channel(1);
        let mut told = Told::new(report, None);
        let filled = |shard, epoch| {
            let (shard, epoch) = (ShardId::new(shard), Epoch::new(epoch));
            Report::Filled { shard, epoch }
        };
        let refused = Report::Refused { shard: ShardId::new(1), epoch: Epoch::new(1) };
        let all = [filled(0, 1), filled(1, 1), refused.clone(), filled(1, 2), filled(2, 1)];
        all.into_iter().for_each(|one| told.report(one));
        for expected in [filled(0, 1), refused, filled(1, 2), filled(2, 1)] {
            assert_eq!(reports.try_recv(), Ok(expected));
            told.say_unsaid();
        }
        assert!(reports.try_recv().is_err());
    }

    #[test]
    fn news_of_a_link_that_find_no_room_are_said_later_and_in_order() {
        let (links, inbox) = sync_channel(1);
        let (report, _reports) = sync_channel(1);
        let mut told = Told::new(report, Some(links));
        let epoch = Epoch::new(1);
        for number in 0..3 {
            told.tell_links(LinkNews::Lost(ShardId::new(number), epoch));
        }
        for number in 0..3 {
            let news = inbox.try_recv();
            assert!(
                matches!(news, Ok(LinkNews::Lost(shard, _)) if shard == ShardId::new(number)),
                "{news:?}"
            );
            told.say_unsaid();
        }
        assert!(inbox.try_recv().is_err());
    }
}
