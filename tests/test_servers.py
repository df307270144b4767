"""The servers that other tests rely on can be broken and mended."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.servers import PostgresServer, RedisServer, ServerFailed, require_program


def ask(server: RedisServer, *words: str) -> bytes:
    """Send one command in Redis' own protocol and return the first line of the answer."""
    with socket.create_connection((server.host, server.port), 5) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        with connection.makefile("rb") as answers:
            return answers.readline().strip()


def test_a_started_server_answers_at_its_address(redis: RedisServer) -> None:
    """A server that was started answers, and its URL names the port that it answers on."""
    assert redis.ping()
    assert redis.url == f"redis://127.0.0.1:{redis.port}/0"


def test_a_killed_server_is_gone_until_it_is_restarted_on_the_same_port(redis: RedisServer) -> None:
    """A kill ends the process at once, and a restart brings an empty server to the same port."""
    port = redis.port
    assert ask(redis, "SET", "key", "value") == b"+OK"

    redis.kill()
    assert not redis.is_running
    assert not redis.ping()

    redis.restart()
    assert redis.port == port
    assert ask(redis, "GET", "key") == b"$-1"


def test_a_frozen_server_answers_nothing_until_it_is_thawed(redis: RedisServer) -> None:
    """A frozen server is still running but silent; thawed, it still has what it held."""
    assert ask(redis, "SET", "key", "value") == b"+OK"

    redis.freeze()
    assert redis.is_running
    assert not redis.ping(timeout=0.05)

    redis.thaw()
    assert redis.ping()
    assert ask(redis, "STRLEN", "key") == b":5"


def test_a_server_starts_out_empty_for_each_test(redis: RedisServer) -> None:
    """What another test left in the server is not there."""
    assert ask(redis, "DBSIZE") == b":0"


def test_no_process_is_left_when_the_block_ends(tmp_path: Path) -> None:
    """Leaving the block ends the process, also a frozen one."""
    with RedisServer(require_program("redis-server"), tmp_path) as server:
        pid = server.pid
        server.freeze()

    assert not server.is_running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_that_is_no_server_is_told_with_what_it_printed(tmp_path: Path) -> None:
    """A start that fails says so at once, and shows the server's own words."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho no such luck\n")
    program.chmod(0o755)

    with pytest.raises(ServerFailed, match="no such luck"):
        RedisServer(str(program), tmp_path).start()


def test_a_missing_server_skips_the_test_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program a test is skipped, and the reason names the program."""
    monkeypatch.delenv("RESILIENT_REQUIRE_SERVERS", raising=False)

    with pytest.raises(pytest.skip.Exception, match="no-such-server is not installed"):
        require_program("no-such-server")


def test_a_missing_server_fails_the_test_where_servers_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where RESILIENT_REQUIRE_SERVERS=1 is set, a missing program is a failure and no skip."""
    monkeypatch.setenv("RESILIENT_REQUIRE_SERVERS", "1")

    with pytest.raises(pytest.fail.Exception, match="no-such-server is not installed"):
        require_program("no-such-server")


def test_what_postgres_has_committed_survives_a_kill(postgres: PostgresServer) -> None:
    """A killed PostgreSQL is started again on its port, with what it held."""
    postgres.sql("CREATE TABLE kept AS SELECT 42 AS answer")

    postgres.restart()

    assert postgres.sql("SELECT answer FROM kept") == "42"


def test_a_replica_can_take_the_place_of_its_primary(postgres: PostgresServer) -> None:
    """A replica has what its primary has, refuses writes, and takes them once it is promoted."""
    postgres.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    with postgres.replica() as replica:
        assert replica.sql("SELECT answer FROM kept") == "42"
        with pytest.raises(ServerFailed, match="read-only"):
            replica.sql("DROP TABLE kept")

        postgres.kill()
        replica.promote()

        assert replica.sql("DROP TABLE kept; SELECT 'gone'") == "gone"


def test_a_server_that_cannot_be_asked_says_why(postgres: PostgresServer) -> None:
    """What PostgreSQL has against a command is in the error."""
    with pytest.raises(ServerFailed, match='relation "missing" does not exist'):
        postgres.sql("SELECT * FROM missing")
