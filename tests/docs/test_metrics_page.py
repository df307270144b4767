"""The page about metrics says what a scrape shows, and its queries are queries."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import PATIENCE, require_program

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
METRICS = re.compile(r"^### `(\w+)`\n\n\*(\w+)\*(?: by ((?:`\w+`(?:, )?)+))?\. ", re.MULTILINE)
QUERY = re.compile(r"^```text\n(.*resilient_.*)\n```$", re.MULTILINE)
EVERYTHING = """
from resilient import Dependency, cached, circuit_breaker, gather_partial, health, observe
from resilient.engine import draining, isolation  # draining is what reports units of work
from resilient.telemetry.metrics import exposition, register_metrics

shop = Dependency("shop", breaker=circuit_breaker(), timeout=1, max_concurrent=5)
ask = shop.with_fallback(cached(ttl=60), "instead")(lambda: "answer")
isolation.broken["a hook"] += 1
observe("payment")(ask)()
gather_partial(part=ask)
health.check("database", ask, every=60)
register_metrics()
print(exposition()[0].decode(), end="")
"""


def page_of_everything() -> bytes:
    """Return the page of a new process with every kind of strategy, and with other parts."""
    command = [sys.executable, "-c", EVERYTHING]
    return subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout


def described() -> dict[str, tuple[str, frozenset[str]]]:
    """Return the kind and the labels of each metric that the page describes."""
    return {
        name: (kind, frozenset(re.findall(r"\w+", labels or "")))
        for name, kind, labels in METRICS.findall(PAGE)
    }


def shown() -> dict[str, tuple[str, frozenset[str]]]:
    """Return the same of what a scrape shows."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in text_string_to_metric_families(page_of_everything().decode())
        if family.name.startswith("resilient_")
    }


def test_the_page_describes_every_metric_with_its_kind_and_labels() -> None:
    """What is on the page is in a scrape, and what is in a scrape is on this page or another."""
    on_this_page, seen = described(), shown()
    assert on_this_page == {name: seen.get(name) for name in on_this_page}
    others = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert [name for name in seen if f"`{name}" not in others] == []


def test_promtool_finds_nothing_wrong_with_what_other_parts_report() -> None:
    """The names and units of events, checks, parts and stores pass Prometheus's own linter."""
    command = [require_program("promtool"), "check", "metrics"]
    page = page_of_everything()
    checked = subprocess.run(command, input=page, check=False, capture_output=True, timeout=10)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_each_metric_comes_with_a_query() -> None:
    """After the description of a metric, there is a question that it answers."""
    for section in PAGE.split("\n### ")[1:]:
        name = section.split("`")[1]
        assert any(name in query for query in QUERY.findall(section)), name


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    """Each query of the page is PromQL, as Prometheus's own checker of rules reads it."""
    queries = QUERY.findall(PAGE)
    assert len(queries) >= len(described())
    rules = [{"record": f"query:{number}", "expr": of} for number, of in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}))
    command = [require_program("promtool"), "check", "rules", str(file)]
    checked = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stderr.decode()
