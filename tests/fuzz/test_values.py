"""What comes from outside: headers, keys, stored answers, rows of an outbox. Anything may be in it.

What cannot be read is no answer, or is refused by a clear error; nothing else happens.
"""

from __future__ import annotations

import math
import os
import string
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resilient import Degradation, InvalidSetting, InvalidUse, JSONCodec, NewCall, ResilientError
from resilient.degrade.outbox.database import Database
from resilient.degrade.outbox.table import Table
from resilient.degrade.stores.sealed import Rubbish, opened, sealed
from resilient.engine import faults
from resilient.engine.key import key_function
from resilient.engine.strategy import Target
from resilient.serving.deadlines import seconds_in
from resilient.serving.degraded_header import degraded_header
from resilient.serving.request_id import request_id
from resilient.strategies.retry_after import asked_to_wait, parsed
from resilient.testing import VirtualTime
from tests.generated import examples

# Headers

#: Texts of all sorts, and such as look like numbers and dates.
header_values = st.one_of(
    st.text(),
    st.text(string.digits + ".+-eEnainf_ ", max_size=12),
    st.builds(
        "{}, {} {} {} {}:{}:{} {}".format,
        *[
            st.sampled_from(
                ["Wed", "31", "Feb", "99", "2026", "0", "24", "99999999", "GMT", "+9999", ""]
            )
        ]
        * 8,
    ),
    st.text("٣४೭²", max_size=4),  # digits, for some
)


@examples(60)
@given(
    value=st.one_of(
        header_values,
        st.binary(max_size=12),
        st.floats(),
        st.integers(),
        st.timedeltas(),
        st.datetimes(),
        st.booleans(),
        st.lists(st.integers()),
        st.just(10**400),
        st.just("9" * 5000),
    )
)
@example(value=10**400)
def test_any_retry_after_is_a_number_of_seconds_or_nothing(value: Any) -> None:
    """A number, a date, a duration or rubbish: finite and at least 0, or None."""
    for seconds in (
        parsed(value),
        asked_to_wait(SimpleNamespace(retry_after=value, args=())),  # type: ignore[arg-type]
        asked_to_wait(SimpleNamespace(headers={"Retry-After": value}, args=())),  # type: ignore[arg-type]
    ):
        assert seconds is None or (isinstance(seconds, float) and 0 <= seconds < math.inf)


@examples(60)
@given(value=st.one_of(header_values, st.from_regex(r"[0-9]{1,9}[HMSmun]?", fullmatch=True)))
def test_any_deadline_header_is_a_number_of_seconds_or_nothing(value: str) -> None:
    """Up to eight digits of the common kind and a unit, else it is as if there were none."""
    seconds = seconds_in(value)
    assert seconds is None or 0 <= seconds <= 99_999_999 * 3600


@examples(60)
@given(given=st.none() | st.text(), traceparent=st.none() | st.text())
def test_any_request_id_is_short_and_plain(given: str | None, traceparent: str | None) -> None:
    """What a client sends goes into logs and headers: it is one line of plain characters."""
    found = request_id(given, traceparent)
    assert 1 <= len(found) <= 128
    assert set(found) <= set(string.ascii_letters + string.digits + "._~:/+=@-")


@examples(60)
@given(
    st.lists(
        st.builds(
            Degradation,
            st.text(),
            st.text(),
            st.none() | st.floats(min_value=0, max_value=1e18),
            st.just("Error"),
        ),
        max_size=60,
    )
)
def test_any_degraded_header_is_one_line_of_ascii(degradations: list[Degradation]) -> None:
    """Whatever dependencies and tiers are called, the header can be sent and is not too long."""
    value = degraded_header(degradations)
    assert len(value) <= 1000
    assert all(" " <= one <= "~" for one in value)


# Keys


def fetch(user: Any, page: Any = 1, *more: Any, region: Any = "eu", **rest: Any) -> None: ...


TARGET = Target(fetch, "fetch", is_async=False)
templates = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                "{user}",
                "{page}",
                "{region}",
                "{user!r}",
                "{user!x}",
                "{page:03d}",
                "{user.name}",
                "{user[0]}",
                "{user.__class__.__init__.__globals__}",
                "{0}",
                "{}",
                "{{",
                "}}",
                "{",
                "}",
                "{more}",
                "{rest}",
                "{user:{page}}",
                "{user!}",
                "{user.}",
                "{user[}",
                "{ user}",
                ":",
            ]
        ),
        max_size=4,
    ).map("".join),
)
arguments = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@examples(80)
@given(template=templates, user=arguments, page=arguments)
def test_any_template_makes_a_key_or_is_refused(template: str, user: Any, page: Any) -> None:
    """It is refused when decorating; a key that it makes is the same for the same arguments."""
    try:
        key = key_function(template, TARGET)
    except (InvalidSetting, InvalidUse):
        return
    try:
        made = key((user, page), {})
    except Exception:  # as the form of a number for a text: such a call has no key
        return
    assert hash(made) == hash(key((user,), {"page": page}))


@examples(60)
@given(user=arguments, page=arguments)
def test_all_arguments_make_a_key_that_tells_types_apart(user: Any, page: Any) -> None:
    """Plain values have a key, however deep; one of another type has another key."""
    key = key_function(None, TARGET)
    made = key((user, page), {})
    assert made == key((user,), {"page": page})
    if isinstance(user, bool):
        assert made != key((int(user), page), {})


# Stored answers


@examples(80)
@given(
    value=arguments.filter(lambda one: one == one),
    data=st.data(),
    kind=st.sampled_from(["any", "cut", "flipped", "grown", "another key"]),
)
def test_what_was_not_sealed_is_no_answer(value: Any, data: st.DataObject, kind: str) -> None:
    """Cut, changed by a bit, lengthened, moved to another key or made up: it is rubbish."""
    with VirtualTime(start=1024.0):
        codec = JSONCodec()
        try:
            whole = sealed("name", codec, value, 0.0)
        except (InvalidUse, ValueError):  # no JSON, and so never stored
            return
        assert opened("name", codec, whole).value == value
        name, at = "name", data.draw(st.integers(0, len(whole) - 1))
        broken: Any = whole
        if kind == "any":
            broken = data.draw(st.binary() | st.text() | st.none() | st.integers())
        elif kind == "cut":
            broken = whole[:at]
        elif kind == "flipped":
            flipped = whole[at] ^ (1 << data.draw(st.integers(0, 7)))
            broken = whole[:at] + bytes([flipped]) + whole[at + 1 :]
        elif kind == "grown":
            broken = whole + data.draw(st.binary(min_size=1))
        else:
            name = "another"
        with pytest.raises(Rubbish):
            opened(name, codec, broken)


# Rows of an outbox

columns = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary()
COLUMNS = ("name", "key", "ordered_by", "arguments", "queued", "checksum", "state", "due",
           "attempts", "owner", "lease", "leased_until", "error")  # fmt: skip


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(COLUMNS), columns, min_size=1, max_size=4))
def test_any_row_of_an_outbox_can_be_read_and_stops_nobody(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Whatever a broken disk has written into a row, all that others ask is answered."""
    database = Database(tmp_path / "outbox.db", 5.0)
    database._opened().execute("PRAGMA synchronous = OFF")
    database.write(lambda file: file.execute("DELETE FROM calls"))
    table = Table(database, lease=10.0, max_pause=100.0)
    try:
        table.put(NewCall("broken", "{}"))
        well, _ = table.put(NewCall("well", '{"args":[],"kwargs":{}}'))
        for column, value in changes.items():
            change = f"UPDATE calls SET {column} = ? WHERE name = 'broken'"
            with suppress(ResilientError, OverflowError, UnicodeEncodeError):  # SQLite has its own
                database.write(
                    lambda file, change=change, value=value: file.execute(change, (value,))
                )
        assert table.depth().waiting >= 1
        table.mend()
        for state in ("waiting", "dead"):
            for call in table.calls(state, 10):
                assert repr(call)
                table.find(call.id)
        table.next_due(())
        claimed = []
        while (one := table.claim("me", ())) is not None:
            claimed.append(one.call.id)
            if one.broken is None:
                table.put_off(one.call.id, "me", 1.0, "failed")
            else:
                table.bury(one.call.id, "me", one.broken)
        assert well.id in claimed
    finally:
        database.close()


# The environment

variables = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@examples(60)
@given(value=variables | st.sampled_from(["1", "0", " TRUE ", "False", "no", "Off", "yes", "on"]))
@example(value="flase")
def test_any_variable_turns_guards_off_or_leaves_them_or_is_refused(value: str) -> None:
    """What is meant is not guessed: a mistyped "false" would leave a service without its guards."""
    word = value.strip().lower()
    with patch.dict(os.environ, RESILIENT_DISABLED=value):
        if word in ("1", "true", "yes", "on", "", "0", "false", "no", "off"):
            assert faults.disabled() == (word in ("1", "true", "yes", "on"))
            return
        with pytest.raises(InvalidSetting) as caught:
            faults.disabled()
    assert (caught.value.parameter, caught.value.value) == ("RESILIENT_DISABLED", value)
