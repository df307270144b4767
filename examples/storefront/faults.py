"""The ways in which the demo breaks an upstream: as reality does, from outside the storefront."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from processes import Process

Change = Callable[[Process], Awaitable[None]]


async def answer_500(process: Process) -> None:
    await process.tell(error_rate=0.6)


async def answer_late(process: Process) -> None:
    await process.tell(latency_seconds=3.0)


async def be_well(process: Process) -> None:
    await process.tell()


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to fail: in words, how it begins and how it ends."""

    began: str
    ended: str
    begin: Change
    end: Change


KILLED = Kind("killed (SIGKILL)", "started again", Process.kill, Process.start)
FROZEN = Kind("frozen (SIGSTOP)", "thawed (SIGCONT)", Process.freeze, Process.thaw)
FAILING = Kind("answers 60 % with HTTP 500", "answers well again", answer_500, be_well)
SLOW = Kind("answers after 3 s", "answers quickly again", answer_late, be_well)


@dataclass(frozen=True, slots=True)
class Fault:
    """One upstream, broken in one way."""

    upstream: str
    kind: Kind


# The first four have every kind and every upstream, for those who are in a hurry.
PLAN = (
    Fault("recommendations", KILLED),
    Fault("auth", FROZEN),
    Fault("payments", FAILING),
    Fault("recommendations", SLOW),
    Fault("auth", KILLED),
    Fault("payments", SLOW),
)
