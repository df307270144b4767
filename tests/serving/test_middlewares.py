"""What both middlewares do around a request: deadlines, ids, the header, refusals, draining."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

import resilient
from resilient import (
    ASGIMiddleware,
    CallTimeout,
    CircuitOpen,
    Degradation,
    InvalidSetting,
    WorkersSaturated,
    deadline_headers,
    degradation_scope,
    drain,
    remaining,
    timeout,
    with_fallback,
)
from resilient.engine.reported import all_readings
from resilient.serving.deadlines import seconds_in
from resilient.serving.degraded_header import MOST_BYTES, degraded_header
from resilient.serving.request_id import request_id
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each
from tests.serving.clients import ByASGI, asgi_serving, ask_asgi_app, by_both, scope_of


@pytest.fixture
def draining() -> Iterator[None]:
    """A process that has been told to end, for one test."""
    begun = drain(timeout=5)
    yield
    begun.resume()


def reading(name: str, **labels: str) -> float:
    """Return the number that the library reports under `name`."""
    [value] = [
        one.value for one in all_readings() if (one.name, dict(one.labels)) == (name, labels)
    ]
    assert isinstance(value, int | float)
    return value


# Deadlines


@by_both
@each(
    "header, seconds",
    {
        "milliseconds": ("1500", 1.5),
        "gRPC, seconds": ("2S", 2),
        "gRPC, milliseconds": ("250m", 0.25),
        "gRPC, minutes beyond the maximum": ("5M", 10),
        "beyond the maximum": ("99999999", 10),
    },
)
def test_the_clients_deadline_is_in_force(
    served: Any, header: str, seconds: float, virtual_time: VirtualTime
) -> None:
    """What a request does knows how much time its client grants, up to the maximum."""
    left: list[float | None] = []
    ask = served(lambda: left.append(remaining()) or b"", max_deadline=10)
    assert ask(X_Request_Timeout_Ms=header).status == 200
    assert left == [pytest.approx(seconds)]
    assert remaining() is None


@by_both
def test_without_the_header_the_default_holds(served: Any, virtual_time: VirtualTime) -> None:
    """No header is no limit, unless there is a default."""
    left: list[float | None] = []
    work = lambda: left.append(remaining()) or b""  # noqa: E731
    served(work)()
    served(work, default_deadline=3)()
    served(work, default_deadline=3)(X_Request_Timeout_Ms="1000")
    served(work, deadline_header=None)(X_Request_Timeout_Ms="1000")
    served(work, deadline_header="Grpc-Timeout")(Grpc_Timeout="4S")
    assert left == [None, 3, 1, None, 4]


@by_both
@each(
    "header",
    {
        "nothing": "",
        "words": "soon",
        "below zero": "-1",
        "a fraction": "1.5",
        "too long": "123456789",
        "other digits": "\u00b2",
        "a list": "1, 2",
        "an unknown unit": "1s",
    },
)
def test_what_cannot_be_read_is_ignored_and_counted(served: Any, header: str) -> None:
    """A malformed deadline is no deadline, and shows in the metrics."""
    before = reading("ignored_deadlines")
    left: list[float | None] = []
    assert (
        served(lambda: left.append(remaining()) or b"")(X_Request_Timeout_Ms=header).status == 200
    )
    assert left == [None]
    assert reading("ignored_deadlines") == before + 1


@settings(deadline=None)
@given(st.text() | st.from_regex(r"[0-9]{0,10}[A-Za-z]?"))
def test_no_header_whatever_breaks_its_reader(value: str) -> None:
    """Anything at all is either nothing or a number of seconds from 0 to some thousand years."""
    seconds = seconds_in(value)
    assert seconds is None or 0 <= seconds <= 99_999_999 * 3600


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_no_headers_whatever_break_a_request(time: bytes, identity: bytes, trace: bytes) -> None:
    """Any bytes in the headers that are read lead to an answer, or to 504 if they say 0."""
    scope = scope_of("/")
    names = (b"x-request-timeout-ms", b"x-request-id", b"traceparent")
    scope["headers"] = list(zip(names, (time, identity, trace), strict=True))
    app = ASGIMiddleware(asgi_serving(lambda: b"done"))
    assert asyncio.run(ask_asgi_app(app, scope)).status in (200, 504)


@by_both
def test_no_time_at_all_is_504_without_asking_the_application(served: Any) -> None:
    """A request whose client has no time left is not begun."""
    asked: list[bool] = []
    answer = served(lambda: asked.append(True) or b"")(X_Request_Timeout_Ms="0")
    assert (answer.status, asked) == (504, [])


@by_both
def test_a_guarded_call_ends_with_the_request(served: Any) -> None:
    """A call that may take a minute is given up when its request's 50 ms are over: 504."""
    hanging = timeout(60)(lambda: time.sleep(0.5) or b"")
    assert served(hanging)(X_Request_Timeout_Ms="50").status == 504


def test_what_is_left_goes_into_outgoing_requests(virtual_time: VirtualTime) -> None:
    """The helper gives the rest of the time, rounded down, in the form that the name asks for."""
    assert deadline_headers() == {}
    with resilient.deadline(1.9999):
        assert deadline_headers() == {"X-Request-Timeout-Ms": "1999"}
        assert deadline_headers("Grpc-Timeout") == {"Grpc-Timeout": "1999m"}
        virtual_time.advance(5)
        assert deadline_headers() == {"X-Request-Timeout-Ms": "0"}
    with resilient.deadline(10**9):
        assert deadline_headers() == {"X-Request-Timeout-Ms": "99999999"}
    with pytest.raises(InvalidSetting, match="header"):
        deadline_headers("")


@by_both
def test_a_chain_of_services_shares_one_deadline(served: Any, virtual_time: VirtualTime) -> None:
    """What the first passes on is understood by the second, and is no more than what it has."""
    left: list[float | None] = []
    second = served(lambda: left.append(remaining()) or b"")

    def first() -> bytes:
        virtual_time.advance(0.5)
        passed_on = {name.replace("-", "_"): value for name, value in deadline_headers().items()}
        with ThreadPoolExecutor() as elsewhere:
            assert elsewhere.submit(second, **passed_on).result().status == 200
        return b""

    assert served(first)(X_Request_Timeout_Ms="2000").status == 200
    assert left == [1.5]


# The Degraded header


@by_both
def test_what_is_degraded_is_told_to_the_client(served: Any) -> None:
    """The response names the dependency and the tier, and nothing where all is well."""

    @with_fallback("instead")
    @resilient.circuit_breaker("recommendations of the header")
    def recommendations() -> str:
        raise ConnectionError("hunter2")

    answer = served(lambda: recommendations().encode())()
    assert answer.headers["Degraded"] == '"recommendations of the header";tier=default'
    assert answer.body == b"instead"
    assert "Degraded" not in served(lambda: b"well")().headers


@by_both
def test_a_scope_of_ones_own_hides_nothing(served: Any) -> None:
    """A service that looks at its degradations itself tells its client all the same."""
    broken = with_fallback("instead")(Scripted(ConnectionError))

    def work() -> bytes:
        with degradation_scope() as degraded:
            broken()
        return str(len(degraded)).encode()

    answer = served(work)()
    assert answer.body == b"1"
    assert "tier=default" in answer.headers["Degraded"]


def degraded(dependency: str, age: float | None = None, tier: str = "cached") -> Degradation:
    return Degradation(dependency, tier, age, "ConnectionError")


@each(
    "given, value",
    {
        "one": ([degraded("recommendations", 42.9)], "recommendations;tier=cached;age=42"),
        "two": (
            [degraded("a", tier="default"), degraded("b", 0.1)],
            "a;tier=default, b;tier=cached;age=0",
        ),
        "the oldest of several": (
            [degraded("a", 1), degraded("a", 7), degraded("a")],
            "a;tier=cached;age=7",
        ),
        "a space": ([degraded("the shop")], '"the shop";tier=cached'),
        "a quote": ([degraded('a"b\\')], '"a\\"b\\\\";tier=cached'),
        "a header of its own": ([degraded("a\r\nX: y")], '%"a%0d%0aX: y";tier=cached'),
        "an umlaut": ([degraded("f\u00fcr")], '%"f%c3%bcr";tier=cached'),
    },
)
def test_the_header_is_a_structured_field(given: list[Degradation], value: str) -> None:
    """Names are tokens, strings or display strings of RFC 9651; ages are whole seconds."""
    assert degraded_header(given) == value


def test_the_header_is_bounded() -> None:
    """A thousand degradations make no header that a proxy refuses; the rest is counted."""
    value = degraded_header(degraded(f"dependency number {number}") for number in range(1000))
    assert len(value) <= MOST_BYTES
    named, counted = value.rsplit(", *;more=", 1)
    assert named.count(", ") + 1 + int(counted) == 1000


@settings(deadline=None)
@given(st.lists(st.builds(degraded, st.text(), st.none() | st.floats(0, 1e9), st.text())))
def test_no_name_whatever_breaks_the_header(given: list[Degradation]) -> None:
    """The value is printable ASCII of bounded length."""
    value = degraded_header(given)
    assert value.isascii()
    assert value.isprintable()
    assert len(value) <= MOST_BYTES


# Refusals


@by_both
@each(
    "error, status, retry_after",
    {
        "open circuit": (CircuitOpen("hunter2", 2.1), 503, "3"),
        "open until reset": (CircuitOpen("hunter2", None), 503, "1"),
        "almost over": (CircuitOpen("hunter2", 0.0), 503, "1"),
        "for ever": (CircuitOpen("hunter2", float("inf")), 503, "1"),
        "saturated": (WorkersSaturated("hunter2", 3), 503, "1"),
        "too slow": (CallTimeout("hunter2", 2), 504, None),
    },
)
def test_what_came_to_nothing_is_told_in_terms_of_http(
    served: Any, error: Exception, status: int, retry_after: str | None
) -> None:
    """Rejections are 503 with a whole number of seconds, timeouts 504; why is nobody's business."""
    before = reading("refused_requests", status=str(status))
    answer = served(Scripted(error))(X_Request_ID="r1")
    assert answer.status == status
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(answer.body)["status"] == status
    assert "hunter2" not in f"{answer}"
    assert {name.lower(): value for name, value in answer.headers.items()}["x-request-id"] == "r1"
    assert reading("refused_requests", status=str(status)) == before + 1


@by_both
def test_a_refusal_says_what_was_degraded_before(served: Any) -> None:
    """The header is on 503 as well."""
    broken = with_fallback("instead")(Scripted(ConnectionError))

    def work() -> bytes:
        broken()
        raise CircuitOpen("payments", 1)

    assert "tier=default" in served(work)().headers["Degraded"]


@by_both
def test_the_answer_to_head_has_no_body(served: Any) -> None:
    """A refusal of a HEAD request is headers only."""
    answer = served(Scripted(CallTimeout("slow", 1)))(method="HEAD")
    assert (answer.status, answer.body) == (504, b"")
    assert int(answer.headers["Content-Length"]) > 0


@by_both
def test_any_other_error_is_the_services_own(served: Any) -> None:
    """What the library does not know goes on to the server as it is."""
    with pytest.raises(LookupError):
        served(Scripted(LookupError))()


# Request ids


@by_both
def test_the_id_is_bound_sent_back_and_forgotten(served: Any) -> None:
    """Events of the request carry its id, and so does the response; later events do not."""
    seen: list[Any] = []
    work = lambda: seen.append(structlog.contextvars.get_contextvars()) or b""  # noqa: E731
    answer = served(work)(X_Request_ID="abc-123")
    assert seen == [{"request_id": "abc-123"}]
    assert structlog.contextvars.get_contextvars() == {}
    assert {name.lower(): value for name, value in answer.headers.items()}[
        "x-request-id"
    ] == "abc-123"


@by_both
def test_an_id_of_the_applications_own_stays(served: Any) -> None:
    """A header that the application sets itself is not doubled."""
    answer = served(lambda: b"", ("X-Request-Id", "own"))(X_Request_ID="other")
    assert {name.lower(): value for name, value in answer.headers.items()}["x-request-id"] == "own"


@by_both
def test_ids_can_be_left_to_others(served: Any) -> None:
    """With None nothing is bound and nothing sent back."""
    seen: list[Any] = []
    work = lambda: seen.append(structlog.contextvars.get_contextvars()) or b""  # noqa: E731
    answer = served(work, request_id_header=None)(X_Request_ID="abc")
    assert seen == [{}]
    assert not any(name.lower() == "x-request-id" for name in answer.headers)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@each(
    "given, traceparent, expected",
    {
        "an id": ("abc", f"00-{TRACE}-00f067aa0ba902b7-01", "abc"),
        "a trace": (None, f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        "an id that is none, and a trace": ("a b", f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        "a later version": (None, f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        "a version that is none": (None, f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        "a trace of zeros": (None, f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        "neither": (None, None, None),
        "far too long": ("a" * 129, None, None),
        "a new line": ("abc\n", None, None),
    },
)
def test_an_id_is_taken_or_made(
    given: str | None, traceparent: str | None, expected: str | None
) -> None:
    """The client's id, else the trace's, else 32 hexadecimal digits of our own."""
    found = request_id(given, traceparent)
    if expected is None:
        assert len(found) == 32
        assert set(found) <= set("0123456789abcdef")
    else:
        assert found == expected


@settings(deadline=None)
@given(st.none() | st.text(), st.none() | st.text())
def test_no_header_whatever_gets_into_logs_as_it_is(
    given: str | None, traceparent: str | None
) -> None:
    """An id is short, printable and without spaces, whatever came in."""
    found = request_id(given, traceparent)
    assert 1 <= len(found) <= 128
    assert found.isascii()
    assert found.isprintable()
    assert " " not in found


# Draining


@by_both
@pytest.mark.usefixtures("draining")
def test_while_draining_new_requests_are_refused(served: Any) -> None:
    """A process that is about to end takes no new request, and says when to come again."""
    asked: list[bool] = []
    answer = served(lambda: asked.append(True) or b"")()
    assert (answer.status, asked) == (503, [])
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers.get("Connection") == ("close" if served is ByASGI else None)


@by_both
@pytest.mark.usefixtures("draining")
@each("path", {"ready": "/ops/health/ready", "live": "/livez", "metrics": "/ops/metrics"})
def test_while_draining_the_pages_are_answered(served: Any, path: str) -> None:
    """Probes and scrapes go on: a liveness probe that is refused would end the process early."""
    assert served(lambda: b"a page")(path).body == b"a page"


@by_both
def test_a_request_is_in_flight_until_it_is_answered(served: Any) -> None:
    """The count that draining waits for is up during a request, and down after it."""
    during: list[float] = []
    served(lambda: during.append(reading("requests_in_flight")) or b"")()
    assert during == [1]
    assert reading("requests_in_flight") == 0
    with pytest.raises(LookupError):
        served(Scripted(LookupError))()
    assert reading("requests_in_flight") == 0


@by_both
def test_what_is_in_flight_is_finished(served: Any) -> None:
    """A request that has begun before draining gets its answer."""
    begun: list[Any] = []
    answer = served(lambda: begun.append(drain(timeout=1)) or b"finished")()
    assert answer.body == b"finished"
    assert begun[0].wait()
    begun[0].resume()


# Settings


@by_both
@each(
    "wrong, parameter",
    {
        "no name": ({"deadline_header": ""}, "deadline_header"),
        "no time": ({"max_deadline": 0}, "max_deadline"),
        "no default": ({"default_deadline": 0}, "default_deadline"),
        "no id": ({"request_id_header": " "}, "request_id_header"),
        "two lines": ({"request_id_header": "X-Id\r\nX-Other"}, "request_id_header"),
        "an umlaut": ({"deadline_header": "Zeit\u00fcberschreitung"}, "deadline_header"),
    },
)
def test_wrong_settings_are_told_at_once(
    served: Any, wrong: dict[str, Any], parameter: str
) -> None:
    """An application that is put together wrongly does not start."""
    with pytest.raises(InvalidSetting, match=parameter):
        served(lambda: b"", **wrong)


@by_both
def test_secrets_of_a_request_are_in_no_event(served: Any) -> None:
    """Paths, queries, headers and errors of requests are logged by nobody here."""
    with capture_logs() as events:
        served(Scripted(CallTimeout("x", 1)))("/hunter2?hunter2", Authorization="hunter2")
        served(lambda: b"")("/hunter2", X_Request_Timeout_Ms="hunter2", X_Request_ID="hunter2 !")
    assert "hunter2" not in f"{events}"
