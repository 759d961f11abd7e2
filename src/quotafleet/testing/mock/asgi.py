"""The mock provider as an ASGI application, without a framework: it has to be light.

Time passes here and nowhere else in the mock: latency is waited for, unless the clock is a
`FakeClock`, which nobody may wait for. Every wait listens for the client to leave, and what was
generated until then is charged, as the real provider does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeAlias, cast

from ..clock import FakeClock
from ._json import dump
from .call import MockRequest
from .control import answer_control
from .exchange import Exchange, Payload
from .provider import MockProvider

Scope: TypeAlias = Mapping[str, object]
Message: TypeAlias = Mapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[dict[str, object]], Awaitable[None]]

#: Where the server puts the function that cuts a connection, in the scope's `state`.
CUT: Final = "quotafleet.cut"
CONTROL: Final = "/_mock/"
_JSON: Final = "application/json"
_SSE: Final = "text/event-stream; charset=utf-8"
_TICK_S: Final = 0.005  # shorter pauses between pieces of a stream are not worth a timer
#: Cookies of the edge before api.openai.com (recorded traffic, 2024-02, 2024-11): given to who
#: brings none, and brought back with every request from then on. Without a domain and ``Secure``,
#: which on loopback no client would keep.
_EDGE: Final = tuple(
    ("set-cookie", f"{name}; path=/; HttpOnly; SameSite=None")
    for name in (
        "__cf_bm=bW9jay1lZGdlLWJvdC1tYW5hZ2VtZW50LWNvb2tpZQ-1795219200-1.0.1.1-bm8gc2VjcmV0",
        "_cfuvid=bW9jay1lZGdlLXZpc2l0b3ItaWQ-1795219200000-0.0.1.1-604800000",
    )
)


class ClientConnection:
    """The connection of one request: what is sent, and whether anybody still listens.

    `edge` are headers that something before the provider puts on each of its answers.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, edge: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._receive = receive
        self._send = send
        self._edge = edge
        state = scope.get("state")
        self._cut = state.get(CUT) if isinstance(state, dict) else None

    async def body(self) -> bytes:
        """Read the request's body."""
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            parts.append(cast(bytes, message.get("body", b"")))
            if not message.get("more_body"):
                return b"".join(parts)

    async def start(self, status: int, media_type: str, headers: Iterable[tuple[str, str]]) -> None:
        """Send status and headers."""
        raw = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (*headers, *self._edge)
        ]
        raw.append((b"content-type", media_type.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def data(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(
        self, status: int, payload: Payload, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send an answer in one piece."""
        size = ("content-length", str(len(payload.data)))
        await self.start(status, payload.media_type, (*headers, size))
        await self.data(payload.data, more=False)

    async def gone_within(self, seconds: float) -> bool:
        """Wait; return early, and true, if the client leaves."""
        if seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True

    async def cut(self, *, reset: bool) -> None:
        """End the connection before the answer's end: reset it, or close it after what was sent."""
        if not callable(self._cut):
            raise ConnectionAbortedError("this server cannot cut a connection: use serve()")
        self._cut(reset=reset)
        await self.gone_within(1.0)


class MockApp:
    """ASGI application over a `MockProvider`; the control API is under `/_mock/`."""

    def __init__(self, provider: MockProvider) -> None:
        self.provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; lifespan and websockets are not spoken."""
        if scope["type"] != "http":
            return
        line = ClientConnection(scope, receive, send, self._edge(scope))
        request = _request(scope, await line.body())
        if request.path.startswith(CONTROL):
            status, told = answer_control(self.provider, request)
            await line.whole(status, Payload(media_type=_JSON, data=dump(told)))
            return
        exchange = self.provider.begin(request)
        try:
            await self._converse(exchange, line)
        finally:
            exchange.abort()  # nothing, unless the server stops in the middle of it

    def _edge(self, scope: Scope) -> Iterable[tuple[str, str]]:
        if not self.provider.settings.edge_cookies:
            return ()
        raw = cast("Iterable[tuple[bytes, bytes]]", scope["headers"])
        known = any(name == b"cookie" and b"__cf_bm=" in value for name, value in raw)
        return () if known else _EDGE

    async def _converse(self, exchange: Exchange, line: ClientConnection) -> None:
        if exchange.drop == "reset":
            await line.cut(reset=True)
        elif exchange.drop == "timeout":
            await self._fall_silent(exchange, line)
        elif exchange.streamed:
            await self._stream(exchange, line)
        else:
            await self._answer(exchange, line)

    async def _fall_silent(self, exchange: Exchange, line: ClientConnection) -> None:
        """Say nothing until the client gives up, or long enough has passed."""
        gone = await line.gone_within(exchange.hold_s)
        exchange.abort()
        if not gone:
            await line.cut(reset=False)

    async def _answer(self, exchange: Exchange, line: ClientConnection) -> None:
        if await line.gone_within(self._pause(exchange.latency_s)):
            exchange.abort(self._produced_by_now(exchange))
            return
        exchange.finish()
        payload = exchange.body()
        if exchange.drop != "truncate":
            await line.whole(exchange.status, payload, exchange.headers())
            return
        size = ("content-length", str(len(payload.data)))
        await line.start(exchange.status, payload.media_type, [*exchange.headers(), size])
        await line.data(payload.data[: len(payload.data) // 2], more=True)
        await line.cut(reset=False)

    async def _stream(self, exchange: Exchange, line: ClientConnection) -> None:
        if await line.gone_within(self._pause(exchange.ttft_s)):
            exchange.abort()
            return
        await line.start(exchange.status, _SSE, exchange.headers())
        if not await self._send_events(exchange, line):
            exchange.abort()
        elif exchange.drop == "truncate":
            exchange.abort()
            await line.cut(reset=False)
        else:
            exchange.finish()
            await line.data(b"", more=False)

    async def _send_events(self, exchange: Exchange, line: ClientConnection) -> bool:
        """Send the events at the pace of generation; return false if the client left."""
        sent = 0
        for event in exchange.events():
            if event.tokens:
                sent += event.tokens
                if await line.gone_within(self._until_token(exchange, sent)):
                    return False
                exchange.produced(event.tokens)
            await line.data(event.data, more=True)
        return True

    def _pause(self, seconds: float) -> float:
        """Return how long to wait for real."""
        return 0.0 if isinstance(self.provider.clock, FakeClock) else seconds

    def _until_token(self, exchange: Exchange, number: int) -> float:
        """Seconds until the answer's token of that number is due; 0 if they are too few."""
        writing = exchange.latency_s - exchange.ttft_s
        due_s = exchange.ttft_s + writing * number / max(1, exchange.output_tokens)
        left = due_s - (self.provider.clock.now() - exchange.admitted_at)
        return self._pause(left) if left > _TICK_S else 0.0

    def _produced_by_now(self, exchange: Exchange) -> int:
        """Return the tokens generated so far of an answer that comes in one piece."""
        writing = exchange.latency_s - exchange.ttft_s
        passed = self.provider.clock.now() - exchange.admitted_at - exchange.ttft_s
        share = min(1.0, max(0.0, passed / writing)) if writing > 0 else 0.0
        return int(share * exchange.output_tokens)


def _request(scope: Scope, body: bytes) -> MockRequest:
    client = cast("tuple[str, int] | None", scope.get("client"))
    raw = cast("Iterable[tuple[bytes, bytes]]", scope["headers"])
    return MockRequest(
        method=str(scope["method"]),
        path=str(scope["path"]),
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in raw},
        body=body,
        client_ip=client[0] if client else None,
    )
