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
/// The limit of a guest's reads and writes, in bytes per second, which leaves CPU time for the rest of a test.
const BYTES_PER_S: u32 = 16 << 20;

/// A boot sector that makes the BIOS read and write 32 KiB of its disk endlessly, and counts successes where
/// [`BareQemu::count`] reads:
///
/// ```text
/// xor ax, ax; mov ds, ax; mov si, packet
/// next: mov ax, 0x4200; int 0x13; jc next; mov ax, 0x4300; int 0x13; jc next; inc dword [0x500]; jmp next
/// packet: 64 sectors from the 64th on, at 1000:0000
/// ```
const DISK_USING_BOOT_SECTOR: [u8; 512] = boot_sector(&[
    0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x1c, 0x7c, // begin
    0xb8, 0x00, 0x42, 0xcd, 0x13, 0x72, 0xf9, // read
    0xb8, 0x00, 0x43, 0xcd, 0x13, 0x72, 0xf2, // write
    0x66, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xeb, // count
    16, 0, 64, 0, 0, 0, 0, 0x10, 64, 0, 0, 0, 0, 0, 0, 0, // packet
]);

/// A disk that a QEMU serves until this is dropped. A guest that boots from it reads and writes it endlessly.
#[derive(Debug)]
pub struct NbdDisk {
    url: String,
    _server: BareQemu,
    _directory: TempDir,
}

impl NbdDisk {
    /// Serves a disk on this port of a host.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`], and when the port is taken.
    pub fn serve(host: &Host, port: u16) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a folder for a disk")?;
        let file = directory.path().join("disk");
        let mut content = DISK_USING_BOOT_SECTOR.to_vec();
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

    /// The argument of QEMU's `-drive`.
    pub(crate) fn drive(&self) -> String {
        format!("file={},format=raw,if=virtio,throttling.bps-total={BYTES_PER_S}", self.url)
    }
}

/// Makes a QEMU serve a block node, under its name, on this address.
pub(crate) fn export(qmp: &mut Qmp, node: &str, address: &str, port: u16) -> Result<()> {
    let listener = json!({ "type": "inet", "data": { "host": address, "port": port.to_string() } });
    qmp.execute("nbd-server-start", json!({ "addr": listener }))?;
    let export = json!({ "id": node, "type": "nbd", "node-name": node, "writable": true });
    qmp.execute("block-export-add", export)?;
    Ok(())
}
