//! Values on QEMU's command line.

use super::options::{find, properties};
use crate::host::mac::Mac;

/// The MAC of a network interface: `mac` of `-device` (in JSON too) and `-nic`, `macaddr` of `-net nic`.
pub(super) fn mac(value: &str) -> Option<Mac> {
    let text = if value.starts_with('{') {
        let device: serde_json::Value = serde_json::from_str(value).ok()?;
        device.get("mac")?.as_str()?.to_owned()
    } else {
        let properties = properties(value, "type");
        find(&properties, "mac").or_else(|| find(&properties, "macaddr"))?
    };
    text.parse().ok()
}

/// The vCPUs present at the start: `cpus`, else `maxcpus`, else the product of the topology (`machine_parse_smp_config`).
/// `None` when a number cannot be read.
pub(super) fn vcpus(smp: &[(String, String)]) -> Option<u32> {
    let number = |key| find(smp, key).map(|value| value.parse::<u32>().ok());
    if let Some(cpus) = number("cpus").or_else(|| number("maxcpus")) {
        return cpus;
    }
    ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"]
        .into_iter()
        .try_fold(1_u32, |product, level| product.checked_mul(number(level).unwrap_or(Some(1))?))
}

/// A size in bytes; without a suffix it is in MiB (`qemu_strtosz_MiB`). `None` when it cannot be read.
pub(super) fn memory_bytes(text: &str) -> Option<u64> {
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        // A suffix B or E would be a digit; QEMU takes none of them here.
        return u64::from_str_radix(hexadecimal, 16).ok()?.checked_mul(1 << 20);
    }
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" => 10,
        "" | "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let unit = 1_u64 << shift;
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (whole, fraction) = digits.split_once('.')?;
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(unit)?.checked_add((fraction * unit as f64) as u64)
}
