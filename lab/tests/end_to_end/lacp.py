"""A switch's end of a link aggregation (IEEE 802.1AX, LACP), on interfaces whose other ends are a bond's members.

    lacp.py INTERFACE ...    answers, and takes the last interface out of the aggregation once it gets SIGUSR1

Prints a line whenever what the bond says of a member changes: the interface and the bits of its state.
"""
import select
import signal
import socket
import struct
import sys
import time

SLOW_PROTOCOLS = 0x8809
GROUP = bytes.fromhex("0180c2000002")
SYSTEM = bytes.fromhex("020000000b0b")
ACTIVE, SHORT, AGGREGATION, SYNC, COLLECTING, DISTRIBUTING = (1 << n for n in range(6))
NAMES = {SYNC: "sync", COLLECTING: "collecting", DISTRIBUTING: "distributing"}
NOBODY = bytes(18)

interfaces = sys.argv[1:]
leaving = False


def leave(*_):
    global leaving
    leaving = True


signal.signal(signal.SIGUSR1, leave)


def listen(interface):
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    wire.bind((interface, 0))
    return wire


def frame(number, partner):
    """What this switch says at its port of that number."""
    state = ACTIVE | SHORT | AGGREGATION | SYNC | COLLECTING | DISTRIBUTING
    if leaving and number == len(interfaces):
        state = ACTIVE | SHORT | AGGREGATION
    actor = struct.pack("!H6sHHHB3x", 0x8000, SYSTEM, 1, 0x8000, number, state)
    pdu = b"\x01\x01" + b"\x01\x14" + actor + b"\x02\x14" + partner + b"\x03\x10" + bytes(14) + bytes(52)
    return GROUP + SYSTEM[:5] + bytes([number]) + struct.pack("!H", SLOW_PROTOCOLS) + pdu


wires = {listen(interface): number for number, interface in enumerate(interfaces, 1)}
partners = {number: NOBODY for number in wires.values()}
said = {}
due = 0.0
while True:
    ready, _, _ = select.select(wires, [], [], 0.2)
    for wire in ready:
        data, address = wire.recvfrom(2048)
        if address[2] == socket.PACKET_OUTGOING or data[:6] != GROUP or data[12:15] != b"\x88\x09\x01":
            continue
        number = wires[wire]
        # The actor's part is the partner's to us, with its 3 reserved bytes.
        partners[number] = data[18:36]
        state = data[32]
        words = [name for bit, name in NAMES.items() if state & bit]
        if said.get(number) != words:
            said[number] = words
            print(interfaces[number - 1], *words, flush=True)
    if time.monotonic() >= due:
        due = time.monotonic() + 0.5
        for wire, number in wires.items():
            wire.send(frame(number, partners[number]))
