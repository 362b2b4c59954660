//! Removes what a killed run left in this network namespace.

use super::error::{TracerError, host};
use crate::host::links;
use crate::kernel;
use crate::kernel::Leftover;

/// What [`clean_up`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CleanedUp {
    /// The filters that it removed.
    pub removed: Vec<Leftover>,
    /// How many interfaces it looked at.
    pub interfaces: usize,
}

/// Removes the TC filters that killed runs left at the interfaces of the calling thread's network namespace. Filters of
/// a run that still lives stay, whichever PID namespace it is in. Only kernels without TCX (before 6.6) have leftovers.
///
/// # Errors
/// The interfaces or their filters cannot be listed, or a filter cannot be removed.
pub fn clean_up() -> Result<CleanedUp, TracerError> {
    let links = links::list().map_err(host("list the interfaces of this network namespace"))?;
    let interfaces = links.iter().map(|link| (link.index, link.name.as_str()));
    let removed = kernel::cleanup(interfaces).map_err(host("remove TC filters"))?;
    Ok(CleanedUp { removed, interfaces: links.len() })
}
