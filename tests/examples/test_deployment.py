"""What the manifests of the storefront name is really served, and fits together."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from contract import DRAIN
from tests.examples.deployed import (
    CONTAINER,
    DEPLOY,
    DEPLOYMENT,
    POD,
    PORTS,
    PROBES,
    ROOT,
    STOREFRONT,
    VALUES,
    Pod,
    loaded,
)
from tests.servers import require_program

KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/storefront.json").read_text(encoding="utf-8"))
QUESTIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


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


def test_each_manifest_that_a_deployment_needs_is_there() -> None:
    """None is missing: pods, their service, budget, bounds, monitoring and network."""
    kinds = {
        manifest["kind"]
        for path in KUBERNETES
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    }
    assert kinds == {
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "ServiceMonitor",
        "NetworkPolicy",
    }


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
    network = loaded("kubernetes/network.yaml")["spec"]
    assert network["podSelector"]["matchLabels"] == labels
    let_in = {one["ports"][0]["port"]: one.get("from") for one in network["ingress"]}
    assert set(let_in) == set(PORTS)
    assert let_in["http"] is None  # from everywhere
    assert let_in["ops"]  # from where Prometheus is
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
    [asked] = [line for line in lines if "urlopen" in line]  # of HEALTHCHECK
    assert f"http://127.0.0.1:{PORTS['ops']}{PROBES['readiness']['path']}" in asked
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
