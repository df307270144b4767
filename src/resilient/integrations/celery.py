"""Celery: calls that were queued are tasks of an app, and its workers make them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, final

from resilient.degrade.outbox.arguments import read
from resilient.degrade.outbox.attempts import (
    Attempts,
    finish,
    tell_queued,
    tell_replayed,
    was_tried,
)
from resilient.degrade.outbox.calls import NewCall, Receipt
from resilient.degrade.outbox.replay import Replay, add_replay
from resilient.engine import settings
from resilient.errors import InvalidSetting

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["CeleryQueue"]

#: What Celery shows of a call in place of its arguments, in logs and to monitors.
_HIDDEN = {"argsrepr": "(...)", "kwargsrepr": "{...}"}
_KEYS = uuid.uuid5(uuid.NAMESPACE_URL, "resilient:call")


@final
class CeleryQueue:
    """Hands calls over to a Celery app, for `queued`.

    What a receipt is worth depends on the broker. Celery does not know that two tasks have one
    key: a second call of a key is another task, with the same id. No order is kept, nor is a call
    that is given up; `resilient.call_buried` tells of it.

    Arguments:
        app: The app; its workers must import the modules whose functions are queued.
        queue: The queue of Celery; the app's own routes unless given.
        prefix: What the names of the tasks begin with.
        max_attempts: How often a call is tried before it is given up; 1 or more.
        first_pause: Seconds after the first failed attempt; twice as many after each further one.
        max_pause: The most seconds between two attempts; less than the broker's visibility timeout.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from celery import Celery
        >>> from resilient import queued, with_fallback
        >>> from resilient.integrations.celery import CeleryQueue
        >>> app = Celery("shop", broker="memory://", set_as_current=False)
        >>> @with_fallback(queued(CeleryQueue(app), key="welcome:{user_id}"))
        ... def send_welcome(user_id: str) -> None:
        ...     raise ConnectionError("mail is down")
        >>> send_welcome("u1").key
        'welcome:u1'

    Where the rule comes from: late acknowledgement, so that a call outlives its worker.
    """

    keeps_order = False

    def __init__(
        self,
        app: Celery,
        *,
        queue: str | None = None,
        prefix: str = "resilient.",
        max_attempts: int = 25,
        first_pause: float = 1.0,
        max_pause: float = 600.0,
    ) -> None:
        if not callable(getattr(app, "send_task", None)):
            raise InvalidSetting("app", app, "a Celery app")
        self.app: Any = app
        self.queue = None if queue is None else settings.text("queue", queue)
        self.prefix = settings.text("prefix", prefix)
        self._attempts = Attempts(max_attempts, first_pause, max_pause)
        self._replays: dict[str, Replay] = {}
        self._tasks: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<CeleryQueue {self.app.main}>"

    def register(self, replay: Replay) -> None:
        """Make a task of a function whose calls may be put.

        Raises:
            DuplicateName: If another function has its name.
        """
        add_replay(self._replays, replay, self)
        name = replay.name

        def make(task: Any, arguments: str, queued: str, failed: int = 0) -> None:
            self._make(task, self._replays[name], arguments, queued, failed)

        self._tasks[name] = self.app.task(
            make,
            name=self.prefix + name,
            bind=True,
            shared=False,
            serializer="json",
            ignore_result=True,
            max_retries=None,  # counted here, where what was rejected does not count
            acks_late=True,
            reject_on_worker_lost=True,
        )

    def put(self, call: NewCall) -> Receipt:
        """Hand `call` over, and return its receipt once the broker has it.

        Raises:
            kombu.exceptions.OperationalError: If the broker does not take it.
        """
        now = datetime.now(UTC)
        call_id = str(uuid.uuid4() if call.key is None else _id_of(call.name, call.key))
        receipt = Receipt(call_id, call.name, call.key, now)
        self._tasks[call.name].apply_async(
            kwargs={"arguments": call.arguments, "queued": now.isoformat()},
            task_id=call_id,
            **self._options,
        )
        tell_queued(self._replays[call.name], receipt)
        return receipt

    @property
    def _options(self) -> dict[str, Any]:
        return _HIDDEN if self.queue is None else {**_HIDDEN, "queue": self.queue}

    def _make(self, task: Any, replay: Replay, arguments: str, queued: str, failed: int) -> None:
        try:
            args, kwargs = read(arguments, replay.function)
            finish(replay(*args, **kwargs))
        except Exception as error:
            pause = self._attempts.pause(replay, error, failed)
            if pause is None:
                self._attempts.tell_buried(replay, task.request.id, error, failed)
            if pause is None or task.request.is_eager:  # where nothing can wait
                raise
            again = {"arguments": arguments, "queued": queued, "failed": failed + was_tried(error)}
            raise task.retry(kwargs=again, exc=error, countdown=pause, **self._options) from None
        tell_replayed(replay, task.request.id, failed, queued)


def _id_of(name: str, key: str) -> uuid.UUID:
    """Return what is short enough for every broker, and without characters of meaning to any."""
    return uuid.uuid5(_KEYS, f"{name}\n{key}")
