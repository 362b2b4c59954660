//! The guest as libvirt's XML describes it.

use super::host_files::{CONSOLE, IMAGE, INITRAMFS, KERNEL};
use crate::guest::Guest;
use crate::host::Host;
use crate::qemu::MEMORY_GAP_KIB;
use std::path::Path;

/// The domain of `guest`, for both hosts.
pub(super) fn xml(guest: &Guest, accelerator: &str, emulator: &Path) -> String {
    let Guest { name, uuid, mac, memory_mib, vcpus, .. } = guest;
    let kind = if accelerator == "tcg" { "qemu" } else { accelerator };
    let (command_line, emulator) = (guest.command_line(), emulator.display());
    let disk = disk(guest);
    let memory = memory(*memory_mib);
    let tap = Host::TAP;
    format!(
        "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{KERNEL}</kernel>
    <initrd>{INITRAMFS}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{emulator}</emulator>{disk}
    <interface type='ethernet'>
      <mac address='{mac}'/>
      <target dev='{tap}' managed='no'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'><source path='{CONSOLE}'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  {memory}
</domain>
"
    )
}

fn disk(guest: &Guest) -> String {
    if guest.disk_mib == 0 {
        return String::new();
    }
    format!(
        "
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{IMAGE}'/>
      <target dev='vda' bus='virtio'/>
    </disk>"
    )
}

/// QEMU's own arguments for the memory, without the part that a guest of an old QEMU must not have (see [`MEMORY_GAP_KIB`]).
/// libvirt knows only whole MiB. These arguments come after its own, and so replace them.
fn memory(mib: u64) -> String {
    let kib = mib * 1024 - MEMORY_GAP_KIB;
    let arguments = [
        "-object".to_owned(),
        format!("memory-backend-ram,id=lab.ram,size={}", kib * 1024),
        "-machine".into(),
        "memory-backend=lab.ram".into(),
        "-m".into(),
        format!("size={kib}K"),
    ];
    let arguments = arguments.map(|argument| format!("<qemu:arg value='{argument}'/>")).concat();
    format!("<qemu:commandline>{arguments}</qemu:commandline>")
}
