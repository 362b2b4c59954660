//! Which way memory moves.

use crate::record::Role;
use crate::units::Directions;

/// This host's part, if the payload of some flows shows it: most of it goes one way.
pub(super) fn dominant_role(payload_bytes: impl IntoIterator<Item = Directions<u64>>) -> Option<Role> {
    let (tx, rx) = payload_bytes
        .into_iter()
        .fold((0u64, 0u64), |(tx, rx), p| (tx.saturating_add(p.tx), rx.saturating_add(p.rx)));
    if rx / 2 > tx {
        Some(Role::Destination)
    } else if tx / 2 > rx {
        Some(Role::Source)
    } else {
        None
    }
}
