//! Makes disk images, with the few structures of qcow2 (docs/interop/qcow2.txt in QEMU) that a new image needs.

use crate::disk::incompressible;
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const CLUSTER_BYTES: u64 = 1 << 16;
/// How many 8-byte entries one cluster of the L2 table has.
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// How many 16-bit reference counts one cluster has.
const REFCOUNT_ENTRIES: u64 = CLUSTER_BYTES / 2;
/// Marks a cluster with exactly one user. Must be set where the reference count is one.
const COPIED: u64 = 1 << 63;
const MIB: u64 = 1 << 20;

/// Writes an image of `mib` MiB in which every cluster is allocated and cannot be compressed.
///
/// # Errors
///
/// When the file cannot be written.
pub(crate) fn create_full(path: &Path, mib: u64) -> Result<()> {
    write(path, mib, true)
}

/// Writes an empty image of `mib` MiB, into which a disk can be copied.
///
/// # Errors
///
/// When the file cannot be written.
pub(crate) fn create_empty(path: &Path, mib: u64) -> Result<()> {
    write(path, mib, false)
}

fn write(path: &Path, mib: u64, full: bool) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make the disk {}", path.display()))?;
    let mut output = BufWriter::new(file);
    write_image(&mut output, mib * MIB, full)
        .and_then(|()| output.flush())
        .with_context(|| format!("cannot write the disk {}", path.display()))
}

/// Writes, in this order: header, reference count table and blocks, L1 table, L2 tables, data.
fn write_image(output: &mut impl Write, bytes: u64, full: bool) -> std::io::Result<()> {
    let data_clusters = if full { bytes.div_ceil(CLUSTER_BYTES) } else { 0 };
    let l1_entries = bytes.div_ceil(CLUSTER_BYTES).div_ceil(L2_ENTRIES).max(1);
    let l2_clusters = data_clusters.div_ceil(L2_ENTRIES);
    let mut refcount_blocks = 1;
    // Each reference count block needs a reference count too.
    while refcount_blocks * REFCOUNT_ENTRIES < 3 + refcount_blocks + l2_clusters + data_clusters {
        refcount_blocks += 1;
    }
    let l1_at = 2 + refcount_blocks;
    let l2_at = l1_at + 1;
    let data_at = l2_at + l2_clusters;
    let clusters = data_at + data_clusters;

    cluster(output, header(bytes, l1_entries, l1_at))?;

    cluster(output, (0..refcount_blocks).flat_map(|block| ((2 + block) * CLUSTER_BYTES).to_be_bytes()))?;
    for block in 0..refcount_blocks {
        let used = clusters.saturating_sub(block * REFCOUNT_ENTRIES).min(REFCOUNT_ENTRIES);
        cluster(output, (0..used).flat_map(|_| 1_u16.to_be_bytes()))?;
    }
    cluster(
        output,
        (0..l2_clusters).flat_map(|table| (((l2_at + table) * CLUSTER_BYTES) | COPIED).to_be_bytes()),
    )?;
    for table in 0..l2_clusters {
        let first = table * L2_ENTRIES;
        let last = (first + L2_ENTRIES).min(data_clusters);
        cluster(
            output,
            (first..last).flat_map(|at| (((data_at + at) * CLUSTER_BYTES) | COPIED).to_be_bytes()),
        )?;
    }
    let mut words = incompressible();
    for _ in 0..data_clusters {
        cluster(output, words.by_ref().take(L2_ENTRIES as usize).flat_map(u64::to_be_bytes))?;
    }
    Ok(())
}

/// A header of version 3, with one cluster for the reference count table.
fn header(bytes: u64, l1_entries: u64, l1_at: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    header.extend(0_u64.to_be_bytes()); // no backing file
    header.extend(0_u32.to_be_bytes());
    header.extend(CLUSTER_BYTES.trailing_zeros().to_be_bytes());
    header.extend(bytes.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // not encrypted
    header.extend((l1_entries as u32).to_be_bytes());
    header.extend((l1_at * CLUSTER_BYTES).to_be_bytes());
    header.extend(CLUSTER_BYTES.to_be_bytes()); // the reference count table is cluster 1
    header.extend(1_u32.to_be_bytes()); // of one cluster
    header.extend(0_u32.to_be_bytes()); // no snapshots
    header.extend(0_u64.to_be_bytes());
    header.extend([0; 24]); // no feature bits
    header.extend(4_u32.to_be_bytes()); // reference counts have 2^4 bits
    header.extend(104_u32.to_be_bytes()); // the length of this header
    header
}

/// Writes `content`, and zeroes up to the end of its cluster.
fn cluster(output: &mut impl Write, content: impl IntoIterator<Item = u8>) -> std::io::Result<()> {
    let mut bytes: Vec<u8> = content.into_iter().collect();
    bytes.resize(CLUSTER_BYTES as usize, 0);
    output.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_size_of_its_metadata_and_data() {
        let mut empty = Vec::new();
        write_image(&mut empty, 64 * MIB, false).unwrap();
        // Header, reference count table, one block, L1 table.
        assert_eq!(empty.len() as u64, 4 * CLUSTER_BYTES);
        assert_eq!(&empty[..8], b"QFI\xfb\0\0\0\x03");

        let mut full = Vec::new();
        write_image(&mut full, MIB, true).unwrap();
        assert_eq!(full.len() as u64, (5 + MIB / CLUSTER_BYTES) * CLUSTER_BYTES);
    }
}
