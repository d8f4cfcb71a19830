"""ICMP errors about a packet to the real server, and the same for the client, who knows only the virtual address: in the quoted packet
the destination is the virtual one, and so are the checksums."""
from common import *

ROUTER = "192.0.2.254"


def error(name, message, payload, keep=None, **header):
    def at(destination, port):
        quoted = bytes(IP(src=CLIENT, dst=destination, id=77, ttl=61, flags="DF", **header) / payload(port))
        return IP(src=ROUTER, dst=CLIENT) / message / Raw(quoted[:keep])

    case(name, at(SERVER, 8080), at(VIRTUAL, 80))


tcp = lambda port: TCP(sport=40000, dport=port, seq=1000, ack=5, flags="PA") / ODD
error("tcp_frag_needed", ICMP(type=3, code=4, nexthopmtu=1400), tcp)
error("udp_unreachable", ICMP(type=3, code=3), lambda port: UDP(sport=40000, dport=port) / ODD)
error("udp_without_checksum", ICMP(type=3, code=3), lambda port: UDP(sport=40000, dport=port, chksum=0) / ODD)
error("tcp_eight_bytes", ICMP(type=11, code=0), tcp, keep=28)
error("tcp_with_ip_options", ICMP(type=11, code=0), tcp, options=[IPOption_NOP()] * 4)
error("echo", ICMP(type=3, code=1), lambda port: ICMP(id=7, seq=1) / b"ping")
error("old_router", ICMP(type=3, code=4), lambda port: UDP(sport=40000, dport=port) / ODD)


# SCTP's checksum covers what is not quoted, so it stays that of the packet to the server.
def sctp(destination, port):
    quoted = IP(bytes(IP(src=CLIENT, dst=SERVER, id=77, ttl=61, flags="DF") / SCTP(sport=40000, dport=8080, tag=1)))
    check = quoted[SCTP].chksum
    quoted = IP(src=CLIENT, dst=destination, id=77, ttl=61, flags="DF") / SCTP(sport=40000, dport=port, tag=1, chksum=check)
    return IP(src=ROUTER, dst=CLIENT) / ICMP(type=3, code=2) / Raw(bytes(quoted))


case("sctp", sctp(SERVER, 8080), sctp(VIRTUAL, 80))
