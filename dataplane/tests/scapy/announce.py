"""A connection's first segments by FULLNAT, to the server and back, where the server is told who the client is: before and after. Within
one family, and between both."""
from common import *
import socket
import struct

LOCAL, LOCAL6 = "192.0.2.33", "2001:db8:ff::33"
FOUR = dict(client=CLIENT, virtual=VIRTUAL, server=SERVER, local=LOCAL, layer=IP, hops="ttl", version="TCP4")
SIX = dict(client=CLIENT6, virtual=VIRTUAL6, server=SERVER6, local=LOCAL6, layer=IPv6, hops="hlim", version="TCP6")
PORTS = dict(client=40000, virtual=80, server=8080, local=20000)
# What director gives a packet that it has put an IPv4 header in front of.
IDENTIFICATION = 0x1234
STAMP = ("Timestamp", (7, 9))


def packet(at, ends, hops, data=b"", head=None, **fields):
    source, destination = ends
    head = at["layer"](src=at[source], dst=at[destination], **{at["hops"]: hops}, **(head or {}))
    tcp = TCP(sport=PORTS[source], dport=PORTS[destination], **fields)
    return head / tcp / data if data else head / tcp


def toa(at):
    family = socket.AF_INET if at is FOUR else socket.AF_INET6
    return (254, struct.pack("!H", PORTS["client"]) + socket.inet_pton(family, at["client"]))


def header(at, version):
    if version == 1:
        return f"PROXY {at['version']} {at['client']} {at['virtual']} {PORTS['client']} {PORTS['virtual']}\r\n".encode()
    family = socket.AF_INET if at is FOUR else socket.AF_INET6
    addresses = socket.inet_pton(family, at["client"]) + socket.inet_pton(family, at["virtual"])
    body = addresses + struct.pack("!HH", PORTS["client"], PORTS["virtual"])
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11 if at is FOUR else 0x21, len(body)) + body


def steps(name, outside, inside, toa_option, front, less):
    """`front` is what is put in front of the data, `less` by how much the server's segments announce less."""
    def step(what, ends, before, after):
        is_request = ends[0] == "client"
        to = ("local", "server") if is_request else ("virtual", "client")
        here, there = (outside, inside) if is_request else (inside, outside)
        head = dict(id=IDENTIFICATION) if here is not there and there is FOUR else None
        case(f"{name}/{what}", packet(here, ends, 64, **before), packet(there, to, 63, head=head, **after))

    inward, outward = ("client", "virtual"), ("server", "local")
    first = [toa_option] if toa_option else []
    n = len(front)
    syn = dict(flags="S", seq=1000, options=[("MSS", 1460)])
    step("in", inward, syn, syn)
    answer = dict(flags="SA", seq=5000, ack=1001)
    step("out", outward, dict(answer, options=[("MSS", 1460), STAMP]), dict(answer, options=[("MSS", 1460 - less), STAMP]))
    ack = dict(flags="A", seq=1001, ack=5001)
    step("in", inward, dict(ack, options=[STAMP]), dict(ack, options=first + [STAMP], data=front))
    data = dict(flags="PA", seq=1001, ack=5001)
    step("in", inward, dict(data, data=ODD), dict(data, options=first, data=front + ODD))
    step("in", inward, dict(data, seq=1001 + len(ODD), data=b"even"),
         dict(data, seq=1001 + n + len(ODD), options=first, data=b"even"))
    # The server has all of it, and then says that it has something beyond a hole.
    done = dict(flags="A", seq=5001)
    step("out", outward, dict(done, ack=1001 + n + len(ODD) + 4), dict(done, ack=1001 + len(ODD) + 4))
    hole = ("SAck", (1101 + n, 1201 + n))
    step("out", outward, dict(done, ack=1051 + n, options=[hole]),
         dict(done, ack=1051, options=[("SAck", (1101, 1201))]))
    step("out", outward, dict(flags="PA", seq=5001, ack=1051 + n, data=ODD), dict(flags="PA", seq=5001, ack=1051, data=ODD))
    more = dict(flags="PA", ack=5001 + len(ODD), data=ODD)
    step("in", inward, dict(more, seq=1201), dict(more, seq=1201 + n))
    step("in", inward, dict(flags="FA", seq=1301, ack=5020), dict(flags="FA", seq=1301 + n, ack=5020))


for family, at, inside in (("v4", FOUR, FOUR), ("v6", SIX, SIX), ("64", SIX, FOUR), ("46", FOUR, SIX)):
    length = 8 if at is FOUR else 20
    steps(f"{family}/toa", at, inside, toa(at), b"", length)
    for version in (1, 2):
        front = header(at, version)
        steps(f"{family}/proxy{version}", at, inside, None, front, len(front))
