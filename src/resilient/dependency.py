"""A dependency, named once and used everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from resilient.degrade.fallback import Fallback, WithFallback
from resilient.engine import settings
from resilient.engine.guard import guard
from resilient.engine.lanes import call_through
from resilient.engine.names import Names
from resilient.engine.pipeline import Pipeline
from resilient.engine.strategy import Strategy
from resilient.errors import CallTimeout, InvalidSetting
from resilient.strategies.breaker.breaker import CircuitBreaker
from resilient.strategies.bulkhead import Bulkhead
from resilient.strategies.matching import Matches, error_matcher
from resilient.strategies.rate_limit import RateLimit
from resilient.strategies.retry import Retry
from resilient.strategies.timeout import Deadline, Timeout

__all__ = ["Dependency", "all_dependencies"]

P = ParamSpec("P")
R = TypeVar("R")

_names: Names[Dependency] = Names("dependency")


def all_dependencies() -> list[Dependency]:
    """Return every dependency, ordered by name."""
    return _names.all()


class Dependency(Strategy):
    """Something that a service calls and that can fail, with all that guards it.

    A decorator for functions that call it, a ``with`` block, and `call`. Its strategies stand in
    the standard order, outermost first: fallback, total timeout, bulkhead, retry, circuit breaker,
    rate limit, attempt timeout. The total limit so covers waiting in the bulkhead's queue, the
    breaker sees every attempt, and a fallback never hides a failure from it.

    Arguments:
        name: The name in errors, logs and metrics; unique.
        critical: Whether the service cannot do without it.
        failures: What counts against it: exception types, or a predicate. A time limit of ours
            that is exceeded always does. `retry` without `on=` tries these again.
        total_timeout: Seconds for a call with all of its attempts and pauses; above 0.
        timeout: Seconds for each attempt; above 0.
        retry: A `retry(...)`.
        breaker: A `circuit_breaker(...)`; takes the name of the dependency if it has none.
        max_concurrent: The most calls at once.
        max_waiting: The most callers that wait for one of them to end.
        rate_limit: A `rate_limit(...)`.
        rto: For the people on call: seconds within which it must be whole again.
        owner: For the people on call: who looks after it.
        runbook: For the people on call: the address of what to do.

    Raises:
        InvalidSetting: If an argument is outside of its range.
        DuplicateName: If there is another dependency, or another breaker, of that name.

    Example:
        >>> from resilient import Dependency, circuit_breaker, retry
        >>> payments = Dependency(
        ...     "payments",
        ...     critical=True,
        ...     failures=(ConnectionError, TimeoutError),
        ...     total_timeout=5,
        ...     timeout=2,
        ...     retry=retry(attempts=3),
        ...     breaker=circuit_breaker(failure_rate=0.5, window="10s"),
        ...     max_concurrent=20,
        ... )
        >>> @payments
        ... def charge(order_id: str, amount_cents: int) -> str:
        ...     return f"charged {amount_cents} for {order_id}"
        >>> charge("o1", 1999)
        'charged 1999 for o1'
        >>> with payments:
        ...     refunded = True
        >>> payments.call(charge.__wrapped__, "o2", 500)
        'charged 500 for o2'
    """

    def __init__(
        self,
        name: str,
        *,
        critical: bool = False,
        failures: Matches = Exception,
        total_timeout: float | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        breaker: CircuitBreaker | None = None,
        max_concurrent: int | None = None,
        max_waiting: int = 0,
        rate_limit: RateLimit | None = None,
        rto: float | None = None,
        owner: str | None = None,
        runbook: str | None = None,
    ) -> None:
        super().__init__()
        self.name = settings.text("name", name)
        self.critical = settings.flag("critical", critical)
        self.failures = failures
        self._matches = error_matcher("failures", failures)
        self.rto = None if rto is None else settings.seconds("rto", rto, above_zero=True)
        self.owner = None if owner is None else settings.text("owner", owner)
        self.runbook = None if runbook is None else settings.text("runbook", runbook)
        self.total_timeout = _limit("total_timeout", total_timeout)
        self.timeout = _limit("timeout", timeout)
        if total_timeout is not None and timeout is not None and timeout > total_timeout:
            raise InvalidSetting("timeout", timeout, f"at most total_timeout ({total_timeout:g})")
        self.bulkhead = None if max_concurrent is None else Bulkhead(max_concurrent, max_waiting)
        if max_concurrent is None and max_waiting:
            raise InvalidSetting("max_waiting", max_waiting, "given together with max_concurrent")
        self.retry = _checked("retry", retry, Retry)
        self.breaker = _checked("breaker", breaker, CircuitBreaker)
        self.rate_limit = _checked("rate_limit", rate_limit, RateLimit)
        _names.claim(self.name, self)
        if self.breaker is not None:
            self.breaker.named(self.name)
            if failures is not Exception:
                self.breaker.count_only(self._matches)
        if self.retry is not None:
            self.retry = self.retry.retrying_on(self._is_failure)
        self.strategies: tuple[Strategy, ...] = tuple(
            strategy
            for strategy in (
                self.total_timeout,
                self.bulkhead,
                self.retry,
                self.breaker,
                self.rate_limit,
                self.timeout,
            )
            if strategy is not None
        )
        self.judge = self._is_failure
        self._pipeline: Pipeline | None = None

    def __repr__(self) -> str:
        return f"<Dependency {self.name}: {', '.join(map(repr, self.strategies))}>"

    @property
    def label(self) -> str:
        """The name of the dependency."""
        return self.name

    def _is_failure(self, error: Exception) -> bool:
        return isinstance(error, CallTimeout) or self._matches(error)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, guarded by the strategies of this dependency."""
        return guard(function, *self.strategies, name=self.name, is_failure=self._is_failure)

    @property
    def with_fallback(self) -> WithFallback:
        """Like `resilient.with_fallback`, with the strategies of this dependency inside."""
        return WithFallback(self._with)

    def _with(self, fallback: Fallback[Any], function: Callable[..., Any]) -> Callable[..., Any]:
        return guard(
            function, fallback, *self.strategies, name=self.name, is_failure=self._is_failure
        )

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` as if it were decorated; of an asynchronous one, return the awaitable."""
        if self._pipeline is None:
            self._pipeline = Pipeline(*self.strategies, name=self.name, is_failure=self._is_failure)
        result: R = call_through(self._pipeline, function, args, dict(kwargs))
        return result

    def as_block(self, *, is_async: bool) -> tuple[Strategy, ...]:
        """Return the strategies that make sense around a block, which runs once.

        The time limits of a synchronous block are cooperative: it sees what is left.
        """
        limits = [one.limit for one in (self.total_timeout, self.timeout) if one is not None]
        parts: list[Strategy] = []
        if limits:
            parts.append(Timeout(min(limits)) if is_async else Deadline(min(limits)))
        parts += [one for one in (self.bulkhead, self.breaker, self.rate_limit) if one is not None]
        return tuple(parts)


S = TypeVar("S", bound=Strategy)


def _limit(parameter: str, seconds: float | None) -> Timeout | None:
    if seconds is None:
        return None
    return Timeout(settings.seconds(parameter, seconds, above_zero=True))


def _checked(parameter: str, value: S | None, kind: type[S]) -> S | None:
    if value is not None and not isinstance(value, kind):
        raise InvalidSetting(parameter, value, f"a resilient.{kind.__name__}, or None")
    return value
