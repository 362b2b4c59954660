//! Whose VM a selected name means: anybody can give their own QEMU the name of another VM.

use crate::event::Qemu;
use crate::selection::Selection;
use crate::vocabulary::NotMeasured;

/// The selected VMs, and the user whose VM a name among them means.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    selection: Selection,
    user: User,
}

/// The user whose VM a name means.
#[derive(Clone, Copy, Debug)]
enum User {
    /// The [`Selection`] names the user.
    Selected,
    /// The user of the first QEMU with that name. This is its process, once one was seen.
    OfFirst(Option<u32>),
}

/// What a QEMU says about the choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Settled {
    /// Nothing new.
    Unchanged,
    /// Its user is the one that is meant.
    Changed,
    /// It has the selected name, but another user has started it.
    OfAnotherUser,
}

impl Choice {
    pub(crate) const fn new(selection: Selection) -> Self {
        let user = if selection.uid.is_some() { User::Selected } else { User::OfFirst(None) };
        Self { selection, user }
    }

    pub(crate) const fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Takes the user of the first QEMU with the selected name as the one who is meant.
    pub(crate) fn settle(&mut self, qemu: &Qemu) -> Settled {
        let Selection { vm: Some(_), pid: None, uid } = self.selection else { return Settled::Unchanged };
        let User::OfFirst(first) = self.user else { return Settled::Unchanged };
        if !self.selection.matches_vm(qemu.name.as_deref(), qemu.uuid.as_deref()) {
            return Settled::Unchanged;
        }
        // A process that root starts may change to another user a moment later (`-runas`).
        if first.is_some_and(|first| first != qemu.pid) {
            return if uid == qemu.uid { Settled::Unchanged } else { Settled::OfAnotherUser };
        }
        self.user = User::OfFirst(Some(qemu.pid));
        if uid == qemu.uid {
            return Settled::Unchanged;
        }
        self.selection.uid = qemu.uid;
        Settled::Changed
    }

    /// That a QEMU of another user is not recorded.
    pub(crate) fn not_recorded(&self, qemu: &Qemu) -> NotMeasured {
        let user = |uid: Option<u32>| uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
        NotMeasured {
            what: "a VM of the selected name or UUID that another user has started".into(),
            why: format!(
                "it runs with the user id {}, and the VM that was seen before with {}; --pid selects one by its \
                 process",
                user(qemu.uid),
                user(self.selection.uid)
            ),
        }
    }
}
