//! What migtrace counted of a connection, and what nftables counted of it.

use crate::support::number;
use migtrace_lab::Host;
use migtrace_lab::migtrace_command::Recorded;
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub(super) const ETHERNET_HEADER: u64 = 14;

/// The events that a recording wrote, as JSON.
pub(super) struct JsonEvents(pub(super) Vec<Value>);

impl JsonEvents {
    pub(super) fn of(recorded: &Recorded) -> Self {
        Self(recorded.events().unwrap())
    }

    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |event| event["event"] == kind)
    }

    /// The first event of the only flow to or from `port`.
    pub(super) fn flow_seen(&self, port: u16) -> &Value {
        let end = format!(":{port}");
        let is_end = |address: &Value| address.as_str().unwrap().ends_with(&end);
        let mut seen = self
            .of_kind("flow_seen")
            .filter(|event| is_end(&event["flow"]["local"]) || is_end(&event["flow"]["remote"]));
        let first = seen.next().unwrap_or_else(|| panic!("no flow of port {port}: {:#?}", self.0));
        assert!(seen.next().is_none(), "two flows of port {port}: {:#?}", self.0);
        first
    }

    /// The last counters of the only flow to or from `port`. Checks that it was counted at one interface only, and to its end.
    pub(super) fn flow_counters(&self, port: u16) -> &Value {
        let flow = &self.flow_seen(port)["flow"];
        let last = self.of_kind("flow_counters").filter(|event| event["flow"] == *flow).last().unwrap();
        assert_eq!(last["elsewhere_skbs"].as_u64().unwrap_or(0), 0, "{last:#}");
        assert_eq!(last["closed"], true, "{last:#}");
        last
    }
}

/// Packets, and their bytes from the IP header on, as nftables counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketCount {
    packets: u64,
    ip_bytes: u64,
}

impl PacketCount {
    /// Checks that migtrace counted these packets, with `headers` more bytes on the wire for each.
    pub(super) fn assert_counted_as(self, counted: &Value, headers: u64) {
        let counted = (number(&counted["segments"]), number(&counted["wire_bytes"]));
        assert_eq!(counted, (self.packets, self.ip_bytes + self.packets * headers));
    }
}

/// Counts the packets to and from some ports of a host with nftables, independently of eBPF.
pub(super) struct FilterCounter(Host);

impl FilterCounter {
    pub(super) fn start(host: &Host, ports: &[u16]) -> Self {
        let mut rules = String::from("add table inet counts\n");
        for (chain, hook, side) in Self::CHAINS {
            rules += &format!("add chain inet counts {chain} {{ type filter hook {hook} priority 0; }}\n");
            for port in ports {
                rules += &format!("add rule inet counts {chain} tcp {side} {port} counter\n");
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), rules).unwrap();
        host.tool("nft", &["-f", file.path().to_str().unwrap()]).unwrap();
        Self(host.clone())
    }

    const CHAINS: [(&str, &str, &str); 2] = [("arriving", "input", "dport"), ("leaving", "output", "sport")];

    /// What arrived at `port`, and what left from it.
    pub(super) fn read(&self, port: u16) -> [PacketCount; 2] {
        Self::CHAINS.map(|(chain, _, side)| {
            let rules = self.0.tool("nft", &["list", "chain", "inet", "counts", chain]).unwrap();
            let wanted = format!("{side} {port} counter packets ");
            let rule = rules.lines().find_map(|line| line.trim().strip_prefix("tcp ")?.strip_prefix(&wanted));
            let rule = rule.unwrap_or_else(|| panic!("no rule of {port}: {rules}"));
            let (packets, ip_bytes) = rule.split_once(" bytes ").unwrap();
            PacketCount { packets: packets.parse().unwrap(), ip_bytes: ip_bytes.trim().parse().unwrap() }
        })
    }
}

/// Sends `bytes` over one TCP connection to `address`. Both ends are closed when it returns.
pub(super) fn send(source: &Host, destination: &Host, address: IpAddr, port: u16, bytes: usize) {
    let to = SocketAddr::new(address, port);
    let listener = destination.enter(|| TcpListener::bind(to)).unwrap().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = source.enter(|| TcpStream::connect(to)).unwrap().unwrap();
    let chunk = vec![0x55; 1 << 16];
    for at in (0..bytes).step_by(chunk.len()) {
        stream.write_all(&chunk[..chunk.len().min(bytes - at)]).unwrap();
    }
    drop(stream);
    assert_eq!(receiver.join().unwrap(), bytes as u64);
    // Time for the last acknowledgements.
    std::thread::sleep(Duration::from_millis(500));
}

pub(super) fn payload_without_retransmissions(flow: &Value) -> u64 {
    number(&flow["counters"]["tx"]["payload_bytes"]) - number(&flow["retransmitted_payload_bytes"])
}
