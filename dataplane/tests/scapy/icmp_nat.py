"""ICMP errors about packets of a connection by NAT: as they come in, and as they go out.

`server_*` are for the server, about what it sent; `client_*` for the client, about what that sent.
"""
from common import *

ROUTER, ROUTER6 = "203.0.113.254", "2001:db8:cb::fe"
HOP, HOP6 = "192.0.2.254", "2001:db8:ff::fe"


def quote(packet, length, half=b""):
    """So much of a packet; `half` is half a checksum at the end, which cannot be corrected and stays."""
    return (bytes(packet)[:length] if length else bytes(packet))[: -1 if half else None] + half


def frame(ip):
    return Ether(**MAC) / ip


def error(v6, source, destination, hops, kind, inside, middle=None, options=None):
    if not v6:
        return frame(IP(src=source, dst=destination, ttl=hops, id=7, tos=0xC0, options=options or []) / ICMP(**kind) / inside)
    kind = dict(kind)
    cls = kind.pop("cls")
    ip = IPv6(src=source, dst=destination, hlim=hops)
    return frame((ip / middle if middle else ip) / cls(**kind) / Raw(inside))


def sent(v6, source, destination, transport, **fields):
    """A packet as it was when it could not go on."""
    if not v6:
        return IP(src=source, dst=destination, ttl=3, id=99, flags=fields.get("flags", "DF"), options=fields.get("options", [])) / transport
    ip = IPv6(src=source, dst=destination, hlim=3)
    return (ip / fields["middle"] if fields.get("middle") else ip) / transport


def with_check(packet, original):
    """SCTP's checksum cannot be corrected in a quote: it stays that of the packet as it was quoted."""
    packet = type(packet)(bytes(packet))
    packet[SCTP].chksum = type(original)(bytes(original))[SCTP].chksum
    return packet


def half(packet, length):
    return bytes(packet)[36:37] if TCP in packet and length == 37 else b""


def server(name, kind, transport, length=0, v6=False, outer=None, **fields):
    router, client, virtual, real = (ROUTER6, CLIENT6, VIRTUAL6, SERVER6) if v6 else (ROUTER, CLIENT, VIRTUAL, SERVER)
    before = sent(v6, virtual, client, transport(80, 40000), **fields)
    after = sent(v6, real, client, transport(8080, 40000), **fields)
    if SCTP in before:
        after = with_check(after, before)
    case(
        "server_" + name,
        error(v6, router, virtual, 61, kind, quote(before, length), **(outer or {})),
        error(v6, router, real, 60, kind, quote(after, length, half(before, length)), **(outer or {})),
    )


def client(name, kind, transport, length=0, v6=False, outer=None, **fields):
    hop, client, virtual, real = (HOP6, CLIENT6, VIRTUAL6, SERVER6) if v6 else (HOP, CLIENT, VIRTUAL, SERVER)
    before = sent(v6, client, real, transport(40000, 8080), **fields)
    after = sent(v6, client, virtual, transport(40000, 80), **fields)
    if SCTP in before:
        after = with_check(after, before)
    case(
        "client_" + name,
        error(v6, hop, client, 61, kind, quote(before, length), **(outer or {})),
        error(v6, virtual, client, 60, kind, quote(after, length, half(before, length)), **(outer or {})),
    )


def tcp(source, destination):
    return TCP(sport=source, dport=destination, flags="PA", seq=1001, ack=501, options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]) / ODD


def udp(source, destination):
    return UDP(sport=source, dport=destination) / ODD


def udp_without(source, destination):
    return UDP(sport=source, dport=destination, chksum=0) / ODD


def sctp(source, destination):
    return SCTP(sport=source, dport=destination, tag=1) / SCTPChunkData(data=b"data", tsn=1)


UNREACHABLE = [dict(type=3, code=code) for code in (0, 1, 3, 13)]
TOO_BIG = dict(type=3, code=4, nexthopmtu=1400)
EXCEEDED = dict(type=11, code=0)
for side in (server, client):
    for kind in UNREACHABLE:
        side(f"unreachable_{kind['code']}", kind, udp)
    side("fragmentation_needed", TOO_BIG, tcp)
    side("fragmentation_needed_8", TOO_BIG, tcp, 28)
    side("fragmentation_needed_ports", TOO_BIG, tcp, 24)
    side("fragmentation_needed_cut_in_checksum", TOO_BIG, tcp, 37)
    side("fragmentation_needed_with_checksum", TOO_BIG, tcp, 38)
    side("time_exceeded", EXCEEDED, udp, 28)
    side("time_exceeded_odd", EXCEEDED, udp, 31)
    side("source_quench", dict(type=4), tcp, 28)
    side("parameter_problem", dict(type=12, ptr=20), tcp)
    side("udp_without_checksum", UNREACHABLE[2], udp_without)
    side("sctp", UNREACHABLE[2], sctp)
    side("sctp_8", UNREACHABLE[2], sctp, 28)
    side("first_fragment", EXCEEDED, udp, flags="MF")
    side("options_inside", UNREACHABLE[2], udp, options=[IPOption(b"\x07\x0b\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00")])
    side("options_outside", UNREACHABLE[2], udp, outer=dict(options=[IPOption(b"\x07\x07\x04\x00\x00\x00\x00\x00")]))

UNREACHABLE6 = [dict(cls=ICMPv6DestUnreach, code=code) for code in (0, 1, 3, 4)]
TOO_BIG6 = dict(cls=ICMPv6PacketTooBig, mtu=1400)
EXCEEDED6 = dict(cls=ICMPv6TimeExceeded)
for side in (server, client):
    for kind in UNREACHABLE6:
        side(f"unreachable6_{kind['code']}", kind, udp, v6=True)
    side("too_big6", TOO_BIG6, tcp, v6=True)
    side("too_big6_8", TOO_BIG6, tcp, 48, v6=True)
    side("too_big6_ports", TOO_BIG6, tcp, 44, v6=True)
    side("time_exceeded6", EXCEEDED6, udp, v6=True)
    side("parameter_problem6", dict(cls=ICMPv6ParamProblem, code=1, ptr=40), tcp, v6=True)
    side("udp6_without_checksum", UNREACHABLE6[3], udp_without, v6=True)
    side("sctp6", UNREACHABLE6[3], sctp, v6=True)
    side("extensions_inside6", TOO_BIG6, tcp, v6=True, middle=IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]))
    side("fragment_inside6", EXCEEDED6, udp, v6=True, middle=IPv6ExtHdrFragment(offset=0, m=1, id=9))
    side("extensions_outside6", TOO_BIG6, tcp, v6=True, outer=dict(middle=IPv6ExtHdrDestOpt()))
