//! QEMU's command line.

use super::files;
use super::program::QemuChoice;
use crate::disk::Disk;
use crate::guest::Guest;
use crate::host::Host;
use crate::kernels::Kernel;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// What a QEMU does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It boots the guest.
    Boot,
    /// It waits for a migration, and runs the guest as soon as that has arrived.
    Incoming,
    /// It waits for a migration, and runs the guest after `cont`, as libvirt does.
    IncomingPaused,
}

/// How a QEMU is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) qemu: QemuChoice,
    pub(crate) guest: &'a Guest,
    pub(crate) host: &'a Host,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    pub(crate) accelerator: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) disk: Option<&'a Disk>,
    pub(crate) start: Start,
    /// Whether it stays when this process ends.
    pub(crate) lasting: bool,
}

pub(super) fn command(plan: &Plan<'_>) -> Result<Command> {
    let Plan { guest, directory, .. } = plan;
    let mut command = plan.qemu.find()?.command();
    let path = |path: &Path| path.display().to_string();
    let memory = format!("{}K", guest.memory_mib * 1024 - plan.qemu.memory_gap_kib());
    let vcpus = guest.vcpus.to_string();
    let mut arguments = vec![
        "-name".into(),
        format!("{},debug-threads=on", guest.name),
        "-uuid".into(),
        guest.uuid.clone(),
        "-machine".into(),
        "pc".into(),
        "-accel".into(),
        plan.accelerator.into(),
        "-m".into(),
        memory,
        "-smp".into(),
        vcpus,
        "-nodefaults".into(),
        "-no-user-config".into(),
        "-no-reboot".into(),
        "-display".into(),
        "none".into(),
        "-serial".into(),
        format!("file:{}", path(&files::console(directory))),
        "-kernel".into(),
        path(&plan.kernel.image),
        "-initrd".into(),
        path(plan.initramfs),
        "-append".into(),
        guest.command_line(),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", path(&files::qmp_socket(directory))),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", path(&files::spare_qmp_socket(directory))),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", path(&files::converge_qmp_socket(directory))),
    ];
    arguments.extend((0..guest.nics).flat_map(|number| nic(guest, number)));
    arguments.extend(plan.disk.iter().flat_map(|disk| disk.arguments()));
    match plan.start {
        Start::Boot => {}
        Start::Incoming => arguments.extend(["-incoming".into(), "defer".into()]),
        Start::IncomingPaused => arguments.extend(["-incoming".into(), "defer".into(), "-S".into()]),
    }
    command.args(arguments);
    Ok(command)
}

/// The options for a NIC and its tap.
fn nic(guest: &Guest, number: u8) -> [String; 4] {
    let (mac, tap) = guest.nic(number);
    [
        "-netdev".into(),
        format!("tap,id=net{number},ifname={tap},script=no,downscript=no,vhost=off"),
        "-device".into(),
        // No boot ROM: its package may be missing, and nobody boots from this NIC.
        format!("virtio-net-pci,netdev=net{number},mac={mac},romfile="),
    ]
}
