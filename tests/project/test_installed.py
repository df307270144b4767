"""What users install: built, put into an empty environment, and used there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.project.lowest import lowest_versions
from tests.project.tree import ROOT, pyproject

pytestmark = pytest.mark.proof

EXTRAS = sorted(pyproject()["project"]["optional-dependencies"])
FOUR = ("tenacity", "pybreaker", "structlog", "prometheus-client")
USE = ROOT / "tests" / "project" / "installed.py"


class Environment:
    """A virtual environment of a test, without even pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"

    def install(self, *requirements: str, constraints: list[str] | None = None) -> None:
        """Install with the pip of the tests' own environment."""
        arguments = list(requirements)
        if constraints is not None:
            listed = self.python.parent / "constraints.txt"
            listed.write_text("\n".join(constraints))
            arguments += ["--constraint", str(listed)]
        run(sys.executable, "-m", "pip", "--python", str(self.python), "install", "-q", *arguments)

    @property
    def installed(self) -> dict[str, str]:
        """The distributions that are there, and their versions."""
        listed = run(
            sys.executable, "-m", "pip", "--python", str(self.python), "list", "--format=json"
        )
        found = json.loads(listed)
        return {one["name"].lower().replace("_", "-"): one["version"] for one in found}

    def use(self, name: str) -> None:
        """Do what `installed.py` does for an extra; warnings are errors there as well."""
        # Isolated, so that nothing of the repository or of its environment can be imported.
        run(str(self.python), "-I", "-W", "error::DeprecationWarning:resilient", str(USE), name)


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a program to its end; say what it said if it failed."""
    inherited = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        command, cwd=cwd, env=inherited, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and with the wheel that is built from that."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    [path] = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(path) as packed:
        packed.extractall(folder, filter="data")
    [unpacked] = folder.iterdir()
    return unpacked


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    """Every file of the source, its license, and the marker of its types; no test, no page."""
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    expected = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}

    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == {
        *expected,
        "resilient/py.typed",
    }
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_a_plain_install_works_without_any_extra(wheel: Path, tmp_path: Path) -> None:
    """The four packages come with it, and every name and module of the library is usable."""
    environment = Environment(tmp_path)
    environment.install(str(wheel))

    environment.use("plain")
    brought = environment.installed.keys() - {"resilient-calls", "pip", "setuptools"}
    assert set(FOUR) <= brought
    # structlog needs the last one, before Python 3.11 knew its types.
    assert brought - set(FOUR) <= {"typing-extensions"}


def test_an_sdist_can_be_installed_as_well(built: Path, tmp_path: Path) -> None:
    """Where wheels are not taken, it is built on the spot."""
    [path] = built.glob("*.tar.gz")
    environment = Environment(tmp_path)
    environment.install(str(path))

    environment.use("plain")


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_works_alone(wheel: Path, tmp_path: Path, extra: str) -> None:
    """It brings all that its part of the library needs, whatever else is missing."""
    environment = Environment(tmp_path)
    environment.install(f"{wheel}[{extra}]")

    environment.use(extra)
    environment.use("plain")


@pytest.mark.parametrize("bound", ["lowest", "highest"])
def test_the_library_works_with_the_four_packages_at_either_bound(
    wheel: Path, tmp_path: Path, bound: str
) -> None:
    """The oldest versions that it allows, and the newest that there are; no extra is there."""
    oldest = dict(pin.split("==") for pin in lowest_versions())
    environment = Environment(tmp_path)
    environment.install(
        str(wheel), constraints=[f"{name}=={oldest[name]}" for name in FOUR if bound == "lowest"]
    )

    environment.use("plain")
    installed = environment.installed
    at_the_lowest = [name for name in FOUR if same(installed[name], oldest[name])]
    assert at_the_lowest == (list(FOUR) if bound == "lowest" else [])


def same(one: str, other: str) -> bool:
    """Whether two versions are the same, as 24.1 and 24.1.0 are."""
    from packaging.version import Version

    return Version(one) == Version(other)


def test_an_sdist_brings_what_its_own_tests_need(sdist: Path, tmp_path: Path) -> None:
    """Whoever packages it can run them: there is no repository around it, only what is in it."""
    environment = Environment(tmp_path / "environment")
    environment.install("--group", f"{sdist / 'pyproject.toml'}:test", str(sdist))
    python = str(environment.python)

    collected = run(python, "-m", "pytest", "--co", "-q", cwd=sdist)
    assert "error" not in collected.splitlines()[-1]
    said = run(python, "-m", "pytest", "-q", "tests/project", "tests/engine", cwd=sdist)
    assert " passed" in said
    assert " failed" not in said
