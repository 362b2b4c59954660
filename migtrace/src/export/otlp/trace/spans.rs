//! The spans below a migration: its phases, the stop with its parts, and the gaps.

use super::{Content, Parent, Placed, Trace, signed};
use crate::export::ids::SpanKind;
use crate::export::otlp::attributes::Attributes;
use crate::record::{Gap, Mark, MarkName, Method, Observer, PartName, PhaseName, Vantage};
use crate::units::{Counters, Directions};

impl<'a> Trace<'a> {
    pub(super) fn phases(&self) -> Vec<Placed<'a>> {
        let Some(observer) = self.observer(self.own, None) else { return Vec::new() };
        let phases = self.record.phases.iter().enumerate().map(|(index, phase)| {
            let known = !matches!(phase.name, PhaseName::Other(_));
            let mut attributes = Attributes::default();
            attributes.text("migtrace.phase", phase.name.as_str()).number("migtrace.pass", phase.pass);
            count(&mut attributes, phase.traffic.as_ref());
            let content = Content {
                kind: SpanKind::Phase,
                index,
                name: named(SpanKind::Phase, known.then_some(phase.name.as_str())),
                from_ns: phase.start_ns,
                to_ns: phase.end_ns,
                parent: Some(self.migration_of(self.own)),
                attributes,
            };
            self.place(observer, content)
        });
        phases.collect()
    }

    /// The stop and its parts. Only where the source was observed: the destination alone does not see it begin, and what it
    /// knows of its length is with its migration.
    pub(super) fn stop(&self) -> Vec<Placed<'a>> {
        let Some(source) = self.observer(Vantage::Source, None) else { return Vec::new() };
        let parent = self.migration_of(Vantage::Source);
        let mut spans = Vec::new();
        let stop = self.record.downtime.stop.as_ref().zip(self.stopped_at());
        if let Some((stop, from_ns)) = stop {
            spans.push(self.place(source, Content::lasting(SpanKind::Stop, from_ns, stop, parent)));
        }
        let id = self.ids.span(Vantage::Source, SpanKind::Stop, 0);
        let parent = if stop.is_some() { Parent { side: Vantage::Source, id } } else { parent };
        spans.extend(self.parts(parent));
        spans
    }

    /// When the guest stopped, as the stop's method has it.
    fn stopped_at(&self) -> Option<i64> {
        let downtime = &self.record.downtime;
        if let Some(first) = downtime.parts.first() {
            return Some(first.start_ns);
        }
        // The guest may have stopped and gone on before: its last stop is the migration's.
        let mark = |name| {
            let mut marks = downtime.marks.iter().rev();
            marks.find(|mark| mark.name == name && mark.role != Vantage::Destination).map(|mark| mark.at_ns)
        };
        match downtime.stop.as_ref()?.method {
            Method::LastReplyToVcpus | Method::LastReplyToQmpEvent => mark(MarkName::LastAnsweredRequest),
            _ => mark(MarkName::AllVcpusStopped).or_else(|| mark(MarkName::Stop)),
        }
    }

    fn parts(&self, parent: Parent) -> impl Iterator<Item = Placed<'a>> {
        self.record.downtime.parts.iter().enumerate().filter_map(move |(index, part)| {
            let observer = self.observer(part.role.into(), Some(&part.host))?;
            let known = !matches!(part.name, PartName::Other(_));
            let mut attributes = Attributes::default();
            attributes
                .text("migtrace.part", part.name.as_str())
                .estimate("migtrace.length", &part.length)
                .number("migtrace.tx.wire_bytes", part.wire_bytes);
            let content = Content {
                kind: SpanKind::Part,
                index,
                name: named(SpanKind::Part, known.then_some(part.name.as_str())),
                from_ns: part.start_ns,
                to_ns: part.start_ns.saturating_add(signed(part.length.value_ns)),
                parent: Some(parent),
                attributes,
            };
            Some(self.place(observer, content))
        })
    }

    pub(super) fn network_gap(&self) -> Option<Placed<'a>> {
        let source = self.observer(Vantage::Source, None)?;
        let downtime = &self.record.downtime;
        let (length, from_ns) = downtime.network.as_ref().zip(self.last_frame())?;
        let parent = self.migration_of(Vantage::Source);
        Some(self.place(source, Content::lasting(SpanKind::NetworkGap, from_ns, length, parent)))
    }

    /// The guest's last frame at the source.
    fn last_frame(&self) -> Option<i64> {
        let marks = self.record.downtime.marks.iter();
        marks.filter(|mark| mark.name == MarkName::LastGuestFrame).map(|mark| mark.at_ns).max()
    }

    /// The gaps in the guest's replies, by the host that pinged it.
    pub(super) fn reachability_gaps(&self) -> Vec<Placed<'a>> {
        let is_a_reply =
            |mark: &&Mark| matches!(mark.name, MarkName::LastAnsweredRequest | MarkName::FirstReply);
        let seen_by = self.record.downtime.marks.iter().find(is_a_reply);
        let prober = seen_by.and_then(|mark| self.observer(mark.role, Some(&mark.host)));
        let Some(prober) = prober.or_else(|| self.prober_of_several()) else { return Vec::new() };
        let side = if prober.role == Vantage::Destination { prober.role } else { self.own };
        let parent = self.migration_of(side);
        let gaps = self.record.gaps.iter().filter(|gap| gap.is_plausible()).enumerate();
        let span = |(index, gap): (usize, &Gap)| {
            let mut content =
                Content::lasting(SpanKind::ReachabilityGap, gap.start.value_ns, &gap.length, parent);
            content.index = index;
            self.describe(gap, &mut content.attributes);
            self.place(prober, content)
        };
        gaps.map(span).collect()
    }

    /// Who has pinged where no mark says so: a host that is there for nothing else, or the record's own.
    fn prober_of_several(&self) -> Option<&'a Observer> {
        self.observer(Vantage::Observer, None).or_else(|| self.observer(self.own, None))
    }

    /// Adds what is known of a gap beside its length.
    fn describe(&self, gap: &Gap, attributes: &mut Attributes) {
        let reachability = self.record.downtime.reachability.as_ref();
        let is_of_stop = reachability.is_some_and(|known| {
            (known.value_ns, &known.method) == (gap.length.value_ns, &gap.length.method)
        });
        attributes
            .signed("migtrace.start.low_ns", gap.start.low_ns)
            .signed("migtrace.start.high_ns", gap.start.high_ns)
            .number("migtrace.error_ns", Some(gap.error_ns).filter(|error| *error > 0))
            .flag("migtrace.gap.of_stop", is_of_stop)
            .flag("migtrace.gap.certain", gap.is_sure())
            .number("migtrace.gap.lost", gap.lost)
            .number("migtrace.gap.late", gap.late)
            .number("migtrace.gap.duplicate", gap.duplicate);
    }
}

/// What crossed: `tx` from the source to the destination, `rx` back.
pub(super) fn count(attributes: &mut Attributes, traffic: Option<&Directions<Counters>>) {
    let Some(traffic) = traffic else { return };
    for (direction, counters) in [("tx", traffic.tx), ("rx", traffic.rx)] {
        attributes
            .number(&format!("migtrace.{direction}.wire_bytes"), counters.wire_bytes)
            .number(&format!("migtrace.{direction}.payload_bytes"), counters.payload_bytes)
            .number(&format!("migtrace.{direction}.segments"), counters.segments);
    }
}

/// The name of a span: few, whatever words QEMU uses.
fn named(kind: SpanKind, word: Option<&str>) -> String {
    format!("{} {}", kind.as_str(), word.unwrap_or("other"))
}
