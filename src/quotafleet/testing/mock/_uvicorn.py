"""The one module that needs uvicorn: a server in a thread, whose connections can be cut."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .asgi import CUT, MockApp

_GRACE_S: Final = 0.25  # what a request in flight may still take when the server stops
_START_S: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 seconds: closing sends RST


class _Joined:
    """A transport that sends in one piece what is written in one turn of the loop.

    A head and its body then arrive together, as from a provider's edge. Else it is a matter of
    luck whether a client reads once or twice, which no measurement of its CPU could stand.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send soon."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Close once all has left."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Return what the transport itself has."""
        return getattr(self._transport, name)


class _Protocol(H11Protocol):
    """HTTP/1.1 that lends the application a way to cut its connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the cut into the scope's state, and leave access unlogged."""
        joined = _Joined(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, joined))
        self.access_log = False
        self.app_state = {**self.app_state, CUT: self.cut}

    def cut(self, *, reset: bool) -> None:
        """Reset the connection, or close it once what was sent has left."""
        if not reset:
            self.transport.close()
            return
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Server(uvicorn.Server):
    """A server that starts and stops in milliseconds; the original polls ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    async def main_loop(self) -> None:
        """Renew the date header every second, until told to stop."""
        self._loop = asyncio.get_running_loop()
        self.ready.set()
        while not self._stopped.is_set():
            await self.on_tick(0)
            try:
                await asyncio.wait_for(self._stopped.wait(), 1.0)
            except TimeoutError:
                pass

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what is in flight end, for a moment; then cut it."""
        for server in self.servers:
            server.close()
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_S)
        for connection in list(self.server_state.connections):
            cast(H11Protocol, connection).transport.abort()
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_S)
        for server in self.servers:
            await server.wait_closed()

    def stop(self) -> None:
        """Tell it to stop, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopped.set)


class ServerThread:
    """A server in a daemon thread with a loop of its own; listening once this is made."""

    def __init__(self, app: MockApp, host: str, port: int) -> None:
        self._socket = _listen(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                server_header=False,
                timeout_keep_alive=60,
                backlog=2048,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="quotafleet-mock", daemon=True
        )

    def start(self) -> None:
        """Start, and return when requests are answered.

        Raises:
            RuntimeError: it did not start.
        """
        self._thread.start()
        if not self._server.ready.wait(_START_S):
            raise RuntimeError(f"the mock server did not start within {_START_S:.0f} s")

    def stop(self) -> None:
        """Stop and wait for the end; stopping twice is stopping once."""
        self._server.stop()
        self._thread.join()
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    """Bind at once, so that a port that is taken is told to who asked for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; else a head waits 40 ms for its body.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
