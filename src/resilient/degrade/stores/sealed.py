"""Values as bytes that outlive the process, and are only taken back if they are what they seem.

A seal covers the name, the codec, the time and the value. What somebody has planted, what was cut
off, what belongs to another key, version or codec does not match it and is no answer.
"""

from __future__ import annotations

import hashlib
import struct
import time
from typing import Any

from resilient.degrade.stores import Entry
from resilient.degrade.stores.codec import Codec
from resilient.engine import clock
from resilient.errors import ResilientError

__all__ = ["Rubbish", "opened", "sealed", "wall"]

_MAGIC = b"rsl1"
_DIGEST_SIZE = 16
_STORED = struct.Struct("!d")
_BODY = len(_MAGIC) + _DIGEST_SIZE


class Rubbish(ResilientError):
    """What is in a store is none of our answers."""


def wall() -> float:
    """Return the time of day in seconds, which passes as the library's clock does.

    The one clock that processes and restarts have in common. That it can be set is why an answer
    from the future is taken for as old as it lies ahead, so that it is not fresh for so long, and
    why nothing but the age of stored answers depends on it.
    """
    return time.time() - time.monotonic() + clock.now()


def sealed(name: str, codec: Codec, value: Any, stored: float) -> bytes:
    """Return `value`, stored at `stored`, as the bytes to keep under `name`."""
    body = _STORED.pack(stored) + codec.encode(value)
    return _MAGIC + _digest(name, codec, body) + body


def opened(name: str, codec: Codec, data: object) -> Entry:
    """Return the value that `data` holds, with its age.

    Raises:
        Rubbish: If `data` is not what was sealed for `name`.
    """
    if not isinstance(data, bytes) or not data.startswith(_MAGIC):
        raise Rubbish("not written by this library")
    body = data[_BODY:]
    if data[len(_MAGIC) : _BODY] != _digest(name, codec, body):
        raise Rubbish("cut off, changed, or written for another key or codec")
    (stored,) = _STORED.unpack_from(body)
    try:
        value = codec.decode(body[_STORED.size :])
    except Exception as error:
        raise Rubbish("the codec cannot read it") from error
    return Entry(value, abs(wall() - stored))


def _digest(name: str, codec: Codec, body: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    for part in (name, codec.name):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8) + encoded)
    digest.update(body)
    return digest.digest()
