"""Frames as director receives them and as it sends them on, but for the frame header: DR to the server, NAT's replies."""
from common import *

FLAGGED = dict(tc=0xB8, fl=0x12345)


def frame(source, destination, hops, *layers):
    packet = Ether(**MAC) / IPv6(src=source, dst=destination, hlim=hops, **FLAGGED)
    for layer in layers:
        packet = packet / layer
    return packet


def reply(name, transport, *middle):
    case(
        "reply_" + name,
        frame(SERVER6, CLIENT6, 64, *middle, transport(8080)),
        frame(VIRTUAL6, CLIENT6, 63, *middle, transport(80)),
    )


def routed(name, *layers):
    case("direct_" + name, *(frame(CLIENT6, VIRTUAL6, hops, *layers) for hops in (255, 254)))


reply("tcp", lambda port: TCP(sport=port, dport=40000, flags="SA", seq=7, ack=1001, options=[("MSS", 1440)]))
reply("tcp_odd", lambda port: TCP(sport=port, dport=40000, flags="PA", seq=8, ack=1002) / ODD)
reply("udp", lambda port: UDP(sport=port, dport=40000) / b"hello")
reply("udp_behind_options", lambda port: UDP(sport=port, dport=40000) / ODD, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt())
reply("sctp", lambda port: SCTP(sport=port, dport=40000, tag=1) / SCTPChunkData(data=b"data", tsn=1))
routed("tcp", TCP(sport=40000, dport=80, flags="S", seq=1000))
routed("udp", UDP(sport=40000, dport=80) / ODD)
routed("sctp", SCTP(sport=40000, dport=80, tag=0) / SCTPChunkInit(init_tag=9))
routed("atomic_fragment", IPv6ExtHdrFragment(id=7), UDP(sport=40000, dport=80) / ODD)
