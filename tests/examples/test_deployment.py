"""What the manifests of the storefront name is really served, and fits together."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from contract import DRAIN
from tests.servers import PATIENCE, Server, free_port, require_program

ROOT = Path(__file__).parents[2]
STOREFRONT = ROOT / "examples" / "storefront"
DEPLOY = STOREFRONT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UPSTREAMS = ("RECOMMENDATIONS", "AUTH", "PAYMENTS")


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


DEPLOYMENT = loaded("kubernetes/deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
VALUES = {one["name"]: one["value"] for one in CONTAINER["env"] if "value" in one}
PROBES = {
    kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
}
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/storefront.json").read_text(encoding="utf-8"))
QUESTIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


class Pod(Server):
    """The storefront with the environment of the manifest, on two free ports of this machine.

    Nobody listens where its upstreams should be: what holds then does not depend on them.
    """

    name = "storefront"
    ready = "unning on "

    def __init__(self, folder: Path, program: Path = STOREFRONT) -> None:
        super().__init__()
        self._program = program
        self.ops_port = free_port()
        self.environment = VALUES | {f"{one}_URL": "http://127.0.0.1:9" for one in UPSTREAMS}
        self.environment |= {"HOST": self.host, "OUTBOX": str(folder / f"{self.port}.db")}
        self.environment |= {"PAYMENTS_TOKEN": "from the secret"}
        self.environment |= {"PORT": str(self.port), "OPS_PORT": str(self.ops_port)}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        return [sys.executable, str(self._program / "storefront_service.py")]

    def ask(self, port: str, path: str) -> tuple[int, str]:
        """Return status and text of an answer, from the port that the manifest calls so."""
        number = {"http": self.port, "ops": self.ops_port}[port]
        with closing(http.client.HTTPConnection(self.host, number, timeout=PATIENCE)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def probed(self, kind: str) -> int:
        """Return what Kubernetes would get."""
        return self.ask(PROBES[kind]["port"], PROBES[kind]["path"])[0]

    def wait_until_probed(self, kind: str, status: int) -> None:
        eventually(lambda: self.probed(kind) == status)

    def end(self) -> int:
        """Tell it to end, and return how it did."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)


def eventually(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pod]:
    """The storefront, ready for traffic."""
    with Pod(tmp_path_factory.mktemp("good")) as pod:
        pod.wait_until_probed("readiness", 200)
        yield pod


# The manifests


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_a_manifest_is_what_kubernetes_takes(path: Path) -> None:
    """Each is valid by the strict schemas; of the one for Prometheus's operator, by its fields."""
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if manifest["kind"] == "ServiceMonitor":  # a definition of its own, without a schema here
            assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
            assert {"selector", "endpoints"} == set(manifest["spec"])
        else:
            kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_no_pod_is_taken_away_before_another_one_is_ready() -> None:
    """A rollout adds before it removes, is reported when it stalls, and may be undone."""
    spec = DEPLOYMENT["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    startup = CONTAINER["startupProbe"]
    longest_start = startup["periodSeconds"] * startup["failureThreshold"]
    assert spec["progressDeadlineSeconds"] > longest_start + spec["minReadySeconds"]
    assert spec["revisionHistoryLimit"] > 0


def test_the_end_of_a_process_fits_into_the_grace_period() -> None:
    """Waiting for load balancers, requests and the outbox takes less than until SIGKILL."""
    command = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    needed = float(command[1]) + sum(DRAIN.values())
    assert needed + 5 <= POD["terminationGracePeriodSeconds"]
    [grace] = re.findall(
        r"^(\d+)s$", loaded("compose.yaml")["services"]["storefront"]["stop_grace_period"]
    )
    assert sum(DRAIN.values()) + 5 <= int(grace)


def test_all_manifests_are_about_the_same_pods() -> None:
    """Selectors, names and ports that one manifest takes from another are there."""
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    service, monitor = loaded("kubernetes/service.yaml"), loaded("kubernetes/monitoring.yaml")
    budget, scaling = loaded("kubernetes/disruption.yaml"), loaded("kubernetes/autoscaling.yaml")
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert scaling["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(PORTS)
    assert {one["port"] for one in monitor["spec"]["endpoints"]} <= {
        port["name"] for port in service["spec"]["ports"]
    }
    assert {probe["port"] for probe in PROBES.values()} <= set(PORTS)
    assert (VALUES["PORT"], VALUES["OPS_PORT"]) == (str(PORTS["http"]), str(PORTS["ops"]))


def test_capacity_has_bounds() -> None:
    """CPU and memory are asked for and limited, and there are neither one pod nor any number."""
    assert set(CONTAINER["resources"]["requests"]) >= {"cpu", "memory"}
    assert set(CONTAINER["resources"]["limits"]) >= {"cpu", "memory"}
    scaling = loaded("kubernetes/autoscaling.yaml")["spec"]
    assert 2 <= scaling["minReplicas"] < scaling["maxReplicas"]
    assert loaded("kubernetes/disruption.yaml")["spec"]["maxUnavailable"] < scaling["minReplicas"]


def test_secrets_are_only_referred_to() -> None:
    """What is called a token or a password is in no file."""
    named = {one["name"]: one for one in CONTAINER["env"]}
    secret = {name for name in named if re.search("TOKEN|PASSWORD|KEY|SECRET", name)}
    assert secret == {"PAYMENTS_TOKEN"}
    assert all("secretKeyRef" in named[name]["valueFrom"] for name in secret)
    composed = loaded("compose.yaml")["services"].values()
    said = {name: value for one in composed for name, value in one.get("environment", {}).items()}
    secret = {name for name in said if re.search("TOKEN|PASSWORD|KEY|SECRET", name)}
    assert secret == {"PAYMENTS_TOKEN", "GF_SECURITY_ADMIN_PASSWORD"}
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]*\}", said[name]) for name in secret)


def test_nothing_runs_as_root() -> None:
    """Neither by the manifest nor by the image, and what is copied into that is there."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert CONTAINER["securityContext"]["allowPrivilegeEscalation"] is False
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("FROM ") for line in lines) == 2
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    security = POD["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    [exposed] = [line.split()[1:] for line in lines if line.startswith("EXPOSE ")]
    assert exposed == [str(port) for port in PORTS.values()]
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--" not in line]
    assert all(list(ROOT.glob(source)) for source in itertools.chain(*copied))
    assert (STOREFRONT / "storefront_service.py").is_file()
    assert any(line.startswith("ENTRYPOINT") and "storefront_service.py" in line for line in lines)


def test_what_compose_mounts_is_there() -> None:
    """Prometheus, the data source and the dashboard are found where they are looked for."""
    services = loaded("compose.yaml")["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists()
    [scrape] = loaded("prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == [f"storefront:{PORTS['ops']}"]
    [source] = loaded("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    [provider] = loaded("grafana/provisioning/dashboards/storefront.yaml")["providers"]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def test_prometheus_takes_its_settings_and_the_questions_of_the_dashboard(tmp_path: Path) -> None:
    """Both are read by Prometheus's own tool."""
    promtool = require_program("promtool")
    rules = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(QUESTIONS)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}))
    for kind, path in {
        "config": DEPLOY / "prometheus.yml",
        "rules": tmp_path / "rules.yml",
    }.items():
        subprocess.run([promtool, "check", kind, str(path)], check=True, timeout=30)


# What they name


def test_every_probe_and_page_that_is_named_is_served(good: Pod) -> None:
    """The started storefront answers 200 to each probe, on the port that the manifest says."""
    assert {kind: good.probed(kind) for kind in PROBES} == dict.fromkeys(PROBES, 200)
    for endpoint in loaded("kubernetes/monitoring.yaml")["spec"]["endpoints"]:
        assert good.ask(endpoint["port"], endpoint["path"])[0] == 200
    [scrape] = loaded("prometheus.yml")["scrape_configs"]
    assert good.ask("ops", scrape["metrics_path"])[0] == 200
    assert good.ask("http", "/product/42")[0] == 200
    assert good.ask("http", PROBES["readiness"]["path"])[0] == 404  # not where visitors are


def test_every_metric_of_the_dashboard_is_served(good: Pod) -> None:
    """The names that panels ask for are on the page of a process that has just started."""
    asked = set(re.findall(r"resilient_\w+", " ".join(QUESTIONS)))
    assert asked <= set(re.findall(r"^resilient_\w+", good.ask("ops", "/metrics")[1], re.MULTILINE))
    assert len(asked) >= 6


def test_a_process_that_is_told_to_end_does_so_within_the_grace_period(tmp_path: Path) -> None:
    """It ends with status 0, long before it would be killed."""
    with Pod(tmp_path) as pod:
        began = time.monotonic()
        assert pod.end() == 0
        assert time.monotonic() - began < POD["terminationGracePeriodSeconds"]


def test_traffic_never_reaches_a_version_that_cannot_make_its_page(
    good: Pod, tmp_path: Path
) -> None:
    """Its readiness stays red though it is alive, so that who asks for that goes to the good one.

    That the old version is still there, and goes on, is all that a rollout does by itself.
    """
    folder = tmp_path / "bad"
    shutil.copytree(STOREFRONT, folder, ignore=shutil.ignore_patterns("__pycache__", "deploy"))
    text = (folder / "storefront.py").read_text(encoding="utf-8")
    (folder / "storefront.py").write_text(text.replace("visitor.price_cents,", "visitor.price,"))
    with Pod(tmp_path, folder) as bad:
        eventually(lambda: "AttributeError" in bad.ask("ops", "/health/ready")[1])
        assert bad.ask("http", "/product/1")[0] == 500
        pods, answers = itertools.cycle([good, bad]), list[tuple[Pod, int]]()
        for _ in range(20):
            ready = next(pod for pod in pods if pod.probed("readiness") == 200)
            answers.append((ready, ready.ask("http", "/product/1")[0]))
        assert answers == [(good, 200)] * 20
        assert bad.probed("readiness") == 503
        assert bad.probed("liveness") == 200  # a restart would not mend it
