//! Connections that are not a migration's, by how much comes back.

use crate::kernel::is_other;
use crate::ports::PortRanges;
use crate::units::{Directions, Flow};

/// Whether the payload of a connection in each direction shows that it is not a migration's.
pub(super) fn is_not_migration(
    ports: &PortRanges,
    flow: Flow,
    Directions { tx, rx }: Directions<u64>,
) -> bool {
    match (ports.contains(flow.local.port()), ports.contains(flow.remote.port())) {
        (true, false) => is_other(tx, rx),
        (false, true) => is_other(rx, tx),
        // Either end may be the one that listens.
        _ => false,
    }
}
