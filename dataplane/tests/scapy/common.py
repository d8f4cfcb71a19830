"""What the scripts share: addresses, and how a case is printed."""
from scapy.all import *  # noqa: F401,F403
from scapy.utils import checksum

CLIENT, VIRTUAL, SERVER = "203.0.113.9", "198.51.100.8", "192.0.2.9"
CLIENT6, VIRTUAL6, SERVER6 = "2001:db8::9", "2001:db8::80", "2001:db8:ff::c0de"
DIRECTOR, DIRECTOR6 = "192.0.2.1", "2001:db8:ff::1"
MAC = dict(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
ODD = b"odd length payload!"


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
