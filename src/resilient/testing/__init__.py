"""For the tests of code that uses the library: virtual time, and faults to order.

virtual   a clock that passes only when told to, for threads and for asyncio
faults    calls that fail or take long, beneath all strategies
plugin    the fixtures for pytest
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.testing.faults import fail, pass_through
from resilient.testing.virtual import VirtualLoop, VirtualTime

if TYPE_CHECKING:
    from resilient.testing.plugin import virtual_time

__all__ = ["VirtualLoop", "VirtualTime", "fail", "pass_through", "virtual_time"]


def __getattr__(name: str) -> object:
    # The fixture, for test modules that import it; pytest is needed for nothing else here.
    if name == "virtual_time":
        from resilient.testing.plugin import virtual_time

        return virtual_time
    raise AttributeError(f"module 'resilient.testing' has no attribute {name!r}")
