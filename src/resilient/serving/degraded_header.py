"""What was served instead of the real answer, as a response header."""

from __future__ import annotations

import re
from collections.abc import Iterable

from resilient.degrade.degradations import Degradation

__all__ = ["degraded_header"]

#: The longest value; servers and proxies refuse headers of some 8,000 bytes in all.
MOST_BYTES = 1000

# https://www.rfc-editor.org/rfc/rfc9651 sections 3.3.3, 3.3.4 and 3.3.8
_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")
_STRING = re.compile(r"[ -~]*")


def degraded_header(degradations: Iterable[Degradation]) -> str:
    """Return a list as in RFC 9651, such as `recommendations;tier=cached;age=42`.

    Each pair of dependency and tier is named once, with its greatest age. What does not fit is
    counted, as `*;more=3`.
    """
    ages: dict[tuple[str, str], float | None] = {}
    for one in degradations:
        pair = (one.dependency, one.tier)
        known = [age for age in (ages.get(pair), one.age) if age is not None]
        ages[pair] = max(known, default=None)
    members: list[str] = []
    room = MOST_BYTES - len(", *;more=1000")
    for (dependency, tier), age in ages.items():
        since = "" if age is None else f";age={int(age)}"
        member = f"{_bare(dependency)};tier={_bare(tier)}{since}"
        room -= len(member) + len(", ")
        if room < 0:
            return ", ".join((*members, f"*;more={len(ages) - len(members)}"))
        members.append(member)
    return ", ".join(members)


def _bare(text: str) -> str:
    """Return a name as a token if it is one, else as a string, else as a display string."""
    if _TOKEN.fullmatch(text):
        return text
    if _STRING.fullmatch(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    octets = text.encode("utf-8", "replace")
    plain = (chr(one) if 32 <= one < 127 and one not in b'%"' else f"%{one:02x}" for one in octets)
    return f'%"{"".join(plain)}"'
