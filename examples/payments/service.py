"""A payments service with Flask, for gunicorn with four workers (see gunicorn.conf.py)."""

import json
import os
import urllib.error
import urllib.request
from typing import Any

from flask import Flask, request

from resilient import Dependency, circuit_breaker, deadline_headers, observe, retry
from resilient.integrations.flask import install

GATEWAY = os.environ.get("GATEWAY_URL", "http://127.0.0.1:9001")
FRAUD = os.environ.get("FRAUD_URL", "http://127.0.0.1:9002")


class CardDeclined(Exception):
    """The gateway's answer is no. It is an answer, and says nothing against the gateway."""


def ask(url: str, about: object = None, **headers: str) -> Any:
    # What the visitor's client has left is what the upstream is given.
    asked = urllib.request.Request(
        url,
        data=None if about is None else json.dumps(about).encode(),
        headers={"Content-Type": "application/json", **deadline_headers(), **headers},
    )
    with urllib.request.urlopen(asked, timeout=2) as response:  # the thread's own limit
        return json.load(response)


def gateway_is_well() -> None:
    ask(f"{GATEWAY}/health")


# Each of the four workers has a circuit of its own and sees a quarter of the calls: five in ten
# seconds are enough to judge by, and the probe is asked by each of them once a second.
gateway = Dependency(
    "gateway",
    critical=True,
    failures=OSError,
    total_timeout=3,
    timeout=1,
    retry=retry(attempts=2),
    breaker=circuit_breaker(
        failure_rate=0.5, window="10s", min_calls=5, probe=gateway_is_well, probe_every=1
    ),
    owner="team-money",
    runbook="https://runbooks.example/gateway",
)
fraud = Dependency("fraud", failures=OSError, timeout=0.3, breaker=circuit_breaker(fail_max=3))


@fraud.with_fallback("review by hand")
def verdict_on(order_id: str, cents: int) -> str:
    verdict: str = ask(f"{FRAUD}/score", {"order": order_id, "cents": cents})["verdict"]
    return verdict


@observe("payment", fields=["order_id", "cents"], expected={CardDeclined: "declined"})
@gateway
def charge(order_id: str, cents: int) -> str:
    """Charge an order; the key makes a second attempt the same charge for the gateway."""
    try:
        charged = ask(f"{GATEWAY}/charges", {"cents": cents}, **{"Idempotency-Key": order_id})
    except urllib.error.HTTPError as error:
        if error.code == 402:
            raise CardDeclined(order_id) from None
        raise
    charge_id: str = charged["id"]
    return charge_id


app = Flask(__name__)


@app.post("/payments/<order_id>")
def pay(order_id: str) -> tuple[dict[str, object], int]:
    cents = int(request.get_json()["cents"])
    verdict = verdict_on(order_id, cents)
    try:
        return {"order": order_id, "charge": charge(order_id, cents), "fraud": verdict}, 201
    except CardDeclined:
        return {"order": order_id, "error": "the card was declined"}, 402


@app.errorhandler(OSError)
def not_confirmed(_: OSError) -> tuple[dict[str, str], int]:
    """The gateway has not answered: it may have charged. The same order may be sent again."""
    return {"error": "not confirmed; send the same order again"}, 502


install(app, max_deadline=10)
