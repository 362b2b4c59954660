//! Whose guest has the probed address.
//!
//! The network gives the address a MAC. Whose that is, the command lines of the QEMUs tell: they are their managers', and
//! a guest can send frames from any MAC. Where no command line has it (a network interface that was plugged in later),
//! the bridge's port tells: it is the tap of a QEMU. What is tied to no VM so, or to several, the person has to name.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::event::{EchoOwnerMethod, Fact, Qemu};
use crate::host::mac::Mac;
use crate::selection::Selection;
use crate::vm::VmKey;
use crate::vocabulary::NotMeasured;

/// What is known at an instant.
#[derive(Clone, Debug, Default)]
pub(super) struct Look<'a> {
    /// The QEMUs that are here.
    pub(super) qemus: Vec<&'a Qemu>,
    /// The MAC that the network gives the address.
    pub(super) mac: Option<Mac>,
    /// The port of the bridge behind which that MAC is.
    pub(super) port: Option<String>,
}

/// Why an address cannot be tied to a VM by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Untied {
    /// The address has no MAC here.
    NoMac,
    /// No VM of this host has its MAC.
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
                write!(f, "its MAC {mac} is on the command line of no QEMU, and not behind the tap of one")
            }
            Self::Several { mac } => write!(f, "several VMs have its MAC {mac}"),
        }
    }
}

impl<'a> Look<'a> {
    /// The one VM that has the address' MAC.
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

/// One of these QEMUs when all are of one VM.
fn one_vm<'a>(qemus: &[&'a Qemu]) -> Option<&'a Qemu> {
    let vms: BTreeSet<_> = qemus.iter().map(|qemu| VmKey::of(qemu)).collect();
    qemus.first().copied().filter(|_| vms.len() == 1)
}

/// The VM that has the address.
#[derive(Clone, Debug)]
struct Owner {
    /// One of its QEMUs.
    qemu: Qemu,
    /// The MAC that ties it; none when the person named it.
    mac: Option<Mac>,
}

/// Finds out whose guest has an address, and tells it once of each QEMU of that VM.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    target: IpAddr,
    selection: Selection,
    owner: Option<Owner>,
    /// The QEMUs that were told of and are still here.
    told: BTreeSet<u32>,
    /// The MAC of the address has changed.
    moved: bool,
}

impl Owners {
    /// Of an address of one of the VMs that the person selected.
    pub(super) const fn new(target: IpAddr, selection: Selection) -> Self {
        Self { target, selection, owner: None, told: BTreeSet::new(), moved: false }
    }

    pub(super) const fn target(&self) -> IpAddr {
        self.target
    }

    /// From now on, the person's word means this.
    pub(super) fn select(&mut self, selection: Selection) {
        self.selection = selection;
    }

    /// A QEMU of the VM that has the address, if that is known.
    pub(super) fn owner(&self) -> Option<&Qemu> {
        self.owner.as_ref().map(|owner| &owner.qemu)
    }

    /// The address' MAC, if its port is still to be found: no command line has it.
    pub(super) fn mac_without_vm(&self, now: &Look<'_>) -> Option<Mac> {
        let is_tied = self.owner.as_ref().is_some_and(|owner| owner.mac.is_some());
        now.mac.filter(|mac| !is_tied && now.with(*mac).is_empty())
    }

    /// Takes in what is known now, and gives what is new.
    pub(super) fn look(&mut self, now: &Look<'_>) -> Vec<Fact> {
        let mut news = Vec::new();
        match (self.owner.as_ref().and_then(|owner| owner.mac), now.by_mac()) {
            (Some(before), _) => news.extend(self.move_of(before, now.mac)),
            (None, Ok((mac, qemu))) => {
                news.extend(self.contradiction(mac, qemu, now));
                self.owner = Some(Owner { qemu: qemu.clone(), mac: Some(mac) });
            }
            (None, Err(_)) if self.owner.is_none() && self.selection != Selection::default() => {
                let named = one_vm(&self.possible(now));
                self.owner = named.map(|qemu| Owner { qemu: qemu.clone(), mac: None });
            }
            (None, Err(_)) => {}
        }
        news.extend(self.tell(now));
        news
    }

    /// Why it is not known which of several VMs has the address, when that is so.
    pub(super) fn doubt(&self, now: &Look<'_>) -> Option<Untied> {
        let possible = self.possible(now);
        let is_clear = self.owner.is_some() || possible.is_empty() || one_vm(&possible).is_some();
        if is_clear { None } else { now.by_mac().err() }
    }

    /// The QEMUs that may have it, as far as the person said.
    fn possible<'a>(&self, now: &Look<'a>) -> Vec<&'a Qemu> {
        now.those(|qemu| self.selection.matches(qemu))
    }

    /// Tells the QEMUs of the VM that were not told of.
    fn tell(&mut self, now: &Look<'_>) -> Vec<Fact> {
        // A pid may be used again.
        self.told.retain(|pid| now.qemus.iter().any(|qemu| qemu.pid == *pid));
        let Some(owner) = &self.owner else { return Vec::new() };
        let method = if owner.mac.is_some() { EchoOwnerMethod::Mac } else { EchoOwnerMethod::Selected };
        let its = now.those(|qemu| VmKey::of(qemu) == VmKey::of(&owner.qemu));
        let new = its.into_iter().map(|qemu| qemu.pid).filter(|pid| self.told.insert(*pid));
        new.map(|pid| Fact::EchoOwner { pid, method }).collect()
    }

    /// The network says that another VM has the address than the one that the person named.
    fn contradiction(&self, mac: Mac, qemu: &Qemu, now: &Look<'_>) -> Option<Fact> {
        let vm = VmKey::of(qemu);
        let is_meant = match &self.owner {
            Some(named) => VmKey::of(&named.qemu) == vm,
            None => self.possible(now).into_iter().any(|meant| VmKey::of(meant) == vm),
        };
        let is_wished = self.selection != Selection::default();
        (is_wished && !is_meant).then(|| {
            Fact::NotMeasured(NotMeasured {
                what: "the answers of the selected VM".into(),
                why: format!(
                    "{} has the MAC {mac}, and that is another VM's: {}",
                    self.target,
                    qemu.name.as_deref().unwrap_or("one without a name")
                ),
            })
        })
    }

    /// The address has gone to another network interface. One that is not known now, because the guest is silent, has not.
    fn move_of(&mut self, before: Mac, now: Option<Mac>) -> Option<Fact> {
        let now = now.filter(|now| *now != before && !self.moved)?;
        self.moved = true;
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
mod tests {
    use super::*;

    const A: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xa]);
    const B: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xb]);

    fn qemu(pid: u32, name: &str) -> Qemu {
        Qemu {
            pid,
            uid: None,
            name: Some(name.into()),
            uuid: None,
            vcpus: None,
            memory_bytes: None,
            accelerator: None,
            version: None,
            taps: vec![format!("tap{pid}")],
            macs: Vec::new(),
            incoming: false,
        }
    }

    fn with_mac(pid: u32, name: &str, mac: Mac) -> Qemu {
        Qemu { macs: vec![mac.to_string()], ..qemu(pid, name) }
    }

    fn owners(selection: Selection) -> Owners {
        Owners::new([192, 0, 2, 50].into(), selection)
    }

    fn nobody_named() -> Owners {
        owners(Selection::default())
    }

    fn named(vm: &str) -> Owners {
        owners(Selection::new(Some(vm.into()), None))
    }

    fn at(qemus: &[Qemu], mac: Option<Mac>) -> Look<'_> {
        Look { qemus: qemus.iter().collect(), mac, port: None }
    }

    fn behind<'a>(qemus: &'a [Qemu], mac: Mac, port: &str) -> Look<'a> {
        Look { port: Some(port.into()), ..at(qemus, Some(mac)) }
    }

    fn by_mac(pid: u32) -> Fact {
        Fact::EchoOwner { pid, method: EchoOwnerMethod::Mac }
    }

    fn selected(pid: u32) -> Fact {
        Fact::EchoOwner { pid, method: EchoOwnerMethod::Selected }
    }

    fn note(fact: &Fact) -> &NotMeasured {
        let Fact::NotMeasured(note) = fact else { panic!("{fact:?}") };
        note
    }

    #[test]
    fn the_mac_on_a_command_line_ties_the_address_once() {
        let here = [with_mac(1, "web", A), with_mac(2, "db", B)];
        let mut owners = nobody_named();
        assert_eq!(owners.look(&at(&here, None)), []);
        assert_eq!(owners.doubt(&at(&here, None)), Some(Untied::NoMac), "the address is still to be found");
        assert_eq!(owners.look(&at(&here, Some(B))), [by_mac(2)]);
        assert_eq!(owners.doubt(&at(&here, None)), None, "the guest may be silent");
        assert_eq!(owners.look(&at(&here, Some(B))), []);
    }

    #[test]
    fn every_qemu_of_the_vm_is_told_of_also_one_that_comes_later_and_one_that_takes_over_a_pid() {
        let mut here = vec![with_mac(1, "web", A), with_mac(2, "db", B)];
        let mut owners = nobody_named();
        assert_eq!(owners.look(&at(&here, Some(A))), [by_mac(1)]);
        // The destination, on the same host; and while the guest is silent.
        here.push(Qemu { incoming: true, ..with_mac(3, "web", A) });
        assert_eq!(owners.look(&at(&here, None)), [by_mac(3)]);
        here.remove(0);
        assert_eq!(owners.look(&at(&here, Some(A))), []);
        here.push(with_mac(1, "web", A));
        assert_eq!(owners.look(&at(&here, Some(A))), [by_mac(1)]);
    }

    #[test]
    fn a_port_ties_a_mac_that_is_on_no_command_line_and_only_such_a_one() {
        let here = [with_mac(1, "web", A), qemu(2, "db")];
        assert_eq!(nobody_named().look(&behind(&here, B, "tap2")), [by_mac(2)]);
        // A guest that sends frames from the MAC of another.
        assert_eq!(nobody_named().look(&behind(&here, A, "tap2")), [by_mac(1)]);
        let elsewhere = behind(&here, B, "uplink");
        assert_eq!(nobody_named().look(&elsewhere), []);
        assert_eq!(nobody_named().doubt(&elsewhere), Some(Untied::Nobody { mac: B.to_string() }));
    }

    #[test]
    fn a_mac_of_several_vms_ties_nothing() {
        let here = [with_mac(1, "web", A), with_mac(2, "db", A)];
        let look = behind(&here, A, "tap1");
        assert_eq!(nobody_named().look(&look), []);
        assert_eq!(nobody_named().doubt(&look), Some(Untied::Several { mac: A.to_string() }));
        // Then the person's word counts.
        let mut owners = named("db");
        assert_eq!((owners.look(&look), owners.doubt(&look)), (vec![selected(2)], None));
    }

    #[test]
    fn one_vm_alone_needs_no_proof_and_gets_none() {
        for here in [&[][..], &[qemu(1, "web")], &[qemu(1, "web"), qemu(3, "web")]] {
            for look in [at(here, None), behind(here, A, "uplink")] {
                let mut owners = nobody_named();
                assert_eq!((owners.look(&look), owners.doubt(&look)), (vec![], None));
            }
        }
    }

    #[test]
    fn a_named_vm_that_is_still_to_come_is_waited_for() {
        let mut here = vec![qemu(2, "db"), qemu(3, "mail")];
        let mut owners = named("web");
        assert_eq!((owners.look(&at(&here, Some(A))), owners.doubt(&at(&here, Some(A)))), (vec![], None));
        here.push(qemu(4, "web"));
        assert_eq!(owners.look(&at(&here, Some(A))), [selected(4)]);
        here.push(qemu(5, "web"));
        assert_eq!(owners.look(&at(&here, Some(A))), [selected(5)]);
    }

    #[test]
    fn a_named_process_stands_for_its_vm() {
        let here = [qemu(1, "web"), qemu(2, "db"), qemu(3, "web")];
        let mut owners = owners(Selection::new(None, Some(3)));
        assert_eq!(owners.look(&at(&here, None)), [selected(1), selected(3)]);
        let here = [with_mac(1, "web", A), with_mac(3, "web", A)];
        assert_eq!(owners.look(&at(&here, Some(A))), [], "the network agrees");
    }

    #[test]
    fn a_name_that_several_vms_have_names_none_of_them() {
        let uuid = |uuid: &str, qemu: Qemu| Qemu { uuid: Some(uuid.into()), ..qemu };
        let here = [uuid("1", qemu(1, "web")), uuid("2", qemu(2, "web")), qemu(3, "db")];
        let mut owners = named("web");
        assert_eq!(owners.look(&at(&here, None)), []);
        assert_eq!(owners.doubt(&at(&here, None)), Some(Untied::NoMac));
    }

    #[test]
    fn where_the_network_contradicts_the_person_only_the_vm_that_has_the_mac_is_told_of() {
        let here = [with_mac(1, "web", A), with_mac(2, "db", B)];
        let mut owners = named("web");
        let news = owners.look(&at(&here, Some(B)));
        assert_eq!(news[1..], [by_mac(2)]);
        assert_eq!(
            note(&news[0]).why,
            "192.0.2.50 has the MAC 52:54:00:00:00:0b, and that is another VM's: db"
        );
        assert_eq!(owners.look(&at(&here, Some(B))), [], "once");

        // The person's word was told before the network's.
        let mut owners = named("web");
        assert_eq!(owners.look(&at(&here, None)), [selected(1)]);
        let news = owners.look(&at(&here, Some(B)));
        assert_eq!(
            (note(&news[0]).what.as_str(), &news[1..]),
            ("the answers of the selected VM", &[by_mac(2)][..])
        );
    }

    #[test]
    fn a_mac_that_changes_is_told_once_and_makes_no_second_owner() {
        let here = [with_mac(1, "web", A), with_mac(2, "db", B)];
        let mut owners = nobody_named();
        assert_eq!(owners.look(&at(&here, Some(A))), [by_mac(1)]);
        let news = owners.look(&at(&here, Some(B)));
        assert_eq!(news.len(), 1);
        assert!(
            note(&news[0]).why.contains("changed from 52:54:00:00:00:0a to 52:54:00:00:00:0b"),
            "{news:?}"
        );
        for mac in [Some(B), Some(A), Some(B), None] {
            assert_eq!(owners.look(&at(&here, mac)), []);
        }
    }
}
