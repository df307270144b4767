"""The tutorial's service does what the tutorial says when its upstream is really killed."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tests.docs.examples import examples_in
from tests.servers import PATIENCE, require_program

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def block_with(text: str) -> str:
    """Return the one Python block of the page that contains `text`."""
    [block] = [one.source.text for one in examples_in(PAGE) if text in one.source.text]
    return block


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def running(*command: str, folder: Path) -> Generator[None]:
    """Run a program until the end of the block."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.kill()


def answer_of(url: str) -> tuple[Any, str | None]:
    """Return what a page says, as soon as somebody listens, and its `Degraded` header."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(url, timeout=PATIENCE) as response:
                return json.load(response), response.headers["Degraded"]
        except URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def test_the_shop_of_the_tutorial_survives_the_death_of_its_upstream(tmp_path: Path) -> None:
    """With the upstream killed, the shop answers as before, and says that it is degraded."""
    upstream, shop = free_port(), free_port()
    for name, text in (("upstream", "serve_forever"), ("shop", "install(app)")):
        code = block_with(text).replace("9001", str(upstream))
        (tmp_path / f"{name}.py").write_text(code)
    page = f"http://127.0.0.1:{shop}/product/lamp"
    fresh = {"item": "lamp", "reviews": ["Sturdy.", "A bit small."]}
    flask = (sys.executable, "-m", "flask", "--app", "shop", "run", "--port", str(shop))

    with running(*flask, folder=tmp_path):
        with running(sys.executable, "upstream.py", folder=tmp_path):
            answer_of(f"http://127.0.0.1:{upstream}/reviews/lamp")
            assert answer_of(page) == (fresh, None)
        answer, degraded = answer_of(page)
        with urlopen(f"http://127.0.0.1:{shop}/ops/metrics", timeout=PATIENCE) as response:
            metrics = response.read().decode()

    assert answer == fresh
    assert degraded is not None
    assert degraded.startswith("reviews;tier=cached;age=")
    assert 'resilient_fallbacks_total{dependency="reviews",tier="cached"} 1.0' in metrics


def test_prometheus_takes_the_configuration_and_the_panels(tmp_path: Path) -> None:
    """The tutorial's configuration and its four queries are understood by Prometheus."""
    promtool = require_program("promtool")
    text = PAGE.read_text(encoding="utf-8")
    [configuration] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    panels = re.findall(r"^\| .*\? \| `(.*)` \|$", text, re.MULTILINE)
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(panels)]
    (tmp_path / "prometheus.yml").write_text(configuration)
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "p", "rules": rules}]}))

    assert len(panels) == 4
    for kind, name in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        checked = subprocess.run(
            [promtool, "check", kind, name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
