//! Which VMs to record.

use crate::event::Qemu;

/// The VMs that a person selects. With no filter, every VM matches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Selection {
    /// A VM's name, or its UUID in any spelling.
    pub vm: Option<String>,
    /// A QEMU's process id.
    pub pid: Option<u32>,
    /// The user that QEMU runs as. This matters because anybody can give their own QEMU the name of another VM.
    pub uid: Option<u32>,
}

impl Selection {
    /// The VM with this name or UUID, in this process. Whatever is given must match.
    #[must_use]
    pub const fn new(vm: Option<String>, pid: Option<u32>) -> Self {
        Self { vm, pid, uid: None }
    }

    /// Whether `qemu` is selected.
    #[must_use]
    pub fn matches(&self, qemu: &Qemu) -> bool {
        self.matches_vm(qemu.name.as_deref(), qemu.uuid.as_deref())
            && self.pid.is_none_or(|pid| pid == qemu.pid)
            && self.uid.is_none_or(|uid| qemu.uid == Some(uid))
    }

    /// Whether a VM with this name and UUID is selected, whatever its process is.
    #[must_use]
    pub fn matches_vm(&self, name: Option<&str>, uuid: Option<&str>) -> bool {
        self.vm
            .as_deref()
            .is_none_or(|wanted| name == Some(wanted) || uuid.is_some_and(|uuid| same_uuid(uuid, wanted)))
    }

    /// The QEMUs of `present` that are selected. With no filter there may be none: the VM may be started later. There may be
    /// several with one name, as when a VM migrates between two QEMUs of one host.
    ///
    /// # Errors
    /// There is a filter, and nothing matches it.
    pub fn of<'a>(&self, present: &'a [Qemu]) -> Result<Vec<&'a Qemu>, NoSuchVm> {
        let selected: Vec<&Qemu> = present.iter().filter(|qemu| self.matches(qemu)).collect();
        if selected.is_empty() && *self != Self::default() {
            return Err(NoSuchVm { wanted: self.clone(), present: present.to_vec() });
        }
        Ok(selected)
    }

    /// Checks that all VMs of `present` that are selected by a name or UUID belong to one user: two users' VMs of one
    /// name are different VMs. A selection without a name or UUID always passes.
    ///
    /// # Errors
    /// Different users have started them.
    pub fn is_of_one_user(&self, present: &[Qemu]) -> Result<(), SeveralUsers> {
        let Some(vm) = &self.vm else { return Ok(()) };
        let selected: Vec<&Qemu> = present.iter().filter(|qemu| self.matches(qemu)).collect();
        if selected.iter().all(|qemu| qemu.uid == selected[0].uid) {
            return Ok(());
        }
        Err(SeveralUsers { vm: vm.clone(), present: selected.into_iter().cloned().collect() })
    }
}

/// Whether two UUIDs have the same digits. People also paste them in capitals, in braces and without dashes.
fn same_uuid(left: &str, right: &str) -> bool {
    let digits = |text: &str| -> Option<Vec<u8>> {
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let digits: Vec<u8> =
            text.bytes().filter(|&byte| byte != b'-').map(|byte| byte.to_ascii_lowercase()).collect();
        (digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit)).then_some(digits)
    };
    digits(left).is_some_and(|left| digits(right).as_ref() == Some(&left))
}

/// No VM matches the selection. The message lists the VMs that run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}; {}", describe(.wanted), self.others())]
#[non_exhaustive]
pub struct NoSuchVm {
    /// What was selected.
    pub wanted: Selection,
    /// The VMs of this network namespace.
    pub present: Vec<Qemu>,
}

impl NoSuchVm {
    /// Lists the VMs that run.
    #[must_use]
    pub fn others(&self) -> String {
        if self.present.is_empty() {
            return "no QEMU runs in this network namespace".to_owned();
        }
        format!("this network namespace has: {}", introductions(&self.present))
    }
}

/// Different users have started VMs with the selected name. The message lists them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "`{vm}` is ambiguous: different users have started VMs with that name or UUID; select one by its process with --pid; \
     this network namespace has: {}",
    introductions(.present)
)]
#[non_exhaustive]
pub struct SeveralUsers {
    /// What was selected.
    pub vm: String,
    /// The QEMUs that match.
    pub present: Vec<Qemu>,
}

/// QEMUs with what they can be selected by.
pub(crate) fn introductions(qemus: &[Qemu]) -> String {
    qemus.iter().map(introduce).collect::<Vec<_>>().join(", ")
}

fn introduce(qemu: &Qemu) -> String {
    let name = qemu.name.as_deref().unwrap_or("unnamed");
    let uuid = qemu.uuid.as_ref().map(|uuid| format!("{uuid}, ")).unwrap_or_default();
    let uid = qemu.uid.map(|uid| format!(", user id {uid}")).unwrap_or_default();
    format!("{name} ({uuid}pid {}{uid})", qemu.pid)
}

fn describe(wanted: &Selection) -> String {
    match (&wanted.vm, wanted.pid) {
        (Some(vm), Some(pid)) => format!("no VM with name or UUID `{vm}` in process {pid}"),
        (Some(vm), None) => format!("no VM with name or UUID `{vm}`"),
        (None, Some(pid)) => format!("process {pid} is not a QEMU of this network namespace"),
        (None, None) => "no VM".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5f3c1f0e-8a51-4a0f-9d6c-0c2b6f1f2d11";

    fn qemu(pid: u32, name: Option<&str>, uuid: Option<&str>) -> Qemu {
        Qemu {
            pid,
            uid: None,
            name: name.map(Into::into),
            uuid: uuid.map(Into::into),
            vcpus: None,
            memory_bytes: None,
            accelerator: None,
            version: None,
            taps: Vec::new(),
            macs: Vec::new(),
            incoming: false,
        }
    }

    fn by_vm(vm: &str) -> Selection {
        Selection::new(Some(vm.into()), None)
    }

    #[test]
    fn a_vm_is_selected_by_name_uuid_or_process() {
        let web = qemu(10, Some("web"), Some(UUID));
        for wanted in ["web", UUID, &UUID.to_uppercase(), &UUID.replace('-', ""), &format!("{{{UUID}}}")] {
            assert!(by_vm(wanted).matches(&web), "{wanted}");
        }
        for wanted in ["we", "web2", "", "WEB", "5f3c1f0e"] {
            assert!(!by_vm(wanted).matches(&web), "{wanted}");
        }
        assert!(Selection::new(None, Some(10)).matches(&web));
        assert!(!Selection::new(None, Some(11)).matches(&web));
        assert!(!Selection::new(Some("web".into()), Some(11)).matches(&web), "both must hold");
    }

    #[test]
    fn a_name_that_is_not_a_uuid_never_matches_a_uuid() {
        assert!(!by_vm("-").matches(&qemu(1, None, Some("-"))), "digits alone count, and there are none");
    }

    #[test]
    fn with_no_filter_every_vm_matches_and_there_may_be_none() {
        let present = [qemu(1, None, None), qemu(2, Some("b"), None)];
        assert_eq!(Selection::default().of(&present).unwrap().len(), 2);
        assert!(Selection::default().of(&[]).unwrap().is_empty());
    }

    #[test]
    fn both_ends_of_a_migration_within_one_host_are_selected() {
        let present =
            [qemu(1, Some("web"), Some(UUID)), qemu(2, Some("web"), Some(UUID)), qemu(3, None, None)];
        let pids: Vec<u32> = by_vm("web").of(&present).unwrap().iter().map(|qemu| qemu.pid).collect();
        assert_eq!(pids, [1, 2]);
    }

    #[test]
    fn vms_with_one_name_and_different_users_are_selected_by_their_processes() {
        let by = |uid: u32, qemu: Qemu| Qemu { uid: Some(uid), ..qemu };
        let [web, incoming] = [1, 2].map(|pid| by(107, qemu(pid, Some("web"), Some(UUID))));
        let forged = by(1000, qemu(3, Some("web"), Some(UUID)));
        let db = by(1000, qemu(4, Some("db"), None));
        assert_eq!(by_vm("web").is_of_one_user(&[web.clone(), incoming, db]), Ok(()));
        let present = [web, forged];
        assert_eq!(
            by_vm("web").is_of_one_user(&present).unwrap_err().to_string(),
            format!(
                "`web` is ambiguous: different users have started VMs with that name or UUID; select one by its process \
                 with --pid; this network namespace has: web ({UUID}, pid 1, user id 107), web ({UUID}, pid 3, user id \
                 1000)"
            )
        );
        assert_eq!(Selection::new(Some("web".into()), Some(1)).is_of_one_user(&present), Ok(()));
        assert_eq!(Selection::default().is_of_one_user(&present), Ok(()), "with no filter every VM matches");
        let theirs = Selection { uid: Some(1000), ..by_vm("web") };
        assert_eq!(theirs.of(&present).unwrap()[0].pid, 3);
    }

    #[test]
    fn a_filter_that_nothing_matches_lists_the_vms_that_run() {
        let present = [qemu(4711, Some("web"), Some(UUID)), qemu(4712, None, None)];
        assert_eq!(
            by_vm("db").of(&present).unwrap_err().to_string(),
            format!(
                "no VM with name or UUID `db`; this network namespace has: web ({UUID}, pid 4711), unnamed (pid 4712)"
            )
        );
        assert_eq!(
            Selection::new(None, Some(1)).of(&[]).unwrap_err().to_string(),
            "process 1 is not a QEMU of this network namespace; no QEMU runs in this network namespace"
        );
    }
}
