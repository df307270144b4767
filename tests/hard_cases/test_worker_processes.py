"""Hard case 43: metrics of several processes on one page, with prometheus-client's files."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families as parse

from resilient.engine.isolation import broken
from resilient.integrations.gunicorn import child_exit
from tests.doubles import each
from tests.servers import PATIENCE, GunicornServer, UvicornServer
from tests.waiting import eventually

INTERVAL = 0.1
PRELOAD = {"forked, then loaded": (), "loaded, then forked": ("--preload",)}
APPLICATION = "tests.hard_cases.counting_application:app"
CALLS = ("resilient_calls_total", "upstream", "success")


def workers(folder: Path, *options: str, every: float = INTERVAL, **more: str) -> GunicornServer:
    """Return gunicorn with the application that counts, and its files in `folder`."""
    pytest.importorskip("gunicorn")
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PUBLISH_EVERY": str(every)}
    return GunicornServer(APPLICATION, *options, **settings, **more)


def samples(page: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a page by their names and the values of their labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(page)
        for sample in family.samples
    }


def left_behind(folder: Path) -> dict[tuple[str, ...], float]:
    """Return what prometheus-client by itself makes of the files, when nobody runs any more."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def written(folder: Path) -> float:
    """Return the calls that are in the files now, with nobody asked for a page."""
    with suppress(struct.error, FileNotFoundError, KeyError):  # one is being made
        return left_behind(folder)[CALLS]
    return 0


@each("options", PRELOAD)
def test_counts_of_four_workers_add_up_after_a_graceful_stop(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Every call is in the sum once, also those before the fork, however rarely it is written."""
    warm_up = 7
    with workers(tmp_path, *options, every=600, WARM_UP=str(warm_up)) as server:
        pids = {server.get("/") for _ in range(100)}
        page = samples(server.get("/metrics"))
    loads = 1 if options else server.workers
    seen = left_behind(tmp_path)
    assert seen[CALLS] == 100 + loads * warm_up
    assert seen["resilient_call_duration_seconds_count", "upstream"] == 100 + loads * warm_up
    assert seen["resilient_attempts_total", "upstream"] == 100 + loads * warm_up
    assert seen["requests_total",] == 100
    assert 0 < page[CALLS] <= seen[CALLS]
    assert pids


def test_counts_of_workers_that_end_by_a_signal_add_up(tmp_path: Path) -> None:
    """Uvicorn runs nothing when a process ends; the end of the lifespan before it will do."""
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PUBLISH_EVERY": "600"}
    application = "tests.hard_cases.counting_asgi_application:app"
    with UvicornServer(application, **settings) as server:
        for _ in range(50):
            server.get("/")
    assert left_behind(tmp_path)[CALLS] == 50


@each("options", PRELOAD)
def test_an_open_circuit_in_one_worker_shows(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The gauge of each state is the number of workers in it; a parent that only forks is none."""
    with workers(tmp_path, *options) as server:
        server.get("/fail")

        def states() -> list[float]:
            page = samples(server.get("/metrics"))
            name = "resilient_circuit_state", "upstream"
            return [page.get((*name, state), -1) for state in ("closed", "open", "half-open")]

        assert eventually(lambda: states() == [3, 1, 0])
        time.sleep(2 * INTERVAL)
        assert states() == [3, 1, 0]


@each("options", PRELOAD)
def test_a_killed_worker_loses_one_interval_at_the_most(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """What was counted an interval before SIGKILL is there, and no call is there twice."""
    with workers(tmp_path, *options) as server:
        pids = {int(server.get("/")) for _ in range(60)}
        assert eventually(lambda: written(tmp_path) == 60)
        pids |= {int(server.get("/")) for _ in range(20)}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: int(server.get("/")) not in pids)
        page = samples(server.get("/metrics"))
        assert 60 <= page[CALLS] - 1 <= 80
        assert eventually(lambda: samples(server.get("/metrics"))[CALLS] >= 61)


def test_workers_that_come_and_go_leave_no_files_behind(tmp_path: Path) -> None:
    """After each of several reloads there are as few files as before, and the sum is exact."""
    with workers(tmp_path, "--preload") as server:  # so that new ones are there at once
        sizes: list[int] = []
        for number in (1, 2):
            pids = {server.get("/") for _ in range(20)}
            server.reload()
            assert eventually(lambda pids=pids: not any(map(is_running, pids)))  # type: ignore[misc]
            page = samples(server.get("/metrics"))
            assert page[CALLS] == 20 * number
            assert page["requests_total",] == 20 * number
            assert eventually(lambda: sum(states(server)) == server.workers)
            sizes.append(len(list(tmp_path.iterdir())))
        assert sizes[-1] <= sizes[0]


def test_the_hook_of_gunicorn_forgets_a_worker_at_once(tmp_path: Path) -> None:
    """Without any scrape, the files of a killed worker are gone, and its counts are kept."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text("from resilient.integrations.gunicorn import child_exit\n")
    with workers(folder, "--preload", f"--config={settings}") as server:
        pid = int(server.get("/"))
        assert eventually(
            lambda: Path(folder, f"gauge_livesum_{pid}.db").exists() and written(folder) == 1
        )
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not list(folder.glob(f"*_{pid}.db")))
        assert eventually(lambda: Path(folder, "histogram_ended.db").exists())
    assert left_behind(folder)[CALLS] == 1


def test_the_hook_of_gunicorn_does_nothing_where_workers_share_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration file may name it in any case."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    before = dict(broken)
    child_exit(None, SimpleNamespace(pid=os.getpid()))
    assert dict(broken) == before
    assert [*tmp_path.iterdir()] == []


def run(program: str, folder: Path) -> str:
    """Run a program that complains of nothing, with its files in `folder`; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    return done.stdout


FORKS = """
import multiprocessing, os
from resilient import circuit_breaker, register_metrics
from resilient.engine.reported import Reading, Reported

class Part(Reported):
    sent = 0
    def readings(self):
        return [Reading("part_sent", "Sent", "counter", {}, self.sent)]

part = Part()
part.report()
register_metrics(publish_every=600)
ask = circuit_breaker("upstream", fail_max=9)(lambda: "answer")

def work(calls):
    for _ in range(calls):
        ask()
        part.sent += 1

if __name__ == "__main__":
    work(500)
    forking = multiprocessing.get_context("fork")
    children = [forking.Process(target=work, args=(calls,)) for calls in (10, 1000)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    work(3)
    if os.fork():
        os.wait()
"""


def test_forked_children_count_only_what_is_their_own(tmp_path: Path) -> None:
    """Children of multiprocessing and of os.fork begin at zero, and end with all written."""
    run(FORKS, tmp_path)
    seen = left_behind(tmp_path)
    assert seen[CALLS] == 1513
    assert seen["resilient_call_duration_seconds_count", "upstream"] == 1513
    assert seen["resilient_part_sent_total",] == 1513


GONE = """
import gc, os
from resilient import circuit_breaker, register_metrics
from resilient.engine.reported import Reading, Reported
from resilient.telemetry.metrics import exposition

class Table(Reported):
    def readings(self):
        return [Reading("rows", "Rows", "gauge", {}, 17, across="max")]

class Check(Reported):
    def readings(self):
        return [Reading("check", "Passes", "gauge", {}, 1, across="min")]

table, check = Table(), Check()
table.report()
check.report()
register_metrics(publish_every=600)

def show():
    print(exposition()[0].decode(), end="# END\\n", flush=True)

ask = circuit_breaker("upstream", fail_max=9)(lambda: "answer")
ask()
show()
del ask
gc.collect()
show()
ask = circuit_breaker("upstream", fail_max=9)(lambda: "answer")
ask()
show()
if os.fork():
    os.wait()
else:
    ask()
    exposition()
    del check
    show()
"""


def test_what_is_gone_counts_on_and_has_no_state(tmp_path: Path) -> None:
    """A dependency that comes back adds to what was counted; what all processes share is one."""
    pages = [samples(page) for page in run(GONE, tmp_path).split("# END\n") if page]
    assert [page[CALLS] for page in pages] == [1, 1, 2, 3]
    closed = "resilient_circuit_state", "upstream", "closed"
    assert [page[closed] for page in pages] == [1, 0, 1, 2]
    assert [page["resilient_rows",] for page in pages] == [17] * 4
    assert [page["resilient_check",] for page in pages] == [1] * 4


BESIDE = """
import os, threading
from resilient import circuit_breaker, register_metrics
from resilient.engine.reported import Reading, Reported
from resilient.telemetry.metrics import exposition

class Nosy(Reported):
    def readings(self):
        exposition()  # comes back to the one who asks
        return [Reading("nosy", "Asked", "gauge", {}, 1)]

nosy, too = Nosy(), Nosy()
nosy.report()
too.report()
register_metrics(publish_every=0.01)
ask = circuit_breaker("upstream", fail_max=9)(lambda: "answer")

def call():
    for _ in range(500):
        ask()

callers = [threading.Thread(target=call) for _ in range(4)]
for caller in callers:
    caller.start()
pages = [exposition()[0].decode() for _ in range(20)]
for _ in range(10):
    if os.fork() == 0:
        ask()
        exposition()
        os._exit(0)
    os.wait()
for caller in callers:
    caller.join()
pages.append(exposition()[0].decode())
print("# END\\n".join(pages))
"""


def test_pages_forks_and_calls_at_the_same_time_agree(tmp_path: Path) -> None:
    """Sums never fall, and are exact in the end, whoever writes, reads and forks meanwhile."""
    pages = [samples(page) for page in run(BESIDE, tmp_path).split("# END\n")]
    counts = [page[CALLS] for page in pages]
    assert counts == sorted(counts)
    assert counts[-1] == 4 * 500 + 10
    assert pages[-1]["resilient_nosy",] == 2


def test_a_page_can_be_read_where_nothing_can_be_locked(tmp_path: Path) -> None:
    """A directory that this process may only read is read, without forgetting who has ended."""
    Path(tmp_path, "resilient.lock").mkdir()
    program = """
from resilient import circuit_breaker, register_metrics
from resilient.telemetry.metrics import exposition
register_metrics()
upstream = circuit_breaker("upstream", fail_max=9)
upstream.call(lambda: "answer")
print(exposition()[0].decode())
"""
    pages = [samples(run(program, tmp_path)) for _ in range(2)]
    assert [page[CALLS] for page in pages] == [1, 2]


KILLED_WHILE_FORGETTING = """
import os
from pathlib import Path
from resilient import circuit_breaker, register_metrics
from resilient.telemetry.ended import forget
from resilient.telemetry.metrics import exposition

register_metrics(publish_every=600)
ask = circuit_breaker("upstream", fail_max=9)(lambda: "answer")

def in_a_child(function):
    child = os.fork()
    if not child:
        function()
        os._exit(0)
    os.waitpid(child, 0)
    return child

def work():
    ask()
    exposition()

def killed_at(step, suffix):
    done = getattr(Path, step)

    def be_killed(self, *args, **kwargs):
        if self.suffix == suffix:
            os._exit(9)
        return done(self, *args, **kwargs)

    setattr(Path, step, be_killed)

ask()
for _ in range(2):  # the first that has ended, and one after it
    ended = in_a_child(work)
    def be_killed():
        killed_at(STEP)
        forget(ended, os.environ["PROMETHEUS_MULTIPROC_DIR"])
    in_a_child(be_killed)
    print(exposition()[0].decode(), end="# END\\n")
left = sorted(file.name for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).iterdir())
assert not any(str(ended) in name or name.endswith(".sum") for name in left), left
"""


@each(
    "step, suffix",
    {
        "before the sum is there": ("replace", ".draft"),
        "before its part is gone": ("unlink", ".db"),
        "before it is in its place": ("replace", ".sum"),
    },
)
def test_who_is_killed_while_it_forgets_another_loses_no_count(
    tmp_path: Path, step: str, suffix: str
) -> None:
    """The next page carries on: what the ended worker has counted is in the sum, once."""
    program = KILLED_WHILE_FORGETTING.replace("STEP", f"{step!r}, {suffix!r}")
    pages = [samples(page) for page in run(program, tmp_path).split("# END\n") if page]
    assert [page[CALLS] for page in pages] == [2, 3]


def is_running(pid: str) -> bool:
    return Path("/proc", pid).exists()


def states(server: GunicornServer) -> list[float]:
    """Return how many workers have their circuit in each state."""
    page = samples(server.get("/metrics"))
    return [value for (name, *_), value in page.items() if name == "resilient_circuit_state"]
