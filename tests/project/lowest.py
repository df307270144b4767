"""The oldest versions that pyproject.toml allows, as constraints for pip.

`make test-lowest` runs the tests with them, so that a lower bound is a fact and not a hope.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def lowest_versions() -> Iterator[str]:
    """Yield `name==version` for every dependency of the library, those of its extras included."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        bound = re.fullmatch(r"(?P<name>[\w.-]+)>=(?P<version>[\d.]+)(,<[\d.]+)?", requirement)
        if bound is None:
            raise ValueError(f"{requirement!r} has no lower bound of the form name>=version")
        yield f"{bound['name']}=={bound['version']}"


if __name__ == "__main__":
    print("\n".join(lowest_versions()))
