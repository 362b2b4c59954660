//! What QEMU's command line says about the VM.

mod options;
#[cfg(test)]
mod tests;
mod values;

use options::{find, options, properties};
use values::{mac, memory_bytes, vcpus};

/// What the command line says about the VM.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CommandLine {
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) incoming: bool,
    /// The MACs of the network interfaces. Those that QEMU makes up are not known.
    pub(super) macs: Vec<String>,
    /// The accelerators to try, in order.
    accelerators: Vec<String>,
}

impl CommandLine {
    /// Reads a command line; `None` for one that starts no VM: a question (`-version`, `-help`), or the empty machine by
    /// which libvirt asks a binary what it can do.
    pub(super) fn parse(argv: &[String]) -> Option<Self> {
        let mut line = Self::default();
        let mut smp = Vec::new();
        let mut memory = None;
        let mut smbios_uuid = None;
        let mut machine = Vec::new();
        for (option, value) in options(argv.get(1..)?) {
            match option {
                "name" => assign(&mut line.name, find(&properties(value, "guest"), "guest")),
                "uuid" => assign(&mut line.uuid, Some(value.to_owned())),
                // Proxmox gives the UUID this way only.
                "smbios" => assign(&mut smbios_uuid, find(&properties(value, "file"), "uuid")),
                "m" => assign(&mut memory, find(&properties(value, "size"), "size")),
                "smp" => smp.extend(properties(value, "cpus")),
                "accel" => line.accelerators.extend(find(&properties(value, "accel"), "accel")),
                "enable-kvm" => line.accelerators.push("kvm".to_owned()),
                "machine" | "M" => machine.extend(properties(value, "type")),
                "incoming" => line.incoming = true,
                "device" | "nic" | "net" => line.macs.extend(mac(value).map(|mac| mac.to_string())),
                "h" | "help" | "version" => return None,
                _ => {}
            }
        }
        if find(&machine, "type").as_deref() == Some("none") {
            return None;
        }
        if line.accelerators.is_empty() {
            let list = find(&machine, "accel").unwrap_or_else(|| default_accelerators(argv).to_owned());
            line.accelerators = list.split(':').map(ToOwned::to_owned).collect();
        }
        smp.extend(
            machine
                .iter()
                .filter_map(|(key, value)| Some((key.strip_prefix("smp.")?.to_owned(), value.clone()))),
        );
        line.vcpus = vcpus(&smp);
        line.memory_bytes =
            memory.or_else(|| find(&machine, "memory.size")).and_then(|size| memory_bytes(&size));
        line.uuid = line.uuid.or(smbios_uuid);
        Some(line)
    }

    /// The accelerator in use. `kvm` is whether the process holds a virtual machine of KVM, `None` when that cannot be
    /// seen.
    pub(super) fn accelerator(&self, kvm: Option<bool>) -> Option<String> {
        let first = self.accelerators.first();
        let chosen = match kvm {
            Some(true) => return Some("kvm".to_owned()),
            // KVM was tried and refused, unless it is the only choice: then QEMU is still starting.
            Some(false) => self.accelerators.iter().find(|name| *name != "kvm").or(first),
            None => first,
        };
        chosen.cloned()
    }
}

/// QEMU's own default depends on the name by which it is started (`configure_accelerators`).
fn default_accelerators(argv: &[String]) -> &'static str {
    if argv.first().is_some_and(|command| command.ends_with("kvm")) { "kvm:tcg" } else { "tcg" }
}

/// Sets the target, unless the value is missing or empty.
fn assign(target: &mut Option<String>, value: Option<String>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        *target = Some(value);
    }
}
