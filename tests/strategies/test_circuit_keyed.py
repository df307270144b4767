"""A circuit for each key: one that fails does not stop the others, and nothing grows with keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    CircuitBreaker,
    CircuitOpen,
    DuplicateName,
    InvalidSetting,
    InvalidUse,
    Pipeline,
    circuit_breaker,
    pipeline_of,
    retry,
    with_fallback,
)
from resilient.telemetry import health
from resilient.telemetry.metrics import Collector
from resilient.testing import VirtualTime


class Partners:
    """Hosts of which some are down."""

    def __init__(self) -> None:
        self.down: set[object] = set()
        self.calls: list[object] = []

    def fetch(self, host: object, path: str = "/") -> str:
        """Ask a host."""
        self.calls.append(host)
        if host in self.down:
            raise ConnectionError(f"{host} is down")
        return f"{host}{path}"


@pytest.fixture
def partners(virtual_time: VirtualTime) -> Partners:
    """Some hosts, in virtual time."""
    return Partners()


def seen(call: Any, *arguments: Any, **named: Any) -> str:
    """Make a call and say what it came to."""
    try:
        return str(call(*arguments, **named))
    except CircuitOpen:
        return "rejected"
    except Exception as error:
        return type(error).__name__


def series(name: str) -> dict[tuple[str, ...], float]:
    """Return all series of a metric, by the values of their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in Collector().collect()
        for sample in family.samples
        if sample.name == name
    }


def hosts_of(per_host: Any) -> set[str]:
    """Return the hosts that have a circuit."""
    return {key[-1] for key in per_host.circuits}


# A circuit for each key


def test_a_host_that_is_down_does_not_stop_the_others(partners: Partners) -> None:
    """Its calls are rejected after fail_max failures, and those of another host go on."""
    fetch = circuit_breaker.per_key("partners", "{host}", fail_max=3)(partners.fetch)
    partners.down.add("a")

    assert [seen(fetch, "a") for _ in range(20)] == ["ConnectionError"] * 3 + ["rejected"] * 17
    assert [seen(fetch, "b") for _ in range(20)] == ["b/"] * 20
    assert partners.calls.count("a") == 3


def test_each_key_comes_back_by_itself(partners: Partners, virtual_time: VirtualTime) -> None:
    """A probe of one host says nothing about another one."""
    fetch = circuit_breaker.per_key("partners", "{host}", fail_max=1, reset_timeout=10)(
        partners.fetch
    )
    partners.down = {"a", "b"}
    for host in ("a", "b"):
        seen(fetch, host)
    partners.down = {"b"}
    virtual_time.advance(10)

    assert [seen(fetch, "a"), seen(fetch, "b"), seen(fetch, "a"), seen(fetch, "b")] == [
        "a/",
        "ConnectionError",
        "a/",
        "rejected",
    ]


def test_a_key_is_found_however_the_argument_is_passed(partners: Partners) -> None:
    """By position, by name, or by the default of the parameter."""

    @circuit_breaker.per_key("partners", "{host}", fail_max=2)
    def fetch(path: str, host: str = "a") -> str:
        return partners.fetch(host, path)

    partners.down.add("a")
    assert [seen(fetch, "/", "a"), seen(fetch, "/", host="a"), seen(fetch, "/")] == [
        "ConnectionError",
        "ConnectionError",
        "rejected",
    ]


def test_a_key_can_be_a_function_of_the_arguments(partners: Partners) -> None:
    """What it returns is the key; equal keys share a circuit."""
    fetch = circuit_breaker.per_key("partners", lambda host, path="/": host.upper(), fail_max=2)(
        partners.fetch
    )
    partners.down |= {"a", "A"}

    assert [seen(fetch, "a"), seen(fetch, "A"), seen(fetch, "a")] == [
        "ConnectionError",
        "ConnectionError",
        "rejected",
    ]


def test_functions_share_the_circuits_of_their_keys(partners: Partners) -> None:
    """One keyed breaker on two functions is one circuit a host, wherever the parameter stands."""
    per_host = circuit_breaker.per_key("partners", "{host}", fail_max=2)

    @per_host
    def read(host: str) -> str:
        return partners.fetch(host)

    @per_host
    async def write(body: str, host: str) -> str:
        return partners.fetch(host)

    partners.down.add("a")
    assert seen(read, "a") == "ConnectionError"
    assert seen(lambda: asyncio.run(write("body", "a"))) == "ConnectionError"
    assert seen(read, "a") == "rejected"
    assert seen(lambda: asyncio.run(write("body", "a"))) == "rejected"


def test_methods_are_keyed_by_an_attribute_of_their_object(partners: Partners) -> None:
    """A template reaches into `self`."""

    class Client:
        def __init__(self, host: str) -> None:
            self.host = host

        @circuit_breaker.per_key("partners", "{self.host}", fail_max=1)
        def fetch(self) -> str:
            return partners.fetch(self.host)

    partners.down.add("a")
    one, another, healthy = Client("a"), Client("a"), Client("b")

    assert [seen(one.fetch), seen(another.fetch), seen(healthy.fetch)] == [
        "ConnectionError",
        "rejected",
        "b/",
    ]


def test_streams_are_guarded_by_the_circuit_of_their_key(partners: Partners) -> None:
    """An error in the middle of a stream counts for its key alone."""
    per_host = circuit_breaker.per_key("partners", "{host}", fail_max=2)

    @per_host
    def stream(host: str) -> Iterator[str]:
        yield "first"
        yield partners.fetch(host)

    @per_host
    async def stream_async(host: str) -> AsyncIterator[str]:
        yield "first"
        yield partners.fetch(host)

    async def collected(host: str) -> list[str]:
        return [item async for item in stream_async(host)]

    partners.down.add("a")
    assert seen(lambda: list(stream("a"))) == "ConnectionError"
    assert seen(lambda: asyncio.run(collected("a"))) == "ConnectionError"
    assert seen(lambda: list(stream("a"))) == "rejected"
    assert seen(lambda: list(stream("b"))) == "['first', 'b/']"


def test_a_pipeline_calls_any_function_by_its_key(partners: Partners) -> None:
    """`Pipeline.call` finds the key in the arguments of whatever it calls."""
    pipeline = Pipeline(circuit_breaker.per_key("partners", "{host}", fail_max=1))
    partners.down.add("a")

    assert seen(pipeline.call, partners.fetch, "a") == "ConnectionError"
    assert seen(pipeline.call, partners.fetch, "a") == "rejected"
    assert seen(pipeline.call, partners.fetch, "b") == "b/"


def test_a_rejection_goes_to_the_fallback_and_names_the_breaker(partners: Partners) -> None:
    """It carries the common name and the last failure of its own key."""
    per_host = circuit_breaker.per_key("partners", "{host}", fail_max=1, reset_timeout=30)
    fetch = per_host(partners.fetch)
    partners.down = {"a", "b"}
    for host in ("a", "b"):
        seen(fetch, host)

    with pytest.raises(CircuitOpen) as raised:
        fetch("a")

    assert raised.value.name == "partners"
    assert raised.value.retry_after == 30.0
    assert str(raised.value.__cause__) == "a is down"
    assert with_fallback("instead")(fetch)("a") == "instead"


def test_a_retry_ends_when_the_circuit_of_the_key_opens(
    partners: Partners, virtual_time: VirtualTime
) -> None:
    """No pause is spent on an attempt that would be rejected; the caller has the real error."""
    per_host = circuit_breaker.per_key("partners", "{host}", fail_max=2)
    fetch = retry(on=ConnectionError, attempts=5, wait=lambda _: 60.0)(per_host(partners.fetch))
    partners.down.add("a")
    began = virtual_time.now()

    with pytest.raises(ConnectionError, match="a is down") as raised:
        fetch("a")

    assert partners.calls == ["a", "a"]
    assert virtual_time.now() - began == 60.0
    assert "stopped by: circuit" in raised.value.__notes__[0]


# Keys that cannot be had


def test_calls_whose_key_fails_share_one_circuit(partners: Partners) -> None:
    """The caller has the call's own outcome, and is protected all the same."""

    def key(host: str) -> str:
        raise RuntimeError("no key today")

    fetch = circuit_breaker.per_key("partners", key, fail_max=2)(partners.fetch)
    assert seen(fetch, "a") == "a/"
    partners.down = {"a", "b"}

    assert [seen(fetch, "a"), seen(fetch, "b"), seen(fetch, "c")] == [
        "ConnectionError",
        "ConnectionError",
        "rejected",
    ]


@pytest.mark.parametrize("host", [["a"], object()], ids=["unhashable", "unstable"])
def test_a_key_that_is_none_shares_the_circuit_of_those_without(
    partners: Partners, host: object
) -> None:
    """Neither a list nor an object without a text of its own is ever the caller's error."""
    setting: Any = "{host}" if not isinstance(host, list) else (lambda host: host)
    fetch = circuit_breaker.per_key("partners", setting, fail_max=2)(
        lambda host: partners.fetch("a")
    )

    assert seen(fetch, host) == "a/"


def test_a_failing_key_function_shows(partners: Partners) -> None:
    """It is counted among the hooks that failed."""
    before = series("resilient_hook_failures_total").get(("breaker key",), 0)
    fetch = circuit_breaker.per_key("partners", lambda host: 1 // 0)(partners.fetch)
    seen(fetch, "a")

    assert series("resilient_hook_failures_total")["breaker key",] == before + 1


def test_a_template_that_does_not_fit_is_told_when_decorating(partners: Partners) -> None:
    """It names what the function has."""
    with pytest.raises(InvalidSetting, match="host, path"):
        circuit_breaker.per_key("partners", "{tenant}")(partners.fetch)


# Bounds


def test_the_number_of_circuits_is_bounded(partners: Partners) -> None:
    """Ten thousand keys leave no more than max_keys circuits."""
    per_host = circuit_breaker.per_key("partners", "{host}", max_keys=10)
    fetch = per_host(partners.fetch)
    for number in range(10_000):
        fetch(f"host {number}")

    assert len(per_host.circuits) == 10


def test_the_key_used_longest_ago_goes_first(partners: Partners) -> None:
    """Among closed circuits, use keeps a circuit."""
    per_host = circuit_breaker.per_key("partners", "{host}", max_keys=3, fail_max=5)
    fetch = per_host(partners.fetch)
    for host in ("a", "b", "c", "a", "d"):
        fetch(host)

    assert hosts_of(per_host) == {"c", "a", "d"}


def test_closed_circuits_go_before_open_ones(partners: Partners) -> None:
    """A flood of new keys does not make an outage forgotten."""
    fetch = circuit_breaker.per_key("partners", "{host}", max_keys=5, fail_max=1)(partners.fetch)
    partners.down.add("a")
    seen(fetch, "a")
    for number in range(100):
        fetch(f"host {number}")

    assert seen(fetch, "a") == "rejected"


def test_open_circuits_are_bounded_as_well(partners: Partners) -> None:
    """When all of them are open, the one used longest ago goes."""
    per_host = circuit_breaker.per_key("partners", "{host}", max_keys=3, fail_max=1)
    fetch = per_host(partners.fetch)
    partners.down = {"a", "b", "c", "d"}
    for host in "abcd":
        seen(fetch, host)

    assert hosts_of(per_host) == {"b", "c", "d"}
    assert [seen(fetch, host) for host in "bcd"] == ["rejected"] * 3


def test_a_circuit_that_has_closed_again_goes_like_any_other(
    partners: Partners, virtual_time: VirtualTime
) -> None:
    """Having been open once is no reason to be kept for ever."""
    per_host = circuit_breaker.per_key(
        "partners", "{host}", max_keys=3, fail_max=1, reset_timeout=10
    )
    fetch = per_host(partners.fetch)
    partners.down.add("a")
    seen(fetch, "a")
    partners.down.clear()
    virtual_time.advance(10)
    assert seen(fetch, "a") == "a/"
    for host in ("a", "b", "c", "d"):
        fetch(host)

    assert hosts_of(per_host) == {"b", "c", "d"}


# What is seen


def test_metrics_have_one_name_for_all_keys(partners: Partners, virtual_time: VirtualTime) -> None:
    """The labels do not grow with the keys; the gauge says how many circuits are in each state."""
    per_host = circuit_breaker.per_key("partners", "{host}", fail_max=1, reset_timeout=10)
    fetch = per_host(partners.fetch)
    for number in range(50):
        fetch(f"host {number}")
    partners.down = {"a", "b"}
    for host in ("a", "b", "a"):
        seen(fetch, host)

    states = series("resilient_circuit_state")
    assert states["partners", "closed"] == 50
    assert states["partners", "open"] == 2
    assert states["partners", "half-open"] == 0
    virtual_time.advance(10)
    assert series("resilient_circuit_state")["partners", "half-open"] == 2
    assert series("resilient_circuit_transitions_total")["partners", "open"] == 2
    assert series("resilient_rejections_total")["partners", "circuit_open"] == 1
    assert not any("host" in label for labels in states for label in labels)


def test_the_gauge_is_there_before_there_is_a_key(partners: Partners) -> None:
    """All of it at rest, from the start."""
    breaker = circuit_breaker.per_key("partners", "{host}")

    assert series("resilient_circuit_state")["partners", "open"] == 0
    assert breaker.current_state == "closed"


def test_one_open_key_is_a_warning_of_health(partners: Partners) -> None:
    """A service with one tenant in trouble is ready, and says that something is wrong."""
    fetch = circuit_breaker.per_key("partners", "{host}", fail_max=1)(partners.fetch)
    fetch("b")
    partners.down.add("a")
    seen(fetch, "a")
    report = health.ready()

    assert report.checks["partners:circuit"][0]["status"] == "warn"
    assert report.checks["partners:circuit"][0]["lastFailure"] == "ConnectionError"
    assert report.status == "warn"


def test_events_name_the_breaker_and_never_the_key(partners: Partners) -> None:
    """A key is made of arguments, and arguments do not go into logs."""
    fetch = circuit_breaker.per_key("partners", "{host}", fail_max=1)(partners.fetch)
    partners.down.add("tenant-4711")
    with capture_logs() as logs:
        seen(fetch, "tenant-4711")

    assert [one["dependency"] for one in logs] == ["partners"]
    assert "4711" not in str(logs)


def test_each_circuit_can_be_looked_at_and_forced(partners: Partners) -> None:
    """People on call find the circuit of a host by its key."""
    per_host = circuit_breaker.per_key("partners", lambda host: host, fail_max=1)
    fetch = per_host(partners.fetch)
    for host in ("a", "b"):
        fetch(host)
    per_host.circuits["a"].force_open()

    assert isinstance(per_host.circuits["a"], CircuitBreaker)
    assert [seen(fetch, "a"), seen(fetch, "b")] == ["rejected", "b/"]


def test_the_pipeline_shows_the_keyed_breaker_under_its_name(partners: Partners) -> None:
    """The dependency is called like the breaker."""
    fetch = circuit_breaker.per_key("partners", "{host}")(partners.fetch)

    assert pipeline_of(fetch).name == "partners"
    assert "KeyedCircuitBreaker partners" in repr(pipeline_of(fetch))


# Settings


def test_its_name_is_its_own(partners: Partners) -> None:
    """It is an error to give it twice, or to another breaker; its circuits claim none."""
    first = circuit_breaker.per_key("partners", "{host}")
    first(partners.fetch)("a")

    with pytest.raises(DuplicateName, match="partners"):
        circuit_breaker.per_key("partners", "{host}")
    with pytest.raises(DuplicateName, match="partners"):
        CircuitBreaker("partners")


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"max_keys": 0}, "max_keys"),
        ({"fail_max": 0}, "fail_max"),
        ({"failure_rate": 2}, "failure_rate"),
        ({"key": 5}, "key"),
        ({"name": ""}, "name"),
        ({"probe": print}, "probe"),
        ({"state_storage": 5}, "state_storage"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told_before_there_is_a_key(
    virtual_time: VirtualTime, settings: dict[str, Any], parameter: str
) -> None:
    """The rules of circuits to come are checked at once."""
    given: dict[str, Any] = {"name": "partners", "key": "{host}", **settings}
    with pytest.raises(InvalidSetting, match=parameter):
        circuit_breaker.per_key(**given)


def test_settings_hold_for_every_key(partners: Partners) -> None:
    """An exclusion that is given as an iterator is not used up by the first circuit."""
    fetch = circuit_breaker.per_key(
        "partners", "{host}", fail_max=1, exclude=iter([ConnectionError])
    )(partners.fetch)
    partners.down = {"a", "b"}

    assert [seen(fetch, host) for host in "abab"] == ["ConnectionError"] * 4


def test_a_block_has_no_key(virtual_time: VirtualTime) -> None:
    """Using it as one is an error that says what to do instead."""
    per_host = circuit_breaker.per_key("partners", "{host}")
    with pytest.raises(InvalidUse, match="decorate a function"), per_host:
        pass
