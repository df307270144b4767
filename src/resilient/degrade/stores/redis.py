"""A store in Redis or Valkey, shared by processes and hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from resilient.engine import settings
from resilient.errors import InvalidSetting, InvalidUse

if TYPE_CHECKING:
    import redis

__all__ = ["RedisStore"]

_SCHEMES = ("redis://", "rediss://", "unix://")
#: An address is never shown: it may have a password in it.
_ADDRESS = 'an address such as "redis://localhost:6379/0"'
#: Redis counts milliseconds, in 64 bits; so many are more than anybody will see.
_MOST_SECONDS = 1e12
#: The most seconds for a socket; the platform's own limit is beyond anybody's patience, too.
_LONGEST = 1e6
#: Takes a lease unless somebody has it, and says who has it now.
_CLAIM = (
    "if redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return ARGV[1] end "
    "return redis.call('get', KEYS[1])"
)
#: Gives a lease back if it is still this one's: it may have ended, and be somebody else's.
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end"


@final
class RedisStore:
    """Keeps answers in Redis or Valkey, for synchronous and asynchronous functions alike.

    Processes that share it make one call of the misses of one key. Whoever can write there decides
    what is served: never share it with those whom you do not trust. Of an asynchronous function, it
    is asked on a thread, so that one object serves any number of event loops.

    Arguments:
        url: Where it is, such as "redis://localhost:6379/0"; "valkey://" is understood too.
        namespace: What all names begin with. Services that share a server need one each.
        lease: Seconds after which another process may make the call of a key, if the one that
            began it has not ended it: longer than calls take.
        timeout: Seconds after which a connection that does not answer is given up; the limit of a
            call is `store_timeout` of `cached`.
        name: The label of its metrics.
        options: What redis-py's `Redis.from_url` takes as well, such as `ssl_ca_certs`.

    Raises:
        InvalidUse: Without redis-py (`pip install "resilient-calls[redis]"`).
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import RedisStore, cached
        >>> shared = RedisStore("redis://localhost:6379/0", namespace="shop")
        >>> tier = cached(ttl=3600, fresh_for=60, key="rec:{user_id}", store=shared)
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "resilient",
        lease: float = 5.0,
        timeout: float = 1.0,
        name: str = "redis",
        **options: Any,
    ) -> None:
        try:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError as Disconnected
            from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError
            from redis.retry import Retry
        except ImportError as missing:
            raise InvalidUse(
                'RedisStore needs redis-py: pip install "resilient-calls[redis]"'
            ) from missing
        url = settings.text("url", url)
        known = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        if not known.startswith(_SCHEMES):
            raise InvalidSetting("url", "...", _ADDRESS)
        self.namespace = settings.text("namespace", namespace)
        self.lease = settings.seconds("lease", lease, above_zero=True)
        seconds = min(settings.seconds("timeout", timeout, above_zero=True), _LONGEST)
        self.name = settings.text("name", name)
        # One further attempt, at once, on another connection: that of before a restart is dead, and
        # that of before a failover leads to who was the primary, for as long as it is kept.
        settled = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 1, supported_errors=(Disconnected, ReadOnlyError)),
        }
        try:
            _client(Redis, known, settled)
        except Exception:  # whose text may have a part of the address in it
            raise InvalidSetting("url", "...", _ADDRESS) from None
        try:
            self._client = _client(Redis, known, {**settled, **options})
        except Exception as error:
            expected = f"what redis-py takes, and not {type(error).__name__}"
            raise InvalidSetting("options", sorted(options), expected) from None
        if self._client.connection_pool.connection_kwargs.get("decode_responses"):
            raise InvalidSetting("decode_responses", True, "left out: answers are bytes, no text")
        self._no_permission, self._refusal = NoPermissionError, ResponseError
        self._may_script = True

    def __repr__(self) -> str:
        return f"RedisStore(namespace={self.namespace!r})"

    def get(self, name: str) -> Any:
        """Return the bytes under `name`, or None."""
        return self._client.get(self._key(name))

    def put(self, name: str, data: bytes, ttl: float) -> None:
        """Keep `data` under `name` for `ttl` seconds."""
        self._client.set(self._key(name), data, px=_milliseconds(ttl))

    def delete(self, name: str) -> None:
        """Forget what is under `name`."""
        self._client.delete(self._key(name))

    def claim(self, name: str, token: str, seconds: float) -> Any:
        """Take `name` for at most `seconds` unless somebody has it; return the token of who has."""
        lease, most = f"{self._key(name)}:lease", _milliseconds(seconds)
        if self._may_script:
            try:
                return self._client.eval(_CLAIM, 1, lease, token, most)
            except self._refusal as error:
                self._do_without_scripts(error)
        is_ours = self._client.set(lease, token, nx=True, px=most)
        return token if is_ours else self._client.get(lease)

    def release(self, name: str, token: str) -> None:
        """Give `name` back, if it is still taken under `token`."""
        lease = f"{self._key(name)}:lease"
        if self._may_script:
            try:
                self._client.eval(_RELEASE, 1, lease, token)
                return
            except self._refusal as error:
                self._do_without_scripts(error)
        if self._client.get(lease) == token.encode():
            self._client.delete(lease)

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._client.close()

    def _do_without_scripts(self, error: Exception) -> None:
        """Use plain commands from now on if that is what `error` says, else raise it.

        Between two of them a lease may end and be taken by another, which costs a second call.
        """
        if not isinstance(error, self._no_permission) and "unknown command" not in str(error):
            raise error
        self._may_script = False

    def _key(self, name: str) -> str:
        return f"{self.namespace}:{name}"


def _client(kind: type[redis.Redis], url: str, settled: dict[str, Any]) -> redis.Redis:
    """Return a client that could be made a connection of; none is made yet."""
    client: redis.Redis = kind.from_url(url, **settled)
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


def _milliseconds(seconds: float) -> int:
    return max(1, round(min(seconds, _MOST_SECONDS) * 1000))
