"""Generators and asynchronous generators, guarded.

Until its first item a stream is a call like any other: it is tried again, limited, and replaced
by a fallback. From then on the caller has part of it, and nothing can be done over: an error in
the middle is counted against the dependency, once. An early `break` is counted against nobody,
and neither is an error that the consumer has thrown into the stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, cast, final

from resilient.engine.call import Call
from resilient.engine.drivers import drive, drive_async
from resilient.engine.pipeline import Pipeline

__all__ = ["async_stream", "sync_stream"]


@final
class _Begun:
    """A stream and its first item, or the value that it returned without any."""

    __slots__ = ("exhausted", "item", "stream")

    def __init__(self, stream: Any, item: Any, *, exhausted: bool = False) -> None:
        self.stream = stream
        self.item = item
        self.exhausted = exhausted


def _begin(
    function: Callable[..., Generator[Any, Any, Any]], /, *args: Any, **kwargs: Any
) -> _Begun:
    stream = function(*args, **kwargs)
    try:
        return _Begun(stream, next(stream))
    except StopIteration as returned:
        return _Begun(stream, returned.value, exhausted=True)


async def _begin_async(
    function: Callable[..., AsyncGenerator[Any, Any]], /, *args: Any, **kwargs: Any
) -> _Begun:
    stream = function(*args, **kwargs)
    try:
        return _Begun(stream, await anext(stream))
    except StopAsyncIteration:
        return _Begun(stream, None, exhausted=True)


def _as_stream(served: Any) -> AsyncGenerator[Any, Any]:
    stream = aiter(served) if hasattr(served, "__aiter__") else served
    if hasattr(stream, "asend"):
        return cast("AsyncGenerator[Any, Any]", stream)
    return _items_async(stream)


async def _items_async(served: Any) -> AsyncGenerator[Any, Any]:
    if hasattr(served, "__aiter__"):
        async for item in served:
            yield item
    else:
        for item in served:
            yield item


def sync_stream(pipeline: Pipeline, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the generator function `function`, guarded by `pipeline`."""

    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = Call(pipeline, partial(_begin, function), args, kwargs, is_async=False)
        call.until_end = []
        begun = drive(pipeline.steps(call)).result()
        if not isinstance(begun, _Begun):
            pipeline.stream_ended(call, None)
            # A list has no use for what is sent into it; a generator has.
            return (yield from begun if hasattr(begun, "send") else (item for item in begun))
        error = thrown_in = None
        left = False
        try:
            if begun.exhausted:
                return begun.item
            stream, item = begun.stream, begun.item
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    stream.close()
                    raise
                except BaseException as thrown:
                    thrown_in = thrown
                    item = stream.throw(thrown)
                else:
                    item = stream.send(sent)
        except StopIteration as returned:
            return returned.value
        except BaseException as broke:
            left = broke is thrown_in or isinstance(broke, GeneratorExit)
            error = None if left else broke
            raise
        finally:
            pipeline.stream_ended(call, error, left=left)
            del error, thrown_in

    return guarded


def async_stream(pipeline: Pipeline, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the asynchronous generator function `function`, guarded by `pipeline`."""

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = Call(pipeline, partial(_begin_async, function), args, kwargs, is_async=True)
        call.until_end = []
        begun = (await drive_async(pipeline.steps(call))).result()
        is_own = isinstance(begun, _Begun)
        if not is_own:  # a fallback has served it: what comes of it is not the dependency's
            pipeline.stream_ended(call, None)
            begun = await _begin_async(_as_stream, begun)
        error = thrown_in = None
        left = False
        try:
            if begun.exhausted:
                return
            stream, item = begun.stream, begun.item
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    await stream.aclose()
                    raise
                except BaseException as thrown:
                    thrown_in = thrown
                    item = await stream.athrow(thrown)
                else:
                    item = await stream.asend(sent)
        except StopAsyncIteration:
            return
        except BaseException as broke:
            left = broke is thrown_in or isinstance(broke, GeneratorExit)
            error = None if left else broke
            raise
        finally:
            if is_own:
                pipeline.stream_ended(call, error, left=left)
            del error, thrown_in

    return guarded
