"""PostgreSQL: a primary that dies, a replica that is promoted, and connections that follow."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from resilient import InvalidSetting, ResilientError, degradation_scope
from resilient.integrations.postgres import PostgresServers
from tests.doubles import each
from tests.servers import PostgresServer, free_port
from tests.waiting import eventually


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary, and a replica that streams from it."""
    with PostgresServer() as primary:
        primary.sql("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
        with primary.replica() as replica:
            yield primary, replica


def servers(*ports: int, **settings: Any) -> PostgresServers:
    return PostgresServers(
        f"host={','.join(['127.0.0.1'] * len(ports))} port={','.join(map(str, ports))} "
        "user=postgres dbname=postgres",
        **settings,
    )


def port_of(connection: Any) -> int:
    with connection:
        return connection.info.port  # type: ignore[no-any-return]


def test_the_server_that_is_wanted_is_found_and_remembered(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """Writers get the primary and readers the replica, whichever comes first in the list."""
    primary, replica = pair
    writers = servers(replica.port, primary.port)
    readers = servers(primary.port, replica.port, target_session_attrs="standby")
    with degradation_scope() as degraded:
        assert port_of(writers.connect()) == primary.port
        assert port_of(readers.connect()) == replica.port
    assert writers.in_use == f"127.0.0.1:{primary.port}"
    assert degraded == []


def test_a_standby_is_only_preferred(pair: tuple[PostgresServer, PostgresServer]) -> None:
    """`prefer-standby` takes the replica, and the primary where there is none."""
    primary, replica = pair
    preferred = servers(primary.port, replica.port, target_session_attrs="prefer-standby")
    assert port_of(preferred.connect()) == replica.port
    alone = servers(free_port(), primary.port, target_session_attrs="prefer-standby")
    assert port_of(alone.connect()) == primary.port


async def test_asynchronous_connections_do_the_same(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """`connect_async` finds the primary as `connect` does."""
    primary, replica = pair
    async with await servers(replica.port, primary.port).connect_async() as connection:
        assert connection.info.port == primary.port


def test_when_no_server_is_wanted_the_error_says_what_each_came_to(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """The first server's own error comes out, with a note on the other one."""
    _, replica = pair
    with pytest.raises(psycopg.OperationalError) as caught:
        servers(free_port(), replica.port).connect()
    [note] = caught.value.__notes__
    assert f"127.0.0.1:{replica.port} failed as well: OperationalError" in note


@pytest.mark.real_time
def test_writes_follow_the_primary_when_it_dies_and_the_replica_is_promoted() -> None:
    """A stopped primary costs one connection its time; then all go to the promoted replica."""
    with PostgresServer() as primary:
        primary.sql("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
        with primary.replica() as replica:
            orders = servers(primary.port, replica.port)
            with orders.connect() as connection:
                connection.execute("INSERT INTO orders VALUES (2)")
            assert eventually(lambda: replica.sql("SELECT count(*) FROM orders") == "2")
            primary.freeze()  # as a machine that is gone: nothing is refused, nothing answers
            replica.promote()
            took: list[float] = []
            for order in (3, 4, 5):
                began = time.monotonic()
                with orders.connect() as connection:
                    connection.execute("INSERT INTO orders VALUES (%s)", [order])
                took.append(time.monotonic() - began)
            assert replica.sql("SELECT count(*) FROM orders") == "5"
            assert orders.in_use == f"127.0.0.1:{replica.port}"
            assert took[0] >= 1.9
            assert max(took[1:]) < 1


@each(
    "settings",
    {
        "one host": {"conninfo": "host=db1"},
        "no connection string": {"conninfo": "host=db1,db2 password=hunter2 what"},
        "ports that do not fit": {"conninfo": "host=db1,db2,db3 port=1,2"},
        "a target that there is not": {"target_session_attrs": "fastest"},
        "less time than libpq grants": {"connect_timeout": 1},
        "no name": {"name": ""},
    },
)
def test_wrong_settings_are_told_at_once(settings: dict[str, Any]) -> None:
    """Settings are checked where they are written, and passwords stay out of the message."""
    with pytest.raises(InvalidSetting) as caught:
        PostgresServers(**{"conninfo": "host=db1,db2", **settings})  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def test_without_psycopg_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed psycopg is told what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ResilientError, match=r"resilient-calls\[postgres\]"):
        PostgresServers("host=db1,db2")
