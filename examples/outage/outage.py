# %% [markdown]
# # An outage, walked through
#
# One function, one outage of half a minute, and all that is to be seen of it: by visitors, by the
# people on call, and afterwards. It is the library itself that does it, with a clock that passes
# only when it is told to, so that the half minute takes no time.
#
# ## What can fail, and what guards it

# %%
import random
from collections import Counter
from contextlib import ExitStack
from typing import Any

import structlog

from resilient import (
    Dependency,
    cached,
    circuit_breaker,
    degradation_scope,
    health,
    register_metrics,
    retry,
)
from resilient.telemetry.metrics import exposition
from resilient.testing import VirtualTime

random.seed(1)  # pauses have jitter; with this, and this start, they are the same each time
clock = ExitStack().enter_context(VirtualTime(start=1e9))  # time is what `advance` says now
began = clock.now()


def tell(_: Any, __: str, event: Any) -> Any:
    """Print what circuits do, as a log would have it; the other events are left out here."""
    name = event["event"].removeprefix("resilient.")
    if name.startswith("circuit_") or name == "recovered":
        keys = ("reason", "failures", "calls", "detection_seconds", "recovery_seconds")
        said = " ".join(f"{key}={event[key]}" for key in keys if key in event)
        print(f"{clock.now() - began:6.1f} s      {name} {said}")
    raise structlog.DropEvent


structlog.configure(processors=[tell])


class Recommender:
    """What is called; in a real service it is on the other side of a network."""

    is_down = False
    asked = 0

    def ask(self, user: str) -> str:
        self.asked += 1
        clock.sleep(0.02)
        if self.is_down:
            raise ConnectionRefusedError("nobody listens")
        return f"a book for {user}"

    def ping(self) -> None:
        if self.is_down:
            raise ConnectionRefusedError("nobody listens")


recommender = Recommender()
breaker = circuit_breaker(
    failure_rate=0.5, window="5s", min_calls=10, probe=recommender.ping, probe_every=1
)
recommendations = Dependency(
    "recommendations",
    failures=ConnectionError,
    retry=retry(attempts=3, wait_initial=0.05),
    breaker=breaker,
    owner="team-shop",
    runbook="https://runbooks.example/recommendations",
    rto=20,
)


@recommendations.with_fallback(cached(ttl=3600, key="rec:{user}"), "what is popular")
def recommended_to(user: str) -> str:
    return recommender.ask(user)


# %% [markdown]
# Visitors come ten times a second; of twelve, ten have been here before and two have not. For
# each second we note what they were served, how often the recommender was asked for it, and what
# the circuit was at the end.

# %%
USERS = [f"u{number}" for number in range(12)]
turn = 0


def watch(seconds: int, known: int = 12) -> None:
    """Let so many seconds of visitors pass, and print a line for each second."""
    global turn
    for _ in range(seconds):
        served: Counter[str] = Counter()
        asked, ends = recommender.asked, clock.now() + 1
        for _ in range(10):  # visitors
            with degradation_scope() as degraded:
                recommended_to(USERS[turn % known])
            served[degraded[0].tier if degraded else "fresh"] += 1
            turn += 1
            clock.advance(0.06)
        clock.advance(max(0.0, ends - clock.now()))
        told = ", ".join(f"{count} {what}" for what, count in served.items())
        calls = recommender.asked - asked
        state = breaker.current_state
        print(f"{clock.now() - began:6.1f} s  {told:<22} {calls:2} calls  {state}")


watch(3, known=10)

# %% [markdown]
# All of it is fresh, and each visitor is one call.
#
# ## It goes down

# %%
recommender.is_down = True
watch(6)

# %% [markdown]
# Nobody got an error, not even in the first second: who had been here before had the last good
# answer, the others had what is popular. In that second there were ten calls more than visitors:
# that is the budget of retries, and it is all of it. Then half of the calls of five seconds had
# failed, the circuit opened, and the recommender was left alone, but for single calls that are
# let through as probes; each time one fails, the next is twice as far away.
#
# ## What the people on call see
#
# The readiness page, in which nothing has failed, as there is an answer without recommendations.
# It says for how long, what is served instead, whose it is and what to do:

# %%
ready = health.ready()
print(ready.http_status, ready.status)
[circuit] = ready.checks["recommendations:circuit"]
for key in ("observedValue", "lastFailure", "servedInstead", "owner", "runbook", "rtoExceeded"):
    print(f"{key}: {circuit[key]}")

# %% [markdown]
# And 24 seconds later, when it has lasted longer than was promised for it (`rto=20`):

# %%
watch(24)
[circuit] = health.ready().checks["recommendations:circuit"]
print(f"failing for {circuit['failingForSeconds']:.1f} s, rtoExceeded: {circuit['rtoExceeded']}")

# %% [markdown]
# ## It comes back

# %%
recommender.is_down = False
watch(4)

# %% [markdown]
# The probe, which asks once a second in the background, noticed it; without one it would have
# been the next visitor's call, up to half a minute later. The first ten calls are let through on
# trial and go well, so all are. With more traffic it would be a tenth of it at first, then more
# and more: what has only just started is not run over.
#
# ## What is left
#
# Numbers, which Prometheus has read all the while. Served from a fallback is never counted as a
# success, and the two durations that matter have been measured:

# %%
SHOWN = (
    "resilient_calls_total",
    "resilient_fallbacks_total",
    "resilient_retries_total",
    "resilient_detection_seconds_sum",
    "resilient_recovery_seconds_sum",
)
register_metrics()
page, _ = exposition()
for line in page.decode().splitlines():
    series, _, value = line.rpartition(" ")
    if series.startswith(SHOWN) and float(value) > 0:
        print(f"{series} {float(value):g}")
