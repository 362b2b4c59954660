//! The eBPF object: all maps and programs, as built into this binary.

use std::io::{self, Read as _};

use aya::{Ebpf, EbpfLoader};
use flate2::bufread::GzDecoder;
use migtrace_ebpf::abi::PORT_RANGES;
use zerocopy::IntoBytes as _;

use super::offsets::Offsets;
use super::{KernelError, Settings, echo, flow_commands, programs, tc, tunnel};
use crate::errors::with_causes;
use crate::host::netns;

/// A fifth of the object's size.
static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/migtrace-programs.gz"));

/// Makes the maps and loads the TC programs that count and those at taps.
pub(super) fn load(settings: &Settings, offsets: &Offsets) -> Result<Ebpf, KernelError> {
    let ports: [u32; PORT_RANGES] = settings.ports.packed();
    let encapsulations = tunnel::bits(&settings.tunnels);
    // Without its offset, the programs cannot tell which network namespace a socket is of.
    let network = if offsets.opening.net_inum == 0 { 0 } else { netns::number() };
    let mut loader = EbpfLoader::new();
    echo::size(&mut loader, 1);
    loader
        .override_global("PORTS", &ports, true)
        .override_global("ENCAPSULATIONS", &encapsulations, true)
        .override_global("SOCKET_OFFSETS", offsets.socket.as_bytes(), true)
        .override_global("RETRANSMIT_OFFSETS", offsets.retransmit.as_bytes(), true)
        .override_global("OPENING_OFFSETS", offsets.opening.as_bytes(), true)
        .override_global("NETWORK", &network, true)
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
    let refused = |why| KernelError::Refused { what: "object".into(), why };
    let object = decompressed().map_err(|error| refused(error.to_string()))?;
    loader
        // The object needs no relocation against the kernel's types, which a new loader has parsed all the same.
        .btf(None)
        .load(object.as_bytes())
        .map_err(|error| refused(with_causes(&error)))
}

/// The object, in words: the parser wants it aligned.
fn decompressed() -> io::Result<Vec<u64>> {
    // The end of a gzip file says how long the content is.
    let [.., a, b, c, d] = *COMPRESSED else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let mut object = vec![0_u64; length.div_ceil(size_of::<u64>())];
    let bytes = object.as_mut_bytes().get_mut(..length).unwrap_or_default();
    GzDecoder::new(COMPRESSED).read_exact(bytes)?;
    Ok(object)
}
