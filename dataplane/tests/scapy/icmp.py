"""A packet to the virtual address, and the ICMP error about it. The error is at most 576 bytes long (RFC 1812), what is over falls off
the quote. Its type of service is the packet's, without ECN's last bit, at the precedence of internetwork control."""
from common import *


def error(name, packet, message, source=VIRTUAL):
    before = Ether(bytes(Ether(**MAC) / packet))
    quoted = bytes(before[IP])[: before[IP].len][: 576 - 28]
    tos = before[IP].tos & 0x1E | 0xC0
    after = Ether(**MAC) / IP(src=source, dst=before[IP].src, tos=tos, id=0x1234, ttl=64) / message / Raw(quoted)
    case(name, before, after)


ip = IP(src=CLIENT, dst=VIRTUAL, flags="DF")
error("port_unreachable", ip / TCP(sport=40000, dport=80, flags="S"), ICMP(type=3, code=3))
error("port_unreachable", ip / UDP(sport=40000, dport=80) / ODD, ICMP(type=3, code=3))
big = ip / TCP(sport=40000, dport=80, flags="A") / (b"\x5a\xa5" * 730)
error("fragmentation_needed", big, ICMP(type=3, code=4, nexthopmtu=1476))
big.tos = 0xBB
big.options = [IPOption_NOP()] * 8
error("fragmentation_needed", big, ICMP(type=3, code=4, nexthopmtu=1476))
dying = IP(src=CLIENT, dst=VIRTUAL, ttl=1) / UDP(sport=40000, dport=80) / b"hello"
error("time_exceeded", dying, ICMP(type=11, code=0), DIRECTOR)
error("time_exceeded", dying / Padding(b"\xaa" * 9), ICMP(type=11, code=0), DIRECTOR)
