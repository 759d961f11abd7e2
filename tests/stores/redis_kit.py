"""Servers for tests: real ones, on free ports, with a folder of their own, stopped afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import pytest
import redis

from quotafleet._core.quota.reservations import Claim, ClaimAnswer
from quotafleet.stores.redis import RedisStore

#: What servers tests are run over, each where it is installed.
ENGINES = ("redis-server", "valkey-server")
#: The one that `serving` starts: the first that is there, unless a test says which.
_chosen: list[str] = []


def binary() -> str | None:
    """Return the path of the server that is started."""
    names = _chosen[-1:] or ENGINES
    return next((path for path in map(shutil.which, names) if path is not None), None)


@contextmanager
def chosen(engine: str) -> Iterator[None]:
    """Start this one meanwhile; skip where it is not installed. Either of them is enough."""
    if shutil.which(engine) is None and any(map(shutil.which, ENGINES)):
        pytest.skip(f"no {engine} on PATH")
    _chosen.append(engine)
    try:
        yield
    finally:
        _chosen.pop()


def needs_server() -> None:
    """Skip where no server is installed; where tests must be whole, fail."""
    if binary() is None:
        if os.environ.get("CI"):
            pytest.fail("no redis-server or valkey-server on PATH: CI needs one")
        pytest.skip("no redis-server or valkey-server on PATH")


def free_port() -> int:
    """Return a port that is free, and 10,000 above the one that nodes of a cluster talk on."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


class TestServer:
    """A server that can be stopped, killed and started again on its port."""

    __test__ = False

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        path = binary()
        assert path is not None
        command = [path, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "no", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None, "the server ended at once"
            assert monotonic() < until, "the server doesn't answer"
            sleep(0.02)

    def answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except (redis.exceptions.RedisError, OSError):
            return False
        return True

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def serving(*options: str) -> Iterator[TestServer]:
    needs_server()
    with TemporaryDirectory() as folder:
        server = TestServer(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def together(store: RedisStore, claims: Sequence[Claim]) -> list[ClaimAnswer]:
    """Let claims go to the server in one step, and on in as few as they need."""
    talks = [store._claims.talk(claim) for claim in claims]
    asks = {number: next(talk) for number, talk in enumerate(talks)}
    answers: dict[int, ClaimAnswer] = {}
    while asks:
        riders = {number: store._rounds.join(ask) for number, ask in asks.items()}
        leader = next(iter(riders.values()))
        departure = store._rounds.leave(leader)
        assert departure.riders == list(riders.values()), "all of them, in their order"
        sent = store._rounds.step(departure)
        answer = store._server.turn(sent.keys, sent.text, sent.sent_at)
        store._books.tell(store._rounds.arrived(departure, sent, answer))
        asks = {}
        for number, rider in riders.items():
            try:
                asks[number] = talks[number].send(rider.result())
            except StopIteration as stop:
                answers[number] = stop.value
    return [answers[number] for number in range(len(claims))]
