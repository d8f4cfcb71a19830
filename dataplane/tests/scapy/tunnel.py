"""Packets to the virtual address, and the same in a tunnel to the real server. Names are KIND/OUTER FAMILY/WHAT IS INSIDE.

The outer packet has the inner one's TTL, once one is taken off, its DSCP and ECN, and its don't-fragment bit (and then identification
0, as Linux has it); GUE's layout is Linux's (include/net/gue.h): a byte of variant, control bit and length of options in words, the IP
protocol inside, 16 flags. With remote checksum offload: flag 1, private flags 0x80000000, where to begin adding up, where the
result belongs; and there lies the sum of the pseudo-header."""
from common import *

ID, PORT, SPORT = 0x1234, 6080, 0xC0DE


def seeded(ip):
    """The packet with its TCP or UDP checksum left for the receiver: where it lies, where it begins, and the bytes; None without one."""
    upper = ip.payload
    if not isinstance(upper, (TCP, UDP)) or (isinstance(ip, IP) and (ip.frag or ip.flags.MF)):
        return None
    if isinstance(upper, UDP) and (upper.chksum == 0 or upper.len != len(bytes(upper))):
        return None
    start = ip.ihl * 4 if isinstance(ip, IP) else 40
    offset = start + (16 if isinstance(upper, TCP) else 6)
    length = len(bytes(ip)) - start
    number = 6 if isinstance(upper, TCP) else 17
    if isinstance(ip, IP):
        pseudo = inet_aton(ip.src) + inet_aton(ip.dst) + struct.pack("!HH", number, length)
    else:
        pseudo = inet_pton(socket.AF_INET6, ip.src) + inet_pton(socket.AF_INET6, ip.dst) + struct.pack("!II", length, number)
    seed = struct.pack("!H", ~checksum(pseudo) & 0xFFFF)
    data = bytes(ip)
    return start, offset, data[:offset] + seed + data[offset + 2 :]


def wrapped(kind, over, ip, pmtu_disc):
    is4 = isinstance(ip, IP)
    number, ether = (4, 0x0800) if is4 else (41, 0x86DD)
    ttl, tos = (ip.ttl, ip.tos) if is4 else (ip.hlim, ip.tc)
    df = pmtu_disc and is4 and bool(ip.flags.DF)
    if over == "4":
        outer = IP(src=DIRECTOR, dst=SERVER, ttl=ttl, tos=tos, id=0 if df else ID, flags="DF" if df else 0)
    else:
        outer = IPv6(src=DIRECTOR6, dst=SERVER6, hlim=ttl, tc=tos, fl=0)
    data = bytes(ip)
    set_next = lambda packet, n: setattr(packet, "proto" if over == "4" else "nh", n)
    if kind == "ipip":
        set_next(outer, number)
        return outer / Raw(data)
    if kind.startswith("gre"):
        set_next(outer, 47)
        return outer / GRE(proto=ether, chksum_present=int(kind == "gre-csum")) / Raw(data)
    set_next(outer, 17)
    gue = struct.pack("!BBH", 0, number, 0)
    remote = seeded(ip) if kind == "gue-remcsum" else None
    if remote:
        start, offset, data = remote
        gue = struct.pack("!BBHIHH", 2, number, 1, 1 << 31, start, offset)
    udp = UDP(sport=SPORT, dport=PORT)
    if kind == "gue":
        udp.chksum = 0
    return outer / udp / Raw(gue + data)


def packets():
    v4 = dict(src=CLIENT, dst=VIRTUAL, ttl=64, id=1)
    v6 = dict(src=CLIENT6, dst=VIRTUAL6, hlim=64)
    tcp = TCP(sport=40000, dport=80, flags="PA", seq=1000, ack=7, options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 2))])
    udp = UDP(sport=40000, dport=80)
    sctp = SCTP(sport=40000, dport=80, tag=1) / SCTPChunkData(data=b"data", tsn=1)
    yield "tcp", IP(flags="DF", **v4) / tcp / ODD
    yield "tcp-no-pmtu-disc", IP(flags="DF", **v4) / tcp / ODD
    yield "tcp-may-be-fragmented", IP(tos=0xB8, **v4) / tcp / ODD
    yield "tcp-syn-padded", IP(flags="DF", **v4) / TCP(sport=40000, dport=80, flags="S") / Padding(b"\xaa" * 6)
    yield "tcp-ce", IP(tos=0x03, flags="DF", **v4) / tcp / ODD
    yield "tcp-ect0", IP(tos=0x2A, flags="DF", **v4) / tcp / ODD
    yield "tcp-ip-options", IP(options=[IPOption_NOP()] * 4, **v4) / tcp / ODD
    yield "tcp-big", IP(flags="DF", **v4) / tcp / (b"\x5a\xa5\x99" * 101)
    yield "udp", IP(**v4) / udp / ODD
    yield "udp-without-checksum", IP(**v4) / UDP(sport=40000, dport=80, chksum=0) / b"hello"
    yield "udp-big-without-checksum", IP(**v4) / UDP(sport=40000, dport=80, chksum=0) / (b"\x5a\xa5\x99" * 101)
    yield "udp-surplus", IP(**v4) / UDP(sport=40000, dport=80, len=13) / (b"hello" + b"surplus")
    yield "first-fragment", IP(flags="MF", **v4) / udp / (b"\x5a" * 32)
    yield "later-fragment", IP(frag=5, proto=17, **v4) / Raw(b"\xa5" * 31)
    yield "sctp", IP(**v4) / sctp
    yield "icmp", IP(**v4) / ICMP(id=3, seq=4) / b"ping!"
    yield "tcp6", IPv6(fl=0xABCDE, **v6) / tcp / ODD
    yield "tcp6-ce", IPv6(tc=0xBB, **v6) / tcp / ODD
    yield "tcp6-big", IPv6(**v6) / tcp / (b"\x5a\xa5\x99" * 101)
    yield "udp6", IPv6(**v6) / udp / ODD
    yield "udp6-padded", IPv6(**v6) / udp / b"x" / Padding(b"\xaa" * 2)
    yield "tcp6-behind-options", IPv6(**v6) / IPv6ExtHdrDestOpt() / tcp
    yield "udp6-fragment", IPv6(**v6) / IPv6ExtHdrFragment(m=1, id=7) / udp / (b"\x5a" * 32)
    yield "sctp6", IPv6(**v6) / sctp
    yield "icmp6", IPv6(**v6) / ICMPv6EchoRequest(id=3, seq=4, data=b"ping!")


for kind in ("ipip", "gre", "gre-csum", "gue", "gue-csum", "gue-remcsum"):
    for over in ("4", "6"):
        for what, packet in packets():
            before = Ether(bytes(Ether(**MAC) / packet))
            ip = before.payload
            length = ip.len if isinstance(ip, IP) else 40 + ip.plen
            ip = type(ip)(bytes(ip)[:length])
            if isinstance(ip, IP):
                ip.ttl -= 1
                del ip.chksum
            else:
                ip.hlim -= 1
            ip = type(ip)(bytes(ip))
            case(f"{kind}/{over}/{what}", before, Ether(**MAC) / wrapped(kind, over, ip, "no-pmtu" not in what))
