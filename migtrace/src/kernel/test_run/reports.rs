//! What the programs report through the ring buffer.

use super::connection::CLIENT;
use super::shapes::all_shapes;
use super::*;

#[test]
fn the_first_payload_of_a_flow_is_reported_once_in_each_direction() {
    with_default_bench(|bench| {
        let sent = flow(40000, FIRST);
        bench.adopt(sent);
        let flow = bench.0.flows().expect("the flow table").iter().map(FlowState::id).next_back();
        let flow = flow.expect("the flow, after its bucket for fragments");
        assert_eq!(flow.flow, sent);
        let mut first = plain(40000, FIRST);
        first.payload = b"QEVM\0\0\0\x03".to_vec();
        bench.pass(OUT, &first);
        first.payload = b"other".to_vec();
        bench.pass(OUT, &first);
        let first_bytes = u32::from_be_bytes(*b"QEVM");
        assert_eq!(bench.messages(), [Body::FlowPayload { flow, first_bytes }]);
        assert_eq!(purpose(first_bytes), Some(Purpose::Ram));

        let mut greeting = reversed(plain(FIRST, 40000));
        greeting.payload = b"NBDMAGIC".to_vec();
        bench.pass(IN, &greeting);
        bench.pass(IN, &greeting);
        let first_bytes = u32::from_be_bytes(*b"NBDM");
        assert_eq!(bench.messages(), [Body::FlowPayload { flow, first_bytes }]);
    });
}

#[test]
fn the_first_payload_is_read_after_every_shape_of_headers() {
    with_bench(&all_tunnels(), |bench| {
        for (index, (name, mut headers)) in all_shapes().into_iter().enumerate() {
            // A flow of its own.
            let port = 1000 + index as u16;
            if let Some(Header::Tcp { source_port, .. }) = headers.last_mut() {
                *source_port = port;
            }
            for ends in all_ends() {
                bench.adopt(Flow { local: (ends.local.ip(), port).into(), ..ends });
            }
            bench.pass(OUT, &BuiltPacket::new(headers, *b"\x11\x22\x33\x44\0\0\0\x01"));
            let messages = bench.messages();
            assert!(
                matches!(messages[..], [Body::FlowPayload { first_bytes: 0x1122_3344, .. }]),
                "{name}: {messages:?}"
            );
        }
    });
}

#[test]
fn a_full_ring_buffer_loses_messages_which_are_counted_and_nothing_else() {
    // The ring holds a MiB; a message is 80 bytes with the ring's own header.
    let flows = 14_000_u16;
    with_bench(&Settings { flow_capacity: 32768, ..Settings::default() }, |bench| {
        let mut bytes = plain(0, FIRST).bytes();
        for port in 1..=flows {
            bench.adopt(flow(port, FIRST));
            bytes[IP_END..IP_END + 2].copy_from_slice(&port.to_be_bytes());
            bench.run(OUT, &bytes, INTERFACE, 0);
        }
        let lost = bench.lost();
        let reported = bench.messages().len() as u64;
        assert!(lost.ring_buffer > 0);
        assert_eq!(reported + lost.ring_buffer, u64::from(flows));
        assert_eq!(Lost { ring_buffer: 0, ..lost }, Lost::default());
        let counted = bench.flows();
        assert_eq!(counted.len(), usize::from(flows));
        assert!(counted.iter().all(|state| state.counters.tx.skbs == 1));
    });
}

#[test]
fn the_owner_of_a_flow_is_reported_once() {
    with_default_bench(|bench| {
        bench.adopt(flow(CLIENT, FIRST));
        bench.pass(OUT, &plain(CLIENT, FIRST));
        bench.messages();
        bench.0.own(flow(CLIENT, FIRST), 4242).expect("a program that takes commands");
        bench.0.own(flow(CLIENT, FIRST), 4242).expect("a program that takes commands");
        let messages = bench.messages();
        let [Body::FlowOwned { flow: id, pid: 4242, by_user_space: true, crossed }] = messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!(id, bench.only_flow().id());
        assert_eq!(crossed.counters.tx, counters(&[&plain(CLIENT, FIRST)]));
        assert_eq!(bench.only_flow().owner, Some(4242));
    });
}
