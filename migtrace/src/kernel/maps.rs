//! Access to the maps of the programs, by their names.
//!
//! While a system call accesses a map, the kernel skips programs on that CPU: so each of these keeps the CPU ([`OnCpu`]).

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::{Ebpf, Pod};
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{KernelError, OnCpu};

/// include/uapi/linux/bpf.h: an entry that is there stays as it is.
const BPF_NOEXIST: u64 = 1;

/// What can be a key or a value: any bytes are one, and it has no padding.
pub(super) trait Plain: Copy + FromBytes + Immutable + IntoBytes + 'static {}

impl<T: Copy + FromBytes + Immutable + IntoBytes + 'static> Plain for T {}

/// The same, as aya wants to be promised it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Promised<T>(T);

// SAFETY: zerocopy has looked at every field of `T`: any bytes are a value of it, and none of its own are undefined.
unsafe impl<T: Plain> Pod for Promised<T> {}

/// What a key has, if anything.
pub(super) fn get<K: Plain, V: Plain>(
    ebpf: &Ebpf,
    name: &'static str,
    key: K,
) -> Result<Option<V>, KernelError> {
    let _on_cpu = OnCpu::stay();
    match table::<K, V>(ebpf, name)?.get(&Promised(key), 0) {
        Ok(Promised(value)) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(KernelError::Map { name, source }),
    }
}

/// All entries, in no order.
pub(super) fn entries<K: Plain, V: Plain>(
    ebpf: &Ebpf,
    name: &'static str,
) -> Result<Vec<(K, V)>, KernelError> {
    let _on_cpu = OnCpu::stay();
    let table = table::<K, V>(ebpf, name)?;
    let entries = table.iter().map(|entry| entry.map(|(Promised(key), Promised(value))| (key, value)));
    entries.collect::<Result<_, _>>().map_err(|source| KernelError::Map { name, source })
}

/// Gives a key a value, whatever it had before.
///
/// # Errors
/// Besides others one that [is because the table is full](KernelError::is_full).
pub(super) fn set<K: Plain, V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), KernelError> {
    insert(ebpf, name, key, value, 0)
}

/// Gives a key a value, unless it has one.
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
    let inserted = table_mut::<K, V>(ebpf, name)?.insert(Promised(key), Promised(value), flags);
    inserted.map_err(|source| KernelError::Map { name, source })
}

/// Removes what a key has; says whether it had anything.
pub(super) fn remove<K: Plain, V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    key: K,
) -> Result<bool, KernelError> {
    let _on_cpu = OnCpu::stay();
    let removed = table_mut::<K, V>(ebpf, name)?.remove(&Promised(key));
    match removed.map_err(|source| KernelError::Map { name, source }) {
        Ok(()) => Ok(true),
        // Not `MapError::KeyNotFound`: aya gives the error of the system call.
        Err(error) if error.fails_with(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elements of an array, by their indices.
pub(super) fn elements<V: Plain>(
    ebpf: &Ebpf,
    name: &'static str,
    indices: impl IntoIterator<Item = u32>,
) -> Result<Vec<V>, KernelError> {
    let _on_cpu = OnCpu::stay();
    let failed = |source| KernelError::Map { name, source };
    let map = ebpf.map(name).ok_or_else(|| missing(name))?;
    let array: Array<_, Promised<V>> = Array::try_from(map).map_err(failed)?;
    let element = |index| array.get(&index, 0).map(|Promised(value)| value).map_err(failed);
    indices.into_iter().map(element).collect()
}

/// One element of an array.
pub(super) fn element<V: Plain>(ebpf: &Ebpf, name: &'static str, index: u32) -> Result<V, KernelError> {
    elements(ebpf, name, [index]).map(|elements| elements[0])
}

/// Gives an element of an array a value.
pub(super) fn set_element<V: Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    index: u32,
    value: V,
) -> Result<(), KernelError> {
    let _on_cpu = OnCpu::stay();
    let failed = |source| KernelError::Map { name, source };
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    let mut array: Array<_, Promised<V>> = Array::try_from(map).map_err(failed)?;
    array.set(index, Promised(value), 0).map_err(failed)
}

/// A ring buffer; it is taken out of the object.
pub(super) fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<AsyncFd<RingBuf<MapData>>, KernelError> {
    let ring = unpolled_ring(ebpf, name)?;
    // SAFETY: the ring buffer owns its descriptor and keeps it for its whole life.
    Ok(unsafe { AsyncFd::register(ring) }.map_err(std::io::Error::from)?)
}

/// As [`ring`], for whoever never waits.
pub(super) fn unpolled_ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    let ring = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    RingBuf::try_from(ring).map_err(|source| KernelError::Map { name, source })
}

fn table<'a, K: Plain, V: Plain>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a MapData, Promised<K>, Promised<V>>, KernelError> {
    let map = ebpf.map(name).ok_or_else(|| missing(name))?;
    HashMap::try_from(map).map_err(|source| KernelError::Map { name, source })
}

fn table_mut<'a, K: Plain, V: Plain>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a mut MapData, Promised<K>, Promised<V>>, KernelError> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    HashMap::try_from(map).map_err(|source| KernelError::Map { name, source })
}

fn missing(map: &str) -> KernelError {
    KernelError::Refused { what: format!("map {map}"), why: "the object does not have it".into() }
}
