"""What makes an ASGI application keep its callers' deadlines, say what is degraded, and drain."""

from __future__ import annotations

from typing import final

from resilient.serving.asgi import ASGIApp, Message, Receive, Scope, Send, encoded, send_page
from resilient.serving.refusals import REFUSED
from resilient.serving.requests import Middleware, Request
from resilient.telemetry.processes import publisher

__all__ = ["ASGIMiddleware"]


@final
class ASGIMiddleware(Middleware[ASGIApp]):
    """Around each request: a deadline, its id, the `Degraded` header, 503 and 504, draining.

    - A deadline in the request's header is in force for all that the request does, and ends it.
    - What fallbacks have served by the time the response starts is in its header `Degraded`.
    - A `CallRejected` that nobody has handled becomes 503 with `Retry-After`, a `CallTimeout` 504,
      as long as the response has not started; after that the error goes on as it is.
    - A request is a `unit_of_work`: while draining, new ones get 503. The library's own pages do
      not.
    - The request's id is bound to structlog's context variables as `request_id`, and sent back.

    Arguments:
        app: The application around which it is put.
        deadline_header: The header with the time that the client grants: whole milliseconds, or in
            gRPC's form ("500m", "2S"). What cannot be read is ignored, and counted. None for no
            such header.
        max_deadline: The most seconds that are granted, above 0.
        default_deadline: The seconds for a request without the header; no limit unless given.
        request_id_header: The header with the request's id, in request and response. Without it
            the trace id of `traceparent` is taken, or a new one is made. None for no id.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> import resilient
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> app.add_middleware(resilient.ASGIMiddleware, max_deadline=10)

    Where the rule comes from: gRPC's deadlines and `UNAVAILABLE`; RFC 9110 for `Retry-After`, RFC
    9457 for the body, RFC 9651 for the form of `Degraded`.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; websockets and the lifespan pass through."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, _last_words(send))
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])

        def header(name: str) -> str | None:
            value = headers.get(name.lower().encode("latin-1"))
            return None if value is None else value.decode("latin-1")

        request = Request(self, scope["method"], scope["path"], header)
        has_started = is_refused = False

        async def send_marked(message: Message) -> None:
            nonlocal has_started
            if is_refused:  # a task that the application has left behind comes too late
                return
            if message["type"] == "http.response.start":
                has_started = True
                own = list(message.get("headers", ()))
                marks = request.marks(name.decode("latin-1").lower() for name, _ in own)
                message = {**message, "headers": own + encoded(marks)}
            await send(message)

        try:
            with request.scope():
                async with request.deadline():
                    await self.app(scope, receive, send_marked)
        except REFUSED as error:
            if has_started:
                raise
            is_refused = True
            may_close = scope.get("http_version", "1.1").startswith("1")
            await send_page(send, request.refusal(error, may_close=may_close))


def _last_words(send: Send) -> Send:
    """Return `send`, with what has been counted written down before the server ends.

    Uvicorn ends by the signal that it was sent, past all that is registered for the end.
    """

    async def send_last(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown"):
            publisher.publish()
        await send(message)

    return send_last
