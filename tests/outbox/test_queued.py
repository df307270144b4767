"""A call that fails is queued, and its caller has a receipt."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import json
import logging
import sys
import threading
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any, Literal, NewType, TypedDict

import pytest
from structlog.testing import capture_logs

from resilient import (
    CircuitOpen,
    DuplicateName,
    InvalidSetting,
    InvalidUse,
    NewCall,
    Outbox,
    OutboxError,
    Receipt,
    circuit_breaker,
    default,
    degradation_scope,
    queued,
    with_fallback,
)
from resilient.degrade.outbox.replay import lasting_name
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each


class Broken:
    """A queue that keeps nothing."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def register(self, replay: Any) -> None:
        """Take no note."""

    def put(self, call: NewCall) -> Receipt:
        raise self.error


class Color(enum.StrEnum):
    RED = "red"


class Item(TypedDict):
    name: str


Cents = NewType("Cents", int)


def test_the_caller_of_a_failed_call_gets_a_receipt(outbox: Outbox) -> None:
    """The receipt says what is kept under which key, and since when."""

    @with_fallback(queued(outbox, key="charge:{order_id}"))
    def charge(order_id: str, cents: int) -> str:
        raise ConnectionError

    before = dt.datetime.now(dt.UTC)
    receipt = charge("o1", cents=5)

    assert isinstance(receipt, Receipt)
    assert (receipt.id, receipt.key) == ("1", "charge:o1")
    assert receipt.name.endswith("charge")
    assert abs(receipt.queued - before) < dt.timedelta(seconds=30)
    (call,) = outbox.pending()
    assert json.loads(call.arguments) == {"args": [], "kwargs": {"order_id": "o1", "cents": 5}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        receipt.id = "2"  # type: ignore[misc]


def test_a_call_that_succeeds_is_not_queued(outbox: Outbox) -> None:
    """The outbox is for calls that fail; its file is not even made for others."""

    @with_fallback(queued(outbox))
    def charge() -> str:
        return "charged"

    assert charge() == "charged"
    assert not outbox.path.exists()


def test_the_same_key_has_the_same_receipt_while_it_waits(outbox: Outbox) -> None:
    """A caller who tries again while the call waits queues nothing more."""

    @with_fallback(queued(outbox, key="charge:{order_id}"))
    def charge(order_id: str) -> str:
        raise ConnectionError

    assert charge("o1") == charge("o1") != charge("o2")
    assert len(outbox.pending()) == 2


def test_without_a_key_each_call_is_one_of_its_own(outbox: Outbox) -> None:
    """Two equal mails may be meant; only a key says that they are one."""

    @with_fallback(queued(outbox))
    def send(text: str) -> None:
        raise ConnectionError

    assert send("hello") != send("hello")


def test_two_functions_do_not_share_a_key(outbox: Outbox) -> None:
    """The key is that of a call to one function."""
    tier = queued(outbox, key="{order_id}")

    @with_fallback(tier)
    def charge(order_id: str) -> None:
        raise ConnectionError

    @with_fallback(tier)
    def ship(order_id: str) -> None:
        raise ConnectionError

    assert charge("o1") != ship("o1")


def test_fields_of_a_key_are_never_mixed_up(outbox: Outbox) -> None:
    """What stands between two fields is told from the same within one."""

    @with_fallback(queued(outbox, key="{a}:{b}"))
    def pay(a: str, b: str) -> None:
        raise ConnectionError

    assert pay("1:2", "3") != pay("1", "2:3")
    assert [call.key for call in outbox.pending()] == ["1%3A2:3", "1:2%3A3"]


async def test_a_burst_of_asynchronous_calls_leaves_the_event_loop_alone(outbox: Outbox) -> None:
    """Puts happen on threads, each caller has a receipt, and none is turned away."""

    @with_fallback(queued(outbox, key="{number}"))
    async def charge(number: int) -> str:
        raise ConnectionError

    here = threading.get_ident()
    where = set()
    put = outbox.table.put
    outbox.table.put = lambda call: (where.add(threading.get_ident()), put(call))[1]  # type: ignore[method-assign]

    receipts = await asyncio.gather(*(charge(number) for number in range(100)))

    assert len({receipt.id for receipt in receipts}) == 100  # type: ignore[union-attr]
    assert here not in where


@each(
    "error",
    {
        "full": OutboxError("outbox.db: database or disk is full"),
        "hung": TimeoutError(),
        "broken": RuntimeError(),
    },
)
def test_an_outbox_that_fails_leaves_the_call_to_the_next_tier(error: Exception) -> None:
    """The next tier serves; without one the caller has its own error, with a note."""

    @with_fallback(queued(Broken(error)), default("later, perhaps"))
    def charge() -> str:
        raise ConnectionError

    assert charge() == "later, perhaps"

    @with_fallback(queued(Broken(error)))
    def charge_or_fail() -> str:
        raise ConnectionError("the call's own")

    with pytest.raises(ConnectionError, match="the call's own") as raised:
        charge_or_fail()
    assert "tier queued failed as well" in raised.value.__notes__[0]
    assert raised.value.__cause__ is error


def test_an_outbox_that_hangs_is_left_at_its_limit(virtual_time: VirtualTime) -> None:
    """A put that does not come back costs the limit, and the next tier serves."""

    class Hanging(Broken):
        def put(self, call: NewCall) -> Receipt:
            virtual_time.sleep(60)
            raise self.error

    @with_fallback(queued(Hanging(OSError()), timeout=0.5), default("later, perhaps"))
    def charge() -> str:
        raise ConnectionError

    began = virtual_time.now()
    assert charge() == "later, perhaps"
    assert virtual_time.now() - began == 0.5


def test_a_rejected_call_is_queued(outbox: Outbox) -> None:
    """An open circuit costs nothing but the put."""

    @with_fallback(queued(outbox))
    @circuit_breaker("queued rejected", fail_max=1)
    def charge() -> str:
        raise ConnectionError

    charge()
    with degradation_scope() as degraded:
        assert isinstance(charge(), Receipt)
    assert [(one.tier, one.reason) for one in degraded] == [("queued", CircuitOpen.__name__)]


# What can be kept


class Gateway:
    def charge(self, order_id: str) -> None:
        raise ConnectionError


def test_a_method_is_refused_when_decorating(outbox: Outbox) -> None:
    """Its object cannot be kept as text."""
    with pytest.raises(InvalidUse, match="is a method"):
        with_fallback(queued(outbox))(Gateway.charge)


def test_a_bound_method_of_a_lasting_object_is_like_a_function(outbox: Outbox) -> None:
    """Its name says enough for as long as each process has that object."""
    charge = with_fallback(queued(outbox))(Gateway().charge)
    assert isinstance(charge("o1"), Receipt)


def test_a_generator_is_refused_when_decorating(outbox: Outbox) -> None:
    """Nobody would be there to read what it yields."""
    with pytest.raises(InvalidUse, match="generator"):

        @with_fallback(queued(outbox))
        def stream() -> Any:
            yield 1


@each(
    "kind",
    {
        "date": dt.date,
        "tuple": tuple[int, int],
        "bytes": bytes,
        "enum": Color,
        "in a list": list[dt.date],
        "or none": dt.date | None,
        "int keys": dict[int, str],
    },
)
def test_a_parameter_that_is_no_json_is_refused_when_decorating(kind: Any, outbox: Outbox) -> None:
    """What would come back as something else is told at the function, not in an outage."""

    def charge(what: Any) -> None: ...

    charge.__annotations__["what"] = kind
    with pytest.raises(InvalidUse, match="parameter what"):
        with_fallback(queued(outbox))(charge)


@each(
    "kind",
    {
        "text": str,
        "optional": str | None,
        "list": list[dict[str, int]],
        "dict": dict[str, Any],
        "anything": Any,
        "new type": Cents,
        "literal": Literal["a", 1],
        "typed dict": Item,
        "unknown": "Nowhere",
    },
)
def test_a_parameter_that_is_json_is_taken(kind: Any, outbox: Outbox) -> None:
    """All that JSON has, and what cannot be known before the call."""

    def charge(what: Any) -> None: ...

    charge.__annotations__["what"] = kind
    with_fallback(queued(outbox))(charge)


@each(
    "value",
    {
        "tuple": (1, 2),
        "set": {1},
        "enum": Color.RED,
        "nan": float("nan"),
        "int key": {1: "a"},
        "deep": [{"a": [b"x"]}],
    },
)
def test_an_argument_that_is_no_json_is_not_queued(value: Any, outbox: Outbox) -> None:
    """The caller has its own error, and never a call with something else than it gave."""

    @with_fallback(queued(outbox))
    def charge(what: Any) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError) as raised:
        charge(value)
    assert isinstance(raised.value.__cause__, InvalidUse)
    assert outbox.pending() == []


def test_all_kinds_of_arguments_come_back(outbox: Outbox) -> None:
    """Positional, by name, with a star and with two: the call is made as it was."""
    seen: list[Any] = []
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge(a: int, /, b: str, *more: float, c: bool = False, **rest: Any) -> None:
        answers()
        seen.append((a, b, more, c, rest))

    charge(1, "2", 3.5, 4, c=True, d=None, e=[{"f": "g"}])
    assert outbox.drain() == 0
    assert seen == [(1, "2", (3.5, 4), True, {"d": None, "e": [{"f": "g"}]})]


def test_arguments_by_name_come_back_from_two_stars(outbox: Outbox) -> None:
    """Names of a caller's own are no argument of the name that the function has for them all."""
    seen: list[Any] = []
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge(order_id: str, **rest: Any) -> None:
        answers()
        seen.append((order_id, rest))

    charge("o1", cents=5, rest="of it")
    kept = json.loads(outbox.pending()[0].arguments)
    assert kept["kwargs"] == {"order_id": "o1", "cents": 5, "rest": "of it"}
    assert outbox.drain() == 0
    assert seen == [("o1", {"cents": 5, "rest": "of it"})]


def test_what_has_no_signature_is_refused_when_decorating(outbox: Outbox) -> None:
    """Its arguments could not be checked before they are kept."""
    with pytest.raises(InvalidUse, match="has no signature"):
        with_fallback(queued(outbox))(max)


def test_a_function_makes_the_key(outbox: Outbox) -> None:
    """The text that it returns is the key; one that returns no text leaves the call to others."""

    def key_of(order_id: int) -> Any:
        return order_id if order_id == 7 else f"o{order_id}"

    @with_fallback(queued(outbox, key=key_of))
    def charge(order_id: int) -> None:
        raise ConnectionError

    assert isinstance(receipt := charge(1), Receipt)
    assert receipt.key == "o1"
    with pytest.raises(ConnectionError) as raised:
        charge(7)
    assert isinstance(raised.value.__cause__, InvalidUse)
    assert "its function returned no text" in str(raised.value.__cause__)
    assert [call.key for call in outbox.pending()] == ["o1"]


@each(
    "main, name",
    {
        "a module that is run": ({"__spec__": ModuleSpec("shop.worker", None)}, "shop.worker"),
        "a file that is run": ({"__spec__": None, "__file__": "/opt/worker.py"}, "worker"),
        "a prompt": ({"__spec__": None}, "__main__"),
    },
)
def test_a_program_and_those_who_import_it_have_one_name_for_its_functions(
    main: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a program has queued is found by a worker that imports it."""

    def charge() -> None: ...

    charge.__module__, charge.__qualname__ = "__main__", "Till.charge"
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(**main))  # type: ignore[arg-type]
    assert lasting_name(charge) == f"{name}.Till.charge"


def test_what_it_is_can_be_read(outbox: Outbox) -> None:
    """A list of what is served instead names the outbox and the key."""
    tier = queued(outbox, key="charge:{order_id}")
    assert repr(tier) == f"queued({outbox!r}, key='charge:{{order_id}}')"
    with_fallback(tier)(charge_of_order)
    (replay,) = outbox.replays.values()
    assert repr(replay) == f"<Replay {__name__}.charge_of_order>"


def charge_of_order(order_id: str) -> None:
    """Be a function with a name."""


@each(
    "settings",
    {
        "no parameter": {"key": "{nobody}"},
        "nothing between": {"key": "{a}{b}"},
        "letters between": {"key": "{a}and{b}"},
        "no key": {"key": 5},
        "order": {"ordered_by": "{nobody}"},
        "timeout": {"timeout": 0},
        "name": {"name": ""},
    },
)
def test_a_wrong_setting_is_told_when_decorating(settings: Any, outbox: Outbox) -> None:
    """A template that does not fit never waits for the outage."""
    with pytest.raises(InvalidSetting):

        @with_fallback(queued(outbox, **settings))
        def charge(a: str, b: str) -> None: ...


def test_what_is_no_outbox_is_told_at_once() -> None:
    """A text is no outbox; its methods are missing."""
    with pytest.raises(InvalidSetting, match="outbox"):
        queued("sqlite:///outbox.db")  # type: ignore[arg-type]


def test_two_functions_of_one_name_are_refused(outbox: Outbox) -> None:
    """Calls of one would be made with the other."""

    @with_fallback(queued(outbox, name="charge"))
    def charge() -> None: ...

    with pytest.raises(DuplicateName, match="'charge'"):

        @with_fallback(queued(outbox, name="charge"))
        def ship() -> None: ...


def test_arguments_are_in_no_log(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """What is queued may be secret; events name the function and the number only."""
    caplog.set_level(logging.DEBUG)

    @with_fallback(queued(outbox, key="{user}"))
    def login(user: str, password: str) -> None:
        raise ConnectionError

    with capture_logs() as events:
        receipt = login("bob", password="hunter2")
    assert "resilient.call_queued" in [event["event"] for event in events]
    assert "hunter2" not in f"{events}{receipt}{outbox.pending()}{caplog.text}"
