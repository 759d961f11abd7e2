"""A loopback server that does what a test tells it, for what no provider would do on order.

The mock provider answers like OpenAI; redirects, compression, late terminators and cut headers
are a matter of HTTP, and are written here by hand.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Send = Callable[..., Awaitable[None]]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    client: tuple[str, int]

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass
class OddServer:
    """Records requests; `answer` writes the response and may be replaced by a test."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list, repr=False)
    answer: Callable[[Seen, Send], Awaitable[None]] | None = None

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def connections(self) -> int:
        return len({seen.client for seen in self.seen})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = scope["query_string"].decode()
        seen = Seen(
            method=scope["method"],
            path=scope["raw_path"].decode() + (f"?{query}" if query else ""),
            headers={name.decode(): value.decode() for name, value in scope["headers"]},
            body=body,
            client=tuple(scope["client"]),
        )
        self.seen.append(seen)
        await (self.answer or completion)(seen, send)


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}


async def reply(
    send: Send, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Answer in one piece."""
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    await start(send, status, fields | (headers or {}))
    await send({"type": "http.response.body", "body": body})


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def completion(seen: Seen, send: Send) -> None:
    """Answer a chat completion."""
    await reply(send, json.dumps(CHAT).encode())


async def events(send: Send, *chunks: bytes, last: bool = True) -> None:
    """Stream events; without `last` the body stays open."""
    await start(send, 200, {"content-type": "text/event-stream"})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    if last:
        await send({"type": "http.response.body", "body": b""})


def delta(text: str = "a", **more: object) -> bytes:
    """Return an event of a chat stream."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        **more,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@contextmanager
def odd_server() -> Iterator[OddServer]:
    """Run one in a thread of its own."""
    app = OddServer()
    listener = socket.create_server(("127.0.0.1", 0))
    app.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
