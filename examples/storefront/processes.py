"""The four processes as the demo sees them: started, killed, frozen, and gone at the end."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from child import shared_socket

HERE = Path(__file__).parent
START_LIMIT_SECONDS = 30.0


class StartError(Exception):
    """A process of the demo ended before it was ready; what it said is on stderr."""


class Process:
    """One child process, on a port that stays its own for as long as the demo runs.

    The demo keeps the port bound without listening. Nobody else can take it while the child is
    dead, and whoever connects then is refused at once, as with any service that is gone.
    """

    def __init__(
        self,
        name: str,
        script: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self.name = name
        self.announced: dict[str, Any] = {}
        self._reserved = shared_socket(0)
        self.port: int = self._reserved.getsockname()[1]
        self._command = [sys.executable, str(HERE / script), *arguments, str(self.port)]
        self._environment = environment
        self._on_line = on_line
        self._child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running.pid

    async def start(self) -> None:
        """Start it, and return when it accepts connections."""
        # In a session of its own: Ctrl-C is for the demo, which then ends its children itself.
        self._child = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        async with asyncio.timeout(START_LIMIT_SECONDS):
            first_line = await self._child.stdout.readline()
        if not first_line:
            status = await self._child.wait()
            raise StartError(f"{self.name} ended at once, with status {status}")
        self.announced = json.loads(first_line)["ready"]
        self._reader = asyncio.create_task(self._follow(self._child.stdout))

    async def kill(self) -> None:
        """End it with SIGKILL; fine when it is frozen, ended already or never started."""
        if self._child is None:
            return
        if self._child.returncode is None:
            self._child.kill()
        await self._child.wait()
        if self._reader is not None:
            await self._reader

    async def end(self) -> None:
        """End it for good, and give its port back."""
        await self.kill()
        self._reserved.close()

    async def freeze(self) -> None:
        """Stop it where it stands: its port still accepts connections, nobody answers."""
        self._running.send_signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let it go on where it stood."""
        self._running.send_signal(signal.SIGCONT)

    async def tell(self, **message: float) -> None:
        """Send it a message on its stdin."""
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps(message).encode() + b"\n")
        await self._running.stdin.drain()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            raise RuntimeError(f"{self.name} is not running")
        return self._child

    async def _follow(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            try:
                message = json.loads(line)
            except ValueError:
                print(line.decode(errors="replace"), end="", file=sys.stderr)
            else:
                self._on_line(message)
