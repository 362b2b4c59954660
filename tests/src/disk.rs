//! The disk of a lab's guest.

use crate::cache;
use crate::guest::Guest;
use crate::qcow2;
use anyhow::{Context as _, Result, bail};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The block node of the guest's disk.
pub(crate) const DISK_NODE: &str = "disk0";
/// In the cache: data that cannot be compressed, from which every disk takes as much as it needs.
const DATA_DIRECTORY: &str = "disk-data";
/// What the tables of an image and the other files of a lab take at most, beside the data.
const OTHER_FILES_MIB: u64 = 64;
const MIB: u64 = 1 << 20;

/// The disk as one QEMU opens it.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    /// Where the data is that the image lacks, and how much of that file belongs to this disk.
    data: Option<(PathBuf, u64)>,
}

impl Disk {
    /// Makes the disk from which the guest boots. Its data stays in a file of the cache, which is only read, so that also a
    /// large disk is there at once. A copy of the disk has all of the data.
    pub(crate) fn create(guest: &Guest, directory: &Path) -> Result<Self> {
        let disk = Self::open(guest, directory)?;
        qcow2::create_empty(&disk.image, guest.disk_mib)?;
        Ok(disk)
    }

    /// The disk that [`Disk::create`] has made in this directory.
    pub(crate) fn open(guest: &Guest, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let data = match guest.disk_data_mib {
            0 => None,
            mib => Some((data_file(mib)?, mib * MIB)),
        };
        Ok(Self { image: image(directory), data })
    }

    /// Makes the empty disk to which another one is copied.
    pub(crate) fn create_for_copy(guest: &Guest, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let image = image(directory);
        qcow2::create_empty(&image, guest.disk_mib)?;
        Ok(Self { image, data: None })
    }

    /// The options of QEMU for it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut nodes =
            vec![format!("driver=file,node-name={DISK_NODE}-file,filename={}", self.image.display())];
        let mut backing = String::new();
        if let Some((path, bytes)) = &self.data {
            let data = format!("{DISK_NODE}-data");
            nodes.push(format!("driver=file,node-name={data}-file,read-only=on,filename={}", path.display()));
            nodes.push(format!("driver=raw,node-name={data},read-only=on,size={bytes},file={data}-file"));
            backing = format!(",backing={data}");
        }
        nodes.push(format!("driver=qcow2,node-name={DISK_NODE},file={DISK_NODE}-file{backing}"));
        let nodes = nodes.into_iter().flat_map(|node| ["-blockdev".into(), node]);
        nodes.chain(["-device".into(), format!("virtio-blk-pci,drive={DISK_NODE}")]).collect()
    }
}

fn image(directory: &Path) -> PathBuf {
    directory.join("disk.qcow2")
}

/// Checks that a guest's disk makes sense, and that there is room for a copy of its data.
pub(crate) fn check(guest: &Guest) -> Result<()> {
    let Guest { disk_mib, disk_data_mib, .. } = *guest;
    if disk_data_mib > disk_mib {
        bail!("a disk of {disk_mib} MiB cannot hold {disk_data_mib} MiB of data");
    }
    if !guest.has_own_disk() {
        return Ok(());
    }
    // The directory of labs may not exist yet.
    let room = statvfs("/run").context("cannot determine the free space of /run")?;
    let free_mib = room.blocks_available() * room.fragment_size() / MIB;
    if free_mib < disk_data_mib + OTHER_FILES_MIB {
        bail!(
            "a copy of {disk_data_mib} MiB of the disk has no room in /run, where {free_mib} MiB are free: use a \
             smaller `--disk-data`, or mount a larger file system there"
        );
    }
    Ok(())
}

/// A file with at least this much data, the same in all files. The first call for a size writes it.
fn data_file(mib: u64) -> Result<PathBuf> {
    let look = |directory: &Path| {
        let path = directory.join("data.raw");
        Ok(fs::metadata(&path).is_ok_and(|file| file.len() >= mib * MIB).then_some(path))
    };
    let fill = |directory: &Path| {
        let file = File::create(directory.join("data.raw"))?;
        let mut output = BufWriter::with_capacity(1 << 20, file);
        for word in incompressible().take((mib * MIB / 8) as usize) {
            output.write_all(&word.to_ne_bytes())?;
        }
        output.flush()?;
        // So that the kernel does not write it during a migration.
        output.get_ref().sync_all()?;
        Ok(())
    };
    cache::get(DATA_DIRECTORY, look, fill).context("cannot write the data of a disk")
}

/// Words in which QEMU's detection of zeroes finds none.
pub(crate) fn incompressible() -> impl Iterator<Item = u64> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

#[cfg(test)]
mod tests {
    use crate::Lab;

    #[test]
    fn a_disk_holds_no_more_data_than_its_size() {
        let error = Lab::builder().disk_mib(16).disk_data_mib(17).start().unwrap_err().to_string();
        assert!(error.contains("16 MiB") && error.contains("17 MiB"), "{error}");
    }
}
