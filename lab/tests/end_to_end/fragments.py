"""Datagrams that travel in fragments.

    fragments.py serve ADDRESS PORT                    sends every datagram back
    fragments.py ask ADDRESS PORT COUNT                sends some, of 1 to 60000 bytes, and compares what comes back
    fragments.py shuffle ADDRESS PORT COUNT INTERFACE MAC    the same, each cut here and its fragments sent in any order, by any queue

Prints how many came back as they were sent; every other one is named on standard error. Nothing is sent twice.
"""
import os
import random
import socket
import sys

what, address, port, *rest = sys.argv[1:]
port = int(port)
family = socket.AF_INET6 if ":" in address else socket.AF_INET
out = socket.socket(family, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
if family == socket.AF_INET:
    # What fits may be fragmented further on as well (ip(7): IP_MTU_DISCOVER, IP_PMTUDISC_DONT).
    out.setsockopt(socket.IPPROTO_IP, 10, 0)

if what == "serve":
    out.bind((address, port))
    while True:
        data, client = out.recvfrom(65536)
        out.sendto(data, client)

count = int(rest[0])
out.connect((address, port))
out.settimeout(3)
random.seed(count)


def cut(data):
    """The frames of the datagram's fragments, some of them small."""
    from scapy.all import IP, UDP, Ether, IPv6, IPv6ExtHdrFragment, Raw

    source, sport = out.getsockname()[:2]
    frame = Ether(src=open(f"/sys/class/net/{rest[1]}/address").read().strip(), dst=rest[2])
    ip = (IPv6 if family == socket.AF_INET6 else IP)(src=source, dst=address)
    payload = bytes((ip / UDP(sport=sport, dport=port) / data).__class__(bytes(ip / UDP(sport=sport, dport=port) / data)).payload)
    number = random.randrange(1 << 16)
    start = 0
    while start < len(payload):
        end = min(start + 8 * random.choice([1, 2, 20, 100, 181]), len(payload))
        more, part = end < len(payload), Raw(payload[start:end])
        if family == socket.AF_INET6:
            yield frame / ip / IPv6ExtHdrFragment(nh=17, id=number, offset=start // 8, m=int(more)) / part
        else:
            yield frame / IP(src=source, dst=address, proto=17, id=number, frag=start // 8, flags="MF" if more else 0) / part
        start = end


def shuffle(data, wire):
    frames = [bytes(frame) for frame in cut(data)]
    random.shuffle(frames)
    for frame in frames:
        # Each processor has a transmit queue of its own.
        os.sched_setaffinity(0, {random.choice(processors)})
        wire.send(frame)


if what == "shuffle":
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((rest[1], 0))
    processors = list(os.sched_getaffinity(0))

good = 0
for number in range(count):
    size = random.choice([1, 1472, 1473, 4000, 8192, 8192, random.randrange(2, 60000)]) if what == "ask" else random.randrange(100, 6000)
    data = random.randbytes(size)
    if what == "ask":
        out.send(data)
    else:
        shuffle(data, wire)
    try:
        same = out.recv(65536) == data
        good += same
        if not same:
            print(f"datagram {number} of {size} bytes came back changed", file=sys.stderr)
    except OSError as error:
        print(f"datagram {number} of {size} bytes: {error}", file=sys.stderr)
print(good)
