"""The glossary is in order, and explains the words that everybody needs."""

from __future__ import annotations

import re

from tests.project.tree import text_of

ENTRIES = text_of("docs/glossary.md").split(":::{glossary}\n")[1].split("\n:::")[0]
TERMS = re.findall(r"^(\S.*)$", ENTRIES, re.MULTILINE)


def test_the_words_are_in_order_and_each_is_explained() -> None:
    """A reader finds a word where it must be, and a sentence below it."""
    assert sorted(TERMS, key=str.lower) == TERMS
    assert len(set(TERMS)) == len(TERMS)
    assert len(re.findall(r"^  \S.*\.$", ENTRIES, re.MULTILINE)) == len(TERMS)


def test_the_words_of_the_first_pages_are_explained() -> None:
    """Attempt, budget, circuit and their like are used from the first page on."""
    assert {
        "attempt",
        "budget",
        "bulkhead",
        "circuit",
        "deadline",
        "degraded",
        "dependency",
        "draining",
        "fallback",
        "idempotency key",
        "outbox",
        "probe",
        "readiness",
        "strategy",
        "tier",
    } <= set(TERMS)
