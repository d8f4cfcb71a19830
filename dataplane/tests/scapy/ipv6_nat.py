"""A packet to the virtual address, and the same to the server: one hop less, port 8080."""
from common import *


def nat(name, transport, **fields):
    def at(destination, port, hops):
        middle = fields.get("middle")
        packet = IPv6(src=CLIENT6, dst=destination, hlim=hops, tc=fields.get("tc", 0), fl=fields.get("fl", 0))
        return (packet / middle if middle else packet) / transport(port)

    case(name, at(VIRTUAL6, 80, 64), at(SERVER6, 8080, 63))


nat("tcp", lambda port: TCP(sport=40000, dport=port, flags="S", seq=1000, options=[("MSS", 1440)]))
nat("tcp_odd", lambda port: TCP(sport=40000, dport=port, flags="PA", seq=1001, ack=501) / ODD, tc=0xB8, fl=0x12345)
nat("tcp_behind_options", lambda port: TCP(sport=40000, dport=port, flags="A"), middle=IPv6ExtHdrDestOpt())
nat("udp", lambda port: UDP(sport=40000, dport=port) / b"hello")
nat("udp_fragment", lambda port: UDP(sport=40000, dport=port, len=3000, chksum=None) / ODD, middle=IPv6ExtHdrDestOpt())
nat("udp_without_checksum", lambda port: UDP(sport=40000, dport=port, chksum=0) / b"hello")
nat("sctp", lambda port: SCTP(sport=40000, dport=port, tag=1) / SCTPChunkData(data=b"data", tsn=1))
