"""Asks over UDP as a resolver does, and answers so.

python3 ask.py serve ADDRESS PORT: answers each datagram with the same and who has asked, for ever.
python3 ask.py ask ADDRESS PORT COUNT: asks so often from one socket and prints whom the host there has seen, once for each.
python3 ask.py refused ADDRESS PORT: prints "refused" where the host there says that nobody is at the port.
"""
import socket
import sys

what, address, port = sys.argv[1:4]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
here = socket.socket(family, socket.SOCK_DGRAM)
here.settimeout(5)
if what == "serve":
    here.settimeout(None)
    here.bind((address, int(port)))
    print("ready", flush=True)
    while True:
        message, client = here.recvfrom(65536)
        here.sendto(message + f" {client[0]}".encode(), client)
here.connect((address, int(port)))
if what == "refused":
    here.send(b"?")
    try:
        here.recv(100)
    except ConnectionRefusedError:
        print("refused")
else:
    seen = []
    for n in range(int(sys.argv[4])):
        question = b"%d " % n + b"x" * (n * 140)
        here.send(question)
        answer = here.recv(65536)
        assert answer.startswith(question + b" "), answer
        seen.append(answer[len(question) + 1:].decode())
    print("\n".join(sorted(set(seen))))
