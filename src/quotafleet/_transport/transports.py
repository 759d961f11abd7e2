"""Transports that send a call's attempts, in threads and in asyncio, and the bodies that end it.

What is decided stands in `calls`; these do the reading, sending and closing. They are mixed
with a family's own base classes in `quotafleet.httpx`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any, Final, cast

from ..errors import CannotServe, ConfigError
from .call import PooledCall, RefusedRequest, RequestClassifier
from .httpx_compat import Httpx, Request, Response, readable, reopened
from .loops import Loops
from .streams import DRAIN_FOR, StreamWatcher, bury, in_destructor

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .._core.call.flow import AttemptResult
    from .._lease import Lease
    from ..pool import KeyPool

#: Connections of a transport of ours: httpx's 100 would end 200 of 300 concurrent calls.
CONNECTIONS: Final = {"max_connections": 1000, "max_keepalive_connections": 100}


class Transport:
    """What both transports are made of.

    Args:
        pool: whose keys are used.
        inner: what sends; ``None`` = one of its own, which it closes.
        base_url: of the clients that use it; see `wrap_client`.
        attempts: how many may count at most; ``None`` = as the pool's policy says.
    """

    #: Of the family: its module, and the class of the bodies that it makes.
    module: Httpx
    body: Callable[..., Any]
    _gate: RequestClassifier
    _inner: Any
    _route: Callable[[Any], Any]
    _owned: Any

    def __init__(
        self,
        pool: KeyPool,
        inner: object = None,
        *,
        base_url: str | None = None,
        attempts: int | None = None,
    ) -> None:
        gate = RequestClassifier(pool, self.module, base_url=base_url, attempts=attempts)
        owned = None
        if inner is None:
            owned = inner = self._default(self.module)
        self._set(gate, inner, lambda url: inner, owned)

    def _set(
        self, gate: RequestClassifier, inner: object, route: Callable[[Any], Any], owned: object
    ) -> None:
        self._gate = gate
        self._inner = inner
        self._route = route
        self._owned = owned

    @staticmethod
    def _default(module: Httpx) -> object:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Return what the inner transport has: others look into transports too."""
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)


class SyncTransport(Transport):
    """Sends in the caller's thread."""

    @staticmethod
    def _default(module: Httpx) -> object:
        return module.HTTPTransport(limits=module.Limits(**CONNECTIONS))

    def handle_request(self, request: Request) -> Response:
        """Send a request, with a key of the pool if it asks for one."""
        try:
            call = self._gate.call(request)
        except RefusedRequest as refused:
            return refused.response
        if call is None:
            return cast(Response, self._inner.handle_request(request))
        try:
            lease, reply = self._gate.pool.call(
                call.order, partial(self._send, call), retry=call.retry
            )
        except (CannotServe, ConfigError) as error:
            return call.unserved(error)
        return call.answer(lease, reply)

    def _send(self, call: PooledCall, lease: Lease) -> AttemptResult[Response | Exception]:
        sent = call.request(lease)
        try:
            response = self._route(sent.url).handle_request(sent)
            if response.is_closed:  # a transport that tells of bodies has read it
                response = reopened(self._gate.httpx, response)
            headers = readable(response.headers)
            whole = call.comes_whole(response.status_code, headers)
            body = _read(response.stream) if whole else None
        except Exception as error:  # whatever broke: `broke` raises what is not the provider's
            return call.broke(error)
        if body is None:
            return call.began(lease, sent, response, headers, partial(self.body, self._gate))
        return call.ended(lease, response, headers, body)

    def close(self) -> None:
        """Close the inner transport if it is this one's own."""
        if self._owned is not None:
            self._owned.close()

    def __del__(self) -> None:
        """Close, as SDKs' clients do; a pool that is garbage has no lock held."""
        owned = self.__dict__.get("_owned")
        if owned is not None:
            owned.close()


class AsyncTransport(Transport):
    """Sends in the caller's event loop, over connections that belong to that loop."""

    _loops: Loops

    def _set(
        self, gate: RequestClassifier, inner: object, route: Callable[[Any], Any], owned: object
    ) -> None:
        super()._set(gate, inner, route, owned)
        self._loops = Loops()

    @staticmethod
    def _default(module: Httpx) -> object:
        return module.AsyncHTTPTransport(limits=module.Limits(**CONNECTIONS))

    async def handle_async_request(self, request: Request) -> Response:
        """Send a request, with a key of the pool if it asks for one."""
        try:
            call = self._gate.call(request)
        except RefusedRequest as refused:
            return refused.response
        if call is None:
            inner = await self._loops.local(self._inner)
            return cast(Response, await inner.handle_async_request(request))
        try:
            lease, reply = await self._gate.pool.acall(
                call.order, partial(self._send, call), retry=call.retry
            )
        except (CannotServe, ConfigError) as error:
            return call.unserved(error)
        except BaseException:  # a store that suspends may be cancelled after the answer began
            if call.body is not None:
                await call.body.aclose()
            raise
        return call.answer(lease, reply)

    async def _send(self, call: PooledCall, lease: Lease) -> AttemptResult[Response | Exception]:
        sent = call.request(lease)
        try:
            inner = await self._loops.local(self._route(sent.url))
            response = await inner.handle_async_request(sent)
            if response.is_closed:  # a transport that tells of bodies has read it
                response = reopened(self._gate.httpx, response)
            headers = readable(response.headers)
            whole = call.comes_whole(response.status_code, headers)
            body = await _aread(response.stream) if whole else None
        except Exception as error:  # whatever broke: `broke` raises what is not the provider's
            return call.broke(error)
        if body is None:
            return call.began(lease, sent, response, headers, partial(self.body, self._gate))
        return call.ended(lease, response, headers, body)

    async def aclose(self) -> None:
        """Close this loop's connections, and the inner transport if it is this one's own."""
        await self._loops.aclose()
        if self._owned is not None:
            await self._owned.aclose()


def _read(stream: Any) -> bytes:
    """Read a body to its end, so that its connection can be used again."""
    try:
        return b"".join(stream)
    finally:
        stream.close()


async def _aread(stream: Any) -> bytes:
    """Do as `_read`."""
    try:
        return b"".join([chunk async for chunk in stream])
    finally:
        await stream.aclose()


# Bodies that end their lease


class _Body:
    """A response's stream that tells a `StreamWatcher` what passes, and how it ended.

    It must not know its call, which knows it: every call would be left to the garbage collector.
    """

    def __init__(self, gate: RequestClassifier, response: Response, watch: StreamWatcher) -> None:
        self._watch = watch
        self._stream = response.stream
        self._lost = gate.lost
        self._chunks: Any = None
        extensions = response.extensions
        # On HTTP/2 a stream can be left alone without harm to the connection.
        on_http1 = extensions.get("http_version") == b"HTTP/1.1"
        self._network = extensions.get("network_stream") if on_http1 else None


class SyncBody(_Body):
    """A body that is read in a thread."""

    def __iter__(self) -> Iterator[bytes]:
        watch = self._watch
        self._chunks = iter(self._stream)
        try:
            for chunk in self._chunks:
                watch.feed(chunk)
                yield chunk
        except Exception as error:
            watch.fail(self._lost(error))
            raise
        watch.end(whole=True)

    def close(self) -> None:
        """End the lease, whether the body was read to its end or dropped."""
        watch = self._watch
        if not watch.done and in_destructor():
            bury(partial(_end, watch, self._stream))
            return
        try:
            if not watch.done:
                drains = watch.drains
                watch.end(whole=False)
                if drains and self._network is not None:
                    _drain(self._chunks, self._network)
        finally:
            self._stream.close()

    def __del__(self) -> None:
        if not self._watch.done:
            bury(partial(_end, self._watch, self._stream))


class AsyncBody(_Body):
    """A body that is read in an event loop."""

    def __init__(self, gate: RequestClassifier, response: Response, watch: StreamWatcher) -> None:
        super().__init__(gate, response, watch)
        self._loop = asyncio.get_running_loop()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        watch = self._watch
        self._chunks = aiter(self._stream)
        try:
            async for chunk in self._chunks:
                watch.feed(chunk)
                yield chunk
        except Exception as error:
            await watch.afail(self._lost(error))
            raise
        await watch.aend(whole=True)

    async def aclose(self) -> None:
        """Do as `SyncBody.close`."""
        watch = self._watch
        try:
            if not watch.done:
                drains = watch.drains
                await watch.aend(whole=False)
                if drains and self._network is not None:
                    await _adrain(self._chunks)
        finally:
            await self._stream.aclose()

    def __del__(self) -> None:
        if not self._watch.done:
            bury(partial(_end_in, self._loop, self._watch, self._stream))


def _end(watch: StreamWatcher, stream: Any) -> None:
    """End what was dropped; in a thread of its own."""
    watch.end(whole=False)
    stream.close()


def _end_in(loop: AbstractEventLoop, watch: StreamWatcher, stream: Any) -> None:
    """Do as `_end`, and close the stream in the loop that it belongs to."""
    watch.end(whole=False)
    if not loop.is_closed():
        asyncio.run_coroutine_threadsafe(stream.aclose(), loop)


def _drain(chunks: Iterator[bytes], network: Any) -> None:
    """Read to the end after ``[DONE]``, so that the connection can be used again.

    SDKs stop at ``[DONE]``, which looks like an abort here. A read can't be given a deadline
    after the fact, so where nothing has arrived yet, a timer would cut the connection.
    """
    connection = network.get_extra_info("socket")
    if not isinstance(connection, socket.socket):
        return
    with _Cutter(connection) as cutter:
        for _ in range(8):
            if not network.get_extra_info("is_readable"):
                cutter.start()
            try:
                if next(chunks, None) is None:
                    return
            except Exception:  # it was cut, or is gone: then it is closed as if aborted
                return


class _Cutter:
    """Shuts a socket after `DRAIN_FOR` seconds, unless its block was left before."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = Lock()  # guards `_left`: a connection back in use must not be cut
        self._left = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to count, once."""
        if self._timer is None:
            self._timer = Timer(DRAIN_FOR, self._cut)
            self._timer.daemon = True
            self._timer.start()

    def _cut(self) -> None:
        with self._lock:
            if not self._left:
                # Not an SSLSocket's own `shutdown`, which takes it apart under the reader's feet.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __enter__(self) -> _Cutter:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._left = True
        if self._timer is not None:
            self._timer.cancel()


async def _adrain(chunks: AsyncIterator[bytes]) -> None:
    """Do as `_drain`."""
    try:
        async with asyncio.timeout(DRAIN_FOR):
            async for _ in chunks:
                pass
    except Exception:  # noqa: S110 - it is gone, or too slow: then it is closed as if aborted
        pass
