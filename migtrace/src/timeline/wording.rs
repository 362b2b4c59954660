//! Lengths of time in the sentences of a record.

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// To a thousandth: `1.250 s`, `36.812 ms`.
pub(super) fn spoken(ns: u64) -> String {
    let (unit_ns, unit) = if ns >= NS_PER_S { (NS_PER_S, "s") } else { (NS_PER_MS, "ms") };
    format!("{}.{:03} {unit}", ns / unit_ns, ns % unit_ns / (unit_ns / 1_000))
}
