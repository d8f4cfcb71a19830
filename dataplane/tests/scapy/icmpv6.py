"""A packet to the virtual address, and the ICMPv6 error about it, of at most 1280 bytes (RFC 4443)."""
from common import *


def error(name, packet, message, source=VIRTUAL6):
    before = Ether(bytes(Ether(**MAC) / packet))
    quoted = bytes(before[IPv6])[: 40 + before[IPv6].plen][: 1280 - 48]
    after = Ether(**MAC) / IPv6(src=source, dst=before[IPv6].src, hlim=64) / message / Raw(quoted)
    case(name, before, after)


ip = IPv6(src=CLIENT6, dst=VIRTUAL6, tc=0xB8, fl=0xABCDE)
udp = UDP(sport=40000, dport=80)
error("port_unreachable", ip / udp / ODD, ICMPv6DestUnreach(code=4))
error("port_unreachable", ip / TCP(sport=40000, dport=80, flags="S"), ICMPv6DestUnreach(code=4))
error("port_unreachable", ip / IPv6ExtHdrDestOpt() / udp / ODD, ICMPv6DestUnreach(code=4))
error("packet_too_big", ip / TCP(sport=40000, dport=80, flags="A") / (b"\x5a\xa5" * 720), ICMPv6PacketTooBig(mtu=1460))
error("packet_too_big", ip / IPv6ExtHdrFragment(m=1, id=7) / udp / (b"\x5a\xa5" * 700), ICMPv6PacketTooBig(mtu=1460))
dying = IPv6(src=CLIENT6, dst=VIRTUAL6, hlim=1) / udp / b"hello"
error("time_exceeded", dying, ICMPv6TimeExceeded(), DIRECTOR6)
error("time_exceeded", dying / Padding(b"\xaa" * 3), ICMPv6TimeExceeded(), DIRECTOR6)
