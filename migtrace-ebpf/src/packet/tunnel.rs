//! The frame inside a tunnel's packet.

use super::{Frame, encapsulation};

const UDP_HEADER: u32 = 8;
const VXLAN_HEADER: u32 = 8;
const GENEVE_HEADER: u32 = 8;

/// Where the frame inside a VXLAN or Geneve packet begins; `udp` is where its UDP header begins.
#[inline(always)]
pub(super) fn inner_frame<F: Frame>(frame: &F, udp: u32, encapsulations: u32) -> Option<u32> {
    let port = u16::from_be_bytes(frame.read(udp + 2)?);
    let tunnel = udp + UDP_HEADER;
    if encapsulations & encapsulation::VXLAN != 0 && matches!(port, 4789 | 8472) {
        return Some(tunnel + VXLAN_HEADER);
    }
    if encapsulations & encapsulation::GENEVE != 0 && port == 6081 {
        let header: [u8; 4] = frame.read(tunnel)?;
        // RFC 8926: options in 4-byte units; 0x6558 is Ethernet.
        if u16::from_be_bytes([header[2], header[3]]) != 0x6558 {
            return None;
        }
        return Some(tunnel + GENEVE_HEADER + u32::from(header[0] & 0x3f) * 4);
    }
    None
}
