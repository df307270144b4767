"""The payments example: four real workers, and a gateway that loses answers and goes away."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.examples.upstream import Upstream, ask
from tests.servers import GunicornServer
from tests.waiting import eventually

FOLDER = Path(__file__).parents[2] / "examples" / "payments"


class Payments(GunicornServer):
    """The example, started by the command on its page."""

    def __init__(self, metrics: Path, gateway: Upstream, fraud: Upstream) -> None:
        super().__init__("")
        self.environment = {
            "PORT": str(self.port),
            "GATEWAY_URL": gateway.url,
            "FRAUD_URL": fraud.url,
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }

    def _command(self) -> list[str]:
        settings = f"--config={FOLDER / 'gunicorn.conf.py'}"
        return [sys.executable, "-m", "gunicorn", f"--chdir={FOLDER}", settings]

    def pay(self, order: str, cents: int = 1999) -> tuple[int, Mapping[str, str], Any]:
        status, headers, text = ask(f"{self.url}/payments/{order}", "POST", {"cents": cents})
        return status, headers, json.loads(text)

    def metric(self, name: str, **labels: str) -> float:
        """Return a number of the page that is the sum over all workers."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        for found, series, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", self.page(), re.MULTILINE):
            if found == name and wanted == set(series.split(",")):
                return float(value)
        return 0.0

    def page(self) -> str:
        return ask(f"{self.url}/ops/metrics")[2]

    def circuits(self, state: str) -> float:
        return self.metric("resilient_circuit_state", dependency="gateway", state=state)

    def worker(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])


class Gateway(Upstream):
    """Charges each key once; the answers to some orders are lost, and some cards are declined."""

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}
        self.lost: set[str] = set()
        super().__init__({"/charges": self.charge, "/health": lambda *_: (200, "well")})

    def charge(self, about: Any, headers: Mapping[str, str]) -> Any:
        key = headers["Idempotency-Key"]
        if about["cents"] == 0:
            return 402, {"error": "declined"}
        self.charged[key] = self.charged.get(key, 0) + (key not in self.charged)
        if key.startswith("lost-") and key not in self.lost:
            self.lost.add(key)
            return None
        return 200, {"id": f"c-{key}"}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that is well."""
    with Gateway() as running:
        yield running


@pytest.fixture
def fraud() -> Iterator[Upstream]:
    """A fraud service that finds nothing."""
    with Upstream({"/score": lambda *_: (200, {"verdict": "fine"})}) as running:
        yield running


def test_four_workers_pay_once_and_count_together(
    tmp_path: Path, gateway: Gateway, fraud: Upstream
) -> None:
    """Concurrent payments are each made once, lost answers or not, and one page has all of them."""
    with Payments(tmp_path, gateway, fraud) as service:
        orders = [f"o{number}" for number in range(36)] + [f"lost-{number}" for number in range(4)]
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(service.pay, orders))
        assert [status for status, _, _ in answers] == [201] * 40
        assert answers[0][2] == {"order": "o0", "charge": "c-o0", "fraud": "fine"}
        assert gateway.charged == dict.fromkeys(orders, 1)
        assert gateway.lost == set(orders[36:])
        assert service.pay("declined", cents=0)[0] == 402
        assert eventually(lambda: service.circuits("closed") == 4)
        counted = {"dependency": "gateway", "outcome": "success"}
        assert eventually(lambda: service.metric("resilient_calls_total", **counted) == 41)
        assert service.metric("resilient_retries_total", dependency="gateway") == 4

        os.kill(service.worker(), signal.SIGKILL)
        assert {service.pay(f"after-{number}")[0] for number in range(8)} == {201}
        assert eventually(lambda: service.metric("resilient_calls_total", **counted) == 49)
        assert eventually(lambda: service.circuits("closed") == 4)

        fraud.stop()
        status, headers, answer = service.pay("unjudged")
        assert (status, answer["fraud"]) == (201, "review by hand")
        assert headers["Degraded"] == "fraud;tier=default"

        service._running().terminate()
        assert service._running().wait(30) == 0


def test_each_worker_learns_that_the_gateway_is_down_and_that_it_is_back(
    tmp_path: Path, gateway: Gateway, fraud: Upstream
) -> None:
    """All four circuits open, payments are refused at once, and all four close after the return."""
    with Payments(tmp_path, gateway, fraud) as service:
        assert service.pay("before")[0] == 201
        gateway.stop()
        seen: set[int] = set()
        numbers = iter(range(1_000_000))

        def all_are(state: str) -> bool:
            with ThreadPoolExecutor(8) as clients:
                orders = [f"o{next(numbers)}" for _ in range(16)]
                seen.update(status for status, _, _ in clients.map(service.pay, orders))
            return service.circuits(state) == 4

        assert eventually(lambda: all_are("open"))
        assert seen == {502, 503}
        assert gateway.charged == {"before": 1}
        status, headers, refused = service.pay("now")
        assert (status, refused["status"]) == (503, 503)
        assert int(headers["Retry-After"]) >= 1
        assert ask(f"{service.url}/ops/health/ready")[0] == 503
        assert ask(f"{service.url}/ops/health/live")[0] == 200

        gateway.start()
        assert eventually(lambda: all_are("closed"))
        assert service.pay("after")[0] == 201
        assert set(gateway.charged.values()) == {1}
