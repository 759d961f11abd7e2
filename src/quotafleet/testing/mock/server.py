"""The mock provider behind HTTP: in a thread of this process, or in a process of its own.

A thread is handy: the test holds the provider itself, and may put it on a `FakeClock`. A process
is fair: the provider's CPU time is not taken from the client that is measured.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar, cast

from ..._clock import SystemClock
from .fleet import MockFleet
from .provider import MockProvider
from .settings import MockSettings

if TYPE_CHECKING:
    from ._uvicorn import ServerThread

_START_S: Final = 60.0  # a process imports everything anew; slow machines take seconds
_STOP_S: Final = 5.0

Self = TypeVar("Self", bound="_Address")


class _Address:
    """Where a server listens; ends with the `with` block."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """The server's root; the control API is under `/_mock/`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an SDK takes as its base URL."""
        return f"{self.url}/v1"

    def stop(self) -> None:
        """Stop listening, cut what is in flight, and wait for the end."""
        raise NotImplementedError

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.url}>"


class MockServer(_Address):
    """A mock provider that listens in a thread; `provider` is the provider itself."""

    def __init__(self, provider: MockProvider, thread: ServerThread) -> None:
        super().__init__(thread.host, thread.port)
        self.provider = provider
        self._thread = thread

    def stop(self) -> None:
        """Stop listening, cut what is in flight, and wait for the end."""
        self._thread.stop()


def serve(
    provider: MockProvider | MockFleet,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    settings: MockSettings | None = None,
    seed: int = 0,
) -> MockServer:
    """Listen in a daemon thread; the answer is a context manager that stops it.

    Args:
        provider: a provider, or a fleet to make one of, which then runs in real time.
        host: where to listen; loopback unless you mean otherwise, for there is no protection.
        port: 0 = one that is free.
        settings: of the provider that is made of a fleet.
        seed: of the provider that is made of a fleet.

    Raises:
        OSError: the port is taken.
        ImportError: the extra `mock` is not installed.
        ValueError: settings were given beside a provider, which has its own.
    """
    from ._uvicorn import ServerThread  # noqa: PLC0415  (an extra; simulations do without it)
    from .asgi import MockApp  # noqa: PLC0415

    if isinstance(provider, MockFleet):
        made = MockProvider(
            provider, clock=SystemClock(), seed=seed, settings=settings or MockSettings()
        )
    elif settings is None:
        made = provider
    else:
        raise ValueError("settings belong to a provider: give them to MockProvider, or a fleet")
    thread = ServerThread(MockApp(made), host, port)
    thread.start()
    return MockServer(made, thread)


class ServerProcess(_Address):
    """A mock provider that listens in a process of its own; what it knows is asked over HTTP."""

    def __init__(self, host: str, port: int, process: SpawnProcess, pipe: Connection) -> None:
        super().__init__(host, port)
        self._process: SpawnProcess | None = process
        self._pipe = pipe

    def state(self) -> dict[str, object]:
        """Return the provider's report; see `MockProvider.state`."""
        return self.control("GET", "state")

    def refused(self) -> int:
        """Return how many requests were answered with 429."""
        return cast(int, self.state()["refused"])

    def reset(self) -> None:
        """Forget everything that happened, faults too."""
        self.control("POST", "reset")

    def control(self, method: str, name: str, body: object = None) -> dict[str, object]:
        """Send a control request, such as `("POST", "faults", [{"action": "500"}])`.

        Raises:
            ValueError: the provider refused it; the message says why.
        """
        connection = HTTPConnection(self.host, self.port, timeout=_STOP_S)
        try:
            connection.request(method, f"/_mock/{name}", json.dumps(body))
            response = connection.getresponse()
            told = cast("dict[str, object]", json.loads(response.read()))
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{method} {name}: {told.get('error')}")
        return told

    def stop(self) -> None:
        """End the process; stopping twice is stopping once."""
        process, self._process = self._process, None
        if process is None:
            return
        self._pipe.close()
        process.join(_STOP_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def serve_process(
    fleet: MockFleet,
    settings: MockSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seed: int = 0,
) -> ServerProcess:
    """Listen in a process of its own, in real time; it ends with the `with` block, or with us.

    The process is spawned: a script that calls this at its top level needs the usual
    `if __name__ == "__main__":`.

    Raises:
        OSError: the port is taken.
        ImportError: the extra `mock` is not installed.
        RuntimeError: the process did not start.
    """
    from . import _uvicorn  # noqa: F401, PLC0415  (if it is missing, say so here and not there)

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve_until_told,
        args=(theirs, fleet, settings, host, port, seed),
        name="quotafleet-mock",
        daemon=True,
    )
    process.start()
    theirs.close()
    server = ServerProcess(host, port, process, ours)
    try:
        told = ours.recv() if ours.poll(_START_S) else RuntimeError("it took too long to start")
    except EOFError:
        told = RuntimeError("the mock server's process ended at once")
    if isinstance(told, Exception):
        server.stop()
        raise told
    server.port = told
    return server


def _serve_until_told(
    pipe: Connection,
    fleet: MockFleet,
    settings: MockSettings | None,
    host: str,
    port: int,
    seed: int,
) -> None:
    """Serve until the parent closes its end of the pipe, which it does by ending, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        server = serve(fleet, settings=settings, host=host, port=port, seed=seed)
    except Exception as error:  # whatever it is, it is raised where the server was asked for
        pipe.send(error)
        return
    with server:
        pipe.send(server.port)
        try:
            pipe.recv()
        except (EOFError, OSError):
            pass
