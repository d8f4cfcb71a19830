"""ICMPv6 errors that the real server sends about a client's packet, and the same from the virtual address: inside and outside the server's
address is replaced, and one hop is taken off the outside."""
from common import *


def error(name, message, payload, middle=None):
    def at(address, port, hops):
        quoted = IPv6(src=CLIENT6, dst=address, hlim=61, fl=0x777)
        quoted = bytes((quoted / middle if middle else quoted) / payload(port))
        return IPv6(src=address, dst=CLIENT6, hlim=hops) / message / Raw(quoted)

    case(name, at(SERVER6, 8080, 64), at(VIRTUAL6, 80, 63))


tcp = lambda port: TCP(sport=40000, dport=port, seq=1000, ack=5, flags="PA") / ODD
udp = lambda port: UDP(sport=40000, dport=port) / ODD
error("tcp_too_big", ICMPv6PacketTooBig(mtu=1400), tcp)
error("udp_unreachable", ICMPv6DestUnreach(code=4), udp)
error("tcp_behind_options", ICMPv6TimeExceeded(), tcp, IPv6ExtHdrDestOpt())
error("udp_first_fragment", ICMPv6DestUnreach(code=4), udp, IPv6ExtHdrFragment(m=1, id=9))


def sctp(address, port, hops):
    check = SCTP(bytes(SCTP(sport=40000, dport=8080, tag=1))).chksum
    quoted = IPv6(src=CLIENT6, dst=address, hlim=61) / SCTP(sport=40000, dport=port, tag=1, chksum=check)
    return IPv6(src=address, dst=CLIENT6, hlim=hops) / ICMPv6DestUnreach(code=4) / Raw(bytes(quoted))


case("sctp", sctp(SERVER6, 8080, 64), sctp(VIRTUAL6, 80, 63))
