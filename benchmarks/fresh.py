"""What has to be measured in a process of its own, because it happens once in each."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

__all__ = ["IMPORTS", "USES", "in_fresh_process", "seconds_of_statements"]

ROOT = Path(__file__).parents[1]
#: What is imported, by library.
IMPORTS = {
    name: f"import {name}"
    for name in (
        "resilient",
        "tenacity",
        "stamina",
        "backoff",
        "pybreaker",
        "circuitbreaker",
        "aiobreaker",
        "purgatory",
        "hyx",
        "interlock",
        "pyresilience",
    )
}
#: The first use of each part, after `import resilient`: all that it loads, made and called once.
USES = {
    "timeout": "resilient.timeout(2)(function)('u1')",
    "deadline": "resilient.deadline(2)(function)('u1')",
    "retry": "resilient.retry(on=OSError)(function)('u1')",
    "circuit_breaker": "resilient.circuit_breaker('service')(function)('u1')",
    "with_fallback, default": "resilient.with_fallback(0)(function)('u1')",
    "with_fallback, cached": "resilient.with_fallback(resilient.cached(ttl=60))(function)('u1')",
    "bulkhead": "resilient.bulkhead(20)(function)('u1')",
    "rate_limit": "resilient.rate_limit(20)(function)('u1')",
    "Dependency": "resilient.Dependency('service')(function)('u1')",
    "register_metrics": "resilient.register_metrics()",
    "health": "resilient.health",
    "serve": "resilient.serve(port=0).close()",
}

#: What else the machine has to do takes the processor away, and does not count here.
_TIMED = """
from time import process_time
def function(key):
    return key
{setup}
started = process_time()
{statement}
print(process_time() - started)
"""


def in_fresh_process(*arguments: str) -> Any:
    """Return what `python ARGUMENTS` prints, which is JSON."""
    done = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def seconds_of_statements(
    statements: Mapping[str, str], *, rounds: int, setup: str = ""
) -> dict[str, list[float]]:
    """Return what each statement takes of the processor, a process for each, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    order = list(statements)
    shuffle = random.Random(0).shuffle
    # The first round fills the system's caches, and Python's compiled files.
    for number in range(rounds + 1):
        shuffle(order)
        for name in order:
            code = dedent(_TIMED).format(setup=setup, statement=statements[name])
            taken = in_fresh_process("-c", code)
            if number:
                seconds[name].append(taken)
    return seconds
