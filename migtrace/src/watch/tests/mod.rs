//! Dealing canned events out.

mod canned;
mod host;
mod scenarios;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::dealer::Dealer;
use super::{JournalId, News, finish, records};
use crate::event::{EndReason, Event, Fact};
use crate::record::Record;
use crate::selection::Selection;
use crate::timeline::Timeline;
use crate::units::MonotonicNs;

/// What became of a host's events.
#[derive(Default)]
struct Dealt {
    logs: BTreeMap<JournalId, Vec<Event>>,
    records: Vec<Record>,
    discarded: usize,
    /// How many QEMUs and connections are still known.
    known: usize,
}

/// A watch over canned events.
struct Watch {
    dealer: Dealer,
    start: Instant,
    begun_ns: Option<u64>,
    latest_ns: u64,
    /// Journals are closed when they have settled, and not only at the end.
    closes: bool,
    dealt: Dealt,
}

impl Watch {
    fn new(selection: Selection, closes: bool) -> Self {
        let dealt = Dealt::default();
        let dealer = Dealer::new(selection);
        Self { dealer, start: Instant::now(), begun_ns: None, latest_ns: 0, closes, dealt }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.latest_ns - self.begun_ns.unwrap_or_default())
    }

    fn until(&mut self, at_ns: u64) {
        self.begun_ns.get_or_insert(at_ns);
        self.latest_ns = self.latest_ns.max(at_ns);
        let (now, now_ns) = (self.now(), MonotonicNs(self.latest_ns));
        self.dealer.turn(now, now_ns);
        while let Some(id) = self.dealer.settled(now, now_ns).filter(|_| self.closes) {
            let end = Event { at_ns: now_ns, fact: Fact::LogEnd { reason: EndReason::MigrationEnded } };
            self.dealer.close(id, &[end], now);
        }
        self.collect();
    }

    fn deal(&mut self, events: &[Event]) {
        for event in events {
            self.until(event.at_ns.0);
            self.dealer.deal(event, self.now());
            self.collect();
        }
    }

    fn finish(mut self, last: &[Event]) -> Dealt {
        let now = self.now();
        finish(&mut self.dealer, last, now, MonotonicNs(self.latest_ns));
        self.collect();
        assert!(self.dealer.open_journals().is_empty());
        self.dealt.known = self.dealer.qemus.len() + self.dealer.flows.len();
        self.dealt
    }

    fn collect(&mut self) {
        while let Some(news) = self.dealer.take_news() {
            match news {
                News::Begun { journal } => {
                    assert!(self.dealt.logs.insert(journal, Vec::new()).is_none(), "begun twice");
                }
                News::Event { journal, event } => {
                    self.dealt.logs.get_mut(&journal).expect("it has begun").push(event);
                }
                News::Finished(finished) => {
                    let replayed = fold(&self.dealt.logs[&finished.journal]);
                    assert_eq!(replayed, finished.records, "a record is the fold of its log");
                    self.dealt.records.extend(finished.records);
                }
                News::Discarded { journal } => {
                    self.dealt.logs.remove(&journal);
                    self.dealt.discarded += 1;
                }
                News::Host(_) => {}
            }
        }
    }
}

fn fold(events: &[Event]) -> Vec<Record> {
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    records(&timeline)
}
