"""Packets between a server behind director and a host outside, as they come and as they go; and ICMP errors about them, both ways."""
from common import *

FOUR = dict(inside="192.0.2.9", outside="203.0.113.9", pool="198.51.100.40", router="203.0.113.254", near="192.0.2.10")
SIX = dict(inside="2001:db8:2::9", outside="2001:db8:cb::9", pool="2001:db8:64::40", router="2001:db8:cb::fe", near="2001:db8:2::a")
INSIDE, OUTSIDE, LOCAL = 40000, 53, 40000


def layer(family, source, destination, left, **more):
    at = FOUR if family == "v4" else SIX
    head = IP if family == "v4" else IPv6
    return head(src=at[source], dst=at[destination], **{"ttl" if family == "v4" else "hlim": left}, **more)


def snat(name, transport):
    for family in ("v4", "v6"):
        out = [layer(family, "inside", "outside", 64) / transport(INSIDE, OUTSIDE),
               layer(family, "pool", "outside", 63) / transport(LOCAL, OUTSIDE)]
        back = [layer(family, "outside", "pool", 64) / transport(OUTSIDE, LOCAL),
                layer(family, "outside", "inside", 63) / transport(OUTSIDE, INSIDE)]
        case(f"{family}_{name}_out", *out)
        case(f"{family}_{name}_back", *back)
        kinds = {"v4": (ICMP(type=11, code=0), ICMP(type=3, code=3)), "v6": (ICMPv6TimeExceeded(), ICMPv6DestUnreach(code=4))}
        expired, refused = kinds[family]
        # A router outside about what the server sent, and a host inside about what it got.
        case(f"{family}_{name}_error_in", layer(family, "router", "pool", 62) / expired / fresh(out[1]),
             layer(family, "router", "inside", 61) / expired / fresh(with_hops(out[0], 63)))
        case(f"{family}_{name}_error_out", layer(family, "near", "outside", 62) / refused / fresh(back[1]),
             layer(family, "pool", "outside", 61) / refused / fresh(with_hops(back[0], 63)))


def with_hops(packet, left):
    """The packet as it was quoted, one hop on."""
    packet = packet.copy()
    setattr(packet, "ttl" if packet.version == 4 else "hlim", left)
    return packet


snat("tcp", lambda s, d: TCP(sport=s, dport=d, flags="S", seq=1000, options=[("MSS", 1440), ("WScale", 7)]))
snat("udp", lambda s, d: UDP(sport=s, dport=d) / b"hello")


for family, request, reply in (
    ("v4", ICMP(type=8, id=INSIDE, seq=1) / b"hello", ICMP(type=0, id=INSIDE, seq=1) / b"hello"),
    ("v6", ICMPv6EchoRequest(id=INSIDE, seq=1, data=b"hello"), ICMPv6EchoReply(id=INSIDE, seq=1, data=b"hello")),
):
    out = [layer(family, "inside", "outside", 64) / request, layer(family, "pool", "outside", 63) / request]
    case(f"{family}_echo_out", *out)
    case(f"{family}_echo_back", layer(family, "outside", "pool", 64) / reply, layer(family, "outside", "inside", 63) / reply)
    expired = ICMP(type=11, code=0) if family == "v4" else ICMPv6TimeExceeded()
    case(f"{family}_echo_error_in", layer(family, "router", "pool", 62) / expired / fresh(out[1]),
         layer(family, "router", "inside", 61) / expired / fresh(with_hops(out[0], 63)))
