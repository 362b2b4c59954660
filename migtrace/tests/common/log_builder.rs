//! Builds event logs of any length, line by line.

use std::fmt::Write as _;

use serde_json::{Value, json};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const OFFSET_NS: u64 = 1_800_000_000_000_000_000;
/// When the repeated events begin.
pub(crate) const T0: u64 = 1_000_000_000_000;

/// A log as it is written, one event after the other.
#[derive(Default)]
pub(crate) struct Log(pub(crate) String);

impl Log {
    pub(crate) fn add(&mut self, at_ns: u64, event: &str, mut fields: Value) -> &mut Self {
        fields["at_ns"] = at_ns.into();
        fields["event"] = event.into();
        writeln!(self.0, "{fields}").unwrap();
        self
    }

    /// What every log begins with: its first line, a clock sample, and the QEMU with pid 7.
    pub(crate) fn begun() -> Self {
        let mut log = Self::default();
        let start = json!({
            "schema": migtrace::event::SCHEMA, "migtrace": "0.1.0", "host": "host-a", "kernel": "6.12.0",
            "interfaces": [], "ports": "49152-49215", "instruments": []
        });
        log.add(0, "log_start", start);
        log.add(0, "clock", json!({ "offset_ns": OFFSET_NS, "error_ns": 100 }));
        log.qemu(1, 7, "web-1");
        log
    }

    pub(crate) fn qemu(&mut self, at_ns: u64, pid: u64, name: &str) {
        self.add(at_ns, "qemu_seen", json!({ "pid": pid, "name": name, "vcpus": 2, "taps": ["tap0"] }));
    }

    pub(crate) fn qmp(&mut self, at_ns: u64, pid: u64, name: &str, data: Value, carried: u64) {
        let event = json!({
            "pid": pid, "name": name, "data": data, "qemu_realtime_us": (at_ns + OFFSET_NS) / 1_000,
            "counters": counters(carried)
        });
        self.add(at_ns, "qmp", event);
    }

    pub(crate) fn status(&mut self, at_ns: u64, pid: u64, status: &str, carried: u64) {
        self.qmp(at_ns, pid, "MIGRATION", json!({ "status": status }), carried);
    }

    pub(crate) fn stop(&mut self, at_ns: u64, pid: u64) {
        self.qmp(at_ns, pid, "STOP", Value::Null, 0);
    }

    pub(crate) fn flow_seen(&mut self, at_ns: u64, number: u64) {
        let seen = json!({ "flow": flow(number), "interface": "eth1", "from_start": true });
        self.add(at_ns, "flow_seen", seen);
        self.add(at_ns, "flow_purpose", json!({ "flow": flow(number), "purpose": "ram" }));
    }

    pub(crate) fn flow_owner(&mut self, at_ns: u64, number: u64) {
        self.add(at_ns, "flow_owner", json!({ "flow": flow(number), "pid": 7, "method": "socket" }));
    }

    pub(crate) fn counted(&mut self, at_ns: u64, number: u64, first_ns: u64, carried: u64, closed: bool) {
        // Most lines of a long log are of this kind, and it takes long to make a JSON value for each.
        let ((host, port), segments) = (ends(number), carried.div_ceil(1448));
        let wire_bytes = carried + 66 * segments;
        writeln!(
            self.0,
            r#"{{"at_ns":{at_ns},"event":"flow_counters","flow":{{"local":"192.0.2.{host}:{port}","remote":"192.0.3.2:49152"}},"counters":{{"tx":{{"wire_bytes":{wire_bytes},"payload_bytes":{carried},"segments":{segments},"skbs":{segments}}},"rx":{{"wire_bytes":0,"payload_bytes":0,"segments":0,"skbs":0}}}},"first_ns":{first_ns},"last_ns":{at_ns},"last_byte_ns":{{"tx":{at_ns},"rx":null}},"retransmitted_segments":0,"retransmitted_payload_bytes":0,"closed":{closed}}}"#,
        )
        .unwrap();
    }

    pub(crate) fn gap(&mut self, at_ns: u64) {
        let gap = json!({
            "answered_request_ns": at_ns - 6 * MS, "last_reply_ns": at_ns - 5 * MS, "first_waiting_ns": at_ns - 4 * MS,
            "before_resumed_ns": at_ns - 2 * MS, "resuming_request_ns": at_ns - MS, "resumed_ns": at_ns,
            "round_trip_before_ns": 100, "round_trip_after_ns": 100, "requests": 5, "overtaken": 0, "waited": 0,
            "prompt": 1, "duplicate": 0
        });
        self.add(at_ns, "echo_gap", gap);
    }

    pub(crate) fn probed(&mut self, at_ns: u64) {
        let start = json!({
            "target": "192.0.2.9", "interface": "br0", "attach": "tcx", "interval_ns": MS, "min_gap_ns": MS
        });
        self.add(at_ns, "echo_start", start);
    }

    /// A migration of a process of which nothing else is reported.
    pub(crate) fn migration(&mut self, at_ns: u64, pid: u64) {
        self.status(at_ns, pid, "setup", 0);
        self.status(at_ns + MS / 2, pid, "completed", 0);
    }

    /// One migration of the QEMU with pid 7, with everything that `much` adds from `T0` on. It ends at the instant that
    /// `much` returns.
    pub(crate) fn of_one_migration(mut self, much: impl FnOnce(&mut Self) -> u64) -> String {
        self.status(T0 - 3 * MS, 7, "setup", 0);
        self.flow_seen(T0 - 2 * MS, 0);
        self.flow_owner(T0 - 2 * MS, 0);
        self.status(T0 - MS, 7, "active", 0);
        let end = much(&mut self);
        self.status(end, 7, "completed", 10_000_000_000);
        self.counted(end + MS, 0, T0 - 2 * MS, 10_000_000_000, true);
        self.ended(end + 2 * MS)
    }

    pub(crate) fn ended(mut self, at_ns: u64) -> String {
        self.add(at_ns, "log_end", json!({ "reason": "migration_ended" }));
        self.0
    }
}

pub(crate) fn counters(carried: u64) -> Value {
    let segments = carried.div_ceil(1448);
    let tx = json!({
        "wire_bytes": carried + 66 * segments, "payload_bytes": carried, "segments": segments, "skbs": segments
    });
    json!({ "tx": tx, "rx": { "wire_bytes": 0, "payload_bytes": 0, "segments": 0, "skbs": 0 } })
}

/// This host's end of a flow: the last number of its address, and its port.
const fn ends(number: u64) -> (u64, u64) {
    (1 + number / 50_000, 10_000 + number % 50_000)
}

pub(crate) fn flow(number: u64) -> Value {
    let (host, port) = ends(number);
    json!({ "local": format!("192.0.2.{host}:{port}"), "remote": "192.0.3.2:49152" })
}
