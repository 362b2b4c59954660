//! The labels of a sample. Anybody may choose their values: the name of a VM, of a host.

use std::fmt;

use crate::record::Vm;
use crate::terminal::clean;

/// The most characters of a value. A VM's name is as long as its owner likes.
const MOST_CHARACTERS: usize = 200;

/// Names and values, in order.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Labels(Vec<(String, String)>);

impl Labels {
    /// The labels by which libvirt's exporters name a guest. What is not known is empty, which is as if it were not there.
    pub(super) fn of_vm(vm: &Vm) -> Self {
        Self::of_guest(vm.name.as_deref(), vm.uuid.as_deref())
    }

    pub(super) fn of_guest(name: Option<&str>, uuid: Option<&str>) -> Self {
        Self::default().with("domain", name.unwrap_or_default()).with("uuid", uuid.unwrap_or_default())
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        let value = clean(value);
        let mut shown: String = value.chars().take(MOST_CHARACTERS).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.0.push((name.to_owned(), shown));
        self
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "{";
        for (name, value) in &self.0 {
            // No line break is left in it.
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            write!(f, "{before}{name}=\"{value}\"")?;
            before = ",";
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}
