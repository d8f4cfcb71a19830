"""A SIP server and client that know nothing but Call-ID and Via.

python3 sip.py serve NAME ADDRESS: answers each request with 200 and NAME in its Server line, for ever.
python3 sip.py call FROM TO CALL-ID: sends an INVITE, prints the Server line of what comes back.
"""
import socket
import sys

PORT = 5060


def header(message, name):
    lines = message.decode().split("\r\n")
    return next(line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(name + ":"))


if sys.argv[1] == "serve":
    name, address = sys.argv[2:]
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind((address, PORT))
    print("ready", flush=True)
    while True:
        message, client = here.recvfrom(65536)
        call = header(message, "call-id")
        here.sendto(f"SIP/2.0 200 OK\r\nCall-ID: {call}\r\nServer: {name}\r\n\r\n".encode(), client)
else:
    source, to, call = sys.argv[2:]
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind((source, 0))
    here.settimeout(5)
    here.connect((to, PORT))
    here.send(f"INVITE sip:a@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {source}\r\nCall-ID: {call}\r\n\r\n".encode())
    answer = here.recv(65536)
    assert header(answer, "call-id") == call, answer
    print(header(answer, "server"))
