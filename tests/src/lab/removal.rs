//! Removing a lab from elsewhere than its owner.

use super::names::{check_name, run_directory};
use crate::janitor::Janitor;
use crate::netns;
use crate::topology;
use anyhow::{Result, bail};

/// Removes a lab from another thread than its owner's.
#[derive(Debug, Clone)]
pub struct Remover {
    pub(super) janitor: Option<Janitor>,
}

impl Remover {
    /// Removes the lab, so that its owner's next step fails. A lasting lab stays.
    pub fn remove(&self) {
        if let Some(janitor) = &self.janitor {
            janitor.clean();
        }
    }
}

/// Removes a lab, whoever made it and whatever remains of it.
///
/// # Errors
///
/// When there is no lab of this name, or a part of it cannot be removed.
pub fn tear_down(name: &str) -> Result<()> {
    check_name(name)?;
    let run_directory = run_directory(name);
    let namespaces = topology::namespaces(name);
    let remains = || -> Result<Vec<String>> {
        let there = netns::list(topology::PREFIX)?;
        Ok(namespaces.iter().filter(|namespace| there.contains(namespace)).cloned().collect())
    };
    if remains()?.is_empty() && !run_directory.exists() {
        bail!("there is no lab `{name}`");
    }
    Janitor::start(&run_directory, &namespaces)?.clean();
    let remains = remains()?;
    if !remains.is_empty() || run_directory.exists() {
        bail!("cannot remove all of the lab `{name}`: {} {}", run_directory.display(), remains.join(" "));
    }
    Ok(())
}
