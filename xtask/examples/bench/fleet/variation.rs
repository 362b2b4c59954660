//! A real log, as another migration would have written it.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// What a migration has that is other than in its template.
pub(crate) struct Variation {
    pub(crate) template: usize,
    /// The source and the destination.
    pub(crate) hosts: [Host; 2],
    pub(crate) vm: Vm,
    /// By the true time, since the Unix epoch.
    pub(crate) start_ns: i64,
    /// How many thousandths of the time it takes.
    pub(crate) slowness: i64,
    /// How many times as much crosses the wire.
    pub(crate) data: u64,
    pub(crate) port: u16,
    /// From which its connections' sequence numbers are made.
    pub(crate) sequence: u64,
}

/// A host of the fleet.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Its wall clock less its monotonic one.
    pub(crate) offset_ns: i64,
    /// By how much its wall clock is ahead of the true time.
    pub(crate) skew_ns: i64,
}

/// A VM of the fleet.
pub(crate) struct Vm {
    pub(crate) number: u64,
    pub(crate) vcpus: u32,
    pub(crate) memory_bytes: u64,
}

impl Vm {
    pub(crate) fn uuid(&self) -> String {
        format!("5eed0000-0000-4000-8000-{:012x}", self.number)
    }
}

/// How the clocks of a log become those of a host.
pub(crate) struct Clocks {
    /// When the template's log begins.
    begin: i64,
    /// The template's wall clock less its monotonic one.
    offset: i64,
    /// What the host's monotonic clock shows then.
    own_begin: i64,
    own_offset: i64,
    slowness: i64,
}

impl Clocks {
    fn stamp(&self, at: i64) -> i64 {
        let since = i128::from(at - self.begin) * i128::from(self.slowness) / 1_000;
        self.own_begin + i64::try_from(since).unwrap_or(i64::MAX)
    }

    fn wall_us(&self, us: i64) -> i64 {
        (self.stamp(us * 1_000 - self.offset) + self.own_offset) / 1_000
    }
}

/// Lengths of time, which the clocks leave alone.
const LENGTHS: [&str; 2] = ["error_ns", "offset_ns"];
const COUNTED: [&str; 6] = [
    "wire_bytes",
    "payload_bytes",
    "segments",
    "skbs",
    "retransmitted_segments",
    "retransmitted_payload_bytes",
];

impl Variation {
    /// The clocks of one side's log. Both logs of a template were written by one clock.
    pub(crate) fn clocks(&self, log: &[Value], side: usize) -> Clocks {
        let host = &self.hosts[side];
        let offset = log.iter().find_map(|line| line["offset_ns"].as_i64()).unwrap_or_default();
        // A round number that lies before both logs begin.
        let begin = log[0]["at_ns"].as_i64().unwrap_or_default() / 10_000_000_000 * 10_000_000_000;
        let own_begin = self.start_ns + host.skew_ns - host.offset_ns;
        Clocks { begin, offset, own_begin, own_offset: host.offset_ns, slowness: self.slowness }
    }

    /// A line as this migration's log has it.
    pub(crate) fn varied(&self, line: &Value, side: usize, clocks: &Clocks) -> Value {
        let mut line = line.clone();
        self.vary(&mut line, "", side, clocks);
        match line["event"].as_str() {
            Some("log_start") => line["host"] = json!(self.hosts[side].name),
            Some("clock") => line["offset_ns"] = json!(clocks.own_offset),
            Some("qemu_seen") => {
                line["uuid"] = json!(self.vm.uuid());
                line["name"] = json!(format!("vm-{}", self.vm.number));
                line["vcpus"] = json!(self.vm.vcpus);
                line["memory_bytes"] = json!(self.vm.memory_bytes);
                let number = self.vm.number;
                let mac = format!(
                    "52:54:{:02x}:{:02x}:{:02x}:10",
                    number >> 16 & 255,
                    number >> 8 & 255,
                    number & 255
                );
                line["macs"] = json!([mac]);
            }
            Some("flow_seen") => self.vary_sequences(&mut line),
            _ => {}
        }
        line
    }

    /// Both sides make the same of the same number.
    fn vary_sequences(&self, line: &mut Value) {
        for way in ["tx", "rx"] {
            if let Some(number) = line["initial_sequences"][way].as_u64() {
                let varied = (number ^ self.sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                line["initial_sequences"][way] = json!(varied);
            }
        }
    }

    fn vary(&self, value: &mut Value, key: &str, side: usize, clocks: &Clocks) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    // The two directions of a stamp have its name.
                    let name = if ["tx", "rx"].contains(&name.as_str()) { key } else { name };
                    self.vary(field, name, side, clocks);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.vary(item, key, side, clocks)),
            Value::Number(number) if key == "qemu_realtime_us" => {
                *value = json!(clocks.wall_us(number.as_i64().unwrap_or_default()));
            }
            Value::Number(number) if key.ends_with("_ns") && !LENGTHS.contains(&key) => {
                *value = json!(clocks.stamp(number.as_i64().unwrap_or_default()));
            }
            Value::Number(number) if COUNTED.contains(&key) => {
                *value = json!(number.as_u64().unwrap_or_default() * self.data);
            }
            Value::String(text) if ["local", "remote"].contains(&key) => {
                *value = json!(self.address(text, (key == "local") == (side == 0)));
            }
            _ => {}
        }
    }

    /// An end of a connection: of the source, or of the destination.
    fn address(&self, text: &str, is_source: bool) -> String {
        let host = &self.hosts[usize::from(!is_source)];
        let Ok(end) = text.parse::<SocketAddr>() else { return host.address.clone() };
        // The ports of migrations stay.
        let port = if (49_152..49_216).contains(&end.port()) {
            end.port()
        } else {
            20_000 + (end.port() % 9_000) + self.port
        };
        format!("{}:{port}", host.address)
    }
}
