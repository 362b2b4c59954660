//! `migtrace cleanup`: removes what a killed run left.

use anyhow::{Context as _, Result};
use migtrace::host::capabilities::Capability;
use migtrace::host::links;
use migtrace::kernel;

use super::{Exit, check_privileges};

pub(super) fn run() -> Result<Exit> {
    // Without the right to remove, nothing that is left would be seen to be left.
    check_privileges(&[Capability::NET_ADMIN])?;
    let links = links::list().context("cannot list the interfaces of this network namespace")?;
    let removed =
        kernel::cleanup(links.iter().map(|link| link.name.as_str())).context("cannot remove TC filters")?;
    for leftover in &removed {
        println!("removed the filter {} from {}", leftover.filter, leftover.interface);
    }
    if removed.is_empty() {
        println!("nothing to remove: no filter of migtrace is left at the {} interfaces", links.len());
    }
    Ok(Exit::Done)
}
