//! What libvirtd has received from QEMU, from its log.

use crate::qmp::QmpEvent;
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Comes before the event in a line.
const MARK: &str = "QEMU_MONITOR_RECV_EVENT: ";
/// Comes before a reply.
const REPLY_MARK: &str = "QEMU_MONITOR_RECV_REPLY: ";
/// The stamp at the start of a line, such as `2026-11-28 05:04:24.348+0000`, which ends at `: `.
const STAMP: &str = "%Y-%m-%d %H:%M:%S%.f%z";

/// The events in a piece of libvirtd's log, in their order. The driver received each before the end of the millisecond with
/// which libvirtd has stamped it.
pub(super) fn events(log: &str) -> Result<Vec<QmpEvent>> {
    let offset_ns = realtime_less_monotonic_ns()?;
    let lines = log.lines().filter(|line| line.contains(MARK));
    lines.map(|line| event(line, offset_ns).with_context(|| line.to_owned())).collect()
}

/// QEMU's statistics of a migration that has completed, if libvirtd has asked for them in this piece of its log.
pub(super) fn statistics(log: &str) -> Result<Option<Value>> {
    let replies = log.lines().filter(|line| line.contains(REPLY_MARK));
    // Replies to most other questions are no statistics, and need not be read.
    let mut replies = replies.rev().filter(|line| line.contains(r#""status": "completed""#));
    let Some(line) = replies.next() else { return Ok(None) };
    let (_, json) = line.split_once(" reply=").context("no reply")?;
    let mut reply: Value = serde_json::from_str(json.trim()).with_context(|| format!("no JSON: {line}"))?;
    Ok(Some(reply["return"].take()))
}

fn event(line: &str, offset_ns: i128) -> Result<QmpEvent> {
    let (stamp, rest) = line.split_once(": ").context("no stamp")?;
    let stamp = Timestamp::strptime(STAMP, stamp).context("no stamp")?;
    let (_, json) = rest.split_once(" event=").context("no event")?;
    let mut message: Value = serde_json::from_str(json.trim()).context("no JSON")?;
    let name = message["event"].as_str().context("no name")?.to_owned();
    let part = |name: &str| message["timestamp"][name].as_u64().context("no stamp of QEMU's");
    let qemu_realtime_us = part("seconds")? * 1_000_000 + part("microseconds")?;
    let received_ns = u64::try_from(stamp.as_nanosecond() + 1_000_000 - offset_ns)?;
    Ok(QmpEvent { name, data: message["data"].take(), qemu_realtime_us, received_ns })
}

/// By how much the realtime clock is ahead of the monotonic clock.
fn realtime_less_monotonic_ns() -> Result<i128> {
    let now = |clock| -> Result<i128> {
        let now = clock_gettime(clock)?;
        Ok(i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()))
    };
    Ok(now(ClockId::CLOCK_REALTIME)? - now(ClockId::CLOCK_MONOTONIC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_stamps_of_qemu_and_of_libvirtd() {
        let line = "2026-11-28 05:04:43.980+0000: 27575: info : qemuMonitorJSONIOProcessLine:203 : \
                    QEMU_MONITOR_RECV_EVENT: mon=0x7ff8d8003740 event={\"timestamp\": {\"seconds\": 1795842283, \
                    \"microseconds\": 979962}, \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}";
        let event = event(line, 1_000_000_000).unwrap();
        assert_eq!((event.name.as_str(), &event.data["status"]), ("MIGRATION", &"setup".into()));
        assert_eq!(event.qemu_realtime_us, 1_795_842_283_979_962);
        assert_eq!(event.received_ns, 1_795_842_282_981_000_000);
    }

    #[test]
    fn statistics_are_those_of_the_end() {
        let reply = |id: u32, statistics: &str| {
            format!(
                "2026-11-28 12:22:38.472+0000: 6293: info : qemuMonitorJSONIOProcessLine:208 : \
                 QEMU_MONITOR_RECV_REPLY: mon=0x7f9f2c007740 reply={{\"return\": {statistics}, \"id\": \"libvirt-{id}\"}}\n"
            )
        };
        let active = reply(441, r#"{"expected-downtime": 300, "status": "active"}"#);
        let completed = reply(443, r#"{"status": "completed", "downtime": 214}"#);
        let log = active.clone() + &completed + &reply(444, "{}");
        assert_eq!(statistics(&log).unwrap().unwrap()["downtime"], 214);
        assert_eq!(statistics(&active).unwrap(), None);
    }

    #[test]
    fn other_lines_are_left_out() {
        let log = "2026-11-28 05:04:24.348+0000: 27426: info : hostname: dst\n fd=-1\n";
        assert!(events(log).unwrap().is_empty());
        assert_eq!(statistics(log).unwrap(), None);
    }
}
