"""A packet to the virtual address and the same to the server from a local address, and a reply to that and the same to the client."""
from common import *

LOCAL, LOCAL6 = "192.0.2.33", "2001:db8:ff::33"
FOUR = dict(client=CLIENT, virtual=VIRTUAL, server=SERVER, local=LOCAL)
SIX = dict(client=CLIENT6, virtual=VIRTUAL6, server=SERVER6, local=LOCAL6)


def fullnat(name, transport, ip4=None, ip6=None):
    for family, at, more in (("v4", FOUR, ip4), ("v6", SIX, ip6)):
        if more is None:
            more = {}
        hops = "ttl" if family == "v4" else "hlim"

        def packet(source, destination, left, ports):
            layer = IP if family == "v4" else IPv6
            middle = more.get("middle")
            head = layer(src=at[source], dst=at[destination], **{hops: left}, **more.get("fields", {}))
            return (head / middle if middle else head) / transport(*ports)

        case(f"{family}_{name}_request", packet("client", "virtual", 64, (40000, 80)), packet("local", "server", 63, (20000, 8080)))
        case(f"{family}_{name}_reply", packet("server", "local", 64, (8080, 20000)), packet("virtual", "client", 63, (80, 40000)))


fullnat("tcp", lambda s, d: TCP(sport=s, dport=d, flags="S", seq=1000, options=[("MSS", 1440), ("WScale", 7)]),
        dict(fields=dict(flags="DF", id=7)), dict(fields=dict(tc=0xB8, fl=0x12345)))
fullnat("tcp_odd", lambda s, d: TCP(sport=s, dport=d, flags="PA", seq=1001, ack=501) / ODD,
        dict(fields=dict(options=[IPOption_NOP()])), dict(middle=IPv6ExtHdrDestOpt()))
fullnat("udp", lambda s, d: UDP(sport=s, dport=d) / b"hello")
fullnat("udp_without_checksum", lambda s, d: UDP(sport=s, dport=d, chksum=0) / b"hello")
fullnat("sctp", lambda s, d: SCTP(sport=s, dport=d, tag=1) / SCTPChunkData(data=b"data", tsn=1))
