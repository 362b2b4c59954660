//! The eBPF object: all maps and programs, as built into this binary.

use aya::{Ebpf, EbpfLoader};
use migtrace_ebpf::abi::PORT_RANGES;
use zerocopy::IntoBytes as _;

use super::offsets::Offsets;
use super::{KernelError, Settings, echo, flow_commands, programs, tc, tunnel};
use crate::errors::with_causes;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/migtrace-programs"));

/// Makes the maps and loads the TC programs that count and those at taps.
pub(super) fn load(settings: &Settings, offsets: &Offsets) -> Result<Ebpf, KernelError> {
    let ports: [u32; PORT_RANGES] = settings.ports.packed();
    let encapsulations = tunnel::bits(&settings.tunnels);
    let mut loader = EbpfLoader::new();
    echo::size(&mut loader, 1);
    loader
        .override_global("PORTS", &ports, true)
        .override_global("ENCAPSULATIONS", &encapsulations, true)
        .override_global("SOCKET_OFFSETS", offsets.socket.as_bytes(), true)
        .override_global("RETRANSMIT_OFFSETS", offsets.retransmit.as_bytes(), true)
        .override_global("TASK_TGID", &offsets.task_tgid, true)
        .map_max_entries("FLOWS", settings.flow_capacity);
    let mut ebpf = make_maps(&mut loader)?;
    tc::load(&mut ebpf, &tc::COUNT)?;
    tc::load(&mut ebpf, &tc::GUEST)?;
    programs::load_tc(&mut ebpf, flow_commands::PROGRAM)?;
    Ok(ebpf)
}

/// Makes the maps, with the sizes and constants that were set. No program is loaded yet.
pub(super) fn make_maps(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, KernelError> {
    loader
        // The object needs no relocation against the kernel's types, and parsing them costs 100 MiB.
        .btf(None)
        .load(OBJECT)
        .map_err(|error| KernelError::Refused { what: "object".into(), why: with_causes(&error) })
}
