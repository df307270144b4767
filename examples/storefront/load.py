"""Steady load: several clients who keep to their timetable, whatever the storefront does."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx

from contract import NEEDS

CLIENTS = 8
EVERY_SECONDS = 0.2
USERS = 12
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to, as its client saw it.

    `served` says for each upstream that the request needs what came of it: fresh, cached,
    default, queued, rejected or failed.
    """

    kind: str
    started: float
    seconds: float
    status: int
    served: Mapping[str, str]
    retry_after: str | None = None
    rights: frozenset[str] = frozenset()
    order: str | None = None

    @property
    def ended(self) -> float:
        return self.started + self.seconds


async def drive(
    url: str, on_answer: Callable[[Answer], None], stopping: asyncio.Event, clients: int = CLIENTS
) -> None:
    """Send requests from `clients` clients until `stopping`, then wait for the last answers."""
    async with httpx.AsyncClient(base_url=url, timeout=5.0) as http:

        async def client(number: int) -> None:
            began = time.monotonic() + number * EVERY_SECONDS / clients
            # A request that is late delays no other: that would hide how many were affected.
            async with asyncio.TaskGroup() as requests:
                for turn in itertools.count():
                    await asyncio.sleep(began + turn * EVERY_SECONDS - time.monotonic())
                    if stopping.is_set():
                        return
                    requests.create_task(request(number, turn))

        async def request(number: int, turn: int) -> None:
            visit = number + turn
            kind = "payment" if visit % 2 == 0 else "page"
            on_answer(await ask(http, kind, f"{number}-{turn}", token_of(visit, turn)))

        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(client(number))


def token_of(visit: int, turn: int) -> str:
    """Who visits: mostly regulars, some for the first time, some with a token that has expired."""
    if visit % 5 == 1:
        return f"token-newcomer-{visit}-{turn}"
    if visit % 11 == 2:
        return "expired"
    return f"token-user-{visit % USERS}"


async def ask(http: httpx.AsyncClient, kind: str, number: str, token: str) -> Answer:
    """Send one request and note what it came to; nothing is raised."""
    started = time.monotonic()
    method, path = {
        "page": ("GET", f"/product/{number}"),
        "payment": ("POST", f"/pay/{number}"),
    }[kind]
    try:
        response = await http.request(method, path, headers={"Authorization": token})
    except httpx.HTTPError:
        return answer(kind, started, status=0)
    return answer(kind, started, response.status_code, response.headers, body_of(response))


def body_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in `response`; an empty one when the storefront itself broke down."""
    try:
        return dict(response.json())
    except ValueError:
        return {}


def answer(
    kind: str,
    started: float,
    status: int,
    headers: Mapping[str, str] = EMPTY,
    body: Mapping[str, Any] = EMPTY,
) -> Answer:
    return Answer(
        kind,
        started,
        time.monotonic() - started,
        status,
        served(kind, status, body.get("degraded", [])),
        headers.get("retry-after"),
        frozenset(body.get("rights", [])),
        body.get("order"),
    )


def served(kind: str, status: int, degraded: list[dict[str, str]]) -> dict[str, str]:
    """What came of each upstream that a request of `kind` needs."""
    parts = dict.fromkeys(NEEDS[kind], "fresh" if status in (200, 202) else "failed")
    if status in (502, 503):  # the storefront's own words for a payment: the rest was well
        parts = dict.fromkeys(NEEDS[kind], "fresh")
        parts["payments"] = "failed" if status == 502 else "rejected"
    for part in degraded:
        parts[part["dependency"]] = part["tier"]
    return parts
