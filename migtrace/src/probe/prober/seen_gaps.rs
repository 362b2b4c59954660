//! The gaps that the kernel has reported, until the report lists them.

use std::collections::BTreeMap;

use crate::event::EchoGap;
use crate::kernel::echo::{SessionId, SettledGap};

/// How many doubtful silences a report lists: on a lossy path there is one every few round trips.
pub(super) const MOST_DOUBTFUL: usize = 10_000;

/// The gaps that the kernel has reported.
#[derive(Debug, Default)]
pub(super) struct SeenGaps {
    /// By session and number.
    listed: BTreeMap<(SessionId, u64), EchoGap>,
    /// How many of them may have been no gap.
    doubtful: usize,
    /// How many more doubtful ones there were.
    unlisted: u64,
    /// Those that [`super::Prober::next`] has not returned yet.
    news: Vec<EchoGap>,
}

impl SeenGaps {
    pub(super) fn add(&mut self, settled: SettledGap) {
        self.news.push(settled.gap);
        if settled.gap.may_be && self.doubtful == MOST_DOUBTFUL {
            self.unlisted += 1;
            return;
        }
        self.doubtful += usize::from(settled.gap.may_be);
        self.listed.insert((settled.session, settled.number), settled.gap);
    }

    /// One that was not returned yet.
    pub(super) fn next_new(&mut self) -> Option<EchoGap> {
        self.news.pop()
    }

    /// All that were not returned yet.
    pub(super) fn take_new(&mut self) -> Vec<EchoGap> {
        std::mem::take(&mut self.news)
    }

    /// Those of one session, in their order.
    pub(super) fn of(&self, session: SessionId) -> impl Iterator<Item = &EchoGap> {
        self.listed.range((session, 0)..=(session, u64::MAX)).map(|(_, seen)| seen)
    }

    /// Forgets a session that was reported.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.listed.retain(|(of, _), _| *of != session);
    }

    /// How many doubtful ones are not listed.
    pub(super) const fn unlisted(&self) -> u64 {
        self.unlisted
    }
}
