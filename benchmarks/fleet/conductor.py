"""Runs a fleet over a real server and the mock, both in processes of their own, and hurts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet.figures import Figures, Run
from benchmarks.fleet.order import Order
from tests.stores.redis_kit import TestServer, serving

from quotafleet.testing import MockSettings, serve_process

ROOT: Final = Path(__file__).parents[2]
#: What a client sends; what scripts call in the server isn't a command of anybody's.
_SENT: Final = frozenset({"eval", "evalsha", "subscribe", "unsubscribe", "ping", "hello"})


class Worker:
    """One process of the fleet."""

    def __init__(self, order: Order, *urls: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fleet.worker", order.text(), *urls],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Return its next line; ``""`` = it has ended."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def begin(self) -> None:
        """Give the word."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self) -> None:
        """Kill it, if it is still there."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()


class Store:
    """The fleet's server, with a count of what clients sent that outlives a restart."""

    def __init__(self, server: TestServer) -> None:
        self._server = server
        self._before: Counter[str] = Counter()

    def commands(self) -> Counter[str]:
        """Return how often clients sent each command."""
        with self._server.client() as client:
            stats = client.info("commandstats")
        sent = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
        return self._before + Counter({n: c for n, c in sent.items() if n in _SENT})

    def leave(self, by: str) -> None:
        """Let it be away from now on."""
        self._before = self.commands()
        assert self._server.process is not None
        if by == "stop":
            self._server.process.send_signal(signal.SIGSTOP)
            return
        if by == "restart":
            with self._server.client() as client:
                client.save()
        self._server.stop()

    def come_back(self, by: str) -> None:
        """Let it be there again."""
        if by == "stop":
            assert self._server.process is not None
            self._server.process.send_signal(signal.SIGCONT)
            self._before.clear()
            return
        dump = self._server.folder / "dump.rdb"
        if by == "empty":
            dump.unlink(missing_ok=True)
        self._server.start()


def run(order: Order) -> Figures:
    """Run a fleet; return how it went.

    Raises:
        RuntimeError: a process ended without a word.
    """
    settings = MockSettings(ttft_s=order.latency, ramp_base_tokens=None)
    with serving() as server, serve_process(order.fleet(), settings) as provider:
        workers = [Worker(order, server.url, provider.base_url) for _ in range(order.processes)]
        try:
            for worker in workers:
                if worker.line() != "ready":
                    raise RuntimeError("a process didn't become ready")
            provider.reset()
            began = time.monotonic()
            for worker in workers:
                worker.begin()
            store = Store(server)
            killed = _hurt(order, workers, store, began)
            reports = [_report(worker) for worker in workers if worker not in killed]
            state: Any = provider.state()
            commands = store.commands()
        finally:
            for worker in workers:
                worker.end()
    return Figures(Run(order=order, reports=reports, state=state, commands=commands))


def _report(worker: Worker) -> dict[str, Any]:
    line = worker.line()
    if not line:
        raise RuntimeError("a process ended without a word")
    return json.loads(line)  # type: ignore[no-any-return]


def _hurt(order: Order, workers: list[Worker], store: Store, began: float) -> list[Worker]:
    """Do at their instants what the order says; return the processes that were killed."""
    killed = workers[: order.kill]
    acts = []
    if order.kill:
        acts.append((order.seconds / 2, lambda: [one.popen.kill() for one in killed]))
    if order.away:
        first = order.seconds / 3
        acts.append((first, lambda: store.leave(order.by)))
        acts.append((first + order.away, lambda: store.come_back(order.by)))
    for at, act in sorted(acts, key=lambda one: one[0]):
        time.sleep(max(0.0, began + at - time.monotonic()))
        act()
    return killed
