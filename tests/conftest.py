"""Fixtures that the whole suite shares; those of `resilient.testing` come with the library."""

from __future__ import annotations

import functools
import gc
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

import pytest
import structlog
from hypothesis import settings

from resilient.engine import clock
from resilient.telemetry.events import repeats
from tests.generated import register_profiles
from tests.servers import PostgresServer, RedisServer, require_program

#: The folders whose tests are generated: `make proof` runs them again, with more examples.
GENERATED = ("models", "fuzz")

#: The folders whose tests start programs and servers, and wait for them in real time.
REAL = ("examples", "integrations", "serving", "soak")

#: What a module uses whose tests have to do with threads, programs, sockets or the real time.
OF_THE_MACHINE = {
    "multiprocessing",
    "socket",
    "subprocess",
    "tests.faults.children",
    "tests.servers",
    "tests.waiting",
    "threading",
    "time",
}

register_profiles()


def _proves(config: pytest.Config) -> bool:
    return config.getoption("-m") == "proof"


def _measures() -> Any:
    """Return what measures coverage in this process (`make coverage`), or None."""
    coverage: Any = sys.modules.get("coverage")
    return None if coverage is None else coverage.Coverage.current()


@functools.cache
def _uses_the_machine(module: ModuleType) -> bool:
    """Say whether a module of tests has imported any of `OF_THE_MACHINE`, or something of it."""
    return any(
        (held.__name__ if isinstance(held, ModuleType) else getattr(held, "__module__", None))
        in OF_THE_MACHINE
        for held in list(vars(module).values())
        if isinstance(held, ModuleType | FunctionType | type)
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples are generated, and let Ctrl-C arrive.

    Tests send it to themselves and to programs that they start. A shell that starts a command in
    the background has it ignored, by that and all of its children.
    """
    settings.load_profile("proof" if _proves(config) else "suite")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Try again what has to do with the machine: a busy one may be late, for once.

    What fails three times in a row is the library's own doing, and what has failed once is in the
    report. The generated tests are a part of `make proof` as well.
    """
    tries_again = config.pluginmanager.hasplugin("rerunfailures")  # `make mutation` has it not
    for item in items:
        if _proves(config) and item.path.parent.name in GENERATED:
            item.add_marker(pytest.mark.proof)
        if _measures() is not None and item.get_closest_marker("real_time") is not None:
            # To measure takes time of its own: these are run, and not judged.
            item.add_marker(pytest.mark.xfail(strict=False, reason="held to real time"))
            continue
        if item.path.parent.name in REAL:
            item.add_marker(pytest.mark.real_time)
        module = getattr(item, "module", None)
        if tries_again and (
            item.get_closest_marker("real_time") is not None
            or (module is not None and _uses_the_machine(module))
        ):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


def pytest_collection_finish() -> None:
    """Leave what the tests themselves are made of out of the garbage that many of them collect."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Write down what has been measured: who shares the tests kills whoever ends too slowly."""
    measured = _measures()
    if measured is not None:
        measured.save()


# Threads that have not ended with their test: those that write behind calls wait for more.
_lasting: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    """What a test has left to the machine's clock is not told during another one, or in between.

    A probe that is still asked, or a summary that is due, would be logged on the terminal, or among
    the lines that the next test looks at.
    """
    yield
    _forget_what_is_due()
    for thread in threading.enumerate():
        if thread.name == "resilient-background" and thread not in _lasting:
            with suppress(RuntimeError):  # it is about to begin, and will find nothing to do
                thread.join(0.2)
            if thread.is_alive():
                _lasting.add(thread)
    _forget_what_is_due()  # what those threads have left to it meanwhile
    repeats.forget()
    structlog.reset_defaults()


def _forget_what_is_due() -> None:
    with clock.system._changed:
        clock.system._due.clear()
        clock.system._changed.notify()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server for the whole session; a test that breaks it uses `redis` instead."""
    folder = tmp_path_factory.mktemp("redis")
    with RedisServer(require_program("redis-server"), folder) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The real redis-server, empty and answering, before each test and after it."""
    redis_server.start()
    redis_server.clear()
    yield redis_server
    if redis_server.is_running:
        redis_server.thaw()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL for the whole session; a test that breaks it uses `postgres` instead."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The real PostgreSQL, without tables and answering, before each test and after it."""
    postgres_server.start()
    postgres_server.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield postgres_server
    if postgres_server.is_running:
        postgres_server.thaw()
