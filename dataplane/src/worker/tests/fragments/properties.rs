//! What holds for whatever fragments there are.

use std::collections::BTreeSet;

use super::*;
use crate::parse::{AnyFlow, IpPacket, Packet, Packet6};

/// Which flows: there or back, over what.
#[derive(Clone, Copy, Debug)]
struct Kind {
    is_ipv6: bool,
    is_answer: bool,
    method: Method,
    protocol: u8,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let method = prop_oneof![3 => Just(Method::Nat), 1 => Just(Method::DirectRouting)];
    let protocol = prop_oneof![2 => Just(protocol::UDP), 1 => Just(protocol::TCP)];
    (any::<[bool; 2]>(), method, protocol).prop_map(|([is_ipv6, is_answer], method, protocol)| Kind {
        is_ipv6,
        is_answer: is_answer && method == Method::Nat,
        method,
        protocol,
    })
}

impl Kind {
    /// A whole packet, as it comes in or as it goes out.
    fn packet(self, is_sent: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
        let is_nat = self.method == Method::Nat;
        let mac = if self.is_answer { LAN } else { WAN };
        if self.is_ipv6 {
            let (client, server) = ((CLIENT6, 40_000), if is_nat && is_sent { SERVERS6[1] } else { VIP6 });
            let flow = match self.is_answer {
                false => Flow6::new(self.protocol, client, server),
                true => Flow6::new(self.protocol, if is_sent { VIP6 } else { SERVERS6[1] }, client),
            };
            return frame6(mac, flow, flags, payload);
        }
        let (client, server) = ((CLIENT, 40_000), if is_nat && is_sent { SERVERS[1] } else { VIP });
        let flow = match self.is_answer {
            false => Flow::new(self.protocol, client, server),
            true => Flow::new(self.protocol, if is_sent { VIP } else { SERVERS[1] }, client),
        };
        frame(mac, flow, flags, payload)
    }
}

/// Cuts a whole packet at these places, in bytes from the end of its IP header.
fn cut(packet: &[u8], cuts: &[usize], identification: u32) -> Vec<Vec<u8>> {
    let is_ipv4 = packet[14] >> 4 == 4;
    let front = 14 + if is_ipv4 { 20 } else { 40 };
    let payload = &packet[front..];
    let ends = cuts.iter().skip(1).copied().chain([payload.len()]);
    let piece = |(start, end): (usize, usize)| {
        let (part, more) = (&payload[start..end], end < payload.len());
        let mut piece = if is_ipv4 {
            let ip = Ipv4::new(&packet[14..], packet.len() - 14).unwrap();
            let ends = (ip.source(), ip.destination());
            fragment_of(ip.protocol(), ends, identification as u16, start, more, part)
        } else {
            let ip = Ipv6::new(&packet[14..], packet.len() - 14).unwrap();
            fragment6(packet[20], (ip.source(), ip.destination()), identification, (start, more), part)
        };
        piece[..14].copy_from_slice(&packet[..14]);
        piece
    };
    cuts.iter().copied().zip(ends).map(piece).collect()
}

/// What the fragments are of: the payload of the IP packet, where they are all of it and fit.
fn put_together(frames: &[MemoryFrame]) -> Option<Vec<u8>> {
    let mut parts: Vec<_> = frames
        .iter()
        .map(|frame| {
            let packet = &frame.data()[14..];
            if packet[0] >> 4 == 4 {
                let ip = Ipv4::new(packet, packet.len()).unwrap();
                assert!(ip.checksum_is_right());
                (usize::from(ip.fragment_offset()), ip.has_more_fragments(), &packet[20..])
            } else {
                let fragment = Ipv6::new(packet, packet.len()).unwrap().upper().unwrap().fragment.unwrap();
                (usize::from(fragment.offset), fragment.more, &packet[ip6_packet::HEADER + 8..])
            }
        })
        .collect();
    parts.sort();
    let mut payload = vec![];
    for (n, (offset, more, part)) in parts.iter().enumerate() {
        if *offset != payload.len() || *more != (n + 1 < parts.len()) {
            return None;
        }
        payload.extend(*part);
    }
    Some(payload)
}

/// A frame with a fragment, or nearly: from or to anybody, of few datagrams, of any kind.
fn any_fragment() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
    let protocol = prop::sample::select(vec![6, 17, 17, 17, 132, 1, 60, 58]);
    let place = (prop_oneof![2 => Just(0usize), 3 => 0usize..12, 1 => 0usize..8192], any::<bool>());
    let ends = (0usize..3, 0usize..3, 0u16..4);
    let payload = prop_oneof![
        3 => (prop::sample::select(vec![80u16, 53, 8080]), 0u16..64).prop_map(|(port, length)| {
            let mut payload = udp_to(port, length);
            payload.extend([7; 40]);
            payload
        }),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ];
    let length = prop_oneof![4 => (0usize..8).prop_map(|n| n * 8), 1 => 0usize..64];
    let change = prop::option::weighted(0.2, (0usize..80, any::<u8>()));
    (any::<[bool; 2]>(), 0..WORKERS, protocol, place, ends, payload, length, change).prop_map(
        |(
            [is_ipv6, from_server],
            worker,
            protocol,
            (offset, more),
            (from, to, number),
            mut payload,
            length,
            change,
        )| {
            payload.truncate(length.max(8));
            let offset = offset * 8 % 65_536;
            let mut frame = if is_ipv6 {
                let all = [CLIENT6, VIP6.0, SERVERS6[1].0];
                fragment6(protocol, (all[from], all[to]), number.into(), (offset, more), &payload)
            } else {
                let all = [CLIENT, VIP.0, SERVERS[1].0];
                fragment_of(protocol, (all[from], all[to]), number, offset, more, &payload)
            };
            if let Some((at, value)) = change
                && let Some(byte) = frame.get_mut(14 + at)
            {
                *byte = value;
                if !is_ipv6 && at < 20 && frame[14] == 0x45 {
                    frame[24..26].fill(0);
                    let check = checksum::verify(&frame[14..34]);
                    frame[24..26].copy_from_slice(&check.to_be_bytes());
                }
            }
            let port = usize::from(from_server);
            frame[..6].copy_from_slice(&[WAN, LAN][port].0);
            (worker, port, frame)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever the cuts, the order and the workers: what leaves is, put together, the datagram with the new addresses, its
    /// checksum right for the whole.
    #[test]
    fn put_together_it_is_the_datagram_as_it_would_have_left_in_one_piece(
        kind in kinds(),
        payload in prop::collection::vec(any::<u8>(), 1..3000),
        cuts in prop::collection::btree_set(3usize..300, 1..12),
        seed: u64,
    ) {
        let mut lab = lab(kind.method, kind.is_ipv6);
        let open = Kind { is_answer: false, ..kind };
        prop_assert_eq!(lab.receive(0, 0, &[open.packet(false, S, b"")]).len(), 1);
        let whole = kind.packet(false, A, &payload);
        let front = 14 + if kind.is_ipv6 { 40 } else { 20 };
        // None longer than the MTU.
        let cuts = cuts.into_iter().chain([0, 150, 300]).map(|cut| cut * 8);
        let cuts: BTreeSet<_> = cuts.filter(|cut| front + cut < whole.len()).collect();
        let cuts: Vec<_> = cuts.into_iter().collect();
        prop_assume!(cuts.len() > 1);
        let mut pieces = cut(&whole, &cuts, 0x0102_0304);
        // Shuffled, and dealt out to the workers.
        let mut random = seed;
        let mut draw = |n: usize| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (random >> 33) as usize % n
        };
        for n in (1..pieces.len()).rev() {
            pieces.swap(n, draw(n + 1));
        }
        let (from, to) = if kind.is_answer { (1, 0) } else { (0, 1) };
        let mut sent: Vec<_> =
            pieces.iter().flat_map(|piece| lab.receive(draw(WORKERS), from, std::slice::from_ref(piece))).collect();
        sent.extend(settle(&mut lab));
        prop_assert!(sent.iter().all(|(port, _)| *port == to));
        let frames: Vec<_> = sent.into_iter().map(|(_, frame)| frame).collect();
        let expected = kind.packet(true, A, &payload)[front..].to_vec();
        prop_assert_eq!(put_together(&frames), Some(expected));
        prop_assert_eq!(lab.shared.fragments.taken(), 0);
        lab.check_balance();
    }

    /// Nobody panics, every frame is accounted for once nothing waits any more, and few wait at any time.
    #[test]
    fn whatever_comes_is_accounted_for(
        fragments in prop::collection::vec((any_fragment(), prop_oneof![9 => Just(0u32), 1 => 0u32..100]), 1..120),
        method in prop_oneof![Just(Method::Nat), Just(Method::DirectRouting)],
    ) {
        let mut lab = lab(method, true);
        let both = [service_list(method, &[protocol::TCP, protocol::UDP]), super::super::ipv6::service_list(method)];
        lab.snapshot.services = Arc::new(Services::new(both.concat()));
        lab.publish();
        for ((worker, port, frame), ticks) in fragments {
            lab.receive(worker, port, &[frame]);
            lab.now = lab.now.after(ticks);
            prop_assert!(waiting(&lab) <= WORKERS * 512);
            for queue in &lab.to_kernel {
                while queue.pop().is_some() {}
            }
        }
        settle(&mut lab);
        lab.now = lab.now.after(2 * TICKS_PER_SECOND);
        settle(&mut lab);
        prop_assert_eq!(waiting(&lab), 0);
        lab.check_balance();
    }

    /// Parsing a fragment reads nothing that is not there, and agrees with what the frame is said to be.
    #[test]
    fn any_bytes_are_parsed((_, _, frame) in any_fragment(), length in 0usize..120, changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6)) {
        let mut frame = frame;
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(length.max(1));
        let frame = MemoryFrame::new(&frame);
        let v4 = matches!(Packet::parse(&frame, WAN), Parsed::Fragment);
        prop_assert!(!v4 || Packet::fragment(&frame).is_some());
        let v6 = matches!(Packet6::parse(&frame, WAN), Parsed::Fragment);
        prop_assert!(!v6 || Packet6::fragment(&frame).is_some());
        let flows = [Packet::fragment(&frame).and_then(first), Packet6::fragment(&frame).and_then(first)];
        for flow in flows.into_iter().flatten() {
            let _ = flow.digest([1, 2]);
        }
    }
}

fn first<P: IpPacket>(fragment: crate::parse::Fragment<P>) -> Option<AnyFlow> {
    match fragment.content {
        crate::parse::Content::First(packet) => Some(packet.any().flow),
        _ => None,
    }
}
