"""A Celery app whose payments may be down: imported by the tests, and by a worker of its own.

What the other side has had is a line each in a file; while another file exists, it is down.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from resilient import Dependency, circuit_breaker, queued
from resilient.integrations.celery import CeleryQueue

FOLDER = Path(os.environ["SHOP_FOLDER"])
app = Celery("shop", broker="filesystem://", set_as_current=False)
FILES = str(FOLDER / "broker")
BROKER = {"data_folder_in": FILES, "data_folder_out": FILES, "control_folder": f"{FOLDER}/control"}
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={**BROKER, "polling_interval": 0.05},
)
queue = CeleryQueue(app, first_pause=0.01, max_attempts=8)
payments = Dependency(
    "celery-payments",
    failures=ConnectionError,
    breaker=circuit_breaker(fail_max=2, reset_timeout=0.5),
)


def ask(line: str) -> None:
    """Have the other side note a line, unless it is down."""
    with (FOLDER / "attempts").open("a") as attempts:
        attempts.write(line + "\n")
    if (FOLDER / "down").exists():
        raise ConnectionError("down")
    with (FOLDER / "ledger").open("a") as ledger:
        ledger.write(line + "\n")


@payments.with_fallback(queued(queue, key="charge:{order_id}", name="shop.charge"))
def charge(order_id: str, cents: int) -> None:
    ask(f"{order_id} {cents}")


@payments.with_fallback(queued(queue, name="shop.refund"))
async def refund(order_id: str) -> None:
    ask(f"refund {order_id}")
