//! Makes the events of a host.

use serde_json::{Value, json};

use super::{Dealt, Watch};
use crate::event::{Event, Fact};
use crate::selection::Selection;

pub(super) const MS: u64 = 1_000_000;
pub(super) const S: u64 = 1_000 * MS;
pub(super) const OFFSET_NS: u64 = 1_800_000_000 * S;

/// The events of a host, in the order in which they are added.
pub(super) struct Host {
    pub(super) events: Vec<Event>,
}

impl Host {
    pub(super) fn new() -> Self {
        let mut host = Self { events: Vec::new() };
        let start = json!({
            "schema": crate::event::SCHEMA, "migtrace": "0.1.0", "host": "host-a", "kernel": "6.12.0",
            "interfaces": [], "ports": "49152-49215", "instruments": []
        });
        host.add(0, "log_start", start);
        host.add(0, "clock", json!({ "offset_ns": OFFSET_NS, "error_ns": 100 }));
        host
    }

    pub(super) fn add(&mut self, at_ns: u64, event: &str, mut fields: Value) {
        fields["at_ns"] = at_ns.into();
        fields["event"] = event.into();
        self.events.push(serde_json::from_value(fields).unwrap());
    }

    pub(super) fn qemu(&mut self, at_ns: u64, pid: u32, name: &str, incoming: bool) {
        self.add(at_ns, "qemu_seen", json!({ "pid": pid, "name": name, "incoming": incoming }));
    }

    pub(super) fn gone(&mut self, at_ns: u64, pid: u32) {
        self.add(at_ns, "qemu_gone", json!({ "pid": pid }));
    }

    pub(super) fn qmp(&mut self, at_ns: u64, pid: u32, name: &str, data: &Value, carried: u64) {
        let event = json!({
            "pid": pid, "name": name, "data": data, "qemu_realtime_us": (at_ns + OFFSET_NS) / 1_000,
            "counters": { "tx": counters(carried), "rx": counters(0) }
        });
        self.add(at_ns, "qmp", event);
    }

    pub(super) fn status(&mut self, at_ns: u64, pid: u32, status: &str, carried: u64) {
        self.qmp(at_ns, pid, "MIGRATION", &json!({ "status": status }), carried);
    }

    pub(super) fn flow_seen(&mut self, at_ns: u64, port: u16, purpose: &str) {
        let seen = json!({ "flow": flow(port), "interface": "eth1", "from_start": true });
        self.add(at_ns, "flow_seen", seen);
        if purpose != "unknown" {
            self.add(at_ns, "flow_purpose", json!({ "flow": flow(port), "purpose": purpose }));
        }
    }

    pub(super) fn flow_owner(&mut self, at_ns: u64, port: u16, pid: u32) {
        self.add(at_ns, "flow_owner", json!({ "flow": flow(port), "pid": pid, "method": "socket" }));
    }

    pub(super) fn counted(&mut self, at_ns: u64, port: u16, first_ns: u64, carried: u64, closed: bool) {
        let counted = json!({
            "flow": flow(port), "counters": { "tx": counters(carried), "rx": counters(0) },
            "first_ns": first_ns, "last_ns": at_ns, "retransmitted_segments": 0, "retransmitted_payload_bytes": 0,
            "closed": closed
        });
        self.add(at_ns, "flow_counters", counted);
    }

    pub(super) fn lost(&mut self, at_ns: u64, ring_buffer: u64) {
        let lost = json!({ "ring_buffer": ring_buffer, "flows": 0, "hook_calls": 0, "since_ns": at_ns - S });
        self.add(at_ns, "lost", lost);
    }

    /// A migration from here, from `at_ns` on, which takes a second. Before it, the process' connections had carried `before`.
    pub(super) fn leaves(&mut self, at_ns: u64, pid: u32, port: u16, end: &str, before: u64) {
        self.flow_seen(at_ns, port, "ram");
        self.flow_owner(at_ns + MS, port, pid);
        self.status(at_ns + 2 * MS, pid, "setup", before);
        self.status(at_ns + 10 * MS, pid, "active", before);
        self.counted(at_ns + 500 * MS, port, at_ns, 1_000, false);
        self.status(at_ns + 990 * MS, pid, end, before + 2_000);
        self.counted(at_ns + S, port, at_ns, 2_000, true);
    }

    pub(super) fn dealt(&self) -> Dealt {
        self.dealt_to(Selection::default())
    }

    pub(super) fn dealt_to(&self, selection: Selection) -> Dealt {
        let mut watch = Watch::new(selection, true);
        watch.deal(&self.events);
        watch.until(watch.latest_ns + 120 * S);
        let dealt = watch.finish(&[]);
        for (id, log) in &dealt.logs {
            assert!(matches!(log[0].fact, Fact::LogStart(_)), "journal {id} begins with {:?}", log[0]);
        }
        dealt
    }
}

pub(super) fn flow(port: u16) -> Value {
    json!({ "local": format!("192.0.2.1:{port}"), "remote": "192.0.2.2:49152" })
}

pub(super) fn counters(payload: u64) -> Value {
    json!({ "wire_bytes": payload * 2, "payload_bytes": payload, "segments": payload / 100, "skbs": payload / 100 })
}
