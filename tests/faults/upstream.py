"""A server that misbehaves in the ways of real ones, on a port of the loopback interface."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

__all__ = ["FAULTS", "Upstream"]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
#: Each of its ways, "well" apart.
FAULTS = ("silent", "reset", "half", "trickle", "wrong length", "gone")


class Upstream:
    """Answers each connection as `mode` says at that moment."""

    def __init__(self) -> None:
        self.mode = "well"
        self.connections = 0
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        with suppress(OSError):  # wakes the one that waits for a connection
            socket.create_connection(self._listening.getsockname(), timeout=5).close()
        self._thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self._ended.is_set():
                connection.close()
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        mode = self.mode
        with connection, suppress(OSError):
            if mode == "gone":
                return
            connection.recv(65536)
            if mode == "silent":
                self._ended.wait(10)
            elif mode == "reset":
                linger = struct.pack("ii", 1, 0)  # closing sends a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif mode == "half":
                connection.sendall(HEAD + b"Content-Length: 6\r\n\r\nans")
            elif mode == "wrong length":
                connection.sendall(HEAD + b"Content-Length: 600\r\n\r\nanswer")
            elif mode == "trickle":
                connection.sendall(HEAD + b"Content-Length: 6\r\n\r\n")
                for byte in b"answer":
                    connection.sendall(bytes([byte]))
                    if self._ended.wait(1):
                        return
            else:
                connection.sendall(HEAD + b"Content-Length: 6\r\n\r\nanswer")
