"""Checks of the user's: asked in the background, so that an answer about health waits for none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, final, overload

from resilient.engine import clock, settings, signals
from resilient.engine.callables import plain_name
from resilient.engine.locks import new_lock
from resilient.engine.names import Names
from resilient.engine.outcome import Outcome
from resilient.engine.prober import Prober, is_well
from resilient.engine.reported import Condition, Reading, Reported
from resilient.errors import InvalidUse, shown
from resilient.telemetry.health.details import described
from resilient.telemetry.health.report import Status

__all__ = ["begin_checks", "check", "remove"]

F = TypeVar("F", bound=Callable[..., Any])

#: A result of a check that has not come back for so many of its intervals is no result any more.
STALE_AFTER = 3


@overload
def check(
    name: str,
    function: F,
    *,
    timeout: float = ...,
    every: float = ...,
    critical: bool = ...,
    owner: str | None = ...,
    runbook: str | None = ...,
) -> F: ...
@overload
def check(
    name: str,
    *,
    timeout: float = ...,
    every: float = ...,
    critical: bool = ...,
    owner: str | None = ...,
    runbook: str | None = ...,
) -> Callable[[F], F]: ...
def check(
    name: str,
    function: F | None = None,
    *,
    timeout: float = 1,
    every: float = 5,
    critical: bool = True,
    owner: str | None = None,
    runbook: str | None = None,
) -> F | Callable[[F], F]:
    """Have `function` asked in the background, and readiness show what it came to.

    It fails by raising, by returning False, and by not being back in time. Nothing runs before
    `started()`, or somebody asks whether the process is ready or has started; until there is a
    result, and when results stop coming, the check does not pass. Without `function` it is a
    decorator.

    Arguments:
        name: What is checked; unique.
        function: What is called without arguments: a plain function on a thread of its own, an
            asynchronous one on the loop on which `check` or `started` was called, if that still
            runs, else on one of its own.
        timeout: The most seconds for one call; above 0.
        every: Seconds from the end of one call to the next; above 0.
        critical: Whether the process is not ready while it fails; else that is a warning.
        owner: For the people on call: who looks after it.
        runbook: For the people on call: the address of what to do.

    Returns:
        `function`, as it is.

    Raises:
        DuplicateName: If there is a check of that name.
        InvalidSetting: If an argument is outside of its range.
        InvalidUse: If `function` needs arguments.

    Example:
        >>> from resilient import health
        >>> def ping_database() -> None: ...
        >>> _ = health.check("database", ping_database, timeout=1, every=5, critical=True)
        >>> @health.check("disk", critical=False)
        ... def has_space() -> bool:
        ...     return True
        >>> health.remove("database"), health.remove("disk")
        (None, None)
    """

    def add(checked: F) -> F:
        one = _Check(name, checked, timeout, every, critical=critical)
        for parameter, about in {"owner": owner, "runbook": runbook}.items():
            one.about[parameter] = None if about is None else settings.text(parameter, about)
        _checks.add(one)
        return checked

    return add if function is None else add(function)


def remove(name: str) -> None:
    """Ask the check `name` no more.

    Raises:
        InvalidUse: If there is none of that name.
    """
    if not _checks.remove(name):
        raise InvalidUse(f"there is no health check of the name {shown(name)}")


def begin_checks(*, here: bool = False) -> None:
    """Begin to ask, if that has not begun; asynchronous checks on the loop `here`, if asked for."""
    for one in _checks.all():
        if here:
            one.prober.note_loop()
        one.begin()


@final
@dataclass(frozen=True, slots=True)
class _Result:
    """What one call of the function came to."""

    at: float
    seconds: float
    well: bool
    error: Exception | None
    failing_since: float | None


@final
class _Check:
    """One check, and its last result."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        timeout: float,
        every: float,
        *,
        critical: bool,
    ) -> None:
        self.name = settings.text("name", name)
        timeout = settings.seconds("timeout", timeout, above_zero=True)
        every = settings.seconds("every", every, above_zero=True)
        self.about: dict[str, str | None] = {}
        self._critical = settings.flag("critical", critical)
        self._stale_after = STALE_AFTER * every + timeout
        self._result: _Result | None = None
        self._begun = False
        self._beginning = new_lock()
        checked = settings.function("function", function)
        if not settings.can_be_called(checked):
            raise InvalidUse(
                f"the health check {name!r} is called without arguments, and "
                f"{plain_name(checked)} needs some"
            )
        self.prober = Prober(f"check {name}", checked, every, timeout, self._came_to)
        self.prober.note_loop()

    def begin(self) -> None:
        """Begin to ask, once; from then on the prober sees to it, in forked children too."""
        with self._beginning:
            begun, self._begun = self._begun, True
        if not begun:
            self.prober.start(at_once=True)

    def end(self) -> None:
        """Ask no more."""
        self.prober.stop()

    def _came_to(self, outcome: Outcome) -> None:
        now, before = clock.now(), self._result
        well = is_well(outcome)
        was_well = before is None or before.well
        since = None if well else now if was_well or before is None else before.failing_since
        self._result = _Result(now, now - outcome.started, well, outcome.error, since)
        if well and not was_well:
            signals.emit("resilient.check_recovered", check=self.name, critical=self._critical)
        elif was_well and not well:
            error = None if outcome.error is None else type(outcome.error).__name__
            signals.emit(
                "resilient.check_failed", check=self.name, critical=self._critical, error=error
            )

    def _passes(self, result: _Result | None) -> bool:
        return result is not None and result.well and not self._is_stale(result)

    def _is_stale(self, result: _Result) -> bool:
        return clock.now() - result.at > self._stale_after

    def reading(self) -> Reading:
        """Return whether it passes."""
        passes = int(self._passes(self._result))
        help_ = "1 while the check passes, in every process"
        labels = {"check": self.name}
        return Reading("health_check", help_, "gauge", labels, passes, across="min")

    def condition(self) -> Condition:
        """Return its line in the answer about readiness."""
        result = self._result
        details: dict[str, Any] = {"componentType": "component", "critical": self._critical}
        if result is None:
            details["output"] = "no result yet"
        else:
            now = clock.now()
            details["observedValue"] = round(result.seconds * 1000, 3)
            details["observedUnit"] = "ms"
            details["ageSeconds"] = round(now - result.at, 3)
            if self._is_stale(result):
                details["output"] = "results have stopped coming"
            elif not result.well:
                details["lastFailure"] = "returned False"
                details |= described(result.error)
            if result.failing_since is not None:
                details["failingForSeconds"] = round(now - result.failing_since, 3)
        details |= {key: value for key, value in self.about.items() if value is not None}
        no: Status = "fail" if self._critical else "warn"
        status: Status = "pass" if self._passes(result) else no
        return Condition(f"{self.name}:check", status, details)


@final
class _Checks(Reported):
    """All checks, by name."""

    __slots__ = ("_by_name", "_lock", "_names")

    def __init__(self) -> None:
        self._lock = new_lock()
        self._names: Names[_Check] = Names("health check")
        self._by_name: dict[str, _Check] = {}
        self.report()

    def all(self) -> list[_Check]:
        return list(self._by_name.values())

    def add(self, one: _Check) -> None:
        """Take `one`, in the place of that from an earlier load of its module."""
        self._names.claim(one.name, one)
        with self._lock:
            replaced = self._by_name.get(one.name)
            self._by_name[one.name] = one
        if replaced is not None:
            replaced.end()

    def remove(self, name: str) -> bool:
        with self._lock:
            one = self._by_name.pop(name, None)
        if one is None:
            return False
        self._names.release(name, one)
        one.end()
        return True

    def readings(self) -> Iterable[Reading]:
        """Return whether each check passes."""
        return [one.reading() for one in self.all()]

    def conditions(self) -> Iterable[Condition]:
        """Return the line of each check."""
        return [one.condition() for one in self.all()]


_checks = _Checks()
