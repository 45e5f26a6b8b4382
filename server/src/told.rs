//! Told: to whom a core says what has happened in its chains.
//!
//! Owns what could not be said yet. What has happened is left to `chains`.
//!
//! Invariant: news of links are said in their order, and none is lost.

use std::collections::VecDeque;
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::chain_links::LinkNews;
use crate::report::Report;

/// To whom a core says what has happened in its chains.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) report: SyncSender<Report>,
    links: Option<SyncSender<LinkNews>>,
    /// What the thread that makes links had no room for, in order: said later.
    unsaid: VecDeque<LinkNews>,
}

impl Told {
    /// Nothing said yet.
    pub(crate) fn new(report: SyncSender<Report>, links: Option<SyncSender<LinkNews>>) -> Told {
        Told { report, links, unsaid: VecDeque::new() }
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
