//! An eBPF program of somebody else at an interface: it counts every packet and lets it pass.
//!
//! It is assembled here and loaded by bpf(2) itself, so that it shares no loader with migtrace.

use crate::bpf_syscall::{self, call};
use crate::host::Host;
use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// From linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 8;

/// What a program returns for each packet that it has counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(i32)]
pub enum TcVerdict {
    /// `TC_ACT_UNSPEC`: the next program decides.
    Next = -1,
    /// `TC_ACT_OK`: the packet passes, and no later program sees it.
    Pass = 0,
}

/// The direction of packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PacketDirection {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
}

/// A program that counts packets, and its counter.
#[derive(Debug)]
pub struct PacketCounter {
    map: OwnedFd,
    program: OwnedFd,
}

impl PacketCounter {
    /// Loads the program, without attaching it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses (not root).
    pub fn load(verdict: TcVerdict) -> Result<Self> {
        #[repr(C)]
        struct MapCreate {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        #[repr(C)]
        struct ProgramLoad {
            program_type: u32,
            instruction_count: u32,
            instructions: u64,
            license: u64,
        }
        let map = MapCreate { map_type: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size: 8, max_entries: 1 };
        let map = bpf_syscall::open(BPF_MAP_CREATE, &map).context("cannot make a map")?;
        let instructions = program(&map, verdict);
        let load = ProgramLoad {
            program_type: BPF_PROG_TYPE_SCHED_CLS,
            instruction_count: instructions.len().try_into()?,
            instructions: instructions.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
        };
        let program = bpf_syscall::open(BPF_PROG_LOAD, &load).context("cannot load a program")?;
        Ok(Self { map, program })
    }

    /// Attaches it by a TCX link, after the programs that are already there. Closing the link detaches it.
    ///
    /// # Errors
    ///
    /// When there is no such interface, or no TCX (before Linux 6.6).
    pub fn attach_tcx(&self, host: &Host, interface: &str, direction: PacketDirection) -> Result<OwnedFd> {
        self.attach(host, interface, direction, 0)
    }

    /// As [`Self::attach_tcx`], but before the programs that are already there.
    ///
    /// # Errors
    ///
    /// As [`Self::attach_tcx`].
    pub fn attach_tcx_first(
        &self,
        host: &Host,
        interface: &str,
        direction: PacketDirection,
    ) -> Result<OwnedFd> {
        self.attach(host, interface, direction, BPF_F_BEFORE)
    }

    fn attach(
        &self,
        host: &Host,
        interface: &str,
        direction: PacketDirection,
        flags: u32,
    ) -> Result<OwnedFd> {
        #[repr(C)]
        struct LinkCreate {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        host.enter(|| {
            let link = LinkCreate {
                program: self.program.as_raw_fd().cast_unsigned(),
                interface: if_nametoindex(interface)?,
                attach_type: if direction == PacketDirection::Ingress {
                    BPF_TCX_INGRESS
                } else {
                    BPF_TCX_EGRESS
                },
                flags,
            };
            bpf_syscall::open(BPF_LINK_CREATE, &link)
        })?
        .with_context(|| format!("cannot attach to {interface} by TCX"))
    }

    /// Pins it in a bpf file system, from which `tc` can attach it.
    ///
    /// # Errors
    ///
    /// When the path is not in such a file system, or exists.
    pub fn pin(&self, path: &Path) -> Result<()> {
        #[repr(C)]
        struct Pin {
            path: u64,
            program: u32,
            flags: u32,
        }
        let name = CString::new(path.as_os_str().as_bytes())?;
        let program = self.program.as_raw_fd().cast_unsigned();
        let pin = Pin { path: name.as_ptr().expose_provenance() as u64, program, flags: 0 };
        call(BPF_OBJ_PIN, &pin).with_context(|| format!("cannot pin to {}", path.display())).map(drop)
    }

    /// How many packets it has seen.
    ///
    /// # Errors
    ///
    /// When the kernel does not return the counter.
    pub fn packets(&self) -> Result<u64> {
        #[repr(C)]
        struct Lookup {
            map: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        let key = 0_u32;
        let mut packets = 0_u64;
        let lookup = Lookup {
            map: self.map.as_raw_fd().cast_unsigned().into(),
            key: (&raw const key).expose_provenance() as u64,
            value: (&raw mut packets).expose_provenance() as u64,
            flags: 0,
        };
        call(BPF_MAP_LOOKUP_ELEM, &lookup).context("cannot read a map")?;
        Ok(packets)
    }
}

/// `lock *map[0] += 1; return verdict`, in the encoding of RFC 9669.
fn program(map: &OwnedFd, verdict: TcVerdict) -> [u64; 11] {
    let map = map.as_raw_fd();
    [
        instruction(0x62, 10, 0, -4, 0),            // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 2, 10, 0, 0),             // r2 = r10
        instruction(0x07, 2, 0, 0, -4),             // r2 += -4
        instruction(0x18, 1, 1, 0, map),            // r1 = map, by its descriptor
        0,                                          // the second half of that
        instruction(0x85, 0, 0, 0, 1),              // r0 = bpf_map_lookup_elem(r1, r2)
        instruction(0x15, 0, 0, 2, 0),              // if r0 == 0 skip two
        instruction(0xb7, 1, 0, 0, 1),              // r1 = 1
        instruction(0xdb, 0, 1, 0, 0),              // lock *(u64 *)r0 += r1
        instruction(0xb7, 0, 0, 0, verdict as i32), // r0 = verdict
        instruction(0x95, 0, 0, 0, 0),              // exit
    ]
}

fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([opcode, source << 4 | destination, low, high, a, b, c, d])
}
