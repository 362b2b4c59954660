//! How many entries the eBPF maps of another process have.

use crate::bpf_syscall::{self, call};
use crate::fd_info::FdInfo;
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr;

// From linux/bpf.h.
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_TYPE_HASH: &str = "1";
const BPF_MAP_TYPE_LRU_HASH: &str = "9";

/// How many entries the hash maps of a process have, by map name, of which the kernel keeps 15 bytes. Maps with the same
/// name are added up.
///
/// # Errors
///
/// When there is no such process, or the kernel refuses.
pub fn map_entries(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut entries = BTreeMap::new();
    for info in FdInfo::of_process(pid)? {
        if !matches!(info.field("map_type:"), Some(BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_LRU_HASH)) {
            continue;
        }
        let number = |name: &str| -> Result<u32> { Ok(info.field(name).context("no field")?.parse()?) };
        let id = number("map_id:").context("a map without an id")?;
        let map = bpf_syscall::open(BPF_MAP_GET_FD_BY_ID, &id).context("cannot open a map by its id")?;
        let room = number("max_entries:").context("a map of unknown size")?;
        let key_bytes = number("key_size:").context("keys of unknown size")?;
        *entries.entry(name(&map)?).or_default() += count(&map, key_bytes as usize, room as usize)?;
    }
    Ok(entries)
}

fn name(map: &OwnedFd) -> Result<String> {
    /// The beginning of the kernel's `bpf_map_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        numbers: [u32; 6],
        name: [u8; 16],
    }
    #[repr(C)]
    struct GetInfo {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let get = GetInfo {
        descriptor: map.as_raw_fd().cast_unsigned(),
        length: size_of::<Info>().try_into()?,
        info: (&raw mut info).expose_provenance() as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &get).context("cannot ask for a map's name")?;
    Ok(String::from_utf8_lossy(&info.name).trim_end_matches('\0').to_owned())
}

fn count(map: &OwnedFd, key_bytes: usize, room: usize) -> Result<usize> {
    #[repr(C)]
    struct NextKey {
        map: u64,
        key: u64,
        next: u64,
    }
    let (mut key, mut next) = (vec![0_u8; key_bytes], vec![0_u8; key_bytes]);
    for entries in 0..=room {
        let after = if entries == 0 { ptr::null() } else { key.as_ptr() };
        let step = NextKey {
            map: map.as_raw_fd().cast_unsigned().into(),
            key: after.expose_provenance() as u64,
            next: next.as_mut_ptr().expose_provenance() as u64,
        };
        match call(BPF_MAP_GET_NEXT_KEY, &step) {
            Err(error) if error.downcast_ref() == Some(&Errno::ENOENT) => return Ok(entries),
            result => result.context("cannot walk through a map")?,
        };
        std::mem::swap(&mut key, &mut next);
    }
    bail!("a map of {room} entries changes faster than it can be read")
}
