"""The storefront as its manifests have it: their environment, their probes."""

from __future__ import annotations

import http.client
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from tests.servers import PATIENCE, Server, free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
STOREFRONT = ROOT / "examples" / "storefront"
DEPLOY = STOREFRONT / "deploy"
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
        assert eventually(lambda: self.probed(kind) == status)

    def end(self) -> int:
        """Tell it to end, and return how it did."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)
