"""The answer to one question about the health of the process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

__all__ = ["Checks", "Report", "Status", "worst"]

Status = Literal["pass", "warn", "fail"]
Checks = Mapping[str, list[dict[str, Any]]]

#: What is shown of a check that passes, to those who have not asked for more.
_BRIEFLY = ("componentType", "status", "observedValue", "observedUnit")


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst of `statuses`; "pass" if there are none."""
    found = set(statuses)
    return "fail" if "fail" in found else "warn" if "warn" in found else "pass"


@final
@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one question about the health of the process.

    Attributes:
        status: "fail" is a no, "warn" a yes with something to look at.
        checks: What led to it, by name, in the form of application/health+json.
    """

    status: Status
    checks: Checks = field(default_factory=dict[str, list[dict[str, Any]]])

    @property
    def http_status(self) -> int:
        """200, or 503 when the answer is no."""
        return 503 if self.status == "fail" else 200

    def as_dict(self, *, verbose: bool = True) -> dict[str, Any]:
        """Return the answer in the form of application/health+json.

        Arguments:
            verbose: Whether to say all about checks that pass, too, not only that they do.
        """
        body: dict[str, Any] = {"status": self.status}
        if self.checks:
            body["checks"] = {
                name: [one if verbose or one["status"] != "pass" else _brief(one) for one in found]
                for name, found in self.checks.items()
            }
        return body


def _brief(check: Mapping[str, Any]) -> dict[str, Any]:
    return {key: check[key] for key in _BRIEFLY if key in check}
