"""What the scripts share: addresses, and how a case is printed."""
from scapy.all import *  # noqa: F401,F403
from scapy.utils import checksum

CLIENT, VIRTUAL, SERVER = "203.0.113.9", "198.51.100.8", "192.0.2.9"
CLIENT6, VIRTUAL6, SERVER6 = "2001:db8::9", "2001:db8::80", "2001:db8:ff::c0de"
DIRECTOR, DIRECTOR6 = "192.0.2.1", "2001:db8:ff::1"
MAC = dict(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
ODD = b"odd length payload!"
# Of a client's packets and of a server's, as they come to director and as they leave it.
ROUTER_MAC, WAN_MAC, LAN_MAC, SERVER_MAC = (f"02:00:00:00:{end}" for end in ("00:fe", "00:01", "00:02", "01:0a"))
IN = dict(src=ROUTER_MAC, dst=WAN_MAC), dict(src=LAN_MAC, dst=SERVER_MAC)
OUT = dict(src=ROUTER_MAC, dst=LAN_MAC), dict(src=WAN_MAC, dst=ROUTER_MAC)


def case(name, *packets):
    print(name, *(bytes(packet).hex() or "-" for packet in packets))


def fresh(packet):
    """The packet with every computed field computed again."""
    packet = packet.copy()
    layer = packet
    while layer:
        for field in ("chksum", "cksum", "len", "plen", "ihl", "dataofs"):
            if field in layer.fields and field in [f.name for f in layer.fields_desc]:
                delattr(layer, field)
        layer = layer.payload
    return packet.__class__(bytes(packet))


def cut4(packet, cuts):
    """IPv4: the same header, options and all, in front of each piece."""
    packet = IP(bytes(packet))
    payload = bytes(packet.payload)
    ends = cuts[1:] + [len(payload)]
    for start, end in zip(cuts, ends):
        head = packet.copy()
        head.remove_payload()
        head.flags, head.frag = ("MF" if end < len(payload) else 0), start // 8
        del head.len, head.chksum
        yield head / Raw(payload[start:end])


def cut6(packet, cuts, number):
    """IPv6: what is not fragmented (hop-by-hop options), a fragment header, and a piece."""
    packet = IPv6(bytes(packet))
    head, rest = packet.copy(), packet.payload
    head.remove_payload()
    del head.plen
    if isinstance(rest, IPv6ExtHdrHopByHop):
        options = rest.copy()
        options.remove_payload()
        head, rest, following = head / options, rest.payload, rest.nh
    else:
        following = packet.nh
    head.lastlayer().nh = 44
    payload = bytes(rest)
    for start, end in zip(cuts, cuts[1:] + [len(payload)]):
        more = int(end < len(payload))
        yield head / IPv6ExtHdrFragment(nh=following, offset=start // 8, m=more, id=number) / Raw(payload[start:end])
