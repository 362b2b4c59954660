//! `migtrace cleanup`: removes what a killed run left.

use anyhow::Result;
use migtrace::host::capabilities::Capability;
use migtrace::tracer;

use super::{Exit, check_privileges};

pub(super) fn run() -> Result<Exit> {
    // Without the right to remove, nothing that is left would be seen to be left.
    check_privileges(&[Capability::NET_ADMIN])?;
    let cleaned = tracer::clean_up()?;
    for leftover in &cleaned.removed {
        println!("removed the filter {} from {}", leftover.filter, leftover.interface);
    }
    if cleaned.removed.is_empty() {
        println!("nothing to remove: no filter of migtrace is left at the {} interfaces", cleaned.interfaces);
    }
    Ok(Exit::Done)
}
