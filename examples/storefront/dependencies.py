"""The three upstreams of the storefront, each named once, with how it fails and how it comes back.

The windows are short because the demo is: a failure rate of one half over the last two seconds
is reached about a second after an upstream dies.
"""

import os
from collections.abc import Awaitable, Callable

import httpx
from tenacity import wait_random_exponential

from resilient import CircuitBreaker, Dependency, circuit_breaker, retry

# A 5xx counts against the upstream (see `client_of`), so do a broken connection and our time limit.
FAILURES = (httpx.HTTPError, TimeoutError)


async def raise_for_server_error(response: httpx.Response) -> None:
    """Make an answer that is the upstream's fault an error; a 4xx stays an answer."""
    if response.is_server_error:
        response.raise_for_status()


def client_of(upstream: str) -> httpx.AsyncClient:
    """The HTTP client for `upstream`, whose address and maybe token are in the environment."""
    token = os.environ.get(f"{upstream.upper()}_TOKEN")
    return httpx.AsyncClient(
        base_url=os.environ[f"{upstream.upper()}_URL"],
        headers={"Authorization": f"Bearer {token}"} if token else {},
        event_hooks={"response": [raise_for_server_error]},
    )


def healthy(client: httpx.AsyncClient) -> Callable[[], Awaitable[None]]:
    """A probe: whether the upstream behind `client` says that it is well, within 0.3 s."""

    async def probe() -> None:
        await client.get("/health", timeout=0.3)

    return probe


def breaker_before(client: httpx.AsyncClient, failure_rate: float = 0.5) -> CircuitBreaker:
    """A breaker that asks the upstream twice a second whether it is back."""
    return circuit_breaker(
        failure_rate=failure_rate,
        window="2s",
        min_calls=5,
        probe=healthy(client),
        probe_every=0.5,
    )


recommendations_api = client_of("recommendations")
auth_api = client_of("auth")
payments_api = client_of("payments")

recommendations = Dependency(
    "recommendations",
    failures=FAILURES,
    timeout=0.3,
    breaker=breaker_before(recommendations_api),
)

auth = Dependency(
    "auth",
    failures=FAILURES,
    timeout=0.3,
    breaker=breaker_before(auth_api),
)

payments = Dependency(
    "payments",
    critical=True,
    failures=FAILURES,
    total_timeout=1.0,
    timeout=0.4,
    retry=retry(attempts=3, wait=wait_random_exponential(multiplier=0.05, max=0.2)),
    # A payment service that loses every third charge is down.
    breaker=breaker_before(payments_api, failure_rate=0.3),
)
