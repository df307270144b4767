"""``python -m resilient doctor`` tells what is wrong with an installation."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import resilient
from resilient.__main__ import main
from resilient.commands import doctor
from tests.doubles import each


def test_a_sound_installation_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 0, and the versions of what is built upon are there."""
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"resilient-calls {resilient.__version__}" in told
    assert all(name in told for name in ("tenacity", "pybreaker", "structlog", "prometheus-client"))
    assert re.search(r"^clock \S+, to \S+ s$", told, re.MULTILINE)
    assert told.endswith("all is well\n")


def test_a_directory_for_metrics_that_can_be_written_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Multiprocess mode is told, and nothing is wrong with it."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert main(["doctor"]) == 0
    assert f"PROMETHEUS_MULTIPROC_DIR {tmp_path}" in capsys.readouterr().out


def test_a_directory_for_metrics_that_is_not_there_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where processes could not put their metrics, the exit status is 1."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "gone"))
    assert main(["doctor"]) == 1
    assert "there is no such directory: make it" in capsys.readouterr().out


def test_a_directory_for_metrics_that_cannot_be_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory of another user is told as what it is."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may be root
    assert main(["doctor"]) == 1
    assert "this user cannot write there" in capsys.readouterr().out


def test_the_namesake_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another distribution of the same import name is reported, and the exit status is 1."""
    info = tmp_path / "resilient-51.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: resilient\nVersion: 51.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "WRONG: the distribution 'resilient' 51.0 is installed as well" in told


def test_what_is_built_upon_and_missing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each distribution that is not there is named where its version would be, and again below."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # where nothing is installed
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out.splitlines()
    for name in ("tenacity", "pybreaker", "structlog", "prometheus-client"):
        assert f"{name} is missing: install it" in told
        assert f"WRONG: {name} is not installed" in told


def test_a_clock_that_is_too_coarse_for_time_limits_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A millisecond from tick to tick will do, the 16 of some systems will not."""
    clock = SimpleNamespace(implementation="GetTickCount64()", resolution=0.001)
    monkeypatch.setattr(time, "get_clock_info", lambda _: clock)
    assert main(["doctor"]) == 0
    clock.resolution = 0.015625
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert told.count("WRONG: the clock GetTickCount64() ticks every 0.015625 s only") == 1


@each(
    "given",
    {
        "nothing": [],
        "no command": ["heal"],
        "an option": ["--version"],
        "after a dash": ["--", "doctor"],
    },
)
def test_a_command_line_without_a_command_is_refused(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 2, and the commands that there are are named."""
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert "{doctor,outbox,show}" in capsys.readouterr().err


def test_a_stream_that_is_no_file_is_written_to_as_well() -> None:
    """Where a program has put something of its own in the place of its output, that is used."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main(["doctor"]) == 0
    assert told.getvalue().endswith("all is well\n")


def test_it_runs_as_a_module() -> None:
    """The command is the one that the README names."""
    command = [sys.executable, "-m", "resilient", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "all is well" in done.stdout


def test_who_has_read_enough_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `head` does when it is given a long list; the status is that of other programs."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["doctor"]) == 141
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has pressed it knows that; the status is that of other programs."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupt)
    assert main(["doctor"]) == 130
