"""The errors of the library.

    ResilientError
    ├── CallRejected                 not called at all; says when to try again
    │   ├── CircuitOpen              (also pybreaker.CircuitBreakerError; in strategies.breaker)
    │   ├── BulkheadFull             too many calls at once
    │   ├── RateLimited              too many calls a second
    │   ├── WorkersSaturated         too many abandoned calls still running
    │   └── Draining                 new work for a process that is about to end
    ├── CallTimeout                  (also TimeoutError) called, and not back in time
    │   └── DeadlineExceeded         the time was over before the call began
    ├── NothingToServe               a tier that has no answer for this call
    ├── OutboxError                  an outbox that cannot keep or give a call; names its file
    ├── InvalidSetting               (also ValueError) a value outside of its range
    ├── InvalidUse                   (also TypeError) something used where it cannot be
    │   └── UnstableKey              an argument that cannot be part of a cache key
    └── DuplicateName                (also ValueError) two things under one name

Every one of them can be pickled, with its attributes and its message as they were.
A user's own errors are never wrapped in any of these.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BulkheadFull",
    "CallRejected",
    "CallTimeout",
    "DeadlineExceeded",
    "Draining",
    "DuplicateName",
    "InvalidSetting",
    "InvalidUse",
    "NothingToServe",
    "OutboxError",
    "RateLimited",
    "ResilientError",
    "UnstableKey",
    "WorkersSaturated",
]


def _restored(cls: type[ResilientError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


#: What is longer is shown up to here: a message is for people.
_MOST_SHOWN = 200


def shown(value: object) -> str:
    """Return the text of whatever somebody has given, also of what has none."""
    try:
        text = repr(value)
    except Exception:
        return f"<a {type(value).__qualname__} that has no text>"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


class ResilientError(Exception):
    """The base of every error that the library raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call __init__ with the finished message, and build it twice.
        state = {name: value for name, value in self.__dict__.items() if name != "owner"}
        return _restored, (type(self), self.args, state)


class CallRejected(ResilientError):
    """A call that was not made, to protect the caller, the dependency, or both.

    Attributes:
        name: What rejected the call: the name of the dependency or of the strategy.
        reason: One word for it, as in the label of `resilient_rejections_total`.
        retry_after: Seconds until a call may be let through again, or None if that is not known.
    """

    reason = "rejected"

    def __init__(self, name: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.retry_after = retry_after


class BulkheadFull(CallRejected):
    """As many calls as the bulkhead admits are running, and no place in its queue came free."""

    reason = "bulkhead_full"

    def __init__(self, name: str, max_concurrent: int, max_waiting: int) -> None:
        super().__init__(
            name,
            f"{max_concurrent} calls are running (max_concurrent={max_concurrent}, "
            f"max_waiting={max_waiting})",
        )
        self.max_concurrent = max_concurrent
        self.max_waiting = max_waiting


class RateLimited(CallRejected):
    """More calls than the rate limit allows."""

    reason = "rate_limited"

    def __init__(self, name: str, limit: float, per: float, retry_after: float) -> None:
        super().__init__(
            name,
            f"more than {limit:g} calls in {per:g} s, the next one in {retry_after:.3g} s",
            retry_after=retry_after,
        )
        self.limit = limit
        self.per = per


class WorkersSaturated(CallRejected):
    """So many abandoned calls are still running that one more would only make it worse."""

    reason = "saturated"

    def __init__(self, name: str, abandoned: int) -> None:
        super().__init__(
            name,
            f"{abandoned} timed-out calls are still running; rejected until one of them ends "
            "(max_abandoned)",
        )
        self.abandoned = abandoned


class Draining(CallRejected):
    """New work for a process that is about to end; another one takes it."""

    reason = "draining"

    def __init__(self) -> None:
        # Soon: a load balancer has other processes for it, or will have in a moment.
        super().__init__(
            "process", "draining, so that no new work is begun; ask again", retry_after=1.0
        )


class CallTimeout(ResilientError, TimeoutError):
    """A call that was not back within its time limit.

    Attributes:
        name: What was called.
        seconds: The limit that it exceeded.
        owner: The strategy whose limit it was, by which our timeouts are told from the callee's.
    """

    owner: object = None

    def __init__(self, name: str, seconds: float, *, owner: object = None) -> None:
        super().__init__(f"{name}: not back within {seconds:g} s")
        self.name = name
        self.seconds = seconds
        self.owner = owner


class DeadlineExceeded(CallTimeout):
    """A call that was not made, because the time that its caller had was over."""

    def __init__(self, name: str, seconds: float, *, owner: object = None) -> None:
        super().__init__(name, seconds, owner=owner)
        self.args = (f"{name}: not called, the caller's {seconds:g} s are over",)


class NothingToServe(ResilientError):
    """A tier has no answer for this call, such as a cache without a fresh enough value."""


class OutboxError(ResilientError):
    """An outbox that cannot keep a call or give one back; says which file, and the way out."""


class InvalidSetting(ResilientError, ValueError):
    """A setting outside of its range; raised where it is set, not when it is needed.

    Attributes:
        parameter: The name of the parameter.
        value: What was given.
        expected: The range or form that is accepted.
    """

    def __init__(self, parameter: str, value: object, expected: str) -> None:
        super().__init__(f"{parameter}={shown(value)}: {parameter} must be {expected}")
        self.parameter = parameter
        self.value = value
        self.expected = expected

    def __reduce__(self) -> tuple[Any, ...]:
        import pickle

        restored, (cls, args, state) = super().__reduce__()
        try:
            pickle.dumps(self.value)
        except Exception:  # what was given cannot be pickled, such as a lock: its text can
            state["value"] = shown(self.value)
        return restored, (cls, args, state)


class InvalidUse(ResilientError, TypeError):
    """Something used where it cannot be used; the message says what to do instead."""


class UnstableKey(InvalidUse):
    """An argument that has no stable text, and so cannot be part of a cache key."""


class DuplicateName(ResilientError, ValueError):
    """A name that something else has already; state and metrics of the two would merge."""


_REFUSALS = (CallRejected, DeadlineExceeded)


def refusal_in(error: BaseException) -> CallRejected | DeadlineExceeded | None:
    """Return what says that `error` is about a call that was not made, or None.

    That is the error itself, or the first of a group of nothing else, as a task group raises it.
    """
    if isinstance(error, _REFUSALS):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [refusal_in(one) for one in error.exceptions]
        return None if None in found else found[0]
    return None
