//! What the programs cost for a packet of each kind, compared with a program that does nothing.

use anyhow::{Context as _, Result, bail};
use migtrace::kernel::Settings;
use migtrace::kernel::cost::{Program, Trial};
use migtrace::units::Flow;
use serde::Serialize;

use crate::statistics::Spread;

/// How often each kind is measured, in turn with the others.
const REPEATS: usize = 31;
/// How many packets make one measurement.
const RUNS: u32 = 100_000;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TAG: [u8; 4] = [0x81, 0x00, 0x00, 0x07];
const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const OBSERVER: [u8; 4] = [10, 0, 0, 1];
const TARGET: [u8; 4] = [10, 0, 0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;
const WATCHED_PORT: u16 = 49152;
const OTHER_PORT: u16 = 443;
/// The ends of the watched packets.
const WATCHED_ENDS: [(&str, &str); 2] =
    [("10.0.0.1:40000", "10.0.0.2:49152"), ("[fd77::1]:40000", "[fd77::2]:49152")];

/// Nanoseconds above an empty program.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Budget {
    pub(crate) most_ns: f64,
    pub(crate) aim_ns: f64,
}

const NOT_WATCHED: Budget = Budget { most_ns: 10.0, aim_ns: 3.0 };
const ECHO: Budget = Budget { most_ns: 200.0, aim_ns: 120.0 };
const WATCHED: Budget = Budget { most_ns: 110.0, aim_ns: 75.0 };

/// A kind of packet, and what it costs.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) packet: &'static str,
    /// CPU time over the empty program, of pairs measured one after the other.
    pub(crate) over_empty_ns: Spread,
    /// CPU time as a multiple of the empty program's.
    pub(crate) ratio: Spread,
    pub(crate) budget: Budget,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Packets {
    /// CPU time of the empty program, with what the kernel does around it.
    pub(crate) empty_ns: Spread,
    pub(crate) rows: Vec<Row>,
    /// Packets that were passed to the counting program.
    pub(crate) passed: u64,
    /// Messages to user space that they caused.
    pub(crate) messages: u64,
}

/// Runs every kind of packet in turn, the empty program before each.
pub(crate) fn measure() -> Result<Packets> {
    let mut trial = Trial::load(&Settings::default(), TARGET.into()).context("cannot load the programs")?;
    for (local, remote) in WATCHED_ENDS {
        let flow = Flow { local: local.parse()?, remote: remote.parse()? };
        trial.watch(flow).context("the programs cannot count the watched packets")?;
    }
    let kinds = kinds();
    // A reply counts only after its request.
    trial
        .run(Program::Echo, &echo(ECHO_REQUEST, OBSERVER, TARGET), 1)
        .context("the kernel does not run an echo request")?;
    for Kind { name, program, frame, .. } in &kinds {
        // The first packet of a flow makes its entry, and the first run warms the caches.
        for program in [Program::Empty, *program] {
            trial
                .run(program, frame, RUNS)
                .with_context(|| format!("the kernel does not run a packet of {name}"))?;
        }
    }
    let mut measured = vec![Vec::new(); kinds.len()];
    for _ in 0..REPEATS {
        for (Kind { program, frame, .. }, pairs) in kinds.iter().zip(&mut measured) {
            let time = |program| -> Result<f64> {
                let spent = trial.run(program, frame, RUNS)?;
                Ok(spent.as_secs_f64() * 1e9 / f64::from(RUNS))
            };
            pairs.push((time(Program::Empty)?, time(*program)?));
        }
    }
    let empty_ns = Spread::of(measured.iter().flatten().map(|(empty, _)| *empty));
    if !empty_ns.median.is_normal() {
        bail!("this kernel does not account the CPU time of a thread finely enough to measure packets");
    }
    let rows = kinds.iter().zip(&measured).map(|(Kind { name, budget, .. }, pairs)| Row {
        packet: name,
        over_empty_ns: Spread::of(pairs.iter().map(|(empty, counting)| counting - empty)),
        ratio: Spread::of(pairs.iter().map(|(empty, counting)| counting / empty)),
        budget: *budget,
    });
    let rows = rows.collect();
    let passed = kinds.len() as u64 * (REPEATS as u64 + 1) * u64::from(RUNS);
    Ok(Packets { empty_ns, rows, passed, messages: trial.messages() as u64 })
}

struct Kind {
    name: &'static str,
    program: Program,
    frame: Vec<u8>,
    budget: Budget,
}

fn kinds() -> Vec<Kind> {
    let counted = |name, frame, budget| Kind { name, program: Program::Egress, frame, budget };
    vec![
        counted("ARP", frame(&[], [0x08, 0x06], &[0; 46]), NOT_WATCHED),
        counted("UDP", ipv4(&[], UDP, OTHER_PORT), NOT_WATCHED),
        counted("TCP, not watched", ipv4(&[], TCP, OTHER_PORT), NOT_WATCHED),
        counted("TCP, not watched, IPv6", ipv6(&[], OTHER_PORT), NOT_WATCHED),
        counted("TCP, not watched, VLAN tag among the bytes", ipv4(&TAG, TCP, OTHER_PORT), NOT_WATCHED),
        counted("TCP, watched", ipv4(&[], TCP, WATCHED_PORT), WATCHED),
        counted("TCP, watched, IPv6", ipv6(&[], WATCHED_PORT), WATCHED),
        counted("TCP, watched, VLAN tag among the bytes", ipv4(&TAG, TCP, WATCHED_PORT), WATCHED),
        Kind {
            name: "a guest's, at its tap",
            program: Program::Guest,
            frame: ipv4(&[], TCP, OTHER_PORT),
            budget: WATCHED,
        },
        Kind {
            name: "echo reply of a probed address, where it is probed",
            program: Program::Echo,
            frame: echo(ECHO_REPLY, TARGET, OBSERVER),
            budget: ECHO,
        },
        Kind {
            name: "TCP, where an address is probed",
            program: Program::Echo,
            frame: ipv4(&[], TCP, OTHER_PORT),
            budget: NOT_WATCHED,
        },
    ]
}

/// An echo message with the ICMP identifier 1 and the sequence number 1.
fn echo(kind: u8, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let header = [&[0x45, 0, 0, 44, 0, 1, 0x40, 0, 64, ICMP, 0, 0][..], &source, &destination].concat();
    let message = [&[kind, 0, 0, 0, 0, 1, 0, 1][..], &[0; 16]].concat();
    frame(&[], ETHERTYPE_IPV4, &[header, message].concat())
}

fn frame(tag: &[u8], ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], tag, &ethertype, packet].concat()
}

fn ipv4(tag: &[u8], protocol: u8, port: u16) -> Vec<u8> {
    let inner = transport(protocol, port);
    let length = u16::try_from(20 + inner.len()).unwrap_or(u16::MAX).to_be_bytes();
    let header = [&[0x45, 0], &length[..], &[0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]];
    frame(tag, ETHERTYPE_IPV4, &[&header.concat()[..], &inner].concat())
}

fn ipv6(tag: &[u8], port: u16) -> Vec<u8> {
    let inner = transport(TCP, port);
    let length = u16::try_from(inner.len()).unwrap_or(u16::MAX).to_be_bytes();
    let address = |last| [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let header = [&[0x60, 0, 0, 0], &length[..], &[TCP, 64], &address(1), &address(2)].concat();
    frame(tag, ETHERTYPE_IPV6, &[&header[..], &inner].concat())
}

/// The header of a full segment with its time stamps (or a datagram), and the payload.
fn transport(protocol: u8, port: u16) -> Vec<u8> {
    let ports = [40000_u16.to_be_bytes(), port.to_be_bytes()].concat();
    let rest: &[u8] = if protocol == TCP {
        &[0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]
    } else {
        &[0x05, 0xb0, 0, 0]
    };
    [&ports[..], rest, &[0; 1448]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_segment_fills_an_ethernet_frame() {
        assert_eq!(ipv4(&[], TCP, 1).len(), 14 + 1500);
        assert_eq!(ipv4(&TAG, TCP, 1).len(), 18 + 1500);
        assert_eq!(ipv6(&[], 1).len(), 14 + 40 + 32 + 1448);
    }
}
