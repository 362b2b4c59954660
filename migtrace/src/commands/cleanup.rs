//! `migtrace cleanup`: removes the TC filters that killed runs left.

use anyhow::Result;
use migtrace::host::capabilities::Capability;
use migtrace::terminal::clean;
use migtrace::tracer;

use super::output::ReportOutput;
use super::{Exit, check_privileges};
use crate::streams::Stream;

pub(super) fn run() -> Result<Exit> {
    // Without CAP_NET_ADMIN no leftover would be found, and the command would falsely report that there is none.
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
            "nothing to remove: no filter of a killed run at the {} interfaces\n",
            cleaned.interfaces
        );
    }
    ReportOutput::open(None, Stream::Output)?.write(&text.into())?;
    Ok(Exit::Done)
}
