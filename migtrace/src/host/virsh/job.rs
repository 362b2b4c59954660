//! What `virsh domjobinfo --rawstats` prints.

use std::collections::BTreeMap;

use super::error::VirshError;

/// `VIR_DOMAIN_JOB_COMPLETED`.
const COMPLETED: u64 = 3;
/// libvirt 11 knows about 40 figures.
const MOST_FIGURES: usize = 128;
const LONGEST_NAME: usize = 64;
/// Of a line that is shown because it was not understood.
const LONGEST_SHOWN: usize = 80;

/// A job of a domain that was completed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CompletedJob {
    /// Its figures, all whole numbers, under libvirt's own names: `time_elapsed`, `memory_processed`, ...
    pub figures: BTreeMap<String, u64>,
}

/// What a job has done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A guest has come to this host.
    Incoming,
    /// A guest has left this host.
    Outgoing,
}

impl CompletedJob {
    /// What it has done, if that was a migration (`virDomainJobOperation`).
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        match self.figures.get("operation")? {
            4 => Some(Operation::Incoming),
            5 => Some(Operation::Outgoing),
            _ => None,
        }
    }

    /// The job in virsh's output; `None` if there is none, or if it was not completed.
    pub(super) fn parse(output: &str) -> Result<Option<Self>, VirshError> {
        let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let kind = first.strip_prefix("Job type:").and_then(|kind| kind.trim().parse::<u64>().ok());
        match kind {
            None => Err(VirshError::NotStatistics { what: quoted(first) }),
            Some(COMPLETED) => {
                lines.map(field).filter_map(Result::transpose).collect::<Result<_, _>>().and_then(
                    |figures: BTreeMap<_, _>| match figures.len() {
                        0..=MOST_FIGURES => Ok(Some(Self { figures })),
                        many => Err(VirshError::NotStatistics { what: format!("{many} figures") }),
                    },
                )
            }
            Some(_) => Ok(None),
        }
    }
}

/// `time_elapsed: 3773`. What is not a whole number (`success: yes`, an error's text) is no figure.
fn field(line: &str) -> Result<Option<(String, u64)>, VirshError> {
    let is_name = |name: &&str| {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
        (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(known)
    };
    let field = line.split_once(':').filter(|(name, _)| is_name(name));
    let Some((name, value)) = field else {
        return Err(VirshError::NotStatistics { what: quoted(line) });
    };
    Ok(value.trim().parse().ok().map(|value| (name.to_owned(), value)))
}

fn quoted(line: &str) -> String {
    if line.is_empty() {
        return "nothing".to_owned();
    }
    let shown: String = line.chars().take(LONGEST_SHOWN).collect();
    format!("`{shown}`")
}
