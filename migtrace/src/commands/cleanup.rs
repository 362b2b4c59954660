//! `migtrace cleanup`: removes what a killed run left.

use anyhow::{Context as _, Result};
use migtrace::host::capabilities::Capability;
use migtrace::host::links;
use migtrace::kernel;
use migtrace::terminal::clean;

use super::destination::Destination;
use super::{Exit, check_privileges};
use crate::streams::Stream;

pub(super) fn run() -> Result<Exit> {
    // Without the right to remove, nothing that is left would be seen to be left.
    check_privileges(&[Capability::NET_ADMIN])?;
    let links = links::list().context("cannot list the interfaces of this network namespace")?;
    let removed =
        kernel::cleanup(links.iter().map(|link| link.name.as_str())).context("cannot remove TC filters")?;
    let mut text: String = removed
        .iter()
        .map(|leftover| format!("removed the filter {} from {}", leftover.filter, leftover.interface))
        .map(|line| clean(&line).into_owned() + "\n")
        .collect();
    if removed.is_empty() {
        text =
            format!("nothing to remove: no filter of migtrace is left at the {} interfaces\n", links.len());
    }
    Destination::open(None, Stream::Output)?.write(&text)?;
    Ok(Exit::Done)
}
