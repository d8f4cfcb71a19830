"""Sends frames that no honest host would send: python3 frames.py INTERFACE DESTINATION-MAC VIP SEED

Well-formed frames of many kinds, cut to every length; the same with bytes changed; random bytes of every length. Prints how many.
The first twelve bytes stay as they are, so that the switch does not learn nonsense; the senders' addresses are nobody's.
"""
import random
import socket
import sys
import time

from scapy.all import ARP, ICMP, IP, TCP, UDP, Dot1Q, Ether, GRE, IPOption, IPv6, Raw

interface, mac, vip, seed = sys.argv[1:]
random.seed(int(seed))
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((interface, 0))
sender = "198.51.100.77"
frame = Ether(src="02:00:00:00:00:64", dst=mac)
ip = IP(src=sender, dst=vip)
syn = TCP(sport=4000, dport=80, flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)])

kinds = [
    frame / ip / syn,
    frame / ip / TCP(sport=4001, dport=80, flags="A") / Raw(b"x" * 64),
    frame / ip / TCP(sport=4002, dport=80, flags=0),
    frame / ip / TCP(sport=4002, dport=80, flags="FSRPAU"),
    frame / ip / UDP(sport=4003, dport=80) / Raw(b"x" * 32),
    frame / ip / ICMP() / Raw(b"x" * 32),
    frame / ip / ICMP(type=3, code=1) / IP(src=vip, dst=sender) / TCP(sport=80, dport=4000),
    frame / IP(src=sender, dst=vip, options=[IPOption(b"\x07\x0b\x04" + b"\0" * 8)]) / syn,
    frame / IP(src=sender, dst=vip, flags="MF") / syn,
    frame / IP(src=sender, dst=vip, frag=5) / Raw(b"x" * 40),
    frame / IP(src=sender, dst=vip, ttl=1) / syn,
    frame / IP(src=sender, dst=vip, ihl=4) / syn,
    frame / IP(src=sender, dst=vip, ihl=15) / syn,
    frame / IP(src=sender, dst=vip, len=0) / syn,
    frame / IP(src=sender, dst=vip, len=65535) / syn,
    frame / IP(src=sender, dst=vip, version=7) / syn,
    frame / IP(src=sender, dst=vip) / TCP(sport=4004, dport=80, dataofs=1),
    frame / IP(src=sender, dst=vip) / TCP(sport=4004, dport=80, dataofs=15),
    frame / IP(src=vip, dst=vip) / syn,
    frame / IP(src="255.255.255.255", dst=vip) / syn,
    frame / IP(src=sender, dst="224.0.0.1") / UDP(),
    frame / ARP(op=1, hwsrc="02:00:00:00:00:77", psrc=sender, pdst=vip),
    frame / IPv6(src="2001:db8::1", dst="2001:db8::2") / syn,
    frame / Dot1Q(vlan=7) / ip / syn,
    frame / Dot1Q(vlan=7) / Dot1Q(vlan=8) / ip / syn,
    frame / ip / GRE() / IP() / syn,
    frame / ip / IP(src=sender, dst=vip) / syn,
]

sent = 0


def send(data):
    global sent
    out.send(data)
    sent += 1
    if sent % 64 == 0:
        time.sleep(0.002)  # slowly enough for every frame to arrive


for kind in kinds:
    whole = bytes(kind)
    for length in range(14, len(whole) + 1):
        send(whole[:length])
    for _ in range(50):
        changed = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            changed[random.randrange(14, len(changed))] = random.randrange(256)
        send(bytes(changed))
head = bytes(frame)[:12]
for length in range(14, 1515):
    for kind in (random.randbytes(2), b"\x08\x00"):
        send((head + kind + random.randbytes(length))[:length])
    # Random behind a believable IPv4 header.
    send((bytes(frame / IP(src=sender, dst=vip, proto=random.choice((6, 17)), len=length)) + random.randbytes(length))[:length])
print(sent)
