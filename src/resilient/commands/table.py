"""Text for people, with the columns one below the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["shown", "table"]


def shown(value: Any) -> str:
    """Return `value` as a cell of a table."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    # A key is made of what customers have typed: it must neither begin a line nor move the cursor.
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` as text, with the columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
