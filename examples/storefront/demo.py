"""A storefront stays up while its upstreams are killed, frozen, failing and slow.

Run as `python examples/storefront/demo.py`. The exit status is 0 when every promise was kept,
1 when one was broken, 2 when a process did not start, and 128 plus the signal's number when the
demo was interrupted.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

import picture
import report
from faults import PLAN, Fault
from load import drive
from processes import Process, StartError
from story import Event, Outage, Run
from verdict import exit_status, verdict

UPSTREAMS = ("recommendations", "auth", "payments")
WARM_UP_SECONDS = 2.0
CALM_SECONDS = 1.0
PATIENCE_SECONDS = 6.0


class Demo:
    """The storefront, its upstreams, and what is seen of them."""

    def __init__(self) -> None:
        self.run = Run()
        self.judged = False
        self.narrator = report.Narrator()
        self.folder = TemporaryDirectory(prefix="storefront-")
        self.upstreams = {name: Process(name, "upstreams.py", name) for name in UPSTREAMS}
        self.storefront = Process(
            "storefront",
            "storefront_process.py",
            environment=os.environ
            | {"OUTBOX": f"{self.folder.name}/outbox.db"}
            | {f"{name.upper()}_URL": process.url for name, process in self.upstreams.items()},
            on_line=self.hear,
        )

    @property
    def processes(self) -> list[Process]:
        return [*self.upstreams.values(), self.storefront]

    @property
    def ops_url(self) -> str:
        return f"http://127.0.0.1:{self.storefront.announced['ops_port']}"

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[None]:
        """All four processes, running; none is left however this ends."""
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    for process in self.processes:
                        group.create_task(process.start())
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None  # the others were cancelled by it
            yield
        finally:
            await asyncio.gather(*(process.end() for process in self.processes))
            self.folder.cleanup()

    def hear(self, line: dict[str, Any]) -> None:
        """Note an event that the storefront wrote."""
        event = Event(line["at"], line["event"], line.get("dependency", ""), line)
        if not self.judged:
            self.run.events.append(event)
        self.narrator.hears(event)

    async def carry_out(self, faults: tuple[Fault, ...], lasting: float) -> None:
        """Break one upstream after the other under load, and watch each until it is whole."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(drive(self.storefront.url, self.run.answers.append, stopping))
            await asyncio.sleep(WARM_UP_SECONDS)
            for fault in faults:
                outage = await self.break_and_mend(fault, lasting)
                self.run.outages.append(outage)
                self.narrator.concludes(outage, self.run)
            stopping.set()
        self.run.ledger = await self.ledger()
        self.run.counted_degraded = await self.counted_degraded()

    async def break_and_mend(self, fault: Fault, lasting: float) -> Outage:
        process = self.upstreams[fault.upstream]
        self.narrator.breaks(fault)
        began = time.monotonic()
        await fault.kind.begin(process)
        await asyncio.sleep(lasting)
        await fault.kind.end(process)
        returned = time.monotonic()
        self.narrator.mends(fault)
        while (now := time.monotonic()) < returned + PATIENCE_SECONDS:
            calm_since = now - CALM_SECONDS
            if calm_since >= returned and self.run.is_whole(fault.upstream, calm_since, now):
                break
            await asyncio.sleep(0.05)
        return Outage(fault.upstream, fault.kind.began, began, returned, now)

    async def ledger(self) -> Counter[str]:
        """How often each order was charged, once all that have a receipt are or might be."""
        paid = {answer.order for answer in self.run.answers if answer.status in (200, 202)} - {None}
        patience = time.monotonic() + PATIENCE_SECONDS
        async with httpx.AsyncClient(base_url=self.upstreams["payments"].url) as http:
            while True:
                booked = Counter[str]((await http.get("/ledger")).json())
                if paid <= set(booked) or time.monotonic() > patience:
                    return booked
                await asyncio.sleep(0.1)

    async def counted_degraded(self) -> dict[str, int]:
        """How many degraded calls the library counted, by dependency."""
        async with httpx.AsyncClient(base_url=self.ops_url) as http:
            metrics = (await http.get("/metrics")).text
        counted: Counter[str] = Counter()
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                labels = sample.labels
                if sample.name == "resilient_calls_total" and labels["outcome"] == "degraded":
                    counted[labels["dependency"]] += int(sample.value)
        return counted

    async def serve_on(self) -> None:
        """Keep everything running, for people to look at and to break, until interrupted."""
        self.judged = True  # from here on events are told, not kept: this may go on for days
        print(f"""
It goes on, with load, until Ctrl-C. To look at:
  a page            {self.storefront.url}/product/42
  a payment         curl -X POST {self.storefront.url}/pay/order-1
  metrics           {self.ops_url}/metrics
  health            {self.ops_url}/health/ready
To break it yourself, and to mend it:""")
        for name, process in self.upstreams.items():
            print(f"  {name:<16}  kill -STOP {process.pid}; sleep 10; kill -CONT {process.pid}")
        sys.stdout.flush()
        await drive(self.storefront.url, lambda answer: None, asyncio.Event(), clients=2)


async def main(options: argparse.Namespace) -> int:
    demo = Demo()
    async with demo.started():
        demo.narrator.say(f"four processes are up, the storefront at {demo.storefront.url}")
        await demo.carry_out(PLAN[: options.faults], options.seconds_per_fault)
        promises = verdict(demo.run)
        print(report.of(demo.run, promises), flush=True)
        if options.picture is not None:
            picture.write(demo.run, options.picture)
        if options.serve:
            with suppress(asyncio.CancelledError):  # Ctrl-C is how this is meant to end
                await demo.serve_on()
    return exit_status(promises)


async def interruptible(options: argparse.Namespace) -> int:
    """Run `main`; a signal cancels it, so that no process is left behind."""
    task = asyncio.create_task(main(options))
    caught: list[int] = []

    def interrupt(number: int) -> None:
        if not caught:  # once: a second Ctrl-C must not stop the cleaning up
            task.cancel()
        caught.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    try:
        return await task
    except asyncio.CancelledError:
        return 128 + caught[0]
    except StartError as failed:
        print(failed, file=sys.stderr)
        return 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break a storefront's upstreams under load.")
    parser.add_argument("--serve", action="store_true", help="keep it running until Ctrl-C")
    parser.add_argument("--seconds-per-fault", type=float, default=7.0, metavar="SECONDS")
    parser.add_argument("--faults", type=int, choices=range(1, len(PLAN) + 1), default=len(PLAN))
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the run as an SVG")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(interruptible(arguments())))
