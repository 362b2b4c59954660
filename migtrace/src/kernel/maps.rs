//! Access to the maps by their names.
//!
//! While a system call accesses a map, the kernel skips programs on that CPU: so each function here keeps the
//! CPU for itself ([`OnCpu`]).

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::{Ebpf, Pod};
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{KernelError, OnCpu};

/// Leaves an existing entry as it is (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// A type of keys or values: all bytes are valid, and none are padding.
pub(super) trait Plain: Copy + FromBytes + Immutable + IntoBytes + 'static {}

impl<T: Copy + FromBytes + Immutable + IntoBytes + 'static> Plain for T {}

/// The same, for aya's trait.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bytes<T>(T);

// SAFETY: zerocopy has checked every field of `T`: any bytes are a valid value, and no byte is padding.
// `Bytes` adds nothing to `T`.
unsafe impl<T: Plain> Pod for Bytes<T> {}

/// The value of a key, if it has one.
pub(super) fn get<K: Plain, V: Plain>(
    ebpf: &Ebpf,
    name: &'static str,
    key: K,
) -> Result<Option<V>, KernelError> {
    let _on_cpu = OnCpu::stay();
    match table::<K, V>(ebpf, name)?.get(&Bytes(key), 0) {
        Ok(Bytes(value)) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(KernelError::Map { name, source }),
    }
}

/// All entries, in no particular order.
pub(super) fn entries<K: Plain, V: Plain>(
    ebpf: &Ebpf,
    name: &'static str,
) -> Result<Vec<(K, V)>, KernelError> {
    let _on_cpu = OnCpu::stay();
    let table = table::<K, V>(ebpf, name)?;
    let entries = table.iter().map(|entry| entry.map(|(Bytes(key), Bytes(value))| (key, value)));
    entries.collect::<Result<_, _>>().map_err(|source| KernelError::Map { name, source })
}

/// Removes all entries.
pub(super) fn clear<K: Plain, V: Plain>(ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    for (key, _) in entries::<K, V>(ebpf, name)? {
        remove::<K, V>(ebpf, name, key)?;
    }
    Ok(())
}

/// Sets the value of a key.
///
/// # Errors
/// Among others, one for a [full table](KernelError::is_full).
pub(super) fn set<K: Plain, V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), KernelError> {
    insert(ebpf, name, key, value, 0)
}

/// Sets the value of a key that has none, and leaves it otherwise.
///
/// # Errors
/// As [`set`].
pub(super) fn add<K: Plain, V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), KernelError> {
    match insert(ebpf, name, key, value, BPF_NOEXIST) {
        Err(error) if error.fails_with(libc::EEXIST) => Ok(()),
        added => added,
    }
}

fn insert<K: Plain, V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: K,
    value: V,
    flags: u64,
) -> Result<(), KernelError> {
    let _on_cpu = OnCpu::stay();
    let inserted = table_mut::<K, V>(ebpf, name)?.insert(Bytes(key), Bytes(value), flags);
    inserted.map_err(|source| KernelError::Map { name, source })
}

/// Removes a key; returns whether it was there.
pub(super) fn remove<K: Plain, V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: K,
) -> Result<bool, KernelError> {
    let _on_cpu = OnCpu::stay();
    let removed = table_mut::<K, V>(ebpf, name)?.remove(&Bytes(key));
    match removed.map_err(|source| KernelError::Map { name, source }) {
        Ok(()) => Ok(true),
        // Not `MapError::KeyNotFound`: here aya returns the error of the system call.
        Err(error) if error.fails_with(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elements of an array.
pub(super) fn elements<V: Plain>(
    ebpf: &Ebpf,
    name: &'static str,
    indices: impl IntoIterator<Item = u32>,
) -> Result<Vec<V>, KernelError> {
    let _on_cpu = OnCpu::stay();
    let failed = |source| KernelError::Map { name, source };
    let map = ebpf.map(name).ok_or_else(|| absent(name))?;
    let array: Array<_, Bytes<V>> = Array::try_from(map).map_err(failed)?;
    let element = |index| array.get(&index, 0).map(|Bytes(value)| value).map_err(failed);
    indices.into_iter().map(element).collect()
}

/// One element of an array.
pub(super) fn element<V: Plain>(ebpf: &Ebpf, name: &'static str, index: u32) -> Result<V, KernelError> {
    elements(ebpf, name, [index]).map(|elements| elements[0])
}

/// Sets one element of an array.
pub(super) fn set_element<V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    index: u32,
    value: V,
) -> Result<(), KernelError> {
    let _on_cpu = OnCpu::stay();
    let failed = |source| KernelError::Map { name, source };
    let map = ebpf.map_mut(name).ok_or_else(|| absent(name))?;
    let mut array: Array<_, Bytes<V>> = Array::try_from(map).map_err(failed)?;
    array.set(index, Bytes(value), 0).map_err(failed)
}

/// Takes a ring buffer out of the object.
pub(super) fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<AsyncFd<RingBuf<MapData>>, KernelError> {
    let ring = unpolled_ring(ebpf, name)?;
    // SAFETY: the ring buffer owns its descriptor and keeps it open until it is dropped.
    Ok(unsafe { AsyncFd::register(ring) }.map_err(std::io::Error::from)?)
}

/// As [`ring`], for a reader that never waits.
pub(super) fn unpolled_ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    let ring = ebpf.take_map(name).ok_or_else(|| absent(name))?;
    RingBuf::try_from(ring).map_err(|source| KernelError::Map { name, source })
}

fn table<'a, K: Plain, V: Plain>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a MapData, Bytes<K>, Bytes<V>>, KernelError> {
    let map = ebpf.map(name).ok_or_else(|| absent(name))?;
    HashMap::try_from(map).map_err(|source| KernelError::Map { name, source })
}

fn table_mut<'a, K: Plain, V: Plain>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a mut MapData, Bytes<K>, Bytes<V>>, KernelError> {
    let map = ebpf.map_mut(name).ok_or_else(|| absent(name))?;
    HashMap::try_from(map).map_err(|source| KernelError::Map { name, source })
}

fn absent(map: &str) -> KernelError {
    KernelError::Absent { what: format!("map {map}") }
}
