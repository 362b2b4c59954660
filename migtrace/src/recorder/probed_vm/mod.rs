//! Which VM has the probed address.
//!
//! The network gives the address a MAC. The command lines of the QEMUs show which VM has that MAC. They are trusted because
//! a manager writes them, while a guest can send frames from any MAC. Where no command line has the MAC (a network interface
//! that was plugged in later), the bridge's port shows the VM, since it is the tap of a QEMU. If neither ties the address
//! to exactly one VM, a person has to name the VM.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::event::{EchoOwnerMethod, Fact, Qemu};
use crate::host::mac::Mac;
use crate::selection::Selection;
use crate::vm::VmKey;
use crate::vocabulary::NotMeasured;

/// What this host and its network show at an instant.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings<'a> {
    /// The QEMUs that run.
    pub(super) qemus: Vec<&'a Qemu>,
    /// The MAC that the network gives the address.
    pub(super) mac: Option<Mac>,
    /// The port of the bridge behind which that MAC is.
    pub(super) port: Option<String>,
}

/// Why an address cannot be tied to a VM without naming one.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Untied {
    /// This host knows no MAC for the address.
    NoMac,
    /// No VM of this host shows its MAC.
    Nobody {
        /// The MAC.
        mac: String,
    },
    /// Several VMs have its MAC.
    Several {
        /// The MAC.
        mac: String,
    },
}

impl fmt::Display for Untied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMac => {
                f.write_str("this host's neighbour table has no MAC for it (is it behind a router?)")
            }
            Self::Nobody { mac } => {
                write!(f, "no QEMU has its MAC {mac} on its command line, and no QEMU's tap leads to it")
            }
            Self::Several { mac } => write!(f, "several VMs have its MAC {mac}"),
        }
    }
}

impl<'a> Surroundings<'a> {
    /// The one VM that has the address' MAC: one of its QEMUs.
    fn by_mac(&self) -> Result<(Mac, &'a Qemu), Untied> {
        let mac = self.mac.ok_or(Untied::NoMac)?;
        let has_port = |qemu: &Qemu| self.port.as_ref().is_some_and(|port| qemu.taps.contains(port));
        let mut qemus = self.with(mac);
        if qemus.is_empty() {
            qemus = self.those(has_port);
        }
        match one_vm(&qemus) {
            Some(qemu) => Ok((mac, qemu)),
            None if qemus.is_empty() => Err(Untied::Nobody { mac: mac.to_string() }),
            None => Err(Untied::Several { mac: mac.to_string() }),
        }
    }

    /// The QEMUs with this MAC on their command lines.
    fn with(&self, mac: Mac) -> Vec<&'a Qemu> {
        let mac = mac.to_string();
        self.those(|qemu| qemu.macs.contains(&mac))
    }

    fn those(&self, are: impl Fn(&Qemu) -> bool) -> Vec<&'a Qemu> {
        self.qemus.iter().copied().filter(|qemu| are(qemu)).collect()
    }
}

/// One of these QEMUs, if all belong to one VM.
fn one_vm<'a>(qemus: &[&'a Qemu]) -> Option<&'a Qemu> {
    let vms: BTreeSet<_> = qemus.iter().map(|qemu| VmKey::of(qemu)).collect();
    qemus.first().copied().filter(|_| vms.len() == 1)
}

/// The VM that has the address.
#[derive(Clone, Debug)]
struct Tied {
    /// One of its QEMUs.
    qemu: Qemu,
    /// The MAC that ties it; `None` when a person named the VM.
    mac: Option<Mac>,
}

/// Finds out which VM has an address, and reports each QEMU of that VM once.
#[derive(Clone, Debug)]
pub(super) struct ProbedVm {
    target: IpAddr,
    selection: Selection,
    tied: Option<Tied>,
    /// The QEMUs that were reported and still run.
    reported: BTreeSet<u32>,
    /// It was reported that the MAC of the address has changed.
    has_moved: bool,
}

impl ProbedVm {
    /// For an address of one of the VMs that a person selected.
    pub(super) const fn new(target: IpAddr, selection: Selection) -> Self {
        Self { target, selection, tied: None, reported: BTreeSet::new(), has_moved: false }
    }

    pub(super) const fn target(&self) -> IpAddr {
        self.target
    }

    /// Replaces what a person selected.
    pub(super) fn select(&mut self, selection: Selection) {
        self.selection = selection;
    }

    /// A QEMU of the VM that has the address, if that is known.
    pub(super) fn qemu(&self) -> Option<&Qemu> {
        self.tied.as_ref().map(|tied| &tied.qemu)
    }

    /// The address' MAC, if its port is needed: no command line has the MAC.
    pub(super) fn mac_without_vm(&self, now: &Surroundings<'_>) -> Option<Mac> {
        let is_tied = self.tied.as_ref().is_some_and(|tied| tied.mac.is_some());
        now.mac.filter(|mac| !is_tied && now.with(*mac).is_empty())
    }

    /// Takes in what is known now. Returns what is new.
    pub(super) fn update(&mut self, now: &Surroundings<'_>) -> Vec<Fact> {
        let mut news = Vec::new();
        match (self.tied.as_ref().and_then(|tied| tied.mac), now.by_mac()) {
            (Some(before), _) => news.extend(self.note_move(before, now.mac)),
            (None, Ok((mac, qemu))) => {
                news.extend(self.contradiction(mac, qemu, now));
                self.tied = Some(Tied { qemu: qemu.clone(), mac: Some(mac) });
            }
            (None, Err(_)) if self.tied.is_none() && self.selection != Selection::default() => {
                let named = one_vm(&self.possible(now));
                self.tied = named.map(|qemu| Tied { qemu: qemu.clone(), mac: None });
            }
            (None, Err(_)) => {}
        }
        news.extend(self.report(now));
        news
    }

    /// Why it is not known which of several VMs has the address; `None` when it is known, or there is only one.
    pub(super) fn doubt(&self, now: &Surroundings<'_>) -> Option<Untied> {
        let possible = self.possible(now);
        let is_clear = self.tied.is_some() || possible.is_empty() || one_vm(&possible).is_some();
        if is_clear { None } else { now.by_mac().err() }
    }

    /// The QEMUs that match what the person selected.
    fn possible<'a>(&self, now: &Surroundings<'a>) -> Vec<&'a Qemu> {
        now.those(|qemu| self.selection.matches(qemu))
    }

    /// Reports the QEMUs of the VM that were not reported before.
    fn report(&mut self, now: &Surroundings<'_>) -> Vec<Fact> {
        // A process id may be used again.
        self.reported.retain(|pid| now.qemus.iter().any(|qemu| qemu.pid == *pid));
        let Some(tied) = &self.tied else { return Vec::new() };
        let method = if tied.mac.is_some() { EchoOwnerMethod::Mac } else { EchoOwnerMethod::Selected };
        let its = now.those(|qemu| VmKey::of(qemu) == VmKey::of(&tied.qemu));
        let new = its.into_iter().map(|qemu| qemu.pid).filter(|pid| self.reported.insert(*pid));
        new.map(|pid| Fact::EchoOwner { pid, method }).collect()
    }

    /// The network shows that another VM has the address than the one that the person named.
    fn contradiction(&self, mac: Mac, qemu: &Qemu, now: &Surroundings<'_>) -> Option<Fact> {
        let vm = VmKey::of(qemu);
        let is_selected = match &self.tied {
            Some(named) => VmKey::of(&named.qemu) == vm,
            None => self.possible(now).into_iter().any(|possible| VmKey::of(possible) == vm),
        };
        let is_filtered = self.selection != Selection::default();
        (is_filtered && !is_selected).then(|| {
            Fact::NotMeasured(NotMeasured {
                what: "the answers of the selected VM".into(),
                why: format!(
                    "{} has the MAC {mac}, which belongs to another VM: {}",
                    self.target,
                    qemu.name.as_deref().unwrap_or("a VM without a name")
                ),
            })
        })
    }

    /// Notes that the address has gone to another network interface. An address without a MAC has not: its guest may only be
    /// silent.
    fn note_move(&mut self, before: Mac, now: Option<Mac>) -> Option<Fact> {
        let now = now.filter(|now| *now != before && !self.has_moved)?;
        self.has_moved = true;
        Some(Fact::NotMeasured(NotMeasured {
            what: "whose the later echo replies are".into(),
            why: format!(
                "the MAC of {} changed from {before} to {now}: another machine may have it now",
                self.target
            ),
        }))
    }
}

#[cfg(test)]
mod tests;
