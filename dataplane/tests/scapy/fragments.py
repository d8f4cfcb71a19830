"""Fragments of datagrams as director receives them, each followed by what it sends on. A datagram is cut only after all of it was
made, so the checksums in the first fragments are scapy's own. Names are METHOD/DIRECTION/WHAT."""
from common import *

CLIENT6, VIRTUAL6, SERVER, SERVER6 = "2001:db8:cb::9", "2001:db8:64::8", "192.0.2.10", "2001:db8:2::a"
DATA = bytes(range(61))


def fragments(name, macs, before, after, cut):
    frames = []
    for piece, sent in zip(cut(before), cut(after)):
        frames += [Ether(**macs[0]) / piece, Ether(**macs[1]) / sent]
    case(name, *frames)


def both(what, transport, cuts, **fields):
    """NAT there and back, and direct routing there, of a transport that is made for two ports."""
    cut = lambda packet: cut4(packet, cuts)
    ip = lambda source, destination, ttl: IP(src=source, dst=destination, ttl=ttl, id=0xBEEF, **fields)
    ask = ip(CLIENT, VIRTUAL, 64) / transport(40000, 80)
    fragments("nat/ask/" + what, IN, ask, ip(CLIENT, SERVER, 63) / transport(40000, 8080), cut)
    fragments("dr/ask/" + what, IN, ask, ip(CLIENT, VIRTUAL, 63) / transport(40000, 80), cut)
    answer = ip(SERVER, CLIENT, 64) / transport(8080, 40000)
    fragments("nat/answer/" + what, OUT, answer, ip(VIRTUAL, CLIENT, 63) / transport(80, 40000), cut)


def both6(what, transport, cuts, middle=None, **fields):
    cut = lambda packet: cut6(packet, cuts, 0xFEEDBEEF)

    def ip(source, destination, hops):
        packet = IPv6(src=source, dst=destination, hlim=hops, **fields)
        return packet / middle if middle else packet

    ask = ip(CLIENT6, VIRTUAL6, 64) / transport(40000, 80)
    fragments("nat/ask6/" + what, IN, ask, ip(CLIENT6, SERVER6, 63) / transport(40000, 8080), cut)
    fragments("dr/ask6/" + what, IN, ask, ip(CLIENT6, VIRTUAL6, 63) / transport(40000, 80), cut)
    answer = ip(SERVER6, CLIENT6, 64) / transport(8080, 40000)
    fragments("nat/answer6/" + what, OUT, answer, ip(VIRTUAL6, CLIENT6, 63) / transport(80, 40000), cut)


udp = lambda source, target: UDP(sport=source, dport=target) / DATA
silent = lambda source, target: UDP(sport=source, dport=target, chksum=0) / DATA
tcp = lambda source, target: TCP(sport=source, dport=target, flags="S", seq=7, options=[("MSS", 1440)]) / DATA
behind = lambda source, target: IPv6ExtHdrDestOpt() / UDP(sport=source, dport=target) / DATA

both("udp", udp, [0, 24, 48])
both("udp-four", udp, [0, 8, 32, 56], tos=0xB8)
both("udp-two", udp, [0, 40])
both("udp-without-checksum", silent, [0, 16, 48])
both("udp-behind-options", udp, [0, 24, 48], options=[IPOption_NOP()] * 4)
both("tcp", tcp, [0, 24, 40, 64])
both6("udp", udp, [0, 24, 48])
both6("udp-four", udp, [0, 8, 32, 56], tc=0xB8, fl=0x12345)
both6("udp-two", udp, [0, 40])
both6("udp-behind-hop-by-hop", udp, [0, 24, 48], middle=IPv6ExtHdrHopByHop())
# Here the fragment headers say that destination options come next.
both6("udp-behind-options", behind, [0, 16, 48])
both6("tcp", tcp, [0, 24, 40, 64])
# A checksum over all of the packet, which direct routing leaves alone.
sctp = SCTP(sport=40000, dport=80, tag=1) / SCTPChunkInit(init_tag=9) / Raw(DATA)
fragments("dr/ask6/sctp", IN, IPv6(src=CLIENT6, dst=VIRTUAL6, hlim=64) / sctp, IPv6(src=CLIENT6, dst=VIRTUAL6, hlim=63) / sctp,
          lambda packet: cut6(packet, [0, 32, 64], 5))
