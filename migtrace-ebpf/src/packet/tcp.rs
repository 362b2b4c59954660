//! The TCP header, and what its packet costs on the wire.

use super::ethernet::VLAN_TAG;
use super::ip::{self, Ip};
use super::{Frame, Metadata, Packet, Tcp, Wanted};

const TCP_HEADER: u32 = 20;

/// Finds the wanted TCP packet after an IP header of TCP. `None`: the frame is too short, or its lengths are
/// impossible.
#[inline(always)]
pub(super) fn tcp<F, P>(frame: &F, wanted: &Wanted<P>, ip: &Ip) -> Option<Packet>
where
    F: Frame,
    P: Fn(u16, u16) -> bool,
{
    let mut packet = Tcp { tunnelled: ip.tunnelled, payload_offset: ip.next, ..Tcp::default() };
    if !ip.later_fragment {
        let ports: [u8; 4] = frame.read(ip.next)?;
        packet.tuple.source_port = u16::from_be_bytes([ports[0], ports[1]]);
        packet.tuple.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        if !(wanted.ports)(packet.tuple.source_port, packet.tuple.destination_port) {
            return Some(Packet::Other);
        }
        let numbers = u64::from_be_bytes(frame.read(ip.next + 4)?);
        packet.sequence = (numbers >> 32) as u32;
        packet.acknowledgement = numbers as u32;
        let [data_offset, tcp_flags] = frame.read(ip.next + 12)?;
        let header_length = u32::from(data_offset >> 4) * 4;
        if header_length < TCP_HEADER {
            return None;
        }
        packet.tcp_flags = tcp_flags;
        packet.payload_offset = ip.next + header_length;
    }
    (packet.tuple.source, packet.tuple.destination) = ip::addresses(frame, ip)?;
    let metadata = frame.metadata();
    packet.tagged = u8::from(ip.in_band_tags != 0 || metadata.vlan_present != 0);
    packet.payload_bytes = payload(metadata, ip, packet.payload_offset);
    (packet.segments, packet.wire_bytes) =
        cost(metadata, packet.payload_offset, packet.payload_bytes, ip.jumbo);
    Some(if ip.later_fragment { Packet::Fragment(packet) } else { Packet::Tcp(packet) })
}

/// Payload bytes: up to the end of the buffer, or to the end of the packet according to IP. Frames of fewer than 60
/// bytes arrive padded, and the padding is not payload.
#[inline(always)]
fn payload(metadata: Metadata, ip: &Ip, payload_offset: u32) -> u32 {
    let mut end = metadata.length;
    if metadata.gso_size == 0 && ip.end != 0 && ip.end < end {
        end = ip.end;
    }
    end.saturating_sub(payload_offset)
}

/// The frames, and the bytes on the wire, of `payload` bytes after `headers` bytes. `jumbo` bytes of the headers are
/// left out of segments.
#[inline(always)]
fn cost(metadata: Metadata, headers: u32, payload: u32, jumbo: u32) -> (u32, u64) {
    let mut length = metadata.length;
    let mut segments = 1;
    if metadata.gso_size != 0 {
        length = length.saturating_sub(jumbo);
        segments = payload.div_ceil(metadata.gso_size).max(1);
    }
    let tags = if metadata.vlan_present == 0 { 0 } else { u64::from(VLAN_TAG) * u64::from(segments) };
    let repeated = u64::from(segments - 1) * u64::from(headers - jumbo);
    (segments, u64::from(length) + repeated + tags)
}
