//! What both QEMUs are told before a migration.

use super::options::Migration;
use super::outcome::Side;
use crate::disk::DISK_NODE;
use crate::nbd;
use crate::qmp::Qmp;
use anyhow::Result;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Prepares a destination to receive: QEMU's migration capabilities, parameters, the disk's export, the listening port.
pub(crate) fn prepare(destination: &mut Qmp, migration: &Migration, disk: bool) -> Result<()> {
    configure(destination, migration, Side::Destination)?;
    if disk {
        let any = if migration.ipv6 { "::" } else { "0.0.0.0" };
        nbd::export(destination, DISK_NODE, any, migration.disk_port)?;
    }
    let uri = uri_of_listener(migration, migration.ram_port);
    destination.execute("migrate-incoming", json!({ "uri": uri }))?;
    Ok(())
}

/// Where the destination listens.
pub(super) fn uri_of_listener(migration: &Migration, port: u16) -> String {
    match &migration.unix_socket {
        Some(path) => format!("unix:{}", path.display()),
        None if migration.ipv6 => format!("tcp:[::]:{port}"),
        None => format!("tcp:0:{port}"),
    }
}

/// Where the source connects to.
pub(super) fn uri_to(peer: IpAddr, migration: &Migration, port: u16) -> String {
    match (&migration.unix_socket, peer) {
        (Some(path), _) => format!("unix:{}", path.display()),
        (None, IpAddr::V6(peer)) => format!("tcp:[{peer}]:{port}"),
        (None, IpAddr::V4(peer)) => format!("tcp:{peer}:{port}"),
    }
}

/// Sets QEMU's migration capabilities and parameters, on which both sides must agree.
pub(super) fn configure(qemu: &mut Qmp, migration: &Migration, side: Side) -> Result<()> {
    let capabilities: Vec<Value> = [
        ("events", migration.events),
        ("return-path", migration.return_path),
        ("multifd", migration.multifd.is_some()),
        ("pause-before-switchover", migration.pause_before_switchover),
        ("postcopy-ram", migration.postcopy_at_pass.is_some() || migration.postcopy_preempt),
        ("postcopy-preempt", migration.postcopy_preempt),
        ("auto-converge", migration.auto_converge_percent.is_some()),
    ]
    .iter()
    .map(|(capability, state)| json!({ "capability": capability, "state": state }))
    .collect();
    qemu.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
    let credentials = migration.tls.as_ref().map(|key| key.give(qemu, side)).transpose()?;
    let mut parameters = json!({
        "downtime-limit": migration.downtime_limit_ms,
        "max-bandwidth": migration.max_bandwidth_bytes_per_s,
        "max-postcopy-bandwidth": migration.max_postcopy_bandwidth_bytes_per_s,
        // Empty for none: a source may have been the destination of an encrypted migration before.
        "tls-creds": credentials.unwrap_or_default(),
    });
    if let Some(channels) = migration.multifd {
        parameters["multifd-channels"] = channels.into();
    }
    if let Some(percent) = migration.auto_converge_percent {
        parameters["cpu-throttle-initial"] = percent.into();
    }
    qemu.execute("migrate-set-parameters", parameters)?;
    Ok(())
}
