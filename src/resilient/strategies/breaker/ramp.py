"""How much is let through on the way back from an outage.

The ramp follows what it sees, not the clock: a tenth of the calls at first, twice as many each
quarter second in which they go well, half as many when they do not. A dependency that is well has
all of its traffic within about a second; one that is only just starting is not run over.
"""

from __future__ import annotations

from typing import final

__all__ = ["Ramp"]

FIRST_SHARE = 0.1
TICK_SECONDS = 0.25
FREE_CALLS = 10
#: The part of the calls in a tick that may fail or be slow without a step back.
TOLERATED = 0.1
#: Below this share it is not a way back any more.
LEAST_SHARE = FIRST_SHARE / 8
#: Failures in a row after which there is nothing left to find out.
HOPELESS = 5


@final
class Ramp:
    """The share of calls that pass, and what they came to since it was last changed."""

    __slots__ = ("_bad", "_credit", "_good", "_in_a_row", "_passed", "_ticked", "share")

    def __init__(self, now: float) -> None:
        self.share = FIRST_SHARE
        self._credit = 0.0
        self._passed = 0
        self._good = self._bad = self._in_a_row = 0
        self._ticked = now

    def admits(self) -> bool:
        """Say whether the next call passes: the first ten do, of the others their share."""
        if self._passed >= FREE_CALLS:
            # Rounded, for ten tenths are to be one.
            self._credit = round(self._credit + self.share, 9)
            if self._credit < 1.0:
                return False
            self._credit -= 1.0
        self._passed += 1
        return True

    def record(self, *, good: bool) -> None:
        """Count a call that was let through; slow ones are not good."""
        if good:
            self._good += 1
            self._in_a_row = 0
        else:
            self._bad += 1
            self._in_a_row += 1

    def probed(self, *, good: bool) -> None:
        """Count a probe, which speaks for all calls while there are none."""
        if good:
            # Whatever the share has come down to, the dependency begins anew when it is back.
            self.share = max(self.share, FIRST_SHARE)
            if self._passed == 0:
                self.share = 1.0
        self.record(good=good)

    def verdict(self, now: float) -> bool | None:
        """Move the share if it is time to; return True if all is well, False if nothing is."""
        if self._in_a_row >= HOPELESS:
            return False
        seen = self._good + self._bad
        if now - self._ticked >= TICK_SECONDS and seen:
            if self._bad <= TOLERATED * seen:
                self.share *= 2.0
                # Where there are few calls, the next one must not wait for its share to add up.
                self._credit = 1.0
            else:
                self.share *= 0.5
            self._good = self._bad = 0
            self._ticked = now
        if self.share >= 1.0:
            return True
        return False if self.share < LEAST_SHARE else None

    def next_tick(self, now: float) -> float:
        """Return the seconds until the share can change."""
        return max(0.0, self._ticked + TICK_SECONDS - now)
