"""Chains of extension headers."""
from common import *

ip = IPv6(src=CLIENT6, dst=VIRTUAL6)
tcp = TCP(sport=40000, dport=80, flags="S", seq=1000)
udp = UDP(sport=40000, dport=80)
fill = HBHOptUnknown(otype=0x1E, optdata=b"\1\2\3\4")
authentication = lambda nh: Raw(bytes([nh, 4, 0, 0]) + b"\0\0\0\1" * 2 + b"\xee" * 12)

case("tcp", ip / tcp)
case("hop_by_hop_udp", ip / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / udp / b"dns")
# 40 + 8 + 16 + 24 + 8 + 16 (authentication, 4-byte words) = 112
every = (
    ip
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 8)])
    / IPv6ExtHdrRouting(addresses=["2001:db8::aaaa"], segleft=0)
    / IPv6ExtHdrFragment(nh=51, m=1, id=7)
    / Raw(bytes([6, 2, 0, 0]) + b"\0\0\0\1\0\0\0\2" + b"\xee" * 4)
    / tcp
)
case("every_header", every)
case("routing_done", ip / IPv6ExtHdrRouting(addresses=["2001:db8::aaaa"], segleft=0) / tcp)
case("routing_to_go", ip / IPv6ExtHdrRouting(addresses=["2001:db8::aaaa"], segleft=1) / tcp)
case("first_fragment", ip / IPv6ExtHdrFragment(m=1, id=7) / udp / ODD)
case("later_fragment", ip / IPv6ExtHdrFragment(nh=17, offset=181, id=7) / Raw(ODD))
case("later_fragment_of_destination_options", ip / IPv6ExtHdrFragment(nh=60, offset=1, m=1, id=7) / Raw(b"12345678"))
case("atomic_fragment", ip / IPv6ExtHdrFragment(id=7) / tcp)
case("fragment_of_fragment", ip / IPv6ExtHdrFragment(m=1, id=7) / IPv6ExtHdrFragment(m=1, id=8) / tcp)
case("hop_by_hop_second", ip / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / tcp)


def options(n):
    packet = ip
    for _ in range(n):
        packet = packet / IPv6ExtHdrDestOpt()
    return packet / tcp


case("eight_headers", options(8))
case("nine_headers", options(9))
case("no_next_header", IPv6(src=CLIENT6, dst=VIRTUAL6, nh=59))
case("esp", IPv6(src=CLIENT6, dst=VIRTUAL6, nh=50) / Raw(b"\0\0\0\1\0\0\0\1secret.."))
case("authentication", IPv6(src=CLIENT6, dst=VIRTUAL6, nh=51) / authentication(6) / tcp)
# The length field agrees with the bytes; the extension header's own does not.
case("cut_in_extension", IPv6(src=CLIENT6, dst=VIRTUAL6, nh=60) / Raw(bytes([6, 2, 1, 12]) + b"\0" * 12))
case("cut_before_extension", IPv6(src=CLIENT6, dst=VIRTUAL6, nh=60) / Raw(bytes([6, 0, 1])))
case("flow_label", IPv6(src=CLIENT6, dst=VIRTUAL6, tc=0xB9, fl=0xABCDE) / tcp)
