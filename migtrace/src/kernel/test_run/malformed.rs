//! Truncated packets and garbage.

use super::shapes::all_shapes;
use super::*;

#[test]
fn every_packet_goes_on_to_the_next_program() {
    with_bench(&all_tunnels(), |bench| {
        // `try_run` asserts the verdict.
        let mut cut_off = 0;
        for (_, headers) in all_shapes() {
            let bytes = BuiltPacket::new(headers, [0x5a; 20]).bytes();
            for length in 14..bytes.len() {
                cut_off += u32::from(bench.try_run(IN, &bytes[..length], INTERFACE, 0));
                cut_off += u32::from(bench.try_run(OUT, &bytes[..length], INTERFACE, 1448));
            }
        }
        assert!(cut_off > 1000, "only {cut_off} were accepted");

        let packet = plain(40000, FIRST);
        for offset in [IP_VERSION, IP_PROTOCOL, TCP_LENGTH] {
            for value in 0..=255 {
                let mut bytes = packet.bytes();
                bytes[offset] = value;
                bench.run(IN, &bytes, INTERFACE, 290);
            }
        }

        // xorshift32: the same stream of bytes in each run.
        let mut state = 0x2545_f491_u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        for _ in 0..1000 {
            let length = 54 + random() as usize % 200;
            let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            let ethertypes = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]];
            bytes[12..14].copy_from_slice(&ethertypes[random() as usize % 4]);
            bench.run(IN, &bytes, INTERFACE, random() % 2000);
        }
    });
}

#[test]
fn a_packet_that_ends_before_its_tcp_flags_is_not_counted() {
    with_default_bench(|bench| {
        bench.adopt(flow(40000, FIRST));
        let bytes = plain(40000, FIRST).bytes();
        for length in IP_END..=TCP_FLAGS {
            bench.run(OUT, &bytes[..length], INTERFACE, 0);
        }
        assert_eq!(bench.flows(), []);
        bench.run(OUT, &bytes[..=TCP_FLAGS], INTERFACE, 0);
        assert_eq!(bench.flows().len(), 1);
    });
}
