"""The orders example: a real primary is killed, a real replica is promoted, the service goes on."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.examples.upstream import ask
from tests.servers import PATIENCE, PostgresServer, Server
from tests.waiting import eventually

PROGRAM = Path(__file__).parents[2] / "examples" / "orders" / "service.py"


class Orders(Server):
    """The example, told where its two servers are."""

    name = "orders"
    ready = "unning on "

    def __init__(self, *databases: PostgresServer) -> None:
        super().__init__()
        hosts = ",".join(one.host for one in databases)
        ports = ",".join(str(one.port) for one in databases)
        self.environment = {
            "ORDERS_DB": f"host={hosts} port={ports} user=postgres dbname=postgres",
            "PORT": str(self.port),
        }

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        return [sys.executable, str(PROGRAM)]

    def place(self, order: str) -> tuple[int, Mapping[str, str]]:
        return ask(f"{self.url}/orders/{order}", "PUT", {"item": "teapot"})[:2]

    def read(self, order: str) -> tuple[int, Mapping[str, str], str]:
        return ask(f"{self.url}/orders/{order}")

    def end(self) -> int:
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """A primary with an empty table."""
    with PostgresServer() as server:
        server.sql("CREATE TABLE orders (id text PRIMARY KEY, item text)")
        yield server


@pytest.fixture
def replica(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A replica that streams from it."""
    with primary.replica() as server:
        yield server


def test_orders_go_on_when_the_primary_dies_and_the_replica_is_promoted(
    primary: PostgresServer, replica: PostgresServer
) -> None:
    """Reads never stop, writes are refused with advice until the promotion, and none is lost."""
    with Orders(primary, replica) as service:
        placed = [f"o{number}" for number in range(5)]
        assert [service.place(order)[0] for order in placed] == [201] * 5
        assert service.place("o0")[0] == 201  # the same order again
        assert eventually(lambda: replica.sql("SELECT count(*) FROM orders") == "5")
        status, headers, text = service.read("o1")
        assert (status, json.loads(text)) == (200, {"id": "o1", "item": "teapot"})
        assert headers["Degraded"] is None
        assert service.read("nobody's")[0] == 404

        primary.kill()
        refused = [service.place(f"refused-{number}") for number in range(4)]
        assert [status for status, _ in refused] == [503] * 4
        assert all(int(headers["Retry-After"]) >= 1 for _, headers in refused)
        assert [service.read(order)[0] for order in placed] == [200] * 5

        replica.promote()
        assert eventually(lambda: service.place("o5")[0] == 201)
        assert eventually(lambda: service.place("o6")[0] == 201)
        placed += ["o5", "o6"]
        assert [service.read(order)[0] for order in placed] == [200] * 7
        found = replica.sql("SELECT id FROM orders ORDER BY id").split()
        assert found == placed
        metrics = ask(f"{service.url}/ops/metrics")[2]
        assert re.search(
            rf'^resilient_failover_in_use.*"orders-primary".*:{replica.port}"\}} [1-9]',
            metrics,
            re.MULTILINE,
        )

        replica.kill()
        status, headers, _ = service.read("o1")
        assert status == 200
        assert headers["Degraded"].startswith("orders-reading;tier=cached;age=")
        assert service.read("o-that-nobody-has-read")[0] == 503
        assert service.end() == 0
