//! `migtrace cleanup`: removes what a killed run left.

use anyhow::Result;
use migtrace::host::capabilities::Capability;
use migtrace::terminal::clean;
use migtrace::tracer;

use super::destination::Destination;
use super::{Exit, check_privileges};
use crate::streams::Stream;

pub(super) fn run() -> Result<Exit> {
    // Without the right to remove, nothing that is left would be seen to be left.
    check_privileges(&[Capability::NET_ADMIN])?;
    let cleaned = tracer::clean_up()?;
    let mut text: String = cleaned
        .removed
        .iter()
        .map(|leftover| format!("removed the filter {} from {}", leftover.filter, leftover.interface))
        .map(|line| clean(&line).into_owned() + "\n")
        .collect();
    if cleaned.removed.is_empty() {
        text = format!(
            "nothing to remove: no filter of migtrace is left at the {} interfaces\n",
            cleaned.interfaces
        );
    }
    Destination::open(None, Stream::Output)?.write(&text)?;
    Ok(Exit::Done)
}
