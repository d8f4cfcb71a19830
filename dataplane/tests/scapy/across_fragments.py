"""FULLNAT between families: fragments of datagrams as director receives them, each followed by what it sends on. A datagram is cut only
after all of it was made, so the checksums in the first fragments are scapy's own. Names are MIX/DIRECTION/WHAT."""
from common import *

FOUR = dict(client=CLIENT, virtual=VIRTUAL, server="192.0.2.10", local="192.0.2.33")
SIX = dict(client="2001:db8:cb::9", virtual="2001:db8:64::8", server="2001:db8:2::a", local="2001:db8:2::33")
PORTS = dict(client=40000, virtual=80, server=8080, local=20000)
DATA = bytes(range(61))
# IPv4 has room for the lower half.
NUMBER, NUMBER4 = 0xFEEDBEEF, 0xBEEF


def packet(at, ends, hops, transport, tos, **fields):
    source, destination = ends
    if at is FOUR:
        head = IP(src=at[source], dst=at[destination], ttl=hops, id=NUMBER4, tos=tos, **fields)
    else:
        head = IPv6(src=at[source], dst=at[destination], hlim=hops, tc=tos)
    return head / transport(PORTS[source], PORTS[destination])


def cut(at, whole, cuts, is_sent_on):
    """Over IPv6, what came over IPv4 keeps its number."""
    number = NUMBER4 if is_sent_on else NUMBER
    return cut4(whole, cuts) if at is FOUR else cut6(whole, cuts, number)


def datagram(what, transport, cuts, tos=0, options=None):
    for mix, outside, inside in (("64", SIX, FOUR), ("46", FOUR, SIX)):
        for direction, macs, (here, ends), (there, new_ends) in (
            ("ask", IN, (outside, ("client", "virtual")), (inside, ("local", "server"))),
            ("answer", OUT, (inside, ("server", "local")), (outside, ("virtual", "client"))),
        ):
            fields = dict(options=options) if here is FOUR and options else {}
            before = cut(here, packet(here, ends, 64, transport, tos, **fields), cuts, False)
            after = cut(there, packet(there, new_ends, 63, transport, tos), cuts, True)
            frames = []
            for piece, sent in zip(before, after):
                frames += [Ether(**macs[0]) / piece, Ether(**macs[1]) / sent]
            case(f"{mix}/{direction}/{what}", *frames)


udp = lambda source, target: UDP(sport=source, dport=target) / DATA
tcp = lambda source, target: TCP(sport=source, dport=target, flags="S", seq=7, options=[("MSS", 1440)]) / DATA

datagram("udp", udp, [0, 24, 48])
datagram("udp-two", udp, [0, 40], tos=0xB8)
datagram("udp-four", udp, [0, 8, 32, 56])
datagram("udp-behind-options", udp, [0, 24, 48], options=[IPOption_NOP()] * 4)
datagram("tcp", tcp, [0, 24, 40, 64])
