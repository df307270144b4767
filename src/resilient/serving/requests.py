"""What is done around each request, whatever protocol it came by; the middlewares carry it out."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Generic, TypedDict, TypeVar, final

from structlog.contextvars import bind_contextvars, reset_contextvars

from resilient.degrade.degradations import Degradation, degradation_scope
from resilient.engine import settings
from resilient.engine.draining import unit_of_work
from resilient.errors import CallRejected, CallTimeout, DeadlineExceeded, InvalidSetting
from resilient.serving.deadlines import DEADLINE_HEADER, RequestDeadline, seconds_in
from resilient.serving.degraded_header import degraded_header
from resilient.serving.pages import Page, is_page
from resilient.serving.refusals import refusal
from resilient.serving.request_id import request_id

__all__ = ["Middleware", "MiddlewareSettings", "Request"]

App = TypeVar("App")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110
Header = Callable[[str], str | None]


class MiddlewareSettings(TypedDict, total=False):
    """What both middlewares are told; the arguments of `ASGIMiddleware`."""

    deadline_header: str | None
    max_deadline: float
    default_deadline: float | None
    request_id_header: str | None


class Middleware(Generic[App]):
    """The settings that the middlewares have in common."""

    def __init__(
        self,
        app: App,
        *,
        deadline_header: str | None = DEADLINE_HEADER,
        max_deadline: float = 60,
        default_deadline: float | None = None,
        request_id_header: str | None = "X-Request-ID",
    ) -> None:
        settings.function("app", app)
        self.app = app
        if default_deadline is not None:
            settings.seconds("default_deadline", default_deadline, above_zero=True)
        self.deadline_header = _header_name("deadline_header", deadline_header)
        self.max_deadline = settings.seconds("max_deadline", max_deadline, above_zero=True)
        self.default_deadline = default_deadline
        self.request_id_header = _header_name("request_id_header", request_id_header)

    def seconds_for(self, header: Header) -> float | None:
        """Return how long a request may take, or None if nobody has said."""
        value = None if self.deadline_header is None else header(self.deadline_header)
        seconds = None if value is None else seconds_in(value)
        if seconds is None:
            seconds = self.default_deadline
        return None if seconds is None else min(seconds, self.max_deadline)


def _header_name(parameter: str, value: str | None) -> str | None:
    if value is not None and _HEADER_NAME.fullmatch(settings.text(parameter, value)) is None:
        raise InvalidSetting(parameter, value, "the name of a header, or None")
    return value


@final
class Request:
    """One request, from its headers to those of its response."""

    __slots__ = ("_degraded", "_id", "_id_header", "_is_page", "_method", "_seconds")

    def __init__(self, middleware: Middleware[App], method: str, path: str, header: Header) -> None:
        self._method = method
        self._is_page = is_page(path)
        self._seconds = middleware.seconds_for(header)
        self._id_header = middleware.request_id_header
        self._id = ""
        if self._id_header is not None:
            self._id = request_id(header(self._id_header), header("traceparent"))
        self._degraded: list[Degradation] = []

    @contextmanager
    def scope(self) -> Generator[None]:
        """Have all that is done within belong to this request.

        Raises:
            Draining: If no new work is taken; the library's own pages are no work.
        """
        tokens = bind_contextvars(request_id=self._id) if self._id else {}
        try:
            with self._unit(), degradation_scope() as self._degraded:
                yield
        finally:
            # A response that its server forgets ends in another context than it began in.
            with suppress(ValueError):
                reset_contextvars(**tokens)

    def _unit(self) -> AbstractContextManager[None]:
        return nullcontext() if self._is_page else unit_of_work()

    def deadline(self) -> RequestDeadline | nullcontext[None]:
        """Return the limit for a ``with`` or ``async with`` block.

        Raises:
            DeadlineExceeded: If there is no time at all.
        """
        if self._seconds is None:
            return nullcontext()
        if self._seconds == 0:
            raise DeadlineExceeded("request", 0)
        return RequestDeadline(self._seconds)

    def marks(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return the headers to add to a response that has those of `names`, in lower case."""
        added: list[tuple[str, str]] = []
        if self._degraded:
            added.append(("Degraded", degraded_header(self._degraded)))
        if self._id_header is not None:
            added.append((self._id_header, self._id))
        taken = set(names)
        return [(name, value) for name, value in added if name.lower() not in taken]

    def refusal(self, error: CallRejected | CallTimeout, *, may_close: bool = False) -> Page:
        """Return the response for a request that has come to `error`."""
        answer = refusal(error, self._method, may_close=may_close)
        return Page(answer.status, (*answer.headers, *self.marks(())), answer.body)
