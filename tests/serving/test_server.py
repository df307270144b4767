"""The pages that Prometheus and Kubernetes read, over a real socket."""

from __future__ import annotations

import gc
import http.client
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from resilient import (
    Dependency,
    InvalidSetting,
    circuit_breaker,
    drain,
    draining,
    health,
    serve,
)
from resilient.engine.isolation import broken
from resilient.serving import pages
from resilient.serving import server as server_module
from resilient.serving.server import Server
from tests.doubles import Scripted
from tests.waiting import PATIENCE


@pytest.fixture
def server() -> Iterator[Server]:
    """The pages on a free port, in a process without the circuits of earlier tests."""
    gc.collect()
    with_pages = serve(port=0, registry=CollectorRegistry())
    yield with_pages
    with_pages.close()
    health.started(False)
    if draining():
        drain(0).resume()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Return status, content type and body of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        return response.status, response.getheader("Content-Type", ""), body
    finally:
        connection.close()


def status(server: Server, path: str) -> tuple[int, str]:
    code, _, body = ask(server, path)
    return code, json.loads(body)["status"]


def readiness(server: Server, circuit: str) -> tuple[int, str]:
    """Return the status of the page, and what it says of one circuit."""
    code, _, body = ask(server, "/health/ready")
    [check] = json.loads(body)["checks"][f"{circuit}:circuit"]
    return code, check["status"]


# Metrics


def test_metrics_can_be_read_by_prometheus(server: Server) -> None:
    """The page is what prometheus-client's parser reads, with the counts of calls in it."""
    guarded = circuit_breaker("served metrics", fail_max=9)(Scripted("answer"))
    for _ in range(3):
        guarded()
    code, kind, body = ask(server, "/metrics")
    assert code == 200
    assert kind.startswith("text/plain")
    found = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.labels.get("dependency") == "served metrics"
    }
    assert found["resilient_calls_total", "success"] == 3
    assert found["resilient_call_duration_seconds_count", None] == 3


def test_a_name_that_no_page_could_show_is_refused_where_it_is_given(server: Server) -> None:
    """One label that cannot be encoded would take all metrics away, of everybody."""
    with pytest.raises(InvalidSetting, match="UTF-8"):
        circuit_breaker("half of a pair: \ud83d")
    assert ask(server, "/metrics")[0] == 200


def test_metrics_are_given_as_openmetrics_to_who_asks(server: Server) -> None:
    """A scraper that accepts OpenMetrics gets it."""
    accept = "application/openmetrics-text; version=1.0.0"
    code, kind, body = ask(server, "/metrics", Accept=accept)
    assert code == 200
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_metrics_of_the_service_itself_are_there_too() -> None:
    """The page shows the whole registry, not only what the library counts."""
    registry = CollectorRegistry()
    Counter("orders", "Orders", registry=registry).inc()
    server = serve(port=0, registry=registry)
    try:
        body = ask(server, "/metrics")[2]
    finally:
        server.close()
    assert "orders_total 1.0" in body
    assert "resilient_calls_total" in body


def test_a_registry_that_is_broken_is_a_500_and_not_the_end(server: Server) -> None:
    """An error of somebody's collector is told to who asks; the next page works."""

    class Broken:
        def describe(self) -> list[Any]:
            return []

        def collect(self) -> list[Any]:
            raise RuntimeError("a secret detail")

    registry = CollectorRegistry()
    registry.register(Broken())  # type: ignore[arg-type]
    broken = serve(port=0, registry=registry)
    try:
        code, _, body = ask(broken, "/metrics")
        assert code == 500
        assert "secret" not in body
        assert ask(broken, "/health/live")[0] == 200
    finally:
        broken.close()


# Health


def test_liveness_is_always_a_yes(server: Server) -> None:
    """A process that answers is alive, whatever its dependencies do."""
    breaker = circuit_breaker("not looked at", fail_max=1)
    Dependency("not looked at", critical=True, breaker=breaker)
    breaker.force_open()
    drain(0)
    assert status(server, "/health/live") == (200, "pass")


def test_startup_is_a_no_until_it_is_done(server: Server) -> None:
    """`/health/startup` is 503 until the service says that it has started."""
    assert status(server, "/health/startup") == (503, "fail")
    health.started()
    assert status(server, "/health/startup") == (200, "pass")


def test_a_critical_dependency_without_fallback_makes_it_not_ready_and_ready_again(
    server: Server,
) -> None:
    """An open circuit before what the service cannot do without is a 503, until it closes."""
    breaker = circuit_breaker(fail_max=1, reset_timeout=60)
    payments = Dependency("critical payments", critical=True, breaker=breaker)
    charge = payments(Scripted(ConnectionError, "charged"))
    assert readiness(server, "critical payments") == (200, "pass")
    with pytest.raises(ConnectionError):
        charge()
    code, kind, body = ask(server, "/health/ready")
    assert (code, kind) == (503, "application/health+json")
    report = json.loads(body)
    assert report["status"] == "fail"
    [check] = report["checks"]["critical payments:circuit"]
    assert (check["status"], check["observedValue"]) == ("fail", "open")
    assert check["lastFailure"] == "ConnectionError"
    assert 0 < check["retryInSeconds"] <= 60
    breaker.reset()
    assert charge() == "charged"
    assert readiness(server, "critical payments") == (200, "pass")


def test_an_open_circuit_with_a_fallback_is_a_warning(server: Server) -> None:
    """What is served otherwise does not take the service out of rotation."""
    breaker = circuit_breaker()
    search = Dependency("critical with fallback", critical=True, breaker=breaker)
    guarded = search.with_fallback([])(Scripted("answer"))
    breaker.force_open()
    assert guarded() == []
    assert readiness(server, "critical with fallback") == (200, "warn")


def test_an_open_circuit_of_what_is_not_critical_is_a_warning(server: Server) -> None:
    """A dependency without which the service still works is no reason to stop traffic."""
    breaker = circuit_breaker()
    reviews = Dependency("uncritical reviews", breaker=breaker)
    breaker.force_open()
    assert readiness(server, "uncritical reviews") == (200, "warn")
    assert reviews.breaker is breaker


def test_a_half_open_circuit_is_a_warning(server: Server) -> None:
    """While probes are under way, traffic may come: it is what tells whether all is well."""
    breaker = circuit_breaker(fail_max=1, reset_timeout=0)
    payments = Dependency("critical and half-open", critical=True, breaker=breaker)
    with pytest.raises(ConnectionError):
        payments(Scripted(ConnectionError))()
    assert readiness(server, "critical and half-open") == (200, "warn")


def test_draining_is_not_ready(server: Server) -> None:
    """A process that takes no new work says so."""
    drained = drain(0)
    code, _, body = ask(server, "/health/ready")
    assert code == 503
    assert json.loads(body)["checks"]["process:draining"] == [{"status": "fail"}]
    drained.resume()
    assert ask(server, "/health/ready")[0] == 200


@pytest.mark.real_time
def test_health_is_answered_from_memory() -> None:
    """The answer takes less than a millisecond, with a hundred circuits."""
    breakers = [circuit_breaker(f"one of a hundred: {number}") for number in range(100)]
    took: list[float] = []
    for _ in range(200):  # one of them is undisturbed, also on a busy machine
        began = time.perf_counter()
        health.ready()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.001
    assert len(breakers) == 100


# The server


def test_other_paths_are_not_there(server: Server) -> None:
    """An unknown page is a 404 that names those there are."""
    code, _, body = ask(server, "/")
    assert code == 404
    assert body.split() == ["/metrics", "/health/startup", "/health/ready", "/health/live"]


def test_a_query_is_not_part_of_the_path(server: Server) -> None:
    """`/health/live?verbose` is the page without the query."""
    assert ask(server, "/health/live?verbose=1")[0] == 200


@pytest.mark.parametrize(
    ("question", "short", "told"),
    [
        ("startup", "/startupz", []),
        ("ready", "/readyz", ["asked about:circuit"]),
        ("live", "/livez", ["asked about:turns"]),
    ],
)
def test_each_question_has_the_name_that_kubernetes_uses_as_well(
    server: Server, question: str, short: str, told: list[str]
) -> None:
    """`/readyz` is `/health/ready`, and so are the other two."""
    dependency = Dependency("asked about", breaker=circuit_breaker())
    watch = health.watch("asked about", limit=60)
    for path in (short, f"/health/{question}"):
        _, kind, body = ask(server, path)
        checks = json.loads(body).get("checks", {})
        assert kind == "application/health+json"
        # Of the circuits of other tests, some may be there still.
        assert [name for name in checks if name.startswith("asked about")] == told
    watch.stop()
    del dependency


def test_head_is_answered_without_a_body(server: Server) -> None:
    """HEAD gives status and headers only."""
    code, kind, body = ask(server, "/metrics", method="HEAD")
    assert (code, body) == (200, "")
    assert kind


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed_over_the_pages(server: Server, method: str) -> None:
    """Other methods are refused."""
    assert ask(server, "/metrics", method=method)[0] == 405


@pytest.mark.parametrize(("method", "expected"), [("POST", 405), ("GET", 200)])
def test_what_comes_with_a_request_is_no_request_of_its_own(
    server: Server, method: str, expected: int
) -> None:
    """A body that nobody reads is not taken for what is asked next on the same connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    with closing(connection):
        connection.request(method, "/metrics", body="GET /health/live HTTP/1.1\r\n\r\n")
        response = connection.getresponse()
        response.read()
        assert (response.status, response.getheader("Connection")) == (expected, "close")
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200


def test_a_client_that_says_nothing_keeps_nobody_waiting(server: Server) -> None:
    """An open connection without a request does not block the next one."""
    silent = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    silent.connect()
    try:
        assert ask(server, "/health/live")[0] == 200
    finally:
        silent.close()


def test_a_client_that_goes_before_its_answer_is_nothing_to_tell(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A probe that has its own limit does so each second; a traceback each time helps nobody."""
    ended, end = threading.Event(), server._server.shutdown_request

    def tell(connection: Any) -> None:
        end(connection)
        ended.set()

    monkeypatch.setattr(server._server, "shutdown_request", tell)
    failures = broken["serving"]
    client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sendall(b"GET /health/live HTTP/1.1\r\n\r\n" * 100)
    client.close()  # and whatever is sent now is answered by a reset
    assert ended.wait(PATIENCE)
    assert capsys.readouterr().err == ""
    assert broken["serving"] == failures


def test_what_goes_wrong_around_a_page_is_reported(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted and logged like what hooks do wrong, and the next request is answered."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    failures = broken["serving"]
    with monkeypatch.context() as patch:
        patch.setattr(server_module, "page", fail)
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, "/health/live")
    assert ask(server, "/health/live")[0] == 200
    assert broken["serving"] == failures + 1


def test_a_hundred_may_come_at_one_moment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds no room is answered a second later, which is longer than many probes wait."""
    go_on = threading.Event()
    begin = server._server.process_request

    def hold_up(*connection: Any) -> None:
        go_on.wait(PATIENCE)
        begin(*connection)

    monkeypatch.setattr(server._server, "process_request", hold_up)
    address = ("127.0.0.1", server.port)
    with ExitStack() as connections:
        connections.callback(go_on.set)
        for _ in range(100):
            connections.enter_context(closing(socket.create_connection(address, timeout=0.9)))


def test_many_can_ask_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are answered in parallel; who comes when all places are taken has a turn later."""
    monkeypatch.setattr(pages, "PATIENCE", PATIENCE)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(server, "/metrics")[0]))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 20


class Hanging:
    """A collector that hangs, and that hung scrapes come to."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def collect(self) -> list[Any]:
        self.begun.release()
        self.go_on.wait()
        return []


def test_scrapes_that_hang_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that hangs holds a few threads, though Prometheus comes again and again."""
    monkeypatch.setattr(pages, "PATIENCE", 0.01)
    registry, hanging = CollectorRegistry(), Hanging()
    server = serve(port=0, registry=registry)
    registry.register(hanging)  # type: ignore[arg-type]
    with ThreadPoolExecutor() as prometheus:
        scrapes = [prometheus.submit(ask, server, "/metrics") for _ in range(pages.MOST_SCRAPES)]
        for _ in scrapes:
            hanging.begun.acquire()
        code, _, body = ask(server, "/metrics")
        assert (code, body) == (503, "too many scrapes at once\n")
        assert ask(server, "/health/live")[0] == 200
        hanging.go_on.set()
        assert [one.result()[0] for one in scrapes] == [200] * pages.MOST_SCRAPES
    assert ask(server, "/metrics")[0] == 200
    server.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_scrape_that_hangs_at_a_fork_takes_no_place_in_the_child() -> None:
    """A forked worker has all places for scrapes, and nobody of its parent to wait for."""
    for _ in range(pages.MOST_SCRAPES):
        pages._places.acquire()
    try:
        child = os.fork()
        if not child:
            answer = pages.page("GET", "/metrics", registry=CollectorRegistry())
            os._exit(0 if answer.status == 200 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        pages._places.release(pages.MOST_SCRAPES)


def test_it_listens_on_this_machine_only_and_not_after_it_is_closed() -> None:
    """Closing frees the port, and leaves no thread behind."""
    server = serve(port=0, registry=CollectorRegistry())
    port = server.port
    assert ask(server, "/health/live")[0] == 200
    server.close()
    with pytest.raises(ConnectionError):
        ask(server, "/health/live")
    again = serve(port=port, registry=CollectorRegistry())
    assert ask(again, "/health/live")[0] == 200
    again.close()
    assert not [one for one in threading.enumerate() if one.name == "resilient-serve"]


def test_it_listens_to_ipv6_as_well() -> None:
    """Where a cluster has nothing else, probes and scrapes come that way."""
    try:
        with_pages = serve(port=0, host="::1", registry=CollectorRegistry())
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        with closing(http.client.HTTPConnection("::1", with_pages.port, timeout=5)) as connection:
            connection.request("GET", "/health/live")
            assert connection.getresponse().status == 200
    finally:
        with_pages.close()


def test_to_listen_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that starts while there is no answer about names is not held up by its pages."""
    looked_up: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", lambda name="": looked_up.append(name) or name)
    serve(port=0, registry=CollectorRegistry()).close()
    assert looked_up == []


def test_a_port_that_is_taken_is_told() -> None:
    """A second server on a port is an OSError, at once."""
    server = serve(port=0, registry=CollectorRegistry())
    try:
        with pytest.raises(OSError, match="in use"):
            serve(port=server.port, registry=CollectorRegistry())
    finally:
        server.close()


def test_a_port_that_is_none_is_told() -> None:
    """Settings of the server are checked like any others."""
    with pytest.raises(InvalidSetting, match="from 0 to 65535"):
        serve(port=70_000)
