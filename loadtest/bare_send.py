"""The twin of bare_send.c for machines without a C compiler: a bare loop of send() calls, in Python.

usage: bare_send.py CLIENTS MESSAGES BYTES (see bare_send.c). Its cost a send is a little higher than C's.
"""

from __future__ import annotations

import select
import socket
import sys
import time


def send_all(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            select.select([], [sock], [], 1)


def main() -> None:
    clients, messages, size = map(int, sys.argv[1:4])
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        print("port", listener.getsockname()[1], flush=True)
        sockets = [listener.accept()[0] for _ in range(clients)]
        for sock in sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        sys.stdin.readline()
        data = b"x" * size
        begun = time.process_time_ns()
        for _ in range(messages):
            for sock in sockets:
                send_all(sock, data)
            time.sleep(0.002)
        print("cpu_ns_per_send", (time.process_time_ns() - begun) / (clients * messages), flush=True)
        sys.stdin.read()  # the readers are not done yet


if __name__ == "__main__":
    main()
