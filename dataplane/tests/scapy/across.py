"""FULLNAT between families: a client's packet and the same to a server of the other family, a reply to that, and ICMP errors about both."""
from common import *

LOCAL, LOCAL6 = "192.0.2.33", "2001:db8:ff::33"
ROUTER, ROUTER6 = "192.0.2.254", "2001:db8:ff::fe"
FOUR = dict(client=CLIENT, virtual=VIRTUAL, server=SERVER, local=LOCAL, router=ROUTER)
SIX = dict(client=CLIENT6, virtual=VIRTUAL6, server=SERVER6, local=LOCAL6, router=ROUTER6)
PORTS = dict(client=40000, virtual=80, server=8080, local=20000)
IDENTIFICATION = 0x1234
# IPv6 clients and IPv4 servers, and the other way about.
MIXES = (("64", SIX, FOUR), ("46", FOUR, SIX))


def header(at, source, destination, hops, tos=0, **fields):
    if at is FOUR:
        return IP(src=at[source], dst=at[destination], ttl=hops, tos=tos, **fields)
    return IPv6(src=at[source], dst=at[destination], hlim=hops, tc=tos, **fields)


def across(name, transport, tos=0, four=None, six=None, is_long=False, back=None):
    """`four` and `six` are fields of a header that comes in, and what stands behind one of IPv6."""
    four, (six, middle) = four or {}, six or ({}, None)

    def incoming(at, source, destination):
        if at is FOUR:
            return header(at, source, destination, 64, tos, **four) / transport(PORTS[source], PORTS[destination])
        head = header(at, source, destination, 64, tos, **six)
        return (head / middle if middle else head) / transport(PORTS[source], PORTS[destination])

    def outgoing(at, source, destination):
        # What may be fragmented on its way has an identification.
        fields = (dict(flags="DF", id=0) if is_long else dict(id=IDENTIFICATION)) if at is FOUR else {}
        packet = (back or transport)(PORTS[source], PORTS[destination])
        return header(at, source, destination, 63, tos, **fields) / packet

    for mix, outside, inside in MIXES:
        case(f"{mix}_{name}_request", incoming(outside, "client", "virtual"), outgoing(inside, "local", "server"))
        case(f"{mix}_{name}_reply", incoming(inside, "server", "local"), outgoing(outside, "virtual", "client"))


across("tcp", lambda s, d: TCP(sport=s, dport=d, flags="S", seq=1000, options=[("MSS", 1440), ("WScale", 7)]),
       tos=0xB9, four=dict(flags="DF", id=7), six=(dict(fl=0x12345), None))
across("tcp_odd", lambda s, d: TCP(sport=s, dport=d, flags="PA", seq=1001, ack=501) / ODD,
       four=dict(options=[IPOption_NOP()]), six=({}, IPv6ExtHdrDestOpt()))
across("tcp_long", lambda s, d: TCP(sport=s, dport=d, flags="A", seq=1001, ack=501) / (b"long" * 311), is_long=True)
across("udp", lambda s, d: UDP(sport=s, dport=d) / b"hello")
across("sctp", lambda s, d: SCTP(sport=s, dport=d, tag=1) / SCTPChunkData(data=b"data", tsn=1))
for mix, (outside, source, destination), (inside, new_source, new_destination) in (
    ("46_udp_without_checksum_request", (FOUR, "client", "virtual"), (SIX, "local", "server")),
    ("64_udp_without_checksum_reply", (FOUR, "server", "local"), (SIX, "virtual", "client")),
):
    for length, data in (("", b"hello"), ("_even", b"hell")):
        case(mix.replace("checksum", f"checksum{length}"),
             header(outside, source, destination, 64) / UDP(sport=PORTS[source], dport=PORTS[destination], chksum=0) / data,
             header(inside, new_source, new_destination, 63) / UDP(sport=PORTS[new_source], dport=PORTS[new_destination]) / data)


def error(name, four, six, length=None):
    """An error of either family that stands for the other one, about either side's packet. Each is made from a type's class."""
    for mix, outside, inside in MIXES:
        # About what the client has sent, from the servers' side; about what the server has sent, from the clients'.
        for what, here, there, quoted, sent, to, source in (
            ("to_client", inside, outside, ("local", "server"), ("client", "virtual"), "client", "virtual"),
            ("to_server", outside, inside, ("virtual", "client"), ("server", "local"), "server", "local"),
        ):
            message = four if here is FOUR else six
            other = six if here is FOUR else four
            if message is None or other is None:
                continue
            data = b"x" * (length or 5)
            kept = data[:528 - 8] if there is FOUR else data

            def inner(at, ends, data):
                packet = header(at, ends[0], ends[1], 60, 0x28, **(dict(id=0) if at is FOUR else {}))
                return bytes(fresh(packet / UDP(sport=PORTS[ends[0]], dport=PORTS[ends[1]]) / data))

            def cut(packet, at, keep):
                return packet[:(20 if at is FOUR else 40) + 8 + keep]

            before = inner(here, quoted, data)
            after = cut(inner(there, sent, data), there, len(kept))
            receiver = quoted[0]
            outer = header(here, "router", receiver, 62, 0xC0)
            fields = dict(id=IDENTIFICATION) if there is FOUR else {}
            case(f"{mix}_{name}_{what}", outer / message() / Raw(before),
                 header(there, source, to, 61, 0xC0, **fields) / other() / Raw(after))


def icmp(kind, code, **fields):
    return lambda: ICMP(type=kind, code=code, **fields)


def icmpv6(cls, **fields):
    return lambda: cls(**fields)


error("port", icmp(3, 3), icmpv6(ICMPv6DestUnreach, code=4))
error("prohibited", icmp(3, 10), icmpv6(ICMPv6DestUnreach, code=1))
error("mtu", icmp(3, 4, nexthopmtu=1380), icmpv6(ICMPv6PacketTooBig, mtu=1400))
error("expired", icmp(11, 0), icmpv6(ICMPv6TimeExceeded, code=0))
error("reassembly_expired", icmp(11, 1), icmpv6(ICMPv6TimeExceeded, code=1))
error("protocol", icmp(3, 2), icmpv6(ICMPv6ParamProblem, code=1, ptr=6))
error("parameter", icmp(12, 0, ptr=16), icmpv6(ICMPv6ParamProblem, code=0, ptr=24))
error("long", icmp(3, 3), icmpv6(ICMPv6DestUnreach, code=4), length=1000)
