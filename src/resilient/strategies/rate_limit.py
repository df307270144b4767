"""At most so many calls in a stretch of time, as a dependency's terms of use may have it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from resilient.engine import clock, settings
from resilient.engine.call import Call
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Proceed, Sleep, Steps
from resilient.engine.strategy import Strategy
from resilient.errors import InvalidSetting, RateLimited

__all__ = ["RateLimit", "rate_limit"]


class RateLimit(Strategy):
    """A token bucket: `limit` calls in `per` seconds on average, `burst` of them at once.

    Arguments:
        limit: Calls in `per` seconds; 1 or more.
        per: The seconds that `limit` is about; above 0.
        burst: The most calls at once after a quiet time; as many as `limit` unless given.
        max_wait: The most seconds for which a call waits for its turn; 0 for none.

    Raises:
        RateLimited: When a call is rejected; its `retry_after` is exact.
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import rate_limit
        >>> @rate_limit(100, per=1)
        ... def geocode(address: str) -> str:
        ...     return address.title()
        >>> geocode("main street")
        'Main Street'

    Where the rule comes from: the token bucket, as in the generic cell rate algorithm (ITU-T
    I.371): a waiting call has its token already, and the bucket owes it.
    """

    rejection = RateLimited

    def __init__(
        self, limit: int, per: float = 1.0, *, burst: int | None = None, max_wait: float = 0.0
    ) -> None:
        super().__init__()
        self.limit = settings.count("limit", limit)
        self.per = settings.seconds("per", per, above_zero=True)
        self.burst = self.limit if burst is None else settings.count("burst", burst)
        self.max_wait = settings.seconds("max_wait", max_wait)
        self._interval = self.per / self.limit
        if self._interval == 0:
            raise InvalidSetting("per", per, f"long enough for {self.limit} calls")
        self._lock = new_lock()
        self._tokens = float(self.burst)
        self._counted_at = -inf

    def __repr__(self) -> str:
        return f"RateLimit({self.limit}, per={self.per:g}, burst={self.burst})"

    @property
    def take(self) -> Callable[[], bool]:
        """Take a token, if there is one."""
        return self._take_now

    def _take_now(self) -> bool:
        return self._reserve(0.0) == 0.0

    @property
    def untake(self) -> Callable[[], object]:
        """Put the token back of a call that is not made; of one that was made it is spent."""
        return self._put_back

    def _put_back(self) -> None:
        with self._lock:
            self._tokens += 1

    def _reserve(self, most: float) -> float:
        """Take a token that is there in at most `most` seconds; return the seconds until it is.

        If it would take longer nothing is taken, and the seconds are returned as a negative.
        """
        now = clock.now()
        with self._lock:
            # Tokens rather than a moment: differences of time are exact where sums are not.
            earned = (now - self._counted_at) / self._interval
            tokens = min(float(self.burst), self._tokens + earned)
            wait = round((1 - tokens) * self._interval, 8)
            if wait > most:
                return -wait
            self._tokens, self._counted_at = tokens - 1, now
            return max(0.0, wait)

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Take a token, wait for it, or reject the call."""
        if call.resumed is None and not call.is_known:
            most = self.max_wait
            if call.limit is not None:
                most = min(most, max(0.0, call.limit.expires - clock.now()))
            wait = self._reserve(most)
            if wait < 0:
                call.pipeline.measures.rejected(RateLimited.reason, -wait)
                now = clock.now()
                return Outcome(None, RateLimited(call.name, self.limit, self.per, -wait), now, now)
            if wait:
                yield Sleep(wait)
        return (yield from proceed(call))


rate_limit = RateLimit
