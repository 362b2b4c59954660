//! The span of the whole migration, one for each side.

use opentelemetry_proto::tonic::trace::v1::{Status, span, status};
use opentelemetry_semantic_conventions::attribute as names;

use super::spans::count;
use super::{Content, KNOWS_REMOTE, Placed, REMOTE, Trace, signed};
use crate::export::ids::{SpanKind, TraceIdSource};
use crate::export::otlp::attributes::Attributes;
use crate::record::{MarkName, Outcome, Vantage};
use crate::vocabulary::{Lost, Purpose};

/// The marks with which a migration ends.
const ENDS: [MarkName; 3] = [MarkName::Completed, MarkName::Failed, MarkName::Cancelled];

impl<'a> Trace<'a> {
    /// The spans of the sides that the record has.
    pub(super) fn migrations(&self) -> Vec<Placed<'a>> {
        [Vantage::Source, Vantage::Destination].into_iter().filter_map(|side| self.migration(side)).collect()
    }

    fn migration(&self, side: Vantage) -> Option<Placed<'a>> {
        let observer = self.observer(side, None)?;
        let (from_ns, to_ns) = if side == self.own { (0, self.own_end()) } else { self.other_times() };
        // An identifier that only this record has leads to no root.
        let has_root = side == Vantage::Destination
            && (self.own == Vantage::Source || self.ids.source == TraceIdSource::MigrationId);
        let mut attributes = Attributes::default();
        self.identity(side, &mut attributes);
        if side == self.own {
            self.figures(&mut attributes);
        }
        self.platform.add_to(&mut attributes);
        let content = Content {
            kind: SpanKind::Migration,
            index: 0,
            name: SpanKind::Migration.as_str().to_owned(),
            from_ns,
            to_ns,
            parent: has_root.then(|| self.migration_of(Vantage::Source)),
            attributes,
        };
        let mut placed = self.place(observer, content);
        placed.span.events = self.events(side);
        placed.span.status = Some(self.status());
        if side == self.own {
            placed.span.links = self.link().into_iter().collect();
        }
        Some(placed)
    }

    /// When the record's own side ended.
    fn own_end(&self) -> i64 {
        let record = self.record;
        if let Some(total) = &record.total_time {
            return signed(total.value_ns);
        }
        let phases = record.phases.iter().map(|phase| phase.end_ns);
        let marks = record.downtime.marks.iter().filter(|mark| mark.role == self.own).map(|mark| mark.at_ns);
        phases.chain(marks).max().unwrap_or_default()
    }

    /// From the first packet that the other side may have got, to the end that its QEMU reported or, without one, to the
    /// last that was seen of it.
    fn other_times(&self) -> (i64, i64) {
        let first = self.record.traffic.flows.iter().map(|flow| flow.first_ns).min();
        let marks = || self.record.downtime.marks.iter().filter(|mark| mark.role != Vantage::Observer);
        let others = || marks().filter(|mark| mark.role != self.own);
        let ended = others().filter(|mark| ENDS.contains(&mark.name)).map(|mark| mark.at_ns).max();
        let ended = ended.or_else(|| others().map(|mark| mark.at_ns).max());
        (first.unwrap_or_default(), ended.unwrap_or_else(|| self.own_end()))
    }

    /// Which migration it was, and how it ended.
    fn identity(&self, side: Vantage, attributes: &mut Attributes) {
        let record = self.record;
        let (migration, vm) = (&record.migration, &record.vm);
        let direction = if side == Vantage::Source { "transmit" } else { "receive" };
        let error = match migration.outcome {
            Outcome::Failed | Outcome::Cancelled => Some(migration.outcome.as_str()),
            _ => None,
        };
        let derived = matches!(self.ids.source, TraceIdSource::Start).then_some("start");
        attributes
            .text("migtrace.role", side.as_str())
            .text("migtrace.migration.id", migration.id.as_deref())
            .text("migtrace.trace_id.derived_from", derived)
            .text("migtrace.mode", migration.mode.as_str())
            .text("migtrace.outcome", migration.outcome.as_str())
            .text(names::ERROR_TYPE, error)
            .text("migtrace.vm.uuid", vm.uuid.as_deref())
            .text("migtrace.vm.name", vm.name.as_deref())
            .number("migtrace.vm.vcpus", vm.vcpus.map(u64::from))
            .number("migtrace.vm.memory_bytes", vm.memory_bytes)
            .text(names::NETWORK_IO_DIRECTION, direction);
    }

    /// What was measured, from the record's own side.
    fn figures(&self, attributes: &mut Attributes) {
        let record = self.record;
        let downtime = &record.downtime;
        self.connection(attributes);
        attributes
            .flag("migtrace.start.seen", record.start.seen)
            .number("migtrace.start.error_ns", record.start.error_ns)
            .flag("migtrace.end.seen", record.total_time.is_some())
            .estimate("migtrace.total", record.total_time.as_ref())
            .estimate("migtrace.setup", record.setup_time.as_ref())
            .flag("migtrace.stopped", downtime.stopped)
            .estimate("migtrace.stop", downtime.stop.as_ref())
            .estimate("migtrace.network_gap", downtime.network.as_ref())
            .estimate("migtrace.reachability", downtime.reachability.as_ref())
            .estimate("migtrace.tail", downtime.tail.as_ref())
            .number("migtrace.qemu.downtime_ns", downtime.qemu_reported_ns)
            .number("migtrace.qemu.downtime_limit_ns", downtime.budget_ns)
            .text("migtrace.qemu.version", record.qemu.version.as_deref())
            .text("migtrace.qemu.accelerator", record.qemu.accelerator.as_deref())
            .list("migtrace.contradictions", downtime.contradictions.iter().cloned())
            .list("migtrace.remarks", downtime.remarks.iter().cloned())
            .list(
                "migtrace.not_measured",
                record.not_measured.iter().map(|entry| format!("{}: {}", entry.what, entry.why)),
            );
        let traffic = &record.traffic;
        count(attributes, traffic.total.as_ref());
        attributes
            .number("migtrace.retransmitted_segments", traffic.retransmitted_segments)
            .number("migtrace.retransmitted_payload_bytes", traffic.retransmitted_payload_bytes)
            .number("migtrace.flows", u64::try_from(traffic.flows.len()).ok());
        let Lost { ring_buffer, flows, hook_calls, qmp_lines, vcpus } = record.lost;
        attributes
            .number("migtrace.lost.ring_buffer", ring_buffer)
            .number("migtrace.lost.flows", flows)
            .number("migtrace.lost.hook_calls", hook_calls)
            .number("migtrace.lost.qmp_lines", qmp_lines)
            .number("migtrace.lost.vcpus", vcpus);
    }

    /// The two ends of the memory stream or, where none is known as that, of the first connection.
    fn connection(&self, attributes: &mut Attributes) {
        let flows = &self.record.traffic.flows;
        let memory = flows.iter().find(|flow| flow.purpose == Purpose::Ram);
        let Some(flow) = memory.or_else(|| flows.first()).map(|flow| flow.flow) else { return };
        let ip = if flow.local.is_ipv4() { "ipv4" } else { "ipv6" };
        attributes
            .text(names::NETWORK_TRANSPORT, "tcp")
            .text(names::NETWORK_TYPE, ip)
            .text(names::NETWORK_LOCAL_ADDRESS, flow.local.ip().to_string().as_str())
            .number(names::NETWORK_LOCAL_PORT, u64::from(flow.local.port()))
            .text(names::NETWORK_PEER_ADDRESS, flow.remote.ip().to_string().as_str())
            .number(names::NETWORK_PEER_PORT, u64::from(flow.remote.port()));
    }

    fn status(&self) -> Status {
        let migration = &self.record.migration;
        match migration.outcome {
            Outcome::Failed | Outcome::Cancelled => Status {
                code: status::StatusCode::Error.into(),
                message: migration.error.clone().unwrap_or_else(|| migration.outcome.as_str().to_owned()),
            },
            _ => Status::default(),
        }
    }

    /// The link to what the migration was a part of.
    fn link(&self) -> Option<span::Link> {
        let caller = self.origin.caller.as_ref()?;
        Some(span::Link {
            trace_id: caller.trace.0.to_vec(),
            span_id: caller.span.0.to_vec(),
            trace_state: caller.state.clone(),
            flags: u32::from(caller.flags) | KNOWS_REMOTE | REMOTE,
            ..span::Link::default()
        })
    }
}
