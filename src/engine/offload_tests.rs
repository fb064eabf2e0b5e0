//! Splitting and joining undo each other.

use proptest::prelude::*;

use super::{
    checksum::{Sum, pseudo_header},
    fuzz::offload::{join, split as split_if_it_fits},
    packet::{TCP, UDP, read_u16, write_u16, write_u32},
    segment::{Segments, complete_checksum},
    tun::{Prologue, Segmentation},
};

/// What a test packet is made of.
#[derive(Debug, Clone, Copy)]
struct Shape {
    v6: bool,
    udp: bool,
    options: bool,
    port: u16,
    ecn: u8,
    id: u16,
    atomic: bool,
    sequence: u32,
    flags: u8,
    payload: usize,
}

const PLAIN: Shape = Shape {
    v6: false,
    udp: false,
    options: true,
    port: 1000,
    ecn: 0,
    id: 7,
    atomic: true,
    sequence: 100,
    flags: 0x10,
    payload: 1000,
};

impl Shape {
    fn network(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn header(&self) -> usize {
        self.network()
            + match (self.udp, self.options) {
                (true, _) => 8,
                (false, true) => 32,
                (false, false) => 20,
            }
    }

    fn protocol(&self) -> u8 {
        if self.udp { UDP } else { TCP }
    }

    /// The packet, with its transport checksum inverted or left as the pseudo-header's.
    fn packet(&self, complete: bool) -> Vec<u8> {
        let mut packet = vec![0; self.header() + self.payload];
        for (i, byte) in packet[self.header()..].iter_mut().enumerate() {
            *byte = (self.sequence as usize + i).wrapping_mul(31) as u8;
        }
        let length = packet.len();
        let addresses = if self.v6 {
            packet[0] = 0x60;
            packet[1] = self.ecn << 4;
            write_u16(&mut packet, 4, (length - 40) as u16);
            (packet[6], packet[7]) = (self.protocol(), 64);
            (packet[8], packet[39]) = (0xfd, 1);
            8..40
        } else {
            (packet[0], packet[1]) = (0x45, self.ecn);
            write_u16(&mut packet, 2, length as u16);
            write_u16(&mut packet, 4, self.id);
            packet[6] = u8::from(self.atomic) << 6;
            (packet[8], packet[9]) = (64, self.protocol());
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = Sum::default().bytes(&packet[..20]).checksum();
            write_u16(&mut packet, 10, sum);
            12..20
        };
        let pseudo = pseudo_header(&packet[addresses], self.protocol(), length - self.network());
        let transport = &mut packet[self.network()..];
        write_u16(transport, 0, self.port);
        write_u16(transport, 2, 80);
        let field = if self.udp {
            write_u16(transport, 4, (8 + self.payload) as u16);
            6
        } else {
            write_u32(transport, 4, self.sequence);
            write_u32(transport, 8, 5000);
            transport[12] = if self.options { 0x80 } else { 0x50 };
            transport[13] = self.flags;
            write_u16(transport, 14, 512);
            if self.options {
                transport[20..32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
            }
            16
        };
        write_u16(transport, field, pseudo.partial());
        if complete {
            let sum = {
                write_u16(transport, field, 0);
                pseudo.bytes(transport).checksum()
            };
            write_u16(transport, field, if sum == 0 && self.udp { 0xffff } else { sum });
        }
        packet
    }

    fn prologue(&self, segment_size: usize) -> Prologue {
        Prologue {
            needs_checksum: true,
            segmentation: match (self.udp, self.v6) {
                (true, _) => Segmentation::Udp,
                (false, false) => Segmentation::Tcp4,
                (false, true) => Segmentation::Tcp6,
            },
            header_length: self.header() as u16,
            segment_size: segment_size as u16,
            checksum_start: self.network() as u16,
            checksum_offset: if self.udp { 6 } else { 16 },
        }
    }
}

fn split(prologue: &Prologue, packet: &[u8]) -> Vec<Vec<u8>> {
    split_if_it_fits(prologue, packet).expect("headers fit")
}

/// Every packet of `shapes` comes back from joining and splitting as it was.
fn assert_round_trip(shapes: &[Shape]) -> Vec<(Prologue, Vec<u8>)> {
    let packets: Vec<_> = shapes.iter().map(|shape| shape.packet(true)).collect();
    let written = join(&packets);
    let again: Vec<_> = written
        .iter()
        .flat_map(|(prologue, packet)| split(prologue, packet))
        .collect();
    assert_eq!(again, packets);
    written
}

fn run(first: Shape, sizes: &[usize]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut next = first;
    for size in sizes {
        next.payload = *size;
        shapes.push(next);
        next.sequence = next.sequence.wrapping_add(*size as u32);
        next.id = next.id.wrapping_add(1);
    }
    shapes
}

#[test]
fn a_run_becomes_one_write() {
    for v6 in [false, true] {
        let first = Shape { v6, ..PLAIN };
        let written = assert_round_trip(&run(first, &[1000, 1000, 1000, 400]));
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].0, first.prologue(1000));
        let datagrams = assert_round_trip(&run(Shape { udp: true, ..first }, &[1000, 1000, 400]));
        assert_eq!(datagrams.len(), 1);
    }
}

#[test]
fn what_differs_is_not_joined() {
    let second = |change: fn(&mut Shape)| {
        let mut shapes = run(PLAIN, &[1000, 1000]);
        change(&mut shapes[1]);
        assert_round_trip(&shapes).len()
    };
    assert_eq!(second(|_| ()), 1);
    assert_eq!(second(|shape| shape.port = 1001), 2);
    assert_eq!(second(|shape| shape.ecn = 3), 2);
    assert_eq!(second(|shape| shape.sequence += 1), 2);
    assert_eq!(second(|shape| shape.payload = 1001), 2);
    assert_eq!(second(|shape| shape.flags = 0x11), 2);
    assert_eq!(second(|shape| shape.flags = 0x02), 2);
    assert_eq!(second(|shape| shape.atomic = false), 2);
    assert_eq!(second(|shape| shape.options = false), 2);
    assert_eq!(second(|shape| shape.udp = true), 2);
    assert_eq!(second(|shape| shape.v6 = true), 2);
    assert_eq!(second(|shape| shape.payload = 0), 2);
}

#[test]
fn push_ends_a_run_and_a_short_segment_too() {
    let mut shapes = run(PLAIN, &[1000, 1000, 1000, 1000]);
    shapes[1].flags = 0x18;
    assert_eq!(assert_round_trip(&shapes).len(), 2);
    assert_eq!(assert_round_trip(&run(PLAIN, &[1000, 999, 999])).len(), 2);
}

#[test]
fn a_corrupt_packet_keeps_its_wrong_checksum() {
    let shapes = run(PLAIN, &[1000, 1000, 1000]);
    for broken in 0..3 {
        let mut packets: Vec<_> = shapes.iter().map(|shape| shape.packet(true)).collect();
        *packets[broken].last_mut().unwrap() ^= 1;
        let written = join(&packets);
        let again: Vec<_> = written
            .iter()
            .flat_map(|(prologue, packet)| split(prologue, packet))
            .collect();
        assert_eq!(again, packets);
        assert!(
            written.iter().any(|(_, packet)| *packet == packets[broken]),
            "written alone"
        );
    }
}

#[test]
fn runs_stop_at_the_longest_packet() {
    let written = assert_round_trip(&run(PLAIN, &[1400; 100]));
    assert_eq!(written.len(), 3);
    assert!(written.iter().all(|(_, packet)| packet.len() <= 65_535));
    let written = assert_round_trip(&run(Shape { udp: true, ..PLAIN }, &[100; 130]));
    assert_eq!(written.len(), 3, "64 datagrams each");
}

#[test]
fn splitting_keeps_marks_where_they_belong() {
    let shape = Shape {
        flags: 0x80 | 0x10 | 0x08 | 0x01,
        payload: 2500,
        ..PLAIN
    };
    let flags: Vec<_> = split(&shape.prologue(1000), &shape.packet(false))
        .iter()
        .map(|packet| packet[33])
        .collect();
    assert_eq!(flags, [0x90, 0x10, 0x19], "CWR first, PSH and FIN last");
}

#[test]
fn a_checksum_is_completed() {
    for shape in [PLAIN, Shape { udp: true, ..PLAIN }, Shape { v6: true, ..PLAIN }] {
        let mut packet = shape.packet(false);
        complete_checksum(&shape.prologue(0), &mut packet).unwrap();
        assert_eq!(packet, shape.packet(true));
    }
}

#[test]
fn nonsense_is_refused() {
    let packet = PLAIN.packet(false);
    let good = PLAIN.prologue(1000);
    for bad in [
        Prologue {
            segment_size: 0,
            ..good
        },
        Prologue {
            checksum_start: 0,
            ..good
        },
        Prologue {
            checksum_start: 9000,
            ..good
        },
        Prologue {
            segmentation: Segmentation::Tcp6,
            ..good
        },
    ] {
        assert!(Segments::new(&bad, &packet).is_none(), "{bad:?}");
    }
    assert!(Segments::new(&good, &packet[..52]).is_none(), "headers alone");
    let mut short = vec![0x45; 30];
    let outside = Prologue {
        checksum_offset: 20,
        ..good
    };
    assert!(complete_checksum(&outside, &mut short).is_none());
}

prop_compose! {
    fn shape()(
        v6 in any::<bool>(), udp in any::<bool>(), options in any::<bool>(), ecn in 0_u8..4, id in any::<u16>(),
        atomic in any::<bool>(), sequence in any::<u32>(), push in any::<bool>()
    ) -> Shape {
        Shape { v6, udp, options, ecn, id, atomic, sequence, flags: if push { 0x18 } else { 0x10 }, ..PLAIN }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn splitting_gives_intact_segments(mut shape in shape(), payload in 1_usize..60_000, size in 1_usize..9000) {
        let size = size.max(payload / 64 + 1);
        shape.payload = payload;
        let segments = split(&shape.prologue(size), &shape.packet(false));
        let expected: Vec<_> = (0..payload).step_by(size).map(|at| size.min(payload - at)).collect();
        prop_assert_eq!(segments.len(), expected.len());
        let whole = shape.packet(false);
        let mut payloads = Vec::new();
        for (index, (segment, size)) in segments.iter().zip(&expected).enumerate() {
            prop_assert_eq!(segment.len(), shape.header() + size);
            let addresses = if shape.v6 { &segment[8..40] } else { &segment[12..20] };
            let transport = &segment[shape.network()..];
            prop_assert!(pseudo_header(addresses, shape.protocol(), transport.len()).bytes(transport).is_valid());
            if !shape.v6 {
                prop_assert!(Sum::default().bytes(&segment[..20]).is_valid());
                prop_assert_eq!(read_u16(segment, 4), Some(shape.id.wrapping_add(index as u16)));
            }
            payloads.extend_from_slice(&segment[shape.header()..]);
        }
        prop_assert_eq!(&payloads[..], &whole[shape.header()..]);
    }

    #[test]
    fn joining_and_splitting_change_nothing(
        flows in proptest::collection::vec((shape(), proptest::collection::vec(1_usize..200, 1..20)), 1..5),
        order in proptest::collection::vec(0_usize..5, 0..80)
    ) {
        let mut queues: Vec<_> = flows
            .iter()
            .enumerate()
            .map(|(i, (first, sizes))| run(Shape { port: i as u16, ..*first }, sizes).into_iter())
            .collect();
        let mut shapes = Vec::new();
        for pick in order {
            let pick = pick % queues.len();
            shapes.extend(queues[pick].next());
        }
        shapes.extend(queues.into_iter().flatten());
        assert_round_trip(&shapes);
    }
}
