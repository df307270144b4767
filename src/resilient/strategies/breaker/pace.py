"""How long calls usually take, to tell on the way back whether they do so again."""

from __future__ import annotations

from typing import final

__all__ = ["Pace"]


@final
class Pace:
    """The usual duration of successful calls."""

    __slots__ = ("_learned", "_usual")

    def __init__(self) -> None:
        self._usual: float | None = None
        self._learned = 0

    def learn(self, seconds: float, count: int = 1) -> None:
        """Take note of `count` successes, of `seconds` each."""
        # The mean of the first hundred, whether they come one by one or in a batch; then, slowly
        # forgetting, that of the last few hundred.
        self._learned += count
        usual = seconds if self._usual is None else self._usual
        weight = min(1.0, count / min(self._learned, 100))
        self._usual = usual + (seconds - usual) * weight

    def is_unusual(self, seconds: float) -> bool:
        """Whether a call of `seconds` took much longer than calls usually do."""
        usual = self._usual
        return usual is not None and seconds > max(3 * usual, usual + 0.05)
