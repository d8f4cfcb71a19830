"""Checks TOA: python3 toa.py PCAP-AT-THE-CLIENT PCAP-AT-A-SERVER LOCAL-ADDRESS

Each connection from the local address must name one of the client's in the segment that completes the handshake, right behind the fixed
header, no two the same; and no segment may once the client has acknowledged something of the server's. Prints how many connections.
"""
import ipaddress
import struct
import sys

from scapy.all import IP, TCP, IPv6, PcapReader

at_client, at_server, local = sys.argv[1:]
local = ipaddress.ip_address(local)


def segments(path):
    for frame in PcapReader(path):
        ip = frame.getlayer(IP) or frame.getlayer(IPv6)
        if ip is not None and TCP in ip:
            yield ipaddress.ip_address(ip.src), ip[TCP]


def toa(tcp):
    """The option's value, read from the bytes of the header themselves."""
    header = bytes(tcp)[20:tcp.dataofs * 4]
    if header[:1] != b"\xfe":
        assert all(kind != 254 for kind, _ in tcp.options), f"the option is not the first: {tcp.options}"
        return None
    assert header[1] == (8 if version == 4 else 20), header.hex()
    return header[2:header[1]]


# The clients' addresses, whatever the servers' are.
version = next(source for source, tcp in segments(at_client) if tcp.flags == "S").version
asked = {(source, tcp.sport) for source, tcp in segments(at_client) if tcp.flags == "S"}
began, named = {}, {}
for source, tcp in segments(at_server):
    if source != local:
        if tcp.flags == "SA":
            began[tcp.dport] = tcp.seq
        continue
    value = toa(tcp)
    if tcp.flags.S:
        assert value is None, "in a SYN"
        continue
    is_first = tcp.ack == (began[tcp.sport] + 1) % 2**32
    assert (value is not None) == (is_first and not tcp.flags.R), f"{tcp.summary()}: {tcp.options}"
    if value:
        client = (ipaddress.ip_address(value[2:]), struct.unpack("!H", value[:2])[0])
        assert client in asked, f"{client} is nobody's: {asked}"
        assert named.setdefault(tcp.sport, client) == client, "two clients on one connection"

assert set(began) == set(named), f"not all were named: {began} {named}"
assert len(set(named.values())) == len(named), "two connections have one client"
print(len(named))
