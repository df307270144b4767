"""What is done with an installed distribution, in an environment that has nothing else.

Run as a program, with the name of an extra: no test framework is there.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import resilient


def call() -> None:
    """Guard a function, fail, fall back; look at the pages and the metrics."""
    from prometheus_client import CollectorRegistry, generate_latest

    @resilient.with_fallback("served instead")
    @resilient.circuit_breaker("installed", fail_max=1)
    @resilient.retry(on=ConnectionError, attempts=2, wait_initial=0)
    @resilient.timeout(5)
    def ask() -> str:
        raise ConnectionError("down")

    assert ask() == "served instead"
    registry = CollectorRegistry()
    resilient.register_metrics(registry)
    assert b'resilient_circuit_state{dependency="installed",state="open"} 1.0' in generate_latest(
        registry
    )


def plain() -> None:
    """Use every public name, and import every module that needs no extra."""
    call()
    for name in resilient.__all__:
        getattr(resilient, name)
    missing: dict[str, str] = {}
    for module in pkgutil.walk_packages(resilient.__path__, "resilient."):
        if module.name in ("resilient.__main__", "resilient.testing.plugin"):
            continue  # it is a command; it is pytest's
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            missing[module.name] = str(error.name).split(".")[0]
    # The files of frameworks import theirs; everything else waits until it is used.
    assert missing.keys() <= {
        "resilient.integrations.django",
        "resilient.integrations.flask",
        "resilient.integrations.starlette",
    }, missing
    assert set(missing.values()) <= {"asgiref", "django", "flask", "starlette"}, missing
    assert Path(resilient.__file__).with_name("py.typed").is_file()
    told = subprocess.run(
        [sys.executable, "-m", "resilient", "doctor"], check=True, capture_output=True, text=True
    ).stdout
    assert resilient.__version__ in told


def starlette() -> None:
    """Install into an application of Starlette."""
    from starlette.applications import Starlette

    from resilient.integrations.starlette import install

    install(Starlette())


def fastapi() -> None:
    """Install into an application of FastAPI."""
    from fastapi import FastAPI

    from resilient.integrations.starlette import install

    install(FastAPI())


def flask() -> None:
    """Install into an application of Flask, and ask for a page."""
    from flask import Flask

    from resilient.integrations.flask import install

    app = Flask("shop")
    install(app)
    assert app.test_client().get("/ops/health/live").status_code == 200


def django() -> None:
    """Install around a project of Django."""
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    from resilient.integrations.django import install

    settings.configure(
        ROOT_URLCONF="resilient",
        MIDDLEWARE=["resilient.integrations.django.Refusals"],
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="key",
    )
    install(get_wsgi_application())


def otel() -> None:
    """Install without a provider of OpenTelemetry's SDK, which the extra does not bring."""
    from resilient.integrations.otel import install, uninstall

    install()
    call()
    uninstall()


def redis() -> None:
    """Make the store of a cache, which connects when it is asked."""
    import pybreaker

    resilient.RedisStore("redis://localhost:1/0")
    assert pybreaker.HAS_REDIS_SUPPORT


def msgspec() -> None:
    """Keep a typed value and get it back."""
    codec = resilient.MsgspecCodec(dict[str, int])
    assert codec.decode(codec.encode({"one": 1})) == {"one": 1}


def postgres() -> None:
    """Name servers, without connecting to any."""
    from resilient.integrations.postgres import PostgresServers

    assert PostgresServers("postgresql://app@db1,db2/orders").in_use == "db1:5432"


def celery() -> None:
    """Queue a call as a task, in a broker in memory."""
    from celery import Celery

    from resilient.integrations.celery import CeleryQueue

    queue = CeleryQueue(Celery("shop", broker="memory://", set_as_current=False))

    @resilient.with_fallback(resilient.queued(queue, key="welcome:{user}"))
    def send(user: str) -> None:
        raise ConnectionError("mail is down")

    receipt = send("u1")
    assert receipt is not None
    assert receipt.key == "welcome:u1"


def procrastinate() -> None:
    """Name a queue, without connecting to its database."""
    from procrastinate import App, PsycopgConnector

    from resilient.integrations.procrastinate import ProcrastinateQueue

    conninfo = "postgresql://app@db1/shop"
    ProcrastinateQueue(App(connector=PsycopgConnector(conninfo=conninfo)), conninfo)


USES: dict[str, Callable[[], None]] = {
    use.__name__: use
    for use in (
        plain,
        starlette,
        fastapi,
        flask,
        django,
        otel,
        redis,
        msgspec,
        postgres,
        celery,
        procrastinate,
    )
}

if __name__ == "__main__":
    USES[sys.argv[1]]()
