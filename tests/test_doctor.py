"""``python -m resilient doctor`` tells what is wrong with an installation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import resilient
from resilient.__main__ import main


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


def test_it_runs_as_a_module() -> None:
    """The command is the one that the README names."""
    command = [sys.executable, "-m", "resilient", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "all is well" in done.stdout
