use proptest::prelude::*;

use super::*;
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::Ipv6;
use crate::packet::protocol;
use crate::packet::vectors::vectors;
use crate::wire::memory::MemoryFrame;

const VECTORS: &str = include_str!("../../../tests/scapy/tunnel.txt");

const IDENTIFICATION: u16 = 0x1234;
/// Its upper 15 bits are GUE's source port less 32768: 0xc0de.
const HASH: u32 = (0xc0de - 0x8000) << 17 | 0x1_ffff;
const GUE_PORT: u16 = 6080;

const KINDS: [(&str, Kind); 6] = [
    ("ipip", Kind::IpIp),
    ("gre", Kind::Gre { checksum: false }),
    ("gre-csum", Kind::Gre { checksum: true }),
    ("gue", Kind::Gue { port: GUE_PORT, checksum: GueChecksum::None }),
    ("gue-csum", Kind::Gue { port: GUE_PORT, checksum: GueChecksum::Full }),
    ("gue-remcsum", Kind::Gue { port: GUE_PORT, checksum: GueChecksum::Remote }),
];

fn tunnel(kind: Kind, over: &str) -> Encapsulation {
    let [from, to] = match over {
        "4" => ["192.0.2.1", "192.0.2.9"],
        _ => ["2001:db8:ff::1", "2001:db8:ff::c0de"],
    };
    Encapsulation::new(kind, from.parse().unwrap(), to.parse().unwrap()).unwrap()
}

fn kind(name: &str) -> Kind {
    KINDS.into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn packet_in_packet_out() {
    let vectors = vectors(VECTORS);
    assert!(vectors.len() > 6 * 2 * 10, "{}", vectors.len());
    for (name, frames) in vectors {
        let mut words = name.split('/');
        let mut word = || words.next().unwrap();
        let tunnel = tunnel(kind(word()), word());
        let pmtu_disc = !word().contains("no-pmtu-disc");
        let mut frame = MemoryFrame::new(&frames[0]);
        assert_eq!(tunnel.encapsulate(&mut frame, IDENTIFICATION, HASH, pmtu_disc), Ok(()), "{name}");
        assert_eq!(frame.data()[12..], frames[1][12..], "{name}");
        assert!(frame.len() <= frames[0].len() + tunnel.overhead(), "{name}");
        // And back.
        let unwrapped = unwrap(&frame.data()[14..]).unwrap();
        assert_eq!(frame.data()[14 + unwrapped.at] >> 4, frames[0][14] >> 4, "{name}");
        let gue = matches!(tunnel.kind(), Kind::Gue { .. });
        assert_eq!(unwrapped.gue_port, gue.then_some(GUE_PORT), "{name}");
    }
}

/// A frame whose first piece ends somewhere.
#[derive(Clone, Debug)]
struct Scattered(MemoryFrame, usize);

impl Frame for Scattered {
    fn data(&self) -> &[u8] {
        &self.0.data()[..self.1]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.0.data_mut()[..self.1]
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.0.prepend(n)?;
        self.1 += n;
        Some(self.data_mut())
    }

    fn trim_front(&mut self, n: usize) -> bool {
        let fits = n <= self.1 && self.0.trim_front(n);
        self.1 -= if fits { n } else { 0 };
        fits
    }

    fn truncate(&mut self, length: usize) -> bool {
        length >= self.1 && self.0.truncate(length)
    }
}

#[test]
fn a_packet_in_pieces_is_summed_by_its_own_checksum_or_refused() {
    let mut refused = 0;
    for (name, frames) in vectors(VECTORS) {
        let mut words = name.split('/');
        let tunnel = tunnel(kind(words.next().unwrap()), words.next().unwrap());
        let pmtu_disc = !name.contains("no-pmtu-disc");
        // All headers, and hardly more.
        let seen = frames[0].len().min(14 + 40 + 24 + 20);
        let mut frame = Scattered(MemoryFrame::new(&frames[0]), seen);
        match tunnel.encapsulate(&mut frame, IDENTIFICATION, HASH, pmtu_disc) {
            Ok(()) => assert_eq!(frame.0.data()[12..][..frames[1].len() - 12], frames[1][12..], "{name}"),
            Err(error) => {
                assert_eq!(error, Refused::Scattered, "{name}");
                let without = ["without-checksum", "surplus", "fragment", "sctp", "icmp", "behind-options"];
                assert!(without.iter().any(|what| name.contains(what)), "{name}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn refusals_are_named() {
    let (_, frames) = vectors(VECTORS).swap_remove(0);
    let try_with = |change: &[(usize, u8)], tunnel: &Encapsulation| {
        let mut frame = MemoryFrame::new(&frames[0]);
        change.iter().for_each(|&(at, value)| frame.data_mut()[at] = value);
        let before = frame.clone();
        (tunnel.encapsulate(&mut frame, 0, 0, true), frame == before)
    };
    let ipip = tunnel(Kind::IpIp, "4");
    for ttl in [0, 1] {
        assert_eq!(try_with(&[(14 + 8, ttl)], &ipip), (Err(Refused::TtlExpired), true));
    }
    assert_eq!(try_with(&[(14, 0x55)], &ipip), (Err(Refused::Malformed), true));
    assert_eq!(try_with(&[(14 + 3, 255)], &ipip), (Err(Refused::Malformed), true));
    assert_eq!(ipip.encapsulate(&mut MemoryFrame::new(&[0; 13]), 0, 0, true), Err(Refused::Malformed));
    // 128 bytes of headroom: six headers of 20 bytes, and no seventh.
    let mut frame = MemoryFrame::new(&frames[0]);
    let times = (0..7).take_while(|_| ipip.encapsulate(&mut frame, 0, 0, true).is_ok()).count();
    assert_eq!(times, 6);
    assert_eq!(ipip.encapsulate(&mut frame, 0, 0, true), Err(Refused::NoHeadroom));
    // The longest there is.
    let mut longest = frames[0].clone();
    longest.resize(14 + 65535, 0);
    longest[16..18].copy_from_slice(&[255, 255]);
    assert_eq!(ipip.encapsulate(&mut MemoryFrame::new(&longest), 0, 0, true), Err(Refused::TooLong));

    let mixed = Encapsulation::new(Kind::IpIp, "192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    assert!(mixed.unwrap_err().to_string().contains("192.0.2.1 to 2001:db8::1"));
}

#[test]
fn flows_have_source_ports_of_their_own() {
    let (_, frames) = vectors(VECTORS).swap_remove(0);
    let tunnel = tunnel(kind("gue"), "4");
    let port = |hash: u32| {
        let mut frame = MemoryFrame::new(&frames[0]);
        tunnel.encapsulate(&mut frame, 0, hash, true).unwrap();
        u16::from_be_bytes([frame.data()[34], frame.data()[35]])
    };
    assert_eq!((port(0), port(u32::MAX), port(1 << 17)), (32768, 65535, 32769));
}

#[test]
fn what_grows_too_long_is_told() {
    let ip = |length: u16, dont_fragment: bool, protocol: u8| {
        let [high, low] = length.to_be_bytes();
        let flags = if dont_fragment { 0x40 } else { 0 };
        let mut packet = vec![0x45, 0, high, low, 0, 1, flags, 0, 64, protocol];
        packet.resize(usize::from(length), 7);
        packet
    };
    let ip6 = |length: u16| {
        let [high, low] = (length - 40).to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, high, low, 6, 64];
        packet.resize(usize::from(length), 7);
        packet
    };
    for (name, over, overhead) in [
        ("ipip", "4", 20),
        ("ipip", "6", 40),
        ("gre", "4", 24),
        ("gre", "6", 44),
        ("gre-csum", "4", 28),
        ("gre-csum", "6", 48),
        ("gue", "4", 32),
        ("gue", "6", 52),
        ("gue-csum", "4", 32),
        ("gue-csum", "6", 52),
        ("gue-remcsum", "4", 40),
        ("gue-remcsum", "6", 60),
    ] {
        let tunnel = tunnel(kind(name), over);
        assert_eq!(tunnel.overhead(), overhead, "{name} over IPv{over}");
        let mtu = 1500 - overhead as u16;
        assert_eq!(tunnel.inner_mtu(1500), Ok(mtu));
        for (packet, pmtu_disc, expected) in [
            (ip(mtu, true, 6), true, Fit::Whole),
            (ip(mtu + 1, true, 6), true, Fit::TooBig { mtu }),
            (ip(mtu + 1, false, 6), true, Fit::Fragment),
            (ip(mtu + 1, true, 6), false, Fit::Fragment),
            (ip(mtu + 1, true, 1), true, Fit::Fragment),
            (ip6(mtu), true, Fit::Whole),
            (ip6(mtu + 1), true, Fit::TooBig { mtu }),
            (ip6(mtu + 1), false, Fit::TooBig { mtu }),
        ] {
            assert_eq!(tunnel.fit(&packet, 1500, pmtu_disc), Ok(expected), "{name} over IPv{over}");
        }
        // The least: 68 bytes inside IPv4, 1280 inside IPv6.
        let least = if over == "4" { 68 } else { 1280 };
        assert_eq!(tunnel.inner_mtu(least + overhead), Ok(least as u16));
        let error = tunnel.inner_mtu(least + overhead - 1).unwrap_err();
        assert!(error.to_string().contains(&format!("needs {least}")), "{error}");
    }
}

#[test]
fn what_is_no_tunnel_is_not_unwrapped() {
    let vectors = vectors(VECTORS);
    let outer = |wanted: &str| {
        let (_, frames) = vectors.iter().find(|(name, _)| name.starts_with(wanted)).unwrap();
        frames[1][14..].to_vec()
    };
    let unwrapped = |wanted: &str, change: &[(usize, u8)]| {
        let mut packet = outer(wanted);
        change.iter().for_each(|&(at, value)| packet[at] = value);
        unwrap(&packet).map(|unwrapped| unwrapped.at)
    };
    assert_eq!(unwrapped("ipip/4/", &[]), Some(20));
    assert_eq!(unwrapped("ipip/4/", &[(7, 1)]), None, "a later fragment");
    assert_eq!(unwrapped("ipip/4/", &[(20, 0x65)]), None, "not what the header says");
    assert_eq!(unwrapped("ipip/4/", &[(9, 6)]), None, "TCP");
    assert_eq!(unwrapped("gre/4/", &[]), Some(24));
    assert_eq!(unwrapped("gre-csum/4/", &[]), Some(28));
    assert_eq!(unwrapped("gre/4/", &[(20, 0x20)]), None, "a key");
    assert_eq!(unwrapped("gre/4/", &[(21, 1)]), None, "version 1");
    assert_eq!(unwrapped("gre/4/", &[(22, 0x65), (23, 0x58)]), None, "Ethernet");
    assert_eq!(unwrapped("gue/6/", &[]), Some(52));
    assert_eq!(unwrapped("gue/6/", &[(48, 0x20)]), None, "a control message");
    assert_eq!(unwrapped("gue/6/", &[(48, 0x40)]), None, "variant 1");
    assert_eq!(unwrapped("gue/6/", &[(49, 6)]), None, "TCP");
    for name in ["ipip/4/", "gre/4/", "gre-csum/6/", "gue-remcsum/6/"] {
        let packet = outer(name);
        let at = unwrap(&packet).unwrap().at;
        for length in 0..=at {
            assert_eq!(unwrap(&packet[..length]), None, "{name} {length}");
        }
        assert!(unwrap(&packet[..at + 1]).is_some(), "{name}");
    }
}

/// The outer packet's lengths and IP checksum are right, whatever was inside.
fn check_outer(packet: &[u8]) {
    if packet[0] >> 4 == 4 {
        let ip = Ipv4::new(packet, packet.len()).unwrap();
        assert!(ip.checksum_is_right());
        assert_eq!(usize::from(ip.total_length()), packet.len());
        if ip.protocol() == protocol::UDP && packet[26..28] != [0, 0] {
            let pseudo = checksum::pseudo_ipv4(ip.source(), ip.destination(), 17, packet.len() as u16 - 20);
            assert_eq!(checksum::fold(pseudo + checksum::sum(&packet[20..])), 0xffff);
        }
    } else {
        let ip = Ipv6::new(packet, packet.len()).unwrap();
        assert_eq!(ip.total_length(), packet.len());
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x60, 0]),
        next in prop::sample::select(vec![4u8, 6, 17, 41, 44, 47, 0]),
        length in 0usize..300, which in 0usize..12,
    ) {
        let at = if first == 0x60 { (18, 20) } else { (16, 23) };
        for (place, value) in [(14, first), (at.0, 0), (at.0 + 1, length as u8), (at.1, next)] {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        let _ = unwrap(bytes.get(14..).unwrap_or_default());
        let tunnel = tunnel(KINDS[which % 6].1, if which < 6 { "4" } else { "6" });
        let _ = tunnel.fit(bytes.get(14..).unwrap_or_default(), length, true);
        let mut frame = Scattered(MemoryFrame::new(&bytes), length.min(bytes.len()));
        let _ = tunnel.encapsulate(&mut frame, 7, 7, true);
        let mut frame = MemoryFrame::new(&bytes);
        if tunnel.encapsulate(&mut frame, 7, 7, true).is_ok() {
            // Random bytes do not have right checksums inside, so only those of UDP that cover all can be checked.
            if !matches!(next, 6 | 17) && first != 0x60 {
                check_outer(&frame.data()[14..]);
            }
        }
    }
}
