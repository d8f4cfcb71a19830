"""Frames in VLANs, and the same without their tags. Names are TYPES/IDS/PRIORITY/WHAT; an outer tag comes first.

A priority of "mixed" is one that is not the same in both tags, or comes with the drop eligible bit."""
from common import *

Q, AD = 0x8100, 0x88A8


def tagged(frame, tags):
    """`tags`: type, id, priority, drop eligible, the outer one first."""
    front, payload = Ether(src=frame.src, dst=frame.dst, type=frame.type), frame.payload
    for n, (kind, vid, prio, dei) in enumerate(tags):
        layer = Dot1Q(vlan=vid, prio=prio, id=dei)
        (front if n == 0 else front.lastlayer()).type = kind
        front = front / layer
    front.lastlayer().type = frame.type
    return front / payload


def frames():
    v4 = dict(src=CLIENT, dst=VIRTUAL, ttl=64, id=1)
    yield "tcp", Ether(**MAC) / IP(flags="DF", **v4) / TCP(sport=40000, dport=80, flags="S") / ODD
    yield "udp", Ether(**MAC) / IP(**v4) / UDP(sport=40000, dport=80) / ODD
    yield "tcp6", Ether(**MAC) / IPv6(src=CLIENT6, dst=VIRTUAL6) / TCP(sport=40000, dport=80, flags="S") / ODD
    yield "arp", Ether(src=MAC["src"], dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=CLIENT, pdst=VIRTUAL, hwsrc=MAC["src"])


for what, frame in frames():
    frame = Ether(bytes(frame))
    for tags in (
        [(Q, 10, 0, 0)],
        [(Q, 4094, 5, 0)],
        [(Q, 10, 3, 1)],
        [(Q, 0, 6, 0)],
        [(AD, 100, 0, 0)],
        [(AD, 100, 0, 0), (Q, 10, 0, 0)],
        [(AD, 4094, 7, 0), (Q, 1, 7, 0)],
        [(AD, 100, 1, 1), (Q, 10, 2, 0)],
        [(Q, 100, 0, 0), (Q, 10, 0, 0)],
        [(Q, 0, 3, 0), (Q, 10, 3, 0)],
        [(AD, 100, 0, 0), (AD, 10, 0, 0)],
    ):
        priority = tags[0][2] if len({t[2] for t in tags}) == 1 and not any(t[3] for t in tags) else "mixed"
        name = ["+".join(f"{t[0]:x}" for t in tags), "+".join(str(t[1]) for t in tags), str(priority), what]
        case("/".join(name), tagged(frame, tags), frame)
