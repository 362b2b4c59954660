//! Disks that QEMU serves over the network (NBD).

use crate::bare_qemu::{BareQemu, boot_sector};
use crate::host::Host;
use crate::qmp::Qmp;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::fs;
use tempfile::TempDir;

/// The block node, and the export, of the disk.
const NODE: &str = "disk";
const DISK_BYTES: usize = 1 << 20;
/// What a guest may move to and from it, in bytes a second: the machine has other things to do.
const BYTES_PER_S: u32 = 16 << 20;

/// A boot sector that has the BIOS read and write 32 KiB of its disk without pause, and counts where [`BareQemu::count`] looks
/// how often both went well:
///
/// ```text
/// xor ax, ax; mov ds, ax; mov si, packet
/// next: mov ax, 0x4200; int 0x13; jc next; mov ax, 0x4300; int 0x13; jc next; inc dword [0x500]; jmp next
/// packet: 64 sectors from the 64th on, at 1000:0000
/// ```
const BUSY: [u8; 512] = boot_sector(&[
    0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x1c, 0x7c, // begin
    0xb8, 0x00, 0x42, 0xcd, 0x13, 0x72, 0xf9, // read
    0xb8, 0x00, 0x43, 0xcd, 0x13, 0x72, 0xf2, // write
    0x66, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xeb, // count
    16, 0, 64, 0, 0, 0, 0, 0x10, 64, 0, 0, 0, 0, 0, 0, 0, // packet
]);

/// A disk that a QEMU serves as long as this lives. What boots from it reads and writes it without pause.
#[derive(Debug)]
pub struct NbdDisk {
    url: String,
    _server: BareQemu,
    _directory: TempDir,
}

impl NbdDisk {
    /// Serves one at this port of a host.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`]; and when the port is taken.
    pub fn serve(host: &Host, port: u16) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a folder for a disk")?;
        let file = directory.path().join("disk");
        let mut content = BUSY.to_vec();
        content.resize(DISK_BYTES, 0);
        fs::write(&file, content).context("cannot write a disk")?;
        let mut server = BareQemu::start(host, "disks")?;
        let node = json!({
            "driver": "raw",
            "node-name": NODE,
            "file": { "driver": "file", "filename": file },
        });
        server.qmp().execute("blockdev-add", node)?;
        export(server.qmp(), NODE, "0.0.0.0", port)?;
        let url = format!("nbd://{}:{port}/{NODE}", host.ipv4());
        Ok(Self { url, _server: server, _directory: directory })
    }

    /// QEMU's `-drive`.
    pub(crate) fn drive(&self) -> String {
        format!("file={},format=raw,if=virtio,throttling.bps-total={BYTES_PER_S}", self.url)
    }
}

/// Has a QEMU serve a block node, under its name.
pub(crate) fn export(qmp: &mut Qmp, node: &str, any: &str, port: u16) -> Result<()> {
    let address = json!({ "type": "inet", "data": { "host": any, "port": port.to_string() } });
    qmp.execute("nbd-server-start", json!({ "addr": address }))?;
    let export = json!({ "id": node, "type": "nbd", "node-name": node, "writable": true });
    qmp.execute("block-export-add", export)?;
    Ok(())
}
