"""The checklist names commands, tests, files, settings and metrics that there are."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import resilient
from resilient.__main__ import main
from resilient.telemetry.events import EVENTS
from tests.docs.test_metrics_page import shown
from tests.project.tree import ROOT, text_of

PAGE = text_of("docs/checklist.md")
SECTIONS = [
    "Failure modes",
    "Detection",
    "Degradation",
    "Deployment safety",
    "Observability",
    "Capacity",
    "Recovery",
]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    for row in PAGE.splitlines()
    if row.startswith("| ") and not row.startswith("| | ")
]
COMMANDS = [cell.replace("\\|", "|").removeprefix("`").split("`")[0] for _, _, cell in ROWS]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", text_of("Makefile"), re.MULTILINE))
FOREIGN = ("curl", "kubectl", "promtool", "pytest")


def test_it_follows_the_life_of_an_incident() -> None:
    """From what can fail to how it is whole again, in this order."""
    headings = re.findall(r"^## ([^:\n]+):", PAGE, re.MULTILINE)
    assert headings == SECTIONS


def test_each_item_has_an_answer_and_a_command() -> None:
    """No row without what is there, and without what shows it."""
    assert len(ROWS) >= 30
    for question, answer, verify in ROWS:
        assert question[0].isupper(), question
        assert answer, question
        assert verify.startswith("`"), question


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_checklist_is_there(command: str) -> None:
    """It is a target of the Makefile, a command of the library, or a program of others."""
    program, *arguments = command.split()
    if program == "make":
        assert arguments[0] in TARGETS
        for path in re.findall(r"tests/[\w/]+\.py", command):
            assert (ROOT / path).is_file()
        for expression in re.findall(r"-k (\w+)", command):
            [path] = re.findall(r"tests/[\w/]+\.py", command)
            found = expression in text_of(path) or path == "tests/docs/test_examples.py"
            assert found, command
    elif program == "python":
        assert arguments[:2] == ["-m", "resilient"]
        with pytest.raises(SystemExit) as ended:
            main([arguments[2], "--help"])
        assert ended.value.code == 0
    else:
        assert program in FOREIGN


def test_what_the_checklist_names_is_there() -> None:
    """Files, metrics, events and settings of the page exist."""
    for path in re.findall(r"`((?:examples|tests)/[\w/.-]+)`", PAGE):
        assert (ROOT / path).is_file(), path
    assert set(re.findall(r"\bresilient_[a-z_]+[a-z]", PAGE)) <= {
        part for name in shown() for part in (name, name.removesuffix("_total"))
    } | {"resilient_"}
    assert set(re.findall(r"`(resilient\.[a-z]+_[a-z_]+)`", PAGE)) <= set(EVENTS)
    settings = {
        name
        for made in (resilient.Dependency, resilient.circuit_breaker)
        for name in inspect.signature(made).parameters
    }
    assert set(re.findall(r"`([a-z_]+)=`", PAGE)) <= settings
    assert Path(ROOT / "docs/index.md").read_text().count("\nchecklist\n") == 1
