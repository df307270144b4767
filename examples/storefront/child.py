"""How each of the four processes runs: it serves an app, says so, and never outlives the demo."""

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

PR_SET_PDEATHSIG = 1


def serve(
    app: ASGIApp,
    *,
    port: int,
    on_message: Callable[[Any], None] = lambda message: None,
    **announced: object,
) -> None:
    """Serve `app` on loopback; stdout tells the demo that it does, stdin brings its messages."""
    die_with_parent()
    listener = shared_socket(port)
    listener.listen(128)
    threading.Thread(target=follow_stdin, args=[on_message], daemon=True).start()
    print(json.dumps({"ready": announced}), flush=True)
    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_keep_alive=60)
    first = iter([True])  # one traceback explains what is wrong, a thousand hide the report
    logging.getLogger("uvicorn.error").addFilter(lambda _: next(first, False))
    uvicorn.Server(config).run(sockets=[listener])


def shared_socket(port: int) -> socket.socket:
    """A socket bound to a loopback port that the demo and one child hold together."""
    # Without the protocol's number asyncio does not turn Nagle's algorithm off: 40 ms an answer.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def die_with_parent() -> None:
    """Have the kernel end this process with its parent: a frozen one cannot see stdin close."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def follow_stdin(on_message: Callable[[Any], None]) -> None:
    """Pass on each line; the end of stdin is the end of the demo, on any system."""
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            on_message(json.loads(line))
    os._exit(0)
