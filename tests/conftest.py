"""Fixtures that the whole suite shares; those of `resilient.testing` come with the library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import RedisServer, require_program


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
