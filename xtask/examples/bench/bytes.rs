//! How exactly each tool counts the bytes of a stream, compared with what the receiver saw.
//!
//! The sender's host passes on segments larger than the MTU, as every host with an offloading NIC does, and the tools
//! see these. The port of the switch acts as the NIC and cuts them. The receiver, which merges nothing, gets real frames
//! one by one, and its packet filter counts them.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use migtrace_lab::{Host, Lab};
use serde::Serialize;
use serde_json::Value;

use crate::counting_tools::{Counted, Purpose, Tool};
use crate::traffic::{PORT, Receiver, Sender};

const STREAM: Duration = Duration::from_secs(3);
/// The part of an incoming frame that a packet filter does not count.
const ETHERNET_HEADER: u64 = 14;

/// One tool, and what it counted.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) tool: &'static str,
    pub(crate) counted: Counted,
    /// The bytes that the receiver saw of the same stream, in both directions.
    pub(crate) true_bytes: u64,
    /// (counted - true) / true.
    pub(crate) error: f64,
}

/// Lets each tool count a stream of its own.
pub(crate) fn measure(lab: &Lab, receiver: &Receiver, tools: &[Tool]) -> Result<Vec<Row>> {
    let destination = lab.destination();
    lab.switch().set_offloads(destination.role(), &["tso", "gso"], false)?;
    destination.set_offloads(Host::UPLINK, &["gro"], false)?;
    tools.iter().map(|tool| row(lab, receiver, tool)).collect()
}

fn row(lab: &Lab, receiver: &Receiver, tool: &Tool) -> Result<Row> {
    let purpose = Purpose::Count(STREAM);
    let name = tool.name(purpose);
    let directory = tempfile::tempdir().context("cannot make a directory for a record")?;
    let mut sender = Sender::start(lab.source(), receiver.address())?;
    let running = tool.start(lab.source(), purpose, directory.path())?;
    let truth = Truth::start(lab.destination())?;
    sender.go()?;
    let connection = receiver.accept()?;
    thread::sleep(STREAM);
    sender.stop()?;
    connection.finish()?;
    let counted = running.finish(receiver.address().ip()).with_context(|| format!("counting with {name}"))?;
    let true_bytes = truth.bytes()?;
    sender.quit()?;
    let error = (counted.bytes as f64 - true_bytes as f64) / true_bytes as f64;
    Ok(Row { tool: name, counted, true_bytes, error })
}

/// Counters of the receiver's packet filter; dropping this removes them.
struct Truth<'a>(&'a Host);

impl<'a> Truth<'a> {
    fn start(host: &'a Host) -> Result<Self> {
        let uplink = Host::UPLINK;
        let rules = format!(
            "add table netdev bench; \
             add counter netdev bench received; add counter netdev bench sent; \
             add chain netdev bench in {{ type filter hook ingress device {uplink} priority -500; }}; \
             add chain netdev bench out {{ type filter hook egress device {uplink} priority 500; }}; \
             add rule netdev bench in tcp dport {PORT} counter name received; \
             add rule netdev bench out tcp sport {PORT} counter name sent"
        );
        host.tool("nft", &[&rules]).context("cannot count at the receiver")?;
        Ok(Self(host))
    }

    fn bytes(&self) -> Result<u64> {
        let listed = self.0.tool("nft", &["--json", "list", "counters", "table", "netdev", "bench"])?;
        bytes_of(&listed).with_context(|| format!("nft lists no counters: {listed}"))
    }
}

impl Drop for Truth<'_> {
    fn drop(&mut self) {
        // If this fails, so does the next start, with a message.
        let _ = self.0.tool("nft", &["delete", "table", "netdev", "bench"]);
    }
}

/// Adds up the counters of nft, as bytes of whole frames.
fn bytes_of(listed: &str) -> Option<u64> {
    let listed: Value = serde_json::from_str(listed).ok()?;
    let counter = |name: &str| {
        let all = listed["nftables"].as_array()?;
        let counter = all.iter().map(|entry| &entry["counter"]).find(|counter| counter["name"] == name)?;
        Some((counter["packets"].as_u64()?, counter["bytes"].as_u64()?))
    };
    let ((packets, received), (_, sent)) = (counter("received")?, counter("sent")?);
    Some(received + packets * ETHERNET_HEADER + sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_is_counted_with_its_ethernet_headers() {
        let listed = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "netdev", "name": "received", "table": "bench", "packets": 2, "bytes": 3000}},
            {"counter": {"family": "netdev", "name": "sent", "table": "bench", "packets": 1, "bytes": 66}}]}"#;
        assert_eq!(bytes_of(listed), Some(3000 + 28 + 66));
        assert_eq!(bytes_of("{}"), None);
    }
}
