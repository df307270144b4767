"""What distributions say of themselves, for the page that compares them."""

from __future__ import annotations

import re
from importlib import metadata

__all__ = ["facts", "unfounded"]

LIBRARIES = (
    "resilient-calls",
    "tenacity",
    "stamina",
    "backoff",
    "pybreaker",
    "circuitbreaker",
    "purgatory",
    "aiobreaker",
    "hyx",
    "pyresilience",
    "interlock-cb",
)


def facts() -> list[list[str]]:
    """Return for each library its version, the Python that it asks for, and what it brings."""
    rows = []
    for name in LIBRARIES:
        needed = [one for one in metadata.requires(name) or () if "extra ==" not in one]
        brought = sorted(re.split(r"[^\w-]", one)[0] for one in needed)
        asked = metadata.metadata(name).json.get("requires_python")
        said = f"`{asked}`" if asked else "not said"
        rows.append([name, metadata.version(name), said, ", ".join(brought) or "nothing"])
    return rows


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[*_`\[\]]|\(http[^)]*\)", "", text).split())


def unfounded(page: str) -> list[str]:
    """Return the quotes on the page that are not in what their distribution says of itself."""
    missing = []
    for name, quote in re.findall(r"^\| ([\w-]+) \| “(.+)” \|", page, re.MULTILINE):
        found = metadata.metadata(name).json
        said = f"{found.get('description')} {found['summary']}"
        if _plain(quote) not in _plain(said):
            missing.append(f"{name}: {quote}")
    return missing
