"""PostgreSQL: connections to whichever of several servers is the one that is wanted.

libpq knows how to choose among servers (`target_session_attrs`), but begins anew for each
connection: while the first server is dead, every connection waits for it. Here it is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from resilient.degrade.failover_to import FailoverTo
from resilient.engine import settings
from resilient.engine.callables import is_async_function
from resilient.engine.guard import pipeline_of
from resilient.engine.pipeline import Pipeline
from resilient.errors import InvalidSetting, ResilientError

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

__all__ = ["PostgresServers"]

TARGETS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")


@final
class PostgresServers:
    """Connects to the first of several PostgreSQL servers that is what is wanted.

    Arguments:
        conninfo: What libpq takes, with several hosts: "postgresql://app@db1,db2/orders" or
            "host=db1,db2 port=5432,5433 dbname=orders".
        target_session_attrs: What is wanted: "read-write" (the primary, whichever that is now),
            "primary", "standby", "read-only", "prefer-standby" or "any".
        connect_timeout: Seconds for each server; a whole number, 2 or more, as libpq has it.
        return_after: Seconds after which one connection tries the servers before the one in use.
        name: The name in events, metrics and health.

    Raises:
        InvalidSetting: If an argument is outside of its range, or `conninfo` is none.
        psycopg.OperationalError: When connecting, if no server is what is wanted; the error of the
            first server, with a note on each of the others.

    Example:
        >>> from resilient.integrations.postgres import PostgresServers
        >>> orders = PostgresServers("postgresql://app@db1,db2/orders")
        >>> orders.in_use
        'db1:5432'

    Where the rule comes from: `target_session_attrs` of libpq.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        target_session_attrs: str = "read-write",
        connect_timeout: int = 2,
        return_after: float = 30.0,
        name: str = "postgres",
    ) -> None:
        if target_session_attrs not in TARGETS:
            raise InvalidSetting(
                "target_session_attrs", target_session_attrs, f"one of {', '.join(TARGETS)}"
            )
        self.name = settings.text("name", name)
        timeout = settings.count("connect_timeout", connect_timeout, least=2)
        psycopg = _psycopg()
        targets = [target_session_attrs]
        if target_session_attrs == "prefer-standby":  # any, but only if there is no standby
            targets = ["standby", "any"]
        self._servers = [
            {**server, "target_session_attrs": target, "connect_timeout": timeout}
            for target in targets
            for server in _servers(conninfo)
        ]
        self._conninfo = conninfo
        self._return_after = return_after
        if len(self._servers) == 1:
            raise InvalidSetting("conninfo", "one server", "a connection string with several hosts")
        self._connect = self._remembering(psycopg.Connection.connect)
        self._connect_async = self._remembering(psycopg.AsyncConnection.connect)

    def _remembering(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        first, *others = [_connecting_to(one, connect, self._conninfo) for one in self._servers]
        failover = FailoverTo(
            *others,
            switch_after=1,  # a refused connection is no accident
            return_after=self._return_after,
            on=_psycopg().OperationalError,
            degraded=False,  # whoever answers is what is wanted
        )
        return Pipeline(failover, name=self.name)(first)

    @property
    def in_use(self) -> str:
        """The host and port that the next synchronous connection is asked for first."""
        [failover] = pipeline_of(self._connect).strategies
        assert isinstance(failover, FailoverTo)
        return failover.in_use.removeprefix("postgres.")

    def connect(self, **settings: Any) -> Connection[Any]:
        """Return a new connection; `settings` are those of `psycopg.connect`."""
        connection: Connection[Any] = self._connect(**settings)
        return connection

    async def connect_async(self, **settings: Any) -> AsyncConnection[Any]:
        """Return a new asynchronous connection; `settings` as for `connect`."""
        connection: AsyncConnection[Any] = await self._connect_async(**settings)
        return connection


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ResilientError(
            'PostgresServers needs psycopg 3: pip install "resilient-calls[postgres]"'
        ) from error
    return psycopg


def _servers(conninfo: str) -> list[dict[str, str]]:
    """Return host and port of each server that `conninfo` names."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    except ProgrammingError:  # says what was given, a password perhaps
        raise InvalidSetting("conninfo", "...", "what libpq takes as a connection string") from None
    names = [key for key in ("host", "hostaddr", "port") if key in given]
    lists = {key: given[key].split(",") for key in names}
    count = max((len(values) for values in lists.values()), default=1)
    for key, values in lists.items():
        if len(values) not in (1, count):
            raise InvalidSetting("conninfo", f"{key} of {len(values)}", f"one or {count} of each")
        lists[key] = values * (count if len(values) == 1 else 1)
    return [{key: lists[key][index] for key in names} for index in range(count)]


def _address(server: dict[str, Any]) -> str:
    return f"{server.get('host') or server.get('hostaddr', '')}:{server.get('port') or 5432}"


def _connecting_to(
    server: dict[str, Any], connect: Callable[..., Any], conninfo: str
) -> Callable[..., Any]:
    """Return a function that connects to one server, and bears its name."""
    if is_async_function(connect):

        async def connect_async(**settings: Any) -> Any:
            return await connect(conninfo, **{**settings, **server})

        named = connect_async
    else:

        def connect_now(**settings: Any) -> Any:
            return connect(conninfo, **{**settings, **server})

        named = connect_now
    named.__module__, named.__qualname__ = "postgres", _address(server)
    return named
