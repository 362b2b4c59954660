//! The instants of a migration, as events of its span.

use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_semantic_conventions::attribute as names;

use super::Trace;
use crate::export::otlp::attributes::Attributes;
use crate::record::{Mark, MarkName, Vantage};
use crate::vocabulary::Announcement;

impl Trace<'_> {
    /// The events of a side's span. Those of a host that has only pinged are with the record's own side.
    pub(super) fn events(&self, side: Vantage) -> Vec<Event> {
        let is_here =
            |mark: &&Mark| mark.role == side || (mark.role == Vantage::Observer && side == self.own);
        let mut events: Vec<_> =
            self.record.downtime.marks.iter().filter(is_here).map(|mark| self.mark(mark)).collect();
        if side == self.announced_at() {
            events.extend(self.announcements());
        }
        events.sort_by_key(|event| event.time_unix_nano);
        events
    }

    fn mark(&self, mark: &Mark) -> Event {
        let mut attributes = Attributes::default();
        attributes.number("migtrace.error_ns", Some(mark.error_ns).filter(|error| *error > 0));
        // The names of events stay few, whatever QEMU says.
        let name = match &mark.name {
            MarkName::Other(word) => {
                attributes.text("migtrace.mark", word.as_str());
                "other mark"
            }
            known => known.as_str(),
        };
        if mark.role == Vantage::Observer {
            attributes.text("migtrace.role", mark.role.as_str()).text("migtrace.host", mark.host.as_str());
        }
        self.event(name, mark.at_ns, attributes)
    }

    /// Where the guest's new place is announced: where it arrives, if the record knows that side.
    fn announced_at(&self) -> Vantage {
        let arrives = self.observer(Vantage::Destination, None);
        arrives.map_or(self.own, |observer| observer.role)
    }

    fn announcements(&self) -> impl Iterator<Item = Event> {
        self.record.downtime.announcements.iter().map(|announced| {
            let kind = match announced.kind {
                Announcement::Rarp => "rarp",
                Announcement::GratuitousArp => "gratuitous_arp",
                Announcement::NeighbourAdvertisement => "neighbour_advertisement",
            };
            let mut attributes = Attributes::default();
            attributes
                .text("migtrace.announcement.kind", kind)
                .number("migtrace.announcement.count", announced.count)
                .text(names::NETWORK_INTERFACE_NAME, announced.interface.as_str())
                .number("migtrace.error_ns", Some(announced.error_ns).filter(|error| *error > 0));
            self.event("announcement", announced.first_ns, attributes)
        })
    }

    fn event(&self, name: &str, at_ns: i64, attributes: Attributes) -> Event {
        Event {
            time_unix_nano: self.at(at_ns),
            name: name.to_owned(),
            attributes: attributes.into_vec(),
            ..Event::default()
        }
    }
}
